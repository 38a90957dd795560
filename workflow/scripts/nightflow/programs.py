"""Running programs of other makers: argument list, own scratch folder, time limit, errors in one sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from nightflow.steps import UserError

#: Debian packages of the programs; several names for one program, where distributions differ.
PACKAGES = {"solve-field": "astrometry.net", "scamp": "scamp", "SWarp": "swarp", "source-extractor": "source-extractor"}


class TimeLimit(Exception):
    """A program did not end in time; the message says which."""


class ProgramFailed(Exception):
    """A program ended with an error; the message holds its last words."""


def find(program: str) -> str:
    """Path of a program.

    Raises
    ------
    UserError
        If it is not installed; names its Debian package.
    """
    path = shutil.which(program)
    if path is None:
        raise UserError(f"the program {program} is not installed; on Debian it is in the package {PACKAGES[program]}")
    return path


def run(program: str, arguments: Sequence[str], folder: Path, time_limit: float) -> str:
    """Run a program in a folder and give back what it printed.

    Parameters
    ----------
    program : str
    arguments : sequence of str
    folder : path
        Its working and scratch folder.
    time_limit : float
        s; the program and all that it started are killed then.

    Raises
    ------
    UserError
        If the program is not installed.
    TimeLimit, ProgramFailed
    """
    path = find(program)
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "LC_ALL": "C"}
    process = subprocess.Popen(
        [path, *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=time_limit)
    except subprocess.TimeoutExpired as error:
        raise TimeLimit(f"{program} did not end within {time_limit:g} s") from error
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.communicate()
    if process.returncode != 0:
        last = " ".join(output.strip().splitlines()[-2:])
        raise ProgramFailed(f"{program} ended with status {process.returncode}: {last}")
    return output
