"""Drizzle: frames of an undersampled camera onto finer pixels, by the share of each input pixel in each output pixel.

Input pixels, shrunk by ``pixfrac``, are dropped onto the output as they are (Fruchter & Hook 2002, PASP 114, 144): no
kernel has to guess what lies between them, and dithered frames fill in what one of them cannot show. Outliers are found
beforehand, on each frame, against an ordinary stack brought back to its pixels. The output is made tile by tile, from
windows of the frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from astropy.io import fits

from nightflow import resampling, stacking
from nightflow.products import UNUSABLE, Image, MaskBit
from nightflow.steps import UserError

METHODS = ("mean", "sum")
SKIES = ("none", "constant")
_TILE = 512  # output pixels; fixed, so that the result depends neither on memory nor on threads
_LEAST_PART = 1e-6  # of a drop in a pixel; less is rounding
_SAMPLING = 2.0  # bilinear interpolation halves the peaks of stars narrower than 1.3 px
_KEPT = np.uint16(MaskBit.SATURATED | MaskBit.NONLINEAR)


def check(options: Mapping) -> None:
    """Raise `UserError` where drizzle cannot do what the section ``stack`` asks for."""
    for option, choices in {"method": METHODS, "match_sky": SKIES}.items():
        if options[option] not in choices:
            raise UserError(f"stack.{option} is {options[option]!r}; with drizzle it is one of {', '.join(choices)}")


def finer(header: fits.Header, scale: float) -> fits.Header:
    """Header of the same field with pixels of `scale` times the size: NAXISn and sky coordinates."""
    header = header.copy()
    for axis in (1, 2):
        header[f"NAXIS{axis}"] = int(np.ceil(header[f"NAXIS{axis}"] / scale - 1e-9))
        if f"CRPIX{axis}" in header:
            header[f"CRPIX{axis}"] = (header[f"CRPIX{axis}"] - 0.5) / scale + 0.5
        for card in (f"CDELT{axis}", f"CD1_{axis}", f"CD2_{axis}"):
            if card in header and not (card.startswith("CDELT") and "CD1_1" in header):
                header[card] *= scale
    for card in header:
        name, *powers = card.split("_")
        if name in ("A", "B", "AP", "BP") and len(powers) == 2:
            header[card] *= scale ** (int(powers[0]) + int(powers[1]) - 1)
    return header


def stack(frames: Sequence[stacking.StackInput], header: fits.Header, options: Mapping, threads: int = 1) -> Image:
    """Drizzle frames.

    Parameters
    ----------
    frames : sequence of `~nightflow.stacking.StackInput`
    header : `~astropy.io.fits.Header`
        Of the stack, with the size and sky coordinates of the grid that the frames' transforms lead to.
    options : mapping
        Section ``stack`` of the configuration: ``pixfrac`` (side of a drop in input pixels) and ``drizzle_scale`` (side
        of an output pixel in pixels of the grid), besides the others.
    threads : int
        Tiles, and strips of the ordinary stack, at work at a time.

    Returns
    -------
    `~nightflow.products.Image`
        With ``COVERAGE`` (frames that a pixel has light from), ``WEIGHT`` and ``INPUTS``.

    Raises
    ------
    UserError
        If the method or the matching of skies is none that drizzle has.
    RejectedFrame
        If there is no frame to combine.
    """
    check(options)
    plain = stacking.stack(frames, header, {**options, "kernel": "bilinear"}, threads)
    fine = plain.header.copy()
    fine["NAXIS1"], fine["NAXIS2"] = header["NAXIS1"], header["NAXIS2"]
    fine = finer(fine, options["drizzle_scale"])
    shape = (fine["NAXIS2"], fine["NAXIS1"])
    planes = _Planes(*(np.empty(shape, dtype) for dtype in _DTYPES))
    inputs = [
        _Input(frame, float(sky), _typical_variance(frame))
        for frame, sky in zip(stacking.open_frames(frames), plain.extensions["INPUTS"]["sky_offset"], strict=True)
    ]

    def fill(tile: tuple[slice, slice]) -> None:
        for plane, part in zip(planes, _tile(tile, inputs, plain.data, options), strict=True):
            plane[tile] = part

    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(fill, _tiles(shape)))
    if options["method"] == "sum":
        total = np.float32(sum(1 / frame.flux_scale for frame, _, _ in inputs))
        planes.data[:] *= total
        planes.uncertainty[:] *= total
    _describe(fine, options)
    extensions = {"COVERAGE": planes.coverage, "WEIGHT": planes.weight, "INPUTS": plain.extensions["INPUTS"]}
    return Image(planes.data, planes.mask, planes.uncertainty, fine, extensions)


class _Planes(NamedTuple):
    """The planes of the stack, or of a tile of it."""

    data: np.ndarray
    uncertainty: np.ndarray
    mask: np.ndarray
    coverage: np.ndarray
    weight: np.ndarray


_DTYPES = (np.float32, np.float32, np.uint16, np.int16, np.float32)


class _Input(NamedTuple):
    """A frame, what is subtracted from it to match the skies, and the variance of its typical pixel."""

    frame: stacking.Frame
    sky: float
    variance: float


def _typical_variance(frame: stacking.Frame) -> float:
    """Median of the variances of a frame, on the stack's flux scale."""
    _, variances, _ = frame.stored(np.s_[::4, :])
    return float(np.nanmedian(variances)) * (frame.flux_scale * frame.grid.pixel_area) ** 2


def _tiles(shape: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Rows and columns of squares of the output: they bound the memory, also for frames at any angle."""
    rows, columns = ([slice(k, min(k + _TILE, n)) for k in range(0, n, _TILE)] for n in shape)
    return [(row, column) for row in rows for column in columns]


def _tile(tile: tuple[slice, slice], inputs: Sequence[_Input], model: np.ndarray, options: Mapping) -> _Planes:
    """Drizzle one tile."""
    from drizzle.resample import Drizzle

    scale = options["drizzle_scale"]
    border = int(np.ceil(2 / scale)) + 2  # the package leaves out drops that reach across the edge of the output
    rows, columns = (slice(part.start - border, part.stop + border) for part in tile)
    # on the frames' grid, with the half pixel by which its pixels reach beyond their centres
    around = [(int(np.floor(part.start * scale)) - 1, int(np.ceil(part.stop * scale)) + 1) for part in (rows, columns)]
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    drizzle = Drizzle(
        kernel="square", fillval="NaN", fillval2="NaN", out_shape=shape, max_ctx_id=max(len(inputs) - 1, 0)
    )
    for entry in inputs:
        window = resampling.input_window(entry.frame.grid, *around)
        # a single row or column is part of the margin that a window has for interpolation
        if window is not None and min(part.stop - part.start for part in window) > 1:
            window = resampling.raw_window(entry.frame.grid, window)
            _drop(drizzle, entry, window, (columns.start, rows.start), model, options)
    least = _LEAST_PART * min((_weight(entry.frame, options) for entry in inputs), default=0.0)
    inner = slice(border, -border)
    return _Planes(*(plane[inner, inner] for plane in _planes_of(drizzle, shape, least)))


def _weight(frame: stacking.Frame, options: Mapping) -> float:
    return 1 / frame.flux_scale if options["method"] == "sum" else frame.weight


def _drop(drizzle, entry: _Input, window: tuple[slice, slice], origin, model: np.ndarray, options: Mapping) -> None:
    """Add a window of a frame to an output whose first pixel is (x, y) = `origin`."""
    frame, scale = entry.frame, options["drizzle_scale"]
    data, variances, mask = frame.stored(window)
    places = _places(frame.transform, window)
    factor = (frame.flux_scale / _stretch(places)).astype(np.float32)  # to flux in a pixel of the grid
    data, variances = data * factor - np.float32(entry.sky), variances * factor**2
    good = ((mask & UNUSABLE) == 0) & np.isfinite(data) & np.isfinite(variances)
    if options["rejection"] != "none":
        good &= ~_outliers(data, variances, mask, _blotted(model, places), entry.variance, options)
    drizzle.add_image(
        np.where(good, data, 0) * np.float32(scale**2),
        exptime=1.0,
        pixmap=np.ascontiguousarray((places + 0.5) / scale - 0.5 - origin),
        data2=np.where(good, variances, 0) * np.float32(scale**4),
        dq=(mask & _KEPT).astype(np.uint32),
        weight_map=good.astype(np.float32) * np.float32(_weight(frame, options)),
        pixfrac=options["pixfrac"],
        pixel_scale_ratio=scale,
    )


def _places(transform, window: tuple[slice, slice]) -> np.ndarray:
    """x and y on the grid of the pixels of a window of a frame, shape (ny, nx, 2)."""
    y, x = np.mgrid[window].astype(float)
    if callable(transform):
        moved = transform(x.ravel(), y.ravel())
        return np.stack([np.reshape(c, x.shape) for c in moved], axis=-1)
    return np.stack([row[0] * x + row[1] * y + row[2] for row in np.asarray(transform)[:2]], axis=-1)


def _stretch(places: np.ndarray) -> np.ndarray:
    """Area of each input pixel on the grid, in its pixels."""
    (xy, xx), (yy, yx) = (np.gradient(places[..., axis]) for axis in (0, 1))
    return np.abs(xx * yy - xy * yx)


def _blotted(stacked: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The ordinary stack at the pixels of a frame; NaN where it has none."""
    from scipy.ndimage import map_coordinates

    return map_coordinates(stacked, (places[..., 1], places[..., 0]), order=1, cval=np.nan, prefilter=False)


def _outliers(data, variances, mask, model: np.ndarray, typical: float, options: Mapping) -> np.ndarray:
    """Pixels that differ from the model by more than noise, seeing and sampling allow; never where a frame saturates.

    Sampling allows for a part of the model's range among the neighbours: cores of undersampled stars vary by all of it
    with their place on the pixels. The noise is what the model would have, not the value: no cosmic ray excuses itself.
    """
    from scipy.ndimage import maximum_filter, minimum_filter

    known = np.nan_to_num(model)
    steps = _SAMPLING * (maximum_filter(known, 3) - minimum_filter(known, 3))
    noise = np.fmin(variances, np.float32(typical) + np.clip(model, 0, None))
    sigma = np.sqrt(noise + (options["clip_fraction"] * model) ** 2 + (options["clip_gradient"] * steps) ** 2)
    with np.errstate(invalid="ignore"):
        excess = (data - model) / sigma
        return ((excess > options["clip_high"]) | (excess < -options["clip_low"])) & ((mask & _KEPT) == 0)


def _planes_of(drizzle, shape: tuple[int, int], least: float) -> _Planes:
    """What was drizzled; pixels of less than the `least` weight are empty."""
    empty = (drizzle.out_wht <= least) | ~np.isfinite(drizzle.out_img)
    if empty.all():
        nothing, none = np.full(shape, np.nan, np.float32), np.zeros(shape, np.int16)
        return _Planes(nothing, nothing, np.full(shape, np.uint16(MaskBit.NO_DATA)), none, none)
    coverage = sum(np.bitwise_count(plane.view(np.uint32)).astype(np.int16) for plane in drizzle.out_ctx)
    mask = drizzle.out_dq.astype(np.uint16)
    mask[empty] |= np.uint16(MaskBit.NO_DATA)
    sigma = np.sqrt(np.maximum(drizzle.out_img2[0], 0))
    data, uncertainty = (np.where(empty, np.float32(np.nan), plane) for plane in (drizzle.out_img, sigma))
    return _Planes(data, uncertainty, mask, np.where(empty, 0, coverage), np.where(empty, 0, drizzle.out_wht))


def _describe(header: fits.Header, options: Mapping) -> None:
    """Cards of a drizzled stack."""
    header["STACKKRN"] = ("drizzle", "drops of input pixels, no interpolation")
    header["PIXFRAC"] = (options["pixfrac"], "side of a drop in input pixels")
    header["DRIZSCAL"] = (options["drizzle_scale"], "side of a pixel, pixels of the grid")
    header["NOISECOR"] = (round(noise_correlation(options), 5), "noise of large areas over independent pixels")
    for card in ("NOISEBOX", "NOISEOWN"):
        header.remove(card, ignore_missing=True)
    if "SATURATE" in header:
        header["SATURATE"] *= options["drizzle_scale"] ** 2


def noise_correlation(options: Mapping) -> float:
    """Noise of large areas in units of that of independent pixels (Fruchter & Hook 2002, eqs. 9 and 10)."""
    ratio = options["pixfrac"] / options["drizzle_scale"]
    return ratio / (1 - 1 / (3 * ratio)) if ratio >= 1 else 1 / (1 - ratio / 3)
