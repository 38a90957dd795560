"""Instructions of processors that numpy is better off without."""

from __future__ import annotations

import itertools
from pathlib import Path

SLOW = "X86_V4"  # numpy's name (since 2.4) for the part of AVX-512 with which it sorts


def slow_instructions(described: Path = Path("/proc/cpuinfo")) -> str:
    """What ``NPY_DISABLE_CPU_FEATURES`` should be, for numpy to sort as fast as this processor can; mostly nothing.

    numpy sorts with AVX-512 wherever there is some. AMD's Zen 4, the one processor of family 25 that has it, needs a
    hundred cycles to write chosen elements of a register to memory, and sorts in four times the time that it takes
    with AVX2.

    Parameters
    ----------
    described : path
        Linux's description of the processor.

    References
    ----------
    https://github.com/numpy/x86-simd-sort/issues/6
    """
    try:
        with open(described, encoding="utf-8") as file:
            first = list(itertools.takewhile(str.strip, file))
    except OSError:  # another system
        return ""
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first)}
    is_zen = (facts.get("vendor_id"), facts.get("cpu family")) == ("AuthenticAMD", "25")
    return SLOW if is_zen and "avx512f" in facts.get("flags", "").split() else ""
