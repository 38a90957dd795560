"""Resampling of a frame onto the reference grid, a block of output pixels at a time.

One interpolation stands between calibrated pixels and the stack. Each output pixel is the sum of the input pixels
around its place times a kernel, scaled by the Jacobian so that the flux of a star is kept; its variance is the sum of
the input variances times the squared kernel. It depends on its own footprint only, so that blocks, threads and their
number never change a bit of the result.

A pixel without a true value (`products.UNUSABLE`, or off the frame) is bridged from its neighbours, and an output
pixel is left out where such pixels carry more than `MAX_BRIDGED` of its weight. Leaving out every footprint that
touches one would cost 36 output pixels for each hot pixel; renormalising the rest of the kernel shifts the star under
it. At the limit of 0.2 a cosmic ray or hot pixel costs 2.6 output pixels for each of its own, and those kept near it
are wrong by 0.06 sigma rms in the sky, 0.1 (FWHM 3.5 px) to 0.3 sigma (2.2 px) in bright stars; at 0.05 it costs 7.1
for a third of that error, at 0.5 1.2 for twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numba
import numpy as np

from nightflow.products import UNUSABLE, MaskBit

#: Largest share of the kernel's weight, in absolute value, that bridged pixels may carry.
MAX_BRIDGED = 0.2

#: Taps of the widest kernel; narrower kernels have zeros around them.
TAPS = 6
_HALF = TAPS // 2
_BRIDGE_RADIUS = 3
#: Rows and columns around a footprint that decide its value.
MARGIN = _HALF + _BRIDGE_RADIUS
_DEGREE = 9
_LEAST_BLOCK = 256  # columns
_DEGREES = (0, 1, 2, 3, 5, 7, 9)  # of the distortion, the lowest that meets the tolerance
_DISTORTION_TOLERANCE = 2e-3  # px
_NO_DISTORTION = np.zeros((3, 0, 0))
_UNUSABLE = np.uint16(UNUSABLE)
_NO_DATA = np.uint16(MaskBit.NO_DATA)
_SATURATED = np.uint16(MaskBit.SATURATED)
# A saturated or non-linear pixel counts for the output pixel's mask where its weight exceeds this: the far lobes of a
# kernel would otherwise widen every saturated core by five pixels.
_FLAG_WEIGHT = 0.15


def _nearest(t):
    return (np.abs(t) < 0.5).astype(float)


def _bilinear(t):
    return np.clip(1 - np.abs(t), 0, None)


def _cubic(t):
    """Cubic convolution with a = -1/2 (Keys 1981, IEEE Trans. ASSP 29, 1153, eq. 15)."""
    t = np.abs(t)
    inner = (1.5 * t - 2.5) * t**2 + 1
    outer = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return np.where(t < 1, inner, np.where(t < 2, outer, 0.0))


def _lanczos3(t):
    """Sinc windowed by the central lobe of a sinc three times wider (Duchon 1979, J. Appl. Meteor. 18, 1016)."""
    return np.where(np.abs(t) < 3, np.sinc(t) * np.sinc(t / 3), 0.0)


KERNELS = {"nearest": _nearest, "bilinear": _bilinear, "cubic": _cubic, "lanczos3": _lanczos3}


def kernel_polynomials(kernel: str) -> np.ndarray:
    """Weights of the six taps as polynomials of the position between two pixels.

    Parameters
    ----------
    kernel : str
        One of `KERNELS`.

    Returns
    -------
    ndarray of float32, shape (6, 10)
        Row t holds the coefficients, highest power first, of the weight of pixel t - 2 at the place u + 1/2 past pixel
        0, for -1/2 <= u < 1/2. Polynomial kernels are exact; for Lanczos the error is below the rounding of float32.

    Raises
    ------
    ValueError
        If the kernel is unknown.
    """
    if kernel not in KERNELS:
        raise ValueError(f"stack.kernel is {kernel!r}, must be one of {', '.join(KERNELS)}")
    nodes = 0.5 * np.cos(np.pi * (np.arange(64) + 0.5) / 64)
    weights = _tap_weights(kernel, nodes + 0.5)
    return np.array([np.polyfit(nodes, row, _DEGREE) for row in weights]).astype(np.float32)


def _tap_weights(kernel: str, fraction: np.ndarray) -> np.ndarray:
    """Weights of pixels -2 to 3 at the `fraction` past pixel 0, shape (6, n), with the moments of an interpolation.

    A bare Lanczos kernel ripples by 0.6 % on a flat sky, and with its sum set to one it still moves stars by up to
    0.02 pixels, depending on the fraction. The smallest change of the weights that puts their centroid at the fraction
    keeps a gradient straight; shifting the kernel instead would cost 10 mmag where the scale changes.
    """
    taps = np.arange(1 - _HALF, _HALF + 1)[:, None]
    if kernel == "nearest":  # positions are rounded beforehand
        return np.repeat(KERNELS[kernel](taps), len(fraction), axis=1)
    weights = KERNELS[kernel](taps - fraction)
    weights /= weights.sum(axis=0)
    arm = taps - taps.mean()
    return weights + arm * (fraction - (weights * taps).sum(axis=0)) / (arm**2).sum()


def kernel_weights(polynomials: np.ndarray, fraction) -> np.ndarray:
    """Weights of the six taps at the `fraction` past pixel 0, shape (6, ...)."""
    return np.array([np.polyval(row.astype(float), np.asarray(fraction) - 0.5) for row in polynomials])


@dataclass(frozen=True)
class Grid:
    """Where the output pixels fall in a frame.

    Attributes
    ----------
    matrix : ndarray of float64, shape (2, 3)
        Output (x, y, 1) to frame (x, y), both 0-based, in the frame's orientation after `flips`.
    frame_shape : tuple of int
        (ny, nx) of the frame after `flips`.
    transposed, flip_y, flip_x : bool
        How the frame's pixels are turned, without interpolation, so that both axes run nearly along the output's:
        neighbouring output pixels then read neighbouring input pixels.
    distortion : ndarray of float64, shape (3, n, n)
        What the matrix leaves over, as polynomials of the position that it gives: coefficients of u^p v^q in x and y
        (pixels), and in the relative change of the pixel area, with u and v from -1 to 1 over the frame. Empty (n = 0)
        where the transform is linear.
    reach : int
        Pixels by which the distortion moves a position at most.
    """

    matrix: np.ndarray
    frame_shape: tuple[int, int]
    transposed: bool
    flip_y: bool
    flip_x: bool
    distortion: np.ndarray = field(default_factory=lambda: _NO_DISTORTION)
    reach: int = 0

    @property
    def pixel_area(self) -> float:
        """Area of an output pixel in frame pixels, the Jacobian that keeps the flux; its mean where it varies."""
        return float(abs(np.linalg.det(self.matrix[:, :2])))

    def turn(self, pixels: np.ndarray) -> np.ndarray:
        """View of frame pixels in the orientation of `matrix`."""
        pixels = pixels.T if self.transposed else pixels
        return pixels[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


def make_grid(transform: np.ndarray | Callable, frame_shape: tuple[int, int]) -> Grid:
    """Grid of a frame of shape (ny, nx).

    Parameters
    ----------
    transform : ndarray, shape (3, 3), or callable
        Matrix that brings frame pixels to output pixels, or a smooth function ``(x, y) -> (x, y)`` on arrays.
    frame_shape : tuple of int

    Raises
    ------
    ValueError
        If the transform cannot be inverted, or if it bends too strongly for a polynomial.
    """
    matrix = linear_part(transform, frame_shape)
    if not (np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 0):
        raise ValueError("the transform from frame to reference pixels has no inverse")
    inverse = np.linalg.inv(matrix)[:2]
    ny, nx = frame_shape
    transposed = bool(abs(inverse[0, 1]) > abs(inverse[0, 0]))
    if transposed:
        inverse, ny, nx = inverse[::-1], nx, ny
    inverse = inverse.copy()
    flip_x, flip_y = bool(inverse[0, 0] < 0), bool(inverse[1, 1] < 0)
    for axis, (flipped, length) in enumerate(((flip_x, nx), (flip_y, ny))):
        if flipped:
            inverse[axis] = np.array([0, 0, length - 1]) - inverse[axis]
    grid = Grid(inverse, (ny, nx), transposed, flip_y, flip_x)
    return _with_distortion(grid, transform) if callable(transform) else grid


def linear_part(transform: np.ndarray | Callable, frame_shape: tuple[int, int]) -> np.ndarray:
    """Matrix, shape (3, 3), that comes nearest to a transform over a frame of shape (ny, nx)."""
    if not callable(transform):
        return np.asarray(transform, dtype=float)
    x, y = _places(frame_shape)
    moved = np.column_stack(transform(x, y))
    if not np.isfinite(moved).all():
        return np.full((3, 3), np.nan)
    rows = np.linalg.lstsq(np.column_stack((x, y, np.ones_like(x))), moved, rcond=None)[0].T
    return np.vstack((rows, (0.0, 0.0, 1.0)))


def _places(frame_shape: tuple[int, int], n: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Points x and y that cover a frame and a little more."""
    ny, nx = frame_shape
    x, y = np.meshgrid(*(np.linspace(-0.02, 1.02, n) * (length - 1) for length in (nx, ny)))
    return x.ravel(), y.ravel()


def _with_distortion(grid: Grid, transform: Callable) -> Grid:
    """The grid with what its matrix leaves of a transform.

    The transform is followed from frame to output, where it is exact, and the way back is fitted: no inversion.
    """
    x, y = _places(grid.frame_shape)
    near = grid.matrix @ np.stack((*transform(*_stored(grid, x, y)), np.ones_like(x)))
    left = np.stack((x, y)) - near
    half = (np.array(grid.frame_shape[::-1])[:, None] - 1) / 2
    u, v = near / half - 1
    for degree in _DEGREES:
        powers = [(p, q) for q in range(degree + 1) for p in range(degree + 1 - q)]
        design = np.column_stack([u**p * v**q for p, q in powers])
        terms = np.linalg.lstsq(design, left.T, rcond=None)[0]
        if np.abs(design @ terms - left.T).max() < _DISTORTION_TOLERANCE:
            break
    else:
        raise ValueError("the distortion of the frame is no smooth polynomial")
    along_u = np.column_stack([p * u ** max(p - 1, 0) * v**q for p, q in powers]) @ terms / half[0]
    along_v = np.column_stack([q * u**p * v ** max(q - 1, 0) for p, q in powers]) @ terms / half[1]
    area = (1 + along_u[:, 0]) * (1 + along_v[:, 1]) - along_v[:, 0] * along_u[:, 1] - 1
    terms = np.column_stack((terms, np.linalg.lstsq(design, area, rcond=None)[0]))
    distortion = np.zeros((3, degree + 1, degree + 1))
    for (p, q), coefficients in zip(powers, terms, strict=True):
        distortion[:, p, q] = coefficients
    return replace(grid, distortion=distortion, reach=int(np.ceil(np.abs(left).max())))


def _stored(grid: Grid, x, y) -> tuple[np.ndarray, np.ndarray]:
    """Positions on the frame as it is stored of positions on the turned frame."""
    ny, nx = grid.frame_shape
    x, y = nx - 1 - x if grid.flip_x else x, ny - 1 - y if grid.flip_y else y
    return (y, x) if grid.transposed else (x, y)


def input_window(grid: Grid, rows: tuple[int, int], columns: tuple[int, int]) -> tuple[slice, slice] | None:
    """Rows and columns of the turned frame that decide a block of the output.

    Parameters
    ----------
    grid : `Grid`
    rows, columns : tuple of int
        First row or column of the block, and the one after its last.

    Returns
    -------
    tuple of slice, or None
        Rows and columns, or None where the block lies off the frame.
    """
    corners = np.array([(x, y, 1) for x in (columns[0], columns[1] - 1) for y in (rows[0], rows[1] - 1)], dtype=float).T
    x, y = grid.matrix @ corners
    window = []
    for low, high, length in ((y.min(), y.max(), grid.frame_shape[0]), (x.min(), x.max(), grid.frame_shape[1])):
        start = max(0, int(np.floor(low)) - grid.reach - MARGIN - 1)
        stop = min(length, int(np.floor(high)) + grid.reach + MARGIN + 2)
        if start >= stop:
            return None
        window.append(slice(start, stop))
    return tuple(window)


def raw_window(grid: Grid, window: tuple[slice, slice]) -> tuple[slice, slice]:
    """The same rows and columns counted in the frame as it is stored."""
    rows, columns = (
        slice(length - w.stop, length - w.start) if flipped else w
        for w, length, flipped in zip(window, grid.frame_shape, (grid.flip_y, grid.flip_x), strict=True)
    )
    return (columns, rows) if grid.transposed else (rows, columns)


def column_blocks(grid: Grid, height: int, n_columns: int) -> list[tuple[int, int]]:
    """Blocks of columns of a strip of `height` rows that need about as many input pixels as they have output pixels.

    A strip across a frame turned by 45 degrees would need the whole frame.
    """
    slope = max(abs(grid.matrix[1, 0]) / abs(grid.matrix[1, 1]), 1e-9)
    width = int(max(_LEAST_BLOCK, 2 * height / slope))
    return [(start, min(start + width, n_columns)) for start in range(0, n_columns, width)]


def resample(
    data: np.ndarray,
    variance: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    window: tuple[slice, slice],
    rows: tuple[int, int],
    columns: tuple[int, int],
    polynomials: np.ndarray,
    out: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    flux_scale: float = 1.0,
    clamp: bool = True,
) -> None:
    """Resample a window of a frame onto a block of the output.

    Parameters
    ----------
    data, variance : ndarray of float32
        Pixels and their variance in `window`, turned by ``grid.turn``.
    mask : ndarray of uint16
        `~nightflow.products.MaskBit` planes of the same pixels.
    grid, window
        From `make_grid` and `input_window`.
    rows, columns : tuple of int
        First output row or column, and the one after the last.
    polynomials : ndarray, shape (6, 10)
        From `kernel_polynomials`.
    out : tuple of ndarray, shape (rows, width of the output)
        Strip of the output: value and variance (float32), NaN where the frame says nothing, and bits (uint16), why a
        pixel is NaN or which flags its input pixels carry. Only `columns` are written.
    flux_scale : float
        Factor on the fluxes beside the Jacobian.
    clamp : bool
        Keep output pixels whose footprint holds a saturated pixel within the range of the four nearest input pixels:
        the lobes of the kernel would ring around the core.
    """
    padded = _pad(data, variance, mask, grid, window)
    _bridge(*padded[:3])
    near = _footprints_to_check(padded[2])
    factor = np.float32(grid.pixel_area * flux_scale)
    snap = bool(polynomials[_HALF - 1, -1] == 1.0)  # nearest: one tap has all the weight wherever the place
    _resample(
        *padded, near, grid.matrix, grid.distortion, grid.reach, grid.frame_shape, rows[0], columns, polynomials, snap,
        factor, clamp, *out,
    )  # fmt: skip


def _pad(data, variance, mask, grid, window):
    """Contiguous copies with `MARGIN` repeated, unusable pixels around the edges of the frame, and their origin."""
    pad = [
        (MARGIN if w.start == 0 else 0, MARGIN if w.stop == length else 0)
        for w, length in zip(window, grid.frame_shape, strict=True)
    ]
    shape = tuple(n + sum(p) for n, p in zip(data.shape, pad, strict=True))
    inner = tuple(slice(p[0], p[0] + n) for n, p in zip(data.shape, pad, strict=True))
    padded_mask = np.full(shape, _NO_DATA, np.uint16)
    padded_mask[inner] = mask
    copies = []
    for pixels in (data, variance):
        copy = np.zeros(shape, np.float32)
        copy[inner] = pixels
        copies.append(copy)
    return *copies, padded_mask, window[0].start - pad[0][0], window[1].start - pad[1][0]


@numba.njit(nogil=True, cache=True)
def _bridge(data, variance, mask):
    """Put an estimate from good neighbours into unusable pixels; their flags stay.

    Cubic interpolation along those axes that have two good pixels on either side halves the error on stars against
    the weighted mean, which is left for clusters. The variance is taken as the neighbours', since the estimate
    replaces one pixel, not several. A pixel too far from any good one becomes NaN, and so does each footprint with it.
    """
    ny, nx = data.shape
    for y in range(ny):
        for x in range(nx):
            if not (np.isfinite(data[y, x]) and np.isfinite(variance[y, x])):
                mask[y, x] |= _NO_DATA
    for y in range(ny):
        for x in range(nx):
            if mask[y, x] & _UNUSABLE:
                along_x, along_y = _midpoint(data, mask, y, x, 0, 1), _midpoint(data, mask, y, x, 1, 0)
                mean, mean_variance = _mean_of_neighbours(data, variance, mask, y, x)
                if np.isnan(along_x) and np.isnan(along_y):
                    data[y, x] = mean
                elif np.isnan(along_y):
                    data[y, x] = along_x
                else:
                    data[y, x] = along_y if np.isnan(along_x) else 0.5 * (along_x + along_y)
                variance[y, x] = mean_variance


@numba.njit(nogil=True, cache=True)
def _midpoint(data, mask, y, x, dy, dx):
    """Cubic through two pixels on either side along one axis, at the middle; NaN where one of them is unusable."""
    if min(y - 2 * dy, x - 2 * dx) < 0 or y + 2 * dy >= data.shape[0] or x + 2 * dx >= data.shape[1]:
        return np.nan
    for k in (-2, -1, 1, 2):
        if mask[y + k * dy, x + k * dx] & _UNUSABLE:
            return np.nan
    near = data[y - dy, x - dx] + data[y + dy, x + dx]
    far = data[y - 2 * dy, x - 2 * dx] + data[y + 2 * dy, x + 2 * dx]
    return (4.0 * near - far) / 6.0


@numba.njit(nogil=True, cache=True)
def _mean_of_neighbours(data, variance, mask, y, x):
    """Mean of the good pixels within `_BRIDGE_RADIUS` and of their variance, weighted by distance^-4."""
    total, total_variance, weight = 0.0, 0.0, 0.0
    for j in range(max(0, y - _BRIDGE_RADIUS), min(data.shape[0], y + _BRIDGE_RADIUS + 1)):
        for i in range(max(0, x - _BRIDGE_RADIUS), min(data.shape[1], x + _BRIDGE_RADIUS + 1)):
            if not mask[j, i] & _UNUSABLE:
                w = 1.0 / ((j - y) ** 2 + (i - x) ** 2) ** 2
                total += w * data[j, i]
                total_variance += w * variance[j, i]
                weight += w
    return (total / weight, total_variance / weight) if weight > 0 else (np.nan, np.nan)


@numba.njit(nogil=True, cache=True)
def _footprints_to_check(mask):
    """1 at the first pixel of each 6 x 6 footprint that holds a flagged pixel."""
    ny, nx = mask.shape
    near = np.zeros((ny, nx), np.uint8)
    for y in range(ny):
        for x in range(nx):
            if mask[y, x]:
                for j in range(max(0, y - TAPS + 1), y + 1):
                    for i in range(max(0, x - TAPS + 1), x + 1):
                        near[j, i] = 1
    return near


@numba.njit(nogil=True, cache=True)
def _resample(
    data, variance, mask, row0, column0, near, matrix, distortion, reach, frame_shape, first_row, columns, polynomials,
    snap, factor, clamp, out_value, out_variance, out_bits,
):  # fmt: skip
    n_rows, (first_column, last_column) = out_value.shape[0], columns
    n_columns = last_column - first_column
    ny, nx = data.shape
    left, top = np.empty(n_columns, np.int32), np.empty(n_columns, np.int32)
    wx, wy = np.empty((2 * TAPS, n_columns), np.float32), np.empty((2 * TAPS, n_columns), np.float32)
    place, factors = np.empty(n_columns, np.float32), np.full(n_columns, factor, np.float32)
    positions = np.empty((4, n_columns))
    for r in range(n_rows):
        _linear_positions(matrix, first_column, first_row + r, positions)
        if distortion.shape[1]:
            _bend(positions, distortion, reach, frame_shape)
            for x in range(n_columns):
                factors[x] = factor * (1 + positions[2, x])
        _axis_weights(positions[0], frame_shape[1], column0, polynomials, snap, place, left, wx)
        _axis_weights(positions[1], frame_shape[0], row0, polynomials, snap, place, top, wy)
        value, var = out_value[r, first_column:last_column], out_variance[r, first_column:last_column]
        bits = out_bits[r, first_column:last_column]
        start = 0
        while start < n_columns:
            i, j = left[start], top[start]
            if i < 0 or j < 0 or i + TAPS > nx or j + TAPS > ny:
                value[start], var[start], bits[start] = np.nan, np.nan, _NO_DATA
                start += 1
                continue
            # a run of output pixels whose footprints step by one input pixel: its loops have unit stride
            stop = start + 1
            last = min(n_columns, start + nx - TAPS - i + 1)
            while stop < last and left[stop] - stop == i - start and top[stop] == j:
                stop += 1
            _run(data, variance, j, i, wx, wy, start, stop, factors, value, var)
            bits[start:stop] = 0
            footprints = near[j, i : i + stop - start]
            for k in range(stop - start):
                if footprints[k]:
                    x = start + k
                    value[x], var[x], bits[x] = _examine(
                        data, mask, j, i + k, wx, wy, x, factors[x], clamp, value[x], var[x]
                    )
            start = stop


@numba.njit(nogil=True, cache=True)
def _linear_positions(matrix, first_column, y, positions):
    """x and y in the frame, without distortion, of the output pixels of row `y`."""
    for axis in range(2):
        slope, constant = matrix[axis, 0], matrix[axis, 1] * y + matrix[axis, 2]
        row = positions[axis]
        for x in range(len(row)):
            row[x] = slope * (first_column + x) + constant


@numba.njit(nogil=True, cache=True)
def _bend(positions, distortion, reach, frame_shape):
    """Add the distortion to x and y (rows 0 and 1 of `positions`), and put the change of the pixel area into row 2.

    Positions that no distortion brings onto the frame are put far off it, where the polynomials mean nothing.
    """
    px, py, area, inner = positions
    half_x, half_y = (frame_shape[1] - 1) / 2, (frame_shape[0] - 1) / 2
    n, top = len(px), distortion.shape[1] - 1
    moved = np.zeros((2, n))
    for axis in range(3):
        out = area if axis == 2 else moved[axis]
        out[:] = 0
        for q in range(top, -1, -1):  # Horner's scheme in v, with one in u for each power
            inner[:] = 0
            for p in range(top - q, -1, -1):
                c = distortion[axis, p, q]
                for x in range(n):
                    inner[x] = inner[x] * (px[x] / half_x - 1) + c
            for x in range(n):
                out[x] = out[x] * (py[x] / half_y - 1) + inner[x]
    for x in range(n):
        off_x, off_y = abs(px[x] - half_x) > half_x + reach + 2, abs(py[x] - half_y) > half_y + reach + 2
        px[x] = -1e9 if off_x or off_y else px[x] + moved[0, x]
        py[x] += moved[1, x]
        area[x] = 0.0 if off_x or off_y else area[x]


@numba.njit(nogil=True, cache=True)
def _axis_weights(positions, length, origin, polynomials, snap, place, first, weights):
    """First tap, counted from `origin`, and the six weights and their squares, at positions along one axis.

    The first tap is -1 where the output pixel lies off the frame.
    """
    n = len(first)
    half = 0.5 if snap else 0.0
    for x in range(n):
        position = positions[x] + half
        on_frame = -1.0 < position < length
        position = position if on_frame else -1.0
        whole = np.floor(position)
        place[x] = position - whole - 0.5
        first[x] = np.int32(whole) - (_HALF - 1) - origin if on_frame else -1
    for t in range(TAPS):
        w, squared = weights[t], weights[TAPS + t]
        c = polynomials[t]
        c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9]
        for x in range(n):
            u = place[x]
            p = ((((((((c0 * u + c1) * u + c2) * u + c3) * u + c4) * u + c5) * u + c6) * u + c7) * u + c8) * u + c9
            w[x] = p
            squared[x] = p * p


@numba.njit(nogil=True, cache=True)
def _run(data, variance, j, i, wx, wy, start, stop, factors, out_value, out_variance):
    """Kernel sums of the output pixels `start` to `stop`, whose first taps are (j, i), (j, i + 1), ..."""
    n = stop - start
    value, var = out_value[start:stop], out_variance[start:stop]
    value[:] = 0
    var[:] = 0
    a0, a1, a2 = wx[0, start:stop], wx[1, start:stop], wx[2, start:stop]
    a3, a4, a5 = wx[3, start:stop], wx[4, start:stop], wx[5, start:stop]
    b0, b1, b2 = wx[6, start:stop], wx[7, start:stop], wx[8, start:stop]
    b3, b4, b5 = wx[9, start:stop], wx[10, start:stop], wx[11, start:stop]
    for t in range(TAPS):
        d, v = data[j + t, i : i + n + TAPS - 1], variance[j + t, i : i + n + TAPS - 1]
        w, s = wy[t, start:stop], wy[TAPS + t, start:stop]
        for k in range(n):
            value[k] += w[k] * (
                a0[k] * d[k] + a1[k] * d[k + 1] + a2[k] * d[k + 2]
                + a3[k] * d[k + 3] + a4[k] * d[k + 4] + a5[k] * d[k + 5]
            )  # fmt: skip
        for k in range(n):
            var[k] += s[k] * (
                b0[k] * v[k] + b1[k] * v[k + 1] + b2[k] * v[k + 2]
                + b3[k] * v[k + 3] + b4[k] * v[k + 4] + b5[k] * v[k + 5]
            )  # fmt: skip
    factor = factors[start:stop]
    for k in range(n):
        value[k] *= factor[k]
        var[k] *= factor[k] * factor[k]


@numba.njit(nogil=True, cache=True)
def _examine(data, mask, j, i, wx, wy, x, factor, clamp, value, variance):
    """Value, variance and flags of an output pixel with flagged pixels in its footprint."""
    bridged, saturated = np.float32(0), False
    reasons, flags = np.uint16(0), np.uint16(0)
    for t in range(TAPS):
        for s in range(TAPS):
            m = mask[j + t, i + s]
            if m:
                weight = abs(wy[t, x] * wx[s, x])
                saturated |= (m & _SATURATED) != 0 and weight > 0
                if m & _UNUSABLE:
                    bridged += weight
                    reasons |= m if weight > _FLAG_WEIGHT else np.uint16(0)
                elif weight > _FLAG_WEIGHT:
                    flags |= m
    if bridged > MAX_BRIDGED or np.isnan(value):
        return np.float32(np.nan), np.float32(np.nan), reasons if reasons else _NO_DATA
    if clamp and saturated:
        a, b = data[j + _HALF - 1, i + _HALF - 1], data[j + _HALF - 1, i + _HALF]
        c, d = data[j + _HALF, i + _HALF - 1], data[j + _HALF, i + _HALF]
        value = min(max(value, factor * min(a, b, c, d)), factor * max(a, b, c, d))
    return value, variance, flags & ~_UNUSABLE
