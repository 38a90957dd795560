"""Combining aligned frames of equal shape, pixel by pixel, with rejection and uncertainty.

The frames are read in strips of rows, so that memory does not grow with their number, and the order statistics of a
strip come from a network of minima and maxima over whole planes: the time is linear in pixels and nothing is sorted
twice. The few pixels with an outlier or an invalid value are then taken out and combined one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Protocol

import numpy as np

METHODS = ("median", "mean", "clipped_mean")

#: Fewest frames whose own scatter is a usable yardstick for rejection.
MIN_FRAMES_FOR_SCATTER = 15

_CHUNK = 16384  # pixels a network works on at a time: the planes of a chunk stay in the processor's cache
_STRIP_PIXELS = 1 << 17  # larger strips save nothing more
_MAX_ITERATIONS = 5


class RowSource(Protocol):
    """A frame that delivers strips of rows."""

    shape: tuple[int, int]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` as float32, shape (stop - start, nx); invalid pixels are NaN."""


@dataclass(frozen=True)
class ArrayRows:
    """An array in memory as a source of rows."""

    pixels: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.pixels.shape

    def rows(self, start: int, stop: int) -> np.ndarray:
        return np.asarray(self.pixels[start:stop], dtype=np.float32)


@dataclass(frozen=True)
class NoiseModel:
    """Variance of one pixel of one frame, from the level that all frames have in common.

    A frame multiplied by ``scales[i]`` before combining has at level L the variance
    ``scales[i]**2 * (read_noise**2 + s / gain)`` with the signal ``s = L / scales[i] - pedestal``, none below
    `faintest`.

    Attributes
    ----------
    read_noise : float or ndarray, shape (ny, nx)
        Read noise in the unit of the unscaled data.
    gain : float or ndarray, shape (ny, nx), optional
        Electrons per unit of the unscaled data; None leaves the photon noise out.
    pedestal : float or ndarray, shape (ny, nx)
        Part of the unscaled level that carries no photon noise.
    scales : sequence of float, optional
        One factor a frame; 1 for all by default.
    faintest : float
        Smallest signal that counts, in the unit of the unscaled data: half of the noise is positive too.
    step : float
        Smallest difference of two values where all frames share one scale of whole numbers. `read_noise` includes the
        rounding; a mean averages it, but the median of whole numbers is a whole number again.
    """

    read_noise: float | np.ndarray = 0.0
    gain: float | np.ndarray | None = None
    pedestal: float | np.ndarray = 0.0
    scales: Sequence[float] | None = None
    faintest: float = 0.0
    step: float = 0.0

    def frame_scales(self, n_frames: int) -> np.ndarray:
        return np.asarray([1.0] * n_frames if self.scales is None else self.scales, dtype=np.float32)

    def variance(self, level: np.ndarray, place, square, linear) -> np.ndarray:
        """Variance at `level` for the pixels `place` of the frame, with ``sum(scales**2)`` and ``sum(scales)``."""
        variance = np.zeros_like(level) + square * np.square(_at(self.read_noise, place))
        if self.gain is not None:
            photons = linear * level - square * _at(self.pedestal, place)
            photons[~(photons > square * np.float32(self.faintest))] = 0
            variance += photons / _at(self.gain, place)
        return variance


@dataclass(frozen=True)
class Rejection:
    """Which values are left out: those further from the median than a number of standard deviations.

    Attributes
    ----------
    low, high : float
        Limits below and above the median, in standard deviations.
    fraction : float
        Part of the level added in quadrature to the standard deviation: frames may differ a little in level.
    scatter : bool
        Take the standard deviation from the sample's own quartiles, not from the noise model. A sample of ten or fewer
        cannot judge itself, so at least `MIN_FRAMES_FOR_SCATTER` frames are required.
    """

    low: float = 4.0
    high: float = 4.0
    fraction: float = 0.0
    scatter: bool = False


@dataclass
class Combined:
    """Result of `combine`.

    Attributes
    ----------
    data : ndarray of float32, shape (ny, nx)
        The combined pixels; NaN where no frame has a valid value.
    uncertainty : ndarray of float32, shape (ny, nx)
        Standard deviation of `data`.
    count : ndarray of uint16, shape (ny, nx)
        Frames used.
    rejected : ndarray of int, shape (n_frames,)
        Valid pixels of each frame that were left out.
    """

    data: np.ndarray
    uncertainty: np.ndarray
    count: np.ndarray
    rejected: np.ndarray


def combine(
    frames: Sequence[RowSource | np.ndarray],
    method: str = "median",
    *,
    sigma_model: NoiseModel | None = None,
    rejection: Rejection | None = None,
    memory_mb: float = 256,
) -> Combined:
    """Combine frames of equal shape.

    Parameters
    ----------
    frames : sequence of ndarray or `RowSource`, each of shape (ny, nx)
        The frames. Each is read once, strip after strip.
    method : {'median', 'mean', 'clipped_mean'}
        ``mean`` uses every valid value, ``median`` and ``clipped_mean`` those that `rejection` leaves.
    sigma_model : `NoiseModel`, optional
        Noise of the frames, for rejection and uncertainty. Without it the uncertainty is the sample's own.
    rejection : `Rejection`, optional
        None rejects nothing; ``clipped_mean`` requires it.
    memory_mb : float
        Bound of the working memory beside the result, in MB. It does not change the result.

    Returns
    -------
    Combined

    Raises
    ------
    ValueError
        Without frames, for unequal shapes, an unknown method, or a rejection that is missing or has no yardstick.

    Notes
    -----
    With ``var_i`` the variance of frame i, the variance of the mean of N frames is ``sum(var_i) / N**2``; the median's
    is that times `median_variance_factor` and, where the frames have different scales, `unequal_noise_factor`.
    """
    sources = [ArrayRows(frame) if isinstance(frame, np.ndarray) else frame for frame in frames]
    _check(sources, method, sigma_model, rejection)
    shape = sources[0].shape
    data, uncertainty, count = (np.empty(shape, dtype) for dtype in (np.float32, np.float32, np.uint16))
    result = Combined(data, uncertainty, count, np.zeros(len(sources), int))
    strip = _Strip(len(sources), method, sigma_model, None if method == "mean" else rejection)
    height = _strip_height(shape, len(sources), memory_mb)
    for start in range(0, shape[0], height):
        stop = min(start + height, shape[0])
        planes = [source.rows(start, stop) for source in sources]
        strip.combine(planes, slice(start, stop), result)
    return result


def _check(sources, method, sigma_model, rejection) -> None:
    if not sources:
        raise ValueError("there are no frames to combine")
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
    shapes = {tuple(source.shape) for source in sources}
    if len(shapes) > 1:
        raise ValueError(f"frames differ in shape: {sorted(shapes)}")
    if method == "clipped_mean" and rejection is None:
        raise ValueError("clipped_mean needs a rejection")
    if rejection is None or method == "mean":
        return
    if rejection.scatter and len(sources) < MIN_FRAMES_FOR_SCATTER:
        raise ValueError(f"rejection by scatter needs {MIN_FRAMES_FOR_SCATTER} frames, there are {len(sources)}")
    if sigma_model is None and not rejection.scatter:
        raise ValueError("rejection needs a noise model, or scatter=True")


def _strip_height(shape: tuple[int, int], n_frames: int, memory_mb: float) -> int:
    bytes_per_row = 4 * shape[1] * (n_frames + 8)
    pixels_bound = max(1, _STRIP_PIXELS // shape[1])
    return max(1, min(pixels_bound, int(memory_mb * 2**20) // bytes_per_row))


class _Strip:
    """Combines the planes of one strip after the other with the same settings."""

    def __init__(self, n_frames: int, method: str, noise: NoiseModel | None, rejection: Rejection | None):
        self.n_frames, self.method, self.noise, self.rejection = n_frames, method, noise, rejection
        self.scales = (noise or NoiseModel()).frame_scales(n_frames)
        self.factors, self.rounding = np.ones(n_frames + 1), np.zeros(n_frames + 1)
        if method == "median":
            self._set_median_factors()
        self.middle = ((n_frames - 1) // 2, n_frames // 2)
        self.quartiles = quartile_ranks(n_frames)
        self.ranks = self._needed_ranks()

    def _set_median_factors(self) -> None:
        """Variance of the median of n values: that of their mean times a factor, and what rounding adds to it."""
        n = np.arange(1, self.n_frames + 1)
        self.factors[1:] = [median_variance_factor(int(k)) for k in n]
        if self.noise is not None:
            self.rounding[3:] = self._rounding(n, self.factors[1:])[2:]
            self.factors[3:] *= unequal_noise_factor(self.scales, self.noise.gain is not None)

    def _rounding(self, n: np.ndarray, factors: np.ndarray) -> np.ndarray:
        """Variance by which the median of n whole numbers exceeds that of numbers with the same noise.

        The median of an odd number is rounded as a whole. Of an even number the two middle values are rounded apart
        where they differ, by sqrt(2 pi) sigma / n on average, as much as whole numbers do.
        """
        step = self.noise.step
        if step == 0:
            return np.zeros(n.size)
        gap = math.sqrt(2 * math.pi) * float(np.mean(self.noise.read_noise)) / n
        together = np.where(n % 2, 1.0, np.maximum(1 - 1.5 * gap / step, 0))
        return step**2 / 12 * (1 - factors / n) * together

    def combine(self, planes: list[np.ndarray], rows: slice, result: Combined) -> None:
        """Combine all pixels as if every value were good, then mend those where one is not."""
        planes = [np.ascontiguousarray(plane, dtype=np.float32).reshape(-1) for plane in planes]
        data, uncertainty, count = (a[rows].reshape(-1) for a in (result.data, result.uncertainty, result.count))
        first = rows.start * result.data.shape[1]
        doubtful = []
        for start in range(0, data.size, _CHUNK):
            part = slice(start, min(start + _CHUNK, data.size))
            place = slice(first + part.start, first + part.stop)
            found = self._combine_chunk([plane[part] for plane in planes], place, data[part], uncertainty[part])
            doubtful.append(np.flatnonzero(found) + start)
        count[:] = self.n_frames
        doubtful = np.concatenate(doubtful)
        for pixels in np.split(doubtful, range(_CHUNK, doubtful.size, _CHUNK)):
            values = np.stack([plane[pixels] for plane in planes])
            data[pixels], uncertainty[pixels], used = self._combine_columns(values, pixels + first)
            count[pixels] = used.sum(axis=0)
            result.rejected += (np.isfinite(values) & ~used).sum(axis=1)

    def _combine_chunk(self, chunk, place, data, uncertainty) -> np.ndarray:
        """Fill `data` and `uncertainty` from all values; returns where that may be wrong."""
        with np.errstate(invalid="ignore"):
            ordered = order_statistics(chunk, self.ranks)
            centre = _midpoint(ordered[self.middle[0]], ordered[self.middle[1]]) if ordered else chunk[0]
            data[:] = centre if self.method == "median" else _mean_about(centre, chunk)
            variance = self._variance_of_mean(chunk, data, place)
            variance *= np.float32(self.factors[self.n_frames])
            np.sqrt(variance + np.float32(self.rounding[self.n_frames]), out=uncertainty)
            return self._doubtful(ordered, centre, place) if self.rejection else np.isnan(data)

    def _needed_ranks(self) -> frozenset[int]:
        if self.method == "mean":
            return frozenset()
        ranks = set(self.middle)
        if self.rejection is not None:
            ranks |= {0, self.n_frames - 1}
            ranks |= set(self.quartiles) if self.rejection.scatter else set()
        return frozenset(ranks)

    def _doubtful(self, ordered, centre, place) -> np.ndarray:
        """Pixels whose extreme values pass the limit of the quietest frame, or that have an invalid value."""
        lowest, highest = ordered[0], ordered[self.n_frames - 1]
        if self.rejection.scatter:
            variance = _quartile_variance(ordered[self.quartiles[0]], ordered[self.quartiles[1]], self.n_frames)
        else:
            smallest = self.scales.min()
            variance = self.noise.variance(centre, place, smallest**2, smallest)
        sigma = self._allowed_sigma(variance, centre)
        good = (highest - centre <= self.rejection.high * sigma) & (centre - lowest <= self.rejection.low * sigma)
        return ~good  # a NaN among the values fails both comparisons

    def _allowed_sigma(self, variance, centre):
        fraction = np.float32(self.rejection.fraction)
        return np.sqrt(variance + (fraction * centre) ** 2) if fraction else np.sqrt(variance)

    def _variance_of_mean(self, chunk, level, place) -> np.ndarray:
        n = self.n_frames
        if self.noise is not None:
            return self.noise.variance(level, place, (self.scales**2).sum() / n**2, self.scales.sum() / n**2)
        squares = sum(np.square(plane - level) for plane in chunk)
        return squares / np.float32(n * (n - 1)) if n > 1 else np.full_like(level, np.nan)

    def _combine_columns(self, values: np.ndarray, place) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Combine columns of shape (n_frames, n_pixels) with invalid values and outliers left out."""
        used = np.isfinite(values)
        centre = _median_of(values, used)
        if self.rejection is not None:
            used, centre = self._reject(values, used, place)
        n = used.sum(axis=0)
        number = np.maximum(n, 1).astype(np.float32)
        deviations = np.where(used, values - centre, 0)
        data = centre if self.method == "median" else centre + deviations.sum(axis=0, dtype=np.float32) / number
        variance = self._variance_of_columns(deviations, used, data, place)
        uncertainty = np.sqrt(variance * self.factors[n] + self.rounding[n])
        return data, np.where(n > 0, uncertainty, np.nan), used

    def _variance_of_columns(self, deviations, used, level, place) -> np.ndarray:
        n = used.sum(axis=0)
        if self.noise is not None:
            square = np.where(used, self.scales[:, None] ** 2, 0).sum(axis=0)
            linear = np.where(used, self.scales[:, None], 0).sum(axis=0)
            safe = np.maximum(n, 1).astype(np.float32) ** 2
            return self.noise.variance(level, place, square / safe, linear / safe)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.square(deviations).sum(axis=0) / (n * (n - 1.0))

    def _reject(self, values, valid, place) -> tuple[np.ndarray, np.ndarray]:
        used = valid
        for _ in range(_MAX_ITERATIONS):
            centre = _median_of(values, used)
            sigma = self._column_sigma(values, used, centre, place)
            centre = self._disputed_centre(values, used, centre, sigma)
            with np.errstate(invalid="ignore"):
                deviation = values - centre
                kept = valid & (deviation <= self.rejection.high * sigma) & (-deviation <= self.rejection.low * sigma)
            if np.array_equal(kept, used):
                break
            used = kept
        return used, _median_of(values, used)

    def _column_sigma(self, values, used, centre, place) -> np.ndarray:
        if self.rejection.scatter:
            variance = _scatter_variance(values, used)
        else:
            scales = self.scales[:, None]
            variance = np.stack([self.noise.variance(centre, place, s**2, s) for s in scales])
        return self._allowed_sigma(variance, centre)

    def _disputed_centre(self, values, used, centre, sigma) -> np.ndarray:
        """Where the two middle values of an even number disagree, the lower one: outliers are mostly cosmic rays."""
        ordered = np.sort(np.where(used, values, np.inf), axis=0)
        n = used.sum(axis=0)
        lower = np.take_along_axis(ordered, np.maximum(n - 1, 0)[None] // 2, axis=0)[0]
        smallest = sigma if sigma.ndim == 1 else sigma.min(axis=0)
        with np.errstate(invalid="ignore"):
            disputed = (n > 0) & (centre - lower > self.rejection.high * smallest)
        return np.where(disputed, lower, centre)


def _at(value, place):
    """`value` at the pixels `place` (indices into the flattened frame) if it is an image, else itself."""
    return value.reshape(-1)[place] if isinstance(value, np.ndarray) else np.float32(value)


def _midpoint(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    return lower.copy() if lower is upper else np.float32(0.5) * (lower + upper)


def _mean_about(centre: np.ndarray, planes: Sequence[np.ndarray]) -> np.ndarray:
    """Mean as the centre plus the mean deviation: a float32 sum of deviations loses no precision."""
    total = np.zeros_like(centre)
    difference = np.empty_like(centre)
    for plane in planes:
        np.subtract(plane, centre, out=difference)
        total += difference
    return centre + total / np.float32(len(planes))


def _median_of(values: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Median of the used values of each column, shape (n_pixels,); NaN where there are none."""
    ordered = np.sort(np.where(used, values, np.inf), axis=0)
    n = used.sum(axis=0)
    lower = np.take_along_axis(ordered, np.maximum(n - 1, 0)[None] // 2, axis=0)[0]
    upper = np.take_along_axis(ordered, np.minimum(n // 2, len(values) - 1)[None], axis=0)[0]
    middle = np.where(lower == upper, lower, np.float32(0.5) * (lower + upper))
    return np.where(n > 0, middle, np.nan).astype(np.float32)


def quartile_ranks(n: int) -> tuple[int, int]:
    """Ranks (from 0) nearest to the lower and upper quartile of `n` sorted values."""
    lower = round(0.25 * (n - 1))
    return lower, n - 1 - lower


def _quartile_variance(lower: np.ndarray, upper: np.ndarray, n: int) -> np.ndarray:
    return np.square((upper - lower) * np.float32(1 / _quartile_distance(n)))


def _scatter_variance(values: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Variance of each column from the distance of its quartiles."""
    ordered = np.sort(np.where(used, values, np.inf), axis=0)
    n = used.sum(axis=0)
    variance = np.full(values.shape[1], np.inf, np.float32)
    for number in np.unique(n[n >= 4]):
        columns = n == number
        lower, upper = quartile_ranks(int(number))
        variance[columns] = _quartile_variance(ordered[lower, columns], ordered[upper, columns], int(number))
    return variance


@lru_cache
def _quartile_distance(n: int) -> float:
    """Expected distance of the quartile ranks of `n` standard normal values (Blom 1958: ranks (i - 3/8)/(n + 1/4))."""
    lower, upper = quartile_ranks(n)
    return NormalDist().inv_cdf((upper + 0.625) / (n + 0.25)) - NormalDist().inv_cdf((lower + 0.625) / (n + 0.25))


def order_statistics(planes: Sequence[np.ndarray], ranks: frozenset[int]) -> dict[int, np.ndarray]:
    """Values of given ranks at each pixel of several planes.

    Parameters
    ----------
    planes : sequence of ndarray, each of shape (n_pixels,)
        One plane a frame; not changed. A NaN makes the results of its pixel NaN.
    ranks : frozenset of int
        Ranks from 0, the smallest value.

    Returns
    -------
    dict of int to ndarray
        The plane of each rank.
    """
    wires = list(planes)
    spare: list[np.ndarray] = []
    borrowed = {id(plane) for plane in planes}

    def write(function: Callable, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return function(first, second, out=spare.pop() if spare else np.empty_like(first))

    for i, j, wants_lower, wants_upper in selection_network(len(wires), ranks):
        first, second = wires[i], wires[j]
        if wants_lower:
            wires[i] = write(np.minimum, first, second)
        if wants_upper:
            wires[j] = write(np.maximum, first, second)
        spare.extend(plane for plane in (first, second) if id(plane) not in borrowed)
    return {rank: wires[rank] for rank in ranks}


@lru_cache
def selection_network(n: int, ranks: frozenset[int]) -> tuple[tuple[int, int, bool, bool], ...]:
    """Comparators (i, j, lower wanted, upper wanted) that bring the values of `ranks` to their places.

    A merge-exchange network (Knuth 1998, The Art of Computer Programming 3, section 5.2.2, algorithm M) without the
    comparisons that none of the ranks depends on.
    """
    needed = set(ranks)
    kept = []
    for i, j in reversed(_merge_exchange(n)):
        if i in needed or j in needed:
            kept.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return tuple(reversed(kept))


def _merge_exchange(n: int) -> list[tuple[int, int]]:
    pairs = []
    top = 1 << max(0, (n - 1).bit_length() - 1)
    p = top if n > 1 else 0
    while p:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    return pairs


@lru_cache
def median_variance_factor(n: int) -> float:
    """Variance of the median of `n` normal values in units of the mean's variance.

    Notes
    -----
    The second moment of the middle order statistic, or of the mean of the two middle ones, integrated numerically from
    their joint density (David & Nagaraja 2003, Order Statistics, eqs. 2.1.6 and 2.2.1). The limit is pi / 2.
    """
    if n <= 2:
        return 1.0
    half_width = 12 / math.sqrt(n) if n > 9 else 8.0
    z = np.linspace(-half_width, half_width, 801)
    below = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in z])
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    if n % 2:
        weights = density * np.exp((n - 1) // 2 * np.log(4 * below * (1 - below)))
        return float(n * (weights * z**2).sum() / weights.sum())
    # the joint density is a product: its moments over all lower < upper follow from sums over upper for each lower
    lower, upper = (density * np.exp((n // 2 - 1) * np.log(2 * part)) for part in (below, 1 - below))
    none, first, second = (_sums_above(upper * z**power) for power in range(3))
    return float(n * 0.25 * (lower * (z**2 * none + 2 * z * first + second)).sum() / (lower * none).sum())


def _sums_above(values: np.ndarray) -> np.ndarray:
    """For each of `values` the sum of those behind it and of half of itself."""
    return np.cumsum(values[::-1])[::-1] - 0.5 * values


def unequal_noise_factor(scales: np.ndarray, photon_noise: bool) -> float:
    """Variance of the median of values of unequal noise, in units of that for equal noise of the same mean square.

    Parameters
    ----------
    scales : ndarray, shape (n_frames,)
        Factors by which the frames were multiplied.
    photon_noise : bool
        The standard deviations go with the square root of the factors, else with the factors.

    Notes
    -----
    The variance of the median depends on the density at the centre, hence on the mean of ``1 / sigma_i``, whereas that
    of the mean depends on the mean of ``sigma_i**2`` (the limit of large samples; within 1 % from three frames on for
    levels that differ by a factor of two).
    """
    sigma = np.sqrt(scales) if photon_noise else np.asarray(scales)
    return float(1 / np.mean(1 / sigma) ** 2 / np.mean(sigma**2))
