"""Combination of the values that several frames have at each pixel of a strip: means, order statistics, weights.

The planes of a strip are float32 arrays of shape (n, rows, columns); a value that is missing or rejected is NaN.
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

import numba
import numpy as np

from nightflow.combine import median_variance_factor, quartile_ranks, selection_network
from nightflow.rejection import MIN_FRAMES_FOR_SCATTER

COMBINATIONS = ("sum", "mean", "median", "min", "max", "auto_adaptive", "entropy")

#: Rows around a pixel whose values decide its entropy.
ENTROPY_HALO = 4

_CHUNK = 256  # pixels whose values of all frames stay in the processor's nearest cache while they are sorted
_ADAPTIVE_RANGE2 = np.float32(2.5**2)
# Square of three standard deviations of the Laplacian of unit noise; the squares of its five weights add up to 20.
_LAPLACIAN_LIMIT2 = np.float32(3**2 * 20)
_LEVELS = 4096  # of the histogram of a neighbourhood
_LEAST_ENTROPY = np.float32(1e-3)  # where no frame has any structure, all weigh alike


def sorting_network(n_frames: int) -> np.ndarray:
    """Comparisons (lower place, upper place) that sort `n_frames` values, shape (k, 2)."""
    network = selection_network(n_frames, frozenset(range(n_frames)))
    return np.array([(i, j) for i, j, _, _ in network], dtype=np.int64).reshape(-1, 2)


def rank_table(n_frames: int) -> np.ndarray:
    """For 0 to `n_frames` values: the quartiles' ranks, the median's variance factor, the quartiles' distance.

    The distance of the quartile ranks of normal values in standard deviations is Blom's (1958), for ranks i from 1:
    the quantile (i - 3/8) / (n + 1/4). It is infinite for samples too small to judge themselves.
    """
    table = np.ones((n_frames + 1, 4), np.float32)
    for n in range(1, n_frames + 1):
        lower, upper = quartile_ranks(n)
        normal = NormalDist()
        distance = normal.inv_cdf((upper + 0.625) / (n + 0.25)) - normal.inv_cdf((lower + 0.625) / (n + 0.25))
        table[n] = lower, upper, median_variance_factor(n), distance if n >= MIN_FRAMES_FOR_SCATTER else np.inf
    return table


@numba.njit(nogil=True, cache=True)
def average(values, variances, first_row, weights, data, variance, coverage, total_weight):
    """Weighted mean of the finite values and its variance, sum(w^2 var) / sum(w)^2.

    Parameters
    ----------
    values, variances : ndarray of float32, shape (n, rows, columns)
    first_row : int
        Row of them that is the first of the results.
    weights : ndarray of float32, shape (n,)
    data, variance, coverage, total_weight : ndarray, shape (rows, columns)
        Get the results; `data` and `variance` are NaN where there is no value.
    """
    n_frames, _, n_columns = values.shape
    for r in range(len(data)):
        mean, var, count, weight = data[r], variance[r], coverage[r], total_weight[r]
        mean[:] = 0
        var[:] = 0
        count[:] = 0
        weight[:] = 0
        for n in range(n_frames):
            w, value, own = weights[n], values[n, first_row + r], variances[n, first_row + r]
            for x in range(n_columns):
                good = value[x] == value[x]
                mean[x] += w * value[x] if good else np.float32(0)
                var[x] += w * w * own[x] if good else np.float32(0)
                weight[x] += w if good else np.float32(0)
                count[x] += 1 if good else 0
        for x in range(n_columns):
            if weight[x] > 0:
                mean[x] /= weight[x]
                var[x] /= weight[x] * weight[x]
            else:
                mean[x] = np.nan
                var[x] = np.nan


@numba.njit(nogil=True, cache=True)
def order_statistic(values, variances, network, ranks, rank, limit, centre, scatter):
    """Minimum, maximum or median of the finite values, and the variance that their quartiles show.

    Parameters
    ----------
    values, variances : ndarray of float32, shape (n, rows, columns)
    network, ranks : ndarray
        From `sorting_network` and `rank_table`.
    rank : int
        0 for the minimum, 1 for the maximum, 2 for the median.
    limit : float
        Where the two middle values of an even number differ by more than this many standard deviations, the lower one
        is the median: outliers are mostly cosmic rays. 0 takes their mean always.
    centre, scatter : ndarray of float32, shape (rows, columns)
        Get the results; `scatter` only with the median.
    """
    n_frames, n_rows, n_columns = values.shape
    ordered = np.empty((n_frames, _CHUNK), np.float32)
    count = np.empty(_CHUNK, np.int64)
    smallest = np.empty(_CHUNK, np.float32)
    for r in range(n_rows):
        for start in range(0, n_columns, _CHUNK):
            size = min(_CHUNK, n_columns - start)
            count[:] = 0
            smallest[:] = np.inf
            for n in range(n_frames):
                value, own = values[n, r, start : start + size], variances[n, r, start : start + size]
                row = ordered[n]
                for x in range(size):
                    good = value[x] == value[x]
                    row[x] = value[x] if good else np.float32(np.inf)
                    count[x] += 1 if good else 0
                    smallest[x] = own[x] if own[x] < smallest[x] else smallest[x]
            # a network of comparisons of whole rows: no branches, unit stride
            for p in range(len(network)):
                lower, upper = ordered[network[p, 0]], ordered[network[p, 1]]
                for x in range(size):
                    a, b = lower[x], upper[x]
                    lower[x] = b if b < a else a
                    upper[x] = a if b < a else b
            for x in range(size):
                n = count[x]
                if n == 0:
                    centre[r, start + x] = np.nan
                    continue
                if rank < 2:
                    centre[r, start + x] = ordered[0 if rank == 0 else n - 1, x]
                    continue
                a, b = ordered[(n - 1) // 2, x], ordered[n // 2, x]
                disputed = limit > 0 and (b - a) ** 2 > 2 * limit * limit * smallest[x]
                centre[r, start + x] = a if disputed else np.float32(0.5) * (a + b)
                width = (ordered[int(ranks[n, 1]), x] - ordered[int(ranks[n, 0]), x]) / ranks[n, 3]
                scatter[r, start + x] = width * width


@numba.njit(nogil=True, cache=True)
def match_seeing(values, first_row, centre, variance, sharpness):
    """Bring the stars of the frames at each pixel to their mean profile, where the median stands out of the noise.

    A median has the seeing of the middle frames in the cores of stars. In their wings, where noise hides how frames
    differ, it is a mean. Where the frames' seeing is skewed about its middle, the two do not add up to a star's flux.
    Frames of different seeing differ, to first order, by a multiple of the Laplacian (of which a Gaussian's derivative
    by its variance is half), whose sum over a star is zero: the mean of the frames, and all fluxes, stay.

    Parameters
    ----------
    values : ndarray of float32, shape (n, rows, columns)
        Rows from `first_row` on are changed, as many as `variance` has.
    first_row : int
    centre : ndarray of float32, shape (rows of values, columns)
        Median, with one row around the rows that change, except at the border of the stack.
    variance : ndarray of float32, shape (rows, columns)
        Of the median.
    sharpness : ndarray of float32, shape (n,)
        Multiple of the negative Laplacian by which each frame exceeds some profile, px^2.
    """
    n_columns = values.shape[2]
    curvature, total, count = np.empty((3, n_columns), np.float32)
    for r in range(len(variance)):
        row = first_row + r
        above, here, below = centre[max(row - 1, 0)], centre[row], centre[min(row + 1, len(centre) - 1)]
        for x in range(n_columns):
            beside = here[max(x - 1, 0)] + here[min(x + 1, n_columns - 1)]
            laplacian = above[x] + below[x] + beside - np.float32(4) * here[x]
            seen = laplacian * laplacian > _LAPLACIAN_LIMIT2 * variance[r, x]  # and not NaN
            curvature[x] = laplacian if seen else np.float32(0)
        total[:], count[:] = 0, 0
        for n in range(len(values)):
            value = values[n, row]
            for x in range(n_columns):
                good = value[x] == value[x]
                total[x] += sharpness[n] if good else np.float32(0)
                count[x] += np.float32(1) if good else np.float32(0)
        for n in range(len(values)):
            value = values[n, row]
            for x in range(n_columns):
                if curvature[x] != 0 and count[x] > 0:
                    value[x] += (sharpness[n] - total[x] / count[x]) * curvature[x]


@lru_cache
def adaptive_variance_factor() -> float:
    """Variance of the adaptive mean of normal values in units of the plain mean's.

    E[psi^2] / E[psi']^2 with psi(z) = z / (1 + (z / 2.5)^6) (Huber 1964, Ann. Math. Stat. 35, 73).
    """
    z = np.linspace(-8, 8, 4001)
    density = np.exp(-0.5 * z**2)
    density /= density.sum()
    part = (z**2 / _ADAPTIVE_RANGE2) ** 3
    psi, slope = z / (1 + part), (1 - 5 * part) / (1 + part) ** 2
    return float((density * psi**2).sum() / (density * slope).sum() ** 2)


@numba.njit(nogil=True, cache=True)
def adaptive_average(
    values, variances, first_row, weights, fractions, centre, scatter, extra, iterations,
    data, variance, coverage, weight,
):  # fmt: skip
    """Mean whose weights fall with the distance from it, iterated.

    Each value counts with 1 / (1 + (d / 2.5 s)^6), d its distance from the mean of the round before and s its expected
    standard deviation: the propagated one, or what the quartiles show where that is more, with what seeing and local
    gradient allow in quadrature. The form of the weight, its range and its exponent are those that Stetson recommends
    against bad pixels (1987, PASP 99, 191; 1994, PASP 106, 250). The first round starts from the median.

    Parameters
    ----------
    values, variances, first_row, weights
        See `average`.
    fractions : ndarray of float32, shape (n,)
        Part of the level by which a frame may differ, added to s in quadrature.
    centre, scatter : ndarray of float32, shape (rows of values, columns)
        From `order_statistic`.
    extra : ndarray of float32, shape (rows of values, columns)
        Variance that the local gradient allows (`rejection.gradient_variance`).
    iterations : int
    data, variance, coverage, weight : ndarray, shape (rows, columns)
        Get the mean, its variance for given weights, the number of values and the sum of their final weights.
    """
    n_columns = values.shape[2]
    total, spread = np.empty(n_columns, np.float32), np.empty(n_columns, np.float32)
    for r in range(len(data)):
        mean, var, count, sums = data[r], variance[r], coverage[r], weight[r]
        mean[:] = centre[first_row + r]
        spread[:], more = scatter[first_row + r], extra[first_row + r]
        for _ in range(iterations):
            total[:], var[:], count[:], sums[:] = 0, 0, 0, 0
            for n in range(len(values)):
                value, own = values[n, first_row + r], variances[n, first_row + r]
                fraction2 = fractions[n] * fractions[n]
                for x in range(n_columns):
                    good = value[x] == value[x]
                    distance = value[x] - mean[x]
                    square = max(own[x], spread[x]) + more[x] + fraction2 * mean[x] * mean[x]
                    part = distance * distance / (_ADAPTIVE_RANGE2 * (square if good else np.float32(1)))
                    w = weights[n] / (np.float32(1) + part * part * part)
                    w = w if good else np.float32(0)
                    total[x] += w * (value[x] if good else np.float32(0))
                    var[x] += w * w * (own[x] if good else np.float32(0))
                    sums[x] += w
                    count[x] += 1 if good else 0
            for x in range(n_columns):
                mean[x] = total[x] / sums[x] if sums[x] > 0 else np.float32(np.nan)
        for x in range(n_columns):
            var[x] = var[x] / (sums[x] * sums[x]) if sums[x] > 0 else np.float32(np.nan)


@numba.njit(nogil=True, cache=True)
def entropy_average(values, variances, first_row, weights, steps, data, variance, coverage, weight):
    """Mean weighted by the entropy of each frame's neighbourhood: where a frame is burnt out it says nothing.

    The entropy of the values within 4 pixels in each direction, -sum(p ln p), counted in steps of the sky's noise
    (German, Jenkin & Lesperance 2005, Entropy-Based Image Merging, Proc. 2nd Canadian Conf. on Computer and Robot
    Vision, 81). Neighbourhoods end at the first and last row of `values`.

    Parameters
    ----------
    values, variances, first_row, weights, data, variance, coverage, weight
        See `average`.
    steps : ndarray of float32, shape (n,)
        Standard deviation of the sky of each frame.
    """
    logarithms = _n_log_n()
    entropy = np.empty(values.shape[2], np.float32)
    data[:], variance[:], coverage[:], weight[:] = 0, 0, 0, 0
    for n in range(len(values)):
        for r in range(len(data)):
            _entropy_of_row(values[n], first_row + r, steps[n], logarithms, entropy)
            value, own = values[n, first_row + r], variances[n, first_row + r]
            for x in range(values.shape[2]):
                if value[x] == value[x]:
                    w = weights[n] * (entropy[x] + _LEAST_ENTROPY)
                    data[r, x] += w * value[x]
                    variance[r, x] += w * w * own[x]
                    coverage[r, x] += 1
                    weight[r, x] += w
    for r in range(len(data)):
        for x in range(data.shape[1]):
            w = weight[r, x]
            data[r, x] = data[r, x] / w if w > 0 else np.float32(np.nan)
            variance[r, x] = variance[r, x] / (w * w) if w > 0 else np.float32(np.nan)


@numba.njit(nogil=True, cache=True)
def _n_log_n():
    table = np.zeros((2 * ENTROPY_HALO + 1) ** 2 + 1)
    for n in range(2, len(table)):
        table[n] = n * np.log(n)
    return table


@numba.njit(nogil=True, cache=True)
def _entropy_of_row(values, row, step, logarithms, entropy):
    """Entropy of the neighbourhood of each pixel of a row: a histogram slides along it."""
    n_rows, n_columns = values.shape
    first, last = max(0, row - ENTROPY_HALO), min(n_rows, row + ENTROPY_HALO + 1)
    histogram = np.zeros(_LEVELS, np.int64)
    number, total = 0, 0.0  # values in the histogram, sum of n ln n
    for x in range(-ENTROPY_HALO, n_columns):
        for column, change in ((x - ENTROPY_HALO - 1, -1), (x + ENTROPY_HALO, 1)):
            if column < 0 or column >= n_columns:
                continue
            for r in range(first, last):
                value = values[r, column]
                if value == value:
                    # the histogram is a ring: values of one neighbourhood that differ by 4096 sigma share a level
                    level = np.int64(np.floor(value / step)) % _LEVELS
                    total -= logarithms[histogram[level]]
                    histogram[level] += change
                    total += logarithms[histogram[level]]
                    number += change
        if x >= 0:
            entropy[x] = max(np.log(number) - total / number, 0.0) if number > 0 else 0.0
