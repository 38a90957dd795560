"""Stacking: frames resampled onto the reference grid and combined, strip by strip.

A strip of output rows is read, resampled and combined for all frames before the next one. Strips are independent of
each other: they run in threads, bound the memory, and give the same bits whatever their height and number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numba
import numpy as np
from astropy.io import fits

from nightflow import noisecorrelation, resampling
from nightflow.combine import median_variance_factor, quartile_ranks, selection_network
from nightflow.products import Image, MaskBit, RejectedFrame, clean_header, raise_if_rejected

METHODS = ("mean", "median", "sum", "clipped_mean", "min", "max")

#: Fewest frames at a pixel whose own scatter joins the propagated sigma in the rejection.
MIN_FRAMES_FOR_SCATTER = 15

_MAX_STRIP_ROWS = 96
_STRONG = np.float32(1.5**2)
_GROWTH = 3  # pixels: half of the widest kernel
_CHUNK = 256  # pixels whose values of all frames stay in the processor's nearest cache while they are sorted
_ANY = np.uint16(MaskBit.SATURATED | MaskBit.NONLINEAR)
_NO_DATA = np.uint16(MaskBit.NO_DATA)
_MASTER_CARDS = ("CALBIAS", "CALDARK", "CALFLAT")
# Cards that were measured on one frame and say nothing about the stack.
_FRAME_CARDS = ("CALNOISE", "CRNUM", "DARKSCAL", "ELLIPT", "FWHM", "NSOURCES", "NSTARS")
_FRAME_CARDS += ("SKYMEAN", "SKYMED", "SKYMODE", "SKYSTD", "SKYMETH")


class StackInput(NamedTuple):
    """One frame of a stack.

    Attributes
    ----------
    path : path-like
        Image product with the sky subtracted.
    transform : ndarray, shape (3, 3), or callable
        Frame to output pixels, 0-based: a matrix, or a smooth function of arrays x and y.
    flux_scale : float
        Factor that brings the frame's fluxes to the reference's scale.
    weight : float
        Relative weight in means.
    """

    path: str | os.PathLike
    transform: np.ndarray | Callable
    flux_scale: float = 1.0
    weight: float = 1.0


def stack(
    inputs: Sequence[StackInput | tuple], reference_header: fits.Header, options: Mapping, threads: int = 1
) -> Image:
    """Combine frames on the reference frame's grid.

    Parameters
    ----------
    inputs : sequence of `StackInput` or tuple
        Frames to combine. Those that an earlier stage rejected are left out.
    reference_header : `~astropy.io.fits.Header`
        Header of the reference frame; its NAXIS1 and NAXIS2 are the size of the stack.
    options : mapping
        Section ``stack`` of the configuration.
    threads : int
        Strips at work at a time. It changes no bit of the result.

    Returns
    -------
    `~nightflow.products.Image`
        With extensions ``COVERAGE`` (int16, frames used), ``WEIGHT`` (float32, sum of their weights) and the table
        ``INPUTS``. Pixels that no frame covers are NaN and NO_DATA.

    Raises
    ------
    ValueError
        For an unknown method or kernel, or an unusable matrix, flux scale or weight.
    RejectedFrame
        If there is no frame to combine.

    Notes
    -----
    Each pixel is combined on the reference's flux scale: value times flux scale times the Jacobian. ``mean`` and
    ``clipped_mean`` are weighted, sum(w v) / sum(w); ``median``, ``min`` and ``max`` are not. ``sum`` adds electrons.
    Headers of the frames are asked for EXPTIME and the times, FWHM (how much star cores may differ), SKYSTD and
    CALNOISE (standard deviations of a sky pixel, in all and of the masters' part alone: that part is common to frames
    with the same CALBIAS, CALDARK and CALFLAT and averages down only by dithers).
    """
    if options["method"] not in METHODS:
        raise ValueError(f"stack.method is {options['method']!r}, must be one of {', '.join(METHODS)}")
    frames = _open_frames(inputs)
    if not frames:
        raise RejectedFrame("there is no frame to stack", reference_header)
    shape = (int(reference_header["NAXIS2"]), int(reference_header["NAXIS1"]))
    combination = _Combination(frames, shape, options)
    planes = tuple(np.empty(shape, dtype) for dtype in (np.float32, np.float32, np.uint16, np.int16, np.float32))

    def fill(rows: tuple[int, int]) -> None:
        for plane, strip in zip(planes, combination.strip(rows), strict=True):
            plane[rows[0] : rows[1]] = strip

    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(fill, combination.strips(max(1, threads))))
    data, uncertainty, mask, coverage, weight = planes
    header = _header(frames, reference_header, options, combination)
    extensions = {"COVERAGE": coverage, "WEIGHT": weight, "INPUTS": _inputs_table(frames)}
    return Image(data, mask, uncertainty, header, extensions)


@dataclass(frozen=True)
class _Frame:
    """An input whose pixels are read window by window; no file stays open between strips."""

    path: Path
    header: fits.Header
    matrix: np.ndarray
    flux_scale: float
    weight: float
    offsets: tuple[int, int, int]
    shape: tuple[int, int]
    grid: resampling.Grid

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def exposure(self) -> float:
        return self.card("EXPTIME", 0.0)

    def card(self, keyword: str, default: float) -> float:
        """A number of the header, `default` where it is missing or no number."""
        value = self.header.get(keyword)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else default

    def window(self, window: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels, variance and mask of a window of the turned frame."""
        window = resampling.raw_window(self.grid, window)
        planes = [
            np.memmap(self.path, dtype, "r", offset, self.shape)[window]
            for dtype, offset in zip((">f4", ">u2", ">f4"), self.offsets, strict=True)
        ]
        data, mask, uncertainty = (self.grid.turn(plane) for plane in planes)
        # FITS stores unsigned 16-bit integers with their top bit inverted (BZERO = 32768)
        return data, np.square(uncertainty, dtype=np.float32), mask.astype(np.uint16) ^ np.uint16(0x8000)


def _open_frames(inputs) -> list[_Frame]:
    """Frames to combine, ordered by name, so that the order of the arguments does not matter."""
    frames = []
    for entry in inputs:
        path, transform, flux_scale, weight = StackInput(*entry)
        if not (np.isfinite(flux_scale) and flux_scale > 0 and np.isfinite(weight) and weight >= 0):
            raise ValueError(f"{path}: flux scale {flux_scale} and weight {weight} must be positive numbers")
        with fits.open(path, memmap=True, lazy_load_hdus=False) as hdus:
            header = hdus[0].header.copy()
            try:
                raise_if_rejected(header)
            except RejectedFrame:
                continue
            offsets = tuple(hdus[name].fileinfo()["datLoc"] for name in (0, "MASK", "UNCERT"))
            layout = [(hdus[name].header["BITPIX"], hdus[name].shape) for name in (0, "MASK", "UNCERT")]
        shape = layout[0][1]
        if layout != [(-32, shape), (16, shape), (-32, shape)]:
            raise ValueError(f"{path} is not an image product with float32 pixels, uint16 mask and float32 uncertainty")
        grid = resampling.make_grid(transform, shape)
        matrix = resampling.linear_part(transform, shape)
        frames.append(_Frame(Path(path), header, matrix, float(flux_scale), float(weight), offsets, shape, grid))
    return sorted((f for f in frames if f.weight > 0), key=lambda frame: (frame.name, str(frame.path)))


class _Combination:
    """What it takes to make any strip of the stack."""

    def __init__(self, frames: list[_Frame], shape: tuple[int, int], options: Mapping):
        self.frames, self.shape, self.options = frames, shape, options
        self.method = options["method"]
        self.polynomials = resampling.kernel_polynomials(options["kernel"])
        n = len(frames)
        self.network = np.array(
            [(i, j) for i, j, _, _ in selection_network(n, frozenset(range(n)))], dtype=np.int64
        ).reshape(-1, 2)
        scales = np.array([frame.flux_scale for frame in frames])
        weights = np.array([frame.weight for frame in frames])
        # a sum of electrons is the mean weighted by each frame's throughput, times the total throughput: a pixel that
        # some frames lack stays on the scale of the others
        self.weights = (1 / scales if self.method == "sum" else weights).astype(np.float32)
        self.total = float((1 / scales).sum()) if self.method == "sum" else 1.0
        self.fractions = (options["clip_fraction"] + _seeing_mismatch(frames)).astype(np.float32)
        self.ranks = _rank_table(n)
        self.noise = self._noise(scales)
        # growth of a resampled pixel's variance with its value: the photon noise of a value's own excess
        areas = np.array([frame.grid.pixel_area for frame in frames])
        photons = np.array([frame.header.get("BUNIT") == "electron" for frame in frames])
        self.photon_slopes = np.where(photons, areas * scales * self.noise.squared_weights, 0).astype(np.float32)

    def _noise(self, scales: np.ndarray) -> noisecorrelation.StackNoise:
        """Correlated noise, from the sky's and the masters' noise in the headers, on the mean's scale."""
        grids = [frame.grid for frame in self.frames]
        sky = np.array([frame.card("SKYSTD", np.nan) for frame in self.frames])
        masters = np.array([frame.card("CALNOISE", 0.0) for frame in self.frames])
        if not np.isfinite(sky).all():
            sky, masters = np.ones_like(sky), np.zeros_like(masters)
        return noisecorrelation.stack_noise(
            grids,
            self.polynomials,
            self.shape,
            self.weights / self.weights.sum() * scales * [grid.pixel_area for grid in grids],
            sky**2,
            masters,
            [tuple(str(frame.header.get(card)) for card in _MASTER_CARDS) for frame in self.frames],
        )

    def strips(self, threads: int) -> list[tuple[int, int]]:
        """Rows of each strip, as many as the memory bound allows."""
        ny, nx = self.shape
        bytes_per_row = nx * (len(self.frames) * 8 + 64)
        n_rows = int(self.options["memory_mb"] * 2**20 / threads / bytes_per_row) - 2 * (_GROWTH + 1)
        n_rows = int(np.clip(n_rows, 1, min(_MAX_STRIP_ROWS, -(-ny // threads))))
        return [(start, min(start + n_rows, ny)) for start in range(0, ny, n_rows)]

    def strip(self, rows: tuple[int, int]) -> tuple[np.ndarray, ...]:
        """Data, uncertainty, mask, coverage and weight of the output rows ``rows[0]`` to ``rows[1] - 1``."""
        ny, nx = self.shape
        halo = _GROWTH + 1 if self.method == "clipped_mean" else 0
        first, last = max(0, rows[0] - halo), min(ny, rows[1] + halo)
        inner = slice(rows[0] - first, rows[1] - first)
        values, variances, common, any_bits = self._resample((first, last))
        out = tuple(np.empty((rows[1] - rows[0], nx), d) for d in (np.float32, np.float32, np.int16, np.float32))
        if self.method in ("mean", "sum"):
            _average(values, variances, 0, self.weights, *out)
        else:
            centre, scatter = np.empty(values.shape[1:], np.float32), np.zeros(values.shape[1:], np.float32)
            rank = {"min": 0, "max": 1}.get(self.method, 2)
            limit = self.options["clip_high"] if self.method == "clipped_mean" else 0.0
            _order_statistic(values, variances, self.network, self.ranks, rank, limit, centre, scatter)
            if self.method == "clipped_mean":
                _clip(
                    values, variances, centre, scatter, any_bits, self.fractions, self.photon_slopes,
                    self.options["clip_gradient"], self.options["clip_low"], self.options["clip_high"],
                )  # fmt: skip
                _average(values, variances, inner.start, self.weights, *out)
            else:
                _average(values, variances, 0, np.ones_like(self.weights), *out)
                self._replace_mean(centre, values, out)
        data, variance, coverage, weight = out
        data *= np.float32(self.total)
        variance += np.float32(self.noise.common_variance)
        mask = np.where(coverage == 0, common[inner] | _NO_DATA, 0).astype(np.uint16) | (any_bits[inner] & _ANY)
        return data, np.sqrt(variance) * np.float32(self.total), mask, coverage, weight

    def _replace_mean(self, centre, values, out) -> None:
        """Put an order statistic in place of the plain mean; the variance of the mean becomes the statistic's."""
        data, variance, coverage, weight = out
        data[:] = np.where(coverage > 0, centre, np.nan)
        if self.method == "median":
            variance *= self.ranks[coverage, 2]
        else:
            variance *= coverage  # of one frame: which one has the extreme value is not known beforehand
        weight[:] = 0
        for frame, plane in zip(self.frames, values, strict=True):
            weight += np.where(np.isfinite(plane), np.float32(frame.weight), 0)

    def _resample(self, rows: tuple[int, int]):
        """All frames on the output rows, the flags that all of them carry, and the flags that any carries."""
        shape = (rows[1] - rows[0], self.shape[1])
        values = np.empty((len(self.frames), *shape), np.float32)
        variances = np.empty_like(values)
        bits, common = np.empty(shape, np.uint16), np.full(shape, 0xFFFF, np.uint16)
        any_bits = np.zeros(shape, np.uint16)
        for frame, value, variance in zip(self.frames, values, variances, strict=True):
            self._resample_frame(frame, rows, (value, variance, bits))
            common &= bits
            any_bits |= bits
        return values, variances, common, any_bits

    def _resample_frame(self, frame: _Frame, rows: tuple[int, int], out: tuple[np.ndarray, ...]) -> None:
        for columns in resampling.column_blocks(frame.grid, rows[1] - rows[0], self.shape[1]):
            window = resampling.input_window(frame.grid, rows, columns)
            if window is None:
                for plane, value in zip(out, (np.nan, np.nan, _NO_DATA), strict=True):
                    plane[:, slice(*columns)] = value
                continue
            resampling.resample(
                *frame.window(window), frame.grid, window, rows, columns, self.polynomials, out,
                flux_scale=frame.flux_scale, clamp=self.options["clamp"],
            )  # fmt: skip


def _seeing_mismatch(frames: Sequence[_Frame]) -> np.ndarray:
    """Relative difference of each frame's star peaks from those of the median seeing, 0 where FWHM is unknown."""
    fwhm = np.array([frame.card("FWHM", np.nan) / np.sqrt(frame.grid.pixel_area) for frame in frames])  # output pixels
    if not np.isfinite(fwhm).any():
        return np.zeros(len(frames))
    return np.nan_to_num(np.abs((np.nanmedian(fwhm) / fwhm) ** 2 - 1))


def _rank_table(n_frames: int) -> np.ndarray:
    """For 0 to `n_frames` values: the quartiles' ranks, the median's variance factor, the quartiles' distance.

    The distance of the quartile ranks of normal values in standard deviations is Blom's (1958), for ranks i from 1:
    the quantile (i - 3/8) / (n + 1/4).
    """
    table = np.ones((n_frames + 1, 4), np.float32)
    for n in range(1, n_frames + 1):
        lower, upper = quartile_ranks(n)
        normal = NormalDist()
        distance = normal.inv_cdf((upper + 0.625) / (n + 0.25)) - normal.inv_cdf((lower + 0.625) / (n + 0.25))
        table[n] = lower, upper, median_variance_factor(n), distance if n >= MIN_FRAMES_FOR_SCATTER else np.inf
    return table


@numba.njit(nogil=True, cache=True)
def _average(values, variances, first_row, weights, data, variance, coverage, total_weight):
    """Weighted mean of the finite values and its variance, sum(w^2 var) / sum(w)^2, from `first_row` on."""
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
def _order_statistic(values, variances, network, ranks, rank, limit, centre, scatter):
    """Minimum (rank 0), maximum (1) or median (2) of the finite values, and the variance that their quartiles show.

    Where the two middle values of an even number disagree beyond `limit`, the lower one is the centre: outliers are
    mostly cosmic rays. A chunk of pixels is sorted at a time by a network of comparisons of whole rows.
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
def _clip(values, variances, centre, scatter, flags, fractions, slopes, gradient, low, high):
    """Put NaN in place of values too far from the centre; places where a frame saturates keep all of theirs.

    Around values beyond 1.5 times the limit, half of it applies: the kernel's lobes and a trail's wings are there.
    """
    n_frames, n_rows, n_columns = values.shape
    extra = _gradient_variance(centre, gradient)
    near = np.empty((n_rows, n_columns), np.uint8)
    for n in range(n_frames):
        near[:] = 0
        any_strong = _clip_frame(values[n], variances[n], centre, scatter, flags, extra, fractions[n], slopes[n],
                                 low, high, near, False)  # fmt: skip
        if any_strong:
            _clip_frame(values[n], variances[n], centre, scatter, flags, extra, fractions[n], slopes[n],
                        0.5 * low, 0.5 * high, _grown(near), True)  # fmt: skip


@numba.njit(nogil=True, cache=True)
def _gradient_variance(centre, gradient):
    """Square of `gradient` times the largest step to one of the four neighbours."""
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
def _clip_frame(values, variances, centre, scatter, flags, extra, fraction, photons, low, high, near, only_near):
    """Clip one frame and mark in `near` what was far out, or, with `only_near`, clip only where there are marks.

    The yardstick is the propagated variance, less the photon noise of the value's own excess, plus the squares of a
    fraction of the level (seeing, transparency) and of a part of the local gradient (registration, sampling).
    """
    n_rows, n_columns = values.shape
    low2, high2, fraction2 = np.float32(low * low), np.float32(high * high), np.float32(fraction * fraction)
    any_strong = False
    for r in range(n_rows):
        value, own, middle, spread = values[r], variances[r], centre[r], scatter[r]
        more, kept, marks = extra[r], flags[r], near[r]
        for x in range(n_columns):
            excess = value[x] - middle[x]
            expected = own[x] - (photons * excess if excess > 0 else np.float32(0))
            floor = np.float32(0.2) * own[x]
            expected = expected if expected > floor else floor
            expected = expected if expected > spread[x] else spread[x]
            expected += more[x] + fraction2 * middle[x] * middle[x]
            allowed = (high2 if excess > 0 else low2) * expected
            if excess * excess > allowed and not kept[x] & _ANY and (marks[x] or not only_near):
                value[x] = np.nan
                if not only_near and excess * excess > _STRONG * allowed:
                    marks[x] = 1
                    any_strong = True
    return any_strong


@numba.njit(nogil=True, cache=True)
def _grown(marks):
    """Marks widened by `_GROWTH` pixels in each direction."""
    n_rows, n_columns = marks.shape
    wide = np.zeros_like(marks)
    for r in range(n_rows):
        for x in range(n_columns):
            if marks[r, x]:
                wide[max(0, r - _GROWTH) : r + _GROWTH + 1, max(0, x - _GROWTH) : x + _GROWTH + 1] = 1
    return wide


def _header(
    frames: Sequence[_Frame], reference: fits.Header, options: Mapping, combination: _Combination
) -> fits.Header:
    """Cards of the stack: the reference frame's, with exposure, times and noise of the combination."""
    header = clean_header(reference)
    for card in _FRAME_CARDS:
        header.remove(card, ignore_missing=True)
    exposures = np.array([frame.exposure for frame in frames])
    total = float(exposures.sum())
    if options["method"] == "sum":
        header["EXPTIME"] = (total, "[s] sum of the exposures")
    header["TOTEXP"] = (total, "[s] total exposure of the frames combined")
    header["NCOMBINE"] = (len(frames), "frames combined")
    header["STACKMET"] = (options["method"], "combination method")
    header["STACKKRN"] = (options["kernel"], "interpolation kernel")
    _add_times(header, frames, exposures)
    _add_detector(header, frames, combination)
    header["NOISECOR"] = (round(combination.noise.correlation, 5), "noise in a box over that of independent pixels")
    header["NOISEBOX"] = (noisecorrelation.BOX, "[pix] side of the box of NOISECOR")
    return header


def _add_detector(header: fits.Header, frames: Sequence[_Frame], combination: _Combination) -> None:
    """Effective gain, read noise and saturation, such that variance = signal / GAIN + (RDNOISE / GAIN)^2.

    With a_f the share of frame f and s_f its flux scale, a signal S on the reference's scale is S / s_f electrons in
    the frame, and contributes a_f^2 s_f^2 S / s_f to the variance of the mean.
    """
    scales = np.array([frame.flux_scale for frame in frames])
    shares = combination.weights / combination.weights.sum()
    gain = 1 / float((shares**2 * scales).sum()) / combination.total
    if header.get("BUNIT") == "electron":
        header["GAIN"] = (round(gain, 6), "[electron] effective, electrons per unit")
    noise = np.array([frame.card("RDNOISE", np.nan) for frame in frames])
    if np.isfinite(noise).all() and "RDNOISE" in header:
        effective = combination.total * gain * float(np.sqrt(((shares * scales * noise) ** 2).sum()))
        header["RDNOISE"] = (round(effective, 4), "[electron] effective")
    saturation = np.array([frame.card("SATURATE", np.nan) for frame in frames]) * scales * combination.total
    if np.isfinite(saturation).all() and "SATURATE" in header:
        header["SATURATE"] = (round(float(saturation.min()), 2), "lowest saturation of the frames combined")


def _add_times(header: fits.Header, frames: Sequence[_Frame], exposures: np.ndarray) -> None:
    """DATE-AVG and MJD-AVG (middle of the exposures, weighted by exposure), and the first start as DATE-OBS."""
    from astropy.time import Time

    starts = np.array([_start_mjd(frame.header) for frame in frames])
    known = np.isfinite(starts)
    if not known.any():
        return
    weights = exposures[known] if (exposures[known] > 0).any() else np.ones(known.sum())
    middle = float(np.average(starts[known] + exposures[known] / 172800.0, weights=weights))
    first = Time(starts[known].min(), format="mjd")
    header["DATE-OBS"] = (first.isot, "start of the first exposure")
    header["MJD-OBS"] = (round(float(first.mjd), 8), "[d] start of the first exposure")
    header["DATE-AVG"] = (Time(middle, format="mjd").isot, "mid-time weighted by exposure")
    header["MJD-AVG"] = (round(middle, 8), "[d] mid-time weighted by exposure")


def _start_mjd(header: fits.Header) -> float:
    from astropy.time import Time

    if isinstance(header.get("MJD-OBS"), (int, float)):
        return float(header["MJD-OBS"])
    try:
        return float(Time(str(header["DATE-OBS"]).strip(), scale="utc").mjd)
    except (KeyError, ValueError):
        return np.nan


def _inputs_table(frames: Sequence[_Frame]):
    """Table of the frames combined: name, weight, flux scale, exposure, start and transform."""
    from astropy.table import Table

    table = Table()
    table["frame"] = [frame.name for frame in frames]
    table["weight"] = [frame.weight for frame in frames]
    table["flux_scale"] = [frame.flux_scale for frame in frames]
    table["exptime"] = [frame.exposure for frame in frames]
    table["exptime"].unit = "s"
    table["mjd_obs"] = [_start_mjd(frame.header) for frame in frames]
    table["mjd_obs"].unit = "d"
    for row, axis in enumerate("xy"):
        for column, name in enumerate(("x", "y", "0")):
            table[f"{axis}_{name}"] = [frame.matrix[row, column] for frame in frames]
    return table
