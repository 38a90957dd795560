"""Which masters there are, and which of them calibrates which light.

What must agree is policy and stands in the configuration (``calibration.match``); this module applies it and says,
where nothing fits, which criterion failed on which candidate.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field

from nightflow.frames import OK, Frame, distinct, slug


class NoCalibration(ValueError):
    """Lights lack calibration frames and the configuration says that this is an error."""


@dataclass
class Master:
    """A master to be made, or one that was made, from frames of one kind, night and setting.

    Attributes
    ----------
    name : str
        Stem of its file.
    frames : list of `Frame`
        Its raw inputs, at least one.
    like : `Frame`
        The first input, for everything that all inputs share.
    mjd : float or None
        Mean time of the inputs.
    bias, dark : str or None
        The masters that a flat's inputs are reduced with; a dark needs a bias where its camera is not linear.
    ready : bool
        Whether it is ready-made, its only input.
    """

    name: str
    kind: str
    frames: list[Frame]
    mjd: float | None = None
    temperature: float | None = None
    bias: str | None = None
    dark: str | None = None
    notes: list[str] = field(default_factory=list)
    ready: bool = False

    @property
    def like(self) -> Frame:
        return self.frames[0]

    @property
    def exptime(self) -> float | None:
        return self.like.exptime


@dataclass
class Match:
    """Outcome of a search: the best master or None, remarks, and why the nearest others failed."""

    master: Master | None
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def find_masters(frames: list[Frame], criteria: dict) -> dict[str, Master]:
    """Masters that the calibration frames allow, by name: one for each night, setting, exposure time or filter.

    Parameters
    ----------
    frames : list of `Frame`
    criteria : dict
        ``calibration.match`` of the configuration.
    """
    groups = defaultdict(list)
    for frame in frames:
        if frame.status == OK and frame.kind in ("bias", "dark", "flat"):
            groups[_group_key(frame, criteria[frame.kind])].append(frame)
    found = []
    for key, members in groups.items():
        for cluster in _split_by_temperature(members, criteria[members[0].kind].get("temperature")):
            found.append((_master(cluster, criteria), key))
    names = distinct([(master.name, (key, master.temperature)) for master, key in found])
    for (master, _), name in zip(found, names, strict=True):
        master.name = name
    return {master.name: master for master, _ in sorted(found, key=lambda pair: pair[0].name)}


def ready_masters(frames: list[Frame]) -> dict[str, Master]:
    """Masters of a library by name: one for each frame, which is bias, dark or flat already combined."""
    masters = {}
    for frame in frames:
        if frame.status == OK and frame.kind in ("bias", "dark", "flat"):
            name = f"library_{frame.frame}"
            masters[name] = Master(name, frame.kind, [frame], frame.mjd_mid, frame.temperature, ready=True)
    return dict(sorted(masters.items()))


def _group_key(frame: Frame, criteria: dict) -> tuple:
    exposure = f"{frame.exptime:.4g}" if frame.kind == "dark" else None
    return (frame.kind, frame.night, exposure, *(getattr(frame, name) for name in criteria["same"]))


def _split_by_temperature(members: list[Frame], tolerance: float | None) -> list[list[Frame]]:
    """Groups of temperatures that differ by no more than `tolerance`; frames of unknown temperature stay together."""
    known = sorted((f for f in members if f.temperature is not None), key=lambda f: f.temperature)
    if tolerance is None or not known:
        return [members]
    clusters = [[f for f in members if f.temperature is None], known[:1]]
    for frame in known[1:]:
        if frame.temperature - clusters[-1][0].temperature > tolerance:
            clusters.append([])
        clusters[-1].append(frame)
    return [sorted(cluster, key=lambda f: (f.mjd_mid or 0, f.frame)) for cluster in clusters if cluster]


def _master(members: list[Frame], criteria: dict) -> Master:
    like = members[0]
    kind = like.kind
    times = [f.mjd_mid for f in members if f.mjd_mid is not None]
    temperatures = sorted(f.temperature for f in members if f.temperature is not None)
    temperature = temperatures[len(temperatures) // 2] if temperatures else None
    parts = [kind, like.night or "undated", like.instrument, like.chip, like.binning, like.shape]
    if kind == "dark":
        parts.append(f"{like.exptime:.4g}s")
        if temperature is not None and criteria[kind].get("temperature") is not None:
            parts.append(f"T{round(temperature)}")
    if kind == "flat":
        parts.append(like.filter)
    named = {"instrument", "chip", "binning", "shape", "filter"}
    rest = {
        n: getattr(like, n) for n in criteria[kind]["same"] if n not in named and getattr(like, n) not in (None, "0,0")
    }
    if rest:
        parts.append(hashlib.blake2b(repr(sorted(rest.items())).encode(), digest_size=3).hexdigest())
    return Master(
        name="_".join(slug(part, "x").replace("_", "-") for part in parts if part),
        kind=kind,
        frames=members,
        mjd=sum(times) / len(times) if times else None,
        temperature=temperature,
    )


def match(
    frame, kind: str, masters: dict[str, Master], criteria: dict, *, scalable: bool = False, known: dict | None = None
) -> Match:
    """The master of `kind` that suits `frame` best.

    Parameters
    ----------
    frame : `Frame` or `Master`
        What is to be calibrated. A master is judged by its first input and mean time.
    kind : {'bias', 'dark', 'flat'}
    masters : dict of str to `Master`
    criteria : dict
        ``calibration.match``.
    scalable : bool
        Whether a dark of another exposure time may be taken (there is a bias to scale it with).
    known : dict, optional
        Where to remember, for further frames and the same masters, how settings compare: thousands of frames have few.

    Returns
    -------
    Match
        Candidates that agree are ranked: for darks equal exposure first, then longer ones (scaled down) before
        shorter ones; then the nearest in time.
    """
    compared = _compared_settings(frame, kind, masters, criteria[kind]["same"], {} if known is None else known)
    if not compared:
        return Match(None, failures=[f"there are no {kind} frames"])
    agreeing = [(m, notes) for m, failed, notes in compared if not failed]
    fitting = [(m, notes) for m, notes in agreeing if not _beyond_limits(frame, m, criteria[kind], scalable)]
    if fitting:
        master, notes = min(fitting, key=lambda pair: _rank(frame, pair[0], criteria[kind]))
        return Match(master, list(notes))
    judged = [(m, failed + _beyond_limits(frame, m, criteria[kind], scalable)) for m, failed, _ in compared]
    nearest = sorted(judged, key=lambda item: (len(item[1]), _age(frame, item[0]) or 0, item[0].name))[:3]
    return Match(None, failures=[f"{m.name} has {', '.join(failed)}" for m, failed in nearest])


def _compared_settings(frame, kind: str, masters: dict, columns: list[str], known: dict) -> list[tuple]:
    """Masters of `kind`, each with the settings that differ from the frame's and remarks, both as words."""
    own = frame.like if isinstance(frame, Master) else frame
    sections = [own.detector.get(name) for name in ("trim", "overscan", "amplifiers")]
    settings = (kind, own.kind, own.window, own.shape, own.binning, own.glass, repr(sections) if any(sections) else "")
    settings += tuple(getattr(own, name) for name in columns)
    if settings not in known:
        known[settings] = [(m, *_compare_settings(own, m, columns)) for m in masters.values() if m.kind == kind]
    return known[settings]


def _beyond_limits(frame, master: Master, criteria: dict, scalable: bool) -> list[str]:
    """Temperature, exposure time and age where they exceed their limits, as words."""
    own = frame.like if isinstance(frame, Master) else frame
    limits = (
        _wrong_temperature(own.temperature, master.temperature, criteria.get("temperature")),
        _wrong_exposure(own, master, criteria, scalable) if master.kind == "dark" else None,
        _too_old(_age(frame, master), criteria.get("max_age")),
    )
    return [words for words in limits if words]


def _compare_settings(own: Frame, master: Master, columns: list[str]) -> tuple[list[str], list[str]]:
    failed, notes = [], []
    corner = window_corner(own, master.like)
    for name in columns:
        wanted, offered = _setting(own, name, master.ready), _setting(master.like, name)
        if wanted == offered or (name in ("shape", "window") and corner is not None):
            continue
        if wanted is None or offered is None:
            notes.append(f"{name} known only of the {master.kind if offered is not None else own.kind}")
        else:
            failed.append(f"{name} {offered} instead of {wanted}")
    return failed, notes


def shape_of(master: Master) -> str | None:
    """``nx x ny`` of a master's own pixels."""
    return master.like.shape if master.ready else master.like.trimmed_shape


def _setting(frame: Frame, name: str, trimmed: bool = False) -> str | float | None:
    """A column to compare; a channel of a colour frame has the filter of its flats, ready masters are trimmed."""
    if name == "filter" and frame.glass is not None:
        return frame.glass
    return frame.trimmed_shape if name == "shape" and trimmed else getattr(frame, name)


def window_corner(frame: Frame, full: Frame) -> tuple[int, int] | None:
    """Row and column of `full` where the window of `frame` begins, or None if it is not a smaller window inside it.

    Frames with overscan or trimmed borders have no windows that could be cut out.
    """
    if frame.window is None or frame.shape == full.shape or frame.binning != full.binning:
        return None
    if any(f.detector.get(section) for f in (frame, full) for section in ("trim", "overscan", "amplifiers")):
        return None
    (x, y), (x0, y0) = ([float(part) for part in (f.window or "0,0").split(",")] for f in (frame, full))
    (nx, ny), (full_nx, full_ny) = ([int(part) for part in f.shape.split("x")] for f in (frame, full))
    column, row = int(x - x0), int(y - y0)
    inside = column >= 0 and row >= 0 and column + nx <= full_nx and row + ny <= full_ny
    return (row, column) if inside else None


def _wrong_temperature(own: float | None, offered: float | None, tolerance: float | None) -> str | None:
    if None in (own, offered, tolerance) or abs(own - offered) <= tolerance:
        return None
    return f"temperature {offered:g} C instead of {own:g} C (tolerance {tolerance:g})"


def _wrong_exposure(own: Frame, dark: Master, criteria: dict, scalable: bool) -> str | None:
    if (scalable and dark.exptime) or _same_exposure(own, dark, criteria):
        return None
    wanted = "an unknown time" if own.exptime is None else f"{own.exptime:g} s"
    reason = "no bias to scale it with" if dark.exptime else "nothing to scale"
    return f"exposure {dark.exptime:g} s instead of {wanted} ({reason})"


def _too_old(age: float | None, limit: float | None) -> str | None:
    return None if None in (age, limit) or age <= limit else f"an age of {_days(age)} (at most {limit:g})"


def _days(age: float) -> str:
    return f"{age:.1f} days"


def _same_exposure(own: Frame, dark: Master, criteria: dict) -> bool:
    if own.exptime is None:
        return False
    longer = max(own.exptime, dark.exptime)
    return abs(own.exptime - dark.exptime) <= (criteria.get("exposure") or 0.0) * longer


def _age(frame, master: Master) -> float | None:
    own = frame.mjd if isinstance(frame, Master) else frame.mjd_mid
    return abs(own - master.mjd) if own is not None and master.mjd is not None else None


def _rank(frame, master: Master, criteria: dict) -> tuple:
    own = frame.like if isinstance(frame, Master) else frame
    exposure = (0, 0.0)
    if master.kind == "dark" and not _same_exposure(own, master, criteria):
        wanted = own.exptime or 0.0
        exposure = (1, master.exptime) if master.exptime >= wanted else (2, -master.exptime)
    return (exposure, _age(frame, master) or 0.0, master.name)


def assign(frames: list[Frame], masters: dict[str, Master], policy: dict) -> None:
    """Give each light its bias, dark and flat, and each flat its bias and dark.

    Parameters
    ----------
    frames : list of `Frame`
        Changed in place: columns bias, dark, flat, reason, and status where a light has to be left out.
    masters : dict of str to `Master`
        Changed in place; flats that nothing can reduce are taken out.
    policy : dict
        ``calibration`` of the configuration: ``match``, ``exposure_tolerance``, ``missing`` and ``flat_without_bias``.

    Raises
    ------
    NoCalibration
        If something is missing and ``missing`` is ``error``; the sentences say what and which candidates came nearest.
    """
    criteria, missing = dict(policy["match"]), policy["missing"]
    criteria["dark"] = {**criteria["dark"], "exposure": policy["exposure_tolerance"]}
    refused = {}
    for dark in [m for m in masters.values() if m.kind == "dark" and not m.ready]:
        if dark.like.detector.get("linearity"):
            dark.bias = _name(match(dark, "bias", masters, criteria).master)
    for flat in [m for m in masters.values() if m.kind == "flat" and not m.ready]:
        bias, dark = _bias_and_dark(flat, masters, criteria)
        flat.bias, flat.dark = _name(bias.master), _name(dark.master)
        flat.notes = bias.notes + dark.notes
        if flat.bias is None and flat.dark is None and not (_has_level(flat.like) or _is_allowed(policy)):
            refused[flat.name] = (
                f"{flat.name} was refused: neither bias nor dark for the flats, so that vignetting would invert"
            )
            del masters[flat.name]
    for master in masters.values():
        for frame in master.frames:
            frame.bias, frame.dark, frame.reason = master.bias, master.dark, f"for {master.name}"
    problems = defaultdict(list)
    known = {}
    for light in (f for f in frames if f.kind == "light" and f.status == OK):
        lacking = _assign_light(light, masters, criteria, refused, known)
        if lacking and missing == "error":
            problems["; ".join(lacking)].append(light)
        elif lacking and missing == "skip":
            light.reject("; ".join(lacking))
        elif lacking:
            light.reason = "; ".join(filter(None, [light.reason, *lacking]))
    if problems:
        raise NoCalibration("\n".join(_sentence(lights, lacking) for lacking, lights in problems.items()))


def _has_level(frame: Frame) -> bool:
    """Whether the frame itself tells its level without light."""
    amplifiers = frame.detector.get("amplifiers") or [{}]
    overscanned = bool(frame.detector.get("overscan")) or all(amp.get("overscan") for amp in amplifiers)
    return overscanned or frame.detector.get("pedestal") is not None


def _is_allowed(policy: dict) -> bool:
    return policy["missing"] == "warn" or policy.get("flat_without_bias", False)


def _bias_and_dark(frame, masters: dict, criteria: dict, known: dict | None = None) -> tuple[Match, Match]:
    bias = match(frame, "bias", masters, criteria, known=known)
    own = frame.like if isinstance(frame, Master) else frame
    scalable = bias.master is not None or _has_level(own)
    return bias, match(frame, "dark", masters, criteria, scalable=scalable, known=known)


def _name(master: Master | None) -> str | None:
    return master.name if master is not None else None


def _assign_light(light: Frame, masters: dict, criteria: dict, refused: dict, known: dict) -> list[str]:
    """Set the light's masters and its reason column; what is lacking, as sentences."""
    bias, dark = _bias_and_dark(light, masters, criteria, known)
    flat = match(light, "flat", masters, criteria, known=known)
    light.bias, light.dark, light.flat = _name(bias.master), _name(dark.master), _name(flat.master)
    remarks = [*bias.notes, *dark.notes, *flat.notes]
    if dark.master is not None and not _same_exposure(light, dark.master, criteria["dark"]):
        up = " up, and its noise with it," if light.exptime > dark.master.exptime else ""
        remarks.append(f"dark of {dark.master.exptime:g} s scaled{up} by {light.exptime / dark.master.exptime:.4g}")
    if dark.master is None and bias.master is not None:
        remarks.append(f"no dark: {'; '.join(dark.failures)}")
    for found in (bias, dark, flat):
        if found.master is not None and (_age(light, found.master) or 0) > 1:
            remarks.append(f"{found.master.kind} {_days(_age(light, found.master))} away")
    light.reason = "; ".join(dict.fromkeys(remarks))
    lacking = []
    if bias.master is None and dark.master is None:
        failures = "; ".join(dict.fromkeys(bias.failures + dark.failures))
        if _has_level(light):
            light.reason = "; ".join(filter(None, [light.reason, f"no bias, level from the frame itself: {failures}"]))
        else:
            lacking.append(f"no bias and no dark of its exposure: {failures}")
    if flat.master is None:
        reasons = list(refused.values()) if refused else flat.failures
        lacking.append(f"no flat for filter {light.filter}: {'; '.join(reasons)}")
    return lacking


def _sentence(lights: list[Frame], lacking: str) -> str:
    count = f"{len(lights)} lights, the first" if len(lights) > 1 else "the light"
    return (
        f"calibration is missing for {count} {lights[0].path}: {lacking}. "
        "Add such frames, or set calibration.missing to skip (leave these lights out) or warn (go on without)."
    )


def reject_odd_shapes(frames: list[Frame]) -> None:
    """Reject lights whose shape no calibration frame of their camera and binning has, while others have one."""
    shapes = defaultdict(set)
    for frame in frames:
        if frame.status == OK and frame.kind in ("bias", "dark", "flat"):
            shapes[frame.instrument, frame.binning].add(frame.shape)
    like = {(f.instrument, f.binning, f.shape): f for f in frames if f.kind in ("bias", "dark", "flat")}
    for frame in frames:
        known = shapes.get((frame.instrument, frame.binning))
        if frame.status != OK or frame.kind != "light" or not known or frame.shape in known:
            continue
        full = (like[frame.instrument, frame.binning, shape] for shape in known)
        if all(window_corner(frame, one) is None for one in full):
            frame.reject(
                f"shape {frame.shape}, but the calibration frames of this camera are {', '.join(sorted(known))}"
            )


def bad_pixels_name(dark: str | None, flat: str | None) -> str | None:
    """Name of the bad-pixel map that a dark and a flat give together; None without either."""
    if dark is None and flat is None:
        return None
    pair = hashlib.blake2b(f"{dark}|{flat}".encode(), digest_size=3).hexdigest()
    return f"badpixels_{(flat or dark).split('_', 1)[1]}_{pair}"
