"""Pictures of images for people: stretched, small, PNG."""

from __future__ import annotations

import base64
import io
import os

import numpy as np

from nightflow.products import MaskBit

# Mask planes and the colours that mark them, the most telling last.
_MARKS = (
    (MaskBit.SOURCE, (70, 130, 230), 0.45),
    (MaskBit.LOW_RESPONSE | MaskBit.BAD | MaskBit.NO_DATA, (150, 60, 170), 1.0),
    (MaskBit.SATURATED | MaskBit.NONLINEAR, (250, 220, 60), 1.0),
    (MaskBit.TRAIL, (255, 140, 0), 0.8),
    (MaskBit.COSMIC_RAY, (230, 40, 40), 1.0),
)


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


def zscale(data: np.ndarray) -> np.ndarray:
    """Grey levels between the limits of IRAF's zscale, as DS9 and session 15 of the course show a frame.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        Pixels; NaN is shown black.

    Returns
    -------
    ndarray of uint8, shape (ny, nx)
    """
    from astropy.visualization.interval import ZScaleInterval

    finite = data[np.isfinite(data)]
    if not finite.size:
        return np.zeros(data.shape, np.uint8)
    low, high = ZScaleInterval().get_limits(finite)
    if high <= low:
        return np.full(data.shape, 128, np.uint8)
    return (255 * np.clip((np.nan_to_num(data, nan=low) - low) / (high - low), 0, 1)).astype(np.uint8)


def marked(grey: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A grey picture with its masked pixels in colours: sources blue, cosmic rays red, trails orange, and so on.

    Parameters
    ----------
    grey : ndarray of uint8, shape (ny, nx)
    mask : ndarray of uint16, shape (ny, nx)
        `~nightflow.products.MaskBit` planes.

    Returns
    -------
    ndarray of uint8, shape (ny, nx, 3)
    """
    picture = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
    for bits, colour, strength in _MARKS:
        where = (mask & bits) != 0
        picture[where] += strength * (np.asarray(colour, np.float32) - picture[where])
    return picture.astype(np.uint8)


def shrink(data: np.ndarray, longest: int) -> np.ndarray:
    """`data` averaged over square blocks so that no side is longer than `longest` pixels."""
    factor = -(-max(data.shape) // longest)
    return data if factor <= 1 else _blocks(data, factor).mean(axis=(1, 3))


def shrink_mask(mask: np.ndarray, longest: int) -> np.ndarray:
    """Mask planes of the blocks of `shrink`: a bit that any pixel of a block has."""
    factor = -(-max(mask.shape) // longest)
    return mask if factor <= 1 else np.bitwise_or.reduce(_blocks(mask, factor), axis=(1, 3))


def _blocks(data: np.ndarray, factor: int) -> np.ndarray:
    ny, nx = (max(1, n // factor) for n in data.shape)
    by, bx = (min(factor, n) for n in data.shape)
    return data[: ny * by, : nx * bx].reshape(ny, by, nx, bx)


def write_png(path: str | os.PathLike, data: np.ndarray, longest: int = 1024) -> None:
    """Write a stretched picture of `data`, north as in the file: the first row at the bottom."""
    write_picture(path, stretch(shrink(data, longest)))


def write_picture(path: str | os.PathLike, picture: np.ndarray) -> None:
    """Write grey levels, shape (ny, nx), or colours, shape (ny, nx, 3), with the first row at the bottom."""
    from nightflow.products import replacing

    with replacing(path) as scratch:
        scratch.write_bytes(_png(picture, effort=1))  # noise does not get smaller by trying harder


def thumbnail(picture: np.ndarray) -> str:
    """A picture as text for a page, with the first row at the bottom."""
    return "data:image/png;base64," + base64.b64encode(_png(picture, effort=6)).decode("ascii")


def _png(picture: np.ndarray, effort: int) -> bytes:
    from PIL import Image as Picture

    buffer = io.BytesIO()
    Picture.fromarray(np.ascontiguousarray(picture[::-1])).save(buffer, format="PNG", compress_level=effort)
    return buffer.getvalue()
