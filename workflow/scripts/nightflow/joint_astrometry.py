"""The joint astrometric solution of a target: one answer for each of its frames, in one file.

The answers stand one after another as SCAMP writes the chips of a mosaic: each is the text of a ``.head`` file, here
with the frame's id as its first card.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from astropy.io import fits

from nightflow import astrometry, plate_matching, plates, programs, scamp
from nightflow.astrometry import NO_ANSWER, NOT_SOLVED, NotSolved, Solution
from nightflow.plates import Plate
from nightflow.products import replacing
from nightflow.reference_catalogues import ReferenceStars

# How much worse than a frame's own fit a joint one may be on that frame's stars: a factor, and px.
_WORSE = (1.5, 0.1)


def solve_target(
    frames: Mapping[str, tuple], sky: ReferenceStars | NotSolved | None, options: Mapping
) -> dict[str, fits.Header]:
    """Solve the frames of a target together.

    Each is first solved alone with the reference catalogue, so that no frame enters that lies elsewhere; then SCAMP
    adjusts them all. A frame with too few stars for the polynomial of the others keeps its own solution.

    Parameters
    ----------
    frames : mapping of str to (table, `~astropy.io.fits.Header`, mapping)
        Sources, header and row of each frame, by its id.
    sky : `~nightflow.reference_catalogues.ReferenceStars`, `~nightflow.astrometry.NotSolved` or None
        The reason where there should be stars.
    options : mapping
        Section ``astrometry`` of the configuration.

    Returns
    -------
    dict of str to `~astropy.io.fits.Header`
        The solution as TPV polynomials, or WCSSTAT and WCSREASN.

    Raises
    ------
    nightflow.steps.UserError
        If SCAMP is not installed.
    """
    programs.find("scamp")
    alone = _alone(frames, sky, options)
    answers = {name: _own(solution) for name, solution in alone.items()}
    degree, found = _degree(alone)
    if not found:
        return answers
    exposures = [_exposure(frames[name][0], alone[name]) for name in found]
    try:
        together = scamp.solve_together(exposures, _around(sky, exposures), degree, options)
    except programs.TimeLimit as error:
        return answers | {name: _no(alone[name], str(error), NO_ANSWER) for name in found}
    except programs.ProgramFailed as error:
        return answers | {name: _no(alone[name], str(error)) for name in found}
    return answers | {n: _judged(p, frames[n][0], alone[n], sky) for n, p in zip(found, together, strict=True)}


def _alone(frames: Mapping[str, tuple], sky, options: Mapping) -> dict[str, Solution]:
    """Solution of each frame by itself: where the last one was, or else by a search."""
    solutions, last = {}, fits.Header()
    for name, (sources, header, row) in frames.items():
        told = header.copy()
        astrometry.set_wcs(told, last)
        nearby = {**options, "engine": "header", "refine": True}
        if "CRVAL1" in last and isinstance(sky, ReferenceStars):
            solutions[name] = astrometry.solve(sources, told, row, sky, nearby)
        if name not in solutions or solutions[name].plate is None:
            solutions[name] = astrometry.solve(sources, header, row, sky, {**options, "engine": "catalogue"})
        if (plate := solutions[name].plate) is not None:
            last = plates.sip_header(plate, solutions[name].shape)
    return solutions


def _degree(alone: Mapping[str, Solution]) -> tuple[int, list[str]]:
    """Degree of the polynomial that most frames need, and the frames with stars enough for it."""
    solved = {name: solution for name, solution in alone.items() if solution.plate is not None}
    degree = sorted(solution.plate.order for solution in solved.values())[len(solved) // 2] if solved else 1
    least = 2 * len(plates.powers(degree))
    return degree, [name for name, solution in solved.items() if len(solution.stars) >= least]


def _own(alone: Solution) -> fits.Header:
    return astrometry.head_cards(alone) if alone.plate is None else plates.tpv_header(alone.plate, alone.shape)


def _exposure(sources, solution: Solution) -> scamp.Exposure:
    stars, rows = astrometry.usable_stars(sources)
    flux, error = (np.asarray(sources[name], dtype=float)[rows] for name in ("flux", "flux_err"))
    return scamp.Exposure(stars.x, stars.y, stars.sigma, flux, error, solution.shape, solution.plate)


def _around(sky: ReferenceStars, exposures: list[scamp.Exposure]) -> ReferenceStars:
    """The reference stars on and near any of the frames."""
    rows = set()
    for exposure in exposures:
        start = exposure.start
        rows.update(sky.rows_within(start.ra, start.dec, 0.7 * np.hypot(*exposure.shape) * start.pixel_scale / 3600))
    return sky[np.array(sorted(rows), dtype=int)]


def _judged(plate: Plate | None, sources, alone: Solution, sky: ReferenceStars) -> fits.Header:
    """The joint solution of a frame, unless it fits the frame's stars much worse than the frame's own."""
    if plate is None:
        return _no(alone, "SCAMP wrote no solution for this frame")
    here = [np.asarray(sources[name], dtype=float)[alone.stars] for name in ("x", "y")]
    there = sky.ra[alone.reference], sky.dec[alone.reference]
    rms = [np.sqrt(np.mean(plate_matching.residuals(p, *here, *there) ** 2)) for p in (plate, alone.plate)]
    if not rms[0] <= _WORSE[0] * rms[1] + _WORSE[1]:
        return _no(alone, f"the joint solution leaves {rms[0]:.2f} px, the frame's own {rms[1]:.2f} px")
    return plates.tpv_header(plate, alone.shape)


def _no(alone: Solution, reason: str, status: str = NOT_SOLVED) -> fits.Header:
    return astrometry.head_cards(Solution(status, f"not solved: {reason}", None, alone.shape))


def write_answers(path, answers: Mapping[str, fits.Header]) -> None:
    """Write the answers of a target."""
    texts = [astrometry.head_text(fits.Header({"FRAME": name}) + cards) for name, cards in answers.items()]
    with replacing(path) as scratch:
        scratch.write_text("".join(texts), encoding="ascii")


def read_answer(path, frame: str) -> fits.Header | None:
    """What the joint solution of a target says of a frame; None if the frame is not in it."""
    for text in Path(path).read_text(encoding="ascii").split("\nEND\n"):
        if text.startswith("FRAME") and (cards := astrometry.parse_head(text))["FRAME"] == frame:
            del cards["FRAME"]
            return cards
    return None
