"""The solve stage of a frame: its place on the sky, its zero point, and its sources in sky coordinates and magnitudes.

It joins `nightflow.astrometry`, `nightflow.photometry` and `nightflow.zero_points` and writes what they found into
tables and headers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from astropy.io import fits

from nightflow import (
    astrometry,
    configuration,
    photometry,
    plate_matching,
    pointing,
    reference_catalogues,
    transfer,
    zero_points,
)
from nightflow.astrometry import NO_ANSWER, NoAnswer, NotSolved, Solution
from nightflow.products import replacing
from nightflow.reference_catalogues import ReferenceStars
from nightflow.zero_points import NoZeroPoint, ZeroPoint

#: Columns of the table of zero points.
COLUMNS = "frame target filter date_obs night airmass wcs_status ra dec pixel_scale wcs_rms wcs_stars".split()
COLUMNS += "zero_point error systematic scatter n colour_term colour_term_error system source".split()
COLUMNS += "aperture aperture_correction sky_rate limiting_rate sky_brightness limiting_magnitude remark".split()


def read_catalogue(paths, section: Mapping, row: Mapping) -> ReferenceStars | NotSolved | None:
    """The reference catalogue for a frame: magnitudes of its filter, positions at its time.

    Parameters
    ----------
    paths : str, list of str or None
        Files; several are fields of one catalogue.
    section : mapping
        Section ``reference_catalogue`` of the configuration.
    row : mapping
        ``mjd_mid`` and ``filter``.

    Returns
    -------
    `~nightflow.reference_catalogues.ReferenceStars`, `~nightflow.astrometry.NotSolved` or None
        The reason where the stars could not be fetched; None without a catalogue.
    """
    mjd = row.get("mjd_mid")
    year = None if mjd is None else 2000 + (mjd - 51544.5) / 365.25
    parts, missing = [], None
    for path in configuration.as_list(paths):
        try:
            parts.append(reference_catalogues.read(path, section, row.get("filter"), year))
        except reference_catalogues.NoStars as error:
            missing = NotSolved(str(error)) if error.answered else NoAnswer(str(error))
    return reference_catalogues.joined(parts) if parts else missing


def middle(rows: Sequence[Mapping], section: Mapping) -> dict:
    """What stands for several frames in `read_catalogue`: the mean of their times, a filter that has magnitudes."""
    times = [row["mjd_mid"] for row in rows if row.get("mjd_mid") is not None]
    bands = [row["filter"] for row in rows if reference_catalogues.photometry_of(section, row.get("filter"))]
    return {"mjd_mid": float(np.mean(times)) if times else None, "filter": bands[0] if bands else None}


def solve_frame(sources, header: fits.Header, row: Mapping, catalogue, sections: Mapping, joint=None):
    """Solve a frame.

    Parameters
    ----------
    sources : `~astropy.table.Table`
        Of the frame; gets the columns ``ra dec`` (degrees), ``rate rate_err`` (total flux per second) and
        ``mag_inst mag mag_err``, NaN where unknown.
    header : `~astropy.io.fits.Header`
        Of the frame; gets the cards of the solution and of the zero point.
    row : mapping
        What frames.tsv says of the frame.
    catalogue : `~nightflow.reference_catalogues.ReferenceStars`, `~nightflow.astrometry.NotSolved` or None
    sections : mapping
        Sections ``astrometry``, ``reference_catalogue`` and ``zero_points`` of the configuration.
    joint : `~astropy.io.fits.Header`, optional
        Engine ``scamp``: see `nightflow.astrometry.solve`.

    Returns
    -------
    solution : `~nightflow.astrometry.Solution`
    values : dict
        Row of the table of zero points.
    """
    solution = astrometry.solve(sources, header, row, catalogue, sections["astrometry"], joint)
    astrometry.set_wcs(header, astrometry.wcs_cards(solution))
    zero_point, remark = None, ""
    try:
        zero_point = _zero_point(sources, header, row, catalogue, solution, sections)
        _set_zero_point(header, zero_point, _system(sections["reference_catalogue"], row.get("filter")))
    except NoZeroPoint as reason:
        remark = f"no zero point: {reason}"
    _add_columns(sources, header, solution, zero_point)
    values = {
        **_row_of(header, row, solution, zero_point),
        **_depth(header, zero_point, _pixel_scale(solution, header, row, sections["astrometry"])),
        "remark": "; ".join(filter(None, (solution.reason, remark))),
    }
    return solution, values


def _zero_point(sources, header, row, catalogue, solution: Solution, sections) -> ZeroPoint:
    if solution.plate is None:
        raise NoZeroPoint("no plate solution")
    if catalogue is None or isinstance(catalogue, NotSolved):
        raise NoZeroPoint("no reference catalogue" if catalogue is None else str(catalogue))
    if not reference_catalogues.photometry_of(sections["reference_catalogue"], row.get("filter")):
        raise NoZeroPoint(f"reference_catalogue.magnitudes has no entry for the filter {row.get('filter')}")
    i, j = _pairs(sources, catalogue, solution, sections["astrometry"]["match_radius"])
    rate, error = photometry.total_rates(sources, header)
    x, y, flux = (np.asarray(sources[name], dtype=float) for name in ("x", "y", "flux"))
    radius = 2 * header.get("APRADIUS", 5.0)
    good = ((np.asarray(sources["flags"]) & photometry.SPOILT) == 0)[i]
    good &= photometry.isolated(x, y, flux, radius, 0.02)[i]
    i, j = i[good], j[good]
    ny, nx = solution.shape
    return zero_points.fit_zero_point(
        rate[i], error[i], catalogue.magnitude[j], catalogue.error[j], catalogue.colour[j],
        np.column_stack((2 * x[i] / (nx - 1) - 1, 2 * y[i] / (ny - 1) - 1)),
        sections["zero_points"],
    )  # fmt: skip


def _pairs(sources, catalogue: ReferenceStars, solution: Solution, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the sources and of the catalogue's stars that belong together."""
    if len(solution.stars):
        return solution.stars, solution.reference
    stars, rows = astrometry.usable_stars(sources)
    i, j = plate_matching.pairs(solution.plate, stars, catalogue.ra, catalogue.dec, solution.shape, radius)
    return rows[i], j


def _system(section: Mapping, band: str | None) -> str | None:
    return reference_catalogues.photometry_of(section, band).get("system", section["system"])


def _set_zero_point(header: fits.Header, zero_point: ZeroPoint, system: str | None) -> None:
    header["MAGZP"] = (zero_point.value, "[mag] of 1 electron/s, total flux")
    header["MAGZPERR"] = (zero_point.error, "[mag] standard error of MAGZP")
    header["MAGZPSYS"] = (zero_point.systematic, "[mag] part of it common to all frames")
    header["MAGZPSCA"] = (zero_point.scatter, "[mag] scatter beyond the stated errors")
    header["MAGZPN"] = (zero_point.n, "stars that MAGZP was measured on")
    header["MAGZPSRC"] = ("catalogue", "what MAGZP rests on")
    header["MAGSYS"] = (system or "unknown", "magnitude system of the catalogue")
    if np.isfinite(zero_point.colour_term):
        header["COLTERM"] = (zero_point.colour_term, "mag = MAGZP - 2.5 log10(f) - COLTERM * colour")
    if any(zero_point.slope):
        for card, value in zip(("MAGZPDX", "MAGZPDY"), zero_point.slope, strict=True):
            header[card] = (value, "[mag] change of MAGZP from the middle to the edge")


def _add_columns(sources, header: fits.Header, solution: Solution, zero_point: ZeroPoint | None) -> None:
    unknown = np.full(len(sources), np.nan)
    x, y = (np.asarray(sources[name], dtype=float) for name in ("x", "y"))
    ra, dec = solution.plate.to_sky(x, y) if solution.plate is not None else (unknown, unknown)
    rate, error = photometry.total_rates(sources, header)
    with np.errstate(divide="ignore", invalid="ignore"):
        instrumental = np.where(rate > 0, -2.5 * np.log10(rate), np.nan)
        mag_err = np.where(rate > 0, 2.5 / np.log(10) * error / rate, np.nan)
    unit = f"{header.get('BUNIT', 'electron')} / s"
    value = np.nan if zero_point is None else zero_point.value
    columns = {
        "ra": (ra, "deg"), "dec": (dec, "deg"), "rate": (rate, unit), "rate_err": (error, unit),
        "mag_inst": (instrumental, "mag"), "mag": (instrumental + value, "mag"), "mag_err": (mag_err, "mag"),
    }  # fmt: skip
    for name, (values, column_unit) in columns.items():
        sources[name] = values
        sources[name].unit = column_unit


def _row_of(header: fits.Header, row: Mapping, solution: Solution, zero_point: ZeroPoint | None) -> dict:
    values = {name: row.get(name) for name in ("frame", "target", "filter", "date_obs", "night", "airmass")}
    values |= {"wcs_status": solution.status, "wcs_rms": solution.rms, "wcs_stars": len(solution.stars)}
    values |= {"aperture": header.get("APRADIUS"), "aperture_correction": header.get("APCOR")}
    if solution.plate is not None:
        ny, nx = solution.shape
        ra, dec = solution.plate.to_sky((nx - 1) / 2, (ny - 1) / 2)
        values |= {"ra": float(ra[0]), "dec": float(dec[0]), "pixel_scale": solution.plate.pixel_scale}
    if zero_point is not None:
        values |= {
            "zero_point": zero_point.value, "error": zero_point.error, "systematic": zero_point.systematic,
            "scatter": zero_point.scatter, "n": zero_point.n, "colour_term": zero_point.colour_term,
            "colour_term_error": zero_point.colour_term_error, "system": header["MAGSYS"], "source": header["MAGZPSRC"],
        }  # fmt: skip
    return values


def _depth(header: fits.Header, zero_point: ZeroPoint | None, scale: float | None) -> dict:
    """Brightness of the sky and of the faintest stars as fluxes and, with a zero point, as magnitudes, in cards too."""
    exptime, sky, noise = (header.get(card) for card in ("EXPTIME", "SKYMED", "SKYNOISE"))
    if not exptime or sky is None or noise is None:
        return {}
    aperture = header.get("APRADIUS", np.nan), header.get("APCOR", 1.0)
    found = {"limiting_rate": zero_points.limiting_rate(noise, *aperture, exptime)}
    if scale:
        found["sky_rate"] = zero_points.sky_rate(sky, exptime, scale)
    if zero_point is None:
        return found
    cards = {
        "sky_brightness": ("sky_rate", "SKYMAG", "[mag/arcsec2] brightness of the sky"),
        "limiting_magnitude": ("limiting_rate", "MAGLIM", "[mag] 5 sigma in the main aperture"),
    }
    for name, (rate, card, comment) in cards.items():
        found[name] = zero_points.magnitude_of(zero_point.value, found.get(rate, np.nan))
        if np.isfinite(found[name]):
            header[card] = (found[name], comment)
    return found


def _pixel_scale(solution: Solution, header: fits.Header, row: Mapping, options: Mapping) -> float | None:
    """Arcsec, from the solution or else from what header and configuration say."""
    if solution.plate is not None:
        return solution.plate.pixel_scale
    scale = pointing.pointing_of(header, row, options).scale
    return None if scale is None else float(np.sqrt(scale[0] * scale[1]))


def say_how_to_try_again(values: dict, product: str) -> None:
    """Add to the remark of a frame without an answer the command that asks once more, for `product`."""
    if values["wcs_status"] == NO_ANSWER and "--forcerun" not in values["remark"]:
        values["remark"] += f"; {again(product)}"


def again(product: str) -> str:
    """The command that makes a product once more."""
    return f"to try again: snakemake --forcerun {product}, with the options of this run"


def write_zero_points(path: str | os.PathLike, rows: list[dict]) -> None:
    """Write rows of the table of zero points as tab-separated text; a value that is unknown is an empty cell."""
    with replacing(path) as scratch, open(scratch, "w", encoding="utf-8") as file:
        for cells in (COLUMNS, *([_cell(row.get(name)) for name in COLUMNS] for row in rows)):
            file.write("\t".join(cells) + "\n")


def _cell(value) -> str:
    if value is None or value != value:  # NaN
        return ""
    return f"{value:.9g}" if isinstance(value, float) else " ".join(str(value).split())


def read_zero_points(path: str | os.PathLike) -> list[dict]:
    """Rows that `write_zero_points` wrote, all as text."""
    import csv

    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def zero_point_of(path: str | os.PathLike | None, night: Mapping | None = None) -> float:
    """Zero point of a frame from its table, or else from its night's (`nightflow.transfer`); NaN without either."""
    rows = [transfer.completed(row, night) for row in read_zero_points(path)] if path else []
    return float(rows[0]["zero_point"]) if rows and rows[0]["zero_point"] else np.nan


def adapt_zero_point(header: fits.Header, method: str, flux_scales, exptime: float | None) -> None:
    """Make the reference frame's zero point that of a stack.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        Of the stack, with the reference frame's MAGZP and with the stack's EXPTIME.
    method : str
        ``stack.method``. Means are on the scale of the reference frame, and its zero point holds. A sum is on that of
        the frames themselves, which may have been dimmer. The least or greatest of several values has no zero point,
        nor has a mean whose weights change from pixel to pixel with the picture (``entropy``).
    flux_scales : sequence of float
        Factors that bring the frames to the reference's scale.
    exptime : float or None
        Of the reference frame, s.
    """
    if "MAGZP" not in header:
        return
    if method in ("min", "max", "maximum", "entropy"):
        for card in [card for card in header if card.startswith("MAGZP")]:
            header.remove(card)
    elif method == "sum" and exptime and header.get("EXPTIME"):
        rate = np.sum(1 / np.asarray(flux_scales, dtype=float)) * exptime / header["EXPTIME"]
        header["MAGZP"] += float(2.5 * np.log10(rate))


#: Cards that a stack takes over from the reference frame, besides the WCS.
_STACK_CARDS = "WCSSTAT WCSRMS WCSNREF WCSREASN MAGZP MAGZPERR MAGZPSYS MAGZPSCA MAGZPN MAGZPSRC MAGSYS COLTERM".split()


def stack_cards(path: str | os.PathLike, night: Mapping | None = None) -> fits.Header:
    """Cards of a solved frame that hold for a stack on its grid and flux scale; without a zero point the night's."""
    header = fits.getheader(path, 0)
    if night is not None and "MAGZP" not in header:
        _set_transferred(header, night)
    wcs = astrometry.wcs_of(header)
    for card in _STACK_CARDS:
        if card in header:
            wcs[card] = (header[card], header.comments[card])
    return wcs


def _set_transferred(header: fits.Header, night: Mapping) -> None:
    try:
        value, error, systematic = transfer.zero_point_at(night, header.get("AIRMASS"))
    except NoZeroPoint:
        return
    colour_term = float(night["colour_term"] or np.nan)
    zero_point = ZeroPoint(value, error, systematic, float(night["scatter"]), int(night["n"]), colour_term)
    _set_zero_point(header, zero_point, night["system"])
    header["MAGZPSRC"] = (transfer.SOURCE, f"standard stars of the night {night['night']}")
