"""Whole runs of the workflow on small simulated nights.

One night is reduced once a session; tests that change something work on a copy of its folder, with Snakemake's records.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from nightflow import simulate
from nights import SMALL_NIGHT, Workspace


@pytest.fixture(scope="session")
def raw_night(tmp_path_factory) -> Path:
    """Folder with a small raw night, an hour old; not to be written to."""
    folder = tmp_path_factory.mktemp("night") / "raw"
    simulate.simulate_night(SMALL_NIGHT, folder)
    then = time.time() - 3600
    for path in folder.rglob("*.fits"):
        os.utime(path, (then, then))
    return folder


@pytest.fixture(scope="session")
def reduced(raw_night, tmp_path_factory) -> Workspace:
    """The small night, reduced; not to be written to."""
    workspace = Workspace(tmp_path_factory.mktemp("reduced"))
    shutil.copytree(raw_night, workspace.raw)
    workspace.finished = workspace.run()
    return workspace


@pytest.fixture
def workspace(reduced, tmp_path) -> Workspace:
    """A copy of the reduced night, to change."""
    return reduced.copy(tmp_path / "work space")


@pytest.fixture
def fresh(raw_night, tmp_path) -> Workspace:
    """A copy of the raw night, not reduced."""
    folder = tmp_path / "fresh"
    shutil.copytree(raw_night, folder / "raw")
    return Workspace(folder)


@pytest.fixture
def own_checkout(reduced, tmp_path, root):
    """The reduced night with a copy of the workflow that may be edited."""
    checkout = tmp_path / "checkout"
    for part in ("Snakefile", "config", "envs", "profiles", "workflow"):
        source = root / part
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        (checkout / part).parent.mkdir(parents=True, exist_ok=True)
        copy(source, checkout / part)
    workspace = reduced.copy(tmp_path / "night")
    workspace.checkout = checkout
    return workspace
