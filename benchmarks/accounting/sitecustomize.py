"""Loaded by every Python process of a run whose PYTHONPATH names this folder: CPU time that its start and imports took.

A line for each process is appended to the file ``NIGHTFLOW_ACCOUNTS``: program, CPU seconds of start and imports, CPU
seconds in all.
"""

import atexit
import builtins
import os
import sys
import time

_plain_import, _depth, _total = builtins.__import__, 0, time.process_time()


def _timed_import(*args, **kwargs):
    global _depth, _total
    if _depth:
        return _plain_import(*args, **kwargs)
    start, _depth = time.process_time(), 1
    try:
        return _plain_import(*args, **kwargs)
    finally:
        _depth = 0
        _total += time.process_time() - start


def _begin_again():
    """In a fork, whose CPU time is its own and whose imports are those that it did not find done."""
    global _total
    _total = time.process_time()


def _account():
    program = os.path.basename(sys.argv[0] if sys.argv else "")
    with open(os.environ["NIGHTFLOW_ACCOUNTS"], "a", encoding="utf-8") as file:
        file.write(f"{program}\t{_total:.3f}\t{time.process_time():.3f}\n")


if "NIGHTFLOW_ACCOUNTS" in os.environ:
    builtins.__import__ = _timed_import
    atexit.register(_account)
    os.register_at_fork(after_in_child=_begin_again)
