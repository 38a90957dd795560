"""Every command that the documentation gives is run here, or stands in `EXEMPT` with the reason.

They run in a folder that looks like a checkout, on a night that is smaller than those of the documentation.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from nights import another_exposure

pytestmark = pytest.mark.workflow
ROOT = Path(__file__).resolve().parents[2]

EXEMPT = {
    r"make .*": "continuous integration (.ci/run) runs `make test` and `make demo`; the others call what is tested",
    r"\. \.venv.*/bin/activate": "the tests run in the environment already",
    r"pytest .*": "this is pytest",
    r"pre-commit install": "needs the program pre-commit; its hooks are what `make lint` runs",
    r"(scene|sky|mask) .*": "tests/unit/test_commands.py runs these commands on smaller images",
    r"sbatch .*|.*--profile profiles/slurm.*|sinfo.*|squeue.*": "needs Slurm: see the tests with the marker slurm",
    r".*kubernetes.*|.*storage.*|.*cluster-generic.*": "needs a cluster or a store that a test does not have",
    r"snakemake simulate .*seed: 7.*": "44 frames; test_configuration.py holds that such values have their types",
    r".*raw_dir=/survey .*": "needs a survey of many nights; the test of clusters and nights runs the option",
    r"git clone .*|apt-get .*|conda .*|pip install .*": "needs the network",
    r"ds9 .*|ginga .*": "opens a window",
}  # fmt: skip

# One target, one light: what takes minutes in the documentation takes seconds here.
SMALL = {
    "simulate": {
        "shape": [200, 220], "bias_frames": 2, "dark_frames": 2, "flat_frames": 2, "filters": {"V": {}},
        "targets": [
            {"name": "M101", "ra": 210, "dec": 54, "kind": "cluster", "filters": ["V"], "frames": 1, "exptime": 60.0}
        ],
    },
}  # fmt: skip
SHELL = ("", "sh", "bash", "console")


def documented(page):
    """Commands of a page: lines of its blocks without a language, or of a shell; in a console those after ``$``."""
    language, text = None, page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in map(str.strip, text.splitlines()):
        if line.startswith("```"):
            language = line[3:] if language is None else None
        elif language in SHELL and (line.startswith("$ ") or (language != "console" and re.match(r"[a-z.]", line))):
            yield line.removeprefix("$ ").split(" # ")[0].strip()


PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "config" / "README.md",
]
COMMANDS = [(page.name, command) for page in PAGES for command in dict.fromkeys(documented(page))]


def reason_for_exemption(command):
    return next((reason for pattern, reason in EXEMPT.items() if re.fullmatch(pattern, command)), None)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what a clone holds, with the commands of the project, a night in ``data`` and the pages' own files."""
    folder = tmp_path_factory.mktemp("documented") / "nightflow"
    folder.mkdir()
    shutil.copy2(ROOT / "Snakefile", folder)
    for part in ("config", "envs", "profiles", "workflow"):
        shutil.copytree(ROOT / part, folder / part)
    programs = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    (folder / "bin").mkdir()
    for name, entry in programs.items():
        module, function = entry.split(":")
        code = f"import sys; from {module} import {function}; sys.exit({function}())"
        shim = folder / "bin" / name
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
        shim.chmod(0o755)
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    camera = (ROOT / "docs" / "new-instrument.md").read_text(encoding="utf-8")
    (folder / "mycamera.yaml").write_text(re.search(r"```yaml\n(name: mycamera\n.*?)```", camera, re.DOTALL)[1])
    own = (ROOT / "docs" / "your-own-night.md").read_text(encoding="utf-8")
    (folder / "my.yaml").write_text(adapted(re.search(r"```yaml\n(raw_dir:.*?)```", own, re.DOTALL)[1]))
    run(folder, "snakemake --cores all simulate --config results_dir=demo")
    shutil.copytree(folder / "demo" / "simulated" / "raw", folder / "data" / "2024-03-08")
    night = folder / "data" / "2024-03-08"
    another_exposure(night / "M101_V_001.fits", night / "M51_001.fits")
    return folder


def adapted(text):
    """A command or file with the places of the documentation in the test's folder."""
    return text.replace("/data/", "data/").replace("~/nightflow/", "./")


def run(folder, command):
    words = shlex.split(adapted(command))
    if words[0] == "snakemake":
        after = words.index("--configfile") + 2 if "--configfile" in words else None
        small = ["small.yaml"] if after else ["--configfile", "small.yaml"]
        words[slice(after, after) if after else slice(len(words), None)] = small
        words = [sys.executable, "-m", *words]
    elif words[0] == "python":
        words[0] = sys.executable
    library = str(folder / "workflow" / "scripts")
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": library}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)


def test_commands_were_found():
    assert len(COMMANDS) > 20 and ("README.md", "make demo") in COMMANDS


def test_every_exemption_is_needed_or_general():
    assert all(len(reason) > 10 for reason in EXEMPT.values())


@pytest.mark.parametrize("page", sorted({page for page, _ in COMMANDS}))
def test_commands_of_the_page_work(page, request):
    """In the order of the page; what the page presumes is made first."""
    commands = [command for name, command in COMMANDS if name == page and reason_for_exemption(command) is None]
    if not commands:
        pytest.skip("all commands of this page are exempt, see EXEMPT")
    folder = request.getfixturevalue("checkout")
    if page == "products.md" and not (folder / "results").is_dir():
        run(folder, "snakemake --cores all --config raw_dir=/data/2024-03-08 results_dir=results")
    if page == "adding-a-stage.md":
        add_the_stage(folder)
    for command in commands:
        # the README's night is reduced in earnest, its sister planned only
        finished = run(
            folder, f"{command} --dry-run" if page == "your-own-night.md" and "snakemake" in command else command
        )
        assert finished.returncode == 0, f"{command}\n{finished.stdout[-2000:]}\n{finished.stderr[-3000:]}"


def add_the_stage(folder):
    """Put the blocks of the page where it says."""
    text = (ROOT / "docs" / "adding-a-stage.md").read_text(encoding="utf-8")
    for path, block in re.findall(r"^`([\w/.]+)`\n\n```python\n(.*?)```", text, re.MULTILINE | re.DOTALL):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(block)
    common = folder / "workflow" / "rules" / "common.smk"
    common.write_text(common.read_text().replace('"__init__ ', '"__init__ maskstatistics ', 1))
    include = re.search(r"```python\n(include: .*?)```", text, re.DOTALL)[1]
    (folder / "Snakefile").write_text((folder / "Snakefile").read_text() + f"\n\n{include}")
    test = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/unit/test_maskstatistics.py"],
        cwd=folder, env={**os.environ, "PYTHONPATH": "workflow/scripts"}, capture_output=True, text=True,
    )  # fmt: skip
    assert test.returncode == 0, test.stdout
