"""Stacking: frames resampled onto the reference grid and combined, strip by strip.

A strip of output rows is read, resampled and combined for all frames before the next one. Strips are independent of
each other: they run in threads, bound the memory, and give the same bits whatever their height and number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.io import fits

from nightflow import combination, noisecorrelation, rejection, resampling, skymatching, stackheader
from nightflow.products import Image, MaskBit, RejectedFrame, raise_if_rejected

#: DeepSkyStacker's modes by their names: combination, and rejection (None: that of the configuration).
DEEP_SKY_STACKER = {
    "kappa_sigma": ("mean", "kappa_sigma"),
    "median_kappa_sigma": ("mean", "median_kappa_sigma"),
    "maximum": ("max", "none"),
}
METHODS = (*combination.COMBINATIONS, *DEEP_SKY_STACKER)

_MAX_STRIP_ROWS = 192
_ANY = np.uint16(MaskBit.SATURATED | MaskBit.NONLINEAR)
_NO_DATA = np.uint16(MaskBit.NO_DATA)
# FITS stores unsigned 16-bit integers with their top bit inverted (BZERO = 32768).
_TOP_BIT = np.uint16(0x8000)
_MASTER_CARDS = ("CALBIAS", "CALDARK", "CALFLAT")


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
        With extensions ``COVERAGE`` (int16, frames used), ``WEIGHT`` (float32, sum of their weights), ``REJLOW`` and
        ``REJHIGH`` (int16, values rejected below and above the others; only with a rejection) and the table
        ``INPUTS``. Pixels that no frame covers are NaN and NO_DATA.

    Raises
    ------
    ValueError
        For an unknown method, rejection or kernel, or an unusable matrix, flux scale or weight.
    RejectedFrame
        If there is no frame to combine.

    Notes
    -----
    Each pixel is combined on the reference's flux scale: value times flux scale times the Jacobian. ``mean`` is
    weighted, sum(w v) / sum(w), and so are ``auto_adaptive`` and ``entropy``; ``median``, ``min`` and ``max`` are not.
    ``sum`` adds electrons. Before that the skies of the frames are matched (`skymatching.match_skies`) and outliers
    rejected (`rejection.make_rejector`).
    Headers of the frames are asked for EXPTIME and the times, FWHM (how much star cores may differ), SKYMED, SKYNOISE
    and CALNOISE (standard deviations of a sky pixel, in all and of the masters' part alone: that part is common to
    frames with the same CALBIAS, CALDARK and CALFLAT and averages down only by dithers).
    """
    if options["method"] not in METHODS:
        raise ValueError(f"stack.method is {options['method']!r}, must be one of {', '.join(METHODS)}")
    if options["rejection"] not in rejection.REJECTIONS:
        names = ", ".join(rejection.REJECTIONS)
        raise ValueError(f"stack.rejection is {options['rejection']!r}, must be one of {names}")
    frames = open_frames(inputs)
    if not frames:
        raise RejectedFrame("there is no frame to stack", reference_header)
    shape = (int(reference_header["NAXIS2"]), int(reference_header["NAXIS1"]))
    combined = _Combination(frames, shape, options)
    planes = _Strip(*(np.empty(shape, dtype) for dtype in _DTYPES))

    with ThreadPoolExecutor(max(1, threads)) as pool:
        rejected = sum(pool.map(lambda rows: combined.fill(rows, planes), combined.strips(max(1, threads))))
    header = stackheader.stack_header(frames, reference_header, options, combined)
    extensions = {"COVERAGE": planes.coverage, "WEIGHT": planes.weight}
    if combined.rejector is not None:
        extensions |= {"REJLOW": planes.low, "REJHIGH": planes.high}
    extensions["INPUTS"] = stackheader.inputs_table(
        frames, combined.sky[:, 0], rejected[:, 0] / np.maximum(rejected[:, 1], 1)
    )  # fmt: skip
    return Image(planes.data, planes.mask, planes.uncertainty, header, extensions)


class _Strip(NamedTuple):
    """The planes of the stack, or of a strip of it."""

    data: np.ndarray
    uncertainty: np.ndarray
    mask: np.ndarray
    coverage: np.ndarray
    weight: np.ndarray
    low: np.ndarray
    high: np.ndarray


_DTYPES = (np.float32, np.float32, np.uint16, np.int16, np.float32, np.int16, np.int16)


@dataclass(frozen=True)
class Frame:
    """An input whose pixels are read window by window; no file stays open between strips."""

    path: Path
    header: fits.Header
    transform: np.ndarray | Callable
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
        return tuple(self.grid.turn(plane) for plane in self.stored(resampling.raw_window(self.grid, window)))

    def stored(self, window: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels, variance and mask of a window of the frame as it is stored."""
        data, mask, uncertainty = (plane[window] for plane in self._mapped())
        return data, np.square(uncertainty, dtype=np.float32), mask.astype(np.uint16) ^ _TOP_BIT

    def good_values(self, windows: Iterable[tuple[slice, slice]]) -> Iterator[np.ndarray]:
        """The values of the pixels without any flag in each of some windows of the turned frame."""
        data, mask, _ = (self.grid.turn(plane) for plane in self._mapped())
        for window in windows:
            values = data[window][mask[window] == _TOP_BIT].astype(np.float32)
            yield values[np.isfinite(values)]

    def _mapped(self) -> list[np.ndarray]:
        """Pixels, mask and uncertainty as they are in the file."""
        file, formats = np.memmap(self.path, np.uint8, "r"), (">f4", ">u2", ">f4")
        return [np.ndarray(self.shape, type_, file, at) for type_, at in zip(formats, self.offsets, strict=True)]


def open_frames(inputs: Sequence[StackInput | tuple]) -> list[Frame]:
    """Frames to combine, ordered by name, so that the order of the arguments does not matter.

    Raises
    ------
    ValueError
        If a file is no image product, or a matrix, flux scale or weight is unusable.
    """
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
        frames.append(
            Frame(Path(path), header, transform, matrix, float(flux_scale), float(weight), offsets, shape, grid)
        )
    return sorted((f for f in frames if f.weight > 0), key=lambda frame: (frame.name, str(frame.path)))


class _Rejected(NamedTuple):
    """What was rejected of a strip: sum of weights, median of all values, numbers of each frame (rejected, all)."""

    weight: np.ndarray
    median: np.ndarray | None
    of_frames: np.ndarray


class _Combination:
    """What it takes to make any strip of the stack."""

    def __init__(self, frames: list[Frame], shape: tuple[int, int], options: Mapping):
        self.frames, self.shape, self.options = frames, shape, options
        self.method, self.rejection = DEEP_SKY_STACKER.get(options["method"], (options["method"], options["rejection"]))
        self.polynomials = resampling.kernel_polynomials(options["kernel"])
        self.network = combination.sorting_network(len(frames))
        self.ranks = combination.rank_table(len(frames))
        scales = np.array([frame.flux_scale for frame in frames])
        weights = np.array([frame.weight for frame in frames])
        # a sum of electrons is the mean weighted by each frame's throughput, times the total throughput: a pixel that
        # some frames lack stays on the scale of the others
        self.weights = (1 / scales if self.method == "sum" else weights).astype(np.float32)
        self.total = float((1 / scales).sum()) if self.method == "sum" else 1.0
        if self.method in ("median", "min", "max"):
            self.weights[:] = 1
        self.sky = skymatching.match_skies(frames, shape, options["match_sky"])
        self.noise = self._noise(scales)
        areas = np.array([frame.grid.pixel_area for frame in frames])
        photons = np.array([frame.header.get("BUNIT") == "electron" for frame in frames])
        peaks, self.sharpness = _star_peaks(frames)
        self.fractions = np.abs(peaks - 1)
        self.steps = _sky_noise(frames) * (scales * areas).astype(np.float32)
        self.rejector = rejection.make_rejector(
            self.rejection,
            options,
            self.fractions,
            # growth of a resampled pixel's variance with its value: the photon noise of a value's own excess
            np.where(photons, areas * scales * self.noise.squared_weights, 0),
            _typical_sky(frames, scales * areas),
        )

    @property
    def variance_factor(self) -> float:
        """Variance of the combination where all frames count, in units of the mean's."""
        n = len(self.frames)
        if self.method == "auto_adaptive":
            return combination.adaptive_variance_factor()
        return {"median": float(self.ranks[n, 2]), "min": float(n), "max": float(n)}.get(self.method, 1.0)

    def _noise(self, scales: np.ndarray) -> noisecorrelation.StackNoise:
        """Correlated noise, from the sky's and the masters' noise in the headers, on the mean's scale."""
        grids = [frame.grid for frame in self.frames]
        sky = np.array([frame.card("SKYNOISE", np.nan) for frame in self.frames])
        masters = np.array([frame.card("CALNOISE", 0.0) for frame in self.frames])
        if not np.isfinite(sky).all():
            sky, masters = np.ones_like(sky), np.zeros_like(masters)
        return noisecorrelation.stack_noise(
            grids,
            self.polynomials,
            self.shape,
            self.weights.astype(float),
            scales * [grid.pixel_area for grid in grids],
            sky**2,
            masters,
            [tuple(str(frame.header.get(card)) for card in _MASTER_CARDS) for frame in self.frames],
        )

    def strips(self, threads: int) -> list[tuple[int, int]]:
        """Rows of each strip, as many as the memory bound allows."""
        ny, nx = self.shape
        bytes_per_row = nx * (len(self.frames) * 8 + 64)
        n_rows = int(self.options["memory_mb"] * 2**20 / threads / bytes_per_row) - 2 * self._halo
        n_rows = int(np.clip(n_rows, 1, min(_MAX_STRIP_ROWS, -(-ny // threads))))
        return [(start, min(start + n_rows, ny)) for start in range(0, ny, n_rows)]

    @property
    def _halo(self) -> int:
        """Rows around a strip that decide its values."""
        of_method = {"entropy": combination.ENTROPY_HALO, "auto_adaptive": 1, "median": 1}.get(self.method, 0)
        return of_method + (rejection.HALO if self.rejector else 0)

    def fill(self, rows: tuple[int, int], planes: _Strip) -> np.ndarray:
        """Make the rows ``rows[0]`` to ``rows[1] - 1`` of the stack's planes; each frame's values rejected and all."""
        ny, nx = self.shape
        first, last = max(0, rows[0] - self._halo), min(ny, rows[1] + self._halo)
        inner = slice(rows[0] - first, rows[1] - first)
        values, variances, common, any_bits = self._resample((first, last))
        out = _Strip(*(plane[slice(*rows)] for plane in planes))
        rejected = self._reject(values, variances, any_bits, inner.start, out)
        self._combine(values, variances, inner, out)
        if self.rejector is not None and self.rejector.replaces and self.method in ("mean", "sum"):
            share = rejected.weight / np.maximum(rejected.weight + out.weight, np.finfo(np.float32).tiny)
            np.copyto(out.data, out.data + share * (rejected.median[inner] - out.data), where=share > 0)
        out.data[:] *= np.float32(self.total)
        variance = out.uncertainty + self.noise.common_in(rows, nx)
        out.uncertainty[:] = np.sqrt(variance) * np.float32(self.total)
        out.mask[:] = np.where(out.coverage == 0, common[inner] | _NO_DATA, 0) | (any_bits[inner] & _ANY)
        return rejected.of_frames

    def _reject(self, values, variances, flags, first_row: int, out: _Strip) -> _Rejected:
        """Take the outliers out of a strip."""
        weight, of_frames = np.zeros(out.data.shape, np.float32), np.zeros((len(values), 2), np.int64)
        if self.rejector is None:
            out.low[:], out.high[:] = 0, 0
            return _Rejected(weight, None, of_frames)
        median, scatter = self._order_statistic(values, variances, 2, self.rejector.high)
        rejection.reject(values, variances, median, scatter, flags, self.rejector)
        rejection.count_rejected(
            values, variances, first_row, self.weights, out.low, out.high, weight, of_frames
        )  # fmt: skip
        return _Rejected(weight, median, of_frames)

    def _order_statistic(self, values, variances, rank: int, limit: float = 0.0):
        centre, scatter = np.empty(values.shape[1:], np.float32), np.zeros(values.shape[1:], np.float32)
        combination.order_statistic(values, variances, self.network, self.ranks, rank, limit, centre, scatter)
        return centre, scatter

    def _combine(self, values, variances, inner: slice, out: _Strip) -> None:
        """Combine what is left; ``out.uncertainty`` gets the variance."""
        planes = (out.data, out.uncertainty, out.coverage, out.weight)
        if self.method == "entropy":
            combination.entropy_average(values, variances, inner.start, self.weights, self.steps, *planes)
            return
        if self.method == "auto_adaptive":
            centre, scatter = self._order_statistic(values, variances, 2)
            fractions = (self.options["clip_fraction"] + self.fractions).astype(np.float32)
            extra = rejection.gradient_variance(centre, self.options["clip_gradient"])
            combination.adaptive_average(
                values, variances, inner.start, self.weights, fractions, centre, scatter, extra,
                self.options["iterations"], *planes,
            )  # fmt: skip
            out.uncertainty[:] *= np.where(out.coverage > 2, np.float32(self.variance_factor), np.float32(1))
            return
        combination.average(values, variances, inner.start, self.weights, *planes)
        if self.method in ("median", "min", "max"):
            # an extreme has the variance of one frame: which one it is, is not known beforehand
            out.uncertainty[:] *= self.ranks[out.coverage, 2] if self.method == "median" else out.coverage
            rank = ("min", "max", "median").index(self.method)
            centre, _ = self._order_statistic(values, variances, rank)
            if self.method == "median" and self.sharpness.any():
                combination.match_seeing(values, inner.start, centre, out.uncertainty, self.sharpness)
                centre, _ = self._order_statistic(values, variances, rank)
            out.data[:] = np.where(out.coverage > 0, centre[inner], np.nan)

    def _resample(self, rows: tuple[int, int]):
        """All frames on the output rows, the flags that all of them carry, and the flags that any carries."""
        shape = (rows[1] - rows[0], self.shape[1])
        values = np.empty((len(self.frames), *shape), np.float32)
        variances = np.empty_like(values)
        bits, common = np.empty(shape, np.uint16), np.full(shape, 0xFFFF, np.uint16)
        any_bits = np.zeros(shape, np.uint16)
        for frame, sky, value, variance in zip(self.frames, self.sky, values, variances, strict=True):
            self._resample_frame(frame, rows, (value, variance, bits))
            if sky.any():
                value -= skymatching.surface(sky, rows, self.shape)
            common &= bits
            any_bits |= bits
        return values, variances, common, any_bits

    def _resample_frame(self, frame: Frame, rows: tuple[int, int], out: tuple[np.ndarray, ...]) -> None:
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


def _star_peaks(frames: Sequence[Frame]) -> tuple[np.ndarray, np.ndarray]:
    """How the stars of the frames differ by their seeing.

    Returns
    -------
    peaks : ndarray, shape (n,)
        Height of star peaks in units of that in the median seeing, 1 where FWHM is unknown.
    sharpness : ndarray of float32, shape (n,)
        See `combination.match_seeing`. A Gaussian widens by half its Laplacian for each unit of variance, and its
        variance grows by 2 sigma^2 for each unit of ln(sigma).
    """
    fwhm = np.array([frame.card("FWHM", np.nan) / np.sqrt(frame.grid.pixel_area) for frame in frames])  # output pixels
    known = fwhm > 0
    typical = np.median(fwhm[known]) if known.any() else 1.0
    ratio = np.where(known, fwhm, typical) / typical
    variance = typical**2 / (8 * np.log(2))
    return ratio**-2.0, (-variance * np.log(ratio)).astype(np.float32)


def _sky_noise(frames: Sequence[Frame]) -> np.ndarray:
    """Standard deviation of a sky pixel of each frame; 1 where it is unknown."""
    noise = np.array([frame.card("SKYNOISE", 1.0) for frame in frames], np.float32)
    return np.where(np.isfinite(noise) & (noise > 0), noise, np.float32(1))


def _typical_sky(frames: Sequence[Frame], factors: np.ndarray) -> float:
    """Median level of the sky that the frames were freed of, on the common flux scale; 0 where it is unknown."""
    levels = np.array([frame.card("SKYMED", np.nan) for frame in frames]) * factors
    return float(np.median(levels)) if np.isfinite(levels).all() else 0.0
