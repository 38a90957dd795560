"""The engine astrometry.net, with the real program and Debian's Tycho-2 index files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skies import OPTIONS

from nightflow import astrometry, astrometry_net, plate_matching, programs
from nightflow.steps import UserError

pytestmark = pytest.mark.engine
OPTIONS = {**OPTIONS, "engine": "astrometry.net", "time_limit": 60}


@pytest.fixture
def solve_field():
    if shutil.which("solve-field") is None:
        pytest.skip("solve-field is not installed (make engines)")
    if not any(Path(astrometry_net.INDEX_FOLDER).glob("index-tycho2-*.fits")):
        pytest.skip(f"no Tycho-2 index files in {astrometry_net.INDEX_FOLDER} (make engines)")


def solve(sky, catalogue=None, row=None, **options):
    row = sky.row if row is None else row
    return astrometry.solve(sky.sources, sky.header, row, catalogue, {**OPTIONS, **options})


def test_a_field_is_solved_and_refined(solve_field, real_sky, tycho):
    rough, fine = solve(real_sky), solve(real_sky, tycho)
    print(f"solve-field {real_sky.error(rough.plate):.2f} px at worst, refined {real_sky.error(fine.plate):.3f} px")
    assert rough.status == fine.status == astrometry.SOLVED
    assert real_sky.error(rough.plate) < 2 and real_sky.error(fine.plate) < 0.15
    assert len(fine.stars) > 50 and fine.rms / 5.0 < 0.1


def test_no_hints_are_needed(solve_field, real_sky):
    sky = real_sky
    header = sky.header.copy()
    header.remove("PIXSCALE")
    solution = astrometry.solve(sky.sources, header, {"ra": None, "dec": None}, None, OPTIONS)
    assert solution.status == astrometry.SOLVED and sky.error(solution.plate) < 2


def test_a_wrong_pointing_is_an_honest_no(solve_field, real_sky):
    real_sky = replace(real_sky, sources={name: column[:40] for name, column in real_sky.sources.items()})
    solution = solve(real_sky, ra=200.0, dec=-30.0)
    assert solution.status == astrometry.NOT_SOLVED and "solve-field" in solution.reason


def test_missing_index_files_are_said(solve_field, real_sky, tmp_path):
    assert f"no astrometry.net index files in {tmp_path}" in solve(real_sky, index_dir=str(tmp_path)).reason


def test_a_missing_program_names_its_package(real_sky, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="solve-field is not installed; on Debian it is in the package astrometry.net"):
        solve(real_sky)


def test_all_24_frames_of_hatp32_are_solved(solve_field, hatp32, tycho):
    """As by the engine catalogue, corners included.

    Tests of accuracy show why the corners of the independent solution are not as exact as that.
    """
    off, corners, apart = [], [], []
    for frame in hatp32:
        solution = astrometry.solve(frame.sources, frame.header, frame.row, tycho, OPTIONS)
        assert solution.status == astrometry.SOLVED, f"{frame.name}: {solution.reason}"
        other = astrometry.solve(frame.sources, frame.header, frame.row, tycho, {**OPTIONS, "engine": "catalogue"})
        off.append(frame.off(solution.plate))
        corners.append(frame.corners_off(solution.plate))
        apart.append(frame.corners_off(solution.plate, other.plate))
    print(
        f"{len(off)} solved; off an independent solution {np.median(off):.2f} px, at most {max(off):.2f} px, worst "
        f"corner {np.median(corners):.2f} ({max(corners):.2f}); off the engine catalogue {max(apart):.3f} at most"
    )
    assert len(off) == 24 and np.median(off) < 0.5 and max(off) < 1
    assert np.median(corners) < 0.75 and max(apart) < 0.1


def test_a_frame_that_takes_too_long_has_no_answer(solve_field, real_sky, tmp_path, monkeypatch):
    """Of a service or program that might answer at the next try."""
    script = tmp_path / "solve-field"
    script.write_text("#!/bin/sh\necho Total CPU time limit reached!\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    solution = solve(real_sky)
    assert solution.status == astrometry.NO_ANSWER and "did not solve it within 60 s" in solution.reason


def test_a_cluster_in_a_corner_does_not_take_all_places():
    rng = np.random.default_rng(1)
    x, y = np.append(rng.uniform(0, 100, 500), rng.uniform(0, 1200, 500)), np.append(*rng.uniform(0, 100, (2, 500)))
    y[500:] = rng.uniform(0, 1000, 500)
    stars = plate_matching.Stars(x, y, np.full(1000, 0.1))
    rows = astrometry_net.spread(stars, (1000, 1200))
    assert len(rows) == len(set(rows)) == 200 and 15 < (rows < 500).sum() < 40
    assert (np.diff(rows[(x[rows] > 600) & (y[rows] > 500)]) > 0).mean() > 0.6  # bright ones first all the same


def test_a_program_that_hangs_is_stopped(tmp_path, monkeypatch):
    script = tmp_path / "solve-field"
    script.write_text("#!/bin/sh\nsleep 60\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(programs.TimeLimit, match="solve-field did not end within 0.5 s"):
        programs.run("solve-field", [], tmp_path, 0.5)


def test_a_program_that_fails_is_quoted(tmp_path, monkeypatch):
    script = tmp_path / "scamp"
    script.write_text("#!/bin/sh\necho out of luck\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(programs.ProgramFailed, match="scamp ended with status 3: out of luck"):
        programs.run("scamp", [], tmp_path, 10)
