"""Fixtures shared by all tests: the library on the path, the real frames where they are present."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))


def pytest_collection_modifyitems(items):
    """Tests in ``unit`` have that marker, so that ``-m unit`` runs them alone."""
    for item in items:
        if "unit" in Path(item.path).parts:
            item.add_marker(pytest.mark.unit)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def benchmark(root) -> Callable[[str], ModuleType]:
    """A program of ``benchmarks``, which is no package, as a module."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", root / "benchmarks" / f"{name}.py")
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real raw frames; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("NIGHTFLOW_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real frames in {folder} (set NIGHTFLOW_TEST_DATA)")
    return folder
