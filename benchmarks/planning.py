"""What Snakemake costs with a survey: its first plan, its scheduling, and the plan that finds nothing left to do.

    python benchmarks/planning.py --lights 10000

Raw frames are 32 x 32 pixels, with a reference catalogue, so that each light has all its steps. Every product is made
as an empty file, and `snakemake --touch` schedules each job and records it as done; nothing is reduced. Plans are those
of `snakemake --dry-run`. It prints the wall and CPU time and the peak memory of each, with the machine's load at its
end, and fails if what was recorded is not found up to date, or if a changed option or a new light is not noticed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import yaml
from astropy.io import fits

ROOT = Path(__file__).resolve().parents[1]
LIGHTS_OF_NIGHT = 250
FILTERS = ("B", "V", "R", "I")
FIRST_EVENING = datetime(2024, 1, 1, 20)

PROGRAM = "from snakemake.cli import main; main()"
# `--touch` sleeps a tenth of a second in each job, over an hour for 10,000 lights, to keep the times of products apart.
# The jobs follow each other in any case, and a product may be as old as what it is made of.
WITHOUT_SLEEP = f"from snakemake.executors import touch; touch.Executor.SLEEPING_TIME = 0; {PROGRAM}"


@dataclass
class Cost:
    """What a command took: wall and CPU time in seconds, peak memory in MiB, load at its end, and what it printed."""

    wall: float
    cpu: float
    memory: float
    load: float
    text: str


def make_survey(folder: Path, lights: int) -> None:
    """Nights of `LIGHTS_OF_NIGHT` lights of one target in four filters, with calibration; ten targets in all."""
    for night in range(-(-lights // LIGHTS_OF_NIGHT)):
        place = folder / f"n{night:03d}"
        place.mkdir(parents=True)
        frames = [("bias", "bias", None, 0.0)] * 5 + [("dark", "dark", None, 60.0)] * 5
        frames += [("flat", "flat", passband, 2.0) for passband in FILTERS for _ in range(3)]
        here = range(night * LIGHTS_OF_NIGHT, min(lights, (night + 1) * LIGHTS_OF_NIGHT))
        frames += [("light", f"field {night % 10}", FILTERS[number % len(FILTERS)], 60.0) for number in here]
        for number, (kind, target, passband, exposure) in enumerate(frames):
            start = FIRST_EVENING + timedelta(days=night, minutes=2 * number)
            _write(place / f"{kind}_{number:03d}.fits", kind, target, passband, exposure, start)


def _write(path: Path, kind: str, target: str, passband: str | None, exposure: float, start: datetime) -> None:
    header = fits.Header({"IMAGETYP": kind, "OBJECT": target, "EXPTIME": exposure, "DATE-OBS": start.isoformat()})
    header.update({"INSTRUME": "ccd", "GAIN": 1.5, "RDNOISE": 5.0, "SATURATE": 60000, "RA": 132.8, "DEC": 11.8})
    if passband is not None:
        header["FILTER"] = passband
    fits.PrimaryHDU(np.full((32, 32), 1000, np.uint16), header).writeto(path)


def snakemake(folder: Path, *arguments: str, program: str = PROGRAM) -> Cost:
    """Run the workflow in `folder`, and measure it with all its processes.

    Raises
    ------
    SystemExit
        With the end of its output if it fails.
    """
    command = [sys.executable, "-c", program, "--cores", "2", "-s", str(ROOT / "Snakefile"), *arguments]
    command += ["--configfile", "config.yaml", "--workflow-profile", str(ROOT / "profiles" / "default")]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{text[-3000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, os.getloadavg()[0], text)


def plan(folder: Path, *arguments: str) -> Cost:
    """The plan of a run, its jobs counted by rule."""
    return snakemake(folder, "--dry-run", "--quiet", "rules", *arguments)


def make_products(folder: Path) -> None:
    """Every product as an empty file."""
    for line in snakemake(folder, "--summary").text.splitlines():
        if line.startswith("results/"):
            path = folder / line.split("\t")[0]
            folder_of = path.parent if path.suffix else path  # the pictures of the stacks are a folder
            folder_of.mkdir(parents=True, exist_ok=True)
            if path.suffix:
                path.touch()


def jobs(text: str) -> int:
    """Number of jobs in a plan.

    Raises
    ------
    ValueError
        If the text neither counts jobs nor says that there is nothing to be done.
    """
    if total := re.search(r"^total +(\d+)$", text, re.MULTILINE):
        return int(total[1])
    if "Nothing to be done" in text:
        return 0
    raise ValueError(f"no plan in:\n{text[-3000:]}")


def plan_of_one_more(folder: Path) -> Cost:
    """The plan with a light more, which is taken away again."""
    added = folder / "raw" / "n000" / "light_added.fits"
    _write(added, "light", "field 0", FILTERS[0], 60.0, FIRST_EVENING + timedelta(minutes=1))
    try:
        return plan(folder)
    finally:
        added.unlink()


def measure(folder: Path) -> Iterator[tuple[str, Cost]]:
    """Plans of a survey before and after its products are made, each as it is finished.

    Raises
    ------
    SystemExit
        If a plan has jobs where all is done, or none where something changed.
    """
    yield "headers read", plan(folder)
    yield "headers remembered", plan(folder)
    make_products(folder)
    yield "scheduled, recorded", snakemake(folder, "--touch", "--forceall", program=WITHOUT_SLEEP)
    finished = plan(folder)
    yield "nothing left to do", finished
    changed = plan(folder, "--config", "sky={sigma: 3.5}")
    yield "an option changed", changed
    longer = plan_of_one_more(folder)
    yield "one light more", longer
    if jobs(finished.text) or not jobs(changed.text) or not jobs(longer.text):
        raise SystemExit("what is recorded as done was planned again, or what changed was not")


def main() -> None:
    """Plan the survey that the command line describes, and print what each plan took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lights", type=int, default=10000)
    parser.add_argument(
        "--folder", type=Path, help="where to work; the survey is kept there (default: a scratch folder)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="planning") as scratch:
        folder = arguments.folder or Path(scratch)
        if not (folder / "raw").is_dir():
            make_survey(folder / "raw", arguments.lights)
        (folder / "stars.csv").write_text("ra,dec,mag\n132.8,11.8,12.0\n")
        config = {"raw_dir": "raw", "results_dir": "results", "reference_catalogue": {"file": "stars.csv"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        print("plan                      jobs   wall s    CPU s   peak MiB   load")
        for name, cost in measure(folder):
            numbers = f"{jobs(cost.text):7d} {cost.wall:8.1f} {cost.cpu:8.1f} {cost.memory:10.0f} {cost.load:6.1f}"
            print(f"{name:22} {numbers}", flush=True)


if __name__ == "__main__":
    main()
