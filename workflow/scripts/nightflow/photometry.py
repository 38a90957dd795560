"""Aperture photometry: fluxes in several apertures, and the correction to the total flux from a curve of growth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from astropy.io import fits

from nightflow.products import UNUSABLE, Image, MaskBit
from nightflow.sources import DETECTION_DEFAULTS, close_pairs, dilate, seeing, stamps

DEFAULTS = {**DETECTION_DEFAULTS, "apertures": [1.0, 2.0, 3.0, 4.0], "sky": "global", "aperture_unit": "fwhm"}
#: Mask bits that make a flux wrong.
SPOILT = int(UNUSABLE | MaskBit.SATURATED | MaskBit.NONLINEAR)
_CHUNK = 1000  # stars whose pixels are held at once
_LEAST_SNR = 50.0  # of the stars of the curve of growth
_MOST_STARS, _ENOUGH_STARS = 200, 5
_ANNULUS = (1.25, 2.0)  # of the local sky around them, in radii of the largest aperture
_REACH = 2.0  # FWHM around sources that count as no sky
# Profile assumed where no star stands alone, and how wrong the correction from it may be.
_MOFFAT_BETA, _ASSUMED_ERROR = 3.5, 0.05


def measure_apertures(image: Image, table, options: Mapping) -> None:
    """Add fluxes in apertures to a source table, and the aperture correction to the frame's header.

    Parameters
    ----------
    image : `~nightflow.products.Image`
        Sky-subtracted pixels. Its header gets APRAD1, APRAD2, ... (radii, px), APRADIUS (that of the main aperture),
        APCOR (factor from the flux in it to the total), APCORERR and APCORN (stars behind it; where none stands alone,
        APCOR is that of a Moffat profile).
    table : `~astropy.table.QTable`
        Sources with ``x y flags snr fwhm``. It gets ``aperture_flux`` and ``aperture_flux_err``, shape (n, apertures).
    options : mapping
        ``aperture`` (the main one) and ``apertures``, radii in FWHM of the frame or, with ``aperture_unit`` ``px``, in
        pixels; the largest counts as total. ``sky``:
        ``global`` takes the image as it is, ``local`` subtracts the level in a ring around each source, where ten
        pixels show it; the column ``local_sky`` then has that.
    """
    options = {**DEFAULTS, **options}
    fwhm, _, stars = seeing(table)
    if not stars:
        return
    factors = sorted({float(options["aperture"]), *map(float, options["apertures"])})
    unit_radius = fwhm if options["aperture_unit"] == "fwhm" else 1.0
    radii = np.array([max(factor * unit_radius, 1.5) for factor in factors])
    main = factors.index(float(options["aperture"]))
    x, y = (np.asarray(getattr(table[name], "value", table[name]), dtype=float) for name in ("x", "y"))
    flux, error = aperture_fluxes(image, x, y, radii)
    unit = getattr(table["flux"], "unit", None) or 1
    lit = near_sources(image.shape, x, y, _REACH * fwhm)
    if options["sky"] == "local":
        level, level_error = local_sky(image, lit, x, y, radii[-1])
        known = np.isfinite(level)
        flux[known] -= np.pi * radii**2 * level[known, None]
        error[known] = np.hypot(error[known], np.pi * radii**2 * level_error[known, None])
        table["local_sky"] = level * unit
    table["aperture_flux"], table["aperture_flux_err"] = flux * unit, error * unit
    chosen = _growth_stars(table, x, y, fwhm, radii[-1])
    correction = aperture_correction(
        image, lit, x[chosen], y[chosen], flux[chosen, main], error[chosen, main], radii[-1]
    )
    header = image.header
    for number, radius in enumerate(radii, start=1):
        header[f"APRAD{number}"] = (float(radius), f"[pix] radius of aperture {number}")
    header["APRADIUS"] = (float(radii[main]), "[pix] radius of the main aperture")
    if not correction[2]:
        ratio = enclosed(radii[-1] / fwhm, _MOFFAT_BETA) / enclosed(radii[main] / fwhm, _MOFFAT_BETA)
        correction = ratio, _ASSUMED_ERROR, 0
    header["APCOR"] = (correction[0], "total flux / flux in the main aperture")
    header["APCORERR"] = (correction[1], "standard error of APCOR")
    header["APCORN"] = (correction[2], "stars that APCOR was measured on")


def enclosed(radius, beta: float):
    """Share of a Moffat profile's light within a radius in FWHM.

    References
    ----------
    Moffat (1969), A&A 3, 455.
    """
    return 1 - (1 + (2 * radius) ** 2 * (2 ** (1 / beta) - 1)) ** (1 - beta)


def aperture_fluxes(image: Image, x, y, radii) -> tuple[np.ndarray, np.ndarray]:
    """Sums of pixels in circular apertures, and their errors.

    Parameters
    ----------
    image : `~nightflow.products.Image`
    x, y : ndarray, shape (n,)
        Centres, 0-based px.
    radii : ndarray, shape (k,)
        px.

    Returns
    -------
    flux, error : ndarray, shape (n, k)
        In the unit of the image. Unusable pixels count as zero; the mask flags of a source tell.
    """
    bad = ((image.mask & int(UNUSABLE)) != 0) | ~np.isfinite(image.data) | ~np.isfinite(image.uncertainty)
    light, noise = (np.where(bad, np.float32(0), plane) for plane in (image.data, image.uncertainty))
    half = int(np.ceil(max(radii) + 1))
    flux, error = np.zeros((len(x), len(radii))), np.zeros((len(x), len(radii)))
    for start in range(0, len(x), _CHUNK):
        part = slice(start, start + _CHUNK)
        distance = _distances(x[part], y[part], half)
        values, squares = stamps(light, x[part], y[part], half), stamps(noise, x[part], y[part], half) ** 2
        for k, radius in enumerate(radii):
            weight = _overlap(distance, radius)
            flux[part, k] = (weight * values).sum(axis=(1, 2))
            error[part, k] = np.sqrt((weight**2 * squares).sum(axis=(1, 2)))
    return flux, error


def _distances(x, y, half: int) -> np.ndarray:
    offset = np.arange(-half, half + 1)
    dx, dy = (np.rint(c) - c for c in (x, y))
    return np.sqrt((dy[:, None] + offset)[:, :, None] ** 2 + (dx[:, None] + offset)[:, None, :] ** 2)


def _overlap(distance, radius: float) -> np.ndarray:
    """Share of a pixel inside a circle, taken as linear across its edge; the sum over pixels is right to 0.1 %."""
    return np.clip(radius + 0.5 - distance, 0, 1)


def _growth_stars(table, x, y, fwhm: float, reach: float) -> np.ndarray:
    """Rows of bright, whole, star-like sources without a neighbour of note, if there are any."""
    width = np.asarray(getattr(table["fwhm"], "value", table["fwhm"]), dtype=float)
    good = (np.asarray(table["flags"]) & SPOILT) == 0
    good &= (np.asarray(table["snr"]) > _LEAST_SNR) & (np.abs(width / fwhm - 1) < 0.25)
    flux = np.asarray(getattr(table["flux"], "value", table["flux"]), dtype=float)
    for share in (0.005, 0.02, 0.1):
        alone = good & isolated(x, y, flux, reach + 1.5 * fwhm, share)
        if alone.sum() >= _ENOUGH_STARS:
            break
    return np.flatnonzero(alone)[:_MOST_STARS]


def isolated(x, y, flux, radius: float, share: float) -> np.ndarray:
    """True for each source without another within `radius` that has more than `share` of its flux."""
    alone = np.ones(len(x), dtype=bool)
    if len(x) > 1:
        i, j = close_pairs(x, y, radius)
        alone[i[flux[j] > share * flux[i]]] = False
        alone[j[flux[i] > share * flux[j]]] = False
    return alone


def near_sources(shape, x, y, radius: float) -> np.ndarray:
    """Pixels within `radius` of a source, which show no sky.

    Returns
    -------
    lit : ndarray of bool, shape (ny, nx)
    """
    lit = np.zeros(shape, dtype=bool)
    rows, columns = (np.clip(np.rint(c).astype(int), 0, n - 1) for c, n in zip((y, x), shape, strict=True))
    lit[rows, columns] = True
    return dilate(lit, radius)


def aperture_correction(image: Image, lit, x, y, flux, error, radius: float) -> tuple[float, float, int]:
    """Ratio of the total flux, within `radius` above the local sky, to the flux in the main aperture.

    Parameters
    ----------
    image : `~nightflow.products.Image`
    lit : ndarray of bool, shape (ny, nx)
        Pixels that show no sky.
    x, y, flux, error : ndarray, shape (n,)
        Stars without neighbours, their fluxes in the main aperture and the errors of these.
    radius : float
        Of the largest aperture, px.

    Returns
    -------
    ratio, error : float
        Weighted mean of the stars without outliers, and its standard error; 1 and NaN without a star.
    n : int
        Stars used.
    """
    ratio, sigma = [], []
    for start in range(0, len(x), 50):
        part = slice(start, start + 50)
        total, total_error = _total_flux(image, lit, x[part], y[part], radius)
        ratio.append(total / flux[part])
        # the pixels of the small aperture are in both sums
        sigma.append(np.sqrt(np.maximum(total_error**2 - error[part] ** 2, 0.0)) / flux[part])
    ratio, sigma = (np.concatenate(values) if values else np.zeros(0) for values in (ratio, sigma))
    good = np.isfinite(ratio) & np.isfinite(sigma) & (sigma > 0)
    ratio, sigma = ratio[good], np.hypot(sigma[good], 0.001)
    for _ in range(10):
        if not len(ratio):
            return 1.0, np.nan, 0
        spread = max(1.0, 1.4826 * float(np.median(np.abs(ratio - np.median(ratio)) / sigma)))
        kept = np.abs(ratio - np.median(ratio)) <= 3 * spread * sigma
        if kept.all():
            break
        ratio, sigma = ratio[kept], sigma[kept]
    weight = 1 / sigma**2
    return float((weight * ratio).sum() / weight.sum()), float(spread / np.sqrt(weight.sum())), len(ratio)


def _total_flux(image: Image, lit, x, y, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Flux within `radius` above the sky in a ring around it, if there is some; NaN where pixels are unusable."""
    flux, error = (values[:, 0] for values in aperture_fluxes(image, x, y, np.array([radius])))
    level, level_error = (np.nan_to_num(values) for values in local_sky(image, lit, x, y, radius))
    area = np.pi * radius**2
    half = int(np.ceil(radius + 1))
    spoilt = stamps((image.mask & SPOILT) != 0, x, y, half, fill=True) & (_overlap(_distances(x, y, half), radius) > 0)
    return np.where(spoilt.any(axis=(1, 2)), np.nan, flux - level * area), np.hypot(error, area * level_error)


def local_sky(image: Image, lit, x, y, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Level of the sky in a ring around each source.

    Parameters
    ----------
    image : `~nightflow.products.Image`
    lit : ndarray of bool, shape (ny, nx)
        Pixels that show no sky.
    x, y : ndarray, shape (n,)
    radius : float
        Of the largest aperture, px; the ring reaches from 1.25 to 2 times that.

    Returns
    -------
    level, error : ndarray, shape (n,)
        Median without outliers, per pixel, and its standard error; NaN where fewer than ten pixels show the sky.
    """
    inner, outer = (radius * factor for factor in _ANNULUS)
    half = int(np.ceil(outer + 1))
    dark = np.where(lit | ((image.mask & SPOILT) != 0) | ~np.isfinite(image.data), np.float32(np.nan), image.data)
    level, error = np.full(len(x), np.nan), np.full(len(x), np.nan)
    for start in range(0, len(x), _CHUNK // 10):
        part = slice(start, start + _CHUNK // 10)
        distance = _distances(x[part], y[part], half)
        light, noise = (
            stamps(dark, x[part], y[part], half, fill=np.nan),
            stamps(image.uncertainty, x[part], y[part], half),
        )
        ring = (distance > inner) & (distance < outer) & np.isfinite(light)
        for i, (values, sigma, where) in enumerate(zip(light, noise, ring, strict=True), start):
            if where.sum() >= 10:
                level[i] = _clipped_median(values[where])
                error[i] = np.median(sigma[where]) * np.sqrt(np.pi / 2 / where.sum())
    return level, error


def _clipped_median(values: np.ndarray) -> float:
    """Median without what deviates by more than three standard deviations."""
    for _ in range(5):
        if len(values) < 10:
            return np.nan
        median = np.median(values)
        kept = np.abs(values - median) <= 3 * 1.4826 * np.median(np.abs(values - median))
        if kept.all():
            break
        values = values[kept]
    return float(np.median(values))


def total_rates(table, header: fits.Header) -> tuple[np.ndarray, np.ndarray]:
    """Total fluxes of sources per second, and their errors without that of the aperture correction, shape (n,).

    Falls back on the detection's own flux where no apertures were measured.
    """
    exptime = header.get("EXPTIME") or np.nan
    if "APRADIUS" not in header or "aperture_flux" not in table.colnames:
        return tuple(np.asarray(table[name], dtype=float) / exptime for name in ("flux", "flux_err"))
    radii = [header[f"APRAD{k + 1}"] for k in range(np.shape(table["aperture_flux"])[1])]
    main = int(np.argmin(np.abs(np.array(radii) - header["APRADIUS"])))
    factor = header["APCOR"] / exptime
    return tuple(
        np.asarray(table[name], dtype=float)[:, main] * factor for name in ("aperture_flux", "aperture_flux_err")
    )


def standard_rates(table, header: fits.Header) -> tuple[np.ndarray, np.ndarray, float]:
    """Total fluxes of sources per second as for standard stars, their errors, and the relative error that they share.

    A frame that shows little but a standard star may have no aperture correction. Then the flux in the largest
    aperture, which counts as total, takes its place.

    Returns
    -------
    rate, error : ndarray, shape (n,)
    common : float
    """
    if header.get("APCORN") or "aperture_flux" not in table.colnames:
        rate, error = total_rates(table, header)
        return rate, error, float(header.get("APCORERR", 0.0)) / float(header.get("APCOR", 1.0))
    exptime = header.get("EXPTIME") or np.nan
    rate, error = (
        np.asarray(table[name], dtype=float)[:, -1] / exptime for name in ("aperture_flux", "aperture_flux_err")
    )
    return rate, error, 0.0
