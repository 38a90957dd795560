"""Checking the configuration, in sentences.

The schema says what is allowed; this module turns each violation into one sentence that names the key, its value and
what would be accepted, and brings paths to one spelling.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path


class ConfigurationError(ValueError):
    """The configuration cannot be used; the message has one sentence for each problem."""


def read(path: str | os.PathLike) -> dict:
    """What a YAML file of the workflow itself holds; libyaml reads it in a tenth of the time that Python takes."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(Path(path).read_bytes())
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def check(config: dict, schema: dict, where: str = "configuration") -> None:
    """Hold `config` against a JSON schema.

    Parameters
    ----------
    config, schema : dict
    where : str
        What is checked, for the sentences.

    Raises
    ------
    ConfigurationError
        With one line for each problem.
    """
    import jsonschema

    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(config), key=lambda e: list(map(str, e.path)))
    if errors:
        raise ConfigurationError("\n".join(f"{where}: {_sentence(error)}" for error in errors))


def typed(value, schema: dict):
    """`value` with texts read as YAML where `schema` does not accept them as text.

    ``--config 'sky={sigma: 3.0}'`` hands everything inside the braces over as text.

    Parameters
    ----------
    value : object
        A configuration, or a part of it.
    schema : dict
        Its JSON schema.
    """
    if isinstance(value, dict):
        known, others = schema.get("properties"), schema.get("additionalProperties")
        if known is None and others is None:  # a section that others check
            return {key: typed(part, {"not": {"type": "string"}}) for key, part in value.items()}
        others = others if isinstance(others, dict) else {}
        return {key: typed(part, (known or {}).get(key, others)) for key, part in value.items()}
    if isinstance(value, list):
        return [typed(part, schema.get("items", schema)) for part in value]
    return _read(value, schema) if isinstance(value, str) else value


def _read(text: str, schema: dict):
    import jsonschema
    import yaml

    accepts = jsonschema.Draft202012Validator(schema).is_valid
    if accepts(text):
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if accepts(value) else text


def _sentence(error) -> str:
    key = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        return _unknown_keys(key, error)
    if error.validator == "required":
        return f"{key + ': ' if key else ''}{error.message}"
    if error.validator == "dependentRequired":
        return f"{key}: {error.message}"
    return f"{key} is {_shown(error.instance)}; it must be {accepted(error.schema)}{_hint(key, error.instance)}"


def _unknown_keys(key: str, error) -> str:
    known = list(error.schema.get("properties", {}))
    unknown = [name for name in error.instance if name not in known]
    sentences = []
    for name in unknown:
        close = difflib.get_close_matches(str(name), known, n=1)
        guess = f" (did you mean '{close[0]}'?)" if close else ""
        full = f"{key}.{name}" if key else name
        sentences.append(f"unknown key '{full}'{guess}; known here are {', '.join(known)}")
    return "; ".join(sentences)


def _shown(value) -> str:
    kinds = {bool: "true or false", str: "text", dict: "a section", list: "a list", type(None): "empty"}
    kind = kinds.get(type(value), "a number")
    return kind if isinstance(value, (dict, type(None))) else f"{value!r} ({kind})"


_TYPE_WORDS = {
    "number": "a number",
    "integer": "a whole number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a section with keys",
    "null": "empty",
}


def accepted(schema: dict) -> str:
    """What a schema accepts, in words."""
    if "items" in schema:
        return f"a list of {_items(schema['items'])}"
    if "pattern" in schema:
        return "text like '3 sigma' or '90 %'" if "sigma" in schema["pattern"] else f"text like {schema['pattern']}"
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(accepted(option) for option in schema.get("anyOf", schema.get("oneOf")))
    if "enum" in schema:
        return "one of " + ", ".join("empty" if v is None else str(v) for v in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    types = schema.get("type", [])
    words = " or ".join(_TYPE_WORDS[t] for t in ([types] if isinstance(types, str) else types)) or "a value"
    limits = [
        f"{word} {schema[limit]:g}"
        for limit, word in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if limit in schema
    ]
    return " ".join([words, " and ".join(limits)]).strip()


def _items(schema: dict) -> str:
    plural = {
        "integer": "whole numbers",
        "string": "texts",
        "number": "numbers",
        "object": "sections",
        "array": "lists",
    }
    return ", ".join(map(str, schema["enum"])) if "enum" in schema else plural[schema["type"]]


def _hint(key: str, value) -> str:
    if key in ("raw_dir", "results_dir") and isinstance(value, (int, float)):
        return f"; for the folder of that name write ./{value}"
    return ""


def canonical(path: str) -> str:
    """One spelling for a path: relative to the working folder if it lies inside, else absolute.

    ``results``, ``./results/`` and ``/here/results`` thus name the same products.
    """
    absolute = os.path.abspath(os.path.expanduser(path))
    here = os.getcwd()
    inside = os.path.commonpath([absolute, here]) == here
    return os.path.relpath(absolute, here) if inside else absolute


def check_results_dir(path: str) -> None:
    """Refuse a results folder whose name Snakemake would read as wildcards.

    Raises
    ------
    ConfigurationError
    """
    if any(character in path for character in "{}\n*?"):
        raise ConfigurationError(f"results_dir '{path}' holds one of {{ }} * ? or a line break: choose another folder")


def as_list(value) -> list:
    """`value` if it is a list, else a list of it; None is an empty list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
