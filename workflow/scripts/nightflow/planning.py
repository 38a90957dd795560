"""The plan of a reduction: frames, masters and stacks, as the rules look them up.

Built once when the workflow is parsed, from the configuration and the header cache.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from nightflow import frames as frame_table
from nightflow import headercards, headervalues, inventory, matching
from nightflow import instruments as dialects
from nightflow.atomic import write_if_changed
from nightflow.configuration import as_list, canonical
from nightflow.frames import OK, Frame, slug
from nightflow.instruments import Instrument
from nightflow.inventory import HeaderCache, RawFile, find_files
from nightflow.matching import Master


class NothingToReduce(ValueError):
    """There are no raw frames or no lights; the message says where was looked."""


@dataclass
class Camera:
    """A camera in one setting on one night, with frames to measure it on.

    Attributes
    ----------
    like : `Frame`
        A frame of it, for what the header says of the detector.
    bias, lights : list of `Frame`
    flats : list of list of `Frame`
        Flats of each filter.
    """

    like: Frame
    bias: list[Frame] = field(default_factory=list)
    flats: list[list[Frame]] = field(default_factory=list)
    lights: list[Frame] = field(default_factory=list)


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
    bad_pixels_of : dict of str to str
        The bad-pixel map of each light that has one.
    cameras : dict of str to `Camera`
    camera_of : dict of str to str
        The camera of each light and each master flat.
    mosaics : dict of str to list of `Master`
        Flats of all chips of a camera, in one filter on one night.
    fringes : dict of str to list of `Frame`
        Lights of one camera, filter and night, whose common pattern is subtracted from each of them.
    fringe_of : dict of str to str
        The fringe pattern of each light that has one.
    """

    frames: list[Frame] = field(default_factory=list)
    lights: dict[str, Frame] = field(default_factory=dict)
    masters: dict[str, Master] = field(default_factory=dict)
    bad_pixels: dict[str, tuple] = field(default_factory=dict)
    stacks: dict[tuple[str, str], list[Frame]] = field(default_factory=dict)
    bad_pixels_of: dict[str, str] = field(default_factory=dict)
    cameras: dict[str, Camera] = field(default_factory=dict)
    camera_of: dict[str, str] = field(default_factory=dict)
    mosaics: dict[str, list[Master]] = field(default_factory=dict)
    fringes: dict[str, list[Frame]] = field(default_factory=dict)
    fringe_of: dict[str, str] = field(default_factory=dict)


def scan(config: dict, instruments: dict[str, Instrument], results: str, fresh: bool = True) -> list[Frame]:
    """Find the raw frames and describe them.

    Parameters
    ----------
    config : dict
        The whole configuration, checked.
    instruments : dict of str to `Instrument`
    results : str
        Folder of the products, for the header cache; raw frames are not looked for in it.
    fresh : bool
        Whether to look what files there are now. A job on another machine does not: frames that arrive or change
        while a run goes on are the next run's, so it takes the last scan, if that was made with the same options.

    Raises
    ------
    NothingToReduce
        If there are no raw files.
    """
    cache = Path(results, ".nightflow", "frames.json")
    understanding = _understanding(config)
    remembered = None if fresh else _remembered(cache, _options_key(instruments, understanding))
    if remembered is not None:
        return remembered
    folders = [canonical(folder) for folder in as_list(config["raw_dir"])]
    files = find_files(folders, skip=[results])
    if not files:
        raise NothingToReduce(
            f"raw_dir {' '.join(repr(f) for f in folders)} holds no raw frames: "
            "looked for are .fits, .fit and .fts in any case, with .gz or .fz or without, in all folders below"
        )
    settled, changing = _by_age(files, config["settle"])
    return _described(settled, instruments, understanding, cache) + [frame_table.waiting(file) for file in changing]


def _by_age(files: list[RawFile], settle: float) -> tuple[list[RawFile], list[RawFile]]:
    """Files that have not changed for `settle` seconds, and those that may still be written.

    A time in the future is that of a camera whose clock is ahead: it says nothing.
    """
    now = time.time()
    changing = {file for file in files if 0 <= now - file.mtime_ns / 1e9 < settle}
    return [file for file in files if file not in changing], sorted(changing, key=lambda file: file.path)


def scan_library(
    config: dict, instruments: dict[str, Instrument], results: str, fresh: bool = True
) -> dict[str, Master]:
    """Ready-made masters in the folders of ``calibration.library``, by name; `fresh` as in `scan`.

    Raises
    ------
    FileNotFoundError
        If a folder does not exist.
    """
    folders = [canonical(folder) for folder in as_list(config["calibration"]["library"])]
    if not folders:
        return {}
    cache = Path(results, ".nightflow", "library.json")
    understanding = {**_understanding(config), "split_colours": False, "ready": True}
    remembered = None if fresh else _remembered(cache, _options_key(instruments, understanding))
    if remembered is not None:
        return matching.ready_masters(remembered)
    try:
        files = find_files(folders, skip=[results])
    except FileNotFoundError as error:
        raise FileNotFoundError(str(error).replace("raw_dir", "calibration.library")) from error
    return matching.ready_masters(_described(files, instruments, understanding, cache))


def _understanding(config: dict) -> dict:
    """The options that decide how a header is understood."""
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
    return {
        "instrument": config["instrument"],
        "overrides": overrides,
        "site": config["site"],
        "detector": numbers,
        "split_colours": config["calibration"]["split_colours"],
    }


def _described(files: list[RawFile], instruments: dict, understanding: dict, path: Path) -> list[Frame]:
    """The frames in `files`, from the last scan, kept in `path`, where nothing has changed since."""
    facts = _digest([(f.path, f.name, f.size, f.mtime_ns) for f in files])
    options = _options_key(instruments, understanding)
    frames = _remembered(path, options, facts)
    if frames is None:
        headers = HeaderCache(path.with_name(f"{path.stem}.headers.json")).headers(files)
        frames = frame_table.build(files, headers, instruments, **understanding)
        copies = inventory.find_copies(files, headers)
        for frame in frames:
            if frame.path in copies:
                frame.ignore(f"the same bytes as {copies[frame.path]}")
        records = frame_table.to_records(frames)
        write_if_changed(path, json.dumps({"options": options, "files": facts, "frames": records}))
    return frames


def _options_key(instruments: dict, understanding: dict) -> str:
    return _digest([sorted(instruments.items()), understanding, _code_of_the_inventory()])


def _digest(facts: list) -> str:
    return hashlib.blake2b(repr(facts).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _remembered(path: Path, options: str, files: str | None = None) -> list[Frame] | None:
    """The frames kept in `path`, if they were understood with these options; of these files, if given."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        current = content["options"] == options and files in (None, content["files"])
        return frame_table.from_records(content["frames"]) if current else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


@cache
def _code_of_the_inventory() -> str:
    """Digest of the code that the frames depend on, so that an upgrade does not keep what the old one understood."""
    modules = (frame_table, dialects, headervalues, inventory, headercards)
    return hashlib.blake2b(b"".join(Path(module.__file__).read_bytes() for module in modules)).hexdigest()


def assemble(frames: list[Frame], config: dict, library: dict[str, Master] | None = None) -> Plan:
    """Plan from the frames of a scan: match calibrations, choose the masters in use, group the stacks.

    Parameters
    ----------
    frames : list of `Frame`
        Changed in place, see `nightflow.matching.assign`.
    config : dict
    library : dict of str to `Master`, optional
        Ready-made masters.

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
    masters = matching.find_masters(frames, config["calibration"]["match"]) | (library or {})
    matching.assign(frames, masters, config["calibration"])
    lights = {f.frame: f for f in frames if f.kind == "light" and f.status == OK}
    plan = Plan(frames, lights, _in_use(lights, masters))
    plan.stacks = group_stacks(lights, grouping(config))
    for light in lights.values():
        pair = _bad_pixels_from(light, masters)
        name = matching.bad_pixels_name(*pair)
        if name is not None:
            plan.bad_pixels[name], plan.bad_pixels_of[light.frame] = pair, name
    plan.cameras, plan.camera_of = find_cameras(lights, plan.masters)
    plan.mosaics = find_mosaics(plan.masters)
    if config["fringes"]["correct"]:
        plan.fringes = find_fringes(lights, config["fringes"])
        plan.fringe_of = {light.frame: name for name, members in plan.fringes.items() for light in members}
    return plan


def find_fringes(lights: dict[str, Frame], options: dict) -> dict[str, list[Frame]]:
    """Groups of lights that share a fringe pattern, by name: one camera, filter and night, and enough of them.

    Parameters
    ----------
    lights : dict of str to `Frame`
    options : dict
        Section ``fringes``: ``filters`` (empty for all) and ``min_frames``.
    """
    groups = defaultdict(list)
    for light in lights.values():
        if not options["filters"] or light.filter in options["filters"]:
            name = f"fringe_{_camera_name(light)}_{light.shape}_{slug(light.filter, 'x')}"
            groups[frame_table.distinct([(name, name)])[0]].append(light)
    return {name: members for name, members in sorted(groups.items()) if len(members) >= options["min_frames"]}


def _bad_pixels_from(light: Frame, masters: dict[str, Master]) -> tuple[str | None, str | None]:
    """Dark and flat behind the bad-pixel map of a light: both if they show the same pixels, else the dark."""
    if light.dark and light.flat:
        dark, flat = masters[light.dark], masters[light.flat]
        if matching.shape_of(dark) != matching.shape_of(flat):
            return light.dark, None
    return light.dark, light.flat


def photometric_nights(lights: dict[str, Frame]) -> dict[str, list[Frame]]:
    """Lights of one night, filter, chip and gain, which share a zero point outside the atmosphere, by name."""
    groups = defaultdict(list)
    for light in lights.values():
        parts = (light.night or "undated", light.instrument, light.chip, light.gain_setting, light.filter)
        groups["_".join(slug(str(part), "x").replace("_", "-") for part in parts if part)].append(light)
    return dict(sorted(groups.items()))


def find_mosaics(masters: dict[str, Master]) -> dict[str, list[Master]]:
    """Raw flats of several chips that are to share one normalisation, by name."""
    groups = defaultdict(list)
    for master in masters.values():
        if master.kind == "flat" and not master.ready and master.like.chip is not None:
            like = master.like
            key = (like.night, like.instrument, like.binning, like.gain_setting, like.readout_mode, like.filter)
            groups[key, tuple(sorted(frame.path for frame in master.frames))].append(master)
    several = [members for members in groups.values() if len(members) > 1]
    return {f"levels_{members[0].name.split('_', 1)[1]}": members for members in several}


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


_MOST_FRAMES = 6  # of one kind that a camera is measured on: pairs enough for 1 %


def find_cameras(lights: dict[str, Frame], masters: dict[str, Master]) -> tuple[dict[str, Camera], dict[str, str]]:
    """Cameras by name, and the camera of each light and master flat.

    A light belongs to the camera on the night of its flats, so that both are put into electrons with the same gain.
    The first lights of a camera stand for the others: a further one changes nothing.
    """
    raw = {name: master for name, master in masters.items() if not master.ready}
    flats = {name: _camera_name(master.like) for name, master in raw.items() if master.kind == "flat"}
    camera_of = flats | {name: flats.get(light.flat) or _camera_name(light) for name, light in lights.items()}
    cameras = {}
    for light in sorted(lights.values(), key=lambda light: (light.mjd_mid or 0, light.frame)):
        camera = cameras.setdefault(camera_of[light.frame], Camera(light))
        if len(camera.lights) < _MOST_FRAMES and light.path not in [frame.path for frame in camera.lights]:
            camera.lights.append(light)
    for name, camera in flats.items():
        cameras[camera].flats.append(raw[name].frames[:_MOST_FRAMES])
        if raw[name].bias in raw and not cameras[camera].bias:
            cameras[camera].bias = raw[raw[name].bias].frames[:_MOST_FRAMES]
    for name, light in lights.items():
        if light.bias in raw and not cameras[camera_of[name]].bias:
            cameras[camera_of[name]].bias = raw[light.bias].frames[:_MOST_FRAMES]
    return cameras, camera_of


def _camera_name(frame: Frame) -> str:
    settings = (frame.gain_setting, frame.offset, frame.readout_mode)
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=3).hexdigest() if any(settings) else None
    parts = (frame.night or "undated", frame.instrument, frame.chip, frame.binning, digest)
    name = "_".join(slug(part, "x").replace("_", "-") for part in parts if part)
    return frame_table.distinct([(name, parts)])[0]


def grouping(config: dict) -> list[str]:
    """Columns that the frames of a stack share; on the sky, cameras and chips come together."""
    chosen = config["stack"]["group_by"]
    if chosen != "auto":
        return chosen
    together = ["target", "filter"]
    return together if config["registration"]["engine"] in ("wcs", "swarp") else [*together, *_CAMERA]


_CAMERA = ("instrument", "binning", "chip")


def group_stacks(lights: dict[str, Frame], group_by: list[str]) -> dict[tuple[str, str], list[Frame]]:
    """Lights by (target, name), where the name is the filter and whatever else in `group_by` sets groups apart."""
    groups = defaultdict(list)
    for light in lights.values():
        groups[tuple(getattr(light, column) for column in group_by)].append(light)
    alike = defaultdict(list)
    for key in groups:
        values = dict(zip(group_by, key, strict=True))
        alike[values.get("target") or "all", values.get("filter") or "all"].append((values, key))
    stacks = {}
    for (target, passband), settings in alike.items():
        telling = [c for c in group_by if c not in ("target", "filter") and len({v[c] for v, _ in settings}) > 1]
        for values, key in settings:
            name = "_".join([passband, *(slug(str(values[c]), "x") for c in telling)])
            stacks.setdefault(target, []).append((name, key))
    named = {
        (target, name): groups[key]
        for target, pairs in stacks.items()
        for name, (_, key) in zip(frame_table.distinct(pairs), pairs, strict=True)
    }
    return dict(sorted(named.items()))
