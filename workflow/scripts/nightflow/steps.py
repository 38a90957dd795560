"""Running one step of the workflow: its log, and its errors in words.

Every script of the workflow runs its ``main`` inside `logged`.
"""

from __future__ import annotations

import errno
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
}


@contextmanager
def logged(path: str | os.PathLike, inputs: Iterable[str] = ()) -> Iterator[None]:
    """Send log messages and warnings of a step to the file `path`, and end it with a sentence where the user can help.

    Its products name `inputs` as what they were made of. A programming error leaves its traceback in the log and on
    the terminal.
    """
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    try:
        with lineage.inputs_of_step(inputs, path):
            yield
    except UserError as error:
        _end(str(error))
    except OSError as error:
        if error.errno not in _STORAGE:
            logging.error("%s", traceback.format_exc())
            raise
        _end(f"{_STORAGE[error.errno]}: {error.filename or ''} ({error.strerror})")
    except BaseException:
        logging.error("%s", traceback.format_exc())
        raise
    finally:
        logging.captureWarnings(False)
        handler.close()


def _end(sentence: str) -> None:
    logging.error("%s", sentence)
    sys.exit(f"nightflow: {sentence}")
