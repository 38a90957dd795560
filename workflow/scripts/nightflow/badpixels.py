"""Pixels that are hot in the master dark, or dead or deviant in the master flat."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nightflow.combine import order_statistics
from nightflow.inventory import is_fits_name
from nightflow.products import Image, MaskBit, RejectedFrame
from nightflow.rawfiles import RawFile
from nightflow.steps import UserError

_RUN = 31  # pixels of a column or row that are judged together
_BOX = 7  # pixels; the surroundings of a pixel
_BLOCK_PIXELS = 1 << 16  # filtered at a time, in the processor's cache
_AT_A_TIME = 4096  # pixels with their surroundings


def find_bad_pixels(dark: Image | None, flat: Image | None, options: dict) -> np.ndarray:
    """Map of pixels that are hot in the dark, or dead or deviant in the flat.

    Parameters
    ----------
    dark : Image or None
        Master dark.
    flat : Image or None
        Master flat.
    options : dict
        ``hot_sigma``: excess of a hot pixel over its surroundings in standard deviations of one dark frame;
        ``dead_response``: response relative to the surroundings below which a pixel is dead; ``deviant_response``:
        largest relative deviation from the surroundings of a good pixel.

    Returns
    -------
    ndarray of uint16, shape (ny, nx)
        Bit BAD, else 0.

    Raises
    ------
    ValueError
        If there is neither dark nor flat.
    """
    if dark is None and flat is None:
        raise ValueError("a map of bad pixels needs a dark or a flat")
    bad = np.zeros((dark or flat).shape, bool)
    if dark is not None:
        noise = dark.header.get("DARKNOIS", 0.0)
        bad |= hot_pixels(dark.data, noise, options.get("hot_sigma", 20.0))
    if flat is not None:
        bad |= deviant_pixels(flat, options.get("dead_response", 0.5), options.get("deviant_response", 0.2))
    return np.where(_with_filled_lines(bad), np.uint16(MaskBit.BAD), np.uint16(0))


def read_map(path, shape: tuple[int, int]) -> np.ndarray:
    """A map of bad pixels that the observer made.

    Parameters
    ----------
    path : path-like
        A FITS image of the trimmed frame's shape, in which bad pixels are not zero; or a text file with a line ``x y``
        for each bad pixel or ``x1 x2 y1 y2`` for each rectangle, counted from 1, ``#`` before remarks.
    shape : tuple of int
        Rows and columns of the trimmed frame.

    Returns
    -------
    ndarray of uint16, shape (ny, nx)
        Bit BAD, else 0.

    Raises
    ------
    UserError
        If the file cannot be read, does not fit the frame, or a line is none of these.
    """
    try:
        bad = _read_image(path) if is_fits_name(str(path)) else _read_list(path, shape)
    except (OSError, UnicodeDecodeError, RejectedFrame) as error:
        raise UserError(f"the bad-pixel map {path} cannot be read: {error}") from error
    if bad.shape != shape:
        size = f"{bad.shape[1]} x {bad.shape[0]} pixels, the trimmed frame {shape[1]} x {shape[0]}"
        raise UserError(f"the bad-pixel map {path} has {size}")
    return np.where(bad, np.uint16(MaskBit.BAD), np.uint16(0))


def _read_image(path) -> np.ndarray:
    return RawFile(path).read() != 0


def _read_list(path, shape: tuple[int, int]) -> np.ndarray:
    bad = np.zeros(shape, bool)
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        if len(words) not in (2, 4) or not all(word.isdecimal() and int(word) > 0 for word in words):
            raise UserError(f"the bad-pixel map {path}, line {number}, is '{line}': expected 'x y' or 'x1 x2 y1 y2'")
        x1, x2, y1, y2 = map(int, words if len(words) == 4 else (words[0], words[0], words[1], words[1]))
        bad[y1 - 1 : y2, x1 - 1 : x2] = True
    return bad


def hot_pixels(dark: np.ndarray, noise: float, threshold: float) -> np.ndarray:
    """Pixels brighter than their surroundings by `threshold` standard deviations.

    Parameters
    ----------
    dark : ndarray of float32, shape (ny, nx)
        Master dark.
    noise : float
        Standard deviation of one dark frame. Where the dark itself scatters more from pixel to pixel, that counts: a
        mean of ever more frames shows ever fainter warm pixels, which the dark corrects well.
    threshold : float
        Standard deviations.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
        True also where the dark is not finite.
    """
    excess = local_median(dark, _BOX)
    np.subtract(dark, excess, out=excess)
    hot = ~(excess <= threshold * np.float32(noise))
    at = np.nonzero(hot)  # few: the scatter, which can only clear them, is not needed elsewhere
    theirs = excess[at]
    scatter = 1.4826 * local_median_at(np.abs(excess, out=excess), *at, 2 * _BOX + 1)
    hot[at] = ~(theirs <= threshold * np.maximum(scatter, np.float32(noise)))
    return hot


def deviant_pixels(flat: Image, dead_response: float, deviant_response: float) -> np.ndarray:
    """Pixels whose response is far from that of their surroundings, beyond the flat's own noise.

    Parameters
    ----------
    flat : Image
        Master flat.
    dead_response : float
        Smallest response, relative to the surroundings, of a live pixel.
    deviant_response : float
        Largest relative deviation of a good pixel.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
    """
    ratio = local_median(flat.data, _BOX)
    with np.errstate(divide="ignore", invalid="ignore"):  # without light all around there is no ratio
        np.divide(flat.data, ratio, out=ratio)
    dead = ~(ratio >= dead_response)
    away = np.abs(np.subtract(ratio, 1, out=ratio), out=ratio)
    bad = ~(away <= deviant_response)
    at = np.nonzero(bad)  # few: the noise, which can only clear them, is not needed elsewhere
    bad[at] = ~(away[at] <= 5 * flat.uncertainty[at])
    bad |= dead
    at = np.nonzero(bad)
    bad[at] = (flat.mask[at] & MaskBit.LOW_RESPONSE) == 0
    return bad


def local_median(image: np.ndarray, width: int) -> np.ndarray:
    """Median over `width` columns, then over `width` rows: a bright column does not become its own background.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        NaN counts as the image's median.
    width : int
        Odd number of pixels.
    """
    half, (ny, nx) = width // 2, image.shape
    padded = np.pad(_without_nan(image), half, mode="symmetric")
    result = np.empty(image.shape, np.float32)
    height = max(1, _BLOCK_PIXELS // nx)
    for start in range(0, ny, height):
        block = padded[start : min(start + height, ny) + 2 * half]
        across = _middle([block[:, i : i + nx] for i in range(width)])
        result[start : start + height] = _middle([across[i : len(block) - 2 * half + i] for i in range(width)])
    return result


def local_median_at(image: np.ndarray, y: np.ndarray, x: np.ndarray, width: int) -> np.ndarray:
    """Values of `local_median` at some pixels only, shape (n,); at very many it finds them everywhere."""
    if y.size > image.size // 50:
        return local_median(image, width)[y, x]
    filled, offset = _without_nan(image), np.arange(width)[:, None]
    row, column = (np.pad(np.arange(n), width // 2, mode="symmetric") for n in image.shape)
    result = np.empty(y.size, np.float32)
    for part in np.split(np.arange(y.size), range(_AT_A_TIME, y.size, _AT_A_TIME)):
        block = filled[row[y[part] + offset][:, None], column[x[part] + offset]]
        across = _middle([block[:, i] for i in range(width)])
        result[part] = _middle(list(across))
    return result


def _without_nan(image: np.ndarray) -> np.ndarray:
    finite = np.isfinite(image)
    return image if finite.all() else np.where(finite, image, np.float32(np.nanmedian(image)))


def _middle(planes: list[np.ndarray]) -> np.ndarray:
    half = len(planes) // 2
    return order_statistics(planes, frozenset({half}))[half]


def _with_filled_lines(bad: np.ndarray) -> np.ndarray:
    """`bad` with the gaps of columns and rows of which it holds at least half of a run."""
    filled = bad.copy()
    for lines, into in ((bad, filled), (bad.T, filled.T)):
        n = lines.shape[1]
        run = min(_RUN, n)
        enough = np.flatnonzero(2 * np.count_nonzero(lines, axis=1) >= run)  # few lines have so many at all
        total = np.cumsum(np.pad(lines[enough], ((0, 0), (1, 0))), axis=1, dtype=np.int32)
        first = np.clip(np.arange(n) - _RUN // 2, 0, n - run)
        into[enough] |= 2 * (total[:, first + run] - total[:, first]) >= run
    return filled
