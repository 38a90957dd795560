"""Running one step of the workflow: its log, and its errors in words.

Every script of the workflow runs its ``main`` inside `logged`.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from nightflow import lineage


class UserError(Exception):
    """Something that the user can put right; the message says what happened, to which file, and what would be right."""


_STORAGE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission was denied",
    errno.EPERM: "permission was denied",
    errno.ENOENT: "a file that was there when the run was planned is gone; run again",
    errno.ESTALE: "a file was replaced on the file server while it was read; run again",
    errno.EIO: "the disk reports an error",
    errno.ENAMETOOLONG: "a path is too long for the file system",
    errno.EMFILE: "too many files are open (ulimit -n)",
}


def in_words(error: BaseException) -> str | None:
    """What happened, in words for the user, where storage or memory failed; None for any other error."""
    if isinstance(error, MemoryError):
        return f"there is not enough memory; run fewer jobs at a time (--cores, --resources mem_mb=...): {error}"
    if isinstance(error, OSError) and error.errno in _STORAGE:
        return f"{_STORAGE[error.errno]}: {error.filename or ''} ({error.strerror})"
    return None


class _Log(logging.FileHandler):
    """A log file whose own trouble, such as a full disk, does not hide what it was to tell."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the name is logging's
        print(f"nightflow: the log cannot be written: {sys.exc_info()[1]}", file=sys.stderr)

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:
            print(f"nightflow: the log cannot be written: {error}", file=sys.stderr)


@contextmanager
def logged(path: str | os.PathLike, inputs: Iterable[str] = ()) -> Iterator[None]:
    """Send log messages and warnings of a step to the file `path`, and end it with a sentence where the user can help.

    Its products name `inputs` as what they were made of. A programming error leaves its traceback in the log and on
    the terminal.
    """
    handler = _Log(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    gc.freeze()  # what was imported stays: no search for garbage, the one at the end included, has to look through it
    try:
        with lineage.inputs_of_step(inputs, path):
            yield
    except UserError as error:
        _end(str(error))
    except BaseException as error:
        if sentence := in_words(error):
            _end(sentence)
        logging.error("%s", traceback.format_exc())
        raise
    finally:
        logging.captureWarnings(False)
        handler.close()


def _end(sentence: str) -> None:
    logging.error("%s", sentence)
    sys.exit(f"nightflow: {sentence}")
