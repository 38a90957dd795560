"""Rejection of outliers among the values that several frames have at a pixel.

Every estimator obeys one rule: a value within the limits of what its frame's noise, the differences of seeing between
the frames and the local gradient allow is never rejected. That keeps the cores of stars, and the estimators need to
look only at the few pixels where some value lies beyond.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numba
import numpy as np

from nightflow.products import MaskBit

REJECTIONS = (
    "none", "noise", "sigma", "median_sigma", "winsorised", "linear_fit", "percentile", "generalised_esd",
)  # fmt: skip

#: Fewest values whose own scatter is a usable yardstick: a standard deviation cannot convict one of ten.
MIN_FRAMES_FOR_SCATTER = 15
#: Rows around a pixel whose values decide what is rejected there: half of the widest kernel, and the gradient's.
HALO = 4

_ESTIMATORS = {name: number for number, name in enumerate((*REJECTIONS, "kappa_sigma", "median_kappa_sigma"))}
_NOISE, _SIGMA, _MEDIAN_SIGMA = (_ESTIMATORS[name] for name in ("noise", "sigma", "median_sigma"))
_WINSORISED, _LINEAR_FIT, _PERCENTILE = (_ESTIMATORS[name] for name in ("winsorised", "linear_fit", "percentile"))
_GENERALISED_ESD = _ESTIMATORS["generalised_esd"]

_GROWTH = 3  # pixels: half of the widest kernel
# Values this many times beyond their limit draw a closer look at their neighbours, and the part of the limit there.
_STRONG, _NEAR = 1.5, 0.25
_LEAST_LIMIT = 4.0  # sigma: below it, noise itself would count as strong
_ANY = np.uint16(MaskBit.SATURATED | MaskBit.NONLINEAR)
# What stands in the variance plane in place of the variance of a rejected value.
_REJECTED_LOW, _REJECTED_HIGH = np.float32(-1), np.float32(-2)
_STRONGLY = np.float32(-2)  # added to them
_LEAST_FOR_WINSORISING, _LEAST_FOR_FIT = 4, 5
_WINSOR_POINT, _WINSOR_FACTOR = 1.5, 1.134


class Rejector(NamedTuple):
    """A rejection with its settings, ready for `reject`.

    Attributes
    ----------
    estimator : int
        Which one.
    low, high : float
        Limits in standard deviations.
    fractions : ndarray of float32, shape (n,)
        Part of the level by which each frame may differ from the others.
    gradient : float
        Part of the largest step to a neighbouring pixel that is allowed on top.
    photon_slopes : ndarray of float32, shape (n,)
        Growth of a value's variance with the value: photon noise of its own excess.
    iterations : int
        Rounds of the iterated estimators.
    sky : float
        Level of the sky that the frames were freed of, for ``percentile``.
    percentile_low, percentile_high : float
        Parts of the level, sky included.
    critical : ndarray, shape (n + 1, k)
        Critical values of the generalised ESD test, for each number of values and of outliers.
    """

    estimator: int
    low: float
    high: float
    fractions: np.ndarray
    gradient: float
    photon_slopes: np.ndarray
    iterations: int
    sky: float
    percentile_low: float
    percentile_high: float
    critical: np.ndarray

    @property
    def replaces(self) -> bool:
        """Whether rejected values are replaced by the median, not left out."""
        return self.estimator in (_MEDIAN_SIGMA, _ESTIMATORS["median_kappa_sigma"])


def make_rejector(
    name: str, options: Mapping, fractions: np.ndarray, photon_slopes: np.ndarray, sky: float = 0.0
) -> Rejector | None:
    """Rejection of the given name with the settings of the configuration.

    Parameters
    ----------
    name : str
        One of `REJECTIONS`, ``kappa_sigma`` or ``median_kappa_sigma``.
    options : mapping
        Section ``stack`` of the configuration.
    fractions, photon_slopes : ndarray, shape (n,)
        See `Rejector`; ``clip_fraction`` is added to the former.
    sky : float
        Level of the sky on the common flux scale.

    Returns
    -------
    Rejector or None
        None for ``none``.

    Raises
    ------
    ValueError
        If the name is unknown.

    Notes
    -----
    v is a value, m the median of the pixel, e its expected standard deviation (the propagated one, with
    ``clip_fraction``, the differences of seeing and ``clip_gradient`` in quadrature). No value with |v - m| within the
    limits (``clip_low``, ``clip_high``) times e is ever rejected. Beyond that:

    noise
        All go. From 15 values on e is not less than the standard deviation that the quartiles show.
    sigma, median_sigma
        Those beyond the limits times the standard deviation about the median of the values left, again and again
        (``iterations``). Fewer than 15 values cannot convict one among them: e alone is the yardstick then.
        ``median_sigma`` replaces what it rejects by m.
    winsorised
        The same with the standard deviation of values drawn in to 1.5 of it until it settles, times 1.134, what that
        costs a normal distribution (Huber & Ronchetti 2009, Robust Statistics, sections 1.7 and 5.2).
    linear_fit
        The sorted values against their rank are fitted by a line of least absolute deviations; those beyond the
        limits times the mean absolute deviation from it go (Conejero, PixInsight reference, ImageIntegration).
    percentile
        Those with m - v above ``percentile_low`` or v - m above ``percentile_high`` times the level, sky included.
    generalised_esd
        Rosner (1983, Technometrics 25, 165): the largest number of outliers, up to ``esd_outliers`` of the values, for
        which the most extreme studentised deviation passes its critical value at ``esd_significance``.
    kappa_sigma, median_kappa_sigma
        DeepSkyStacker's: beyond ``kappa`` times the standard deviation from the mean of the values left,
        ``iterations`` times; the second replaces by m what it rejects (its manual, Stacking Methods).
    """
    if name not in _ESTIMATORS:
        raise ValueError(f"stack.rejection is {name!r}, must be one of {', '.join(REJECTIONS)}")
    if name == "none":
        return None
    kappa = name.endswith("kappa_sigma")
    n = len(fractions)
    return Rejector(
        estimator=_ESTIMATORS[name],
        low=float(options["kappa"] if kappa else options["clip_low"]),
        high=float(options["kappa"] if kappa else options["clip_high"]),
        fractions=(options["clip_fraction"] + fractions).astype(np.float32),
        gradient=float(options["clip_gradient"]),
        photon_slopes=photon_slopes.astype(np.float32),
        iterations=int(options["iterations"]),
        sky=float(sky),
        percentile_low=float(options["percentile_low"]),
        percentile_high=float(options["percentile_high"]),
        critical=_critical_values(n, options) if name == "generalised_esd" else np.full((n + 1, 1), np.inf),
    )


def _critical_values(n_frames: int, options: Mapping) -> np.ndarray:
    """Critical values of the most extreme studentised deviation, infinite where there is no test.

    Row n, column i - 1: after i - 1 of n values are out, (n - i) t / sqrt((n - i - 1 + t^2) (n - i + 1)) with the
    quantile t of Student's distribution with n - i - 1 degrees of freedom at 1 - alpha / (2 (n - i + 1)) (Rosner 1983).
    """
    from scipy.special import stdtrit

    share = options["esd_outliers"]
    table = np.full((n_frames + 1, max(1, int(share * n_frames))), np.inf)
    for n in range(_LEAST_FOR_FIT, n_frames + 1):
        i = np.arange(1, min(max(1, int(share * n)), n - 2) + 1)
        t = stdtrit(n - i - 1, 1 - options["esd_significance"] / (2 * (n - i + 1)))
        table[n, : len(i)] = (n - i) * t / np.sqrt((n - i - 1 + t**2) * (n - i + 1))
    return table


def reject(values, variances, centre, scatter, flags, rejector: Rejector) -> None:
    """Put NaN in place of the outliers of a strip.

    Parameters
    ----------
    values, variances : ndarray of float32, shape (n, rows, columns)
        Of the frames; the variance of a rejected value becomes a mark that `count_rejected` reads.
    centre, scatter : ndarray of float32, shape (rows, columns)
        Median, and the variance that the quartiles show (0 where there are too few values).
    flags : ndarray of uint16, shape (rows, columns)
        Mask planes that any frame has. Where a frame saturates all values are kept.
    rejector : Rejector
    """
    extra = gradient_variance(centre, rejector.gradient)
    if rejector.estimator == _NOISE:
        _reject_by_noise(values, variances, centre, scatter, flags, extra, rejector)
    else:
        scatter = np.zeros_like(scatter)
        places = _suspicious(values, variances, centre, scatter, flags, extra, rejector)
        _reject_columns(values, variances, centre, scatter, extra, places, rejector)
    _reject_neighbours(values, variances, centre, scatter, flags, extra, rejector)


@numba.njit(nogil=True, cache=True)
def gradient_variance(centre, gradient):
    """Square of `gradient` times the largest step to one of the four neighbours, for a plane of shape (ny, nx)."""
    n_rows, n_columns = centre.shape
    extra = np.empty((n_rows, n_columns), np.float32)
    for r in range(n_rows):
        above, here, below, out = centre[max(r - 1, 0)], centre[r], centre[min(r + 1, n_rows - 1)], extra[r]
        for x in range(n_columns):
            step = np.float32(0)
            for other in (here[max(x - 1, 0)], here[min(x + 1, n_columns - 1)], above[x], below[x]):
                size = abs(other - here[x])
                step = size if size > step else step  # a NaN is not larger
            out[x] = (gradient * step) ** 2
    return extra


@numba.njit(nogil=True, cache=True)
def _expected_variance(own, photons, excess, spread, more, fraction2, middle):
    """Variance of a value about the median if it is good.

    The propagated variance, less the photon noise of the value's own excess, plus the squares of a fraction of the
    level (seeing, transparency) and of a part of the local gradient (registration, sampling).
    """
    expected = own - (photons * excess if excess > 0 else np.float32(0))
    floor = np.float32(0.2) * own
    expected = expected if expected > floor else floor
    expected = expected if expected > spread else spread
    return expected + more + fraction2 * middle * middle


@numba.njit(nogil=True, cache=True)
def _reject_by_noise(values, variances, centre, scatter, flags, extra, rejector):
    """Reject all values beyond the limits of what is expected of them."""
    low2, high2 = np.float32(rejector.low**2), np.float32(rejector.high**2)
    strong = _strong_factor(rejector)
    for n in range(len(values)):
        fraction2, photons = rejector.fractions[n] * rejector.fractions[n], rejector.photon_slopes[n]
        for r in range(values.shape[1]):
            value, own, middle, spread = values[n, r], variances[n, r], centre[r], scatter[r]
            more, kept = extra[r], flags[r]
            for x in range(values.shape[2]):
                excess = value[x] - middle[x]
                expected = _expected_variance(own[x], photons, excess, spread[x], more[x], fraction2, middle[x])
                allowed = (high2 if excess > 0 else low2) * expected
                if excess * excess > allowed and not kept[x] & _ANY:
                    value[x] = np.nan
                    own[x] = _REJECTED_HIGH if excess > 0 else _REJECTED_LOW
                    if excess * excess > strong * allowed:
                        own[x] += _STRONGLY


@numba.njit(nogil=True, cache=True)
def _strong_factor(rejector):
    """Square of the factor on the limit beyond which a value is strong."""
    limit = min(rejector.low, rejector.high)
    return np.float32((_STRONG * max(limit, _LEAST_LIMIT) / limit) ** 2)


@numba.njit(nogil=True, cache=True)
def _suspicious(values, variances, centre, scatter, flags, extra, rejector):
    """1 where some value lies beyond the limits of what is expected of it."""
    low2, high2 = np.float32(rejector.low**2), np.float32(rejector.high**2)
    places = np.zeros(centre.shape, np.uint8)
    for n in range(len(values)):
        fraction2, photons = rejector.fractions[n] * rejector.fractions[n], rejector.photon_slopes[n]
        for r in range(values.shape[1]):
            value, own, middle, spread = values[n, r], variances[n, r], centre[r], scatter[r]
            more, kept, place = extra[r], flags[r], places[r]
            for x in range(values.shape[2]):
                excess = value[x] - middle[x]
                expected = _expected_variance(own[x], photons, excess, spread[x], more[x], fraction2, middle[x])
                beyond = excess * excess > (high2 if excess > 0 else low2) * expected and not kept[x] & _ANY
                place[x] |= 1 if beyond else 0
    return places


@numba.njit(nogil=True, cache=True)
def _reject_columns(values, variances, centre, scatter, extra, places, rejector):
    """Let the estimator judge the values of each suspicious place."""
    low2, high2 = rejector.low**2, rejector.high**2
    strong = _strong_factor(rejector)
    n_frames = len(values)
    column, ratio = np.empty(n_frames), np.empty(n_frames)
    frame = np.empty(n_frames, np.int64)
    for r in range(values.shape[1]):
        for x in range(values.shape[2]):
            if not places[r, x]:
                continue
            n, middle = 0, centre[r, x]
            for k in range(n_frames):
                value = values[k, r, x]
                if value == value:
                    fraction = rejector.fractions[k]
                    expected = _expected_variance(
                        variances[k, r, x], rejector.photon_slopes[k], value - middle, scatter[r, x], extra[r, x],
                        fraction * fraction, middle,
                    )  # fmt: skip
                    limit = high2 if value > middle else low2
                    column[n], frame[n] = value, k
                    ratio[n] = (value - middle) ** 2 / (limit * expected)
                    n += 1
            order = np.argsort(column[:n])
            kept = judge(column[:n][order], ratio[:n][order] > 1, middle, rejector)
            for i in range(n):
                if not kept[i]:
                    k = frame[order[i]]
                    mark = _REJECTED_HIGH if values[k, r, x] > middle else _REJECTED_LOW
                    variances[k, r, x] = mark + (_STRONGLY if ratio[order[i]] > strong else np.float32(0))
                    values[k, r, x] = np.nan


@numba.njit(nogil=True, cache=True)
def judge(column, suspect, middle, rejector):
    """Which of the sorted values of one pixel to keep.

    Parameters
    ----------
    column : ndarray of float64, shape (n,)
        The values in ascending order.
    suspect : ndarray of bool, shape (n,)
        Values that may be rejected.
    middle : float
        Their median.
    rejector : Rejector

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    estimator, n = rejector.estimator, len(column)
    kept = np.ones(n, np.bool_)
    if estimator == _PERCENTILE:
        _judge_percentile(column, suspect, middle, rejector, kept)
    elif (
        (estimator in (_SIGMA, _MEDIAN_SIGMA) and n < MIN_FRAMES_FOR_SCATTER)
        or (estimator == _WINSORISED and n < _LEAST_FOR_WINSORISING)
        or (estimator in (_LINEAR_FIT, _GENERALISED_ESD) and n < _LEAST_FOR_FIT)
    ):
        kept[:] = ~suspect
    elif estimator == _LINEAR_FIT:
        _judge_linear_fit(column, suspect, rejector, kept)
    elif estimator == _GENERALISED_ESD:
        _judge_generalised_esd(column, suspect, rejector.critical[n], kept)
    else:
        _judge_deviations(column, suspect, rejector, kept)
    return kept


@numba.njit(nogil=True, cache=True)
def _judge_percentile(column, suspect, middle, rejector, kept):
    level = middle + rejector.sky
    for i in range(len(column)):
        excess = column[i] - middle
        part = rejector.percentile_high if excess > 0 else rejector.percentile_low
        kept[i] = not suspect[i] or abs(excess) <= part * max(level, 0.0)


@numba.njit(nogil=True, cache=True)
def _judge_deviations(column, suspect, rejector, kept):
    """Reject again and again what is far from the centre in standard deviations of the values left."""
    about_median = rejector.estimator in (_SIGMA, _MEDIAN_SIGMA, _WINSORISED)
    for _ in range(rejector.iterations):
        left = column[kept]
        if len(left) < 3:
            return
        centre = np.median(left) if about_median else left.mean()
        sigma = _winsorised_deviation(left) if rejector.estimator == _WINSORISED else _deviation(left, left.mean())
        if not _take_out(column - centre, suspect, rejector.low * sigma, rejector.high * sigma, kept):
            return


@numba.njit(nogil=True, cache=True)
def _take_out(deviation, suspect, low, high, kept):
    """Reject suspects beyond the limits; whether there was a new one."""
    changed = False
    for i in range(len(deviation)):
        if kept[i] and suspect[i] and (deviation[i] > high or -deviation[i] > low):
            kept[i], changed = False, True
    return changed


@numba.njit(nogil=True, cache=True)
def _deviation(values, centre):
    """Standard deviation of the sample about `centre`."""
    return np.sqrt(((values - centre) ** 2).sum() / (len(values) - 1))


@numba.njit(nogil=True, cache=True)
def _winsorised_deviation(values):
    """Standard deviation of values drawn in to 1.5 of it, corrected for what normal values lose by that."""
    centre = np.median(values)
    sigma = _deviation(values, values.mean())
    for _ in range(100):
        reach = _WINSOR_POINT * sigma
        drawn = np.minimum(np.maximum(values, centre - reach), centre + reach)
        previous, sigma = sigma, _WINSOR_FACTOR * _deviation(drawn, drawn.mean())
        if abs(sigma - previous) <= 5e-4 * previous:
            break
    return sigma


@numba.njit(nogil=True, cache=True)
def _judge_linear_fit(column, suspect, rejector, kept):
    """Reject again and again what is far from the line through the sorted values left."""
    for _ in range(rejector.iterations):
        left = column[kept]
        if len(left) < _LEAST_FOR_FIT:
            return
        deviation = _deviations_from_line(left)
        sigma = np.abs(deviation).mean()
        all_deviations = np.zeros(len(column))
        all_deviations[np.flatnonzero(kept)] = deviation
        if not _take_out(all_deviations, suspect, rejector.low * sigma, rejector.high * sigma, kept):
            return


@numba.njit(nogil=True, cache=True)
def _deviations_from_line(values):
    """Deviations of sorted values from their line of least absolute deviations against rank.

    The line goes through two of the points. Of those through a given point the best has the slope that is the weighted
    median of the slopes to the others, and the point where it ends is the next to turn about, as long as that helps
    (Wesolowsky 1981, Communications in Statistics B 10, 479).
    """
    rank = np.arange(len(values))
    pivot, least = len(values) // 2, np.inf
    best = values
    for _ in range(len(values)):
        partner = _weighted_median_slope(values, pivot)
        slope = (values[partner] - values[pivot]) / (partner - pivot)
        deviation = values - values[pivot] - slope * (rank - pivot)
        total = np.abs(deviation).sum()
        if total >= least * (1 - 1e-12):
            break
        pivot, least, best = partner, total, deviation
    return best


@numba.njit(nogil=True, cache=True)
def _weighted_median_slope(values, pivot):
    """The point to which the slope is the median of all, weighted by the distance in rank."""
    distance = np.arange(len(values)) - pivot
    slopes = (values - values[pivot]) / np.where(distance == 0, 1, distance)
    half = 0.5 * np.abs(distance).sum()
    weight = 0
    for i in np.argsort(slopes):
        weight += abs(distance[i])
        if i != pivot and weight >= half:
            return i
    return pivot - 1


@numba.njit(nogil=True, cache=True)
def _judge_generalised_esd(column, suspect, critical, kept):
    """Reject the largest number of extremes whose studentised deviation passes its critical value."""
    first, last = 0, len(column)  # the values left are always a run of the sorted ones
    removed = np.empty(len(critical), np.int64)
    outliers = 0
    for i in range(len(critical)):
        if critical[i] == np.inf:
            break
        left = column[first:last]
        mean = left.mean()
        upper = left[-1] - mean > mean - left[0]
        extreme = max(left[-1] - mean, mean - left[0])
        removed[i] = last - 1 if upper else first
        if extreme > critical[i] * _deviation(left, mean):
            outliers = i + 1
        first, last = (first, last - 1) if upper else (first + 1, last)
    for i in range(outliers):
        kept[removed[i]] = not suspect[removed[i]]


@numba.njit(nogil=True, cache=True)
def _reject_neighbours(values, variances, centre, scatter, flags, extra, rejector):
    """A quarter of the limit applies around strong outliers: the kernel's lobes and a trail's wings are there."""
    low2 = np.float32((_NEAR * max(rejector.low, _LEAST_LIMIT)) ** 2)
    high2 = np.float32((_NEAR * max(rejector.high, _LEAST_LIMIT)) ** 2)
    for n in range(len(values)):
        near, found = _near_strong(variances[n])
        if not found:
            continue
        fraction2, photons = rejector.fractions[n] * rejector.fractions[n], rejector.photon_slopes[n]
        for r in range(values.shape[1]):
            for x in range(values.shape[2]):
                if not near[r, x] or flags[r, x] & _ANY:
                    continue
                value, middle = values[n, r, x], centre[r, x]
                excess = value - middle
                expected = _expected_variance(
                    variances[n, r, x], photons, excess, scatter[r, x], extra[r, x], fraction2, middle
                )
                if excess * excess > (high2 if excess > 0 else low2) * expected:
                    values[n, r, x] = np.nan
                    variances[n, r, x] = _REJECTED_HIGH if excess > 0 else _REJECTED_LOW


@numba.njit(nogil=True, cache=True)
def _near_strong(variances):
    """Places within `_GROWTH` pixels of strongly rejected values in each direction, and whether there are any."""
    n_rows, n_columns = variances.shape
    near = np.zeros((n_rows, n_columns), np.uint8)
    found = False
    for r in range(n_rows):
        for x in range(n_columns):
            if variances[r, x] < _REJECTED_HIGH:
                near[max(0, r - _GROWTH) : r + _GROWTH + 1, max(0, x - _GROWTH) : x + _GROWTH + 1] = 1
                found = True
    return near, found


@numba.njit(nogil=True, cache=True)
def count_rejected(values, variances, first_row, weights, low, high, weight, of_frames):
    """Count the values that `reject` took out.

    Parameters
    ----------
    values, variances : ndarray of float32, shape (n, rows, columns)
        As `reject` left them.
    first_row : int
        Row of them that is the first of the results.
    weights : ndarray of float32, shape (n,)
        Of the frames.
    low, high : ndarray of int16, shape (rows, columns)
        Get the number of values rejected below and above.
    weight : ndarray of float32, shape (rows, columns)
        Gets the sum of their weights.
    of_frames : ndarray of int64, shape (n, 2)
        Gets the number of values rejected of each frame, and of all its values.
    """
    low[:], high[:], weight[:] = 0, 0, 0
    for n in range(len(variances)):
        rejected, number = 0, 0
        for r in range(len(low)):
            value, mark = values[n, first_row + r], variances[n, first_row + r]
            for x in range(low.shape[1]):
                number += 1 if value[x] == value[x] else 0
                if mark[x] < 0:
                    below = mark[x] == _REJECTED_LOW or mark[x] == _REJECTED_LOW + _STRONGLY
                    low[r, x] += 1 if below else 0
                    high[r, x] += 0 if below else 1
                    weight[r, x] += weights[n]
                    rejected += 1
        of_frames[n, 0], of_frames[n, 1] = rejected, number + rejected
