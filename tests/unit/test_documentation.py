"""The documentation is complete: every error sentence has its cure, every link leads somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What ends as a sentence for people; a ValueError or LinAlgError of the library is for programmers, except in `QUOTED`.
SPOKEN = re.compile(
    r"^(UserError|RejectedFrame|NoCalibration|NothingToReduce|ConfigurationError|InstrumentError|OverridesError"
    r"|FileNotFoundError|NoZeroPoint|stop|reject)$"
)
QUOTED = {"plates": "LinAlgError|ValueError", "inventory": "ValueError"}
# The commands for one image and the simulator explain themselves where they stand.
APART = re.compile(r"^(commands|explain|scenes|simulate.*|verify)$")


def literals(node):
    """The fixed parts of a text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return [part.value for part in node.values if isinstance(part, ast.Constant)]
    return []


def spoken_sentences():
    """Module and longest fixed part of every sentence that the library or the rules can end with."""
    for file in sorted((ROOT / "workflow" / "scripts").rglob("*.py")):
        if APART.match(file.stem):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if SPOKEN.match(name) or re.fullmatch(QUOTED.get(file.stem, "(?!)"), name):
                    part = max(literals(node.args[0]), key=len, default="")
                    if len(part) > 9:
                        yield file.stem, part.strip(" ,;:.'(")


def words(text):
    return " ".join(re.sub(r"[^A-Za-z0-9_.]+", " ", text).split())


@pytest.mark.parametrize("module, sentence", sorted(set(spoken_sentences())))
def test_every_error_sentence_has_its_cure(module, sentence):
    """The first words of the sentence stand in docs/troubleshooting.md."""
    page = words((ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"))
    first = " ".join(words(sentence).split()[:4])
    assert first in page, f"{module}: add a row for '{sentence}'"


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "config").glob("*.md")])


def anchors(page):
    """Names of the headings as Markdown viewers make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_the_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / unquote(path)).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_picture_says_what_it_shows(page):
    pictures = re.findall(r"!\[([^\]]*)\]", page.read_text(encoding="utf-8"))
    assert all(len(alternative) > 10 for alternative in pictures)


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md" or not page.is_file():
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                waiting.append((page.parent / unquote(target)).resolve())
    assert {page for page in PAGES if page.parent.name == "docs"} <= reached
