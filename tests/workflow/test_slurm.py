"""The same night on a cluster: a Slurm of one node is started here, and stopped again."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from pathlib import Path

import comparison
import loopback
import pytest

from nights import ROOT

pytestmark = pytest.mark.slurm


@pytest.fixture
def cluster():
    """A Slurm to submit to; the tests are skipped where there can be none."""
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("snakemake-executor-plugin-slurm is not installed (make test-slurm)")
    if reason := loopback.why_not():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, loopback.slurm(Path(folder)):
        yield


def test_a_night_on_slurm_gives_the_products_of_a_local_run(cluster, fresh, reduced):
    arguments = ["--profile", str(ROOT / "profiles" / "slurm"), "--slurm-status-command", "squeue", "--jobs", "4"]
    arguments += ["--max-threads", "2", "--slurm-init-seconds-before-status-checks", "5", "--latency-wait", "10"]
    finished = fresh.run(*arguments)
    assert comparison.differences(fresh.results, reduced.results) == []
    text = finished.stdout + finished.stderr
    jobs = set(re.findall(r"submitted with SLURM jobid (\d+)", text))
    steps = max(int(number) for number in re.findall(r"of (\d+) steps", text))
    assert len(jobs) == steps - 1 - 3 * 2, text  # without `all`; calibrate, mask and sky of a frame are one
    assert not fresh.planned()
