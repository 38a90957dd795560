"""How the frames of a group come onto one grid and one flux scale: by their stars, by the sky, or as the user says.

Each engine takes the frames in use and gives a transform or a verdict for each, and the grid; the motion of the object
that the stack follows comes on top.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from astropy.io import fits

from nightflow import crosscorrelation, fluxscales, motion, products, quality, registration, sharedstars, skygrid, tying
from nightflow.products import RejectedFrame
from nightflow.registration import Transform
from nightflow.steps import UserError


@dataclass(frozen=True)
class Frame:
    """What is known of a frame.

    Attributes
    ----------
    sources : table
    header : `~astropy.io.fits.Header`
        With NFXSIZE and NFYSIZE (pixels), EXPTIME and the time.
    head : path-like or None
        Its plate solution, where that step was run.
    image : path-like or None
        Its pixels, for engines that look at them.
    """

    sources: object
    header: fits.Header
    head: str | os.PathLike | None = None
    image: str | os.PathLike | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)"""
        return int(self.header["NFYSIZE"]), int(self.header["NFXSIZE"])

    def solution(self) -> skygrid.SolvedFrame:
        """Its plate solution; `RejectedFrame` where there is none."""
        if self.head is None:
            raise RejectedFrame("no place on the sky: no plate solution")
        return skygrid.read_solution(self.head, self.shape)


@dataclass
class Alignment:
    """Transform or verdict of each frame, the output grid as FITS cards, and its CD matrix where it is on the sky."""

    transforms: dict[str, Transform | RejectedFrame]
    grid: fits.Header
    cd_matrix: np.ndarray | None = None


def select_and_align(
    rows: list[dict], frames: Mapping[str, Frame], selection: Mapping, options: Mapping, moving: Mapping | None = None
):
    """Selection of a group with the transform of each frame to the grid of the stack.

    Parameters
    ----------
    rows : list of dict
        From `nightflow.quality.measures`, of all frames.
    frames : mapping of str to `Frame`
        Those that were not rejected.
    selection, options : mapping
        Sections ``selection`` and ``registration`` of the configuration.
    moving : mapping, optional
        Rate of the object that the stack follows, see `nightflow.motion.velocity`.

    Returns
    -------
    table : `~nightflow.products.Columns`
        Of `nightflow.quality.select`, with ``reference`` and the transform: ``xx xy x0 yx yy y0`` (output x = xx x + xy
        y + x0, and so for y, with 0-based pixels; the linear part where the frame is distorted), ``rms`` (pixels),
        ``n_matched``, ``flux_scale`` and ``flux_scale_error``.
    grid : `~astropy.io.fits.Header`
        Size of the stack, and its sky coordinates where the engine gives them. Empty where no frame is left.
    """
    table = quality.select(quality.make_table(rows), selection)
    table["reference"] = np.zeros(len(table), dtype=bool)
    for name in quality.TRANSFORM:
        table[name] = np.full(len(table), np.nan)
    table["n_matched"] = np.zeros(len(table), dtype=int)
    engine = ENGINES[options["engine"]]
    if options["engine"] in SKY_ENGINES:
        _leave_out(table, _without_solution(table, frames))
    if not np.any(table["used"]):
        return table, fits.Header()
    used = table[np.asarray(table["used"], dtype=bool)]
    reference = quality.choose_reference(used)
    try:
        alignment = engine({str(f): frames[str(f)] for f in used["frame"]}, reference, used, options)
        if moving is not None:
            _follow(alignment, frames, reference, moving)
    except RejectedFrame as verdict:
        _leave_out(table, {str(frame): verdict for frame in used["frame"]})
        return table, fits.Header()
    _leave_out(table, {f: v for f, v in alignment.transforms.items() if isinstance(v, RejectedFrame)})
    for i in np.flatnonzero(table["used"]):
        frame = str(table["frame"][i])
        transform = alignment.transforms[frame]
        table["reference"][i] = frame == reference
        values = (*transform.matrix[:2].ravel(), transform.rms, transform.flux_scale, transform.flux_scale_error)
        for name, value in zip(quality.TRANSFORM, values, strict=True):
            table[name][i] = value
        table["n_matched"][i] = transform.n_matched
    table["weight"] = quality.frame_weights(table, selection["weights"])
    return table, alignment.grid


def transform_of(row, engine: str, grid: fits.Header, head, shape: tuple[int, int]):
    """Way of a frame to the pixels of a stack, for `nightflow.stacking.StackInput`.

    Its linear part is that of the selection. On the sky, the plate solution adds the distortion.

    Parameters
    ----------
    row : mapping
        Of the selection.
    engine : str
        ``registration.engine``.
    grid : `~astropy.io.fits.Header`
        From `select_and_align`.
    head : path-like or None
        Plate solution of the frame.
    shape : tuple of int
        (ny, nx) of the frame.
    """
    if engine not in SKY_ENGINES:
        return quality.matrix_of(row)
    from nightflow import resampling  # with numba, which frames that are aligned by their stars do not need

    solution = skygrid.read_solution(head, shape)
    to_grid = skygrid.transform(solution, skygrid.read_grid(grid))
    correction = quality.matrix_of(row) @ np.linalg.inv(resampling.linear_part(to_grid, solution.shape))
    return skygrid.corrected(to_grid, correction)


def _leave_out(table, verdicts: Mapping[str, RejectedFrame]) -> None:
    for i, frame in enumerate(table["frame"]):
        if str(frame) in verdicts:
            table["used"][i], table["reason"][i], table["weight"][i] = False, verdicts[str(frame)].reason, 0.0


def _without_solution(table, frames: Mapping[str, Frame]) -> dict[str, RejectedFrame]:
    verdicts = {}
    for frame in table["frame"][np.asarray(table["used"], dtype=bool)]:
        try:
            frames[str(frame)].solution()
        except RejectedFrame as verdict:
            verdicts[str(frame)] = verdict
    return verdicts


def by_stars(frames: Mapping[str, Frame], reference: str, table, options: Mapping) -> Alignment:
    """Engine ``astroalign``: asterisms, on the grid of the reference frame."""
    transforms = registration.register_group({name: f.sources for name, f in frames.items()}, reference, options)
    if options["flux_scale"] == "zero_points":
        transforms = _by_zero_points(transforms, reference, table)
    return Alignment(transforms, _size(frames[reference].shape), _cd_matrix_of(frames[reference]))


def _by_zero_points(transforms: Mapping, reference: str, table) -> dict:
    """The transforms with flux factors from zero points; a frame without one is left out."""
    factors = _zero_point_factors(reference, table)
    tied: dict[str, Transform | RejectedFrame] = {}
    for name, transform in transforms.items():
        if isinstance(transform, RejectedFrame):
            tied[name] = transform
        elif name in factors:
            tied[name] = replace(transform, flux_scale=factors[name][0], flux_scale_error=factors[name][1])
        else:
            tied[name] = RejectedFrame(_NO_ZERO_POINT)
    return tied


def _zero_point_factors(reference: str, table) -> dict:
    """Flux factors and errors of the frames that have a zero point."""
    zero_points, exposures = _zero_points_and_exposures(table)
    if not np.isfinite(zero_points[reference]):
        raise RejectedFrame(f"its reference frame has {_NO_ZERO_POINT}")
    return fluxscales.from_zero_points(zero_points, exposures, reference)


def _zero_points_and_exposures(table) -> tuple[dict, dict]:
    return tuple({str(row["frame"]): float(row[name]) for row in table} for name in ("zero_point", "exptime"))


def _size(shape: tuple[int, int]) -> fits.Header:
    return fits.Header([("NAXIS1", shape[1]), ("NAXIS2", shape[0])])


def _cd_matrix_of(frame: Frame) -> np.ndarray | None:
    """The CD matrix of a frame's plate solution, if it has one."""
    try:
        return np.asarray(frame.solution().wcs.pixel_scale_matrix, dtype=float)
    except RejectedFrame:
        return None


def by_sky(frames: Mapping[str, Frame], reference: str, table, options: Mapping) -> Alignment:
    """Engines ``wcs`` and ``swarp``: plate solutions, tied to each other, on a grid on the sky."""
    from nightflow import resampling

    names = sorted(frames)
    solutions = {name: frames[name].solution() for name in names}
    grid = skygrid.choose(solutions, options["grid"])
    scale = 3600 * np.sqrt(abs(np.linalg.det(grid.matrix)))
    ways = {name: skygrid.transform(solution, grid) for name, solution in solutions.items()}
    sources = {name: frames[name].sources for name in names}
    places = {name: ways[name](*(np.asarray(sources[name][c], dtype=float) for c in "xy")) for name in names}
    stars = sharedstars.find(names, sources, places, options["match_radius"])
    linear = {name: resampling.linear_part(ways[name], solutions[name].shape) for name in names}
    corrections = np.tile(np.eye(3), (len(names), 1, 1))
    if options["tie"]:
        corrections = tying.corrections(stars, [_place(solutions[name], linear[name], scale) for name in names])
    factors = _flux_factors(names, stars, reference, table, options)
    transforms = {
        name: Transform(
            correction @ linear[name], solutions[name].rms / scale, solutions[name].n_matched, *factors[name]
        ) if name in factors else RejectedFrame(_NO_ZERO_POINT)
        for name, correction in zip(names, corrections, strict=True)
    }  # fmt: skip
    return Alignment(transforms, grid.header(), grid.matrix)


def _place(solution: skygrid.SolvedFrame, matrix: np.ndarray, scale: float) -> tying.Place:
    """Place of a frame on a grid of `scale` arcsec; a solution that no star was matched with may be off by a pixel."""
    ny, nx = solution.shape
    error = 2 * solution.rms / scale / np.sqrt(max(solution.n_matched - 3, 1))
    radius = np.hypot(nx, ny) / 2 * np.sqrt(abs(np.linalg.det(matrix)))
    centre = (matrix @ ((nx - 1) / 2, (ny - 1) / 2, 1))[:2]
    return tying.Place(centre, radius, float(np.clip(np.nan_to_num(error, nan=1.0), 0.05, 1.0)))


def _flux_factors(names: list[str], stars: sharedstars.SharedStars, reference: str, table, options: Mapping) -> dict:
    """Flux factor and its error of each frame, but for those that have no zero point and must have one."""
    if options["flux_scale"] == "zero_points":
        return _zero_point_factors(reference, table)
    zero_points, exposures = _zero_points_and_exposures(table)
    if options["flux_scale"] == "stars":
        zero_points = dict.fromkeys(names, np.nan)
    return fluxscales.from_stars(stars, names, exposures, zero_points, reference)


def by_correlation(frames: Mapping[str, Frame], reference: str, table, options: Mapping) -> Alignment:
    """Engine ``correlation``: shifts of whole images, on the grid of the reference frame."""
    target = products.read_data(frames[reference].image)
    transforms: dict[str, Transform | RejectedFrame] = {reference: registration.identity()}
    exposures = {str(row["frame"]): float(row["exptime"]) for row in table}
    for name, frame in frames.items():
        if name != reference:
            try:
                matrix = _correlated(products.read_data(frame.image), target, options)
            except RejectedFrame as verdict:
                transforms[name] = verdict
                continue
            ratio = registration.flux_ratio(frame.sources, frames[reference].sources, matrix, options["match_radius"])
            transforms[name] = Transform(
                matrix, np.nan, 0, *(ratio or (exposures[reference] / exposures[name], np.nan))
            )
    return Alignment(transforms, _size(frames[reference].shape), _cd_matrix_of(frames[reference]))


def _correlated(data: np.ndarray, target: np.ndarray, options: Mapping) -> np.ndarray:
    """Matrix that shifts a frame onto the reference."""
    if data.shape != target.shape:
        raise RejectedFrame("cannot be registered: correlation needs frames of one size")
    try:
        shift = crosscorrelation.find_shift(data, target, options["search"], options["region"])
    except ValueError as error:
        raise RejectedFrame(f"cannot be registered: {error} (registration.region, registration.search)") from error
    if shift.significance < _LEAST_CORRELATION:
        raise RejectedFrame(f"cannot be registered: its correlation with the reference is {shift.correlation:.3g}")
    if shift.at_edge:
        raise RejectedFrame(f"cannot be registered: shifted by more than registration.search, {options['search']} px")
    return np.array([[1.0, 0.0, shift.x], [0.0, 1.0, shift.y], [0.0, 0.0, 1.0]])


_LEAST_CORRELATION = 8.0  # sigma; among thousands of shifts, noise reaches five


def as_given(frames: Mapping[str, Frame], reference: str, table, options: Mapping) -> Alignment:
    """Engine ``given``: the transforms of a table, on the grid of the reference frame."""
    rows = read_transforms(options["transforms"])
    transforms = {
        name: rows.get(name) or RejectedFrame(f"registration.transforms has no row for it ({options['transforms']})")
        for name in frames
    }
    return Alignment(transforms, _size(frames[reference].shape), _cd_matrix_of(frames[reference]))


def read_transforms(path: str | os.PathLike) -> dict[str, Transform]:
    """Transforms by frame from a table of text with tabs or commas, and names in its first line.

    ``frame``, ``x0`` and ``y0`` (pixels to add) are needed; ``xx xy yx yy`` (else no rotation) and ``flux_scale``
    (else 1) may be there: the table of a selection is such a table.

    Raises
    ------
    UserError
        If the table cannot be read.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            rows = list(csv.DictReader(file, delimiter="\t" if "\t" in first else ","))
        transforms = {}
        for row in rows:
            value = {k.strip(): float(v) for k, v in row.items() if k and v and k.strip() in _GIVEN}
            if "x0" in value and "y0" in value:  # the table of a selection has frames without a transform
                value = {"xx": 1.0, "xy": 0.0, "yx": 0.0, "yy": 1.0, "flux_scale": 1.0, **value}
                transforms[row["frame"].strip()] = Transform(
                    quality.matrix_of(value), np.nan, 0, value["flux_scale"], np.nan
                )
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"registration.transforms {str(path)!r} cannot be read: {error!r}") from error
    if not transforms:
        raise UserError(
            f"registration.transforms {str(path)!r} has no transform: it needs the columns frame, x0 and y0"
        )
    return transforms


_NO_ZERO_POINT = "no zero point (registration.flux_scale: zero_points)"
_GIVEN = ("xx", "xy", "x0", "yx", "yy", "y0", "flux_scale")

ENGINES = {
    "astroalign": by_stars, "wcs": by_sky, "swarp": by_sky, "correlation": by_correlation, "given": as_given,
}  # fmt: skip
#: Engines that need plate solutions.
SKY_ENGINES = ("wcs", "swarp")


def _follow(alignment: Alignment, frames: Mapping[str, Frame], reference: str, moving: Mapping) -> None:
    """Move each frame against the object's motion since the middle of the reference frame."""
    pixels = motion.velocity(moving, alignment.cd_matrix)
    if pixels is None:
        raise RejectedFrame("the object's rate is on the sky, but the stack has no plate solution: give it in px/h")
    origin = motion.middle(frames[reference].header)
    if not np.isfinite(origin):
        raise RejectedFrame("the object moves, but the time of the reference frame is unknown")
    for name, transform in alignment.transforms.items():
        if isinstance(transform, RejectedFrame):
            continue
        hours = 24 * (motion.middle(frames[name].header) - origin)
        if not np.isfinite(hours):
            alignment.transforms[name] = RejectedFrame("the object moves, but the time of the frame is unknown")
            continue
        moved = transform.matrix.copy()
        moved[:2, 2] -= pixels * hours
        alignment.transforms[name] = replace(transform, matrix=moved)
    alignment.grid.update(motion.cards(moving, origin))
