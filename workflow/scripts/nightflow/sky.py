"""Level of the sky: clipped statistics of the unmasked pixels, and a smooth model of the background."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

ESTIMATORS = ("median", "mean", "mode")
DEFAULTS = {
    "method": "mesh",
    "estimator": "median",
    "sigma": 4.0,
    "maxiters": 10,
    "mesh": 128,
    "filter_size": 3,
    "max_masked": 0.8,
}


@dataclass(frozen=True)
class SkyStatistics:
    """Clipped statistics of the sky, in the unit of the pixels.

    Attributes
    ----------
    mean, median, mode, stddev : float
        Of the pixels that survive the clipping; mode = 3 median - 2 mean. NaN when no pixel is left.
    npix : int
        Number of pixels used.
    masked_fraction : float
        Share of the image's pixels that were masked or not finite.
    """

    mean: float
    median: float
    mode: float
    stddev: float
    npix: int
    masked_fraction: float


def sky_statistics(data, mask=None, *, sigma: float = 4.0, maxiters: int = 10) -> SkyStatistics:
    """Sigma-clipped mean, median, mode and standard deviation of the unmasked pixels.

    Pixels farther than `sigma` standard deviations from the median are left out until none is, or `maxiters`
    times. The pixels are sorted once, so that each round only moves two bounds. At 4 sigma the clipping lowers the
    standard deviation of a Gaussian by 0.05 %, which is not corrected.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        Pixels with the sky in them.
    mask : ndarray of bool or int, shape (ny, nx), optional
        Pixels that are not zero here are left out; so are those that are not finite.
    sigma : float
        Clipping limit in standard deviations.
    maxiters : int
        Largest number of rounds.

    Returns
    -------
    SkyStatistics

    Raises
    ------
    ValueError
        If the shapes differ or `sigma` is not positive.

    References
    ----------
    mode = 3 median - 2 mean: Pearson (1895), Phil. Trans. R. Soc. A 186, 343, for moderately skewed distributions.
    """
    if mask is not None and np.shape(mask) != np.shape(data):
        raise ValueError(f"the mask's shape {np.shape(mask)} is not the image's, {np.shape(data)}")
    if sigma <= 0:
        raise ValueError(f"sigma must be positive, not {sigma}")
    usable = np.isfinite(data) if mask is None else np.isfinite(data) & (np.asarray(mask) == 0)
    pixels = np.sort(data[usable])
    masked_fraction = 1.0 - pixels.size / max(np.size(data), 1)
    pixels = _clip_sorted(pixels, sigma, maxiters)
    if not pixels.size:
        return SkyStatistics(np.nan, np.nan, np.nan, np.nan, 0, masked_fraction)
    mean, median = float(pixels.mean(dtype=np.float64)), _sorted_median(pixels)
    stddev = float(pixels.std(dtype=np.float64))
    return SkyStatistics(mean, median, 3 * median - 2 * mean, stddev, pixels.size, masked_fraction)


def sky_model(data, mask=None, options: Mapping | None = None, *, statistics: SkyStatistics | None = None):
    """Background to subtract: one number, or a smooth image through the clipped levels of a mesh.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        Pixels with the sky in them.
    mask : ndarray of bool or int, shape (ny, nx), optional
        Pixels that are not zero here (sources, cosmic rays, bad pixels) are left out.
    options : mapping, optional
        ``method`` (``scalar`` or ``mesh``), ``estimator`` (``median``, ``mean`` or ``mode``), ``sigma`` and
        ``maxiters`` of the clipping, ``mesh`` (px), ``filter_size`` (meshes), ``max_masked`` (share of masked
        pixels above which a mesh is not measured but filled in from its neighbours).
    statistics : `SkyStatistics`, optional
        Statistics of the same pixels where the caller has them already.

    Returns
    -------
    background : float, or ndarray of float32 with shape (ny, nx)
        In the unit of `data`.
    mesh_rms : float
        Median over the meshes of the clipped standard deviation; of the image for ``scalar``.

    Raises
    ------
    ValueError
        If no pixel is usable, or an option's value is unknown.
    """
    options = {**DEFAULTS, **(options or {})}
    if options["estimator"] not in ESTIMATORS:
        raise ValueError(f"sky.estimator is one of {', '.join(ESTIMATORS)}, not {options['estimator']!r}")
    if options["method"] == "scalar":
        return _scalar_model(data, mask, options, statistics)
    if options["method"] == "mesh":
        return _mesh_model(data, mask, options)
    raise ValueError(f"sky.method is scalar or mesh, not {options['method']!r}")


def _clip_sorted(pixels, sigma: float, maxiters: int):
    """The part of the sorted `pixels` that iterated clipping about the median leaves."""
    for _ in range(maxiters):
        if pixels.size < 2:
            break
        centre, width = _sorted_median(pixels), sigma * float(pixels.std(dtype=np.float64))
        first = np.searchsorted(pixels, np.float32(centre - width), side="left")
        last = np.searchsorted(pixels, np.float32(centre + width), side="right")
        if last - first == pixels.size:
            break
        pixels = pixels[first:last]
    return pixels


def _sorted_median(pixels) -> float:
    middle = pixels.size // 2
    return float(pixels[middle]) if pixels.size % 2 else 0.5 * (float(pixels[middle - 1]) + float(pixels[middle]))


def _scalar_model(data, mask, options, statistics):
    if statistics is None:
        statistics = sky_statistics(data, mask, sigma=options["sigma"], maxiters=options["maxiters"])
    if not statistics.npix:
        raise ValueError("no usable pixel to measure the sky on")
    return getattr(statistics, options["estimator"]), statistics.stddev


def _mesh_model(data, mask, options):
    from astropy.stats import SigmaClip
    from photutils.background import Background2D, MeanBackground, MedianBackground, ModeEstimatorBackground

    estimators = {"median": MedianBackground, "mean": MeanBackground, "mode": ModeEstimatorBackground}
    unusable = ~np.isfinite(data) if mask is None else ~np.isfinite(data) | (np.asarray(mask) != 0)
    if unusable.all():
        raise ValueError("no usable pixel to measure the sky on")
    size = tuple(min(int(options["mesh"]), n) for n in data.shape)
    background = Background2D(
        np.where(unusable, np.float32(0), data),
        size,
        mask=unusable,
        exclude_percentile=100.0 * options["max_masked"],
        filter_size=1,
        sigma_clip=SigmaClip(sigma=options["sigma"], maxiters=options["maxiters"]),
        bkg_estimator=estimators[options["estimator"]](sigma_clip=None),
    )
    return background.background, float(background.background_rms_median)
