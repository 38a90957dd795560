"""Level of the sky: clipped statistics of the unmasked pixels, and a smooth model of the background."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nightflow.medians import quantile, ranked

ESTIMATORS = ("median", "mean", "mode", "sextractor")
DEFAULTS = {
    "method": "mesh",
    "estimator": "median",
    "sigma": 4.0,
    "maxiters": 10,
    "mesh": 128,
    "filter_size": 3,
    "max_masked": 0.8,
}
_SMALLEST_BOX = 32  # px, of a small frame: enough pixels for a level
_AT_A_TIME = 2**20  # pixels sorted together, so that their running sums stay small
_PAGE = 32  # of them, whose sums are kept
_IN_CACHE = 2**15  # pixels summed together
_LOST = 1e-4  # of a sum of squares; where less is left of it, it is summed anew


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
    times. At 4 sigma the clipping lowers the standard deviation of a Gaussian by 0.05 %, which is not corrected.

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
    pixels = data[usable]
    masked_fraction = 1.0 - pixels.size / max(np.size(data), 1)
    mean, median, stddev, npix = _clip(pixels, sigma, maxiters)
    return SkyStatistics(mean, median, 3 * median - 2 * mean, stddev, npix, masked_fraction)


def sky_model(data, mask=None, options: Mapping | None = None, *, statistics: SkyStatistics | None = None):
    """Background to subtract: one number, or a smooth image through the clipped levels of a mesh.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        Pixels with the sky in them.
    mask : ndarray of bool or int, shape (ny, nx), optional
        Pixels that are not zero here (sources, cosmic rays, bad pixels) are left out.
    options : mapping, optional
        ``method`` (``scalar`` or ``mesh``), ``estimator`` (``median``, ``mean``, ``mode`` or ``sextractor``:
        2.5 median - 1.5 mean where these agree to 0.3 standard deviations, else the median), ``sigma`` and
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

    References
    ----------
    ``sextractor``: Bertin & Arnouts (1996), A&AS 117, 393, section 3.
    """
    options = {**DEFAULTS, **(options or {})}
    if options["estimator"] not in ESTIMATORS:
        raise ValueError(f"sky.estimator is one of {', '.join(ESTIMATORS)}, not {options['estimator']!r}")
    if options["method"] == "scalar":
        return _scalar_model(data, mask, options, statistics)
    if options["method"] == "mesh":
        return _mesh_model(data, mask, options)
    raise ValueError(f"sky.method is scalar or mesh, not {options['method']!r}")


class LocalSky:
    """Level and standard deviation of the sky about each pixel, fast rather than exact: to detect sources by.

    Every other row and column is looked at. With `smooth_only` the level is a paraboloid through the meshes, from
    which meshes that sources brighten are left out: the start of an iteration, when nothing is masked yet.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        Pixels, all finite.
    usable : ndarray of bool, shape (ny, nx)
        Pixels to be looked at.
    mesh : int
        Side of the meshes, px.
    smooth_only : bool
        Fit a paraboloid instead of following each mesh.

    Attributes
    ----------
    widths : ndarray, shape (rows of meshes, columns of meshes)
        Standard deviation in each mesh.
    """

    def __init__(self, data, usable, mesh: int, *, smooth_only: bool = False):
        box = tuple(_box_size(n, mesh) for n in data.shape)
        boxes = clipped_boxes(data, usable, box, sigma=3.0, maxiters=10, step=2)
        share, levels = boxes["usable"] / (box[0] * box[1] / 4), boxes["median"]
        widths = boxes["stddev"] / 0.9866  # what clipping takes away from a Gaussian
        centres = [_box_centres(n, size) for n, size in zip(data.shape, box, strict=True)]
        measured = share > 0.25 * share.max()
        surface = _fit_surface(np.where(measured, levels, np.nan), centres, 2 if smooth_only else 1)
        residual = np.where(measured, levels - _surface_at(surface, *centres), np.nan)
        residual = np.zeros_like(levels) if smooth_only else _smooth_mesh(residual, 3)
        self.widths = _smooth_mesh(np.where(measured, widths, np.nan), 3)
        self._level = _Spline(residual, centres, data.shape, surface)
        self._width = _Spline(self.widths, centres, data.shape)

    def subtracted_from(self, data) -> np.ndarray:
        """`data` less the level, float32."""
        return self._above_level(data)

    def significance(self, data) -> np.ndarray:
        """`data` less the level, in standard deviations, float32."""
        return self._above_level(data, self._width)

    def _above_level(self, data, unit: _Spline | None = None) -> np.ndarray:
        above = np.empty(data.shape, np.float32)
        for rows in _strips(data.shape):
            np.subtract(data[rows], self._level.rows(rows), out=above[rows])
            if unit is not None:
                above[rows] /= unit.rows(rows)
        return above


def _strips(shape):
    """Rows at a time, so that what is worked out for them stays in the processor's cache."""
    height = max(1, _IN_CACHE // shape[1])
    return [slice(first, first + height) for first in range(0, shape[0], height)]


def clipped_boxes(data, usable, box, *, sigma: float, maxiters: int, step: int = 1) -> dict:
    """Clipped statistics of the usable pixels in each of the boxes that an image is divided into.

    The pixels of a box are sorted once; clipping then only moves two bounds, between which sums of the values and of
    their squares are differences of running sums.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
    usable : ndarray of bool, shape (ny, nx)
    box : tuple of int
        Rows and columns of a box; the last ones may be cut by the edge.
    sigma, maxiters : float, int
        As in `sky_statistics`.
    step : int
        Only every so many rows and columns are looked at.

    Returns
    -------
    boxes : dict of ndarray, shape (rows of boxes, columns of boxes)
        ``usable`` (pixels before clipping), ``median``, ``mean``, ``stddev``; NaN where no pixel is usable.
    """
    height = box[0] * max(1, _AT_A_TIME * step**2 // (box[0] * data.shape[1]))
    strips = [slice(y, y + height) for y in range(0, data.shape[0], height)]
    parts = [_clip_boxes(*_sorted_boxes(data[s], usable[s], box, step), sigma, maxiters) for s in strips]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _sorted_boxes(data, usable, box, step):
    """Usable pixels of each box, sorted, infinity behind them, shape (rows of boxes, columns of boxes, pixels)."""
    beyond = [(0, -n % size) for n, size in zip(data.shape, box, strict=True)]
    if beyond != [(0, 0), (0, 0)]:
        data, usable = np.pad(data, beyond), np.pad(usable, beyond)
    rows, columns = (n // size for n, size in zip(data.shape, box, strict=True))
    data, usable = (
        plane.reshape(rows, box[0], columns, box[1])[:, ::step, :, ::step].swapaxes(1, 2) for plane in (data, usable)
    )
    number = data.shape[2] * data.shape[3]
    pixels = np.full((rows, columns, -(-number // _PAGE) * _PAGE), np.inf, np.float32)
    np.copyto(pixels[..., :number].reshape(data.shape), data, where=usable, casting="same_kind")
    pixels.sort(axis=-1)
    return pixels, _count_below(pixels, np.full((rows, columns), np.inf))


def _clip_boxes(pixels, number, sigma, maxiters):
    """Statistics of sorted pixels, of which in each box the first `number` count."""
    kept = np.stack([np.zeros_like(number), number])  # the first that is, and the first behind those that are
    reference = np.nan_to_num(_middle(pixels, kept))  # the sums are about it, lest they lose digits
    deviation = np.subtract(pixels, reference[..., None], dtype=np.float64)
    sums = _Sums(deviation), _Sums(np.square(deviation))
    for rounds_left in range(maxiters, -1, -1):
        count = np.where(kept[1] > kept[0], kept[1] - kept[0], np.nan)
        mean, square = (np.subtract(*total.of_first(kept)[::-1]) / count for total in sums)
        stddev, median = np.sqrt(np.maximum(square - mean**2, 0)), _middle(pixels, kept)
        limits = [np.nan_to_num(median + sign * sigma * stddev).astype(np.float32) for sign in (-1, 1)]
        limits[1] = np.nextafter(limits[1], np.float32(np.inf))
        first, last = _count_below(pixels, np.stack(limits))
        previous, kept = kept, np.stack([np.maximum(kept[0], first), np.minimum(kept[1], last)])
        if not rounds_left or (kept == previous).all():
            break
    return {"usable": number, "median": median, "mean": reference + mean, "stddev": stddev}


class _Sums:
    """Sums of the first values of each box: of whole pages, and the rest of one."""

    def __init__(self, values):
        self._pages = values.reshape(*values.shape[:2], -1, _PAGE)
        self._before = np.zeros((*values.shape[:2], self._pages.shape[2] + 1))
        np.cumsum(self._pages.sum(axis=-1), axis=-1, out=self._before[..., 1:])

    def of_first(self, number):
        """The sum of so many values in each box."""
        page, rest = np.divmod(number, _PAGE)
        cut = _at(self._pages, np.minimum(page, self._pages.shape[2] - 1))
        return _at(self._before, page) + np.where(np.arange(_PAGE) < rest[..., None], cut, 0).sum(axis=-1)


def _at(values, index):
    """What has a number of its own in each box; `index` may have several for a box, along its first axis."""
    rows, columns = np.ogrid[: values.shape[0], : values.shape[1]]
    return values[rows, columns, index]


def _count_below(pixels, limit):
    """How many of the sorted pixels of each box are below its limit, by bisection."""
    low, high = np.zeros(limit.shape, np.intp), np.full(limit.shape, pixels.shape[-1])
    for _ in range(pixels.shape[-1].bit_length()):
        middle = (low + high) // 2
        below = (_at(pixels, np.minimum(middle, pixels.shape[-1] - 1)) < limit) & (low < high)
        low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
    return low


def _middle(pixels, kept):
    """Median of the sorted pixels from the first to before the second number in each box; NaN where there are none."""
    first, number = kept[0], kept[1] - kept[0]
    low, high = (
        _at(pixels, np.clip(first + n // 2, 0, pixels.shape[-1] - 1)).astype(float) for n in (number - 1, number)
    )
    return np.where(number > 0, np.where(number % 2, high, 0.5 * (low + high)), np.nan)


def _clip(pixels, sigma: float, maxiters: int):
    """Mean, median, standard deviation and number of the pixels that iterated clipping about the median leaves.

    The few that are left out are taken off the sums over all pixels, and off their ranks.
    """
    if not pixels.size:
        return np.nan, np.nan, np.nan, 0
    centre, low, high, left = quantile(pixels, 0.5), -np.inf, np.inf, None
    whole = _sums(pixels, centre)
    for rounds_left in range(maxiters, -1, -1):
        outside = pixels[(pixels < low) | (pixels > high)]
        previous, left = left, pixels.size - outside.size
        if not left:
            return np.nan, np.nan, np.nan, 0
        total, squares = (every - some for every, some in zip(whole, _sums(outside, centre), strict=True))
        if squares < _LOST * whole[1]:  # what is left of the sums has lost digits to values that are far off
            pixels = pixels[(pixels >= low) & (pixels <= high)]
            outside, whole = pixels[:0], _sums(pixels, centre)
            total, squares = whole
        below = np.count_nonzero(outside < low)
        median = float(ranked(pixels, [below + (left - 1) // 2, below + left // 2]).mean(dtype=np.float64))
        stddev = math.sqrt(max(squares / left - (total / left) ** 2, 0.0))
        if left == previous or not rounds_left:
            return centre + total / left, median, stddev, left
        low, high = max(low, np.float32(median - sigma * stddev)), min(high, np.float32(median + sigma * stddev))


def _sums(pixels, centre: float):
    """Sums of the deviations from `centre` and of their squares, in double precision."""
    total = squares = 0.0
    for first in range(0, pixels.size, _IN_CACHE):
        deviation = pixels[first : first + _IN_CACHE].astype(np.float64)
        deviation -= centre
        total += float(deviation.sum())
        squares += float(np.square(deviation, out=deviation).sum())
    return total, squares


def _scalar_model(data, mask, options, statistics):
    if statistics is None:
        statistics = sky_statistics(data, mask, sigma=options["sigma"], maxiters=options["maxiters"])
    if not statistics.npix:
        raise ValueError("no usable pixel to measure the sky on")
    level = _estimate(options["estimator"], statistics.mean, statistics.median, statistics.stddev)
    return float(level), statistics.stddev


def _mesh_model(data, mask, options):
    unusable = ~np.isfinite(data) if mask is None else ~np.isfinite(data) | (np.asarray(mask) != 0)
    if unusable.all():
        raise ValueError("no usable pixel to measure the sky on")
    box = tuple(_box_size(n, int(options["mesh"])) for n in data.shape)
    levels, rms = _mesh_levels(data, ~unusable, box, options)
    centres = [_box_centres(n, size) for n, size in zip(data.shape, box, strict=True)]
    plane = _fit_surface(levels, centres, 1)
    residual = _smooth_mesh(levels - _surface_at(plane, *centres), int(options["filter_size"]))
    return _Spline(residual, centres, data.shape, plane).rows(slice(None)), float(np.nanmedian(rms))


def _mesh_levels(data, usable, box, options):
    """Clipped level and standard deviation of every mesh; NaN where too few pixels are usable."""
    boxes = clipped_boxes(data, usable, box, sigma=options["sigma"], maxiters=options["maxiters"])
    share = boxes["usable"] / (box[0] * box[1])
    # the meshes with most pixels are always measured, however crowded the field
    measured = share > min(1.0 - options["max_masked"], 0.5 * float(share.max()))
    level = _estimate(options["estimator"], boxes["mean"], boxes["median"], boxes["stddev"])
    return [np.where(measured, mesh, np.nan) for mesh in (level, boxes["stddev"])]


def _estimate(estimator: str, mean, median, stddev):
    """Level of the sky from its clipped mean, median and standard deviation, by the names of `ESTIMATORS`."""
    if estimator == "sextractor":
        skewed = np.abs(mean - median) > 0.3 * stddev
        return np.where(skewed, median, 2.5 * median - 1.5 * mean)
    return {"mean": mean, "median": median, "mode": 3 * median - 2 * mean}[estimator]


def _box_size(n: int, mesh: int) -> int:
    """Size near `mesh` of which the boxes along an axis of `n` pixels are all nearly full.

    A small frame has three boxes along an axis all the same: with fewer its sky could have no gradient.
    """
    return -(-n // max(round(n / mesh), min(3, n // _SMALLEST_BOX), 1))


def _box_centres(n: int, size: int):
    starts = np.arange(0, n, size)
    return 0.5 * (starts + np.minimum(starts + size, n) - 1)


def _fit_surface(levels, centres, degree: int):
    """Coefficients of a polynomial surface through the meshes, outliers (mostly sources) left out.

    Filling, filtering and extending the mesh act on what is left after this surface, so that a gradient of the sky
    passes through them unchanged. Where the meshes are too few for `degree`, it is a plane, else a constant.
    """
    terms = _surface_terms(*centres, degree).reshape(levels.size, -1)
    values, keep = levels.ravel(), np.isfinite(levels.ravel())
    surface = np.zeros(terms.shape[1])
    surface[0] = np.median(values[keep])
    if np.count_nonzero(keep) < 3 * surface.size:
        return surface if degree == 1 else _fit_surface(levels, centres, 1)
    for _ in range(10):
        surface = np.linalg.lstsq(terms[keep], values[keep], rcond=None)[0]
        excess = values - terms @ surface
        spread = 1.4826 * np.median(np.abs(excess[keep])) + 1e-6 * abs(surface[0])
        centre = np.median(excess[keep])
        # sources only brighten, so that the upper limit is the closer one
        previous, keep = keep, (excess - centre < 2.5 * spread) & (centre - excess < 4 * spread)
        if np.count_nonzero(keep) < 2 * surface.size or (keep == previous).all():
            break
    return surface


def _surface_terms(y, x, degree: int):
    """Products of powers of the positions up to `degree`, shape (len(y), len(x), number of terms)."""
    return np.stack([np.outer((y * 1e-3) ** p, (x * 1e-3) ** q) for p, q in _powers(degree)], axis=-1)


def _powers(degree: int):
    return [(p, q) for p in range(degree + 1) for q in range(degree + 1 - p)]


def _surface_at(surface, y, x):
    return _surface_terms(y, x, 1 if surface.size == 3 else 2) @ surface


def _smooth_mesh(residual, filter_size: int):
    """Fill meshes that were not measured from their neighbours, then median-filter the mesh."""
    measured = np.isfinite(residual)
    if not measured.all():
        # inverse-square distances: the nearest measured meshes decide
        y, x = np.nonzero(~measured)
        my, mx = np.nonzero(measured)
        weight = ((y[:, None] - my) ** 2 + (x[:, None] - mx) ** 2).astype(float) ** -2
        residual = residual.copy()
        residual[~measured] = weight @ residual[measured] / weight.sum(axis=1)
    return residual if filter_size <= 1 else _median_filtered(residual, filter_size)


def _median_filtered(mesh, size: int):
    """Medians of the `size` x `size` meshes about each, edges repeated."""
    padded = np.pad(mesh, (size // 2, (size - 1) // 2), mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (size, size)).reshape(*mesh.shape, -1)
    return np.partition(around, size**2 // 2, axis=-1)[..., size**2 // 2]


class _Spline:
    """Cubic spline through mesh values at the boxes' true centres, constant beyond the outermost, plus a surface."""

    def __init__(self, values, centres, shape, surface=None):
        # splines through unit vectors: interpolation becomes one small matrix an axis
        basis = [
            _cardinal_splines(centre, np.clip(np.arange(n), centre[0], centre[-1]))
            for n, centre in zip(shape, centres, strict=True)
        ]
        if surface is not None:
            degree = 1 if surface.size == 3 else 2
            coefficients = np.zeros((degree + 1, degree + 1))
            coefficients[tuple(np.transpose(_powers(degree)))] = surface
            powers = [(np.arange(n)[:, None] * 1e-3) ** np.arange(degree + 1) for n in shape]
            basis = [np.hstack(pair) for pair in zip(basis, powers, strict=True)]
            corner = np.zeros((values.shape[0], degree + 1))
            values = np.block([[values, corner], [np.zeros((degree + 1, values.shape[1])), coefficients]])
        self._columns = (basis[0] @ values).astype(np.float32)
        self._rows = basis[1].T.astype(np.float32, order="C")

    def rows(self, rows: slice) -> np.ndarray:
        """Its values in some rows of the image, float32."""
        return self._columns[rows] @ self._rows


def _cardinal_splines(knots, at):
    """Cubic splines that are one at a knot and zero at the others, shape (len(at), len(knots)).

    The third derivative is continuous at the first and last inner knot; up to four knots have one polynomial.

    References
    ----------
    de Boor (1978), A Practical Guide to Splines, chapter IV.
    """
    n = knots.size
    scale = max(float(np.ptp(knots)), 1.0)
    knots, at = (knots - knots[0]) / scale, (at - knots[0]) / scale
    if n <= 4:
        return np.vander(at, n) @ np.linalg.inv(np.vander(knots, n))
    step, values = np.diff(knots), np.eye(n)
    # second derivatives at the knots: continuous slopes at the inner ones, equal third derivatives next to the ends
    left, right = np.zeros((n, n)), np.zeros((n, n))
    inner = np.arange(1, n - 1)
    left[inner, inner - 1], left[inner, inner + 1] = step[:-1], step[1:]
    left[inner, inner] = 2 * (step[:-1] + step[1:])
    right[1:-1] = 6 * np.diff(np.diff(values, axis=0) / step[:, None], axis=0)
    left[0, :3] = step[1], -step[0] - step[1], step[0]
    left[-1, -3:] = step[-1], -step[-2] - step[-1], step[-2]
    bend = np.linalg.solve(left, right)
    piece = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, n - 2)
    h, u = step[piece][:, None], (at - knots[piece])[:, None]
    w = h - u
    curved = (bend[piece] * (w**3 / h - w * h) + bend[piece + 1] * (u**3 / h - u * h)) / 6
    return curved + (values[piece] * w + values[piece + 1] * u) / h
