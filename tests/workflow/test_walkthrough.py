"""The notebook of the documentation runs, and prints what stands in it."""

from __future__ import annotations

import subprocess
import sys

import nbformat
import pytest

pytestmark = pytest.mark.workflow
EXECUTE = "from nbclient.cli import main; main()"  # the command jupyter-execute, wherever it is installed


def printed(path):
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    return [line.split()[:1] for line in text.splitlines() if "Filename" not in line]


def test_the_notebook_runs_and_prints_what_stands_in_it(root, tmp_path):
    """The first word of each line: the numbers belong to the code of the day."""
    kept = root / "docs" / "walkthrough.ipynb"
    finished = subprocess.run(
        [sys.executable, "-c", EXECUTE, "--timeout=300", f"--output={tmp_path / 'walked'}", str(kept)],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert finished.returncode == 0, finished.stderr
    assert printed(tmp_path / "walked.ipynb") == printed(kept) and len(printed(kept)) > 10
