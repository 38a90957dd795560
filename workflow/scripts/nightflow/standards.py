"""Standard stars: a table of the user's, and their measurement on the frames that show them.

Where a standard is on a frame is known from its right ascension and declination and the frame's plate solution, or from
the frame's name and the pixel in the table.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from astropy.io import fits

from nightflow import photometry
from nightflow.plates import Plate
from nightflow.products import replacing
from nightflow.steps import UserError

#: Columns of the table of measured standards of a frame.
COLUMNS = "frame night filter airmass star x y magnitude magnitude_error colour rate rate_error total_error snr".split()
_LEAST_SNR = 10.0
_FORMATS = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".tsv": "ascii.tab", ".txt": "ascii.basic"}
# Landolt's table as IRAF and others pass it on: no header, words between blanks.
_LANDOLT = "name ra dec V B-V U-B V-R R-I V-I n nights e_V e_B-V e_U-B e_V-R e_R-I e_V-I".split()
# Each band as V plus colours with their signs, and the colour that goes into its colour term.
_LANDOLT_BANDS = {
    "U": ({"B-V": 1, "U-B": 1}, "B-V"),
    "B": ({"B-V": 1}, "B-V"),
    "V": ({}, "B-V"),
    "R": ({"V-R": -1}, "V-R"),
    "I": ({"V-I": -1}, "V-I"),
}


@dataclass(frozen=True)
class Standards:
    """Standard stars in one band; all arrays have the shape (n,).

    Attributes
    ----------
    name : ndarray of str
    magnitude, error, colour : ndarray
        NaN where a colour is unknown; an unknown error is 0.
    ra, dec : ndarray
        Degrees, ICRS; NaN where the frame and the pixel are given instead.
    frame : ndarray of str
        Id or file name of the frame that shows it; empty where the position on the sky is given.
    x, y : ndarray
        Pixel on that frame, 0-based; NaN where unknown.
    """

    name: np.ndarray
    magnitude: np.ndarray
    error: np.ndarray
    colour: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    frame: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.name)

    def __getitem__(self, which) -> Standards:
        return Standards(*(getattr(self, column.name)[which] for column in fields(self)))


def read(path: str | os.PathLike, section: Mapping, band: str | None) -> Standards:
    """Standard stars of a table in the band of a filter.

    Parameters
    ----------
    path : path-like
        CSV, ECSV, tab-separated (.tsv), words between blanks under a header line (.txt), FITS (the first table), or
        Landolt's table (.dat).
    section : mapping
        Section ``standards`` of the configuration: ``columns``, ``bands`` and ``equinox``.
    band : str or None
        Filter of the frame.

    Raises
    ------
    UserError
        If the table cannot be read, lacks a column, or holds no number where one is needed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"standards.file '{path}' not found")
    wanted = section["bands"].get(band, band)
    stars = _read_landolt(path, wanted) if path.suffix.lower() == ".dat" else _read_table(path, section, wanted)
    return _precessed(stars[np.isfinite(stars.magnitude)], float(section["equinox"]))


def _read_table(path: Path, section: Mapping, band: str | None) -> Standards:
    from astropy.table import Table

    ending = path.suffix.lower()
    if ending not in _FORMATS and ending not in (".fits", ".fit"):
        raise UserError(f"standards.file '{path}' has an unknown ending; known are {', '.join(_FORMATS)}, .fits, .dat")
    try:
        table = Table.read(path, format=_FORMATS.get(ending, "fits"))
    except Exception as error:  # each format has its own errors for a broken file
        raise UserError(f"standards.file '{path}' cannot be read: {' '.join(str(error).split())}") from error
    columns = {key: name for key, name in section["columns"].items() if name in table.colnames}
    _check(path, section["columns"], columns, table.colnames)
    if "band" in columns:
        table = table[_text(table[columns["band"]]) == str(band)]
    n = len(table)
    unknown, nothing = np.full(n, np.nan), np.full(n, "")

    def number(key, default=unknown):
        return _number(table[columns[key]], path) if key in columns else default

    return Standards(
        _text(table[columns["name"]]), number("magnitude"), np.nan_to_num(number("error")), number("colour"),
        _angle(table, columns, "ra", path), _angle(table, columns, "dec", path),
        _text(table[columns["frame"]]) if "frame" in columns else nothing, number("x"), number("y"),
    )  # fmt: skip


def _check(path: Path, names: Mapping, columns: Mapping, existing) -> None:
    lacking = [names[key] for key in ("name", "magnitude") if key not in columns]
    if not ({"ra", "dec"} <= set(columns) or {"frame", "x", "y"} <= set(columns)):
        lacking.append(f"{names['ra']} and {names['dec']}, or {names['frame']}, {names['x']} and {names['y']}")
    if lacking:
        raise UserError(f"standards.file '{path}' has no column {', '.join(lacking)}; it has {', '.join(existing)}")


def _text(column) -> np.ndarray:
    return np.array([str(value).strip() for value in np.ma.filled(np.ma.asarray(column).astype(str), "")])


def _number(column, path: Path) -> np.ndarray:
    try:
        return np.ma.filled(np.ma.asarray(column).astype(float), np.nan)
    except ValueError as error:
        raise UserError(f"standards.file '{path}', column {column.name}: {error}") from error


def _angle(table, columns: Mapping, key: str, path: Path) -> np.ndarray:
    """Degrees; text is sexagesimal, right ascension in hours."""
    if key not in columns:
        return np.full(len(table), np.nan)
    column = table[columns[key]]
    if np.asarray(column).dtype.kind not in "SU":
        return _number(column, path)
    return np.array([_sexagesimal(cell, hours=key == "ra", path=path) for cell in _text(column)])


def _sexagesimal(text: str, hours: bool, path: Path) -> float:
    from astropy.coordinates import Angle

    if not text:
        return np.nan
    try:
        return float(Angle(text, unit="hourangle" if hours else "deg").deg)
    except ValueError as error:
        raise UserError(f"standards.file '{path}': '{text}' is no angle") from error


def _read_landolt(path: Path, band: str | None) -> Standards:
    """Landolt (1992), AJ 104, 340, and (1983), AJ 88, 439: V and colours, from which the band follows."""
    rows = [line.split()[: len(_LANDOLT)] for line in path.read_text("latin-1").splitlines() if line.strip()]
    if not rows or any(len(row) < len(_LANDOLT) for row in rows):
        raise UserError(f"standards.file '{path}' is not Landolt's table: its lines have {len(_LANDOLT)} words")
    column = dict(zip(_LANDOLT, zip(*rows, strict=True), strict=True))
    terms, colour = _LANDOLT_BANDS.get(band, ({}, None))
    try:
        value = {key: np.array(column[key], dtype=float) for key in _LANDOLT[3:]}
    except ValueError as error:
        raise UserError(f"standards.file '{path}' is not Landolt's table: {error}") from error
    n, unknown = len(rows), np.full(len(rows), np.nan)
    return Standards(
        np.array(column["name"]),
        value["V"] + sum(sign * value[term] for term, sign in terms.items()) if colour else unknown,
        np.sqrt(value["e_V"] ** 2 + sum(value[f"e_{term}"] ** 2 for term in terms)),
        value[colour] if colour else unknown,
        np.array([_sexagesimal(text, hours=True, path=path) for text in column["ra"]]),
        np.array([_sexagesimal(text, hours=False, path=path) for text in column["dec"]]),
        np.full(n, ""), unknown, unknown,
    )  # fmt: skip


def _precessed(stars: Standards, equinox: float) -> Standards:
    """The stars with positions of the equinox 2000."""
    known = np.isfinite(stars.ra) & np.isfinite(stars.dec)
    if equinox == 2000.0 or not known.any():
        return stars
    from astropy.coordinates import FK5, SkyCoord

    old = SkyCoord(stars.ra[known], stars.dec[known], unit="deg", frame=FK5(equinox=f"J{equinox}"))
    stars.ra[known], stars.dec[known] = old.icrs.ra.deg, old.icrs.dec.deg
    return stars


def measure(stars: Standards, sources, header: fits.Header, row: Mapping, plate: Plate | None, radius: float):
    """Standards that a frame shows, with their total fluxes.

    Parameters
    ----------
    stars : `Standards`
        In the band of the frame.
    sources : `~astropy.table.Table`
        Of the frame, with apertures.
    header : `~astropy.io.fits.Header`
        Of the source table.
    row : mapping
        ``frame night filter airmass`` of the frame, and its ``path``.
    plate : `~nightflow.plates.Plate` or None
    radius : float
        Arcsec within which a source is taken for a standard of given right ascension and declination, px for one of
        given pixels. Of several the brightest is it.

    Returns
    -------
    list of dict
        `COLUMNS`; ``total_error`` is the relative error that the fluxes of the frame have in common.
    """
    i, j = _identified(stars, sources, header, row, plate, radius)
    rate, error, common = photometry.standard_rates(sources, header)
    identity = {name: row.get(name) for name in ("frame", "night", "filter", "airmass")}
    x, y = (np.asarray(sources[name], dtype=float) for name in ("x", "y"))
    found = []
    for star, source in zip(i, j, strict=True):
        if not rate[source] > _LEAST_SNR * error[source] > 0:
            continue
        found.append({
            **identity, "star": str(stars.name[star]), "x": float(x[source]), "y": float(y[source]),
            "magnitude": float(stars.magnitude[star]),
            "magnitude_error": float(stars.error[star]), "colour": float(stars.colour[star]),
            "rate": float(rate[source]), "rate_error": float(error[source]), "total_error": common,
            "snr": float(rate[source] / error[source]),
        })  # fmt: skip
    return found


def _identified(stars, sources, header, row, plate, radius) -> tuple[list[int], list[int]]:
    """Rows of the standards and of the sources that they are."""
    ny, nx = int(header["NFYSIZE"]), int(header["NFXSIZE"])
    names = {str(row["frame"]), Path(str(row.get("path") or row["frame"])).name}
    names |= {Path(name).stem for name in names}
    here = np.array([name in names or Path(name).name in names for name in stars.frame], dtype=bool)
    x, y, reach = stars.x.copy(), stars.y.copy(), np.full(len(stars), float(radius))
    on_sky = ~here & (stars.frame == "") & np.isfinite(stars.ra) & np.isfinite(stars.dec)
    if plate is not None and on_sky.any():
        near = on_sky.copy()
        near[on_sky] = _angle_between(stars.ra[on_sky], stars.dec[on_sky], plate) < np.hypot(nx, ny) * plate.pixel_scale
        x[near], y[near] = plate.to_pixel(stars.ra[near], stars.dec[near])
        reach[near] = radius / plate.pixel_scale
        here |= near
    with np.errstate(invalid="ignore"):
        here &= (x > -0.5) & (y > -0.5) & (x < nx - 0.5) & (y < ny - 0.5)
    return _nearest_bright(np.flatnonzero(here), x, y, reach, sources)


def _angle_between(ra, dec, plate: Plate) -> np.ndarray:
    """Arcsec from the point where the plate touches the sky."""
    from nightflow.reference_catalogues import separation

    return 3600 * separation(ra, dec, plate.ra, plate.dec)


def _nearest_bright(rows, x, y, reach, sources) -> tuple[list[int], list[int]]:
    """For each star the brightest source in its reach, unspoilt, and the nearer star where two have the same one."""
    source_x, source_y, flux = (np.asarray(sources[name], dtype=float) for name in ("x", "y", "flux"))
    spoilt = (np.asarray(sources["flags"]) & photometry.SPOILT) != 0
    best: dict[int, tuple[float, int]] = {}
    for star in rows:
        distance = np.hypot(source_x - x[star], source_y - y[star])
        inside = np.flatnonzero(distance <= reach[star])
        if not inside.size:
            continue
        source = int(inside[np.argmax(flux[inside])])
        if not spoilt[source] and distance[source] < best.get(source, (np.inf,))[0]:
            best[source] = (float(distance[source]), int(star))
    return [star for _, star in best.values()], list(best)


def plate_of(header: fits.Header) -> Plate | None:
    """Plate solution in the header of a solved frame's sources; None where it has none."""
    if header.get("WCSSTAT") not in ("SOLVED", "HEADER"):
        return None
    from nightflow import plates, pointing

    wcs = pointing.celestial_wcs(header)
    shape = int(header["NFYSIZE"]), int(header["NFXSIZE"])
    return None if wcs is None else plates.from_wcs(wcs, shape, plates.MAX_ORDER)


def write(path: str | os.PathLike, rows: list[dict]) -> None:
    """Write measured standards as tab-separated text; a value that is unknown is an empty cell."""
    with replacing(path) as scratch, open(scratch, "w", encoding="utf-8") as file:
        for cells in (COLUMNS, *([_cell(row.get(name)) for name in COLUMNS] for row in rows)):
            file.write("\t".join(cells) + "\n")


def _cell(value) -> str:
    if value is None or value != value:  # NaN
        return ""
    return f"{value:.9g}" if isinstance(value, float) else " ".join(str(value).split())


def read_measured(paths) -> list[dict]:
    """Rows that `write` wrote to several files, numbers as float, NaN where unknown."""
    text = ("frame", "night", "filter", "star")
    rows = []
    for path in paths:
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                rows.append({k: v if k in text else float(v) if v else np.nan for k, v in row.items()})
    return rows
