"""Noise that the pixels of a stack share: between neighbours by resampling, between frames by the masters.

Resampling spreads the noise of an input pixel over several output pixels. The variance of one output pixel falls,
yet the input pixel still counts fully in a sum over many. The noise of a master is the same in each frame calibrated
with it: it averages down only where dithers bring different detector pixels onto an output pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nightflow.resampling import TAPS, Grid, kernel_weights

#: Side in pixels of the square areas whose noise NOISECOR describes, about the aperture of a star.
BOX = 8
# Along each axis of the output, over which overlaps are averaged; an even number, since frames turned by half a turn
# have nothing but the centre in common.
_PLACES = 6


@dataclass(frozen=True)
class StackNoise:
    """Correlated noise of a stack.

    Attributes
    ----------
    squared_weights : ndarray, shape (n,)
        Sum of the squared kernel weights of each frame: variance of an output pixel for unit input variance.
    common_variance : ndarray of float32, shape (ny / BOX, nx / BOX), rounded up
        What the masters' noise adds to the variance of a pixel beyond that of independent frames, in boxes of pixels
        from the first one on: it depends on which frames cover them.
    correlation : float
        Standard deviation of the sum over a box of `BOX` x `BOX` pixels, in units of that of independent pixels.
    own_correlation : float
        The same of noise that frames do not share, such as the photon noise of stars.
    """

    squared_weights: np.ndarray
    common_variance: np.ndarray
    correlation: float
    own_correlation: float

    def common_in(self, rows: tuple[int, int], n_columns: int) -> np.ndarray:
        """`common_variance` of the pixels of some rows, shape (rows, n_columns)."""
        return self.common_variance[np.arange(*rows)[:, None] // BOX, np.arange(n_columns) // BOX]


def stack_noise(
    grids: Sequence[Grid],
    polynomials: np.ndarray,
    shape: tuple[int, int],
    weights: np.ndarray,
    factors: np.ndarray,
    variances: np.ndarray,
    common: np.ndarray,
    masters: Sequence,
) -> StackNoise:
    """Correlated noise of a weighted mean of resampled frames.

    Parameters
    ----------
    grids : sequence of `~nightflow.resampling.Grid`
        One a frame.
    polynomials : ndarray
        From `~nightflow.resampling.kernel_polynomials`.
    shape : tuple of int
        (ny, nx) of the stack.
    weights : ndarray, shape (n,)
        Of the frames in the mean.
    factors : ndarray, shape (n,)
        Of each frame's input pixels: flux scale times Jacobian.
    variances : ndarray, shape (n,)
        Variance of a sky pixel of each frame, the masters' share included.
    common : ndarray, shape (n,)
        The masters' standard deviation in a sky pixel of each frame.
    masters : sequence
        Which masters calibrated each frame: only frames with equal entries share noise.

    Notes
    -----
    With ``K_f(p, n)`` the weight of input pixel n in output pixel p of frame f, the covariance of two output pixels is
    ``sum_f sum_g a_f a_g c_fg sum_n K_f(p, n) K_g(p', n)``, with ``c_ff`` the variance of a frame and ``c_fg`` the
    common variance, and a_f the weight of a frame over that of all frames that cover the place. The sums over n are
    averaged over a grid of places; each frame's scale is taken as uniform.
    """
    shared = np.array([[a == b for b in masters] for a in masters])
    between = np.where(shared, np.outer(factors * common, factors * common), 0.0)
    np.fill_diagonal(between, 0.0)
    own = factors**2 * variances
    x, y = (c.ravel() for c in np.meshgrid(*(np.rint((np.arange(_PLACES) + 0.5) / _PLACES * n) for n in shape[::-1])))
    covering = _covering(grids, x, y)
    shares = _shares(covering, weights)
    pixel, box = (_overlaps(grids, polynomials, x, y, covering, side, between.any()) for side in (1, BOX))
    own_pixel, own_box = (float(((shares**2).sum(axis=0) * own * np.diag(sums)).sum()) for sums in (pixel, box))
    common_pixel, common_box = (float(_common(shares, between * sums).sum()) for sums in (pixel, box))
    return StackNoise(
        np.diag(pixel).copy(),
        _common_in_boxes(grids, shape, weights, between * pixel),
        _correlation(own_box + common_box, own_pixel + common_pixel),
        _correlation(own_box, own_pixel),
    )


def _correlation(of_box: float, of_pixel: float) -> float:
    return float(np.sqrt(of_box / (BOX**2 * of_pixel)))


def _covering(grids: Sequence[Grid], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which frames cover output positions, shape (places, n)."""
    covering = np.empty((len(x), len(grids)), bool)
    for column, grid in zip(covering.T, grids, strict=True):
        places = [row[0] * x + row[1] * y + row[2] for row in grid.matrix]
        inside = [(place > -0.5) & (place < n - 0.5) for place, n in zip(places, grid.frame_shape[::-1], strict=True)]
        column[:] = inside[0] & inside[1]
    return covering


def _shares(covering: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Part of each frame in the mean of those that cover a place."""
    shares = covering * weights
    return shares / np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(float).tiny)


def _common(shares: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Variance of a mean from the covariances of the frames, for each row of shares.

    Sums by einsum are the same on any number of cores, unlike those of a threaded linear algebra library.
    """
    return np.einsum("pg,pg->p", np.einsum("pf,fg->pg", shares, covariances), shares)


def _common_in_boxes(grids, shape: tuple[int, int], weights: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Common variance at the middle of each box of the stack."""
    ny, nx = (-(-n // BOX) for n in shape)
    if not covariances.any():
        return np.zeros((ny, nx), np.float32)
    x, y = (c.ravel() for c in np.meshgrid(*(np.minimum(np.arange(0, n, BOX) + BOX // 2, n - 1) for n in shape[::-1])))
    # few of the sets of frames that could cover a place do, and neighbours mostly have the same
    covering = np.packbits(_covering(grids, x, y), axis=1)
    starts = np.flatnonzero(np.append(True, (covering[1:] != covering[:-1]).any(axis=1)))
    sets, which = np.unique(covering[starts], axis=0, return_inverse=True)
    which = np.repeat(which, np.diff(starts, append=len(covering)))
    covering = np.unpackbits(sets, axis=1, count=len(grids)).astype(bool)
    return _common(_shares(covering, weights), covariances).astype(np.float32)[which].reshape(ny, nx)


def _overlaps(grids, polynomials, x, y, covering: np.ndarray, side: int, between_frames: bool) -> np.ndarray:
    """Sum over input pixels of the product of two frames' summed weights in a box, shape (n, n).

    Its mean over those of the places (x, y) that both frames cover. Only the diagonal is filled in unless
    `between_frames`.
    """
    n_taps = int(np.ceil(max(np.sqrt(grid.pixel_area) for grid in grids) * (side - 1))) + TAPS + 1
    boxes = [_box_weights(grid, polynomials, x, y, side, n_taps) for grid in grids]
    first, weights = (np.array([box[i] for box in boxes]) for i in (0, 1))  # (n, 2, places), (n, 2, taps, places)
    overlaps = np.diag(_mean((weights**2).sum(axis=2).prod(axis=1), np.where(covering.any(axis=0), covering, 1).T))
    for f in range(len(grids) if between_frames else 0):
        products = _products(first[f], weights[f], first[f:], weights[f:]).prod(axis=1)
        overlaps[f, f:] = _mean(products, (covering[:, f, None] & covering[:, f:]).T)
        overlaps[f:, f] = overlaps[f, f:]
    return overlaps


def _mean(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Mean of each row over the places that count; 0 where none does."""
    return (values * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)


def _box_weights(grid: Grid, polynomials, x, y, side: int, n_taps: int) -> tuple[np.ndarray, np.ndarray]:
    """First input pixel, shape (2, places), and summed weights, (2, taps, places), of boxes at output (x, y).

    The axes are those of the frame as it is stored.
    """
    step = np.sqrt(grid.pixel_area)
    firsts, totals = [], []
    for row, length, flipped in zip(grid.matrix, grid.frame_shape[::-1], (grid.flip_x, grid.flip_y), strict=True):
        start = row[0] * x + row[1] * y + row[2]
        first, total = np.floor(start).astype(int), np.zeros((n_taps, len(x)))
        for place in (start + k * step for k in range(side)):
            whole = np.floor(place).astype(int)
            for tap, weight in enumerate(kernel_weights(polynomials, place - whole)):
                total[whole - first + tap, np.arange(len(x))] += weight
        first = first - (TAPS // 2 - 1)
        firsts.append(length - first - n_taps if flipped else first)
        totals.append(total[::-1] if flipped else total)
    order = slice(None, None, -1 if grid.transposed else 1)
    return np.array(firsts)[order], np.array(totals)[order]


def _products(first, weights, firsts, others) -> np.ndarray:
    """Sums of products of one frame's weights with others' on the same input pixels, shape (n, 2, places)."""
    total = np.zeros(firsts.shape)
    n_taps = weights.shape[1]
    for k in range(n_taps):
        index = first + k - firsts
        inside = (index >= 0) & (index < n_taps)
        other = np.take_along_axis(others, np.where(inside, index, 0)[:, :, None], axis=2)[:, :, 0]
        total += np.where(inside, weights[:, k] * other, 0.0)
    return total
