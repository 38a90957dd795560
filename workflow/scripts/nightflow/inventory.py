"""Finding raw files and reading their headers, once.

The folder is scanned at every start of the workflow; a header is read only from files that are new or changed since
the last scan. Nothing here judges what a frame is good for: it reports what the bytes say.
"""

from __future__ import annotations

import gzip
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

SUFFIXES = (".fits", ".fit", ".fts")
COMPRESSED = (".gz", ".fz")

_CACHE_FORMAT = 1
_PARALLEL_FROM = 200  # files; below this, starting processes costs more than it gains
_COMMENTARY = frozenset({"COMMENT", "HISTORY", "", "END"})


@dataclass(frozen=True)
class RawFile:
    """A file that may hold raw frames.

    Attributes
    ----------
    path : str
        As the workflow will name it.
    name : str
        Path relative to the raw folder, with ``/``; frame ids derive from it.
    size, mtime_ns : int
        Bytes, and nanoseconds of the last change.
    """

    path: str
    name: str
    size: int
    mtime_ns: int


def is_fits_name(name: str) -> bool:
    """Whether `name` ends like a FITS file, in any case, compressed or not."""
    stem = name.lower()
    for ending in COMPRESSED:
        stem = stem.removesuffix(ending)
    return stem.endswith(SUFFIXES)


def find_files(folders: Iterable[str], skip: Iterable[str] = ()) -> list[RawFile]:
    """All FITS files below `folders`, sorted by name.

    Symbolic links to folders are followed, each real folder once. Hidden files and folders and those in `skip`
    (the products) are left out.

    Raises
    ------
    FileNotFoundError
        If a folder does not exist.
    """
    folders = list(folders)
    skipped = {os.path.realpath(path) for path in skip}
    files = []
    for folder in folders:
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"raw_dir '{folder}' is not a folder")
        prefix = f"{Path(folder).name}/" if len(folders) > 1 else ""
        files += [
            RawFile(entry.path, prefix + os.path.relpath(entry.path, folder), stat.st_size, stat.st_mtime_ns)
            for entry, stat in _walk(folder, skipped, set())
        ]
    return sorted(files, key=lambda file: (file.name, file.path))


def _walk(folder: str, skipped: set, seen: set) -> Iterator[tuple[os.DirEntry, os.stat_result]]:
    real = os.path.realpath(folder)
    if real in seen or real in skipped:
        return
    seen.add(real)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir():
                    yield from _walk(entry.path, skipped, seen)
                elif is_fits_name(entry.name) and entry.is_file():
                    yield entry, entry.stat()
            except OSError:  # vanished, or a folder that may not be read
                continue


def read_headers(path: str) -> dict:
    """What a file's headers say.

    Parameters
    ----------
    path : str

    Returns
    -------
    dict
        ``error``: why the file cannot be used as a whole, or None; ``hdus``: one dict for each HDU that holds an
        image, with ``hdu`` (number), ``shape`` (ny, nx), ``cards`` (keyword: value) and ``error``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            return _read_headers(path)
    except (OSError, EOFError, ValueError, fits.VerifyError, KeyError, TypeError) as error:
        return {"error": _why_unreadable(path, error), "hdus": []}


def _read_headers(path: str) -> dict:
    size = os.path.getsize(path)
    if size == 0:
        return {"error": "empty file", "hdus": []}
    zipped = path.lower().endswith(".gz")
    found, primary = [], {}
    with gzip.open(path) if zipped else open(path, "rb") as stream:
        if stream.read(9) != b"SIMPLE  =":
            return {"error": "not a FITS file", "hdus": []}
        stream.seek(0)
        for number in range(1000):
            if stream.read(1) == b"":
                break
            stream.seek(-1, os.SEEK_CUR)
            try:
                header = fits.Header.fromfile(stream, endcard=True)
            except (OSError, EOFError) as error:
                if number == 0:
                    raise OSError("the header has no END") from error
                break  # trailing bytes after the last HDU
            data_bytes = _data_bytes(header)
            end = stream.tell() + data_bytes
            cards = _card_values(header)
            primary = primary or cards
            shape = _image_shape(header)
            if shape is not None:
                missing = None if zipped or end <= size else f"truncated: {size} of {end} bytes"
                found.append({"hdu": number, "shape": shape, "cards": {**primary, **cards}, "error": missing})
            if zipped and found:
                break  # going on would unpack the pixels
            if not zipped and end >= size:
                break
            stream.seek(-(-data_bytes // 2880) * 2880, os.SEEK_CUR)
    return {"error": None if found else "no image in the file", "hdus": found}


def _why_unreadable(path: str, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "no permission to read the file"
    if not os.path.exists(path):
        return "the file vanished while it was read"
    return f"unreadable: {' '.join(str(error).split())}"


def _integer(header: fits.Header, keyword: str, default: int) -> int:
    value = header.get(keyword, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{keyword} = {value!r} is no whole number")
    return value


def _axes(header: fits.Header, prefix: str = "") -> list[int]:
    return [_integer(header, f"{prefix}NAXIS{i}", 0) for i in range(1, _integer(header, f"{prefix}NAXIS", 0) + 1)]


def _data_bytes(header: fits.Header) -> int:
    axes = _axes(header)
    if not axes or min(axes) < 0:
        return 0
    elements = 1
    for axis in axes:
        elements *= axis
    return (
        abs(_integer(header, "BITPIX", 8))
        // 8
        * _integer(header, "GCOUNT", 1)
        * (elements + _integer(header, "PCOUNT", 0))
    )


def _image_shape(header: fits.Header) -> list[int] | None:
    """(ny, nx) of a 2-D image or a one-plane cube, tile-compressed or not; None for anything else."""
    if header.get("XTENSION", "IMAGE") == "BINTABLE" and header.get("ZIMAGE"):
        axes = _axes(header, "Z")
    elif header.get("XTENSION", "IMAGE") == "IMAGE":
        axes = _axes(header)
    else:
        return None
    while len(axes) > 2 and axes[-1] == 1:
        axes = axes[:-1]
    return [axes[1], axes[0]] if len(axes) == 2 and min(axes) > 0 else None


def _card_values(header: fits.Header) -> dict:
    values = {}
    for card in header.cards:
        if card.keyword in _COMMENTARY or card.keyword in values:
            continue
        try:
            value = card.value
        except (fits.VerifyError, ValueError):
            value = card.image[10:].split("/")[0].strip()
        if isinstance(value, (bool, int, float, str)):
            values[card.keyword] = value
    return values


class HeaderCache:
    """Headers by path, kept in a JSON file between runs.

    Parameters
    ----------
    path : path-like
        The cache file; a missing or damaged one is as good as an empty one.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._entries = self._load()

    def _load(self) -> dict:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        usable = isinstance(content, dict) and content.get("format") == _CACHE_FORMAT
        return content["files"] if usable else {}

    def headers(self, files: list[RawFile]) -> list[dict]:
        """What `read_headers` gives for each of `files`, opening only those that are new or changed."""
        stale = [file for file in files if self._entry(file) is None]
        for file, content in zip(stale, _read_all([file.path for file in stale]), strict=True):
            self._entries[file.path] = {"size": file.size, "mtime_ns": file.mtime_ns, **content}
        gone = self._entries.keys() - {file.path for file in files}
        for path in gone:
            del self._entries[path]
        if stale or gone:
            self._save()
        return [self._entries[file.path] for file in files]

    def _entry(self, file: RawFile) -> dict | None:
        entry = self._entries.get(file.path)
        same = entry is not None and entry["size"] == file.size and entry["mtime_ns"] == file.mtime_ns
        return entry if same else None

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        content = {"format": _CACHE_FORMAT, "files": self._entries}
        scratch.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        os.replace(scratch, self.path)


def _read_all(paths: list[str]) -> list[dict]:
    if len(paths) < _PARALLEL_FROM:
        return [read_headers(path) for path in paths]
    with ProcessPoolExecutor() as pool:
        return list(pool.map(read_headers, paths, chunksize=64))
