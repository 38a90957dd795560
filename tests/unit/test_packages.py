"""Packages are imported whole, though without what nobody needs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import importlib
import importlib.metadata
from nightflow.packages import quick_photutils
look = importlib.metadata.packages_distributions
with quick_photutils():
    from photutils.segmentation import deblend_sources
from photutils.utils import _optional_deps
quick = _optional_deps.__all__
assert importlib.metadata.packages_distributions is look
assert importlib.reload(_optional_deps).__all__ == quick and quick
"""


def test_photutils_knows_its_optional_packages_though_it_was_not_told_what_is_installed():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", SCRIPT], env=environment, check=True)


UNITS = """
import sys
import nightflow
from astropy.io import fits
assert "astropy.units" not in sys.modules
from astropy import units
from astropy.table import QTable
from astropy.utils import data
assert units.Quantity is not object and sys.modules["astropy.units"] is units
table = QTable({"flux": [1, 2] * units.electron})
assert table["flux"].unit == units.electron
assert data.get_free_space_in_dir(".", unit=units.byte).unit == units.byte
data.check_free_space_in_dir(".", 1 * units.byte)
"""


def test_astropy_has_its_units_though_the_reader_of_fits_files_came_without():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-W", "error", "-c", UNITS], env=environment, check=True)


SETTINGS = """
import inspect
import nightflow
import astropy
from astropy.io import fits
from astropy.utils import data
assert not inspect._filesbymodname  # nothing was looked up
for module in (astropy, astropy.logger, fits, data):
    settings = [value.module for value in vars(type(module.conf)).values() if hasattr(value, "defaultvalue")]
    assert settings and set(settings) == {module.__name__}, (module, settings)
    assert inspect.getmodule(type(module.conf)) is module
"""


def test_the_settings_of_astropy_know_their_modules_without_a_search():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-W", "error", "-c", SETTINGS], env=environment, check=True)


BLAS = """
import sys
import nightflow
import numba
import numpy as np
scale = numba.njit(lambda x: (2 * x).sum())
assert scale(np.ones(3)) == 6
assert "scipy.linalg" not in sys.modules
product = numba.njit(lambda x, y: np.dot(x, y))
assert product(np.ones((2, 3)), np.ones((3, 2))).tolist() == [[3, 3], [3, 3]]
assert sys.modules["scipy.linalg.cython_blas"]
"""


def test_kernels_without_matrices_come_without_scipy_linalg_and_others_find_it():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-W", "error", "-c", BLAS], env=environment, check=True)


NEEDED = """
import sys
from nightflow import packages
runs = []
def run(module):
    from astropy.units import Quantity, electron  # the stand-in lacks the latter
    runs.append((module, electron))
packages._run_without_units(run, packages)
assert [module for module, _ in runs] == [packages] and str(runs[0][1]) == "electron"
"""


def test_an_astropy_that_needs_its_units_at_once_gets_them():
    """The module is run again, with the true units."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", NEEDED], env=environment, check=True)


STEPS = """
import runpy
import sys
for step in sys.argv[1:]:
    runpy.run_path(step)
    assert "astropy.units" not in sys.modules, step
"""


def test_steps_on_pixels_begin_without_units(root):
    steps = "calibrate mask sky detector master_bias master_dark master_flat bad_pixels".split()
    scripts = [str(root / "workflow" / "scripts" / f"{step}.py") for step in steps]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", STEPS, *scripts], env=environment, check=True)


PANDAS = """
import importlib.util
import sys
from nightflow.packages import without_pandas
if "imported" in sys.argv:
    import pandas
without_pandas()
assert (importlib.util.find_spec("pandas") is None) == ("imported" not in sys.argv)
"""


@pytest.mark.parametrize("state", ["imported", "not yet"])
def test_snakemake_does_without_pandas_unless_it_is_there_already(state):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", PANDAS, state], env=environment, check=True)
