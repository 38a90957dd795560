"""Astrometry: from the sources of a frame to its place on the sky, by one of several engines.

Each engine takes sources and hints and returns a plate solution; what it cannot solve, it says in a sentence. No
solution is better than a wrong one: what an engine finds counts only if chance would not match the stars as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from astropy.io import fits

from nightflow import plate_matching, plate_search, plates, pointing, programs
from nightflow.plate_matching import Match, Stars
from nightflow.plates import Plate
from nightflow.pointing import Pointing
from nightflow.products import UNUSABLE, MaskBit
from nightflow.reference_catalogues import ReferenceStars

SOLVED, HEADER, NOT_SOLVED, NO_ANSWER = "SOLVED", "HEADER", "NOT SOLVED", "NO ANSWER"

_CENTROID_FLOOR = 0.02  # px; of bright stars, which undersampling and atmosphere limit
_LEAST_STARS = 4
_SOURCES_PER_STAR = 3
_PROMISING = 4.0  # log-odds of the bright stars' match that are worth a fit of all stars


class NotSolved(Exception):
    """A frame has no plate solution; the message says why."""


class NoAnswer(NotSolved):
    """A program or a service did not answer in time; another try may have more luck."""


def _no_rows() -> np.ndarray:
    return np.zeros(0, dtype=int)


@dataclass(frozen=True)
class Solution:
    """Place of a frame on the sky.

    Attributes
    ----------
    status : str
        ``SOLVED``, ``HEADER`` (the frame's own WCS, unchecked), ``NOT SOLVED``, or ``NO ANSWER`` (not solved, since a
        program or a service did not answer in time).
    reason : str
        Why it is not solved.
    plate : `~nightflow.plates.Plate` or None
    shape : tuple of int
        (ny, nx) of the frame.
    rms : float
        Arcsec; NaN where nothing was matched.
    stars, reference : ndarray of int, shape (n,)
        Rows of the matched stars in the source table and the catalogue.
    """

    status: str
    reason: str
    plate: Plate | None
    shape: tuple[int, int]
    rms: float = np.nan
    stars: np.ndarray = field(default_factory=_no_rows)
    reference: np.ndarray = field(default_factory=_no_rows)


def solve(
    sources,
    header: fits.Header,
    row: Mapping,
    catalogue: ReferenceStars | NotSolved | None,
    options: Mapping,
    joint: fits.Header | None = None,
) -> Solution:
    """Plate solution of a frame.

    Parameters
    ----------
    sources : table
        Columns ``x`` and ``y`` (0-based pixels), ``flux``, ``flux_err``, ``fwhm`` and ``flags``, brightest first.
    header : `~astropy.io.fits.Header`
        Of the frame, with NAXIS1 and NAXIS2 or, in a table product, NFXSIZE and NFYSIZE.
    row : mapping
        ``ra`` and ``dec`` of the pointing in degrees, or None.
    catalogue : `~nightflow.reference_catalogues.ReferenceStars`, `NotSolved` or None
        The reason where there should be a catalogue.
    options : mapping
        Section ``astrometry`` of the configuration.
    joint : `~astropy.io.fits.Header`, optional
        Engine ``scamp``: what the joint solution of the target says of this frame.

    Raises
    ------
    ValueError
        If the engine is unknown.
    """
    if options["engine"] not in ENGINES:
        raise ValueError(f"astrometry.engine is {options['engine']!r}, must be one of {', '.join(ENGINES)}")
    shape = shape_of(header)
    stars, rows = usable_stars(sources)
    hints = pointing.pointing_of(header, row, options)
    try:
        absent = catalogue if isinstance(catalogue, NotSolved) else None
        task = Task(stars, shape, header, hints, None if absent else catalogue, options, joint, absent)
        solution = ENGINES[options["engine"]](task)
    except NoAnswer as reason:
        return Solution(NO_ANSWER, f"not solved: {reason}", None, shape)
    except NotSolved as reason:
        return Solution(NOT_SOLVED, f"not solved: {reason}", None, shape)
    if isinstance(solution, Plate):
        return Solution(HEADER if options["engine"] == "header" else SOLVED, "", solution, shape)
    return Solution(SOLVED, "", solution.plate, shape, solution.rms, rows[solution.stars], solution.reference)


def shape_of(header: fits.Header) -> tuple[int, int]:
    """(ny, nx) of the frame that a source table was measured on."""
    return int(header["NFYSIZE"]), int(header["NFXSIZE"])


@dataclass(frozen=True)
class Task:
    """What an engine works on."""

    stars: Stars
    shape: tuple[int, int]
    header: fits.Header
    hints: Pointing
    catalogue: ReferenceStars | None
    options: Mapping
    joint: fits.Header | None = None
    absent: NotSolved | None = None  # why there is no catalogue, where there should be one


def usable_stars(sources) -> tuple[Stars, np.ndarray]:
    """Stars of a source table for astrometry, brightest first, and their rows in it."""
    column = {name: np.asarray(sources[name], dtype=float) for name in ("x", "y", "flux", "flux_err", "fwhm")}
    flags = np.asarray(sources["flags"], dtype=np.int64)
    good = np.isfinite(column["x"]) & np.isfinite(column["y"]) & (column["flux"] > 0)
    rows = np.flatnonzero(good)
    rows = rows[np.argsort(-column["flux"][rows], kind="stable")]
    x, y, flux, error, fwhm = (column[name][rows] for name in ("x", "y", "flux", "flux_err", "fwhm"))
    # centroid error of a Gaussian star (King 1983, PASP 95, 163): sigma of its profile / (S/N)
    photon = np.clip(np.nan_to_num(fwhm / 2.3548 * error / flux, nan=1.0), 0, 2)
    floor = np.full(len(rows), _CENTROID_FLOOR)
    floor[(flags[rows] & int(MaskBit.SATURATED)) != 0] = 0.3
    floor[(flags[rows] & int(UNUSABLE)) != 0] = 1.0  # pixels that are missing from a star shift it
    return Stars(x, y, np.hypot(photon, floor)), rows


def solve_with_catalogue(task: Task) -> Match:
    """Engine ``catalogue``: the field is searched in the catalogue around the pointing, then fitted."""
    if task.hints.ra is None or task.hints.dec is None:
        raise NotSolved("no pointing (header, or astrometry.ra and astrometry.dec)")
    if task.catalogue is None:
        raise task.absent or NotSolved("no reference catalogue")
    if task.hints.scale is None:
        raise NotSolved("no pixel scale (header, or astrometry.pixel_scale)")
    _enough(len(task.stars), "star on the frame", "stars on the frame")
    sx, sy = task.hints.scale
    ny, nx = task.shape
    extent = np.hypot(nx * sx, ny * sy) / 2
    radius = 3600 * task.options["search_radius"]
    reach = (extent * (1 + task.options["scale_tolerance"]) + radius) / 3600
    near = task.catalogue.within(task.hints.ra, task.hints.dec, min(reach, 60.0))
    xi, eta = (3600 * c for c in plates.project(near.ra, near.dec, task.hints.ra, task.hints.dec))
    _enough(len(near), "reference star around the pointing", "reference stars around the pointing")
    z = (task.stars.x - (nx - 1) / 2) * sx + 1j * (task.stars.y - (ny - 1) / 2) * sy
    best = None
    for guess in plate_search.guesses(z, xi + 1j * eta, extent, radius, task.options["scale_tolerance"]):
        match = _followed_up(_plate_of(guess, task), task, start=0.015 * extent / np.sqrt(sx * sy))
        if match is not None and match.log_odds > plate_matching.LEAST_LOG_ODDS:
            return match
        if match is not None and (best is None or match.log_odds > best.log_odds):
            best = match
    in_field = int((np.maximum(np.abs(xi) / (nx * sx), np.abs(eta) / (ny * sy)) < 0.5).sum())
    _enough(in_field, "reference star in the field", "reference stars in the field")
    odds = "" if best is None else f"; the best match has {len(best.stars)}, which chance would also give"
    raise NotSolved(f"{len(task.stars)} stars match none of the reference stars within the search radius{odds}")


def _followed_up(plate: Plate, task: Task, start: float) -> Match | None:
    """Match of a guess; of most wrong ones the bright stars alone tell."""
    match = fit_to_catalogue(plate, replace(task, options={**task.options, "sip_order": 1}), start, brightest=150)
    if match is None or (match.log_odds < _PROMISING and len(task.stars) > 30):
        return match
    return fit_to_catalogue(plate, task, start)


def _enough(number: int, singular: str, plural: str) -> None:
    if number < _LEAST_STARS:
        raise NotSolved(f"{number or 'no'} {singular if number == 1 else plural}")


def _plate_of(guess: plate_search.Guess, task: Task) -> Plate:
    """Linear plate of a guess."""
    ny, nx = task.shape
    sx, sy = task.hints.scale
    x, y = np.array([0, nx - 1, 0, nx - 1]), np.array([0, 0, ny - 1, ny - 1])
    w = guess((x - (nx - 1) / 2) * sx + 1j * (y - (ny - 1) / 2) * sy) / 3600
    ra, dec = plates.deproject(w.real, w.imag, task.hints.ra, task.hints.dec)
    near = tuple(float(c) for c in plates.deproject(w.real.mean(), w.imag.mean(), task.hints.ra, task.hints.dec))
    return plates.fit(x, y, ra, dec, 1, task.shape, near)


def fit_to_catalogue(first: Plate, task: Task, start: float, brightest: int | None = None) -> Match | None:
    """Match and fit all stars, or the brightest of both lists, from a first solution that is good to `start` pixels."""
    rows = task.catalogue.rows_within(first.ra, first.dec, 1.2 * np.hypot(*task.shape) / 2 * first.pixel_scale / 3600)
    rows = rows[: 4 * brightest] if brightest else rows
    # far more sources than catalogue stars are faint ones, galaxies and noise, which only match by accident
    most = max(_SOURCES_PER_STAR * len(rows), 100)
    stars, sky = task.stars[: min(brightest or most, most)], task.catalogue[rows]
    scale = np.linalg.norm(first.matrix, axis=0)
    match = plate_matching.refine(
        first, stars, sky.ra, sky.dec, task.shape, order=task.options["sip_order"],
        start=max(start, task.options["match_radius"]), radius=task.options["match_radius"],
        aspect=float(scale[1] / scale[0]),
    )  # fmt: skip
    return None if match is None else replace(match, reference=rows[match.reference])


def solve_with_header(task: Task) -> Match | Plate:
    """Engine ``header``: the frame's own WCS, fitted to the catalogue where ``refine`` is set and there is one."""
    wcs = pointing.celestial_wcs(task.header)
    if wcs is None:
        raise NotSolved("the header has no WCS")
    try:
        plate = plates.from_wcs(wcs, task.shape, max(task.options["sip_order"], 1))
    except ValueError as error:
        raise NotSolved(str(error)) from error
    if task.catalogue is None or not task.options["refine"]:
        return plate
    return refined(plate, task)


def refined(plate: Plate, task: Task) -> Match:
    """A solution from elsewhere, fitted to the catalogue.

    Raises
    ------
    NotSolved
        If the catalogue's stars do not lie where the solution says.
    """
    match = None
    for start in (task.options["match_radius"], 0.01 * max(task.shape)):
        match = fit_to_catalogue(plate, task, start)
        if match is not None and match.log_odds > plate_matching.LEAST_LOG_ODDS:
            return match
    found = 0 if match is None else len(match.stars)
    raise NotSolved(f"the first solution does not fit the catalogue: {found} stars match")


def solve_with_astrometry_net(task: Task) -> Match | Plate:
    """Engine ``astrometry.net``: solve-field, fitted to the catalogue where there is one."""
    from nightflow import astrometry_net

    _enough(len(task.stars), "star on the frame", "stars on the frame")
    try:
        plate = astrometry_net.solve_field(task.stars, task.shape, task.hints, task.options)
    except programs.TimeLimit as error:
        raise NoAnswer(str(error)) from error
    except astrometry_net.Unsolved as error:
        raise NotSolved(str(error)) from error
    return plate if task.catalogue is None else refined(plate, task)


def solve_with_nova(task: Task) -> Match | Plate:
    """Engine ``nova``: the web service of astrometry.net, fitted to the catalogue where there is one."""
    from nightflow import nova

    _enough(len(task.stars), "star on the frame", "stars on the frame")
    try:
        plate = nova.solve(task.stars, task.shape, task.hints, task.options)
    except nova.NoService as error:
        raise NoAnswer(str(error)) from error
    except nova.Unsolved as error:
        raise NotSolved(str(error)) from error
    return plate if task.catalogue is None else refined(plate, task)


def solve_with_scamp(task: Task) -> Match:
    """Engine ``scamp``: the joint solution of all frames of the target, held against the catalogue once more."""
    if task.catalogue is None and task.hints.ra is not None:
        raise task.absent or NotSolved("no reference catalogue")
    if task.joint is None or "CRVAL1" not in task.joint:
        told = task.joint or {}
        kind = NoAnswer if told.get("WCSSTAT") == NO_ANSWER else NotSolved
        raise kind(told.get("WCSREASN", "not in the joint solution of its target").removeprefix("not solved: "))
    plate = plates.like_wcs(pointing.celestial_wcs(task.joint), task.shape, 1)
    match = match_of(plate, task)
    if match is None or match.log_odds < plate_matching.LEAST_LOG_ODDS:
        raise NotSolved("the joint solution does not fit the catalogue on this frame")
    return match


def match_of(plate: Plate, task: Task) -> Match | None:
    """The stars that a solution makes agree with the catalogue, with nothing fitted; None if fewer than four do."""
    near = 1.2 * np.hypot(*task.shape) / 2 * plate.pixel_scale / 3600
    rows = task.catalogue.rows_within(plate.ra, plate.dec, near)
    stars, sky = task.stars[: max(_SOURCES_PER_STAR * len(rows), 100)], task.catalogue[rows]
    i, j = plate_matching.pairs(plate, stars, sky.ra, sky.dec, task.shape, task.options["match_radius"])
    if len(i) < _LEAST_STARS:
        return None
    distance = plate_matching.residuals(plate, stars.x[i], stars.y[i], sky.ra[j], sky.dec[j])
    good = distance <= 4 * np.median(distance) / 1.18  # the median of a Rayleigh distribution is 1.18 sigma
    i, j, distance = i[good], j[good], distance[good]
    odds = plate_matching.log_odds(plate, stars, sky.ra, sky.dec, task.shape, (i, j), distance, degree=1)
    return Match(plate, i, rows[j], distance, odds)


def solve_with_nothing(task: Task) -> Match:
    """Engine ``none``."""
    raise NotSolved("astrometry.engine is none")


ENGINES = {
    "catalogue": solve_with_catalogue,
    "header": solve_with_header,
    "astrometry.net": solve_with_astrometry_net,
    "nova": solve_with_nova,
    "scamp": solve_with_scamp,
    "none": solve_with_nothing,
}


def wcs_cards(solution: Solution) -> fits.Header:
    """Cards for image headers: the WCS with SIP polynomials, and how good it is."""
    cards = plates.sip_header(solution.plate, solution.shape) if solution.plate else fits.Header()
    return _with_status(cards, solution)


def head_cards(solution: Solution) -> fits.Header:
    """Cards for ``.head`` files: the same solution as TPV."""
    cards = plates.tpv_header(solution.plate, solution.shape) if solution.plate else fits.Header()
    return _with_status(cards, solution)


def _with_status(cards: fits.Header, solution: Solution) -> fits.Header:
    cards["WCSSTAT"] = (solution.status, "astrometry")
    if solution.reason:
        cards["WCSREASN"] = solution.reason
    if np.isfinite(solution.rms):
        cards["WCSRMS"] = (solution.rms, "[arcsec] rms distance from the catalogue")
    cards["WCSNREF"] = (len(solution.stars), "reference stars matched")
    return cards


_WCS = re.compile(
    r"WCSAXES|RADESYS|EQUINOX|LONPOLE|LATPOLE|WCSNAME|(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA|CRDER|CSYER)[12]"
    r"|(CD|PC|PV|PS)0*[12]_\d+|[AB]P?_\d_\d|[AB]P?_ORDER|[AB]_DMAX"
    r"|[XY]PIXELSZ|AMD[XY]\d+|PPO\d|PLTRA[HMS]|PLTDEC[DMS]|PLTDECSN"  # plate solutions of the DSS
)


def wcs_of(header: fits.Header) -> fits.Header:
    """The cards of a header's primary WCS."""
    return fits.Header([card for card in header.cards if _WCS.fullmatch(card.keyword)])


def set_wcs(header: fits.Header, cards: fits.Header) -> None:
    """Replace the WCS of a header by that of `cards`; where those have none, the header's own stays."""
    if "CRVAL1" in cards:
        for keyword in {card.keyword for card in wcs_of(header).cards}:
            header.remove(keyword, remove_all=True)
    header.update(cards)


def head_text(cards: fits.Header) -> str:
    """Text of a ``.head`` file: one card a line, as SCAMP writes and SWarp reads it."""
    text = cards.tostring(endcard=False, padding=False)
    lines = [text[start : start + 80].rstrip() for start in range(0, len(text), 80)]
    return "\n".join([*lines, "END", ""])


def write_head(path, cards: fits.Header) -> None:
    """Write a ``.head`` file."""
    from nightflow.products import replacing

    with replacing(path) as scratch:
        scratch.write_text(head_text(cards), encoding="ascii")


def read_head(path) -> fits.Header:
    """Read a ``.head`` file."""
    from pathlib import Path

    return parse_head(Path(path).read_text(encoding="ascii"))


def parse_head(text: str) -> fits.Header:
    """Cards of the text of a ``.head`` file."""
    return fits.Header.fromstring("".join(line.ljust(80) for line in text.splitlines() if line != "END"))
