"""Code digests: an edited function counts, a comment or a touched file does not; the import closure is the true one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from nightflow import provenance


@pytest.fixture
def library(tmp_path):
    sources = {
        "__init__": '"""Package."""\n__version__ = "1"\n',
        "sky": "from nightflow import combine\n\ndef level(x):\n    return combine.mean(x)\n",
        "combine": "def mean(x):\n    return sum(x) / len(x)\n",
        "lazy": "def f():\n    from nightflow.sky import level\n    return level\n",
        "unused": "x = 1\n",
    }
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
    (tmp_path / "script.py").write_text("from nightflow import lazy\n\nlazy.f()\n")
    return {name: str(tmp_path / f"{name}.py") for name in sources}


def digest(tmp_path, library):
    provenance._source.cache_clear()
    return provenance.code_digest(tmp_path / "script.py", library)


def test_closure_follows_imports_inside_functions(tmp_path, library):
    assert provenance.imported_modules(tmp_path / "script.py", library) == {"__init__", "lazy", "sky", "combine"}


@pytest.mark.parametrize(
    ("module", "old", "new", "changes"),
    [
        ("combine", "len(x)", "(len(x) - 1)", True),
        ("combine", "len(x)", "len(x, )", False),
        ("combine", "len(x)", "len(*x)", True),
        ("combine", "sum(x)", "sum(x, 0)", True),
        ("combine", "sum(x)", "sum(x, 0.0)", True),
        ("combine", "def mean(x):", "# why\ndef mean(x):", False),
        ("combine", "def mean(x):\n", 'def mean(x):\n    """What it is."""\n', False),
        ("unused", "1", "2", False),
        ("__init__", "1", "2", True),
    ],
)
def test_only_code_in_use_changes_the_digest(tmp_path, library, module, old, new, changes):
    before = digest(tmp_path, library)
    with open(library[module], "r+") as file:
        text = file.read().replace(old, new)
        file.seek(0)
        file.write(text)
    assert (digest(tmp_path, library) != before) == changes


def test_touching_changes_nothing(tmp_path, library):
    before = digest(tmp_path, library)
    os.utime(library["combine"], (1, 1))
    assert digest(tmp_path, library) == before


def test_what_was_read_of_sources_is_kept_for_the_next_run(tmp_path, library, monkeypatch):
    """And nothing of it holds for a source that has changed since."""
    monkeypatch.setattr(provenance, "_earlier", {})
    monkeypatch.setattr(provenance, "_present", {})
    before = digest(tmp_path, library)
    provenance.keep(tmp_path / "kept.json")
    provenance.recall(tmp_path / "kept.json")
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "_parsed", None)
        assert digest(tmp_path, library) == before
    with open(library["combine"], "a") as file:
        file.write("x = 1\n")
    assert digest(tmp_path, library) != before


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"reader": ["another"], "sources": {"a": []}}'])
def test_nothing_is_recalled_of_what_another_reader_wrote(tmp_path, text, monkeypatch):
    monkeypatch.setattr(provenance, "_earlier", {})
    if text is not None:
        (tmp_path / "kept.json").write_text(text)
    provenance.recall(tmp_path / "kept.json")
    assert not provenance._earlier


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path, library, monkeypatch):
    monkeypatch.setattr(provenance, "_present", {"new": []})
    (tmp_path / "file").touch()
    provenance.keep(tmp_path / "file" / "kept.json")


def test_closure_holds_what_is_really_imported(root):
    """Every library module that importing a script loads is in the closure found by reading it."""
    scripts = root / "workflow" / "scripts"
    library = {path.stem: str(path) for path in (scripts / "nightflow").glob("*.py")}
    for script in sorted(scripts.glob("*.py")):
        code = (
            f"import sys, json, runpy; sys.path.insert(0, {str(scripts)!r});"
            f"runpy.run_path({str(script)!r}, run_name='x');"
            "print(json.dumps([m.split('.')[1] for m in sys.modules if m.startswith('nightflow.')]))"
        )
        loaded = json.loads(
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        )
        assert set(loaded) <= provenance.imported_modules(script, library), script.name


def test_no_script_shadows_the_standard_library(root):
    names = {path.stem for path in (root / "workflow" / "scripts").glob("*.py")}
    assert not names & set(sys.stdlib_module_names)


def test_options_digest_ignores_the_order_of_keys():
    assert provenance.options_digest({"a": 1, "b": [2]}) == provenance.options_digest({"b": [2], "a": 1})
    assert provenance.options_digest({"a": 1}) != provenance.options_digest({"a": 1.5})
