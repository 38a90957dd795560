"""Lineage: every FITS product names the files that it was made of, with their DATASUM.

A step announces its inputs with `inputs_of_step`; whatever it writes through `nightflow.products` then carries a card
``NFIN0001``, ``NFIN0002``, ... for each of them: the file, and the sum of its data.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path

import numpy as np

from nightflow.headercards import BLOCK, data_bytes, read_cards, whole_blocks

COUNT = "NFINPUTS"
_PREFIX = "NFIN"
_MOST_CARDS = 9999
_CHUNK = 1 << 26  # bytes read at once, a multiple of the four of a word
_FITS = (".fits", ".fit", ".fts", ".fz", ".gz")
UNREADABLE = "unreadable"


class _Step:
    """The inputs of the running step; their sums are taken when the first product needs them."""

    def __init__(self, paths: Iterable[str], anchor: str):
        self.paths = sorted({os.path.abspath(path) for path in paths})
        self.anchor = os.path.abspath(anchor)

    @cached_property
    def sums(self) -> list[tuple[str, str]]:
        return [(path, datasum(path)) for path in self.paths]

    def names(self, product: str | os.PathLike) -> list[tuple[str, str]]:
        """Inputs as a product names them: within the results by their path there, others by their file name.

        In order of these names, so that it does not matter where the folders lie.
        """
        results = os.path.commonpath([self.anchor, os.path.abspath(product)])
        return sorted((_name(path, results), total) for path, total in self.sums)


_step: ContextVar[_Step | None] = ContextVar("step", default=None)


def _name(path: str, results: str) -> str:
    inside = path.startswith(results + os.sep)
    return Path(os.path.relpath(path, results)).as_posix() if inside else os.path.basename(path)


@contextmanager
def inputs_of_step(paths: Iterable[str], log: str | os.PathLike) -> Iterator[None]:
    """Within this block products name `paths` as what they were made of.

    Parameters
    ----------
    paths : iterable of str
    log : path-like
        The step's log: the folder that it shares with the products is that of the results.
    """
    token = _step.set(_Step(paths, os.fspath(log)))
    try:
        yield
    finally:
        _step.reset(token)


def is_lineage(keyword: str) -> bool:
    """Whether a card tells of inputs, which are never those of a product that copies the header."""
    return keyword.startswith(_PREFIX)


def record(header, product: str | os.PathLike) -> None:
    """Name the inputs of the running step in the header of a product; without a step nothing is said."""
    for keyword in [keyword for keyword in header if is_lineage(keyword)]:
        del header[keyword]
    step = _step.get()
    if step is None:
        return
    inputs = step.names(product)
    header[COUNT] = (len(inputs), "files that this product was made of")
    for number, (name, total) in enumerate(inputs[:_MOST_CARDS], start=1):
        header[f"{_PREFIX}{number:04d}"] = f"{_printable(name)} {total}"


def _printable(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def inputs(header: Mapping) -> list[tuple[str, str]]:
    """Names and sums of the inputs that a product's header tells of."""
    texts = (str(header[keyword]) for keyword in header if is_lineage(keyword) and keyword != COUNT)
    return [tuple(text.rsplit(" ", 1)) for text in texts if " " in text]


def datasum(path: str | os.PathLike) -> str:
    """Sum that changes with the data of a file and not with its headers.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    str
        For FITS files the ones' complement sum of the data of all HDUs, which for a single HDU is its ``DATASUM``
        (FITS standard 4.0, appendix J); products state it themselves, raw files are read. For other files ``blake2b:``
        and 16 hexadecimal digits. ``unreadable`` where the file is damaged.
    """
    try:
        if str(path).lower().endswith(_FITS):
            return _fits_datasum(path)
        with open(path, "rb") as file:
            return "blake2b:" + hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
    except Exception:  # on damaged files the readers raise whatever they stumble over; the step itself says what
        return UNREADABLE


def _fits_datasum(path) -> str:
    with open(path, "rb") as file:
        headers = _headers(file)
        primary = next(headers, {})
        if "NFVERS" in primary:
            return str(_folded(sum(int(cards.get("DATASUM", 0)) for cards in (primary, *headers))))
    from astropy.io import fits

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is odd about a raw file is said elsewhere
        with fits.open(path, memmap=False, disable_image_compression=True) as hdus:
            return str(_folded(sum(map(_sum_of_data, hdus))))


def _headers(file) -> Iterator[dict]:
    """The cards of each HDU of a plain FITS file."""
    while (block := file.read(BLOCK)).startswith((b"SIMPLE  =", b"XTENSION=")):
        cards, _ = read_cards(file, block)
        yield cards
        file.seek(whole_blocks(data_bytes(cards)), os.SEEK_CUR)


def _sum_of_data(hdu) -> int:
    info = hdu.fileinfo()
    file, left, total = info["file"], info["datSpan"], 0
    file.seek(info["datLoc"])
    while left > 0:
        chunk = file.read(min(left, _CHUNK))
        if not chunk:
            raise EOFError("the file ends within its data")
        left -= len(chunk)
        total += int(np.frombuffer(chunk + bytes(-len(chunk) % 4), ">u4").sum(dtype=np.uint64))
    return total


def _folded(total: int) -> int:
    """A sum of 32-bit words with its carries added back in, as ones' complement addition does."""
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total
