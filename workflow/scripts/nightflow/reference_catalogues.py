"""Reference catalogues: stars of known position and brightness, from a file, own or fetched.

A catalogue becomes a `ReferenceStars`, whatever its file format and the names of its columns; the section
``reference_catalogue`` of the configuration names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from nightflow.steps import UserError

#: NFSTAT of a fetched catalogue without stars: nobody answered, or there are none.
NO_ANSWER, EMPTY = "NO ANSWER", "EMPTY"


class NoStars(Exception):
    """A fetched catalogue has no stars; the message says why.

    Attributes
    ----------
    answered : bool
        False if the service did not answer.
    """

    def __init__(self, reason: str, answered: bool):
        super().__init__(reason)
        self.answered = answered


@dataclass(frozen=True)
class ReferenceStars:
    """Stars of a reference catalogue; all arrays have the shape (n,).

    Attributes
    ----------
    ra, dec : ndarray
        Degrees, ICRS, at the epoch asked for.
    brightness : ndarray
        A magnitude in any band, by which the stars are ranked; NaN where unknown.
    magnitude, error, colour : ndarray
        Magnitude in the band of the frame, its error, and the colour for the colour term; NaN where unknown.
    """

    ra: np.ndarray
    dec: np.ndarray
    brightness: np.ndarray
    magnitude: np.ndarray
    error: np.ndarray
    colour: np.ndarray

    def __len__(self) -> int:
        return len(self.ra)

    def __getitem__(self, which) -> ReferenceStars:
        return ReferenceStars(*(getattr(self, column.name)[which] for column in fields(self)))

    def within(self, ra: float, dec: float, radius: float) -> ReferenceStars:
        """Stars nearer than `radius` to a point (all in degrees), brightest first."""
        return self[self.rows_within(ra, dec, radius)]

    def rows_within(self, ra: float, dec: float, radius: float) -> np.ndarray:
        """Rows of the stars that `within` gives."""
        near = np.flatnonzero(np.abs(self.dec - dec) <= radius)
        near = near[separation(self.ra[near], self.dec[near], ra, dec) <= radius]
        brightness = np.nan_to_num(self.brightness[near], nan=np.inf)
        return near[np.lexsort((self.ra[near], brightness))]


def separation(ra, dec, ra0: float, dec0: float) -> np.ndarray:
    """Angle in degrees between points and (`ra0`, `dec0`), exact for small angles too (haversine formula)."""
    ra, dec, ra0, dec0 = (np.radians(angle) for angle in (ra, dec, ra0, dec0))
    half = np.sin((dec - dec0) / 2) ** 2 + np.cos(dec) * np.cos(dec0) * np.sin((ra - ra0) / 2) ** 2
    return np.degrees(2 * np.arcsin(np.sqrt(np.clip(half, 0, 1))))


def read(path: str | Path, section: Mapping, band: str | None = None, year: float | None = None) -> ReferenceStars:
    """Stars of a catalogue file.

    Parameters
    ----------
    path : path-like
        FITS (the first table), ECSV, CSV, Parquet (with pyarrow installed) or npz (one array a column).
    section : mapping
        Section ``reference_catalogue`` of the configuration: ``columns``, ``epoch`` and ``magnitudes``.
    band : str, optional
        Filter of the frame; its magnitudes are those that ``magnitudes`` names for it.
    year : float, optional
        Julian year for which positions are wanted; proper motions are applied where the catalogue has them and its
        epoch is given.

    Raises
    ------
    UserError
        If the file cannot be read or lacks a column.
    NoStars
        If it was to be fetched, and was not.
    """
    columns, photometry = section["columns"], photometry_of(section, band)
    wanted = {name: column for name, column in columns.items() if column}
    wanted |= {name: photometry[name] for name in ("magnitude", "error") if photometry.get(name)}
    wanted |= {f"colour{i}": column for i, column in enumerate(photometry.get("colour") or [])}
    found = _read_columns(Path(path), wanted)
    ra, dec = _degrees(found["ra"], hours=True), _degrees(found["dec"], hours=False)
    unknown = np.full(len(ra), np.nan)
    if "pm_ra" in found and section["epoch"] is not None and year is not None:
        ra, dec = move(ra, dec, found["pm_ra"], found["pm_dec"], year - section["epoch"])
    magnitude = found.get("magnitude", unknown)
    stars = ReferenceStars(
        ra % 360,
        dec,
        found.get("brightness", magnitude),
        magnitude,
        found.get("error", np.zeros(len(ra))),
        found["colour0"] - found["colour1"] if "colour1" in found else unknown,
    )
    return stars[np.isfinite(stars.ra) & np.isfinite(stars.dec)]


def joined(parts: list[ReferenceStars]) -> ReferenceStars:
    """Stars of overlapping fields of one catalogue, each once."""
    if len(parts) == 1:
        return parts[0]
    whole = ReferenceStars(*(np.concatenate([getattr(p, c.name) for p in parts]) for c in fields(ReferenceStars)))
    _, first = np.unique(np.column_stack((whole.ra, whole.dec)), axis=0, return_index=True)
    return whole[np.sort(first)]


def photometry_of(section: Mapping, band: str | None) -> Mapping:
    """Columns that hold the magnitudes of a filter; empty where the catalogue has none for it."""
    return section["magnitudes"].get(band, {}) if band is not None else {}


def move(ra, dec, pm_ra, pm_dec, years: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions (degrees) after `years` of proper motion (mas/yr, that in right ascension times cos dec).

    Unknown proper motions count as none. Good to 1 mas over a century up to 3 degrees from the poles, for all but
    some hundred stars.
    """
    degrees = years / 3.6e6
    moved = dec + np.nan_to_num(pm_dec) * degrees
    return ra + np.nan_to_num(pm_ra) * degrees / np.cos(np.radians(dec)), np.clip(moved, -90, 90)


def _read_columns(path: Path, wanted: dict[str, str]) -> dict[str, np.ndarray]:
    """Columns by our names, as float arrays; text stays text, masked values become NaN."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"reference catalogue '{path}' has an unknown ending; known are {', '.join(_READERS)}")
    if not path.is_file():
        raise UserError(f"reference catalogue '{path}' not found")
    try:
        names, column = reader(path)
    except ImportError as error:
        raise UserError(f"reference catalogue '{path}' needs a package that is not installed: {error.name}") from error
    except NoStars:
        raise
    except Exception as error:  # each format has its own errors for a broken file
        reason = " ".join(str(error).split())
        raise UserError(f"reference catalogue '{path}' cannot be read: {reason}") from error
    lacking = sorted({name for name in wanted.values() if name not in names})
    if lacking:
        raise UserError(f"reference catalogue '{path}' has no column {', '.join(lacking)}; it has {', '.join(names)}")
    return {name: _plain(column(source)) for name, source in wanted.items()}


def _plain(values) -> np.ndarray:
    if np.asarray(values).dtype.kind in "SU":
        return np.asarray(values).astype(str)
    return np.ma.filled(np.ma.asarray(values).astype(np.float64), np.nan)


def _read_fits(path: Path):
    from astropy.io import fits

    with fits.open(path, memmap=False) as hdus:
        told = hdus[0].header
        if told.get("NFSTAT") in (NO_ANSWER, EMPTY):
            raise NoStars(told["NFREASON"], told["NFSTAT"] == EMPTY)
        data = next(hdu.data for hdu in hdus if isinstance(hdu, fits.BinTableHDU))
    return data.names, data.field


def _read_csv(path: Path):
    from astropy.table import Table

    table = Table.read(path, format="ascii.csv", comment="#")
    return table.colnames, table.__getitem__


def _read_ecsv(path: Path):
    from astropy.table import Table

    table = Table.read(path, format="ascii.ecsv")
    return table.colnames, table.__getitem__


def _read_parquet(path: Path):
    from pyarrow import parquet

    table = parquet.read_table(path)
    return table.column_names, lambda name: table[name].to_numpy()


def _read_npz(path: Path):
    with np.load(path) as archive:
        arrays = dict(archive)
    return list(arrays), arrays.__getitem__


_READERS = {
    ".fits": _read_fits,
    ".fit": _read_fits,
    ".ecsv": _read_ecsv,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".npz": _read_npz,
}


def _degrees(values: np.ndarray, hours: bool) -> np.ndarray:
    """Angles in degrees; text is sexagesimal, right ascension in hours."""
    if values.dtype.kind != "U":
        return values
    from astropy.coordinates import Angle

    return Angle(values, unit="hourangle" if hours else "deg").deg
