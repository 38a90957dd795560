"""Packages are imported whole, though without what nobody needs."""

from __future__ import annotations

import os
import subprocess
import sys

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
