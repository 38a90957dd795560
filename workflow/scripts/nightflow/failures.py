"""What to say when a run fails: which step and frame, the last lines of its log, and what to do."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_LINES = 6
_SHOWN = 5
_ERROR = re.compile(r"^\s*(?:\[.*\]\n)?\s*Error in (?:group|rule) (?P<rule>[\w.-]+)", re.MULTILINE)
_KILLED = re.compile(
    r"died with <Signals\.SIGKILL|exit(?:ed)? (?:code|status)[: ]*-9\b|\b(?:137|OUT_OF_MEMORY|oom.kill)\b"
)

# What a log says -> what to do; the first that fits counts.
_CURES = (
    (
        r"No space left|disk is full|quota|requested and \d+ written",
        "free some space where results_dir lies, then run the same command again",
    ),
    (r"read-only|[Pp]ermission", "make results_dir writable, or choose another with --config results_dir=..."),
    (
        r"MemoryError|Unable to allocate|Cannot allocate memory",
        "run with fewer --cores or with --resources mem_mb=..., or lower calibration.memory_mb and stack.memory_mb",
    ),
    (
        r"ModuleNotFoundError|ImportError",
        "install the packages of envs/requirements.txt (`make demo` does), and try again",
    ),
    (
        r"FileNotFoundError|No such file",
        "a file went away while it was needed: look for it, then run the same command again",
    ),
    (r"Traceback", "this is an error in nightflow: please report it with the log"),
)
_KILLED_CURE = (
    "the process was killed, most likely for its memory: run with fewer --cores or with --resources mem_mb=..."
)
_OTHER_CURE = "put this right and run the same command again: what is finished is kept"


@dataclass(frozen=True)
class Failure:
    """A failed job: its rule, what it was to make, and its log."""

    rule: str
    product: str
    log: str

    @property
    def subject(self) -> str:
        """The frame, master or stack that it was about."""
        inside = re.search(r"logs/[^/]+/(.+)\.log$", self.log)
        return inside[1] if inside else self.product or "the night"


def find(text: str) -> list[Failure]:
    """Failed jobs in the log of a Snakemake run, each once.

    Parameters
    ----------
    text : str
        Snakemake's own log.
    """
    found = {}
    for match in _ERROR.finditer(text):
        block = text[match.end() : match.end() + 4000]
        block = re.split(r"\n(?:\s*\n|\[|Error in )", block, maxsplit=1)[0]
        product, log = _entry(block, "output"), _entry(block, "log")
        found[match["rule"], product] = Failure(match["rule"], product, log)
    return list(found.values())


def _entry(block: str, name: str) -> str:
    match = re.search(rf"^\s*{name}: (.*)$", block, re.MULTILINE)
    return re.sub(r" \(check log file.*\)$", "", match[1]).split(", ")[0].strip() if match else ""


def find_in_logs(folder: str | os.PathLike, since: float) -> list[Failure]:
    """Failed jobs by the logs of their steps, for a run whose own log is empty (``--quiet all``).

    Parameters
    ----------
    folder : path-like
        Folder of the logs.
    since : float
        Time when the run began, seconds since the epoch; older logs are of earlier runs.
    """
    logs = [path for path in sorted(Path(folder).rglob("*.log")) if path.stat().st_mtime >= since]
    failed = [path for path in logs if "ERROR " in path.read_text(encoding="utf-8", errors="replace")]
    return [Failure(path.relative_to(folder).with_suffix("").parts[0], "", str(path)) for path in failed]


def describe(text: str, folder: str | os.PathLike = "", since: float = 0.0) -> str:
    """Sentences on the failed jobs of a run.

    Parameters
    ----------
    text : str
        Snakemake's own log.
    folder, since
        As for `find_in_logs`.
    """
    failures = find(text) or (find_in_logs(folder, since) if folder else [])
    if not failures:
        return "nightflow: the run ended early; Snakemake's message above says why\n"
    parts = [_describe(failure, text) for failure in failures[:_SHOWN]]
    if len(failures) > _SHOWN:
        parts.append(f"and {len(failures) - _SHOWN} more failed jobs\n")
    return "".join(parts) + "nightflow: what is finished is kept; the same command goes on from here\n"


def _describe(failure: Failure, text: str) -> str:
    lines = _last_lines(failure.log)
    shown = "".join(f"    {line}\n" for line in lines) or "    (its log is empty)\n"
    return (
        f"nightflow: the step {failure.rule} failed on {failure.subject}\n"
        f"  {failure.log or 'Snakemake'} ends with\n{shown}  what to do: {cure(lines, text)}\n"
    )


def _last_lines(log: str) -> list[str]:
    try:
        return Path(log).read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-_LINES:]
    except OSError:
        return []


def cure(lines: list[str], text: str = "") -> str:
    """What to do about a failed step.

    Parameters
    ----------
    lines : list of str
        The last lines of its log.
    text : str
        Snakemake's own log, which knows of killed processes.
    """
    log = "\n".join(lines)
    for pattern, advice in _CURES:
        if re.search(pattern, log):
            return advice
    return _KILLED_CURE if _KILLED.search(text) else _OTHER_CURE
