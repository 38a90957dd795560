"""Reference catalogues from VizieR: fetched once for a field of the sky, and kept as a table among the results.

Gaia DR3, APASS, Pan-STARRS and Tycho-2 are known with their columns; any other table of VizieR can be named, with its
columns in the configuration as for a file.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nightflow import pointing
from nightflow.reference_catalogues import EMPTY, NO_ANSWER
from nightflow.steps import UserError

if TYPE_CHECKING:
    from nightflow.frames import Frame

MOST_ROWS = 1_000_000
_USUAL_HALF = 0.5  # degrees; half the diagonal of a frame of unknown scale
_PAUSE = 5.0  # s before the second attempt, twice that before the third, ...


def _bands(names: str, colours: Mapping[str, str], system: str, form="{}mag") -> dict:
    """Entries of ``reference_catalogue.magnitudes``; `colours` has two bands for each."""
    entries = {}
    for name in names.split():
        blue, red = (form.format(band) for band in colours[name].split("-"))
        own = form.format(name)
        entries[name] = {"magnitude": own, "error": f"e_{own}", "colour": [blue, red], "system": system}
    return entries


#: Tables of VizieR with what ``reference_catalogue`` needs to know of them.
KNOWN = {
    "gaia_dr3": {
        "table": "I/355/gaiadr3",
        "columns": {"ra": "RA_ICRS", "dec": "DE_ICRS", "pm_ra": "pmRA", "pm_dec": "pmDE", "brightness": "Gmag"},
        "epoch": 2016.0,
        "magnitudes": _bands("G BP RP", dict.fromkeys(("G", "BP", "RP"), "BP-RP"), "Vega"),
        "faintest": 16.0,
    },
    "apass_dr9": {
        "table": "II/336/apass9",
        "columns": {"ra": "RAJ2000", "dec": "DEJ2000", "pm_ra": None, "pm_dec": None, "brightness": "Vmag"},
        "epoch": None,
        "magnitudes": _bands("B V", {"B": "B-V", "V": "B-V"}, "Vega")
        | _bands("g r i", {"g": "g-r", "r": "g-r", "i": "r-i"}, "AB", "{}'mag"),
        "faintest": None,
    },
    "panstarrs_dr1": {
        "table": "II/349/ps1",
        "columns": {"ra": "RAJ2000", "dec": "DEJ2000", "pm_ra": None, "pm_dec": None, "brightness": "rmag"},
        "epoch": None,
        "magnitudes": _bands("g r i z y", {"g": "g-r", "r": "g-r", "i": "r-i", "z": "i-z", "y": "i-z"}, "AB"),
        "faintest": 17.0,
    },
    "tycho2": {
        "table": "I/259/tyc2",
        "columns": {"ra": "RAmdeg", "dec": "DEmdeg", "pm_ra": "pmRA", "pm_dec": "pmDE", "brightness": "VTmag"},
        "epoch": 2000.0,
        "magnitudes": _bands("BT VT", {"BT": "BT-VT", "VT": "BT-VT"}, "Vega"),
        "faintest": None,
    },
}


class NoService(Exception):
    """VizieR could not be reached or gave no table; the message says which server and what happened."""


@dataclass(frozen=True)
class Field:
    """A circle on the sky, in degrees."""

    ra: float
    dec: float
    radius: float

    @property
    def name(self) -> str:
        return f"{self.ra:06.2f}{self.dec:+06.2f}r{self.radius:.2f}"

    def path(self, online: str) -> str:
        """Where the field of a catalogue lies among the fetched ones."""
        return f"{re.sub('[^A-Za-z0-9.-]', '_', online)}/{self.name}.fits"

    @classmethod
    def named(cls, name: str) -> Field:
        """The field with a `name`."""
        place, radius = name.split("r")
        sign = max(place.find("+"), place.find("-"))
        return cls(float(place[:sign]), float(place[sign:]), float(radius))


def field_around(ra: float, dec: float, reach: float) -> Field:
    """The field that holds all within `reach` of a pointing (degrees).

    Fields lie on a grid, so that neighbouring pointings share one and a new frame changes none.
    """
    step = reach / 2
    dec0 = float(np.clip(round(dec / step) * step, -90, 90))
    columns = max(int(360 * np.cos(np.radians(dec0)) / step), 1)
    ra0 = round(ra % 360 / 360 * columns) % columns * 360 / columns
    return Field(round(ra0, 2), round(dec0, 2), float(np.ceil(100 * (reach + 0.75 * step)) / 100))


def fields_of(lights: Mapping[str, Frame], config: Mapping) -> dict[str, Field]:
    """The field of each light whose pointing is known, by frame id.

    Parameters
    ----------
    lights : mapping of str to `~nightflow.frames.Frame`
    config : mapping
        The whole configuration. The reach of a field is ``reference_catalogue.radius``, or half a frame's diagonal and
        ``astrometry.search_radius``; what pixels a camera has is read in the header of its first light.
    """
    reaches, fields = {}, {}
    for name, light in sorted(lights.items(), key=lambda item: (item[1].mjd_mid or 0, item[0])):
        camera = (light.instrument, light.chip, light.binning, light.shape)
        hints = pointing.pointing_of({}, {"ra": light.ra, "dec": light.dec}, config["astrometry"])
        if hints.ra is None or hints.dec is None:
            continue
        if camera not in reaches:
            reaches[camera] = config["reference_catalogue"]["radius"] or _reach(light, config["astrometry"])
        fields[name] = field_around(hints.ra, hints.dec, reaches[camera])
    return fields


def _reach(light: Frame, options: Mapping) -> float:
    """Degrees from a pointing to the farthest star that may be on the frame; a tenth more or less does not matter."""
    from nightflow.products import RejectedFrame
    from nightflow.rawfiles import RawFile

    try:
        scale = pointing.pointing_of(RawFile(light.path, light.hdu).header, {}, options).scale
    except (OSError, RejectedFrame):
        scale = None
    nx, ny = (int(side) for side in light.shape.split("x"))
    half = np.hypot(nx * scale[0], ny * scale[1]) / 7200 if scale else _USUAL_HALF
    return float(np.ceil(10 * (half + options["search_radius"])) / 10)


def resolved(section: Mapping) -> dict:
    """Section ``reference_catalogue`` with what is known of the table that its ``online`` names.

    The user's own magnitudes go before; columns and epoch are those of the table.
    """
    known = KNOWN.get(section.get("online"))
    if known is None:
        return dict(section)
    faintest = known["faintest"] if section["faintest"] is None else section["faintest"]
    magnitudes = {**known["magnitudes"], **section["magnitudes"]}
    return {**section, **{k: known[k] for k in ("columns", "epoch")}, "magnitudes": magnitudes, "faintest": faintest}


def query_of(section: Mapping) -> dict:
    """What is asked of VizieR, whatever the field: table, columns, and the faintest magnitude.

    Parameters
    ----------
    section : mapping
        Section ``reference_catalogue`` of the configuration.
    """
    if section["online"] is None:
        return {}
    whole = resolved(section)
    table = KNOWN.get(section["online"], {"table": section["online"]})["table"]
    names = [column for column in whole["columns"].values() if column]
    for entry in whole["magnitudes"].values():
        names += [entry["magnitude"], entry.get("error"), *(entry.get("colour") or [])]
    brightness = whole["columns"]["brightness"]
    limits = {brightness: f"<{whole['faintest']:g}"} if brightness and whole["faintest"] is not None else {}
    return {"table": table, "columns": sorted({name for name in names if name}), "limits": limits}


def fetch(field: Field, query: Mapping, server: str, *, attempts: int, timeout: float):
    """Stars of a field.

    Parameters
    ----------
    field : `Field`
    query : mapping
        From `query_of`.
    server : str
        Address of VizieR or a mirror of it, as ``https://vizier.cds.unistra.fr``.
    attempts : int
    timeout : float
        s, for each attempt.

    Returns
    -------
    `~astropy.table.Table` or None
        None where the table has nothing in the field.

    Raises
    ------
    NoService
        If no attempt succeeded.
    nightflow.steps.UserError
        If the table lacks a column or has too many stars.
    """
    for attempt in range(1, attempts + 1):
        try:
            table = _ask(field, query, server.rstrip("/"), timeout)
            break
        except NoService as error:
            if attempt == attempts:
                tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
                raise NoService(f"{error}, after {tries}") from error
            time.sleep(_PAUSE * attempt)
    return None if table is None else _checked(table, field, query)


def _ask(field: Field, query: Mapping, server: str, timeout: float):
    """One attempt."""
    import requests
    from astropy.coordinates import SkyCoord
    from astroquery.exceptions import RemoteServiceError, TableParseError
    from astroquery.vizier import VizierClass

    class Server(VizierClass):
        def _server_to_url(self, return_type="votable"):
            return f"{server}/viz-bin/{return_type}"  # astroquery knows https on a bare name only

        def _request(self, *args, **kwargs):
            response = super()._request(*args, **{**kwargs, "cache": False})
            response.raise_for_status()
            return response

    service = Server(
        columns=query["columns"], column_filters=dict(query["limits"]), row_limit=MOST_ROWS, timeout=timeout
    )
    place = SkyCoord(field.ra, field.dec, unit="deg")
    try:
        tables = service.query_region(
            place, radius=f"{field.radius}d", catalog=query["table"], frame="icrs", cache=False
        )
    except requests.RequestException as error:
        raise NoService(f"VizieR at {server} did not answer ({_cause(error)})") from error
    except (TableParseError, RemoteServiceError, ValueError, IndexError) as error:
        raise NoService(f"VizieR at {server} gave an answer that cannot be read") from error
    if tables is None:
        raise NoService(f"VizieR at {server} gave an answer that is no table")
    return tables[0] if len(tables) else None


def _cause(error) -> str:
    import requests

    if isinstance(error, requests.Timeout):
        return "time-out"
    if isinstance(error, requests.HTTPError):
        return f"HTTP {error.response.status_code}"
    return "no connection" if isinstance(error, requests.ConnectionError) else type(error).__name__


def _checked(table, field: Field, query: Mapping):
    """The columns that were asked for, by the names that were asked for."""
    if len(table) >= MOST_ROWS:
        raise UserError(
            f"VizieR's table {query['table']} has {MOST_ROWS} stars or more in the field {field.name}; "
            "lower reference_catalogue.faintest or reference_catalogue.radius"
        )
    plain = {_letters(name): name for name in table.colnames}
    lacking = [name for name in query["columns"] if _letters(name) not in plain]
    if lacking:
        raise UserError(
            f"VizieR's table {query['table']} has no column {', '.join(lacking)}; it gave {', '.join(table.colnames)}"
        )
    table = table[[plain[_letters(name)] for name in query["columns"]]]
    for name in query["columns"]:
        table.rename_column(plain[_letters(name)], name)
    table.meta.clear()
    return table


def _letters(name: str) -> str:
    """A column's name as all versions of services agree on it: g'mag is g_mag to some."""
    return "".join(c if c.isalnum() else "_" for c in name)


def write(path: str | os.PathLike, table, field: Field, query: Mapping, reason: str = "") -> None:
    """Write the stars of a field; where there are none, the table is empty and its header says why.

    Parameters
    ----------
    path : path-like
        Of a FITS file.
    table : `~astropy.table.Table` or None
        From `fetch`; None where it found nothing.
    field : `Field`
    query : mapping
    reason : str
        Why nothing was fetched, in a sentence.
    """
    from astropy.io import fits
    from astropy.table import Table

    from nightflow import products

    header = fits.Header({"NFSOURCE": query["table"], "NFRA": field.ra, "NFDEC": field.dec, "NFRADIUS": field.radius})
    if table is None:
        table = Table({name: np.zeros(0) for name in query["columns"]})
        header["NFSTAT"] = NO_ANSWER if reason else EMPTY
        header["NFREASON"] = reason or f"VizieR has no star of {query['table']} in the field {field.name}"
    plain = Table({name: np.ma.filled(table[name].astype(float), np.nan) for name in table.colnames})
    products.write_table(path, plain, header, "STARS")
