"""Files that nobody should have to read: good FITS files of every layout, and what seeded mutation makes of them."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from astropy.io import fits

CARD, BLOCK = 80, 2880

#: Texts that a header may hold and a path, a shell, a table or a page must survive.
TEXTS = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    "'; rm -rf ~; '",
    'a"b',
    "$(touch pwned)",
    "`touch pwned`",
    "line\nbreak",
    "tab\tstop",
    "nul\0byte",
    "{wildcard}",
    "%s%n%d",
    "<script>alert(1)</script>",
    "\u00e9toile".encode().decode("latin-1"),
    "\U0001f320".encode().decode("latin-1"),
    "x" * 68,
    "",
    " ",
    "-rf",
    "con.fits",
    "nan",
    "__import__('os')",
]

#: Values written as they stand after the value indicator.
VALUES = [
    *("0 -1 1 2 7 32 -64 999 1000 1000000000 999999999999999999 99999999999999999999999 1E400 -1E400 1E-400".split()),
    *("NaN Inf -Inf T F 3,2E-05 1_000 0x10 1e5.5 1900 '' ' '".split()),
    *("'1899-12-31' '0001-01-01T00:00:00' '9999-12-31T23:59:59.999' '2024-02-30' '31/12/99' 'yesterday'".split()),
    *("'[1:0,1:0]' '[1:999999999999,1:2]' '[0:5,0:5]' '[-3:4,1:2]' '[2:1,4:3]' '12:34:56' '99:99:99'".split()),
    f"'{'9' * 60}'",
    f"'{'1' * 30} {'2' * 30}'",
]

#: Keywords that somebody acts upon.
KEYWORDS = (
    "SIMPLE BITPIX NAXIS NAXIS1 NAXIS2 NAXIS3 EXTEND BZERO BSCALE BLANK PCOUNT GCOUNT XTENSION TFIELDS TFORM1 TTYPE1 "
    "ZIMAGE ZBITPIX ZNAXIS ZNAXIS1 ZNAXIS2 ZTILE1 ZTILE2 ZCMPTYPE ZNAME1 ZVAL1 THEAP EXTNAME IMAGETYP OBJECT FILTER "
    "EXPTIME DATE-OBS TIME-OBS UT MJD-OBS XBINNING YBINNING CCDSUM GAIN EGAIN RDNOISE SATURATE PEDESTAL TRIMSEC "
    "BIASSEC DATASEC XORGSUBF YORGSUBF BAYERPAT XBAYROFF YBAYROFF CCD-TEMP RA DEC OBJCTRA OBJCTDEC AIRMASS SITELAT "
    "SITELONG INSTRUME TELESCOP READOUTM OFFSET CRPIX1 CRVAL1 CTYPE1 CTYPE2 CD1_1 CDELT1 A_ORDER EQUINOX NAXIS999"
).split()


@functools.cache
def good_files() -> dict[str, bytes]:
    """Contents of good files by the ending of their names, one for each layout that is read."""
    rng = np.random.default_rng(1)
    sky = rng.normal(1000, 10, (24, 30)).clip(0)
    header = fits.Header(
        {
            **{
                "IMAGETYP": "Light Frame",
                "OBJECT": "M 51",
                "FILTER": "V",
                "EXPTIME": 60.0,
                "GAIN": 1.5,
                "RDNOISE": 5.0,
            },
            **{"DATE-OBS": "2024-03-08T22:00:00", "XBINNING": 1, "YBINNING": 1, "CCD-TEMP": -20.0, "INSTRUME": "cam"},
            **{"RA": "13:29:52", "DEC": "+47:11:43", "SITELAT": 40.0, "SITELONG": -110.0, "SATURATE": 60000},
        }
    )
    overscan = header.copy()
    overscan["TRIMSEC"], overscan["BIASSEC"] = "[1:24,1:24]", "[25:30,1:24]"
    integers, plain = sky.astype(np.uint16), fits.PrimaryHDU(sky.astype(np.uint16), header)
    chips = [fits.PrimaryHDU(header=header), *(fits.ImageHDU(integers, name=f"CHIP{i}") for i in (1, 2))]
    tiled = {
        f"{kind.lower()}.fits.fz": [
            fits.PrimaryHDU(),
            fits.CompImageHDU(integers.astype(np.int16), header, compression_type=kind),
        ]
        for kind in ("RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1")
    }
    layouts = {
        "plain.fits": [plain],
        "float.fit": [fits.PrimaryHDU(sky.astype(np.float32), header)],
        "bytes.fts": [fits.PrimaryHDU(sky.clip(0, 255).astype(np.uint8), header)],
        "long.fits": [fits.PrimaryHDU(sky.astype(np.int64), header)],
        "cube.fits": [fits.PrimaryHDU(integers[np.newaxis], header)],
        "overscan.fits": [fits.PrimaryHDU(integers, overscan)],
        "chips.fits": chips,
        **tiled,
    }
    contents = {}
    for name, hdus in layouts.items():
        stream = io.BytesIO()
        fits.HDUList(hdus).writeto(stream)
        contents[name] = stream.getvalue()
    return contents | {f"{name}.gz": gzip.compress(contents[name], mtime=0) for name in ("plain.fits", "chips.fits")}


def mutated(content: bytes, rng: random.Random) -> bytes:
    """`content` after one to four mutations; a gzipped file is mutated inside or outside its compression."""
    inside = content.startswith(b"\x1f\x8b") and rng.random() < 0.7
    if inside:
        content = gzip.decompress(content)
    for _ in range(rng.randint(1, 4)):
        content = rng.choice(MUTATIONS)(content, rng)
    return gzip.compress(content, compresslevel=1, mtime=0) if inside else content


def _a_card(content: bytes, rng: random.Random) -> int:
    """Where a card begins: one of the first header, or of any header."""
    first = content.find(b"END" + b" " * 77) // CARD + 1
    return rng.randrange(max(first if rng.random() < 0.7 else len(content) // CARD, 1)) * CARD


def _put(content: bytes, position: int, new: bytes, old: int | None = None) -> bytes:
    return content[:position] + new + content[position + (len(new) if old is None else old) :]


def flipped(content, rng):
    """A few bytes changed."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 3, 30])):
        if content:
            content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def truncated(content, rng):
    return content[: rng.randrange(len(content) + 1)]


def extended(content, rng):
    return content + rng.choice([b"\0", b" ", b"XTENSION= 'IMAGE   '"]) * rng.choice([1, 80, 2880])


def card_value(content, rng):
    """A card with a value that it should not have."""
    position = _a_card(content, rng)
    return _put(content, position + 10, rng.choice(VALUES).rjust(20)[:70].ljust(70).encode("latin-1"))


def card_text(content, rng):
    text = rng.choice(TEXTS).encode("latin-1", "replace").replace(b"'", b"''")[:66]
    return _put(content, _a_card(content, rng) + 10, b"'" + text.ljust(8) + b"'".ljust(69 - max(len(text), 8)))


def new_card(content, rng):
    """A further card with a keyword that is acted upon; the first of several counts, so it may come early."""
    keyword = rng.choice(KEYWORDS)
    card = f"{keyword:8s}= {rng.choice(VALUES):>20s}"[:CARD].ljust(CARD).encode("latin-1")
    return _put(content, _a_card(content, rng), card, rng.choice([0, CARD]))


def lost_card(content, rng):
    return _put(content, _a_card(content, rng), b"", CARD)


def lost_end(content, rng):
    return content.replace(b"END" + b" " * 77, b" " * CARD, 1)


def many_cards(content, rng):
    kind = rng.choice([b"HISTORY x", b"COMMENT", b"CONTINUE  'long&'", b"OBJECT  = 'again&'", b"HIERARCH a b c = 1"])
    return _put(content, _a_card(content, rng), kind.ljust(CARD) * rng.choice([36, 5004]), 0)


def shuffled_blocks(content, rng):
    blocks = [content[i : i + BLOCK] for i in range(0, len(content), BLOCK)]
    rng.shuffle(blocks)
    return b"".join(blocks)


def doubled(content, rng):
    return content * 2


def noise_block(content, rng):
    return _put(content, rng.randrange(max(len(content), 1)), rng.randbytes(BLOCK))


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    *(flipped, truncated, extended, lost_card, lost_end, many_cards, shuffled_blocks, doubled, noise_block),
    *(card_value, card_value, card_value, card_text, card_text, new_card, new_card, new_card, new_card),
]


def mutants(number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`number` mutated files: a name, which tells how to make it again, and the content."""
    originals = good_files()
    names = sorted(originals)
    for index in range(number):
        rng = random.Random(f"{seed}/{index}")
        name = rng.choice(names)
        yield f"{seed}-{index}-{name}", mutated(originals[name], rng)


class Hang(BaseException):
    """Something took longer than it may; no `except Exception` catches it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `Hang` in a block that takes longer."""

    def stop(*_):
        raise Hang(f"longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_watched: list[list[str]] = []


def _note_write(event: str, arguments: tuple) -> None:
    if not _watched or event not in ("open", "os.rename", "os.mkdir", "os.remove", "os.symlink", "os.link"):
        return
    paths = arguments[:2] if event in ("os.rename", "os.symlink", "os.link") else arguments[:1]
    flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else os.O_WRONLY
    if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        _watched[-1].extend(os.path.realpath(os.fsdecode(p)) for p in paths if isinstance(p, (str, bytes, Path)))


@contextlib.contextmanager
def writes_noted() -> Iterator[list[str]]:
    """List of the paths that the block creates, changes or removes (Python's own calls)."""
    if not getattr(writes_noted, "installed", False):
        sys.addaudithook(_note_write)  # for good: a hook cannot be taken out again
        writes_noted.installed = True
    _watched.append([])
    try:
        yield _watched[-1]
    finally:
        _watched.pop()
