"""Finding raw files and reading their headers, once.

The folder is scanned at every start of the workflow; a header is read only from files that are new or changed since
the last scan. Nothing here judges what a frame is good for: it reports what the bytes say.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nightflow.headercards import BLOCK, axes_of, data_bytes, read_cards, whole_blocks

SUFFIXES = (".fits", ".fit", ".fts")
COMPRESSED = (".gz", ".fz")

_CACHE_FORMAT = 4
_PARALLEL_FROM = 1000  # files; below this, starting processes costs more than it gains
_MOST_UNPACKED = 1 << 28  # bytes of a gzipped file that are passed over to reach its next images
MOST_PIXELS = 1 << 29  # of an image; the largest detectors have half as many
MOST_GAIN = 1100  # of gzip: no stream unpacks to more times its size
_MOST_HDUS = 1000


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
    skipped = {_identity(path) for path in skip}
    files = []
    for folder in folders:
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"raw_dir '{folder}' is not a folder")
        prefix = f"{Path(folder).name}/" if len(folders) > 1 else ""
        files += [
            RawFile(entry.path, prefix + os.path.relpath(entry.path, folder), stat.st_size, stat.st_mtime_ns)
            for entry, stat in _walk(folder, skipped)
        ]
    return sorted(files, key=lambda file: (file.name, file.path))


def _walk(folder: str, skipped: set) -> Iterator[tuple[os.DirEntry, os.stat_result]]:
    """FITS files below `folder` with their sizes and times; each real folder once, however links lead to it."""
    waiting, seen = [folder], set(skipped)
    while waiting:
        folder = waiting.pop()
        identity = _identity(folder)
        if identity in seen:
            continue
        seen.add(identity)
        for entry in _visible(folder):
            try:
                if entry.is_dir():
                    waiting.append(entry.path)
                elif is_fits_name(entry.name) and entry.is_file():
                    yield entry, entry.stat()
            except OSError:  # vanished, or a link in a circle
                continue


def _identity(folder: str) -> tuple[int, int] | None:
    """What tells a folder from others, whatever path leads to it; None if there is none."""
    try:
        stat = os.stat(folder)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _visible(folder: str) -> list[os.DirEntry]:
    """What a folder holds, in order of name; nothing where it may not be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name, reverse=True)
    except OSError:
        return []


def find_copies(files: list[RawFile], headers: list[dict]) -> dict[str, str]:
    """Files with the bytes of another one, by path: the name of the original, which is the one in the fewest folders.

    A frame that lies in two places is still one exposure. Only files of one size with equal headers are opened, and
    only those that also agree in their middle are read whole.
    """
    said = {file.path: content["hdus"] for file, content in zip(files, headers, strict=True)}
    groups = [sorted(files, key=lambda file: (file.name.count("/"), file.name, file.path))]
    for key in (lambda file: (file.size, repr(said[file.path])), _middle_of, _digest_of):
        groups = [alike for group in groups for alike in _sharing(group, key)]
    return {file.path: first.name for first, *others in groups for file in others}


def _sharing(files: list[RawFile], key) -> list[list[RawFile]]:
    """Groups of several files with one `key`; a file that cannot be read is like no other."""
    groups = defaultdict(list)
    for file in files:
        with suppress(OSError):
            groups[key(file)].append(file)
    return [group for group in groups.values() if len(group) > 1]


def _middle_of(file: RawFile) -> bytes:
    with open(file.path, "rb") as stream:
        stream.seek(file.size // 2)
        return stream.read(4096)


def _digest_of(file: RawFile) -> bytes:
    with open(file.path, "rb") as stream:
        return hashlib.file_digest(stream, "blake2b").digest()


def read_headers(path: str) -> dict:
    """What a file's headers say.

    Parameters
    ----------
    path : str

    Returns
    -------
    dict
        ``error``: why the file cannot be used as a whole, or None; ``hdus``: one dict for each HDU that holds an
        image, with ``hdu`` (number), ``name`` (EXTNAME or None), ``shape`` (ny, nx), ``cards`` (keyword: value, the
        primary header's included) and ``error``.
    """
    try:
        return _read_headers(path)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        return {"error": _why_unreadable(path, error), "hdus": []}


def _read_headers(path: str) -> dict:
    size = os.path.getsize(path)
    if size == 0:
        return {"error": "empty file", "hdus": []}
    zipped = path.lower().endswith(".gz")
    with gzip.open(path) if zipped else open(path, "rb") as stream:
        first = stream.read(BLOCK)
        if not first.startswith(b"SIMPLE  ="):
            return {"error": "not a FITS file", "hdus": []}
        found = list(_images(stream, first, None if zipped else size))
    for image in found:
        image["error"] = image["error"] or _why_too_large(image, size)
    return {"error": None if found else "no two-dimensional image in the file", "hdus": found}


def _images(stream, block: bytes, size: int | None) -> Iterator[dict]:
    """The images of an open file from its first block on; `size` is None where the file is compressed."""
    position, primary = 0, {}
    for number in range(_MOST_HDUS):
        cards, header_bytes = read_cards(stream, block)
        primary = primary or cards
        size_of_data = data_bytes(cards)
        position += header_bytes
        end = position + size_of_data
        shape = _image_shape(cards)
        if shape is not None:
            missing = None if size is None or end <= size else f"truncated: {size} of {end} bytes"
            name = str(cards["EXTNAME"]).strip() if "EXTNAME" in cards else None
            yield {"hdu": number, "name": name, "shape": shape, "cards": {**primary, **cards}, "error": missing}
        position += whole_blocks(size_of_data)
        if size is None and (position > _MOST_UNPACKED or (shape and number == 0)):
            return  # going on would unpack the pixels
        if size is not None and position >= size:
            return
        stream.seek(position)
        block = stream.read(BLOCK)
        if not block.startswith(b"XTENSION"):
            return  # the end, or bytes after the last HDU


def _why_too_large(image: dict, size: int) -> str | None:
    """Why an image in a file of `size` bytes cannot be what its header says, or is no camera's; None if it may be."""
    pixels = math.prod(image["shape"])
    if pixels > MOST_PIXELS:
        return f"its header tells of {pixels:.1e} pixels, more than any detector has"
    bits = image["cards"].get("ZBITPIX", image["cards"].get("BITPIX"))
    if isinstance(bits, int) and pixels * abs(bits) / 8 > MOST_GAIN * size:
        return f"truncated: {size} bytes cannot hold {pixels} pixels, however compressed"
    return None


def _why_unreadable(path: str, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "no permission to read the file"
    if not os.path.exists(path):
        return "the file vanished while it was read"
    return f"unreadable: {' '.join(str(error).split())}"


def _image_shape(cards: dict) -> list[int] | None:
    """(ny, nx) of a 2-D image or a one-plane cube, tile-compressed or not; None for anything else."""
    sort = str(cards.get("XTENSION", "IMAGE")).strip()
    if sort == "BINTABLE" and cards.get("ZIMAGE"):
        axes = axes_of(cards, "Z")
    elif sort == "IMAGE":
        axes = axes_of(cards)
    else:
        return None
    while len(axes) > 2 and axes[-1] == 1:
        axes = axes[:-1]
    return [axes[1], axes[0]] if len(axes) == 2 and min(axes) > 0 else None


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
        except (OSError, ValueError, RecursionError):
            return {}
        usable = isinstance(content, dict) and content.get("format") == _CACHE_FORMAT
        entries = content.get("files") if usable else None
        return {path: entry for path, entry in entries.items() if _is_entry(entry)} if entries else {}

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


def _is_entry(entry) -> bool:
    return isinstance(entry, dict) and {"size", "mtime_ns", "error", "hdus"} <= entry.keys()


def _read_all(paths: list[str]) -> list[dict]:
    if len(paths) < _PARALLEL_FROM:
        return [read_headers(path) for path in paths]
    with ProcessPoolExecutor() as pool:
        return list(pool.map(read_headers, paths, chunksize=64))
