"""Aperture photometry: fluxes in several apertures, and the correction to the total flux from a curve of growth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from astropy.io import fits

from nightflow.neighbours import close_pairs
from nightflow.products import UNUSABLE, Image, MaskBit
from nightflow.sources import DETECTION_DEFAULTS, seeing, stamps

DEFAULTS = {**DETECTION_DEFAULTS, "apertures": [1.0, 2.0, 3.0, 4.0], "sky": "global", "aperture_unit": "fwhm"}
#: Mask bits that make a flux wrong.
SPOILT = int(UNUSABLE | MaskBit.SATURATED | MaskBit.NONLINEAR)
_CHUNK = 1000  # stars whose pixels are held at once
_LEAST_SNR = 20.0  # of the stars of the curve of growth
_MOST_STARS, _ENOUGH_STARS = 200, 5
# Most light of their neighbours, in theirs, near the main and the largest aperture; the next where too few agree.
_NEIGHBOURS = ((0.005, 0.3), (0.02, 0.5), (0.1, 1.0))
_RING = 0.5  # FWHM; width of the rings of the curve of growth
_LEAST_SEEN = 0.4  # part of a ring that neighbours leave free
_ANNULUS = (1.25, 2.0)  # of the local sky around stars, in radii of the largest aperture
_REACH = 2.0  # FWHM around sources that count as no sky
# Profile assumed where no star tells it better, and how wrong the correction from it may be.
_MOFFAT_BETA, _ASSUMED_ERROR = 3.5, 0.05


def measure_apertures(image: Image, table, options: Mapping) -> None:
    """Add fluxes in apertures to a source table, and the aperture correction to the frame's header.

    Parameters
    ----------
    image : `~nightflow.products.Image`
        Sky-subtracted pixels. Its header gets APRAD1, APRAD2, ... (radii, px), APRADIUS (that of the main aperture),
        APCOR (factor from the flux in it to the total), APCORERR and APCORN (stars behind it; where they do not tell
        it to 5 %, APCORN is 0 and APCOR that of a Moffat profile).
    table : `~astropy.table.QTable` or `~nightflow.products.Columns`
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
    near = near_sources(image.shape, x, y, _REACH * fwhm)
    if options["sky"] == "local":
        level, level_error = local_sky(image, near > 0, x, y, radii[-1])
        known = np.isfinite(level)
        flux[known] -= np.pi * radii**2 * level[known, None]
        error[known] = np.hypot(error[known], np.pi * radii**2 * level_error[known, None])
        table["local_sky"] = level * unit
    table["aperture_flux"], table["aperture_flux_err"] = flux * unit, error * unit
    chosen = _growth_stars(table, x, y, fwhm, radii[main], radii[-1])
    correction = aperture_correction(image, near, x[chosen], y[chosen], radii[main], radii[-1], fwhm)
    header = image.header
    for number, radius in enumerate(radii, start=1):
        header[f"APRAD{number}"] = (float(radius), f"[pix] radius of aperture {number}")
    header["APRADIUS"] = (float(radii[main]), "[pix] radius of the main aperture")
    if not correction[1] <= _ASSUMED_ERROR:
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
    half = int(np.ceil(max(radii) + 1))
    flux, error = np.zeros((len(x), len(radii))), np.zeros((len(x), len(radii)))
    for start in range(0, len(x), _CHUNK):
        part = slice(start, start + _CHUNK)
        distance = _distances(x[part], y[part], half)
        light, noise, _ = _usable_stamps(image, x[part], y[part], half, UNUSABLE)
        for k, radius in enumerate(radii):
            near = slice(half - int(np.ceil(radius + 1)), half + int(np.ceil(radius + 1)) + 1)
            weight = _overlap(distance[:, near, near], radius)
            flux[part, k] = (weight * light[:, near, near]).sum(axis=(1, 2))
            error[part, k] = np.sqrt(np.square(weight * noise[:, near, near]).sum(axis=(1, 2)))
    return flux, error


def _usable_stamps(image: Image, x, y, half: int, unusable: MaskBit):
    """Squares of pixels and of their standard deviation, zero where they are unusable, and where that is."""
    light, noise = (stamps(plane, x, y, half) for plane in (image.data, image.uncertainty))
    bad = (stamps(image.mask, x, y, half, fill=int(MaskBit.NO_DATA)) & int(unusable)) != 0
    bad |= ~np.isfinite(light) | ~np.isfinite(noise)
    light[bad] = noise[bad] = 0
    return light, noise, bad


def _distances(x, y, half: int) -> np.ndarray:
    offset = np.arange(-half, half + 1)
    dx, dy = (np.rint(c) - c for c in (x, y))
    return np.sqrt((dy[:, None] + offset)[:, :, None] ** 2 + (dx[:, None] + offset)[:, None, :] ** 2)


def _overlap(distance, radius: float) -> np.ndarray:
    """Share of a pixel inside a circle, taken as linear across its edge; the sum over pixels is right to 0.1 %."""
    return np.clip(radius + 0.5 - distance, 0, 1)


def _growth_stars(table, x, y, fwhm: float, inner: float, outer: float) -> np.ndarray:
    """Rows of bright, whole, star-like sources without a neighbour of note near the main aperture or the largest.

    Faint neighbours in the rings between the two are covered, and only their wings matter there.
    """
    width = np.asarray(getattr(table["fwhm"], "value", table["fwhm"]), dtype=float)
    good = (np.asarray(table["flags"]) & SPOILT) == 0
    good &= (np.asarray(table["snr"]) > _LEAST_SNR) & (np.abs(width / fwhm - 1) < 0.25)
    flux = np.asarray(getattr(table["flux"], "value", table["flux"]), dtype=float)
    for near, far in _NEIGHBOURS:
        alone = good & isolated(x, y, flux, inner + 1.5 * fwhm, near) & isolated(x, y, flux, outer + 1.5 * fwhm, far)
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
    """How many sources are within `radius` of each pixel; where none is, it shows the sky.

    Returns
    -------
    near : ndarray of int, shape (ny, nx)
    """
    ny, nx = shape
    half = int(radius)
    rows, columns = (np.clip(np.rint(c).astype(int), 0, n - 1) + half for c, n in zip((y, x), shape, strict=True))
    steps = np.zeros((ny + 2 * half, nx + 2 * half + 1), dtype=np.int32)  # up where a row of a disc begins, then down
    for dy in range(-half, half + 1):
        reach = int(np.sqrt(radius**2 - dy**2))
        np.add.at(steps, (rows + dy, columns - reach), 1)
        np.add.at(steps, (rows + dy, columns + reach + 1), -1)
    return np.cumsum(steps, axis=1, out=steps)[half : half + ny, half : half + nx]


def aperture_correction(image: Image, near, x, y, inner: float, outer: float, fwhm: float) -> tuple[float, float, int]:
    """Ratio of the flux within the radius `outer`, the total, to that within `inner`, from the curve of growth.

    The light between the two is measured in rings. What neighbours cover of a star's ring is left out, and the mean
    of the rest stands for all of it, so that stars of crowded fields serve as well; each ring's share of the light is
    a mean over the stars.

    Parameters
    ----------
    image : `~nightflow.products.Image`
    near : ndarray of int, shape (ny, nx)
        Of `near_sources`.
    x, y : ndarray, shape (n,)
        Stars without neighbours in the inner aperture.
    inner, outer, fwhm : float
        px.

    Returns
    -------
    ratio, error : float
        1 and NaN without a star.
    n : int
        Stars used, in the ring where they are fewest.

    References
    ----------
    A curve of growth from the rings that each star shows: Stetson (1990), PASP 102, 932.
    """
    if not inner < outer:
        return 1.0, 0.0, len(x)
    edges = np.linspace(inner, outer, 1 + max(1, round((outer - inner) / max(_RING * fwhm, 1.0))))
    share, sigma = _ring_shares(image, near, x, y, edges, _REACH * fwhm)
    known = np.isfinite(share) & (sigma > 0)
    weight = np.column_stack([_weights(*ring) for ring in zip(share.T, sigma.T, known.T, strict=True)])
    stars = int((weight > 0).sum(axis=0).min())
    if not stars:
        return 1.0, np.nan, 0
    mean = np.nansum(weight * share, axis=0)
    # the rings of one star share its level of the sky: each star counts as one observation of the sum
    residual = np.nansum(weight * (share - mean), axis=1)
    stated = np.sqrt(np.nansum(weight**2 * sigma**2))
    return 1 + float(mean.sum()), float(max(np.sqrt(np.sum(residual**2) * stars / max(stars - 1, 1)), stated)), stars


def _ring_shares(image: Image, near, x, y, edges, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Light in rings about stars over that within the first edge, and its error, shape (stars, rings).

    NaN where too little of a ring is free of neighbours, or a pixel in the inner aperture is unusable.
    """
    half = int(np.ceil(edges[-1] + 1))
    offset = np.arange(-half, half + 1)
    own = offset[:, None] ** 2 + offset**2 <= reach**2
    level, level_error = (np.nan_to_num(values) for values in local_sky(image, near > 0, x, y, edges[-1]))
    share, sigma = np.full((2, len(x), len(edges) - 1), np.nan)
    for start in range(0, len(x), _CHUNK // 10):
        part = slice(start, start + _CHUNK // 10)
        place = x[part], y[part], half
        light, noise, bad = _usable_stamps(image, *place, SPOILT)
        light, variance, whole = light - level[part, None, None], noise**2, ~bad
        free = whole & (stamps(near, *place) <= own)
        aperture = [_overlap(_distances(*place), edge) for edge in edges]
        within = (aperture[0] * light).sum(axis=(1, 2))
        within[(~whole & (aperture[0] > 0)).any(axis=(1, 2)) | ~(within > 0)] = np.nan
        for k, ring in enumerate(np.diff(aperture, axis=0)):
            area, seen = ring.sum(axis=(1, 2)), ring * free
            with np.errstate(divide="ignore", invalid="ignore"):
                scale = area / seen.sum(axis=(1, 2)) / within
                scale[seen.sum(axis=(1, 2)) < _LEAST_SEEN * area] = np.nan
                share[part, k] = scale * (seen * light).sum(axis=(1, 2))
                noise_of_level = area * level_error[part] / within
                sigma[part, k] = np.hypot(scale * np.sqrt((seen**2 * variance).sum(axis=(1, 2))), noise_of_level)
    return share, sigma


def _weights(values, sigma, known) -> np.ndarray:
    """Weights, 1 in sum, of a weighted mean without outliers; zero for those and for what is unknown."""
    sigma = np.hypot(sigma, 0.0005)  # what the profiles of bright stars differ by
    kept = known
    for _ in range(10):
        if not kept.any():
            break
        deviation = np.abs(values - np.median(values[kept])) / sigma
        inside = kept & (deviation <= 3 * max(1.0, 1.4826 * float(np.median(deviation[kept]))))
        if np.array_equal(inside, kept):
            break
        kept = inside
    weight = np.where(kept, 1 / sigma**2, 0.0)
    return weight / max(weight.sum(), 1e-300)


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
        Mean without outliers, per pixel, and its standard error; NaN where fewer than ten pixels show the sky. A mean,
        since apertures sum the light of stars too faint to be found, which a median leaves out.
    """
    inner, outer = (radius * factor for factor in _ANNULUS)
    half = int(np.ceil(outer + 1))
    level, error = np.full(len(x), np.nan), np.full(len(x), np.nan)
    for start in range(0, len(x), _CHUNK // 10):
        part = slice(start, start + _CHUNK // 10)
        distance = _distances(x[part], y[part], half)
        place = x[part], y[part], half
        light, noise = stamps(image.data, *place, fill=np.nan), stamps(image.uncertainty, *place)
        dark = np.isfinite(light) & ~stamps(lit, *place) & ((stamps(image.mask, *place) & SPOILT) == 0)
        ring = (distance > inner) & (distance < outer) & dark
        for i, (values, sigma, where) in enumerate(zip(light, noise, ring, strict=True), start):
            if where.sum() >= 10:
                level[i] = _clipped_mean(values[where])
                error[i] = np.median(sigma[where]) / np.sqrt(where.sum())
    return level, error


def _clipped_mean(values: np.ndarray) -> float:
    """Mean without what deviates by more than four standard deviations."""
    for _ in range(5):
        if len(values) < 10:
            return np.nan
        deviation = np.abs(values - _median(values))
        kept = deviation <= 4 * 1.4826 * _median(deviation)
        if kept.all():
            break
        values = values[kept]
    return float(np.mean(values))


def _median(values: np.ndarray):
    """Median of values without NaN, of which numpy's function makes sure first: for a thousand, that takes longer."""
    ordered = np.sort(values)
    return 0.5 * (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2])


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
