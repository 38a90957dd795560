"""Fringes: the interference pattern of night-sky lines in a thinned detector.

The pattern stands still on the detector while a dithered field moves over it, so the median of a night's frames in one
filter shows it without the stars. It is as bright as the sky's lines, not as the sky: each frame has a factor of its
own.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from nightflow import sky
from nightflow.combine import ArrayRows, NoiseModel, combine
from nightflow.products import Image, MaskBit, RejectedFrame, read_image

log = logging.getLogger(__name__)

_CLIP = 4.0  # sigma
_ROUNDS = 5


def make_fringe(paths: Sequence, sky_options: dict, *, least: int = 3, memory_mb: float = 256) -> Image:
    """The fringe pattern of a camera in one filter, in units of the sky's level.

    Parameters
    ----------
    paths : sequence of path-like
        Masked frames with dithers, sources masked.
    sky_options : dict
        Section ``sky`` of the configuration, for what varies smoothly and is no fringe.
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
    with tempfile.TemporaryDirectory() as scratch:
        sources, noises, header = [], [], fits.Header()
        for number, path in enumerate(paths):
            try:
                image = read_image(path)
                pattern, noise = _relative(image, sky_options)
            except RejectedFrame:
                continue
            if sources and pattern.shape != sources[0].shape:
                continue
            file = Path(scratch, f"{number}.npy")
            np.save(file, pattern)
            sources.append(ArrayRows(np.load(file, mmap_mode="r")))
            noises.append(noise)
            header = header if len(header) else image.header
        if len(sources) < least:
            raise RejectedFrame(f"{len(sources)} frames show the sky, fringes need {least}", header)
        model = NoiseModel(read_noise=float(np.median(noises)))
        combined = combine(sources, "median", sigma_model=model, memory_mb=memory_mb)
    mask = np.where(combined.count == 0, np.uint16(MaskBit.NO_DATA), np.uint16(0))
    cards = header.copy()
    cards["IMAGETYP"], cards["BUNIT"] = "FRINGE", ""
    cards["NCOMBINE"] = (len(sources), "frames combined")
    return Image(combined.data, mask, combined.uncertainty, cards)


def _relative(image: Image, sky_options: dict) -> tuple[np.ndarray, float]:
    """Deviations from the smooth sky in units of its level, NaN where pixels are masked, and their noise."""
    smooth = _smooth_sky(image, sky_options)
    level = float(np.median(smooth))
    if not level > 0:
        raise RejectedFrame("the sky is not brighter than zero", image.header)
    relative = np.where(image.mask == 0, (image.data - smooth) / np.float32(level), np.float32(np.nan))
    return relative.astype(np.float32), float(np.nanmedian(image.uncertainty)) / level


def _smooth_sky(image: Image, sky_options: dict) -> np.ndarray:
    model, _ = sky.sky_model(image.data, image.mask, {**sky_options, "method": "mesh", "estimator": "median"})
    return np.broadcast_to(np.asarray(model, np.float32), image.shape)


def without_fringe(image: Image, path, sky_options: dict) -> Image:
    """A masked frame without the fringes of the pattern in the file `path`; as it is where that was rejected."""
    try:
        fringe = read_image(path)
    except RejectedFrame as verdict:
        log.warning("fringes stay: %s", verdict.reason)
        return image
    return subtract_fringe(image, fringe, sky_options)


def subtract_fringe(image: Image, fringe: Image, sky_options: dict) -> Image:
    """A masked frame without its fringes.

    Parameters
    ----------
    image : Image
        Masked frame.
    fringe : Image
        From `make_fringe`.
    sky_options : dict
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
    level, used = 0.0, np.ones(residual.size, bool)
    for _ in range(_ROUNDS):
        weight = used / sigma**2
        total = float(np.sum(weight * shape**2))
        level = float(np.sum(weight * shape * residual)) / total if total > 0 else 0.0
        used = np.abs(residual - level * shape) <= _CLIP * sigma
    return level
