"""Catalogues of stacks: what is there, where, how bright, and how sure that is."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Mapping

import numpy as np
from astropy.io import fits

from nightflow import packages, photometry, sky, sources
from nightflow.labelling import connected_regions
from nightflow.medians import median_of_many
from nightflow.products import UNUSABLE, Columns, Image, MaskBit, RejectedFrame
from nightflow.sources import FWHM_OF_SIGMA

_TYPICAL_FWHM = 3.0  # px, where no star tells
_NEIGHBOUR = 0.1  # of a source's flux, from which another within two FWHM makes it blended
_MAGNITUDE = 2.5 / np.log(10)


def make(image: Image, options: Mapping, sections: Mapping) -> Columns:
    """Catalogue of a stack.

    Parameters
    ----------
    image : `~nightflow.products.Image`
        Stack. Its header gets FWHM and ELLIPT of the stars, and the cards of the apertures.
    options : mapping
        Section ``catalogue`` of the configuration.
    sections : mapping
        Sections ``photometry``, ``sources`` and ``sky``.

    Returns
    -------
    `~nightflow.products.Columns`
        Brightest first; without any source it has all columns and no row.
    """
    image = without_sky(image, sections)
    stars = sources.find_sources(image, sections["photometry"])
    fwhm, ellipticity, number = sources.seeing(stars)
    if np.isfinite(fwhm):
        image.header["FWHM"] = (float(fwhm), "[pix] median of the stars")
        image.header["ELLIPT"] = (float(ellipticity), "median ellipticity of the stars")
    image.header["NSTARS"] = (int(number), "stars that FWHM was measured on")
    fwhm = fwhm if np.isfinite(fwhm) else _TYPICAL_FWHM
    x, y, kron = ENGINES[options["engine"]](image, fwhm, options)
    table, found = _measured(image, x, y, fwhm, sections["photometry"], options)
    for name, values in kron.items():
        table[name] = values[found]
    photometry.measure_apertures(image, table, sections["photometry"])
    if "aperture_flux" not in table.colnames:
        radii = {sections["photometry"]["aperture"], *sections["photometry"]["apertures"]}
        for name in ("aperture_flux", "aperture_flux_err"):
            table[name] = np.full((len(table), len(radii)), np.nan)
    if options["psf"]:
        _add_psf(image, table, fwhm)
    _correlate(table, image, image.header.get("APRADIUS") or sources.flux_radius(sections["photometry"], fwhm))
    return calibrated(table, image.header)


def without_sky(image: Image, sections: Mapping) -> Image:
    """The stack without what is left of the sky: what was no source on the frames may be one now."""
    hidden = sources.source_mask(image.data, image.mask & int(UNUSABLE), sections["sources"])
    mask = (image.mask & int(UNUSABLE)) | np.where(hidden, int(MaskBit.SOURCE), 0).astype(np.uint16)
    if (mask == 0).mean() < 0.02:
        return image
    background, _ = sky.sky_model(image.data, mask, sections["sky"])
    data = np.subtract(image.data, background, dtype=np.float32)
    return Image(data, image.mask, image.uncertainty, image.header)


def _find_segments(image: Image, fwhm: float, options: Mapping):
    """Engine ``segmentation``: connected pixels above the threshold, deblended; with Kron photometry."""
    from scipy.ndimage import gaussian_filter

    from nightflow import deblending, kron

    bad = _unusable(image)
    data, noise = (np.where(bad, np.float32(0), plane) for plane in (image.data, image.uncertainty))
    sigma = max(fwhm, 1.5) / FWHM_OF_SIGMA
    smooth = gaussian_filter(data, sigma, truncate=3)
    limit = noise * (options["threshold"] * _noise_left(smooth, noise, bad, sigma))
    labels = _segments(~bad & (smooth > limit), options["npixels"])
    if options["deblend"]:
        # in an image sharper than that in which faint sources are found
        sharp = gaussian_filter(data, 0.5 * sigma, truncate=3)
        shape = options["npixels"], options["deblend_levels"], options["deblend_contrast"]
        labels = deblending.deblend(sharp, labels, *shape)
    y, x, flux, area = _brightest_pixels(data, labels)
    columns = {**kron.measure(data, noise, smooth, labels, options["kron_factor"]), "area": area}
    order = np.argsort(-flux, kind="stable")
    return x[order], y[order], {name: values[order] for name, values in columns.items()}


def _segments(above: np.ndarray, npixels: int) -> np.ndarray:
    """Labels, from 1 on, of the regions of at least `npixels` pixels that touch each other."""
    at, region, count = connected_regions(above)
    large = np.bincount(region, minlength=count + 1) >= npixels
    labels = np.zeros(above.shape, np.int32)
    labels.ravel()[at] = (np.cumsum(large) * large)[region]
    return labels


def _brightest_pixels(data: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Row and column of the brightest pixel of each segment, the light of all its pixels, and their number.

    The centre of gravity of a star with a neighbour in its wings is off.
    """
    place = np.flatnonzero(labels > 0)
    segment, light = labels.ravel()[place] - 1, data.ravel()[place]
    area = np.bincount(segment)
    peak = np.full(area.size, -np.inf, light.dtype)
    np.maximum.at(peak, segment, light)
    highest = np.flatnonzero(light == peak[segment])[::-1]  # of equal ones the first stays
    brightest = np.empty(area.size, place.dtype)
    brightest[segment[highest]] = place[highest]
    y, x = np.divmod(brightest.astype(float), labels.shape[1])
    return y, x, np.bincount(segment, light), area.astype(float)


def _noise_left(smooth: np.ndarray, noise: np.ndarray, bad: np.ndarray, sigma: float) -> float:
    """Noise of the smoothed stack over that of a pixel: of independent ones, scaled to what the fainter half shows."""
    white = 1 / (2 * math.sqrt(math.pi) * sigma)
    sample = np.flatnonzero(~bad)[::7]
    if not sample.size:
        return white
    ratio = smooth.ravel()[sample] / (white * noise.ravel()[sample])
    median = median_of_many(ratio)
    below = median - ratio[ratio < median]
    return white * max(1.0, float(1.4826 * median_of_many(below))) if below.size else white


def _find_peaks(image: Image, fwhm: float, options: Mapping):
    """Engine ``daofind``: peaks of the image filtered with a star (Stetson 1987, PASP 99, 191)."""
    from astropy.utils.exceptions import AstropyWarning

    with packages.quick_photutils():
        from photutils.detection import DAOStarFinder

    bad = _unusable(image)
    data = np.where(bad, np.float32(0), image.data)
    if bad.all():
        return np.zeros(0), np.zeros(0), {}
    noise = float(np.median(image.uncertainty[~bad]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)  # nothing was found
        found = DAOStarFinder(threshold=options["threshold"] * noise, fwhm=fwhm)(data, mask=bad)
    if found is None:
        return np.zeros(0), np.zeros(0), {}
    order = np.argsort(-np.asarray(found["flux"]), kind="stable")
    return np.asarray(found["x_centroid"])[order], np.asarray(found["y_centroid"])[order], {}


def _find_stars(image: Image, fwhm: float, options: Mapping):
    """Engine ``peaks``: the finder of the single frames, for stars on crowded or nebulous ground."""
    found = sources.detect_sources(image, {"detection_threshold": options["threshold"]})
    return tuple(np.asarray(found[name].value, dtype=float) for name in ("x", "y")) + ({},)


ENGINES = {"segmentation": _find_segments, "daofind": _find_peaks, "peaks": _find_stars}


def _unusable(image: Image) -> np.ndarray:
    return ((image.mask & int(UNUSABLE)) != 0) | ~np.isfinite(image.data) | ~np.isfinite(image.uncertainty)


def _measured(image: Image, x, y, fwhm: float, photometry_options: Mapping, options: Mapping):
    """Positions, shapes and flags of what was found, and each row's number among the detections."""
    x, y = (np.asarray(c[: options["max_sources"]], dtype=float) for c in (x, y))
    columns = sources.measure_at(image, x, y, fwhm, photometry_options)
    lost = ~(columns["moved"] < max(fwhm / 2, 1.5))
    columns["x"], columns["y"] = np.where(lost, x, columns["x"]), np.where(lost, y, columns["y"])
    # a peak of noise among many is high, its aperture is not
    real = np.flatnonzero(columns["snr"] >= options["threshold"])
    order = real[np.argsort(-columns["flux"][real], kind="stable")]
    names = ("x", "y", "fwhm", "ellipticity", "theta", "flux", "flux_err", "peak", "snr", "flags")
    table = Columns({"id": np.arange(1, len(order) + 1, dtype=np.int32)} | {n: columns[n][order] for n in names})
    flux = np.nan_to_num(np.asarray(table["flux"], dtype=float))
    table["blended"] = ~photometry.isolated(table["x"], table["y"], flux, 2 * fwhm, _NEIGHBOUR)
    return table, order


def _add_psf(image: Image, table, fwhm: float) -> None:
    from nightflow import psf_photometry

    try:
        fluxes = psf_photometry.measure(image, table, fwhm)
    except RejectedFrame as verdict:
        logging.warning("no PSF photometry: %s", verdict.reason)
        fluxes = {name: np.full(len(table), np.nan) for name in psf_photometry.COLUMNS}
    for name, values in fluxes.items():
        table[name] = values


def _correlate(table, image: Image, radius: float) -> None:
    """Put the correlation of the noise into the errors; `radius` is that of the aperture of ``flux_err``.

    The factor is that of sky, NOISECOR, for a source whose error is the sky's, and nears that of noise which frames do
    not share, NOISEOWN, as the photons of the source make up its error: the masters' noise, of which NOISECOR has the
    common part, does not grow with them.
    """
    of_sky = image.header.get("NOISECOR", 1.0)
    of_light = image.header.get("NOISEOWN", of_sky)
    sky = np.pi * radius**2 * median_of_many(image.uncertainty[~_unusable(image)]) ** 2 if len(table) else 1.0
    share = np.fmin(sky / np.asarray(table["flux_err"], dtype=float) ** 2, 1.0)
    factor = np.sqrt(of_light**2 + (of_sky**2 - of_light**2) * share)
    for name in [name for name in table.colnames if name.endswith("flux_err")]:
        errors = np.asarray(table[name], dtype=float)
        table[name] = errors * factor.reshape(-1, *(1,) * (errors.ndim - 1))
    table["snr"] = np.asarray(table["snr"], dtype=float) / factor


def calibrated(table: Columns, header: fits.Header) -> Columns:
    """The table in electrons per second and magnitudes, with sky coordinates, units on every column.

    Parameters
    ----------
    table : `~nightflow.products.Columns`
        Fluxes in the unit of the stack.
    header : `~astropy.io.fits.Header`
        Of the stack: EXPTIME, BUNIT, MAGZP and the WCS where they are known.
    """
    from nightflow.pointing import celestial_wcs

    exptime = header.get("EXPTIME") or np.nan
    rate, error = photometry.total_rates(table, header)
    wcs = celestial_wcs(header)
    x, y = (np.asarray(table[name], dtype=float) for name in ("x", "y"))
    unknown = np.full(len(table), np.nan)
    ra, dec = (unknown, unknown) if wcs is None or not len(table) else wcs.all_pix2world(x, y, 0)
    fluxes = [name for name in table.colnames if name.endswith(("flux", "flux_err"))]
    columns = {"id": table["id"], "x": x, "y": y, "ra": ra, "dec": dec}
    columns |= {name: table[name] for name in table.colnames if name not in (*columns, *fluxes)}
    columns |= {"rate": rate, "rate_err": error}
    columns |= {n.replace("_flux", "_rate"): table[n] / exptime for n in fluxes if n not in ("flux", "flux_err")}
    for prefix in ("", "kron_", "psf_"):
        if f"{prefix}rate" in columns:
            columns |= _magnitudes(columns, prefix, header.get("MAGZP", np.nan))
    return Columns(columns, _units(columns, header.get("BUNIT", "electron")))


def _units(names: Iterable[str], unit: str) -> dict[str, str]:
    """Units of the columns that have one, of a stack in this unit."""
    units = {"x": "pix", "y": "pix", "ra": "deg", "dec": "deg", "fwhm": "pix", "theta": "rad", "peak": unit}
    units["area"] = "pix2"
    for name in names:
        if name.endswith(("rate", "rate_err")):
            units[name] = f"{unit} / s"
        elif "mag" in name:
            units[name] = "mag"
    return units


def _magnitudes(columns: Mapping, prefix: str, zero_point: float) -> dict:
    rate, error = (columns[f"{prefix}{name}"] for name in ("rate", "rate_err"))
    with np.errstate(divide="ignore", invalid="ignore"):
        instrumental = np.where(rate > 0, -2.5 * np.log10(rate), np.nan)
        magnitudes = {"mag_inst": instrumental, "mag": instrumental + zero_point}
        magnitudes["mag_err"] = np.where(rate > 0, _MAGNITUDE * error / rate, np.nan)
    return {prefix + name: values for name, values in magnitudes.items()}
