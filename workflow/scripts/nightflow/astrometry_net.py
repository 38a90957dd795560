"""Engine ``astrometry.net``: the program solve-field on the list of sources, with its own index files."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits

from nightflow import plates, programs
from nightflow.plate_matching import Stars
from nightflow.plates import Plate
from nightflow.pointing import Pointing

_MOST_STARS = 200
_BOXES = 10  # over the frame, from which the bright stars are taken in turn
#: Where Debian's packages put index files; ``astrometry.index_dir`` names another folder.
INDEX_FOLDER = "/usr/share/astrometry"


class Unsolved(Exception):
    """solve-field found no solution; the message says why."""


def solve_field(stars: Stars, shape: tuple[int, int], hints: Pointing, options) -> Plate:
    """Plate solution by solve-field.

    Parameters
    ----------
    stars : `~nightflow.plate_matching.Stars`
        Brightest first.
    shape : tuple of int
        (ny, nx).
    hints : `~nightflow.pointing.Pointing`
        What is unknown is not handed on: astrometry.net solves blindly too.
    options : mapping
        Section ``astrometry``: ``search_radius``, ``scale_tolerance``, ``sip_order``, ``time_limit``, ``index_dir``.

    Returns
    -------
    `~nightflow.plates.Plate`

    Raises
    ------
    Unsolved, nightflow.programs.TimeLimit
    nightflow.steps.UserError
        If the program is not installed.
    """
    programs.find("solve-field")
    indexes = Path(options["index_dir"] or INDEX_FOLDER)
    if not any(indexes.glob("index-*.fits")):
        raise Unsolved(
            f"no astrometry.net index files in {indexes} (Debian has astrometry-data-tycho2; astrometry.index_dir)"
        )
    with tempfile.TemporaryDirectory(prefix="nightflow-") as name:
        folder = Path(name)
        _write_sources(folder / "field.xyls", stars[spread(stars, shape)])
        (folder / "backend.cfg").write_text(f"add_path {indexes.resolve()}\nautoindex\ninparallel\n")
        try:
            said = programs.run("solve-field", _arguments(shape, hints, options), folder, options["time_limit"] + 10)
        except programs.ProgramFailed as error:
            raise Unsolved(str(error)) from error
        if not (folder / "field.wcs").is_file():
            if "CPU time limit" in said or "cpulimit" in said.lower():
                raise programs.TimeLimit(f"solve-field did not solve it within {options['time_limit']:g} s")
            raise Unsolved("solve-field found no match with its index files")
        return _read_solution(folder / "field.wcs", shape, options["sip_order"])


def spread(stars: Stars, shape: tuple[int, int]) -> np.ndarray:
    """Rows of the stars to hand over: the brightest of each part of the frame, then the second of each, and so on.

    A cluster in one corner thus does not take all places. solve-field does the same, and drops stars in a line, by
    programs that take three times as long as the solution.
    """
    ny, nx = shape
    columns = max(round(np.sqrt(_BOXES * nx / ny)), 1)
    rows = max(round(_BOXES / columns), 1)
    box = (stars.x * columns // nx).astype(int) + columns * (stars.y * rows // ny).astype(int)
    order = np.argsort(box, kind="stable")
    _, first, count = np.unique(box[order], return_index=True, return_counts=True)
    turn = np.empty(len(box), dtype=int)
    turn[order] = np.arange(len(box)) - np.repeat(first, count)
    return np.argsort(turn, kind="stable")[:_MOST_STARS]


def _write_sources(path: Path, stars: Stars) -> None:
    """Source list, positions 1-based, in order of importance."""
    columns = {"X": stars.x + 1, "Y": stars.y + 1, "FLUX": -np.arange(len(stars), dtype=float)}
    table = [fits.Column(name, "D", array=values) for name, values in columns.items()]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(table)]).writeto(path)


def _arguments(shape: tuple[int, int], hints: Pointing, options) -> list[str]:
    ny, nx = shape
    arguments = ["--no-plots", "--overwrite", "--config", "backend.cfg", "--cpulimit", f"{options['time_limit']:g}"]
    arguments += ["--width", str(nx), "--height", str(ny), "--x-column", "X", "--y-column", "Y"]
    arguments += ["--no-remove-lines", "--uniformize", "0"]
    arguments += ["--sort-column", "FLUX", "--crpix-center", "--tweak-order", str(max(options["sip_order"], 2))]
    if options["sip_order"] < 2:
        arguments.append("--no-tweak")
    if hints.scale is not None:
        scale, factor = float(np.sqrt(np.prod(hints.scale))), 1 + options["scale_tolerance"]
        arguments += ["--scale-units", "arcsecperpix", "--scale-low", f"{scale / factor:.6g}"]
        arguments += ["--scale-high", f"{scale * factor:.6g}"]
    if hints.ra is not None and hints.dec is not None:
        radius = options["search_radius"]
        if hints.scale is not None:
            radius += np.hypot(nx * hints.scale[0], ny * hints.scale[1]) / 2 / 3600
        arguments += [f"--ra={hints.ra:.6f}", f"--dec={hints.dec:.6f}", f"--radius={radius:.4f}"]
    for product in ("--new-fits", "--kmz", "--solved", "--match", "--rdls", "--corr", "--index-xyls"):
        arguments += [product, "none"]
    return [*arguments, "field.xyls"]


def _read_solution(path: Path, shape: tuple[int, int], order: int) -> Plate:
    from astropy.wcs import WCS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on the form of the header
        wcs = WCS(fits.getheader(path))
    return plates.from_wcs(wcs, shape, max(order, 1))
