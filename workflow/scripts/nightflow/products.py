"""Image products: one FITS file with science pixels, mask planes and 1-sigma uncertainty.

Every stage reads and writes images through this module, so that the layout is decided in one place: HDU 0 holds
the science pixels (float32), ``MASK`` the bit planes (uint16) and ``UNCERT`` the standard deviation (float32).
``astropy.nddata.CCDData.read`` opens such a file as it is. A frame that cannot be reduced further becomes a
product without pixels whose header says why.
"""

from __future__ import annotations

import enum
import io
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from astropy.io import fits
from astropy.io.fits.hdu.compressed import DITHER_SEED_CHECKSUM, SUBTRACTIVE_DITHER_1
from astropy.io.fits.hdu.image import BITPIX2DTYPE
from astropy.utils.exceptions import AstropyWarning

from nightflow import __version__, lineage
from nightflow.atomic import replacing

REJECTED = "REJECTED"


class MaskBit(enum.IntFlag):
    """The bit planes of the ``MASK`` extension."""

    BAD = 1  # hot or dead on every frame
    NONLINEAR = 2  # above the linearity limit
    SATURATED = 4
    COSMIC_RAY = 8
    NO_DATA = 16  # science pixel is NaN
    LOW_RESPONSE = 32  # flat field below the usable limit
    TRAIL = 64  # satellite, aircraft or meteor
    SOURCE = 128  # star or galaxy, only in masked/, for the sky
    INTERPOLATED = 256  # value replaced by one from its neighbours


#: Pixels whose value says nothing true about the sky at that place.
UNUSABLE = MaskBit.BAD | MaskBit.COSMIC_RAY | MaskBit.NO_DATA | MaskBit.LOW_RESPONSE | MaskBit.TRAIL

# Cards that describe the raw file's storage or geometry and would be false in a product.
_STALE_CARDS = (
    "BZERO BSCALE BLANK CHECKSUM DATASUM PEDESTAL DATASEC BIASSEC TRIMSEC CCDSEC DETSEC AMPSEC "
    "DATAMIN DATAMAX ZHECKSUM ZDATASUM XTENSION PCOUNT GCOUNT GROUPS EXTEND INHERIT EXTNAME EXTVER EXTLEVEL "
    "SIMPLE BITPIX END TFIELDS THEAP"
).split()
_NOT_COPIED = re.compile(rf"{'|'.join(_STALE_CARDS)}|NAXIS\d*|Z(NAXIS|TILE)\d+|T(FORM|TYPE|DIM|SCAL|ZERO|NULL)\d+")

# Cards that every reader of the standard takes for numbers.
_NUMBERS = re.compile(
    r"(CRPIX|CRVAL|CDELT|CROTA|CD\d_|PC\d_|PV\d_|CRDER|CSYER)\d+[A-Z]?|(A|B|AP|BP)_(ORDER|\d_\d)|WCSAXES[A-Z]?|"
    r"(EQUINOX|LONPOLE|LATPOLE|RESTFRQ|RESTWAV)[A-Z]?|MJD-(OBS|AVG|BEG|END)|EXPTIME|AIRMASS|TELAPSE|XPOSURE"
)
_TEXTS = re.compile(r"(CTYPE|CUNIT|CNAME)\d+[A-Z]?|(RADESYS|WCSNAME)[A-Z]?|BUNIT|OBJECT|FILTER|DATE(-[A-Z]+)?")


class RejectedFrame(Exception):
    """The data of a frame do not allow it to go on; the message says why.

    Parameters
    ----------
    reason : str
        One sentence for the observer.
    header : `~astropy.io.fits.Header`, optional
        Cards to keep in the rejected product.
    """

    def __init__(self, reason: str, header: fits.Header | None = None):
        super().__init__(reason)
        self.reason = reason
        self.header = fits.Header() if header is None else header

    def about(self, header: fits.Header) -> RejectedFrame:
        """This verdict with the frame's `header`, where it was given without one."""
        return self if len(self.header) else RejectedFrame(self.reason, header)


@dataclass
class Image:
    """Science pixels with mask, uncertainty and header.

    Attributes
    ----------
    data : ndarray of float32, shape (ny, nx)
        Science pixels; NaN where the ``NO_DATA`` bit is set.
    mask : ndarray of uint16, shape (ny, nx)
        `MaskBit` planes.
    uncertainty : ndarray of float32, shape (ny, nx)
        Standard deviation, in the unit of `data`.
    header : `~astropy.io.fits.Header`
        Cards of the primary HDU.
    extensions : dict of str to ndarray or `~astropy.table.Table`
        Further named HDUs (``COVERAGE``, ``WEIGHT``, ``INPUTS``).
    """

    data: np.ndarray
    mask: np.ndarray
    uncertainty: np.ndarray
    header: fits.Header = field(default_factory=fits.Header)
    extensions: dict = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        return self.data.shape

    def flag(self, where: np.ndarray, bit: MaskBit) -> None:
        """Set `bit` in the mask where the boolean array `where` is true."""
        self.mask[where] |= np.uint16(bit)


class Columns:
    """A table as plain arrays, with what steps need of the interface of astropy's: to import that takes long.

    Parameters
    ----------
    columns : mapping of str to array_like
        By name, in order, of one length.
    units : mapping of str to str, optional
        Of the columns that have one.

    Attributes
    ----------
    units : dict of str to str
    """

    def __init__(self, columns: Mapping, units: Mapping[str, str] | None = None):
        self._columns = {name: np.asarray(values) for name, values in columns.items()}
        self.units = dict(units or {})

    @property
    def colnames(self) -> list[str]:
        return list(self._columns)

    def keys(self):
        """Names of the columns."""
        return self._columns.keys()

    def __len__(self) -> int:
        """Number of rows."""
        return len(next(iter(self._columns.values()), ()))

    def __iter__(self) -> Iterator[dict]:
        """Rows."""
        return (self[row] for row in range(len(self)))

    def __getitem__(self, key):
        """A column by its name, a row by its number, else a table of the rows that an index of numpy takes."""
        if isinstance(key, str):
            return self._columns[key]
        taken = {name: values[key] for name, values in self._columns.items()}
        return taken if isinstance(key, int | np.integer) else Columns(taken, self.units)

    def __setitem__(self, name: str, values) -> None:
        self._columns[name] = np.asarray(values)

    def copy(self) -> Columns:
        """A table of its own, with columns of its own."""
        return Columns({name: values.copy() for name, values in self._columns.items()}, self.units)

    def table(self):
        """The same as `~astropy.table.QTable`."""
        from astropy.table import QTable

        return QTable(self._columns, units={name: self.units[name] for name in self.colnames if name in self.units})


def clean_header(header: fits.Header) -> fits.Header:
    """Copy of `header` without cards that describe the storage or the sections of the raw file.

    Cards that break the FITS standard are mended or, where that is impossible, dropped: a product must be writable
    whatever the camera software wrote.
    """
    kept = fits.Header()
    for card in header.cards:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", AstropyWarning)
                if _NOT_COPIED.fullmatch(card.keyword) or lineage.is_lineage(card.keyword) or not _is_standard(card):
                    continue
                card.verify("silentfix+exception")
                str(card)  # an unparsable value raises only when it is formatted
                if not _has_its_type(card):
                    continue
            kept.append(copy(card), end=True)
        except (fits.VerifyError, AstropyWarning, ValueError):
            continue
    return kept


def _has_its_type(card: fits.Card) -> bool:
    """Whether a card that readers of the standard act upon has the type that it must have."""
    if _NUMBERS.fullmatch(card.keyword):
        return isinstance(card.value, (int, float)) and not isinstance(card.value, bool) and math.isfinite(card.value)
    return isinstance(card.value, str) or not _TEXTS.fullmatch(card.keyword)


def _is_standard(card: fits.Card) -> bool:
    """Whether the card's keyword and value indicator are where the FITS standard wants them."""
    image = card.image
    commentary = image.startswith(("COMMENT ", "HISTORY ", "HIERARCH ", " " * 8))
    return commentary or bool(re.fullmatch(r"[A-Z0-9_-]{1,8} *", image[:8])) and image[8:10] == "= "


def write_fits(path: str | os.PathLike, hdus: Iterable) -> None:
    """Write HDUs with CHECKSUM and DATASUM, the step's inputs, and without the time of writing, to `path` at once."""
    hdulist = fits.HDUList(list(hdus))
    lineage.record(hdulist[0].header, path)
    hdulist.update_extend()  # now, since every card counts in the checksum
    hdulist = _with_tiles_as_tables(hdulist)
    for hdu in hdulist:
        hdu.add_checksum(when="of this HDU")
    with replacing(path) as scratch, open(scratch, "wb") as file:
        stream = _Stream(file)
        try:
            hdulist.writeto(stream)
            file.flush()
        except Exception as error:
            said = stream.error or error
            if isinstance(said, OSError):
                said.filename = os.fspath(path)
            raise said from None


class _Stream:
    """A file as a mere stream that remembers what went wrong in it.

    To a real file astropy writes pixels with a call that does not say why it failed, and it rewords all errors.
    """

    def __init__(self, file):
        self._file, self.error = file, None
        self.flush, self.tell = file.flush, file.tell

    def write(self, content) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = error
            raise


def _with_tiles_as_tables(hdus: fits.HDUList) -> fits.HDUList:
    """`hdus` with compressed images as the tables that they are on disk, so that these get checksums like any HDU."""
    if not any(isinstance(hdu, fits.CompImageHDU) for hdu in hdus):
        return hdus
    stream = io.BytesIO()
    hdus.writeto(stream)
    stream.seek(0)
    return fits.open(stream, memmap=False, disable_image_compression=True, lazy_load_hdus=False)


def write_image(path: str | os.PathLike, image: Image, compression: str = "none") -> None:
    """Write an image product.

    Parameters
    ----------
    path : path-like
        Output file, replaced if it exists.
    image : `Image`
        The pixels and cards to write. ``BUNIT`` must be in the header.
    compression : {'none', 'rice'}
        ``rice``: tiles compressed by Rice's method, pixels after quantising them with subtractive dithering (Pence,
        Seaman & White 2009, PASP 121, 414) in steps of a 16th of the image's median uncertainty, the uncertainty in
        steps of a 64th, the mask without loss. The science pixels are in the extension ``SCI`` then, since a primary
        HDU cannot be compressed. An image whose uncertainty is not known stays plain.
    """
    header = clean_header(image.header)
    header["NFVERS"] = (__version__, "nightflow version")
    known = image.uncertainty[np.isfinite(image.uncertainty)] if compression == "rice" else image.uncertainty[:0]
    sigma = float(np.median(known)) if known.size else 0.0
    if sigma > 0:
        primary = [fits.PrimaryHDU(header=header), _quantised(image.data, sigma / 16, header.copy(), "SCI")]
        mask = fits.CompImageHDU(np.ascontiguousarray(image.mask, dtype=np.uint16), name="MASK")
        uncertainty = _quantised(image.uncertainty, sigma / 64, fits.Header(), "UNCERT")
    else:
        primary = [fits.PrimaryHDU(_as_stored(image.data, np.float32), header)]
        mask = fits.ImageHDU(np.ascontiguousarray(image.mask, dtype=np.uint16), name="MASK")
        uncertainty = fits.ImageHDU(_as_stored(image.uncertainty, np.float32), name="UNCERT")
    for bit in MaskBit:
        mask.header[f"BIT{bit.value.bit_length() - 1:02d}"] = (bit.name, f"value {bit.value}")
    uncertainty.header["UTYPE"] = ("StdDevUncertainty", "1 sigma")
    if "BUNIT" in header:
        uncertainty.header["BUNIT"] = header["BUNIT"]
    write_fits(path, [*primary, mask, uncertainty, *(_extension(k, v) for k, v in image.extensions.items())])


def _as_stored(plane: np.ndarray, dtype) -> np.ndarray:
    """Pixels in the byte order of the file: astropy turns others for the checksum, back, and again to write them."""
    return np.ascontiguousarray(plane, dtype=np.dtype(dtype).newbyteorder(">"))


def _quantised(pixels: np.ndarray, step: float, header: fits.Header, name: str) -> fits.CompImageHDU:
    return fits.CompImageHDU(
        np.ascontiguousarray(pixels, dtype=np.float32),
        header,
        name=name,
        compression_type="RICE_1",
        quantize_level=-step,  # an absolute one: tiles without noise would be gzipped, with the time in their headers
        quantize_method=SUBTRACTIVE_DITHER_1,
        dither_seed=DITHER_SEED_CHECKSUM,  # of the pixels: the same pixels give the same bytes
    )


def _extension(name: str, content):
    if isinstance(content, np.ndarray):
        return fits.ImageHDU(_as_stored(content, content.dtype), name=name)
    if isinstance(content, Columns):
        hdu, units = fits.BinTableHDU(name=name), content.units
        columns = {column: _letters(content[column]) for column in content.colnames}
        types = [(column, values.dtype, values.shape[1:]) for column, values in columns.items()]
        rows = np.rec.fromarrays(list(columns.values()), types)
        with_letters = any(values.dtype == bool for values in columns.values())  # in the file truth is T or F
        hdu.data = fits.FITS_rec.from_columns(rows) if with_letters else rows  # given at once, astropy imports tables
    else:
        hdu = fits.BinTableHDU(content.as_array(), name=name)
        units = {column: content[column].unit for column in content.colnames}
    for number, column in enumerate(hdu.columns.names, start=1):
        if units.get(column) is not None:  # as text: electron is a unit, though not of the FITS standard
            hdu.header.set(f"TUNIT{number}", str(units[column]), after=f"TFORM{number}")
    return hdu


def _letters(values: np.ndarray) -> np.ndarray:
    """Texts as the bytes that they are in a file, anything else as it is."""
    return values.astype("S") if values.dtype.kind == "U" else values


def write_rejected(path: str | os.PathLike, verdict: RejectedFrame) -> None:
    """Write the product of a frame that cannot go on: a header with the reason, and no pixels."""
    header = clean_header(verdict.header)
    header["NFVERS"] = (__version__, "nightflow version")
    header["NFSTAT"] = (REJECTED, "this frame was not reduced further")
    header["NFREASON"] = printable(verdict.reason)
    write_fits(path, [fits.PrimaryHDU(header=header)])


def read_image(path: str | os.PathLike) -> Image:
    """Read an image product.

    Raises
    ------
    RejectedFrame
        If an earlier stage rejected the frame; its header and reason come with the exception.
    """
    with fits.open(path, memmap=False) as hdus:
        raise_if_rejected(hdus[0].header)
        extensions = {
            hdu.name: hdu.data for hdu in hdus[1:] if hdu.name not in ("SCI", "MASK", "UNCERT") and hdu.data is not None
        }
        return Image(
            data=_native(_pixels(_science(hdus)), np.float32),
            mask=_native(_pixels(hdus["MASK"]), np.uint16),
            uncertainty=_native(_pixels(hdus["UNCERT"]), np.float32),
            header=hdus[0].header.copy(),
            extensions=extensions,
        )


class StoredImage:
    """An image product whose planes are mapped when they are asked for: of a master, no step needs them all.

    They are in the byte order of the file and cannot be changed: a step that goes through them by rows has no copy
    of them in its memory.

    Parameters
    ----------
    path : path-like

    Attributes
    ----------
    shape, header, data, mask, uncertainty
        Those of `Image`.

    Raises
    ------
    RejectedFrame
        As `read_image`.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = path
        self.header = read_header(path)
        raise_if_rejected(self.header)

    @property
    def shape(self) -> tuple[int, int]:
        in_primary = self.header["NAXIS"] == 2
        return (int(self.header["NAXIS2"]), int(self.header["NAXIS1"])) if in_primary else self.data.shape

    @cached_property
    def data(self) -> np.ndarray:
        with fits.open(self._path, memmap=False) as hdus:
            return _pixels(_science(hdus))

    @cached_property
    def mask(self) -> np.ndarray:
        return self._plane("MASK")

    @cached_property
    def uncertainty(self) -> np.ndarray:
        return self._plane("UNCERT")

    def loaded(self) -> Image:
        """The image in memory, in the machine's byte order, without its further extensions."""
        return Image(
            _native(self.data, np.float32),
            _native(self.mask, np.uint16),
            _native(self.uncertainty, np.float32),
            self.header.copy(),
        )

    def _plane(self, name: str) -> np.ndarray:
        with fits.open(self._path, memmap=False) as hdus:
            return _pixels(hdus[name])


def read_data(path: str | os.PathLike) -> np.ndarray:
    """Science pixels of an image product, float32, shape (ny, nx); its other planes are not read.

    Raises
    ------
    RejectedFrame
        As `read_image`.
    """
    with fits.open(path, memmap=False) as hdus:
        raise_if_rejected(hdus[0].header)
        return _native(_pixels(_science(hdus)), np.float32)


def _science(hdus: fits.HDUList):
    return hdus["SCI"] if "SCI" in hdus else hdus[0]


def _pixels(hdu) -> np.ndarray:
    """A plane of a product, in the byte order of the file: mapped from it, which astropy does not do for a mask."""
    file, scale = hdu.fileinfo()["file"], (hdu.header.get("BSCALE", 1), hdu.header.get("BZERO", 0))
    is_unsigned = scale == (1, 1 << 15) and hdu.header["BITPIX"] == 16
    if isinstance(hdu, fits.CompImageHDU) or file.compression or not (is_unsigned or scale == (1, 0)):
        return hdu.data
    dtype = np.dtype(BITPIX2DTYPE[hdu.header["BITPIX"]]).newbyteorder(">")
    stored = np.asarray(np.memmap(file.name, dtype, "r", hdu.fileinfo()["datLoc"], hdu.shape))
    return stored.astype(np.uint16) ^ np.uint16(1 << 15) if is_unsigned else stored


def write_table(path: str | os.PathLike, table, header: fits.Header, name: str) -> None:
    """Write a table product: the frame's cards in the primary HDU, the table in an extension called `name`.

    Parameters
    ----------
    path : path-like
    table : `~astropy.table.Table` or `Columns`
        With units on its columns.
    header : `~astropy.io.fits.Header`
    name : str
        EXTNAME of the table.
    """
    write_tables(path, {name: table}, header)


def write_tables(path: str | os.PathLike, tables: Mapping, header: fits.Header) -> None:
    """Write several tables, by name, as one product."""
    primary = fits.PrimaryHDU(header=clean_header(header))
    primary.header["NFVERS"] = (__version__, "nightflow version")
    write_fits(path, [primary, *(_extension(name, table) for name, table in tables.items())])


def read_table(path: str | os.PathLike, name: str | int = 1):
    """Read a table product; of one with several tables the first, or that called `name`.

    Returns
    -------
    table : `~astropy.table.Table`
    header : `~astropy.io.fits.Header`
        Primary header.

    Raises
    ------
    RejectedFrame
        If the frame was rejected by then.
    """
    from astropy.table import Table

    columns, header = read_columns(path, name)
    table = Table({column: columns[column] for column in columns.colnames})
    for column, unit in columns.units.items():
        table[column].unit = unit
    return table, header


def read_columns(path: str | os.PathLike, name: str | int = 1) -> tuple[Columns, fits.Header]:
    """Read a table product as `read_table` does, for steps that need no more of a table than `Columns` have."""
    with fits.open(path, memmap=False) as hdus:
        raise_if_rejected(hdus[0].header)
        data, header = hdus[name].data, hdus[name].header
        columns = {column: _native_column(data[column]) for column in hdus[name].columns.names}
        units = {column: header.get(f"TUNIT{number}") for number, column in enumerate(columns, start=1)}
        units = {column: unit for column, unit in units.items() if unit is not None}
        return Columns(columns, units), hdus[0].header.copy()


def read_header(path: str | os.PathLike) -> fits.Header:
    """Primary header of a product, rejected or not."""
    return fits.getheader(path, 0)


def read_shape(path: str | os.PathLike) -> tuple[int, int]:
    """(ny, nx) of an image product."""
    header = fits.getheader(path, 0)
    return int(header["NAXIS2"]), int(header["NAXIS1"])


def raise_if_rejected(header: fits.Header) -> None:
    """Raise `RejectedFrame` if `header` belongs to a rejected product."""
    if header.get("NFSTAT") == REJECTED:
        raise RejectedFrame(str(header.get("NFREASON", "rejected without a reason")), header)


def printable(text: str) -> str:
    """`text` with everything that a FITS card cannot hold replaced by ``?``."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def _native_column(column: np.ndarray) -> np.ndarray:
    return np.array(column, dtype=column.dtype.newbyteorder("="))


def _native(array: np.ndarray, dtype) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=dtype)
