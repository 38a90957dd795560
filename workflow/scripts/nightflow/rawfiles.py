"""Raw FITS files: the pixels of one image as float32, whole or in strips of rows."""

from __future__ import annotations

import gzip
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from astropy.io import fits

from nightflow.inventory import MOST_GAIN, MOST_PIXELS
from nightflow.photontransfer import sample
from nightflow.products import RejectedFrame


class RawFile:
    """The image in one HDU of a raw FITS file, read in strips of rows.

    The file is opened once a strip, so any number of frames may be in use at a time; a gzipped file stays open,
    since its rows can be reached only in order.

    Parameters
    ----------
    path : path-like
        Raw frame: .fits, .gz or .fz.
    hdu : int or str, optional
        Extension; the first one with an image by default.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns.
    header : `~astropy.io.fits.Header`
        The image's own header.
    step : float
        Smallest difference of two values in ADU; 0 for floating-point pixels.

    Raises
    ------
    RejectedFrame
        If the file is no FITS file, has no two-dimensional image, or is shorter than its header says.
    OSError
        If the file system does not deliver it.
    """

    def __init__(self, path: str | os.PathLike, hdu: int | str | None = None):
        self.path = Path(path)
        self._hdu = hdu
        self._stream = None
        try:
            with _opened(self.path) as hdus:
                self._read_layout(_image_hdu(hdus, hdu))
        except RejectedFrame:
            raise
        except Exception as error:  # on a damaged header the reader raises whatever it stumbles over
            _raise_if_storage(error)
            raise RejectedFrame(f"{self.path.name} is unreadable: {_in_words(error)}") from error
        self._check_size(self.path.stat().st_size)

    def _read_layout(self, hdu) -> None:
        self.header = hdu.header.copy()
        self._compressed_image = isinstance(hdu, fits.CompImageHDU)
        self._gzipped = not self._compressed_image and _is_gzip(self.path)
        self._is_plain = not (self._compressed_image or self._gzipped)
        self.shape = _plane_shape(self.header, self.path)
        self._dtype = np.dtype(fits.hdu.image.BITPIX2DTYPE[self.header["BITPIX"]]).newbyteorder(">")
        self._offset = hdu.fileinfo()["datLoc"] if not self._compressed_image else 0
        self._scale = float(self.header.get("BSCALE", 1))
        self._zero = float(self.header.get("BZERO", 0))
        self.step = abs(self._scale) if self.header["BITPIX"] > 0 else 0.0
        self._blank = self.header.get("BLANK") if self.header["BITPIX"] > 0 else None

    def _check_size(self, size: int) -> None:
        """Raise `RejectedFrame` where a file of `size` bytes cannot hold the image, before room is made for it."""
        wanted = self._dtype.itemsize * math.prod(self.shape)
        if self._is_plain and size < self._offset + wanted:
            raise RejectedFrame(f"{self.path.name} is truncated: the file is shorter than its header says", self.header)
        if wanted > MOST_GAIN * size or math.prod(self.shape) > MOST_PIXELS:
            raise RejectedFrame(
                f"{self.path.name} is damaged: {size} bytes cannot hold {self.shape[1]} x {self.shape[0]} pixels",
                self.header,
            )

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` as float32 in ADU, shape (stop - start, nx); BLANK becomes NaN.

        Raises
        ------
        RejectedFrame
            If the data end early or cannot be decompressed.
        """
        try:
            if self._compressed_image:
                return self._decompressed_rows(start, stop)
            return self._scaled(self._stored_rows(start, stop))
        except (OSError, EOFError, ValueError) as error:
            _raise_if_storage(error)
            raise RejectedFrame(f"{self.path.name} is truncated or damaged: {error}", self.header) from error

    def read(self) -> np.ndarray:
        """All rows."""
        return self.rows(0, self.shape[0])

    def _stored_rows(self, start: int, stop: int) -> np.ndarray:
        row_bytes = self._dtype.itemsize * self.shape[1]
        offset, size = self._offset + start * row_bytes, (stop - start) * row_bytes
        if self._gzipped:
            content = self._gzip_bytes(offset, size)
        else:
            with open(self.path, "rb", buffering=0) as file:
                content = os.pread(file.fileno(), size, offset)
        return np.frombuffer(content, self._dtype).reshape(stop - start, self.shape[1])

    def _gzip_bytes(self, offset: int, size: int) -> bytes:
        if self._stream is None:
            self._stream = gzip.open(self.path, "rb")  # noqa: SIM115  closed with the frame
        self._stream.seek(offset)
        return self._stream.read(size)

    def _scaled(self, stored: np.ndarray) -> np.ndarray:
        exact = stored.dtype.itemsize <= 2 or stored.dtype.kind == "f"  # other integers need float64 until BZERO is off
        pixels = stored.astype(np.float32 if exact else np.float64)
        if self._scale != 1:
            pixels *= pixels.dtype.type(self._scale)
        if self._zero:
            pixels += pixels.dtype.type(self._zero)
        if stored.dtype.kind == "f":
            pixels[np.isinf(pixels)] = np.nan
        elif self._blank is not None:
            pixels[stored == self._blank] = np.nan
        return pixels.astype(np.float32, copy=False)

    def _decompressed_rows(self, start: int, stop: int) -> np.ndarray:
        with _opened(self.path) as hdus:
            section = _image_hdu(hdus, self._hdu).section
            leading = (0,) * (len(section.shape) - 2)
            try:
                stored = section[(*leading, slice(start, stop))]
            except Exception as error:  # on damaged bytes each decoder raises an error of its own
                _raise_if_storage(error)
                raise ValueError(f"a tile cannot be decompressed ({error})") from error
        pixels = np.array(stored, dtype=np.float32)
        pixels[np.isinf(pixels)] = np.nan
        return pixels


def _in_words(error: Exception) -> str:
    """What is wrong with a file, for people; the reader's own advice is for programmers."""
    said = " ".join(str(error).split())
    if "No SIMPLE card" in said:
        return "it is no FITS file (one begins with SIMPLE)"
    if said == "Empty or corrupt FITS file":
        return "it is empty or no FITS file"
    return said


def _raise_if_storage(error: Exception) -> None:
    """Raise errors of the file system and of memory again: they say nothing about the data."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
        raise error


@contextmanager
def _opened(path: Path) -> Iterator[fits.HDUList]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a truncated file is judged by its size, odd cards do not matter here
        with fits.open(path, memmap=False, lazy_load_hdus=True) as hdus:
            yield hdus


def _image_hdu(hdus: fits.HDUList, hdu: int | str | None):
    if hdu is not None:
        return hdus[hdu]
    for candidate in hdus:
        if candidate.is_image and candidate.header.get("NAXIS", 0) >= 2:
            return candidate
    raise ValueError("it has no image")


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _plane_shape(header: fits.Header, path: Path) -> tuple[int, int]:
    axes = [header[f"NAXIS{i}"] for i in range(header["NAXIS"], 0, -1)]
    if len(axes) < 2 or any(n != 1 for n in axes[:-2]) or min(axes, default=0) < 1:
        raise RejectedFrame(f"{path.name} is no two-dimensional image: its axes are {axes[::-1]}", header)
    return axes[-2], axes[-1]


class JoinedRawFile:
    """The images of several extensions as one, each above the one before it: a detector with an extension an amplifier.

    Parameters
    ----------
    parts : list of `RawFile`
        Of equal shape. The header is that of the first.

    Raises
    ------
    RejectedFrame
        If their shapes differ.
    """

    def __init__(self, parts: list[RawFile]):
        self._parts = parts
        self.path, self.header, self.step = parts[0].path, parts[0].header, parts[0].step
        if any(part.shape != parts[0].shape for part in parts):
            raise RejectedFrame(f"the amplifiers of {self.path.name} are images of different shapes", self.header)
        self._height, width = parts[0].shape
        self.shape = (self._height * len(parts), width)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """As `RawFile.rows`."""
        pieces, height = [], self._height
        for number in range(start // height, -(-stop // height)):
            below = number * height
            pieces.append(self._parts[number].rows(max(start - below, 0), min(stop - below, height)))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def read(self) -> np.ndarray:
        """All rows."""
        return self.rows(0, self.shape[0])


def open_raw(path: str | os.PathLike, hdu: int | str | None = None) -> RawFile | JoinedRawFile:
    """A raw frame; `hdu` may name several extensions as ``1+2+3+4``, the amplifiers of one detector."""
    if isinstance(hdu, str) and re.fullmatch(r"\d+(\+\d+)+", hdu):
        return JoinedRawFile([RawFile(path, int(number)) for number in hdu.split("+")])
    return RawFile(path, hdu)


def open_sound(path: str | os.PathLike, hdu: int | str | None = None) -> RawFile | JoinedRawFile:
    """A raw calibration frame whose pixels can be read and show something.

    Raises
    ------
    RejectedFrame
        As `RawFile`; if a compressed file is damaged, which shows only when it is read; if its pixels hold no numbers,
        or all the same one.
    """
    raw = open_raw(path, hdu)
    pixels = sample(raw)
    lowest, highest = (extreme.reduce(pixels, axis=None) for extreme in (np.fmin, np.fmax))
    if np.isnan(lowest):
        raise RejectedFrame(f"{raw.path.name} holds no numbers", raw.header)
    if lowest == highest:
        raise RejectedFrame(f"all pixels of {raw.path.name} are {lowest:g}: it shows nothing", raw.header)
    return raw


def read_raw(path: str | os.PathLike, hdu: int | str | None = None) -> np.ndarray:
    """Pixels of a raw frame in ADU, float32, shape (ny, nx).

    Parameters
    ----------
    path : path-like
        Raw frame: .fits, .gz or .fz.
    hdu : int or str, optional
        Extension; the first one with an image by default.

    Raises
    ------
    RejectedFrame
        If the file is no FITS file, truncated, or holds no two-dimensional image.
    OSError
        If the file system does not deliver it.
    """
    return open_raw(path, hdu).read()
