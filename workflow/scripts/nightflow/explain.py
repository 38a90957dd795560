"""Explaining how raw frames are understood: which header keyword decided what, and what is missing.

The command ``explain FOLDER`` for people; the workflow itself writes the same understanding to ``frames.tsv``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nightflow import configuration, frames, inventory
from nightflow.instruments import Instrument, InstrumentError, choose, resolve, translate

_ROOT = Path(__file__).resolve().parents[3]

#: What the reduction does without each of these, by kind of frame.
WITHOUT = {
    "light": {
        "exptime": "the frame is rejected",
        "date_obs": "no night, no airmass, and the calibration frames nearest in time are not known",
        "target": "all such lights are one target, 'unknown'",
        "filter": "all such lights and flats are one filter, 'nofilter'",
        "gain": "pixels stay in ADU, unless calibration.gain is set or measured",
        "read_noise": "measured on the bias frames, if there are any",
        "saturation": "found in the pixels, where they show it",
        "temperature": "darks of any temperature match",
    },
    "flat": {"filter": "it flattens only lights without a filter"},
    "dark": {"exptime": "the frame is rejected", "temperature": "it matches lights of any temperature"},
    "bias": {},
}
_ADVICE = "set it by 'overrides' in the configuration, or by 'defaults' in an instrument file (docs/new-instrument.md)"
_SHOWN = (
    *("kind", "target", "filter", "exptime", "date_obs", "time_obs", "mjd_obs", "ra", "dec", "airmass", "temperature"),
    *("binning", "binning_x", "binning_y", "window_x", "window_y", "gain", "gain_setting", "offset", "readout_mode"),
    *("read_noise", "saturation", "linearity_limit", "linearity", "pedestal", "instrument", "telescope", "chip"),
    *("site_latitude", "site_longitude", "site_height", "trim", "overscan", "amplifiers", "bayer"),
)


@dataclass
class Explanation:
    """One image: the frame, its values by standard name, their origins, the dialect, and what is missing."""

    frame: frames.Frame
    dialect: str
    values: dict
    origins: dict
    missing: dict


def load_dialects() -> dict[str, Instrument]:
    """The header dialects that come with nightflow, by name."""
    return resolve(_definitions(sorted((_ROOT / "config" / "instruments").glob("*.yaml"))))


def dialects_for(instrument: str) -> tuple[dict[str, Instrument], str]:
    """All dialects, and the one to use.

    Parameters
    ----------
    instrument : str
        ``auto``, the name of a dialect, or an instrument file of the user's.

    Raises
    ------
    InstrumentError, nightflow.configuration.ConfigurationError
        If the name or the file is unknown, or the file says something unknown.
    """
    files = sorted((_ROOT / "config" / "instruments").glob("*.yaml"))
    if instrument.endswith((".yaml", ".yml")):
        own = _definitions([Path(instrument)])
        return resolve(_definitions(files) | own), min(own)
    dialects = resolve(_definitions(files))
    if instrument != "auto" and instrument not in dialects:
        known = ", ".join(sorted(dialects))
        raise InstrumentError(
            f"instrument '{instrument}' is unknown; known are auto, {known}, or a file ending in .yaml"
        )
    return dialects, instrument


def _definitions(files: list[Path]) -> dict[str, dict]:
    """Contents of instrument files by the names that they give themselves."""
    import yaml

    schema = yaml.safe_load((_ROOT / "workflow" / "schemas" / "instrument.schema.yaml").read_text(encoding="utf-8"))
    definitions = {}
    for file in files:
        if not file.is_file():
            raise InstrumentError(f"instrument file '{file}' not found")
        try:
            definition = yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise InstrumentError(f"instrument file '{file}' is no YAML: {' '.join(str(error).split())}") from error
        configuration.check(definition, schema, f"instrument file '{file}'")
        definitions[definition["name"]] = definition
    return definitions


def explain(files: list[inventory.RawFile], dialects: dict[str, Instrument], instrument: str) -> list[Explanation]:
    """How each image of `files` is understood.

    Parameters
    ----------
    files : list of `nightflow.inventory.RawFile`
    dialects : dict of str to `Instrument`
    instrument : str
        ``auto`` or the name of a dialect.
    """
    explained = []
    for file in files:
        content = inventory.read_headers(file.path)
        cards = {hdu["hdu"]: hdu for hdu in content["hdus"]}
        for frame in frames.build([file], [content], dialects, instrument=instrument, split_colours=False):
            if frame.hdu not in cards:
                explained.append(Explanation(frame, "none", {}, {}, {}))
                continue
            hdu = cards[frame.hdu]
            dialect = choose(content["hdus"][0]["cards"], dialects) if instrument == "auto" else dialects[instrument]
            values, origins = translate(hdu["cards"], dialect, file.name, hdu["shape"])
            expected = WITHOUT.get(frame.kind, {})
            missing = {name: effect for name, effect in expected.items() if values.get(name) is None}
            explained.append(Explanation(frame, dialect.name, values, origins, missing))
    return explained


def lines(explained: list[Explanation]) -> Iterator[str]:
    """The explanations as text: frames understood by the same keywords together, their values from the first."""
    groups = {}
    for one in explained:
        rule = one.origins.get("kind")
        key = (one.dialect, one.frame.kind, one.frame.status, tuple(one.missing), tuple(sorted(one.origins)), rule)
        groups.setdefault(key, []).append(one)
    for members in groups.values():
        yield from _group_lines(members)
        yield ""
    kinds = [one.frame.kind or "not understood" for one in explained if one.frame.status == frames.OK]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    yield f"{len(explained)} images: {counts or 'none can be used'}; {len(explained) - len(kinds)} not usable"


def _group_lines(members: list[Explanation]) -> Iterator[str]:
    first = members[0]
    verdict = "" if first.frame.status == frames.OK else f", {first.frame.status}"
    yield f"{len(members)} x {first.frame.kind or 'not understood'}{verdict} (dialect {first.dialect})"
    for one in members:
        frame = one.frame
        facts = (
            frame.target,
            frame.filter,
            f"{frame.exptime:g} s" if frame.exptime is not None else None,
            frame.reason,
        )
        hdu = f"[{frame.hdu}]" if frame.hdu else ""
        yield f"  {frame.path}{hdu}  {'  '.join(fact for fact in facts if fact)}".rstrip().replace("\n", " ")
    for name in _SHOWN:
        if name in first.origins:
            yield f"    {name:14} {_text(first.values[name]):28} from {first.origins[name] or 'nothing in the header'}"
    for name, effect in first.missing.items():
        yield f"    {name:14} missing: {effect}"
    if first.missing:
        yield f"    To add what is missing, {_ADVICE}."


def _text(value) -> str:
    if isinstance(value, tuple):  # a section
        rows, columns = value
        return f"[{columns.start + 1}:{columns.stop},{rows.start + 1}:{rows.stop}]"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def main(argv: list[str] | None = None) -> int:
    """The command ``explain``."""
    parser = argparse.ArgumentParser(
        prog="explain",
        description="Say how each raw frame is understood, by which header keyword, and what is missing.",
    )
    parser.add_argument("paths", nargs="+", metavar="FOLDER", help="folder of raw frames, or a single file")
    parser.add_argument(
        "--instrument", default="auto", help="header dialect: auto (default), a name in config/instruments, or a file"
    )
    arguments = parser.parse_args(argv)
    try:
        dialects, name = dialects_for(arguments.instrument)
        files = [file for path in arguments.paths for file in _files(path)]
    except (InstrumentError, configuration.ConfigurationError, OSError) as error:
        print(f"explain: {error}", file=sys.stderr)
        return 2
    if not files:
        print("explain: no file ends in .fits, .fit or .fts, with .gz or .fz or without", file=sys.stderr)
        return 1
    for line in lines(explain(files, dialects, name)):
        print(line.encode("utf-8", "backslashreplace").decode())
    return 0


def _files(path: str) -> list[inventory.RawFile]:
    if Path(path).is_file():
        stat = Path(path).stat()
        return [inventory.RawFile(path, Path(path).name, stat.st_size, stat.st_mtime_ns)]
    try:
        return inventory.find_files([path])
    except FileNotFoundError as error:
        raise FileNotFoundError(f"'{path}' is neither a folder nor a file") from error


if __name__ == "__main__":
    sys.exit(main())
