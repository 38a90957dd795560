"""Files that are there whole or not at all.

What is written is written beside its place and renamed, so that a job killed half way leaves nothing that could be
taken for a product.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRATCH = ".part"  # how the name of a file ends while it is written


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Path of a scratch file beside `path` that takes its place when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}{SCRATCH}")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write_if_changed(path: str | os.PathLike, text: str) -> None:
    """Write `text` to `path` in one step, unless that is its content already."""
    path = Path(path)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def remove_scratch(folder: str | os.PathLike) -> None:
    """Remove what killed jobs left half written below `folder`; no job may be running."""
    for path in Path(folder).rglob(f".*{SCRATCH}"):
        path.unlink(missing_ok=True)
