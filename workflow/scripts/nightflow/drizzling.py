"""Drizzle: frames of an undersampled camera onto finer pixels, by the share of each input pixel in each output pixel.

Input pixels, shrunk by ``pixfrac``, are dropped onto the output as they are (Fruchter & Hook 2002, PASP 114, 144): no
kernel has to guess what lies between them, and dithered frames fill in what one of them cannot show. Outliers are found
beforehand, on each frame, against an ordinary stack brought back to its pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from nightflow import products, stacking
from nightflow.products import UNUSABLE, Image, MaskBit
from nightflow.steps import UserError

METHODS = ("mean", "sum")
SKIES = ("none", "constant")
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
        Of the ordinary stack.

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
    from drizzle.resample import Drizzle

    check(options)
    plain = stacking.stack(frames, header, {**options, "kernel": "bilinear"}, threads)
    skies = {str(row["frame"]): float(row["sky_offset"]) for row in plain.extensions["INPUTS"]}
    frames = sorted((f for f in frames if Path(f.path).stem in skies), key=lambda f: Path(f.path).stem)
    fine = plain.header.copy()
    fine["NAXIS1"], fine["NAXIS2"] = header["NAXIS1"], header["NAXIS2"]
    fine = finer(fine, options["drizzle_scale"])
    drizzle = Drizzle(
        kernel="square", fillval="NaN", fillval2="NaN", out_shape=(fine["NAXIS2"], fine["NAXIS1"]),
        max_ctx_id=len(frames) - 1,
    )  # fmt: skip
    for frame in frames:
        _drop(drizzle, frame, plain.data, skies[Path(frame.path).stem], options)
    total = sum(1 / frame.flux_scale for frame in frames) if options["method"] == "sum" else 1.0
    return _product(drizzle, fine, plain, options, total)


def _drop(drizzle, frame: stacking.StackInput, model: np.ndarray, sky: float, options: Mapping) -> None:
    """Add a frame."""
    image, scale = products.read_image(frame.path), options["drizzle_scale"]
    places = _places(frame.transform, image.shape)
    factor = (frame.flux_scale / _stretch(places)).astype(np.float32)  # to flux in a pixel of the grid
    data, variances = image.data * factor - np.float32(sky), (image.uncertainty * factor) ** 2
    good = ((image.mask & UNUSABLE) == 0) & np.isfinite(data) & np.isfinite(variances)
    if options["rejection"] != "none":
        good &= ~_outliers(data, variances, image.mask, _blotted(model, places), options)
    weight = 1 / frame.flux_scale if options["method"] == "sum" else frame.weight
    drizzle.add_image(
        np.where(good, data, 0) * np.float32(scale**2),
        exptime=1.0,
        pixmap=np.ascontiguousarray((places + 0.5) / scale - 0.5),
        data2=np.where(good, variances, 0) * np.float32(scale**4),
        dq=(image.mask & _KEPT).astype(np.uint32),
        weight_map=good.astype(np.float32) * np.float32(weight),
        pixfrac=options["pixfrac"],
        pixel_scale_ratio=scale,
    )


def _places(transform, shape: tuple[int, int]) -> np.ndarray:
    """x and y on the grid of every pixel of a frame, shape (ny, nx, 2)."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    if callable(transform):
        moved = transform(x.ravel(), y.ravel())
        return np.stack([np.reshape(c, shape) for c in moved], axis=-1)
    return np.stack([row[0] * x + row[1] * y + row[2] for row in np.asarray(transform)[:2]], axis=-1)


def _stretch(places: np.ndarray) -> np.ndarray:
    """Area of each input pixel on the grid, in its pixels."""
    (xy, xx), (yy, yx) = (np.gradient(places[..., axis]) for axis in (0, 1))
    return np.abs(xx * yy - xy * yx)


def _blotted(stacked: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The ordinary stack at the pixels of a frame; NaN where it has none."""
    from scipy.ndimage import map_coordinates

    return map_coordinates(stacked, (places[..., 1], places[..., 0]), order=1, cval=np.nan, prefilter=False)


def _outliers(data, variances, mask, model: np.ndarray, options: Mapping) -> np.ndarray:
    """Pixels that differ from the model by more than noise, seeing and sampling allow; never where a frame saturates.

    Sampling allows for a part of the model's range among the neighbours: cores of undersampled stars vary by all of it
    with their place on the pixels. The noise is what the model would have, not the value: no cosmic ray excuses itself.
    """
    from scipy.ndimage import maximum_filter, minimum_filter

    known = np.nan_to_num(model)
    steps = _SAMPLING * (maximum_filter(known, 3) - minimum_filter(known, 3))
    noise = np.fmin(variances, np.nanmedian(variances) + np.clip(model, 0, None))
    sigma = np.sqrt(noise + (options["clip_fraction"] * model) ** 2 + (options["clip_gradient"] * steps) ** 2)
    with np.errstate(invalid="ignore"):
        excess = (data - model) / sigma
        return ((excess > options["clip_high"]) | (excess < -options["clip_low"])) & ((mask & _KEPT) == 0)


def _product(drizzle, header: fits.Header, plain: Image, options: Mapping, total: float) -> Image:
    """The drizzled image as a stack; `total` is the throughput that a sum is multiplied by."""
    empty = (drizzle.out_wht <= 0) | ~np.isfinite(drizzle.out_img)
    coverage = sum(np.bitwise_count(plane.view(np.uint32)).astype(np.int16) for plane in drizzle.out_ctx)
    mask = drizzle.out_dq.astype(np.uint16)
    mask[empty] |= np.uint16(MaskBit.NO_DATA)
    planes = [
        np.where(empty, np.nan, plane * np.float32(total)).astype(np.float32)
        for plane in (drizzle.out_img, np.sqrt(np.maximum(drizzle.out_img2[0], 0)))
    ]
    header["STACKKRN"] = ("drizzle", "drops of input pixels, no interpolation")
    header["PIXFRAC"] = (options["pixfrac"], "side of a drop in input pixels")
    header["DRIZSCAL"] = (options["drizzle_scale"], "side of a pixel, pixels of the grid")
    header["NOISECOR"] = (round(noise_correlation(options), 5), "noise of large areas over independent pixels")
    for card in ("NOISEBOX", "NOISEOWN"):
        header.remove(card, ignore_missing=True)
    if "SATURATE" in header:
        header["SATURATE"] *= options["drizzle_scale"] ** 2
    extensions = {"COVERAGE": np.where(empty, 0, coverage).astype(np.int16)}
    extensions |= {"WEIGHT": np.where(empty, 0, drizzle.out_wht), "INPUTS": plain.extensions["INPUTS"]}
    return Image(planes[0], mask, planes[1], header, extensions)


def noise_correlation(options: Mapping) -> float:
    """Noise of large areas in units of that of independent pixels (Fruchter & Hook 2002, eqs. 9 and 10)."""
    ratio = options["pixfrac"] / options["drizzle_scale"]
    return ratio / (1 - 1 / (3 * ratio)) if ratio >= 1 else 1 / (1 - ratio / 3)
