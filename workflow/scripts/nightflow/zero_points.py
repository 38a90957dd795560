"""Photometric zero points: fluxes of a frame against the magnitudes of a catalogue or of standard stars.

mag = MAGZP - 2.5 log10(f) - colour term * colour, with f the total flux in electron/s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_OUTLIER_SIGMA = 4.0
_ROUNDS = 30
_LEAST_STARS = 3
_MAGNITUDE = 2.5 / np.log(10)  # magnitudes per unit of the natural logarithm


class NoZeroPoint(Exception):
    """A frame has no zero point; the message says why."""


@dataclass(frozen=True)
class ZeroPoint:
    """Zero point of a frame.

    Attributes
    ----------
    value, error : float
        Magnitude of one unit of flux per second, and its standard error.
    systematic : float
        Part of `error` that comes from the catalogue: common to all frames with the same stars.
    scatter : float
        Standard deviation of the stars beyond their stated errors, mag.
    n : int
        Stars used.
    colour_term, colour_term_error : float
        NaN where none was fitted or given.
    slope : tuple of float
        Change of the zero point from the middle of the frame to its right and its upper edge, mag.
    """

    value: float
    error: float
    systematic: float
    scatter: float
    n: int
    colour_term: float = np.nan
    colour_term_error: float = np.nan
    slope: tuple[float, float] = (0.0, 0.0)


def fit_zero_point(rate, rate_error, magnitude, magnitude_error, colour=None, position=None, options: Mapping = ()):
    """Robust weighted fit of the zero point.

    Parameters
    ----------
    rate, rate_error : ndarray, shape (n,)
        Total fluxes per second, and their errors.
    magnitude, magnitude_error : ndarray, shape (n,)
        Of the catalogue; unknown errors count as none.
    colour : ndarray, shape (n,), optional
        Of the catalogue, for the colour term.
    position : ndarray, shape (n, 2), optional
        From -1 to 1 over the frame, for the spatial term.
    options : mapping
        ``colour_term`` (``fit``, a number, or None for none), ``spatial_term`` (bool) and ``min_snr``.

    Returns
    -------
    `ZeroPoint`

    Raises
    ------
    NoZeroPoint
        If fewer than three stars can be used.

    Notes
    -----
    The variance of a star is sigma_f^2 + sigma_catalogue^2 + s^2. The excess scatter s is the one with which chi^2 is
    as large as the number of degrees of freedom (Paule & Mandel 1982, J. Res. NBS 87, 377). The error of a flux is
    taken relative to the best estimate of the flux, the weighted mean of what was measured and what the catalogue
    predicts, whose error is uncorrelated with their difference: with either alone, stars that are off to one side
    would weigh more. The logarithm of a noisy flux is too low by (sigma_f / f)^2 / 2 in the mean, which is added.
    """
    options = {"colour_term": None, "spatial_term": False, "min_snr": 10.0, **dict(options)}
    known = np.isfinite(magnitude) & np.isfinite(rate) & (rate > 0) & (rate_error > 0)
    known[known] &= rate[known] > options["min_snr"] * rate_error[known]
    term = options["colour_term"]
    if term is not None:
        if colour is None or not np.isfinite(colour).any():
            raise NoZeroPoint("photometry.colour_term is set, and the catalogue gives no colour")
        known &= np.isfinite(colour)
    if known.sum() < _LEAST_STARS:
        raise NoZeroPoint(f"{int(known.sum())} stars with a catalogue magnitude, at least {_LEAST_STARS} are needed")
    y = magnitude[known] + 2.5 * np.log10(rate[known])
    columns = [np.ones(len(y))]
    if term == "fit":
        columns.append(-colour[known])
    elif term is not None:
        y = y + float(term) * colour[known]
    if options["spatial_term"] and position is not None:
        columns += list(position[known].T)
    fitted = _robust_fit(np.column_stack(columns), y, magnitude[known], rate_error[known], magnitude_error[known])
    coefficients, covariance, scatter, kept, weight, catalogue_error = fitted
    share = covariance[0] @ (np.column_stack(columns)[kept] * weight[:, None]).T  # of each star in the zero point
    return ZeroPoint(
        float(coefficients[0]),
        float(np.sqrt(covariance[0, 0])),
        float(np.sqrt(np.sum((share * catalogue_error) ** 2))),
        scatter,
        int(kept.sum()),
        float(coefficients[1]) if term == "fit" else (np.nan if term is None else float(term)),
        float(np.sqrt(covariance[1, 1])) if term == "fit" else np.nan,
        tuple(float(c) for c in coefficients[-2:]) if options["spatial_term"] and position is not None else (0.0, 0.0),
    )


def _robust_fit(design, y, magnitude, rate_error, magnitude_error):
    """Coefficients, their covariance, the excess scatter, the stars kept, their weights and catalogue errors."""
    catalogue_error = np.nan_to_num(magnitude_error)
    kept = np.abs(y - np.median(y)) <= 10 * max(1.4826 * float(np.median(np.abs(y - np.median(y)))), 0.02)
    if kept.sum() < design.shape[1] + 2:
        kept = np.ones(len(y), dtype=bool)
    if kept.sum() < design.shape[1] + 1:
        raise NoZeroPoint(f"{len(y)} stars do not determine {design.shape[1]} coefficients")
    measured, model, scatter, flux_variance = y, np.full(len(y), np.median(y[kept])), 0.0, np.full(len(y), 1e-4)
    for _ in range(_ROUNDS):
        share = flux_variance / (flux_variance + catalogue_error**2)  # of the catalogue in the best estimate
        predicted = 10 ** (-0.4 * (magnitude - model + (1 - share) * (model - measured)))
        relative = rate_error / predicted
        y = measured + _MAGNITUDE / 2 * relative**2
        flux_variance = (_MAGNITUDE * relative) ** 2
        variance = flux_variance + catalogue_error**2
        scatter, coefficients, covariance = weighted_fit(design[kept], y[kept], variance[kept])
        model = design @ coefficients
        inside = np.abs(y - model) <= _OUTLIER_SIGMA * np.sqrt(variance + scatter**2)
        if np.array_equal(inside, kept) or inside.sum() < design.shape[1] + 2:
            break
        kept = inside
    weight = 1 / (variance[kept] + scatter**2)
    return coefficients, covariance, scatter, kept, weight, catalogue_error[kept]


def weighted_fit(design, y, variance) -> tuple[float, np.ndarray, np.ndarray]:
    """Weighted linear fit with the excess scatter that makes chi^2 equal to the degrees of freedom.

    Parameters
    ----------
    design : ndarray, shape (n, terms)
    y, variance : ndarray, shape (n,)

    Returns
    -------
    scatter : float
        Standard deviation beyond `variance`.
    coefficients : ndarray, shape (terms,)
    covariance : ndarray, shape (terms, terms)
    """
    from scipy.optimize import brentq

    freedom = len(y) - design.shape[1]

    def solve(excess):
        weight = 1 / (variance + excess)
        covariance = np.linalg.pinv((design * weight[:, None]).T @ design)
        coefficients = covariance @ (design * weight[:, None]).T @ y
        return coefficients, covariance, float((weight * (y - design @ coefficients) ** 2).sum()) - freedom

    excess = 0.0
    if solve(0.0)[2] > 0:
        largest = float(np.sum((y - np.median(y)) ** 2) + 1e-12)
        if solve(largest)[2] < 0:
            excess = float(brentq(lambda value: solve(value)[2], 0.0, largest, xtol=1e-12))
    coefficients, covariance, _ = solve(excess)
    return float(np.sqrt(excess)), coefficients, covariance


def sky_rate(sky: float, exptime: float, pixel_scale: float) -> float:
    """Brightness of the sky per second and arcsec^2.

    Parameters
    ----------
    sky : float
        Per pixel, in the unit of the fluxes.
    exptime : float
        s.
    pixel_scale : float
        Arcsec.
    """
    return sky / exptime / pixel_scale**2


def limiting_rate(noise, radius, correction, exptime, significance=5.0) -> float:
    """Flux per second of a star whose flux is `significance` times its error against the sky.

    Parameters
    ----------
    noise : float
        Standard deviation of a pixel of the sky, in the unit of the fluxes.
    radius : float
        Of the aperture, px.
    correction : float
        Total flux / flux in the aperture.
    exptime : float
        s.
    """
    return significance * noise * np.sqrt(np.pi) * radius * correction / exptime


def magnitude_of(zero_point: float, rate: float) -> float:
    """Magnitude of a flux per second; NaN where it is not above zero."""
    return float(zero_point - 2.5 * np.log10(rate)) if rate > 0 else np.nan
