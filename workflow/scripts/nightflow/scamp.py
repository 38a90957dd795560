"""Engine ``scamp``: the frames of a target in one astrometric solution, by the program SCAMP.

Source tables and reference stars are handed over as FITS_LDAC catalogues, the form in which Source Extractor writes
them. SCAMP starts from solutions that `nightflow.astrometry` has found and proved; that module also judges the result.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from nightflow import plates, pointing, programs
from nightflow.plates import Plate
from nightflow.reference_catalogues import ReferenceStars

_REFERENCE = "reference.cat"
_REFERENCE_ERROR = 0.05  # arcsec; that of Tycho-2, and hardly more than the scatter of a star on a frame
_SETTINGS = {
    "ASTREF_CATALOG": "FILE", "ASTREFCAT_NAME": _REFERENCE, "ASTREFCENT_KEYS": "X_WORLD,Y_WORLD",
    "ASTREFERR_KEYS": "ERRA_WORLD,ERRB_WORLD,ERRTHETA_WORLD", "ASTREFMAG_KEY": "MAG", "ASTREFMAGERR_KEY": "MAGERR",
    "CENTROID_KEYS": "X_IMAGE,Y_IMAGE", "CENTROIDERR_KEYS": "ERRA_IMAGE,ERRB_IMAGE,ERRTHETA_IMAGE",
    "DISTORT_KEYS": "X_IMAGE,Y_IMAGE", "PROJECTION_TYPE": "TPV",
    # the pattern is found already; with a degree of pointing error SCAMP takes a minute a frame for it
    "MATCH": "N",
    # a polynomial of its own for each frame: SCAMP shares it in the axes of the sky, wrong where frames are turned
    "STABILITY_TYPE": "EXPOSURE",
    "SN_THRESHOLDS": "3.0,20.0", "FWHM_THRESHOLDS": "0,1000", "ELLIPTICITY_MAX": 1.0, "SOLVE_PHOTOM": "N",
    "CHECKPLOT_TYPE": "NONE", "CHECKPLOT_DEV": "NULL", "WRITE_XML": "N", "VERBOSE_TYPE": "NORMAL",
    "NTHREADS": 1,  # the same bits on every machine
}  # fmt: skip


@dataclass(frozen=True)
class Exposure:
    """A frame as SCAMP is told of it; arrays of shape (n,).

    Attributes
    ----------
    x, y, sigma : ndarray
        Positions (0-based) and their errors, px.
    flux, flux_err : ndarray
        In any unit.
    shape : tuple of int
        (ny, nx).
    start : `~nightflow.plates.Plate`
        Where it is, to about a pixel.
    """

    x: np.ndarray
    y: np.ndarray
    sigma: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    shape: tuple[int, int]
    start: Plate


def solve_together(
    exposures: Sequence[Exposure], sky: ReferenceStars, degree: int, options: Mapping
) -> list[Plate | None]:
    """Astrometric solution of frames that overlap.

    Parameters
    ----------
    exposures : sequence of `Exposure`
    sky : `~nightflow.reference_catalogues.ReferenceStars`
        Around all of them.
    degree : int
        Of the polynomial.
    options : mapping
        Section ``astrometry``: ``match_radius`` (px) and ``time_limit`` (s).

    Returns
    -------
    list of `~nightflow.plates.Plate` or None
        None where SCAMP wrote nothing that can be used.

    Raises
    ------
    nightflow.programs.TimeLimit, nightflow.programs.ProgramFailed
    nightflow.steps.UserError
        If the program is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="nightflow-") as name:
        folder = Path(name)
        write_reference(folder / _REFERENCE, sky)
        stems = [f"{number:05d}" for number in range(len(exposures))]
        for stem, exposure in zip(stems, exposures, strict=True):
            write_sources(folder / f"{stem}.cat", exposure)
        (folder / "catalogues.txt").write_text("".join(f"{stem}.cat\n" for stem in stems))
        radius = options["match_radius"] * max(exposure.start.pixel_scale for exposure in exposures)
        # a second for each frame beyond the limit, for one program works on all of them
        programs.run("scamp", _arguments(degree, radius), folder, options["time_limit"] + len(exposures))
        return [_read_plate(folder / f"{s}.head", e.shape, degree) for s, e in zip(stems, exposures, strict=True)]


def _arguments(degree: int, radius: float) -> list[str]:
    settings = {**_SETTINGS, "DISTORT_DEGREES": degree, "CROSSID_RADIUS": f"{radius:.4f}"}
    words = [word for name, value in settings.items() for word in (f"-{name}", str(value))]
    return ["@catalogues.txt", "-c", "/dev/null", *words]


def write_sources(path: Path, exposure: Exposure) -> None:
    """Write the sources of a frame as Source Extractor would, with a header that says where the frame is."""
    n = len(exposure.x)
    columns = {
        "NUMBER": ("J", np.arange(1, n + 1), None),
        "X_IMAGE": ("D", exposure.x + 1, "pixel"),
        "Y_IMAGE": ("D", exposure.y + 1, "pixel"),
        "ERRA_IMAGE": ("E", exposure.sigma, "pixel"),
        "ERRB_IMAGE": ("E", exposure.sigma, "pixel"),
        "ERRTHETA_IMAGE": ("E", np.zeros(n), "deg"),
        "FLUX_AUTO": ("E", exposure.flux, "count"),
        "FLUXERR_AUTO": ("E", np.nan_to_num(exposure.flux_err, nan=np.nanmax(exposure.flux)), "count"),
        "FLUX_RADIUS": ("E", np.full(n, 1.5), "pixel"),
        "ELONGATION": ("E", np.ones(n), None),
        "FLAGS": ("I", np.zeros(n), None),
    }
    write_ldac(path, plates.tpv_header(exposure.start, exposure.shape), exposure.shape, columns)


def write_reference(path: Path, sky: ReferenceStars) -> None:
    """Write reference stars as a local catalogue of SCAMP."""
    n = len(sky)
    error = np.full(n, _REFERENCE_ERROR / 3600)
    columns = {
        "X_WORLD": ("D", sky.ra, "deg"),
        "Y_WORLD": ("D", sky.dec, "deg"),
        "ERRA_WORLD": ("E", error, "deg"),
        "ERRB_WORLD": ("E", error, "deg"),
        "ERRTHETA_WORLD": ("E", np.zeros(n), "deg"),
        "MAG": ("E", np.nan_to_num(sky.brightness, nan=99.0), "mag"),
        "MAGERR": ("E", np.full(n, 0.05), "mag"),
        "OBSDATE": ("D", np.full(n, 2000.0), "yr"),  # proper motion is applied already
    }
    write_ldac(path, fits.Header(), (1, 1), columns)


def write_ldac(path: Path, header: fits.Header, shape: tuple[int, int], columns: Mapping) -> None:
    """Write a FITS_LDAC catalogue: a table whose one cell is the header of a frame, and the table of its objects.

    Parameters
    ----------
    path : path
    header : `~astropy.io.fits.Header`
    shape : tuple of int
        (ny, nx) of the frame.
    columns : mapping of str to (str, ndarray, str or None)
        FITS format, values and unit.
    """
    ny, nx = shape
    basic = {"SIMPLE": True, "BITPIX": -32, "NAXIS": 2, "NAXIS1": nx, "NAXIS2": ny}
    text = (fits.Header(basic) + header).tostring(endcard=True, padding=False).encode("ascii")
    # as bytes: a column of text would lose the blanks at its end, without which SCAMP crashes
    cell = fits.Column("Field Header Card", f"{len(text)}B", array=np.frombuffer(text, np.uint8)[None])
    objects = [fits.Column(name, form, unit=unit, array=values) for name, (form, values, unit) in columns.items()]
    tables = {"LDAC_IMHEAD": [cell], "LDAC_OBJECTS": objects}
    hdus = [fits.BinTableHDU.from_columns(content, name=name) for name, content in tables.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)


def _read_plate(path: Path, shape: tuple[int, int], degree: int) -> Plate | None:
    if not path.is_file():
        return None
    lines = path.read_text(encoding="latin-1").splitlines()
    cards = [line.ljust(80) for line in lines if not line.startswith(("HISTORY", "COMMENT", "END"))]
    header = fits.Header.fromstring("".join(cards))
    if "PV1_1" not in header:  # a linear solution, which wcslib reads under its own name only
        header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    wcs = pointing.celestial_wcs(header)
    try:
        return None if wcs is None else plates.like_wcs(wcs, shape, degree)
    except ValueError:
        return None
