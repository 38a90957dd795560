"""numpy is told of instructions that are slow, and of those alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nightflow import processors

ZEN_4 = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nflags\t\t: fpu sse avx2 avx512f\n\n"


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("", "", processors.SLOW),
        ("AuthenticAMD", "GenuineIntel", ""),
        (" 25", " 26", ""),  # Zen 5
        (" avx512f", "", ""),  # Zen 3
        (ZEN_4, "", ""),
        ("processor", "processor: 1\n\nprocessor", ""),  # of several processors the first tells
    ],
)
def test_of_all_processors_one_family_should_sort_without_avx512(tmp_path, old, new, found):
    (tmp_path / "cpuinfo").write_text(ZEN_4.replace(old, new) if old else ZEN_4)
    assert processors.slow_instructions(tmp_path / "cpuinfo") == found


def test_a_system_without_that_description_is_left_as_it_is(tmp_path):
    assert processors.slow_instructions(tmp_path / "none") == ""


def test_numpy_knows_the_name_or_says_nothing():
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": processors.SLOW}
    said = subprocess.run(
        [sys.executable, "-c", "import numpy"], env=environment, check=True, capture_output=True, text=True
    )
    assert not said.stderr
