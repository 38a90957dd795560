"""Fringes: the interference pattern of night-sky lines in a thinned detector.

The pattern stands still on the detector while a dithered field moves over it, so the median of a night's frames in one
filter shows it without the stars. It is as bright as the sky's lines, not as the sky: each frame has a factor of its
own.

Fringes look like sources to the step before. Sources are therefore sought anew, in frames without the fringes as far as
they are known: not at all for a first pattern, which only leaves out what is too bright for fringes, then twice.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from nightflow import sky, sources
from nightflow.combine import ArrayRows, NoiseModel, combine
from nightflow.products import Image, MaskBit, RejectedFrame, read_image

log = logging.getLogger(__name__)

_CLIP = 4.0  # sigma
_ROUNDS = 5
_PATTERNS = 3  # of which each is made with sources found by the one before
_BRIGHTEST = 0.15  # of the sky's level: no fringes are brighter


def make_fringe(
    paths: Sequence, sky_options: Mapping, source_options: Mapping, *, least: int = 3, memory_mb: float = 256
) -> Image:
    """The fringe pattern of a camera in one filter, in units of the sky's level.

    Parameters
    ----------
    paths : sequence of path-like
        Masked frames with dithers.
    sky_options, source_options : mapping
        Sections ``sky`` and ``sources`` of the configuration, for what varies smoothly and for what is a source.
    least : int
        Smallest number of usable frames.
    memory_mb : float
        For combining.

    Returns
    -------
    Image
        Pattern of mean zero, its noise as uncertainty; NO_DATA where no frame shows the sky.

    Raises
    ------
    RejectedFrame
        If fewer than `least` frames can be used.
    """
    fringe = None
    for _ in range(_PATTERNS):
        fringe = _combined(paths, fringe, sky_options, source_options, least, memory_mb)
    return fringe


def _combined(paths, known: Image | None, sky_options, source_options, least: int, memory_mb: float) -> Image:
    """The pattern, with sources found in frames without the pattern as it is `known`."""
    with tempfile.TemporaryDirectory() as scratch:
        deviations, noises, header = [], [], fits.Header()
        for number, path in enumerate(paths):
            try:
                image = read_image(path)
                relative, noise = _relative(image, known, sky_options, source_options)
            except RejectedFrame:
                continue
            if deviations and relative.shape != deviations[0].shape:
                continue
            file = Path(scratch, f"{number}.npy")
            np.save(file, relative)
            deviations.append(ArrayRows(np.load(file, mmap_mode="r")))
            noises.append(noise)
            header = header if len(header) else image.header
        if len(deviations) < least:
            raise RejectedFrame(f"{len(deviations)} frames show the sky, fringes need {least}", header)
        model = NoiseModel(read_noise=float(np.median(noises)))
        combined = combine(deviations, "median", sigma_model=model, memory_mb=memory_mb)
    mask = np.where(combined.count == 0, np.uint16(MaskBit.NO_DATA), np.uint16(0))
    cards = header.copy()
    cards["IMAGETYP"], cards["BUNIT"] = "FRINGE", ""
    cards["NCOMBINE"] = (len(deviations), "frames combined")
    return Image(combined.data, mask, combined.uncertainty, cards)


def _others(image: Image) -> np.ndarray:
    """The mask of a frame without its sources."""
    return image.mask & ~np.uint16(MaskBit.SOURCE)


def _relative(image: Image, known: Image | None, sky_options, source_options) -> tuple[np.ndarray, float]:
    """Deviations from the smooth sky in units of its level, NaN where pixels are masked, and their noise.

    Sources and smooth sky are those of the frame without the fringes that are `known`. Where none are, sources are not
    masked, and pixels that are too bright for fringes are left out instead.
    """
    clean = Image(image.data, _others(image), image.uncertainty, image.header)
    if known is not None:
        clean = _clean(image, known, sky_options, source_options)
    smooth = _smooth_sky(clean, sky_options)
    level = float(np.median(smooth))
    if not level > 0:
        raise RejectedFrame("the sky is not brighter than zero", image.header)
    noise = float(np.nanmedian(image.uncertainty)) / level
    relative = np.where(clean.mask == 0, (image.data - smooth) / np.float32(level), np.float32(np.nan))
    if known is None:
        relative[relative > max(_BRIGHTEST, _CLIP * noise)] = np.nan
    return relative.astype(np.float32), noise


def _smooth_sky(image: Image, sky_options: Mapping) -> np.ndarray:
    model, _ = sky.sky_model(image.data, image.mask, {**sky_options, "method": "mesh", "estimator": "median"})
    return np.broadcast_to(np.asarray(model, np.float32), image.shape)


def without_fringe(image: Image, path, sky_options: Mapping, source_options: Mapping) -> Image:
    """A masked frame without the fringes of the pattern in the file `path`, and with its sources sought anew.

    It stays as it is where the pattern was rejected.
    """
    try:
        fringe = read_image(path)
    except RejectedFrame as verdict:
        log.warning("fringes stay: %s", verdict.reason)
        return image
    return _clean(image, fringe, sky_options, source_options)


def _clean(image: Image, fringe: Image, sky_options: Mapping, source_options: Mapping) -> Image:
    """A frame without fringes, with the sources that it shows then.

    The level of the pattern is fitted twice, the second time without the sources.
    """
    others = _others(image)
    clean = Image(image.data, others, image.uncertainty, image.header)
    for _ in range(2):
        clean = subtract_fringe(Image(image.data, clean.mask, image.uncertainty, image.header), fringe, sky_options)
        found = sources.source_mask(clean.data, others, source_options)
        clean.mask = others.copy()
        clean.flag(found, MaskBit.SOURCE)
    return clean


def subtract_fringe(image: Image, fringe: Image, sky_options: Mapping) -> Image:
    """A masked frame without its fringes.

    Parameters
    ----------
    image : Image
        Masked frame.
    fringe : Image
        From `make_fringe`.
    sky_options : mapping
        As in `make_fringe`.

    Returns
    -------
    Image
        With FRINGE, the level by which the pattern was multiplied, in the header.

    Raises
    ------
    RejectedFrame
        If the shapes differ.

    Notes
    -----
    The level is that of the weighted least-squares fit of the pattern to the blank sky about its smooth model.
    """
    if image.shape != fringe.shape:
        sizes = (f"{shape[1]} x {shape[0]}" for shape in (image.shape, fringe.shape))
        raise RejectedFrame("the frame has {} pixels, its fringe pattern {}".format(*sizes), image.header)
    pattern = np.where(np.isfinite(fringe.data), fringe.data, np.float32(0))
    noise = np.where(np.isfinite(fringe.uncertainty), fringe.uncertainty, np.float32(0))
    level = _fitted_level(image, pattern, _smooth_sky(image, sky_options))
    data = image.data - np.float32(level) * pattern
    uncertainty = np.hypot(image.uncertainty, np.float32(level) * noise)
    header = image.header.copy()
    header["FRINGE"] = (level, f"[{header.get('BUNIT', '')}] level of the fringe pattern taken off")
    return Image(data, image.mask.copy(), uncertainty, header)


def _fitted_level(image: Image, pattern: np.ndarray, smooth: np.ndarray) -> float:
    blank = (image.mask == 0) & (pattern != 0) & (image.uncertainty > 0)
    planes = (image.data - smooth, pattern, image.uncertainty)
    residual, shape, sigma = (plane[blank].astype(np.float64) for plane in planes)
    spread = 1.4826 * float(np.median(np.abs(residual))) if residual.size else 0.0
    level, used = 0.0, np.abs(residual) <= _CLIP * spread  # stars may not be masked yet
    for _ in range(_ROUNDS):
        weight = used / sigma**2
        total = float(np.sum(weight * shape**2))
        level = float(np.sum(weight * shape * residual)) / total if total > 0 else 0.0
        used = np.abs(residual - level * shape) <= _CLIP * sigma
    return level
