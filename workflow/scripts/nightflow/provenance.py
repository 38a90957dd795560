"""Digests of code and configuration: what a product depends on besides its input files.

Snakemake sees changed inputs and parameters. The digest of the code that a step runs is handed to it as a
parameter, so that an edited function reruns just the steps that use it, and a touched file or a new comment none.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from nightflow.atomic import write_if_changed

PACKAGE = "nightflow"


def code_digest(script: str | Path, library: dict[str, str]) -> str:
    """Digest of a script and of all library modules that it imports, directly or not.

    Parameters
    ----------
    script : path
    library : dict of str to str
        Files of the library by module name (``sky``, ``__init__``).

    Returns
    -------
    str
        16 hexadecimal digits that change with the code, not with comments, docstrings or layout.
    """
    parts = [_source(str(script))[1]]
    parts += [f"{module}={_source(str(library[module]))[1]}" for module in sorted(imported_modules(script, library))]
    return _digest(parts)


def imported_modules(script: str | Path, library: dict[str, str]) -> set[str]:
    """Names of the library modules in the import closure of `script`, imports inside functions included."""
    found, waiting = set(), ["__init__", *(_source(str(script))[0] & library.keys())]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _source(str(library[module]))[0] & library.keys()
    return found


# What is known of sources, by the digest of their bytes: from an earlier run, and of those that this one asked for.
_earlier: dict[str, list] = {}
_present: dict[str, list] = {}


def recall(path: str | Path) -> None:
    """Take over from the file `path` what an earlier run has read of the library, whose sources take 0.3 s to read."""
    with suppress(OSError, ValueError, LookupError, TypeError):  # there is none, or `keep` did not write it
        kept = json.loads(Path(path).read_bytes())
        _earlier.update(kept["sources"] if kept["reader"] == _reader() else {})


def keep(path: str | Path) -> None:
    """Write for the next run what this one has read, where that is allowed."""
    if _present.keys() - _earlier.keys():
        with suppress(OSError):
            write_if_changed(path, json.dumps({"reader": _reader(), "sources": _present}))


def _reader() -> list[str]:
    """What the digest of a source depends on besides its bytes: Python's grammar, and this module."""
    return [sys.version, _fingerprint(Path(__file__).read_bytes())]


def _fingerprint(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@cache
def _source(path: str) -> tuple[frozenset[str], str]:
    """The library modules that a file imports, and the digest of its code."""
    content = Path(path).read_bytes()
    key = _fingerprint(content)
    imports, code = _present[key] = _earlier.get(key) or _parsed(content)
    return frozenset(imports), code


def _parsed(source: bytes) -> list:
    words, imports = [], set()
    _read(ast.parse(source), words, imports)
    return [sorted(imports), _digest(words)]


def _read(node: ast.AST, words: list[str], imports: set[str]) -> None:
    """Append a syntax tree to `words`, without docstrings, and what it imports to `imports`.

    In one go: `ast.walk` and `ast.dump` take five times as long, of a second for the whole library.
    """
    kind = type(node)
    words.append(kind.__name__)
    if kind is ast.Import or kind is ast.ImportFrom:
        imports |= _imported_by(node)
    for field in kind._fields:
        value = getattr(node, field, None)
        if isinstance(value, ast.AST):
            if field != "ctx":  # load or store: the place tells
                _read(value, words, imports)
        elif isinstance(value, list):
            words.append("[")
            for part in value[1:] if field == "body" and _begins_with_docstring(node) else value:
                if isinstance(part, ast.AST):
                    _read(part, words, imports)
                else:
                    words.append(repr(part))
            words.append("]")
        else:
            words.append(repr(value))


def _imported_by(node: ast.Import | ast.ImportFrom) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[1] for alias in node.names if alias.name.startswith(f"{PACKAGE}.")}
    if node.module == PACKAGE:
        return {alias.name for alias in node.names}
    return {node.module.split(".")[1]} if (node.module or "").startswith(f"{PACKAGE}.") else set()


def _begins_with_docstring(node: ast.AST) -> bool:
    if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or not node.body:
        return False
    first = node.body[0]
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def options_digest(options: dict) -> str:
    """Digest of configuration options (``NFCONF``): 16 hexadecimal digits, independent of the order of keys."""
    return _digest([json.dumps(options, sort_keys=True, default=str)])


def _digest(parts: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()
