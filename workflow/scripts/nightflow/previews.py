"""Pictures of images for people: stretched, small, PNG."""

from __future__ import annotations

import base64
import io
import os
import zlib
from collections.abc import Sequence
from functools import reduce

import numpy as np

from nightflow.medians import median_of_many
from nightflow.products import Image, MaskBit

LONGEST = 1024  # px; no side of a picture is longer
# Mask planes, the colours that mark them, how strongly, and how many grey levels shine through, the most telling last.
_MARKS = (
    (MaskBit.SOURCE, (70, 130, 230), 0.45, 64),
    (MaskBit.LOW_RESPONSE | MaskBit.BAD | MaskBit.NO_DATA, (150, 60, 170), 1.0, 1),
    (MaskBit.SATURATED | MaskBit.NONLINEAR, (250, 220, 60), 1.0, 1),
    (MaskBit.TRAIL, (255, 140, 0), 0.8, 32),
    (MaskBit.COSMIC_RAY, (230, 40, 40), 1.0, 1),
)
_GREYS = 128  # levels of what is not marked: a palette has 256 colours in all


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
    median = median_of_many(sample)
    noise = 1.4826 * median_of_many(np.abs(sample - median))
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
    finite = data[np.isfinite(data)]
    if not finite.size:
        return np.zeros(data.shape, np.uint8)
    low, high = _zscale_limits(finite)
    if high <= low:
        return np.full(data.shape, 128, np.uint8)
    return (255 * np.clip((np.nan_to_num(data, nan=low) - low) / (high - low), 0, 1)).astype(np.uint8)


def _zscale_limits(values):
    """Lowest and highest level to show: what the line through most of the sorted values reaches, four times as steep.

    Values beyond 2.5 standard deviations of that line are left out with their neighbours in order, a hundredth of all;
    where fewer than half are left, every value is shown.
    """
    sample = np.sort(values[:: max(1, values.size // 1000)][:1000]).astype(float)
    rank, kept = np.arange(sample.size), np.ones(sample.size, dtype=bool)
    neighbours, least = np.ones(max(1, sample.size // 100), dtype=bool), max(5, sample.size // 2)
    for _ in range(5):
        number = np.count_nonzero(kept)
        if number < least:
            break
        slope, start = np.polyfit(rank[kept], sample[kept], 1)
        off = sample - (start + slope * rank)
        kept = ~np.convolve(~kept | (np.abs(off) > 2.5 * off[kept].std()), neighbours, mode="same")
        if np.count_nonzero(kept) == number:
            break
    if np.count_nonzero(kept) < least:
        return sample[0], sample[-1]
    median, middle = np.median(sample), (sample.size - 1) // 2
    low, high = median - (middle - 1) * 4 * slope, median + (sample.size - middle) * 4 * slope
    return max(sample[0], low), min(sample[-1], high)


def marked(grey: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A grey picture with its masked pixels in colours: sources blue, cosmic rays red, trails orange, and so on.

    Parameters
    ----------
    grey : ndarray of uint8, shape (ny, nx)
    mask : ndarray of uint16, shape (ny, nx)
        `~nightflow.products.MaskBit` planes.

    Returns
    -------
    picture : ndarray of uint8, shape (ny, nx)
        Number of the colour of each pixel.
    palette : ndarray of uint8, shape (n, 3)
    """
    picture, palette = _level(grey, _GREYS), [_shades((0, 0, 0), 0.0, _GREYS)]
    for bits, colour, strength, levels in _MARKS:
        at = (mask & bits) != 0
        picture[at] = _level(grey[at], levels) + sum(map(len, palette))
        palette.append(_shades(colour, strength, levels))
    return picture, np.concatenate(palette)


def _level(grey, levels: int):
    """Grey levels of 256 in coarser steps."""
    return (grey.astype(np.uint16) * levels // 256).astype(np.uint8)


def _shades(colour, strength: float, levels: int):
    """A colour over each of the grey levels."""
    grey = np.linspace(0, 255, levels)[:, None]
    return np.rint(grey + strength * (np.array(colour) - grey)).astype(np.uint8)


def shrink(data: np.ndarray, longest: int = LONGEST) -> np.ndarray:
    """`data` averaged over square blocks so that no side is longer than `longest` pixels."""
    factor = -(-max(data.shape) // longest)
    if factor <= 1:
        return data
    return _over_blocks(np.add, data, factor) / (min(factor, data.shape[0]) * min(factor, data.shape[1]))


def shrink_mask(mask: np.ndarray, longest: int = LONGEST) -> np.ndarray:
    """Mask planes of the blocks of `shrink`: a bit that any pixel of a block has."""
    factor = -(-max(mask.shape) // longest)
    return mask if factor <= 1 else _over_blocks(np.bitwise_or, mask, factor)


def _over_blocks(combine: np.ufunc, data: np.ndarray, factor: int) -> np.ndarray:
    """The pixels of each square block combined; what is left at the ends is not looked at."""
    for size in (min(factor, n) for n in data.shape):
        whole = data[: len(data) // size * size]
        data = reduce(combine, (whole[i::size] for i in range(size))).T
    return data


def write_png(path: str | os.PathLike, data: np.ndarray) -> None:
    """Write a stretched picture of `data`, north as in the file: the first row at the bottom."""
    write_picture(path, stretch(shrink(data)))


def write_frame(paths: Sequence[str | os.PathLike], image: Image | None) -> None:
    """Write a calibrated frame as a picture, and with its masked pixels in colours as another.

    Parameters
    ----------
    paths : sequence of path-like
        Of the two pictures; none are drawn without paths.
    image : `~nightflow.products.Image` or None
        None for a rejected frame: each picture is one black pixel.
    """
    if not paths:
        return
    grey = np.zeros((1, 1), np.uint8) if image is None else zscale(shrink(image.data))
    write_picture(paths[0], grey)
    write_picture(paths[1], *((grey,) if image is None else marked(grey, shrink_mask(image.mask))))


def write_picture(path: str | os.PathLike, picture: np.ndarray, palette: np.ndarray | None = None) -> None:
    """Write grey levels, colours (a third axis) or numbers of a palette's colours, with the first row at the bottom."""
    from nightflow.products import replacing

    with replacing(path) as scratch:
        scratch.write_bytes(_png(picture, palette))


def thumbnail(picture: np.ndarray) -> str:
    """A picture as text for a page, with the first row at the bottom."""
    return "data:image/png;base64," + base64.b64encode(_png(picture)).decode("ascii")


def _png(picture: np.ndarray, palette: np.ndarray | None = None) -> bytes:
    from PIL import Image as Picture

    drawn, buffer = Picture.fromarray(np.ascontiguousarray(picture[::-1])), io.BytesIO()
    if palette is not None:
        drawn.putpalette(palette.tobytes())
    # noise repeats nothing but neighbours: to look for more takes two to four times as long, and finds nothing
    drawn.save(buffer, format="PNG", compress_type=zlib.Z_RLE)
    return buffer.getvalue()
