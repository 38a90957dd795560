"""Stacking: frames resampled onto the reference grid and combined, strip by strip.

A strip of output rows is read, resampled and combined for all frames before the next one; strips are independent of
each other, so that they run in threads, bound the memory, and give the same bits whatever their height and number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
from astropy.io import fits

from nightflow import resampling
from nightflow.combine import median_variance_factor, quartile_distance, quartile_ranks, selection_network
from nightflow.products import Image, MaskBit, RejectedFrame, raise_if_rejected

METHODS = ("mean", "median", "sum", "clipped_mean", "min", "max")

DEFAULTS = {
    "method": "clipped_mean",
    "kernel": "lanczos3",
    "clamp": True,
    "clip_low": 4.0,
    "clip_high": 4.0,
    "clip_fraction": 0.05,
    "clip_gradient": 0.3,
    "memory_mb": 1000,
}

#: Fewest frames whose own scatter joins the propagated sigma in the rejection.
MIN_FRAMES_FOR_SCATTER = 15

_MAX_STRIP_ROWS = 64
_CHUNK = 256  # pixels whose values of all frames stay in the processor's nearest cache while they are sorted
_KEPT_WHOLE = np.uint16(MaskBit.SATURATED | MaskBit.NONLINEAR)
_NO_DATA = np.uint16(MaskBit.NO_DATA)


class StackInput(NamedTuple):
    """One frame of a stack.

    Attributes
    ----------
    path : path-like
        Image product with the sky subtracted.
    matrix : ndarray, shape (3, 3)
        Frame to reference pixels, 0-based.
    flux_scale : float
        Factor that brings the frame's fluxes to the reference's scale.
    weight : float
        Relative weight in means.
    """

    path: str | Path
    matrix: np.ndarray
    flux_scale: float = 1.0
    weight: float = 1.0


def stack(
    inputs: Sequence[StackInput], reference_header: fits.Header, options: Mapping | None = None, threads: int = 1
) -> Image:
    """Combine frames on the reference frame's grid.

    Parameters
    ----------
    inputs : sequence of `StackInput` or tuple
        Frames to combine. Those rejected by an earlier stage are left out.
    reference_header : `~astropy.io.fits.Header`
        Header of the reference frame; NAXIS1 and NAXIS2 are the size of the stack.
    options : mapping, optional
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
        For an unknown method or kernel, or unusable numbers in `inputs`.
    RejectedFrame
        If there is no frame to combine.
    """
    options = DEFAULTS | dict(options or {})
    if options["method"] not in METHODS:
        raise ValueError(f"stack.method is {options['method']!r}, must be one of {', '.join(METHODS)}")
    frames = _open_frames([StackInput(*entry) for entry in inputs], options["kernel"])
    if not frames:
        raise RejectedFrame("there is no frame to stack", reference_header)
    shape = (int(reference_header["NAXIS2"]), int(reference_header["NAXIS1"]))
    plan = _Plan(frames, shape, options)
    image = _empty_image(shape)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for rows, strip in pool.map(plan.strip, plan.strips(threads)):
            for whole, part in zip((image.data, image.uncertainty, image.mask, *image.extensions.values()), strip, strict=True):
                whole[rows[0] : rows[1]] = part
    from nightflow import stackheader

    image.header = stackheader.make(frames, reference_header, options)
    return image
