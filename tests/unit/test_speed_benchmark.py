"""The benchmark's sums: what is compared with what, and that its accounting counts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def speed(benchmark):
    return benchmark("speed")


def test_ratios_are_taken_round_by_round(speed):
    """A round in which the machine was twice as slow changes no ratio."""
    ours = [speed.Cost(10, 20, 1, 2), speed.Cost(20, 40, 1, 2)]
    theirs = [speed.Cost(40, 40, 3, 4), speed.Cost(80, 80, 3, 4)]
    lines = speed.table({"nightflow": ours, "peer": theirs}).splitlines()
    assert lines[2] == "| nightflow |  |  | 30 | 1 | 2 |"
    assert lines[3] == "| nightflow / peer | 0.25 (0.25 to 0.25) | 0.50 (0.50 to 0.50) | 60 | 3 | 4 |"


def test_stages_come_from_the_benchmark_files(speed, tmp_path):
    folder = tmp_path / "results" / "benchmarks"
    (folder / "mask").mkdir(parents=True)
    for name, seconds, peak in (("mask/a", "1.0", "100"), ("mask/b", "3.0", "300"), ("report", "NA", "NA")):
        (folder / f"{name}.tsv").write_text(f"s\tmax_rss\tcpu_time\n1\t{peak}\t{seconds}\n")
    assert speed.stages(tmp_path) == [("mask", 2, 2.0, 300.0), ("report", 1, 0.0, 0.0)]


def test_a_failed_run_ends_with_its_words(speed, tmp_path):
    with pytest.raises(SystemExit, match="out of coffee"):
        speed.run([sys.executable, "-c", "import sys; sys.exit('out of coffee')"], tmp_path)


def test_imports_are_accounted_for(root, tmp_path):
    """The share of imports is most of a program that only imports, and next to nothing of one that only works."""
    shares = []
    for program in ("import decimal, email.message, unittest", "sum(i * i for i in range(6_000_000))"):
        accounts = tmp_path / "accounts.tsv"
        accounts.unlink(missing_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(root / "benchmarks" / "accounting")}
        environment["NIGHTFLOW_ACCOUNTS"] = str(accounts)
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)
        _, imports, total = accounts.read_text().split("\t")
        shares.append(float(imports) / float(total))
    assert shares[0] > 0.6 and shares[1] < 0.4
