"""Runs that are killed, disks that fill up, folders that may not be written to, nights that go on: nothing is lost."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import comparison
import numpy as np
import pytest
import yaml
from astropy.io import fits

from nights import ROOT, Workspace, another_exposure

pytestmark = pytest.mark.workflow

KILLS = int(os.environ.get("NIGHTFLOW_KILLS", 2))


def started(workspace, *arguments, output=subprocess.DEVNULL, **options):
    """Snakemake on its way, in a process group of its own."""
    config = {"raw_dir": "raw", "results_dir": "results", **options}
    (workspace.folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "-s", str(ROOT / "Snakefile")]
    command += ["--configfile", "config.yaml", "--workflow-profile", str(ROOT / "profiles" / "default"), *arguments]
    return subprocess.Popen(command, cwd=workspace.folder, stdout=output, stderr=output, start_new_session=True)


def scripts_of(process):
    """Ids of the processes that run a script for `process`."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,pgid=,args="], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [int(pid) for pid, group, args in rows if int(group) == process.pid and "/scripts/tmp" in args]


def rests(folder):
    return [path for path in folder.rglob(".*") if path.name.endswith(".part")]


def test_killed_runs_end_as_undisturbed_ones(fresh, reduced):
    """SIGKILL of Snakemake, or of the script that runs, at random moments; NIGHTFLOW_KILLS sets how often."""
    rng = random.Random(20)
    for number in range(KILLS):
        process = started(fresh)
        deadline = time.monotonic() + rng.uniform(3, 9)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        victims = scripts_of(process) if number % 2 else []
        for victim in victims[:1] or [process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        if victims:
            process.wait(120)  # the others go on: one step that fails does not end the night
        process.wait(120)
        if KILLS > 2:  # some more to do for the next one
            for path in rng.sample(sorted(fresh.results.glob("*/*.fits")), 2) if fresh.results.is_dir() else []:
                path.unlink()
        fresh.snakemake("--unlock")
    fresh.run()
    assert comparison.differences(fresh.results, reduced.results) == []
    assert not rests(fresh.results) and not fresh.planned()


@pytest.fixture
def mounted(tmp_path):
    """Function that mounts a file system and gives its folder; unmounted at the end."""
    points = []

    def mount(name, *arguments):
        point = tmp_path / name
        point.mkdir(exist_ok=True)
        finished = subprocess.run(["mount", *arguments, point], capture_output=True, text=True)
        if finished.returncode != 0:
            pytest.skip(f"file systems cannot be mounted here: {finished.stderr.strip()}")
        points.append(point)
        return point

    yield mount
    for point in reversed(points):
        subprocess.run(["umount", point], check=True)


def hashes(folder):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_full_and_read_only_disks(fresh, reduced, mounted):
    """A full disk ends in a sentence and loses nothing; with room made, the run goes on to the same products.

    Raw frames lie on a read-only file system all the while, and the clock of their camera is a day ahead.
    """
    for path in fresh.raw.iterdir():
        os.utime(path, (time.time() + 86400,) * 2)
    before = hashes(fresh.raw)
    raw = mounted("raw", "--bind", "-o", "ro", str(fresh.raw))
    subprocess.run(["mount", "-o", "remount,bind,ro", raw], check=True)
    disk = mounted("disk", "-t", "tmpfs", "-o", "size=4m", "tmpfs")
    folders = {"raw_dir": str(raw), "results_dir": str(disk / "results")}
    failed = fresh.snakemake(**folders)
    text = failed.stdout + failed.stderr
    assert failed.returncode != 0 and "nightflow: the disk is full" in text, text
    assert not rests(disk)
    whole = comparison.products(disk / "results")
    assert whole and all(comparison.content(path) for path in whole.values() if path.suffix == ".fits")

    subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
    fresh.run(**folders)
    assert (
        comparison.differences(disk / "results", reduced.results, aside=("frames.tsv", "quality.tsv")) == []
    )  # they have paths
    assert hashes(fresh.raw) == before
    assert not fresh.planned(**folders)

    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    os.utime(fresh.raw / "M67_V_001.fits")  # there is something to do, and nowhere to write it
    failed = fresh.snakemake(**folders)
    text = failed.stdout + failed.stderr
    assert failed.returncode != 0 and "nightflow: the file system is read-only" in text and "Traceback" not in text


def test_frames_that_go_or_change_after_planning(fresh):
    """The run says which frame is gone and does the others; the next one does what has changed, and that alone."""
    gone, changed = (fresh.raw / f"M67_V_00{number}.fits" for number in (1, 2))
    output = fresh.folder / "output.txt"
    with output.open("w") as file:
        process = started(fresh, "--until", "calibrate", output=file)
    while process.poll() is None and not list(fresh.results.glob("masters/bias_*.fits")):
        time.sleep(0.02)  # the lights wait for the other masters
    gone.unlink()
    content = changed.read_bytes()
    changed.write_bytes(content[:-2880] + bytes(2880))
    assert process.wait(200) != 0
    text = output.read_text()
    assert "a file that was there when the run was planned is gone; run again: raw/M67_V_001.fits" in text, text
    assert "the step calibrate failed on M67_V_001" in text and "Traceback" not in text
    assert {path.stem for path in (fresh.results / "calibrated").iterdir()} == {"M67_V_002", "M67_V_003"}

    assert fresh.planned("--until", "calibrate") == {"calibrate": 1}
    fresh.run("--until", "calibrate")
    assert not fresh.planned("--until", "calibrate")


def test_too_little_memory(tmp_path):
    """A step that is not given the memory it needs says so, and is done when there is more."""
    workspace = Workspace(tmp_path)
    workspace.raw.mkdir()
    cards = {"IMAGETYP": "LIGHT", "OBJECT": "M67", "FILTER": "V", "EXPTIME": 60.0, "DATE-OBS": "2024-03-08T22:00:00"}
    cards |= {"GAIN": 1.5, "RDNOISE": 5.0, "SATURATE": 60000}
    fits.writeto(workspace.raw / "light.fits", np.full((6000, 6000), 1000, np.uint16), fits.Header(cards))
    options = {"calibration": {"missing": "warn"}}
    failed = workspace.snakemake("--until", "calibrate", within=("prlimit", "--as=600000000"), **options)
    text = failed.stdout + failed.stderr
    assert failed.returncode != 0 and "nightflow: there is not enough memory" in text and "Traceback" not in text
    assert "the step calibrate failed on light" in text and "run with fewer --cores" in text
    assert not rests(workspace.results) and not list(workspace.results.glob("calibrated/*"))
    workspace.run("--until", "calibrate", **options)
    assert fits.getheader(workspace.results / "calibrated" / "light.fits")["NAXIS1"] == 6000


def test_another_folder_order_and_number_of_cores_give_the_same_products(raw_night, reduced, tmp_path, monkeypatch):
    """Down to the last bit; what differs is named."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    workspace = Workspace(tmp_path / "elsewhere" / "deeper")
    workspace.raw.mkdir(parents=True)
    for path in sorted(raw_night.iterdir(), reverse=True):  # folders list files in the order of their making, or none
        shutil.copyfile(path, workspace.raw / path.name)
    workspace.run("--cores", "1")
    assert comparison.differences(workspace.results, reduced.results) == []


def test_names_from_files_stay_inside_the_results(raw_night, tmp_path):
    """Files and objects of every name, two files of one name, links in circles: one run, and nothing strays."""
    workspace = Workspace(tmp_path / "here")
    shutil.copytree(raw_night, workspace.raw)
    light = workspace.raw / "M67_V_002.fits"
    odd = ["a$(touch pwned).fits", "quote'\"s.fits", "-rf.fits", "\U0001f320 *?[x].fits", "n/same.fits", "m/same.fits"]
    texts = ["../../../up", "$(touch pwned)", 'it\'s "q"', "M/67", "x" * 68, "<b>M 67</b>"]
    for name, text in zip(odd, texts, strict=True):
        path = workspace.raw / name
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(light, path)
        with fits.open(path) as hdus:
            data, header = hdus[0].data, hdus[0].header
            header.remove("OBJECT")
            header["OBJECT"] = text
        fits.writeto(path, data, header, overwrite=True)
    (workspace.raw / "br{ace}.fits").write_bytes(light.read_bytes())
    os.symlink(workspace.raw, workspace.raw / "m" / "up")
    before = {path for path in tmp_path.rglob("*") if workspace.folder not in path.parents}
    assert workspace.planned()["stack"] == 7
    workspace.run("--until", "calibrate")
    assert {path for path in tmp_path.rglob("*") if workspace.folder not in path.parents} == before
    assert {path.name for path in workspace.folder.iterdir()} == {"raw", "results", "config.yaml", ".snakemake"}
    assert not list(tmp_path.rglob("pwned*"))
    assert len(list((workspace.results / "calibrated").iterdir())) == 9


def test_small_disks_compression_and_single_nights(fresh, reduced):
    """`disk: small` leaves no pixels of single frames, `compression: rice` changes no mask, `night` plans no stack."""
    jobs = fresh.planned(night=_night(reduced))
    assert jobs["sky"] == 3 and "stack" not in jobs and "select_frames" not in jobs and "report" not in jobs
    failed = fresh.snakemake(night="1999-01-01")
    assert f"there are no lights of the night 1999-01-01; there are of {_night(reduced)}" in failed.stderr
    fresh.run(disk="small", compression="rice")
    for stage in ("calibrated", "masked", "subtracted"):
        assert list((fresh.results / stage).glob("*.fits")) == []
    assert len(list((fresh.results / "sources").glob("*.fits"))) == 3
    assert not fresh.planned(disk="small", compression="rice")


def _night(workspace):
    return (workspace.results / "frames.tsv").read_text().splitlines()[-1].split("\t")[20]


def test_make_watch_works_on_new_frames_only(workspace):
    """One pass of `make watch`, with a frame that has arrived and one that is still being written."""
    another_exposure(workspace.raw / "M67_V_001.fits", workspace.raw / "M67_V_004.fits")
    (workspace.raw / "M67_V_005.fits").write_bytes((workspace.raw / "M67_V_001.fits").read_bytes()[:9000])
    old = time.time() - 3600
    os.utime(workspace.raw / "M67_V_004.fits", (old, old))
    times = {path: path.stat().st_mtime_ns for path in (workspace.results / "calibrated").iterdir()}
    finished = subprocess.run(
        [
            *("make", "--directory", str(ROOT), "--old-file", ".venv/run", f"BIN={Path(sys.executable).parent}"),
            *(
                "PASSES=1",
                f"RAW={workspace.raw}",
                f"RESULTS={workspace.results}",
                f"ARGS=--directory {_quoted(workspace)}",
            ),
            "watch",
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert (workspace.results / "subtracted" / "M67_V_004.fits").is_file()
    assert "left for the next run" in (workspace.results / "frames.tsv").read_text()
    assert "4 of 4 lights stacked" in finished.stdout


def _quoted(workspace):
    return f"'{workspace.folder}'"
