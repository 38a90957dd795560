"""Whose Slurm configuration is overwritten: only one that killed tests left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow"))

import loopback

UNMARKED = "\nClusterName=loop\nSlurmctldHost=here(127.0.0.1)\nStateSaveLocation={folder}/state\n"
MARKED = loopback._TEXT.replace("{mark}", loopback._MARK)


@pytest.fixture
def folder():
    """State folder of a Slurm of the tests."""
    with tempfile.TemporaryDirectory(prefix="slurm") as name:
        (Path(name) / "run").mkdir()
        yield Path(name)


def written(text, folder):
    return text.format(folder=folder, host="here", cores=1, memory=1000)


@pytest.mark.parametrize("text", [MARKED, UNMARKED])
def test_what_killed_tests_left_over_is_taken_over(text, folder):
    assert loopback.left_over(written(text, folder))
    (folder / "run" / "munged.pid").write_text(f"{os.getpid()}\n")  # the number is another program's by now
    (folder / "run" / "slurmctld.pid").write_text("")
    assert loopback.left_over(written(text, folder))
    shutil.rmtree(folder / "run")
    assert loopback.left_over(written(text, folder))


@pytest.mark.parametrize("text", [MARKED, UNMARKED])
@pytest.mark.parametrize("service", loopback.SERVICES)
def test_a_slurm_that_runs_is_left_alone(text, service, folder):
    program = shutil.copy(shutil.which("sleep"), folder / service)
    process = subprocess.Popen([program, "60"])
    try:
        (folder / "run" / f"{service}.pid").write_text(f"{process.pid}\n")
        while Path(f"/proc/{process.pid}/comm").read_text().strip() != service:  # its name comes a moment later
            time.sleep(0.001)
        assert not loopback.left_over(written(text, folder))
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ClusterName=loop\n",
        "ClusterName=loop\nStateSaveLocation=/var/spool/slurmctld/state\n",
        "ClusterName=ours\nStateSaveLocation={folder}/state\n",
        "# Written by the administrator.\nClusterName=loop\nStateSaveLocation={folder}/state\n",
    ],
)
def test_the_configuration_of_somebody_else_stays(text, folder):
    assert not loopback.left_over(written(text, folder))
