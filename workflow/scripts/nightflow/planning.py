"""The plan of a reduction: frames, masters and stacks, as the rules look them up.

Built once when the workflow is parsed, from the configuration and the header cache.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from nightflow import frames as frame_table
from nightflow import instruments as dialects
from nightflow import inventory, matching
from nightflow.configuration import as_list, canonical, write_if_changed
from nightflow.frames import OK, Frame, slug
from nightflow.instruments import Instrument
from nightflow.inventory import HeaderCache, RawFile, find_files
from nightflow.matching import Master


class NothingToReduce(ValueError):
    """There are no raw frames or no lights; the message says where was looked."""


@dataclass
class Plan:
    """What there is to do.

    Attributes
    ----------
    frames : list of `Frame`
        Every raw image, whatever its verdict.
    lights : dict of str to `Frame`
        Lights that enter the workflow, by id.
    masters : dict of str to `Master`
        Those that a light or a flat of a light uses.
    bad_pixels : dict of str to tuple
        (dark, flat) names behind each bad-pixel map.
    stacks : dict of (str, str) to list of `Frame`
        Lights by target and filter (with whatever else it takes to tell stacks apart).
    """

    frames: list[Frame] = field(default_factory=list)
    lights: dict[str, Frame] = field(default_factory=dict)
    masters: dict[str, Master] = field(default_factory=dict)
    bad_pixels: dict[str, tuple] = field(default_factory=dict)
    stacks: dict[tuple[str, str], list[Frame]] = field(default_factory=dict)


def scan(config: dict, instruments: dict[str, Instrument], results: str) -> list[Frame]:
    """Find the raw frames and describe them.

    Parameters
    ----------
    config : dict
        The whole configuration, checked.
    instruments : dict of str to `Instrument`
    results : str
        Folder of the products, for the header cache; raw frames are not looked for in it.

    Raises
    ------
    NothingToReduce
        If there are no raw files.
    """
    folders = [canonical(folder) for folder in as_list(config["raw_dir"])]
    files = find_files(folders, skip=[results])
    if not files:
        raise NothingToReduce(
            f"raw_dir {' '.join(repr(f) for f in folders)} holds no raw frames: "
            "looked for are .fits, .fit and .fts in any case, with .gz or .fz or without, in all folders below"
        )
    overrides = config["overrides"]
    if isinstance(overrides, str):
        overrides = frame_table.read_overrides(overrides)
    else:
        overrides = frame_table.check_overrides(overrides)
    numbers = {
        name: value
        for name in ("gain", "read_noise", "saturation")
        if isinstance(value := config["calibration"][name], (int, float))
    }
    understanding = {
        "instrument": config["instrument"],
        "overrides": overrides,
        "site": config["site"],
        "detector": numbers,
        "split_colours": config["calibration"]["split_colours"],
    }
    return _described(files, instruments, understanding, Path(results, ".nightflow"))


def _described(files: list[RawFile], instruments: dict, understanding: dict, folder: Path) -> list[Frame]:
    """The frames in `files`, from the last scan where nothing has changed since."""
    path = folder / "frames.json"
    facts = [[(f.path, f.name, f.size, f.mtime_ns) for f in files], sorted(instruments.items()), understanding]
    key = hashlib.blake2b(repr([facts, _code_of_the_inventory()]).encode("utf-8", "surrogateescape")).hexdigest()
    frames = _remembered(path, key)
    if frames is None:
        headers = HeaderCache(folder / "headers.json").headers(files)
        frames = frame_table.build(files, headers, instruments, **understanding)
        write_if_changed(path, json.dumps({"key": key, "frames": frame_table.to_records(frames)}))
    return frames


def _remembered(path: Path, key: str) -> list[Frame] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return frame_table.from_records(content["frames"]) if content["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@cache
def _code_of_the_inventory() -> str:
    """Digest of the code that the frames depend on, so that an upgrade does not keep what the old one understood."""
    modules = (frame_table, dialects, inventory)
    return hashlib.blake2b(b"".join(Path(module.__file__).read_bytes() for module in modules)).hexdigest()


def assemble(frames: list[Frame], config: dict) -> Plan:
    """Plan from the frames of a scan: match calibrations, choose the masters in use, group the stacks.

    Raises
    ------
    NothingToReduce
        If there are no lights.
    nightflow.matching.NoCalibration
        If calibration is missing and ``calibration.missing`` is ``error``.
    """
    matching.reject_odd_shapes(frames)
    if not any(f.kind == "light" for f in frames):
        raise NothingToReduce(_no_lights(frames, config))
    masters = matching.find_masters(frames, config["calibration"]["match"])
    matching.assign(frames, masters, config["calibration"])
    lights = {f.frame: f for f in frames if f.kind == "light" and f.status == OK}
    bad_pixels = {}
    for light in lights.values():
        name = matching.bad_pixels_name(light.dark, light.flat)
        if name is not None:
            bad_pixels[name] = (light.dark, light.flat)
    return Plan(frames, lights, _in_use(lights, masters), bad_pixels, group_stacks(lights, config["stack"]["group_by"]))


def _no_lights(frames: list[Frame], config: dict) -> str:
    counts = defaultdict(int)
    for frame in frames:
        counts[frame.kind if frame.status == OK else "not usable"] += 1
    found = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
    reasons = sorted({f.reason for f in frames if f.status != OK})
    hint = f" ({reasons[0]})" if reasons else ""
    folders = " ".join(repr(folder) for folder in as_list(config["raw_dir"]))
    return f"no lights among the raw frames of {folders}: {found}{hint}; 'overrides' can name the kind of a frame"


def _in_use(lights: dict[str, Frame], masters: dict[str, Master]) -> dict[str, Master]:
    names = {name for light in lights.values() for name in (light.bias, light.dark, light.flat) if name}
    for name in sorted(names):
        names |= {n for n in (masters[name].bias, masters[name].dark) if n}
    return {name: masters[name] for name in sorted(names)}


def group_stacks(lights: dict[str, Frame], group_by: list[str]) -> dict[tuple[str, str], list[Frame]]:
    """Lights by (target, name), where the name is the filter and whatever else in `group_by` sets groups apart."""
    groups = defaultdict(list)
    for light in lights.values():
        groups[tuple(getattr(light, column) for column in group_by)].append(light)
    first = [dict(zip(group_by, key, strict=True)) for key in groups]
    stacks = {}
    for key, members in groups.items():
        values = dict(zip(group_by, key, strict=True))
        alike = [
            v for v in first if v.get("target") == values.get("target") and v.get("filter") == values.get("filter")
        ]
        telling = [c for c in group_by if c not in ("target", "filter") and len({v[c] for v in alike}) > 1]
        name = "_".join([values.get("filter") or "all", *(slug(str(values[c]), "x") for c in telling)])
        stacks[values.get("target") or "all", name] = members
    return dict(sorted(stacks.items()))
