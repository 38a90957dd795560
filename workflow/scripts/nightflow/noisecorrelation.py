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
    common_variance : float
        What the masters' noise adds to the variance of a pixel beyond that of independent frames.
    correlation : float
        Standard deviation of the sum over a box of `BOX` x `BOX` pixels, in units of that of independent pixels.
    own_correlation : float
        The same of noise that frames do not share, such as the photon noise of stars.
    """

    squared_weights: np.ndarray
    common_variance: float
    correlation: float
    own_correlation: float


def stack_noise(
    grids: Sequence[Grid],
    polynomials: np.ndarray,
    shape: tuple[int, int],
    amplitudes: np.ndarray,
    variances: np.ndarray,
    common: np.ndarray,
    masters: Sequence,
) -> StackNoise:
    """Correlated noise of a linear combination of resampled frames.

    Parameters
    ----------
    grids : sequence of `~nightflow.resampling.Grid`
        One a frame.
    polynomials : ndarray
        From `~nightflow.resampling.kernel_polynomials`.
    shape : tuple of int
        (ny, nx) of the stack.
    amplitudes : ndarray, shape (n,)
        Factor of each frame's input pixels in the stack: weight times flux scale times Jacobian.
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
    common variance. It is averaged over a grid of places; each frame's scale is taken as uniform.
    """
    shared = np.array([[a == b for b in masters] for a in masters])
    between = np.where(shared, np.outer(amplitudes * common, amplitudes * common), 0.0)
    np.fill_diagonal(between, 0.0)
    own = amplitudes**2 * variances
    pixel, box = (_overlaps(grids, polynomials, shape, side, bool(between.any())) for side in (1, BOX))
    common_variance = float((between * pixel).sum())
    own_pixel, own_box = (float((own * np.diag(overlaps)).sum()) for overlaps in (pixel, box))
    of_box = own_box + float((between * box).sum())
    return StackNoise(
        np.diag(pixel).copy(), common_variance, _correlation(of_box, own_pixel + common_variance),
        _correlation(own_box, own_pixel),
    )  # fmt: skip


def _correlation(of_box: float, of_pixel: float) -> float:
    return float(np.sqrt(of_box / (BOX**2 * of_pixel)))


def _overlaps(grids, polynomials, shape, side: int, between_frames: bool) -> np.ndarray:
    """Sum over input pixels of the product of two frames' summed weights in a box, shape (n, n), mean of the places.

    Only the diagonal is filled in unless `between_frames`.
    """
    y, x = (c.ravel() for c in np.meshgrid(*(np.rint(np.linspace(0, n - 1, _PLACES)) for n in shape), indexing="ij"))
    n_taps = int(np.ceil(max(np.sqrt(grid.pixel_area) for grid in grids) * (side - 1))) + TAPS + 1
    boxes = [_box_weights(grid, polynomials, x, y, side, n_taps) for grid in grids]
    first, weights = (np.array([box[i] for box in boxes]) for i in (0, 1))  # (n, 2, places), (n, 2, taps, places)
    overlaps = np.diag((weights**2).sum(axis=2).prod(axis=1).mean(axis=1))
    for f in range(len(grids) if between_frames else 0):
        overlaps[f, f:] = _products(first[f], weights[f], first[f:], weights[f:]).prod(axis=1).mean(axis=1)
        overlaps[f:, f] = overlaps[f, f:]
    return overlaps


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
