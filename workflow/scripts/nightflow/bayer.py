"""One-shot colour: the channels of a detector behind a Bayer pattern of colour filters.

Frames are calibrated as the mosaics that they are, so that every pixel meets its own bias, dark and response; then a
channel is taken out, one pixel for each cell of two by two. Nothing is interpolated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np
from astropy.io import fits

from nightflow.products import Image


def places(pattern: str, channel: str) -> list[tuple[int, int]]:
    """Row and column within a cell of the pixels of a channel.

    Parameters
    ----------
    pattern : str
        Colours of the first two pixels of the first row, then of the second: ``RGGB``.
    channel : {'R', 'G', 'B'}
    """
    return [divmod(place, 2) for place, colour in enumerate(pattern) if colour == channel]


def phases(shape: tuple[int, int], pattern: str | None) -> Iterator[tuple[slice, slice]]:
    """The pixels of each place in a cell of the pattern; all pixels at once without a pattern."""
    if pattern is None:
        yield slice(0, shape[0]), slice(0, shape[1])
        return
    for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        yield slice(y, shape[0], 2), slice(x, shape[1], 2)


def trimmed_pattern(detector: dict) -> str | None:
    """The pattern as it begins on the trimmed frame."""
    pattern = detector.get("bayer")
    if pattern is None:
        return None
    sections = [amp["data"] for amp in detector.get("amplifiers") or []] or [detector.get("trim") or [[0, 0], [0, 0]]]
    y, x = (min(_start(section[axis]) for section in sections) for axis in (0, 1))
    return "".join(pattern[(row + y) % 2 * 2 + (column + x) % 2] for row in (0, 1) for column in (0, 1))


def _start(part) -> int:
    return (part.start or 0) if isinstance(part, slice) else part[0]


def channel_of(image: Image, pattern: str, channel: str) -> Image:
    """One channel of a calibrated mosaic, with half the rows and columns.

    A pixel holds the electrons of its cell: those of one pixel in R and B, the sum of two in G, so that its photon
    noise remains the root of its value.

    Parameters
    ----------
    image : Image
        Calibrated mosaic, shape (ny, nx).
    pattern : str
        Of the first cell of `image`.
    channel : {'R', 'G', 'B'}

    Returns
    -------
    Image
        Shape (ny // 2, nx // 2).
    """
    ny, nx = (size // 2 * 2 for size in image.shape)
    cells = [np.s_[y:ny:2, x:nx:2] for y, x in places(pattern, channel)]
    data = np.sum([image.data[cell] for cell in cells], axis=0, dtype=np.float32)
    variance = np.sum([np.square(image.uncertainty[cell]) for cell in cells], axis=0, dtype=np.float32)
    mask = np.bitwise_or.reduce([image.mask[cell] for cell in cells])
    return Image(data, mask, np.sqrt(variance), _header(image.header, places(pattern, channel), channel))


def _header(header: fits.Header, pixels: list[tuple[int, int]], channel: str) -> fits.Header:
    cards = header.copy()
    for keyword in ("BAYERPAT", "BAYRPAT", "COLORTYP", "XBAYROFF", "YBAYROFF"):
        cards.remove(keyword, ignore_missing=True)
    cards["CHANNEL"] = (channel, "of a Bayer pattern, one pixel for each cell of 2 x 2")
    for keyword, factor in (("RDNOISE", math.sqrt(len(pixels))), ("SATURATE", len(pixels))):
        if keyword in cards:
            cards[keyword] *= factor
    for keyword in ("XPIXSZ", "YPIXSZ"):
        if keyword in cards:
            cards[keyword] *= 2
    _halve_coordinates(cards, [float(np.mean([place[axis] for place in pixels])) for axis in (0, 1)])
    return cards


def _halve_coordinates(cards: fits.Header, centre: list[float]) -> None:
    """Scale a WCS to pixels of twice the size, whose centres lie at `centre` (row, column) in the first cell."""
    for keyword in list(cards):
        pixel = re.fullmatch(r"CRPIX([12])[A-Z]?", keyword)
        if pixel:
            cards[keyword] = (cards[keyword] - 1 - centre[2 - int(pixel[1])]) / 2 + 1
        elif re.fullmatch(r"CDELT[12][A-Z]?|CD[12]_[12][A-Z]?", keyword):
            cards[keyword] *= 2
