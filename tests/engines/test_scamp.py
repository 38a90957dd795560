"""The engine scamp, with the real program: frames of a target in one solution, and what does not belong left out."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import skies
from skies import OPTIONS

from nightflow import astrometry, joint_astrometry, plates, scamp
from nightflow.steps import UserError

pytestmark = pytest.mark.engine
JOINT = {**OPTIONS, "engine": "scamp", "time_limit": 60}


@pytest.fixture
def program():
    if shutil.which("scamp") is None:
        pytest.skip("scamp is not installed (make engines)")


def frames_of_a_field(turns=(0, 0, 180), n=250, mirrored=False, seed=1):
    """Frames of one field, shifted and turned (degrees), with a distortion of 4 px in the corners."""
    rng = np.random.default_rng(seed)
    sky = skies.make_sky(seed=seed, n=n, off=0.0, noise=0.0, spurious=0.0, lost=0.0)
    shape, found = sky.shape, []
    for turn in turns:
        ra, dec = 150 + rng.normal(0, 0.01), 40 + rng.normal(0, 0.01)
        plate = skies.distorted_plate(shape, (1.0, 1.0), 33.0 + turn, mirrored, 4.0, ra=ra, dec=dec)
        near = sky.catalogue.within(ra, dec, 0.3)
        x, y = plate.to_pixel(near.ra, near.dec)
        on = (x > 0) & (x < shape[1] - 1) & (y > 0) & (y < shape[0] - 1) & (rng.uniform(size=len(x)) > 0.1)
        flux = 10 ** (-0.4 * (near.brightness[on] - 25))
        sources = {"x": x[on] + 0.05 * rng.standard_normal(on.sum()), "y": y[on] + 0.05 * rng.standard_normal(on.sum())}
        sources |= {"flux": flux, "flux_err": np.sqrt(flux + 100), "fwhm": np.full(on.sum(), 3.0)}
        sources["flags"] = np.zeros(on.sum(), dtype=int)
        found.append(skies.Sky(sources, sky.header, {"ra": ra + 0.02, "dec": dec}, sky.catalogue, plate, shape))
    return found


def solve(frames, path, catalogue=None, **options):
    """Solutions of frames as the two steps of the workflow make them."""
    options, sky = {**JOINT, **options}, frames[0].catalogue if catalogue is None else catalogue
    tasks = {f"frame{n}": (frame.sources, frame.header, frame.row) for n, frame in enumerate(frames)}
    joint_astrometry.write_answers(path, joint_astrometry.solve_target(tasks, sky, options))
    answers = {name: joint_astrometry.read_answer(path, name) for name in tasks}
    return [astrometry.solve(*task, sky, options, answers[name]) for name, task in tasks.items()]


def rms(frame, plate) -> float:
    """Of the differences to the true positions over the whole frame, px."""
    ny, nx = frame.shape
    x, y = (c.ravel() for c in np.meshgrid(np.linspace(0, nx - 1, 9), np.linspace(0, ny - 1, 9)))
    found = plate.to_pixel(*frame.plate.to_sky(x, y))
    return float(np.sqrt(np.mean((found[0] - x) ** 2 + (found[1] - y) ** 2)))


@pytest.mark.parametrize("mirrored", [False, True])
def test_turned_and_mirrored_frames_of_a_target_are_solved_together(program, tmp_path, mirrored):
    frames = frames_of_a_field(mirrored=mirrored)
    solutions = solve(frames, tmp_path / "a.head")
    errors = [rms(frame, solution.plate) for frame, solution in zip(frames, solutions, strict=True)]
    print("rms over the frame:", np.round(errors, 3), "px")
    assert [s.status for s in solutions] == ["SOLVED"] * 3 and max(errors) < 0.05
    assert min(len(s.stars) for s in solutions) > 150 and max(s.rms for s in solutions) < 0.1


def test_the_joint_solution_is_better_than_each_alone(program, tmp_path):
    frames = frames_of_a_field(turns=(0,) * 6, n=60)
    together = solve(frames, tmp_path / "a.head")
    alone = [astrometry.solve(f.sources, f.header, f.row, f.catalogue, OPTIONS) for f in frames]
    errors = [np.mean([rms(f, s.plate) for f, s in zip(frames, set_, strict=True)]) for set_ in (together, alone)]
    print(f"rms together {errors[0]:.3f} px, alone {errors[1]:.3f} px")
    assert errors[0] < errors[1]


def test_a_frame_of_another_field_is_left_out_and_spoils_nothing(program, tmp_path):
    frames = frames_of_a_field()
    rng = np.random.default_rng(3)
    strange = {**frames[0].sources, "x": rng.permutation(frames[0].sources["x"])}
    stranger = skies.Sky(strange, *[getattr(frames[0], n) for n in "header row catalogue plate shape".split()])
    solutions = solve([*frames, stranger], tmp_path / "a.head")
    assert [s.status for s in solutions] == ["SOLVED"] * 3 + ["NOT SOLVED"]
    assert "match none of the reference stars" in solutions[3].reason
    assert max(rms(f, s.plate) for f, s in zip(frames, solutions[:3], strict=True)) < 0.05


def test_few_stars_get_no_polynomial_that_they_cannot_hold(program, tmp_path):
    frames = frames_of_a_field(n=20)
    solutions = solve(frames, tmp_path / "a.head")
    assert [s.status for s in solutions] == ["SOLVED"] * 3
    assert max(rms(f, s.plate) for f, s in zip(frames, solutions, strict=True)) < 1.5  # of 4 px in the corners


def test_a_wrong_answer_of_the_program_does_not_pass(program, tmp_path, monkeypatch):
    """Once as it lies beside the frame's own solution, and once more where the answer is read."""
    (frame,) = frames_of_a_field(turns=(0,))
    true = frame.plate
    wrong = plates.Plate(true.ra + 0.001, true.dec, true.x0, true.y0, true.order, true.coefficients, true.unit)
    monkeypatch.setattr(scamp, "solve_together", lambda *_: [wrong])
    (solution,) = solve([frame], tmp_path / "a.head")
    assert solution.status == astrometry.NOT_SOLVED and "the joint solution leaves" in solution.reason
    answer = plates.tpv_header(wrong, frame.shape)
    solution = astrometry.solve(frame.sources, frame.header, frame.row, frame.catalogue, JOINT, answer)
    assert solution.status == astrometry.NOT_SOLVED and "does not fit the catalogue" in solution.reason


def test_without_pointing_or_catalogue_the_answer_says_so(program, tmp_path):
    frames = frames_of_a_field(turns=(0,))
    service = astrometry.NoAnswer("VizieR slept")
    (solution,) = solve(frames, tmp_path / "a.head", service)
    assert (solution.status, solution.reason) == (astrometry.NO_ANSWER, "not solved: VizieR slept")
    frames[0].row = {"ra": None, "dec": None}
    (solution,) = solve(frames, tmp_path / "a.head")
    assert solution.reason == "not solved: no pointing (header, or astrometry.ra and astrometry.dec)"


def test_a_missing_program_names_its_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="scamp is not installed; on Debian it is in the package scamp"):
        solve(frames_of_a_field(turns=(0,)), tmp_path / "a.head")


@pytest.mark.parametrize(
    "script, status, words",
    [
        ("sleep 60", "NO ANSWER", "not solved: scamp did not end within 1.5 s"),
        ("echo no memory; exit 2", "NOT SOLVED", "not solved: scamp ended with status 2: no memory"),
        ("exit 0", "NOT SOLVED", "not solved: SCAMP wrote no solution for this frame"),
    ],
)
def test_a_program_that_fails_is_a_status_of_its_frames(tmp_path, monkeypatch, script, status, words):
    (tmp_path / "scamp").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "scamp").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (solution,) = solve(frames_of_a_field(turns=(0,)), tmp_path / "a.head", time_limit=0.5)
    assert (solution.status, solution.reason) == (status, words)


def test_all_24_frames_of_hatp32_are_solved_together(program, hatp32, tycho, tmp_path):
    tasks = {frame.name: (frame.sources, frame.header, frame.row) for frame in hatp32}
    joint_astrometry.write_answers(tmp_path / "a.head", joint_astrometry.solve_target(tasks, tycho, JOINT))
    off, corners = [], []
    for frame in hatp32:
        answer = joint_astrometry.read_answer(tmp_path / "a.head", frame.name)
        solution = astrometry.solve(*tasks[frame.name], tycho, JOINT, answer)
        assert solution.status == astrometry.SOLVED, f"{frame.name}: {solution.reason}"
        off.append(frame.off(solution.plate))
        corners.append(frame.corners_off(solution.plate))
    print(
        f"{len(off)} solved; off an independent solution {np.median(off):.2f} px, at most {max(off):.2f} px, "
        f"worst corner {np.median(corners):.2f} ({max(corners):.2f})"
    )
    assert len(off) == 24 and np.median(off) < 0.5 and max(off) < 1 and np.median(corners) < 0.75
