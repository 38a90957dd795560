"""Digests of code and configuration: what a product depends on besides its input files.

Snakemake sees changed inputs and parameters. The digest of the code that a step runs is handed to it as a
parameter, so that an edited function reruns just the steps that use it, and a touched file or a new comment none.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

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
    found, waiting = {"__init__"}, list(_source(str(script))[0] & library.keys())
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _source(str(library[module]))[0] & library.keys()
    return found


@cache
def _source(path: str) -> tuple[frozenset[str], str]:
    """The library modules that a file imports, and the digest of its code."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    imports = set()
    for node in ast.walk(tree):
        imports |= _imported_by(node)
        has_docstring = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if has_docstring and node.body and _is_docstring(node.body[0]):
            node.body = node.body[1:] or [ast.Pass()]
    return frozenset(imports), _digest([ast.dump(tree)])


def _imported_by(node: ast.AST) -> set[str]:
    if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}."):
        return {node.module.split(".")[1]}
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[1] for alias in node.names if alias.name.startswith(f"{PACKAGE}.")}
    return set()


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def options_digest(options: dict) -> str:
    """Digest of configuration options (``NFCONF``): 16 hexadecimal digits, independent of the order of keys."""
    return _digest([json.dumps(options, sort_keys=True, default=str)])


def _digest(parts: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()
