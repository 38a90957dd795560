"""Medians of a few values at a time, for whole images, and of all the pixels of one.

The former are exchanges of minima and maxima in place of sorting; for the latter only what is near the median of a
sample is sorted. Both are exact.
"""

from __future__ import annotations

import math

import numpy as np

# Pixels worked on at a time, so that what is being exchanged stays in the processor's cache.
_AT_A_TIME = 16384
# Values that bracket the median of many, and how far from theirs, in standard errors, the bracket reaches.
_SAMPLE, _MARGIN = 16384, 5


def median_of(arrays):
    """Median of an odd number of arrays, element by element.

    One more than half of the values are held; the smallest and the largest of them cannot be the median and are
    dropped, the next value is taken in, and so on until one is left.

    Parameters
    ----------
    arrays : sequence of ndarray
        Of one shape, without NaN.

    Returns
    -------
    median : ndarray

    Raises
    ------
    ValueError
        If their number is even.

    References
    ----------
    Paeth (1990), Graphics Gems, Academic Press, p. 171.
    """
    if len(arrays) % 2 == 0:
        raise ValueError(f"the median of {len(arrays)} arrays is not one of them")
    held, waiting = list(arrays[: len(arrays) // 2 + 2]), list(arrays[len(arrays) // 2 + 2 :])
    while len(held) > 1:
        held = _without_extremes(held)
        if waiting:
            held.append(waiting.pop())
    return held[0]


def _without_extremes(values):
    """The values without the smallest and the largest at each place, in no order."""
    half = len(values) // 2
    pairs = list(zip(values[:half], values[: -half - 1 : -1], strict=True))
    low, high, kept = [np.minimum(*p) for p in pairs], [np.maximum(*p) for p in pairs], []
    if len(values) % 2:
        # of the middle one and a low one, the larger may be the largest of all
        high.append(np.maximum(low[-1], values[half]))
        low[-1] = np.minimum(low[-1], values[half])
    for keep, drop, half in ((np.maximum, np.minimum, low), (np.minimum, np.maximum, high)):
        extreme = half[0]
        for number, value in enumerate(half[1:], start=2):
            kept.append(keep(extreme, value))
            if number < len(half):
                extreme = drop(extreme, value)
    return kept


def separable_median(image, size: int = 5):
    """Medians of `size` pixels along the columns, then of `size` along the rows, edges repeated.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Without NaN.
    size : int
        Odd.

    Returns
    -------
    smooth : ndarray, shape (ny, nx)
    """
    ny, nx = image.shape
    half, step = size // 2, max(_AT_A_TIME // nx, 1)
    smooth = np.empty_like(image)
    for first in range(0, ny, step):
        last = min(first + step, ny)
        rows = np.take(image, np.arange(first - half, last + half), axis=0, mode="clip")
        rows = median_of([rows[i : i + last - first] for i in range(size)])
        rows = np.pad(rows, ((0, 0), (half, half)), mode="edge")
        smooth[first:last] = median_of([rows[:, i : i + nx] for i in range(size)])
    return smooth


def separable_median_at(image, y, x, size: int = 5):
    """Values of `separable_median` at some pixels only.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Without NaN.
    y, x : ndarray of int, shape (n,)
    size : int
        Odd.

    Returns
    -------
    smooth : ndarray, shape (n,)
    """
    smooth = np.empty(len(y), image.dtype)
    offset = np.arange(size)[:, None] - size // 2
    for first in range(0, len(y), _AT_A_TIME // 4):
        part = slice(first, first + _AT_A_TIME // 4)
        rows, columns = (np.clip(at[part] + offset, 0, n - 1) for at, n in zip((y, x), image.shape, strict=True))
        smooth[part] = median_of(median_of(image[rows[:, None], columns]))
    return smooth


def median_of_many(values):
    """Median of all values together, as numpy's but in a quarter of its time.

    Parameters
    ----------
    values : ndarray
        Any number of them but none, without NaN.

    Returns
    -------
    median : scalar of their type
    """
    return np.mean(ranked(values, [(values.size - 1) // 2, values.size // 2]))


def median_of_known(values) -> float:
    """Median of the values that are not NaN, as numpy's ``nanmedian`` but sooner; NaN where there are none.

    Parameters
    ----------
    values : ndarray
        Of floating point.
    """
    unknown = np.isnan(values)
    known = values[~unknown] if unknown.any() else values
    return float(median_of_many(known)) if known.size else math.nan


def quantile(values, share: float) -> float:
    """Value below which a share of all values lies, interpolated between two of them.

    Parameters
    ----------
    values : ndarray
        Any number of them but none, without NaN.
    share : float
        From 0 to 1.
    """
    place = share * (values.size - 1)
    low, high = ranked(values, [math.floor(place), math.ceil(place)]).astype(float)
    return float(low + (place - math.floor(place)) * (high - low))


def ranked(values, ranks):
    """Values of a few ranks beside each other, the smallest value having rank 0.

    Parameters
    ----------
    values : ndarray
        Without NaN.
    ranks : list of int
        In order.

    Returns
    -------
    ndarray, shape (number of ranks,)
    """
    values = values.ravel()
    sample = np.sort(values[:: values.size // _SAMPLE | 1])  # odd, lest they all be of a few columns
    reach = int(_MARGIN * np.sqrt(sample.size) / 2) + 1
    middle = ranks[0] * sample.size // values.size
    low, high = sample[max(middle - reach, 0)], sample[min(middle + reach, sample.size - 1)]
    below, within = np.count_nonzero(values < low), (values >= low) & (values <= high)
    if not below <= ranks[0] <= ranks[-1] < below + np.count_nonzero(within):  # the sample is not like the rest
        below, near = 0, values
    elif low == high:
        return np.full(len(ranks), low)
    else:
        near = np.compress(within, values)  # where one in three is within, in a quarter of the time of an index
    ranks = [rank - below for rank in ranks]
    return np.partition(near, ranks)[ranks]
