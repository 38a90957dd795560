"""Resampling of a frame onto the reference grid, a strip of output rows at a time.

One interpolation stands between calibrated pixels and the stack. Each output pixel is the sum of the input pixels
around its place times a kernel, scaled by the Jacobian so that the flux of a star is kept; its variance is the sum of
the input variances times the squared kernel. It depends on its own footprint only, so that strips, threads and their
number never change a bit of the result.

A pixel without a true value (`products.UNUSABLE`, or off the frame) is bridged with the mean of its neighbours, and
an output pixel is left out where such pixels carry more than `MAX_BRIDGED` of its weight. Leaving out every footprint
that touches one would cost 36 output pixels for each hot pixel; renormalising the rest of the kernel shifts and
sharpens the star under it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from nightflow.products import UNUSABLE, MaskBit

#: Largest share of the kernel's weight, in absolute value, that bridged pixels may carry.
MAX_BRIDGED = 0.2

#: Taps of the widest kernel; narrower kernels have zeros around them.
TAPS = 6
_HALF = TAPS // 2
_BRIDGE_RADIUS = 2
#: Rows and columns around a footprint that decide its value.
MARGIN = _HALF + _BRIDGE_RADIUS
_PHASES = 1024
_UNUSABLE = np.uint16(UNUSABLE)
_NO_DATA = np.uint16(MaskBit.NO_DATA)
_SATURATED = np.uint16(MaskBit.SATURATED)
# A saturated or non-linear pixel counts for the output pixel's mask where its weight exceeds this: the far lobes of a
# kernel would otherwise grow every saturated core by five pixels.
_FLAG_WEIGHT = 0.05


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


def kernel_table(kernel: str) -> np.ndarray:
    """Weights of the six taps for positions between two pixels.

    Parameters
    ----------
    kernel : str
        One of `KERNELS`.

    Returns
    -------
    ndarray of float32, shape (1025, 6)
        Row p holds the weights at the fraction p / 1024 past pixel 0, for pixels -2 to 3. Each row sums to one, so
        that a flat sky stays flat (a bare Lanczos kernel ripples by 1 %).

    Raises
    ------
    ValueError
        If the kernel is unknown.
    """
    if kernel not in KERNELS:
        raise ValueError(f"stack.kernel is {kernel!r}, must be one of {', '.join(KERNELS)}")
    fraction = np.linspace(0, 1, _PHASES + 1)[:, None]
    if kernel == "nearest":
        fraction = np.zeros_like(fraction)  # positions are rounded, see _axis_weights
    weights = KERNELS[kernel](np.arange(1 - _HALF, _HALF + 1) - fraction)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


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
    """

    matrix: np.ndarray
    frame_shape: tuple[int, int]
    transposed: bool
    flip_y: bool
    flip_x: bool

    @property
    def pixel_area(self) -> float:
        """Area of an output pixel in frame pixels, the Jacobian that keeps the flux."""
        return float(abs(np.linalg.det(self.matrix[:, :2])))

    def turn(self, pixels: np.ndarray) -> np.ndarray:
        """View of frame pixels in the orientation of `matrix`."""
        pixels = pixels.T if self.transposed else pixels
        return pixels[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


def make_grid(matrix: np.ndarray, frame_shape: tuple[int, int]) -> Grid:
    """Grid of a frame of shape (ny, nx) whose pixels `matrix` (3, 3) brings to output pixels.

    Raises
    ------
    ValueError
        If the matrix cannot be inverted.
    """
    if not abs(np.linalg.det(np.asarray(matrix, dtype=float))) > 0:
        raise ValueError("the matrix from frame to reference pixels has no inverse")
    inverse = np.linalg.inv(np.asarray(matrix, dtype=float))[:2]
    ny, nx = frame_shape
    transposed = bool(abs(inverse[0, 1]) > abs(inverse[0, 0]))
    if transposed:
        inverse, ny, nx = inverse[::-1], nx, ny
    inverse = inverse.copy()
    flip_x, flip_y = bool(inverse[0, 0] < 0), bool(inverse[1, 1] < 0)
    for axis, (flipped, length) in enumerate(((flip_x, nx), (flip_y, ny))):
        if flipped:
            inverse[axis] = np.array([0, 0, length - 1]) - inverse[axis]
    return Grid(inverse, (ny, nx), transposed, flip_y, flip_x)


def input_window(grid: Grid, rows: tuple[int, int], n_columns: int) -> tuple[slice, slice] | None:
    """Rows and columns of the turned frame that decide the output rows ``rows[0]`` to ``rows[1] - 1``.

    Returns
    -------
    tuple of slice, or None
        Rows and columns, or None where the strip lies off the frame.
    """
    corners = np.array([(x, y, 1) for x in (0, n_columns - 1) for y in (rows[0], rows[1] - 1)], dtype=float).T
    x, y = grid.matrix @ corners
    window = []
    for low, high, length in ((y.min(), y.max(), grid.frame_shape[0]), (x.min(), x.max(), grid.frame_shape[1])):
        start = max(0, int(np.floor(low)) - MARGIN - 1)
        stop = min(length, int(np.floor(high)) + MARGIN + 2)
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


def resample_strip(
    data: np.ndarray,
    variance: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    window: tuple[slice, slice],
    rows: tuple[int, int],
    n_columns: int,
    table: np.ndarray,
    *,
    flux_scale: float = 1.0,
    clamp: bool = True,
    out: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Resample a window of a frame onto rows of the output.

    Parameters
    ----------
    data, variance : ndarray of float32
        Pixels and their variance in `window`, turned by ``grid.turn``.
    mask : ndarray of uint16
        `~nightflow.products.MaskBit` planes of the same pixels.
    grid, window
        From `make_grid` and `input_window`.
    rows : tuple of int
        First output row and the one after the last.
    n_columns : int
        Width of the output.
    table : ndarray, shape (1025, 6)
        From `kernel_table`.
    flux_scale : float
        Factor on the fluxes beside the Jacobian.
    clamp : bool
        Keep output pixels whose footprint holds a saturated pixel within the range of the four nearest input pixels:
        the lobes of the kernel would ring around the core.
    out : tuple of ndarray, optional
        Arrays to fill instead of new ones.

    Returns
    -------
    value, variance : ndarray of float32, shape (rows, n_columns)
        NaN where the frame says nothing.
    bits : ndarray of uint16
        Why a pixel is NaN, or which flags its input pixels carry.
    """
    shape = (rows[1] - rows[0], n_columns)
    if out is None:
        out = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.uint16)
    padded = _pad(data, variance, mask, grid, window)
    _bridge(*padded[:3])
    near = _footprints_to_check(padded[2])
    factor = np.float32(grid.pixel_area * flux_scale)
    snap = bool(table[_PHASES // 4, _HALF - 1] == 1.0)
    _resample(*padded, near, grid.matrix, grid.frame_shape, rows[0], table, snap, factor, clamp, *out)
    return out


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
    """Put the distance-weighted mean of good neighbours into unusable pixels; their flags stay.

    The mean's variance is taken as its neighbours', since it replaces one pixel, not several.
    """
    ny, nx = data.shape
    for y in range(ny):
        for x in range(nx):
            if not (np.isfinite(data[y, x]) and np.isfinite(variance[y, x])):
                mask[y, x] |= _NO_DATA
    for y in range(ny):
        for x in range(nx):
            if mask[y, x] & _UNUSABLE:
                total, total_variance, weight = 0.0, 0.0, 0.0
                for j in range(max(0, y - _BRIDGE_RADIUS), min(ny, y + _BRIDGE_RADIUS + 1)):
                    for i in range(max(0, x - _BRIDGE_RADIUS), min(nx, x + _BRIDGE_RADIUS + 1)):
                        if not mask[j, i] & _UNUSABLE:
                            w = 1.0 / ((j - y) ** 2 + (i - x) ** 2) ** 2
                            total += w * data[j, i]
                            total_variance += w * variance[j, i]
                            weight += w
                data[y, x] = total / weight if weight > 0 else 0.0
                variance[y, x] = total_variance / weight if weight > 0 else 0.0


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
    data, variance, mask, row0, column0, near, matrix, frame_shape, first_row, table, snap, factor, clamp,
    out_value, out_variance, out_bits,
):  # fmt: skip
    n_rows, n_columns = out_value.shape
    ny, nx = data.shape
    left, top = np.empty(n_columns, np.int64), np.empty(n_columns, np.int64)
    wx, wy = np.empty((TAPS, n_columns), np.float32), np.empty((TAPS, n_columns), np.float32)
    for r in range(n_rows):
        _axis_weights(matrix[0], first_row + r, frame_shape[1], table, snap, left, wx)
        _axis_weights(matrix[1], first_row + r, frame_shape[0], table, snap, top, wy)
        value, var, bits = out_value[r], out_variance[r], out_bits[r]
        start = 0
        while start < n_columns:
            i, j = left[start] - column0, top[start] - row0
            if left[start] == _OFF or top[start] == _OFF or i < 0 or j < 0 or i + TAPS > nx or j + TAPS > ny:
                value[start], var[start], bits[start] = np.nan, np.nan, _NO_DATA
                start += 1
                continue
            # a run of output pixels whose footprints step by one input pixel: its loops have unit stride
            stop = start + 1
            while (
                stop < n_columns
                and left[stop] == left[start] + stop - start
                and top[stop] == top[start]
                and i + stop - start + TAPS <= nx
            ):
                stop += 1
            _run(data, variance, j, i, wx[:, start:stop], wy[:, start:stop], factor, value[start:stop], var[start:stop])
            bits[start:stop] = 0
            for k in range(stop - start):
                if near[j, i + k]:
                    x = start + k
                    value[x], var[x], bits[x] = _examine(
                        data, mask, j, i + k, wx[:, x], wy[:, x], factor, clamp, value[x], var[x]
                    )
            start = stop


_OFF = np.int64(-(2**40))


@numba.njit(nogil=True, cache=True)
def _axis_weights(coefficients, y, length, table, snap, first, weights):
    """First tap and the six weights of each output pixel of row `y` along one input axis."""
    for x in range(len(first)):
        position = coefficients[0] * x + coefficients[1] * y + coefficients[2]
        if not (-1.0 < position < length):
            first[x] = _OFF
            weights[:, x] = 0
            continue
        if snap:
            position = np.floor(position + 0.5)
        whole = np.floor(position)
        first[x] = np.int64(whole) - (_HALF - 1)
        phase = (position - whole) * _PHASES
        p = min(int(phase), _PHASES - 1)
        share = np.float32(phase - p)
        for t in range(TAPS):
            weights[t, x] = table[p, t] + share * (table[p + 1, t] - table[p, t])


@numba.njit(nogil=True, cache=True)
def _run(data, variance, j, i, wx, wy, factor, value, var):
    """Kernel sums of consecutive output pixels whose first taps are (j, i), (j, i + 1), ..."""
    n = len(value)
    value[:] = 0
    var[:] = 0
    w0, w1, w2, w3, w4, w5 = wx[0], wx[1], wx[2], wx[3], wx[4], wx[5]
    for t in range(TAPS):
        d = data[j + t, i : i + n + TAPS - 1]
        v = variance[j + t, i : i + n + TAPS - 1]
        w = wy[t]
        for k in range(n):
            value[k] += w[k] * (
                w0[k] * d[k] + w1[k] * d[k + 1] + w2[k] * d[k + 2] + w3[k] * d[k + 3] + w4[k] * d[k + 4] + w5[k] * d[k + 5]
            )
        for k in range(n):
            var[k] += w[k] * w[k] * (
                w0[k] * w0[k] * v[k] + w1[k] * w1[k] * v[k + 1] + w2[k] * w2[k] * v[k + 2]
                + w3[k] * w3[k] * v[k + 3] + w4[k] * w4[k] * v[k + 4] + w5[k] * w5[k] * v[k + 5]
            )  # fmt: skip
    for k in range(n):
        value[k] *= factor
        var[k] *= factor * factor


@numba.njit(nogil=True, cache=True)
def _examine(data, mask, j, i, wx, wy, factor, clamp, value, variance):
    """Value, variance and flags of an output pixel with flagged pixels in its footprint."""
    bridged, saturated = np.float32(0), False
    reasons, flags = np.uint16(0), np.uint16(0)
    for t in range(TAPS):
        for s in range(TAPS):
            m = mask[j + t, i + s]
            if m:
                weight = abs(wy[t] * wx[s])
                saturated |= (m & _SATURATED) != 0 and weight > 0
                if m & _UNUSABLE:
                    bridged += weight
                    reasons |= m if weight > _FLAG_WEIGHT else np.uint16(0)
                elif weight > _FLAG_WEIGHT:
                    flags |= m
    if bridged > MAX_BRIDGED:
        return np.float32(np.nan), np.float32(np.nan), reasons if reasons else _NO_DATA
    if clamp and saturated:
        a, b = data[j + _HALF - 1, i + _HALF - 1], data[j + _HALF - 1, i + _HALF]
        c, d = data[j + _HALF, i + _HALF - 1], data[j + _HALF, i + _HALF]
        value = min(max(value, factor * min(a, b, c, d)), factor * max(a, b, c, d))
    return value, variance, flags & ~_UNUSABLE
