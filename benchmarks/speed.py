"""Reduce simulated nights with nightflow and with its peers, in turn, and compare what they took.

    python benchmarks/speed.py --pixels 1024 2048 4096 --lights 20 100 --rounds 3

Peers are the guide's recipe as one plain script, the way of the ccdproc guide (in a virtual environment of its own)
and Siril where it is installed. They run alternately, so that ratios do not depend on what else the machine does. Wall
time, CPU time, bytes read and written are those of a whole run with all its processes; peak memory and time of each
stage come from Snakemake's benchmark files, the CPU time of process start and imports from a run with `accounting`.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MIB = 2**20


@dataclass
class Cost:
    """What a run took, all its processes together.

    Attributes
    ----------
    wall, cpu : float
        Seconds.
    read, written : float
        MiB through system calls, the page cache included.
    """

    wall: float
    cpu: float
    read: float
    written: float


def run(command: list, folder: Path, **environment) -> Cost:
    """Run a command to its end and tell what it took.

    Raises
    ------
    SystemExit
        With the end of its output if it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before, start = _spent(), time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True
    )
    wall, spent = time.perf_counter() - start, [b - a for a, b in zip(before, _spent(), strict=True)]
    if done.returncode:
        sys.exit(f"{[str(part) for part in command]} failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    return Cost(wall, *spent)


def _spent() -> tuple[float, float, float]:
    """CPU seconds, MiB read and MiB written of all processes that this one has waited for, and theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return usage.ru_utime + usage.ru_stime, int(counts["rchar"]) / MIB, int(counts["wchar"]) / MIB


def snakemake(folder: Path, cores: int, *arguments, **environment) -> Cost:
    base = [
        sys.executable,
        "-m",
        "snakemake",
        "-s",
        ROOT / "Snakefile",
        "--workflow-profile",
        ROOT / "profiles/default",
    ]
    return run([*base, "--quiet", "all", "--cores", cores, *arguments], folder, **environment)


def simulated_night(work: Path, pixels: int, lights: int) -> Path:
    """Raw frames: 7 bias, 5 dark, 5 flats and half of the lights in each of two filters; made once."""
    folder = work / f"night_{pixels}_{lights}"
    target = {"name": "M101", "ra": 210.802, "dec": 54.349, "kind": "galaxy", "filters": ["V", "R"]}
    settings = {"shape": [pixels, pixels], "bias_frames": 7, "dark_frames": 5, "flat_frames": 5}
    settings["targets"] = [{**target, "frames": lights // 2, "exptime": 120.0}]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "night.yaml").write_text(yaml.safe_dump({"results_dir": "sim", "simulate": settings}), encoding="utf-8")
    if not (folder / "sim" / "simulated" / "README.txt").exists():
        snakemake(folder, os.cpu_count(), "simulate", "--configfile", "night.yaml")
    return folder / "sim" / "simulated" / "raw"


def ccdproc_python(work: Path) -> Path:
    """Python of a virtual environment with ccdproc; made once."""
    python = work / "peers" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", work / "peers"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", HERE / "requirements.txt"], check=True)
    return python


def contestants(work: Path, raw: Path, cores: int, without: list) -> dict:
    """A function for each reduction, that runs it in a fresh folder."""
    results = raw.parents[2] / "results"

    def nightflow():
        return snakemake(results / "nightflow", cores, "--config", f"raw_dir={raw}", "results_dir=results")

    def peer(name, python):
        script = HERE / "peers" / f"{name}.py"
        return lambda: run(
            [python, script, raw, results / name / "results"], results / name, OMP_NUM_THREADS=str(cores)
        )

    runs = {"nightflow": nightflow, "plain_recipe": peer("plain_recipe", sys.executable)}
    if "ccdproc_guide" not in without:
        runs["ccdproc_guide"] = peer("ccdproc_guide", ccdproc_python(work))
    if shutil.which("siril-cli"):
        runs["siril"] = peer("siril", sys.executable)
    return {name: (runs[name], results / name) for name in runs if name not in without}


def stages(folder: Path) -> list[tuple]:
    """Name, jobs, CPU seconds a job and peak memory (MiB) of each stage, from Snakemake's benchmark files."""
    found = defaultdict(list)
    for path in sorted((folder / "results" / "benchmarks").rglob("*.tsv")):
        stage = path.relative_to(folder / "results" / "benchmarks").parts[0].removesuffix(".tsv")
        found[stage] += list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t"))
    number = lambda row, key: float(row[key]) if row[key] not in ("", "NA", "-") else 0.0  # noqa: E731
    return [
        (
            stage,
            len(rows),
            statistics.mean(number(r, "cpu_time") for r in rows),
            max(number(r, "max_rss") for r in rows),
        )
        for stage, rows in found.items()
    ]


def share_of_imports(folder: Path, raw: Path, cores: int) -> float:
    """Share of the CPU time of a run that its processes spend on their start and imports.

    All is start that is not known to be work: the server of preloaded steps and the processes that wait for it, too.
    """
    accounts = folder / "accounts.tsv"
    accounts.unlink(missing_ok=True)
    shutil.rmtree(folder / "results", ignore_errors=True)
    path = os.pathsep.join(filter(None, [str(HERE / "accounting"), os.environ.get("PYTHONPATH")]))
    arguments = "--config", f"raw_dir={raw}", "results_dir=results"
    cost = snakemake(folder, cores, *arguments, PYTHONPATH=path, NIGHTFLOW_ACCOUNTS=str(accounts))
    processes = [line.split("\t") for line in accounts.read_text().splitlines()]
    work = sum(float(total) - float(start) for name, start, total in processes if name != "forkserver.py")
    return 1 - work / cost.cpu


def compare(runs: dict, rounds: int) -> dict:
    """Costs of all runs, each made anew in each round."""
    costs = defaultdict(list)
    for _ in range(rounds):
        for name, (reduce, folder) in runs.items():
            shutil.rmtree(folder, ignore_errors=True)
            costs[name].append(reduce())
            print(f"    {name}: {costs[name][-1]}", file=sys.stderr, flush=True)
    return costs


def table(costs: dict) -> str:
    """Ratios of nightflow to each peer, round by round, as median and range; and what was read and written."""
    lines = ["| | wall | CPU | CPU s | MiB read | MiB written |", "|---|---|---|---|---|---|"]
    ours = costs["nightflow"]
    for name, theirs in costs.items():
        ratios = [
            _spread([getattr(a, kind) / getattr(b, kind) for a, b in zip(ours, theirs, strict=True)])
            for kind in ("wall", "cpu")
        ]
        amounts = [f"{statistics.median(getattr(c, kind) for c in theirs):.0f}" for kind in ("cpu", "read", "written")]
        shown = ratios if name != "nightflow" else ["", ""]
        lines.append(f"| {'nightflow / ' if shown is ratios else ''}{name} | " + " | ".join([*shown, *amounts]) + " |")
    return "\n".join(lines)


def _spread(values: list) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pixels", type=int, nargs="+", default=[1024, 2048, 4096], help="side of the frames")
    parser.add_argument("--lights", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--without", nargs="*", default=[], help="peers to leave out")
    parser.add_argument("--work", type=Path, default=Path("bench"), help="folder for nights and results")
    chosen = parser.parse_args()
    work = chosen.work.resolve()
    for pixels in chosen.pixels:
        for lights in chosen.lights:
            print(f"\n## {lights} lights of {pixels} x {pixels}, {chosen.cores} cores, {chosen.rounds} rounds\n")
            raw = simulated_night(work, pixels, lights)
            runs = contestants(work, raw, chosen.cores, chosen.without)
            print(table(compare(runs, chosen.rounds)))
            folder = runs["nightflow"][1]
            print("\n| stage | jobs | CPU s a job | peak MiB |\n|---|---|---|---|")
            for stage, jobs, seconds, peak in stages(folder):
                print(f"| {stage} | {jobs} | {seconds:.2f} | {peak:.0f} |")
            share = share_of_imports(folder, raw, chosen.cores)
            print(f"\nStart of processes and imports: {100 * share:.0f} % of the CPU time.", flush=True)
            shutil.rmtree(raw.parents[2] / "results")


if __name__ == "__main__":
    main()
