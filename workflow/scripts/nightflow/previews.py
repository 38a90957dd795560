"""Pictures of images for people: stretched, small, PNG."""

from __future__ import annotations

import os

import numpy as np


def stretch(data: np.ndarray, contrast: float = 0.05) -> np.ndarray:
    """Grey levels that show faint and bright structure together.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        Pixels; NaN is shown black.
    contrast : float
        Softening of the asinh stretch (Lupton et al. 2004, PASP 116, 133), as a part of the shown range.

    Returns
    -------
    ndarray of uint8, shape (ny, nx)
    """
    finite = data[np.isfinite(data)]
    if not finite.size:
        return np.zeros(data.shape, np.uint8)
    sample = finite[:: max(1, finite.size // 500_000)]
    median = np.median(sample)
    noise = 1.4826 * np.median(np.abs(sample - median))
    low, high = median - 2 * noise, max(np.percentile(sample, 99.8), median + 10 * noise)
    if high <= low:
        return np.full(data.shape, 128, np.uint8)
    scaled = np.clip((np.nan_to_num(data, nan=low) - low) / (high - low), 0, 1)
    return (255 * np.arcsinh(scaled / contrast) / np.arcsinh(1 / contrast)).astype(np.uint8)


def shrink(data: np.ndarray, longest: int) -> np.ndarray:
    """`data` averaged over square blocks so that no side is longer than `longest` pixels."""
    factor = -(-max(data.shape) // longest)
    if factor <= 1:
        return data
    ny, nx = (n // factor for n in data.shape)
    blocks = data[: ny * factor, : nx * factor].reshape(ny, factor, nx, factor)
    return blocks.mean(axis=(1, 3))


def write_png(path: str | os.PathLike, data: np.ndarray, longest: int = 1024) -> None:
    """Write a stretched picture of `data`, north as in the file: the first row at the bottom."""
    from PIL import Image as Picture

    from nightflow.products import replacing

    with replacing(path) as scratch:
        Picture.fromarray(stretch(shrink(data, longest))[::-1]).save(scratch, format="PNG", optimize=True)
