"""The repository keeps its own rules: lists that must agree do agree, nothing forbidden is in it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml


def pins(root, name="requirements.txt"):
    text = (root / "envs" / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s\\]+)", text, re.MULTILINE))


def test_conda_environments_have_the_versions_of_the_lock(root):
    locked = pins(root)
    files = sorted((root / "envs").glob("*.yaml"))
    assert files
    for file in files:
        for entry in yaml.safe_load(file.read_text(encoding="utf-8"))["dependencies"]:
            name, version = entry.split(" =")
            assert name == "python" or locked[name] == version, f"{file.name}: {name}"


def test_everything_in_the_lock_has_hashes_and_no_address(root):
    for name in ("requirements.txt", "requirements-test.txt", "requirements-slurm.txt"):
        text = (root / "envs" / name).read_text(encoding="utf-8")
        assert "://" not in text and "--index" not in text and "find-links" not in text
        entries = re.split(r"\n(?=[A-Za-z])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
        assert all("--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize("other", ["requirements-test.txt", "requirements-slurm.txt"])
def test_locks_agree(root, other):
    run, besides = pins(root), pins(root, other)
    assert {name: version for name, version in besides.items() if run.get(name, version) != version} == {}


def test_everything_asked_for_is_locked(root):
    for name in ("requirements", "requirements-test", "requirements-slurm"):
        wanted = [
            line for line in (root / "envs" / f"{name}.in").read_text().splitlines() if line and line[0] not in "#-"
        ]
        assert {package.lower() for package in wanted} <= {p.lower() for p in pins(root, f"{name}.txt")}


def test_the_snakefile_names_every_library_module(root):
    """A remote module fetches only the files that common.smk names."""
    text = (root / "workflow" / "rules" / "common.smk").read_text(encoding="utf-8")
    named = "".join(re.findall(r'"([^"]*)"', re.search(r"MODULES = \((.*?)\)\.split", text, re.DOTALL)[1])).split()
    assert sorted(named) == sorted(path.stem for path in (root / "workflow" / "scripts" / "nightflow").glob("*.py"))


def test_the_snakefile_names_every_instrument(root):
    text = (root / "workflow" / "rules" / "common.smk").read_text(encoding="utf-8")
    named = re.findall(r'"(\w+)"', re.search(r"INSTRUMENTS = \((.*?)\)", text, re.DOTALL)[1])
    assert sorted(named) == sorted(path.stem for path in (root / "config" / "instruments").glob("*.yaml"))


def test_instrument_files_are_valid(root):
    from nightflow import configuration

    schema = yaml.safe_load((root / "workflow" / "schemas" / "instrument.schema.yaml").read_text(encoding="utf-8"))
    for file in (root / "config" / "instruments").glob("*.yaml"):
        configuration.check(yaml.safe_load(file.read_text(encoding="utf-8")), schema, file.name)


def rules(root):
    for file in sorted((root / "workflow" / "rules").glob("*.smk")):
        for block in re.split(r"^rule ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            yield block.split(":")[0], block


def test_rules_look_alike(root):
    """Every rule says where it logs, what it measures, what it needs; snakefmt keeps the order."""
    for name, block in rules(root):
        for directive in ("output", "params", "log", "benchmark", "conda", "threads", "resources", "script"):
            assert f"\n    {directive}:" in block, f"{name} lacks {directive}"


def test_scripts_are_short_and_say_what_they_do(root):
    for script in (root / "workflow" / "scripts").glob("*.py"):
        text = script.read_text(encoding="utf-8")
        assert text.startswith('"""') and len(text.splitlines()) <= 60, script.name


def test_library_never_imports_snakemake(root):
    for module in (root / "workflow" / "scripts" / "nightflow").glob("*.py"):
        assert not re.search(r"^\s*(import|from) snakemake", module.read_text(encoding="utf-8"), re.MULTILINE), (
            module.name
        )


def test_no_shell_strings_eval_or_pickle(root):
    for module in (root / "workflow" / "scripts").rglob("*.py"):
        text = module.read_text(encoding="utf-8")
        assert not re.search(r"shell=True|\beval\(|\bexec\(|pickle|os\.system|yaml\.load\(", text), module.name


def test_option_reference_is_up_to_date(root):
    from nightflow import reference

    assert (root / "config" / "README.md").read_text(encoding="utf-8") == reference.page(root)


def test_every_test_file_has_a_name_of_its_own(root):
    """pytest imports test files by their names alone."""
    names = [path.name for path in (root / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("command", ["ruff check", "ruff format --check"])
def test_style(root, command):
    finished = subprocess.run([sys.executable, "-m", *command.split()], cwd=root, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout


def test_simulator_options_in_the_documentation_are_its_defaults(root):
    from nightflow import simulate_settings

    text = (root / "docs" / "simulator.md").read_text(encoding="utf-8")
    documented = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])["simulate"]
    assert simulate_settings.settings_of(documented) == simulate_settings.settings_of({})


def test_every_step_names_its_inputs(root):
    """What a script writes carries the names and sums of what it read."""
    for script in (root / "workflow" / "scripts").glob("*.py"):
        text = script.read_text(encoding="utf-8")
        raw = ("*snakemake.params.frames", 'snakemake.params.light["path"]')
        inputs = ("snakemake.input", *(f"[*snakemake.input, {paths}]" for paths in raw))
        assert any(f"steps.logged(snakemake.log[0], {paths})" in text for paths in inputs), script.name
