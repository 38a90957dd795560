"""A failed run ends with the step, the frame, the last lines of its log, and what to do."""

from __future__ import annotations

import pytest

from nightflow import failures

RUN = """
[Sat Nov 21 06:48:57 2026]
Error in rule {rule}:
    message: None
    jobid: 1
    input: results/calibrated/M67_V_002.fits
    output: results/masked/M67_V_002.fits
    log: {log} (check log file(s) for error details)
Logfile {log}:
================================================================================
ERROR something
"""


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "results" / "logs" / "mask" / "M67_V_002.log"
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    "last, advice",
    [
        ("ERROR the disk is full: results/masked (No space left on device)", "free some space"),
        ("OSError: 44000 requested and 32560 written", "free some space"),
        ("ERROR permission was denied: results (Permission denied)", "make results_dir writable"),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 2 GiB", "fewer --cores"),
        ("ModuleNotFoundError: No module named 'photutils'", "install the packages"),
        ("Traceback (most recent call last):\nKeyError: 'x'", "please report it"),
        ("ERROR solve-field is not installed: Debian's package astrometry.net", "put this right"),
    ],
)
def test_step_frame_last_lines_and_cure(log, last, advice):
    log.write_text("INFO early line\n" * 30 + last + "\n")
    text = failures.describe(RUN.format(rule="mask", log=log) * 2)
    assert text.count("the step mask failed on M67_V_002\n") == 1, text
    assert last.splitlines()[-1] in text and advice in text and text.count("early") < 10
    assert "the same command goes on from here" in text


def test_a_killed_process_left_no_word(log):
    text = failures.describe(RUN.format(rule="mask", log=log) + "Command died with <Signals.SIGKILL: 9>.")
    assert "its log is empty" in text and "killed, most likely for its memory" in text


def test_many_failures_are_counted(log):
    runs = [RUN.format(rule="mask", log=log).replace("M67_V_002", f"M67_V_{n:03d}") for n in range(20)]
    text = failures.describe("".join(runs))
    assert text.count("the step mask failed") == 5 and "and 15 more failed jobs" in text


def test_a_run_that_ended_without_a_failed_job_says_where_to_look():
    assert "Snakemake's message above" in failures.describe("Error: Directory cannot be locked.")


def test_a_quiet_run_is_known_by_the_logs_of_its_steps(log):
    log.write_text("ERROR the disk is full: results/masked (No space left on device)\n")
    folder = log.parents[1]
    text = failures.describe("", folder, since=0.0)
    assert "the step mask failed on M67_V_002" in text and "free some space" in text
    assert "Snakemake's message above" in failures.describe("", folder, since=log.stat().st_mtime + 10)
