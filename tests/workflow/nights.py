"""A working folder in which the workflow runs, and the smallest night with everything in it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml
from astropy.io import fits

ROOT = Path(__file__).resolve().parents[2]

#: One target in one filter, three lights: the smallest night with everything in it.
SMALL_NIGHT = {
    "seed": 5,
    "shape": [200, 220],
    "bias_frames": 3,
    "dark_frames": 3,
    "flat_frames": 3,
    "filters": {"V": {}},
    "targets": [
        {"name": "M67", "ra": 132.846, "dec": 11.814, "kind": "cluster", "filters": ["V"], "frames": 3, "exptime": 60.0}
    ],
}


def another_exposure(light: Path, path: Path) -> None:
    """`light` at `path` with one pixel changed: a further exposure, where a copy would count once."""
    shutil.copy(light, path)
    with fits.open(path, mode="update") as hdus:
        hdus[0].data[0, 0] += 1


@dataclass
class Workspace:
    """A working folder with raw frames in ``raw`` and products in ``results``."""

    folder: Path
    checkout: Path = ROOT

    @property
    def raw(self) -> Path:
        return self.folder / "raw"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def snakemake(self, *arguments, snakefile="Snakefile", profile=True, directory=None, within=(), **config):
        """Run snakemake; `config` goes into a configuration file.

        `within`: a command that runs it, such as ``prlimit``.
        """
        config = {"raw_dir": "raw", "results_dir": "results", **config}
        file = self.folder / "config.yaml"
        file.write_text(yaml.safe_dump({k: v for k, v in config.items() if v != "unset"}))
        command = [*within, sys.executable, "-m", "snakemake", "--cores", "2", "-s", str(self.checkout / snakefile)]
        command += ["--configfile", str(file)]
        command += ["--workflow-profile", str(self.checkout / "profiles" / "default")] if profile else []
        return subprocess.run(
            [*command, *arguments], cwd=directory or self.folder, capture_output=True, text=True, timeout=500
        )

    def run(self, *arguments, **config):
        """Run snakemake and expect success."""
        finished = self.snakemake(*arguments, **config)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished

    def planned(self, *arguments, **config) -> Counter:
        """Jobs by rule that a run would do; empty when there is nothing to do."""
        finished = self.run("--dry-run", *arguments, **config)
        stats = re.search(
            r"^job +count\n-+ +-+\n(.*?)^total", finished.stdout + finished.stderr, re.DOTALL | re.MULTILINE
        )
        if stats is None:
            assert "Nothing to be done" in finished.stdout + finished.stderr
            return Counter()
        return Counter({line.split()[0]: int(line.split()[1]) for line in stats[1].splitlines()})

    def copy(self, folder: Path) -> Workspace:
        """This workspace elsewhere, times and Snakemake's records included."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True, symlinks=True)
        return Workspace(folder, self.checkout)
