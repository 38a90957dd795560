"""The engine astrometry.net, with the real program and Debian's Tycho-2 index files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from skies import OPTIONS

from nightflow import astrometry, astrometry_net, programs
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
    solution = solve(real_sky, ra=200.0, dec=-30.0)
    assert solution.status == astrometry.NOT_SOLVED and "solve-field" in solution.reason


def test_missing_index_files_are_said(solve_field, real_sky, tmp_path):
    assert f"no astrometry.net index files in {tmp_path}" in solve(real_sky, index_dir=str(tmp_path)).reason


def test_a_missing_program_names_its_package(real_sky, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="solve-field is not installed; on Debian it is in the package astrometry.net"):
        solve(real_sky)


def test_real_frames_of_hatp32_are_solved(solve_field, shared_data, tycho):
    """Six of the 24 frames; the means of their corners agree with an independent solution."""
    import csv

    import numpy as np
    from astropy.io import fits

    from nightflow import sky, sources
    from nightflow.products import Image

    folder = shared_data / "hatp32_microobs"
    lines = (folder / "truth" / "tycho2_plate_solutions.csv").read_text().splitlines()
    truth = {row["file"]: row for row in csv.DictReader(line for line in lines if not line.startswith("#"))}
    for path in sorted((folder / "raw").glob("*.FITS"))[::4]:
        data, header = fits.getdata(path).astype(np.float32), fits.getheader(path)
        mask = np.zeros(data.shape, np.uint16)
        level, scatter = sky.local_sky(data, ~sources.source_mask(data, mask, {}), 128)
        image = Image((data - level).astype(np.float32), mask, np.full(data.shape, np.median(scatter), np.float32))
        table = sources.detect_sources(image, {})
        header["NFXSIZE"], header["NFYSIZE"] = 650, 500
        solution = astrometry.solve(table, header, {"ra": header["RA"], "dec": header["DEC"]}, tycho, OPTIONS)
        assert solution.status == astrometry.SOLVED, solution.reason
        row = truth[path.name]
        corners = [[float(row[f"{axis}_{corner}"]) for corner in ("bl", "br", "tr", "tl")] for axis in ("ra", "dec")]
        x, y = solution.plate.to_pixel(*np.array(corners))
        middle = x.mean() - 324.5, y.mean() - 249.5
        print(f"{path.name}: {len(solution.stars)} stars, {solution.rms:.2f} arcsec, off {np.round(middle, 2)}")
        assert np.hypot(*middle) < 0.6


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
