"""Header dialects: what a camera's header calls the exposure time, the filter, the kind of frame.

A dialect is data, one YAML file in ``config/instruments``: for every standard name the header keywords that may
hold it, rules that tell bias, dark, flat and light apart, units, sections and fallbacks. This module loads such files,
chooses one for a header, and translates.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from nightflow.headervalues import CONVERSIONS, MARGINS, SECTIONS, as_number, start_of_exposure

KINDS = ("bias", "dark", "flat", "light")


class InstrumentError(ValueError):
    """An instrument file cannot be used; the message names the file and what would be right."""


@dataclass(frozen=True)
class Instrument:
    """A header dialect.

    Attributes
    ----------
    name : str
    match : list of dict
        Alternatives; each maps header keywords to patterns that must all fit.
    keywords : dict of str to list of str
        Header keywords by standard name, in order of preference.
    kinds : list of dict
        Conditions and the kind (``is``) that they mean, the first that fits decides.
    blank : list of str
        Texts that say nothing, in lower case, such as ``n/a``.
    open : list of str
        Patterns of what a filter wheel without a filter in the beam says.
    values : dict of str to dict
        By standard name: patterns and what they stand for.
    units, time, plausible, defaults, extensions : dict
    settings : list of dict
        Values (``then``) of frames that fit conditions (``when``), where the header is silent.
    amplifiers : list of dict
        ``data`` and ``overscan`` sections, ``gain``, ``read_noise``: each a value or the keyword that has it.
    longitude_sign : {'east', 'west'}
    """

    name: str
    match: list
    keywords: dict
    kinds: list
    blank: list = field(default_factory=list)
    open: list = field(default_factory=list)
    values: dict = field(default_factory=dict)
    units: dict = field(default_factory=dict)
    time: dict = field(default_factory=dict)
    plausible: dict = field(default_factory=dict)
    settings: list = field(default_factory=list)
    defaults: dict = field(default_factory=dict)
    amplifiers: list = field(default_factory=list)
    extensions: dict = field(default_factory=dict)
    longitude_sign: str = "east"


def resolve(definitions: dict[str, dict]) -> dict[str, Instrument]:
    """Instruments by name from the contents of their files, with ``extends`` followed.

    A section adds to its parent's, key by key; its rules for kinds come before the parent's.

    Parameters
    ----------
    definitions : dict of str to dict
        Content of each instrument file by its name.

    Raises
    ------
    InstrumentError
        For an unknown or circular ``extends``.
    """
    merged = {name: _extended(name, definitions, ()) for name in definitions}
    return {
        name: Instrument(**definition | {"blank": [str(text).lower() for text in definition.get("blank", [])]})
        for name, definition in merged.items()
    }


def _extended(name: str, definitions: dict[str, dict], seen: tuple) -> dict:
    if name in seen:
        raise InstrumentError(f"instrument files extend each other in a circle: {' -> '.join((*seen, name))}")
    if name not in definitions:
        raise InstrumentError(
            f"instrument '{seen[-1]}' extends '{name}', which is unknown; known are {', '.join(sorted(definitions))}"
        )
    own = dict(definitions[name])
    parent = own.pop("extends", None)
    if parent is None:
        return own
    merged = _extended(parent, definitions, (*seen, name))
    merged["match"] = []
    for key, value in own.items():
        if key == "kinds":
            merged[key] = [*value, *merged.get(key, [])]
        else:
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return merged


def choose(cards: dict, instruments: dict[str, Instrument]) -> Instrument:
    """The instrument whose ``match`` fits `cards` with the most keywords; ``generic`` where none does."""
    best, best_score = instruments["generic"], 0
    for instrument in instruments.values():
        for alternative in instrument.match:
            if len(alternative) > best_score and all(_fits(cards.get(k), p) for k, p in alternative.items()):
                best, best_score = instrument, len(alternative)
    return best


def chosen_extensions(hdus: list[dict], instrument: Instrument) -> list[dict]:
    """Those of a file's images that hold frames: the extensions to use, else all but the extensions to ignore.

    Parameters
    ----------
    hdus : list of dict
        As `nightflow.inventory.read_headers` gives them.
    instrument : `Instrument`
        ``extensions`` has lists of names or numbers, ``use`` and ``ignore``.
    """
    wanted, ignored = instrument.extensions.get("use"), instrument.extensions.get("ignore", [])
    used = [hdu for hdu in hdus if wanted and _is_named(hdu, wanted)]
    return used or [hdu for hdu in hdus if not _is_named(hdu, ignored)]


def _is_named(hdu: dict, names: list) -> bool:
    numbers = [name for name in names if isinstance(name, int)]
    texts = [name for name in names if not isinstance(name, int)]
    return hdu["hdu"] in numbers or (hdu.get("name") is not None and _fits(hdu.get("name"), texts))


def translate(
    cards: dict, instrument: Instrument, path: str = "", shape: tuple[int, int] | None = None
) -> tuple[dict, dict]:
    """Standard values of a header, and the keyword that gave each.

    Parameters
    ----------
    cards : dict
        Header keywords and values, the primary header's merged into an extension's.
    instrument : `Instrument`
    path : str
        Path of the file, for conditions on ``PATH``.
    shape : tuple of int, optional
        Rows and columns of the raw image, for cameras that tell the width of their margins instead of sections.

    Returns
    -------
    values : dict
        By standard name; None where the header says nothing usable. Angles in degrees, times in seconds,
        temperature in degrees Celsius, `date_obs` as ISO text in UTC.
    origins : dict
        The header keyword, ``default``, ``settings`` or ``rule`` behind each value that is not None.
    """
    values, origins = {}, {}
    for name in instrument.keywords:
        values[name], origins[name] = _lookup(name, cards, instrument)
    if origins.get("gain_setting") == origins.get("gain"):
        values["gain_setting"] = None  # one card cannot be both
    values["kind"], origins["kind"] = _kind(cards, values, instrument, path)
    _fill_in(values, origins, cards, instrument, path)
    values["amplifiers"] = _amplifiers(cards, instrument)
    if origins.get("trim") == "DATASEC" and not _lies_on(values["trim"], shape):
        values["trim"] = None  # it stays behind in headers of frames that were trimmed before
    _set_sections(values, shape)
    values["binning"] = _binning(values)
    values["date_obs"], values["mjd_start"] = start_of_exposure(values, instrument.time)
    return values, {name: origin for name, origin in origins.items() if values.get(name) is not None}


def _lookup(name: str, cards: dict, instrument: Instrument) -> tuple[object, str | None]:
    """The first usable value of the keywords for `name`, in standard units, and its keyword."""
    for keyword in instrument.keywords[name]:
        value = cards.get(keyword)
        if "+" in keyword:
            value, keyword = _in_one_beam(keyword.split("+"), cards, instrument)
        if value is None or (isinstance(value, str) and _says_nothing(value, instrument)):
            continue
        value = _standard(name, value, instrument)
        if value is not None and _is_plausible(name, value, instrument):
            return value, keyword
    return None, None


def _in_one_beam(wheels: list[str], cards: dict, instrument: Instrument) -> tuple[str | None, str]:
    """What the filter wheels of one beam say, and their keywords; open ones do not count, unless all are."""
    texts = {wheel: str(cards[wheel]).strip() for wheel in wheels if cards.get(wheel) is not None}
    texts = {wheel: text for wheel, text in texts.items() if not _says_nothing(text, instrument)}
    filters = {wheel: text for wheel, text in texts.items() if not _fits(text, instrument.open)}
    used = filters or dict(list(texts.items())[:1])
    return "+".join(dict.fromkeys(used.values())) or None, "+".join(used)


def _says_nothing(text: str, instrument: Instrument) -> bool:
    text = text.strip()
    return not text or text.lower() in instrument.blank


def _standard(name: str, value, instrument: Instrument):
    for pattern, meaning in instrument.values.get(name, {}).items():
        if _fits(value, pattern):
            value = meaning
            break
    convert = CONVERSIONS.get(name)
    return convert(value, instrument) if convert else value


def _is_plausible(name: str, value, instrument: Instrument) -> bool:
    if name not in instrument.plausible:
        return True
    low, high = instrument.plausible[name]
    number = as_number(value)
    return number is not None and low <= number <= high


def _fill_in(values: dict, origins: dict, cards: dict, instrument: Instrument, path: str) -> None:
    """What the settings and the defaults of an instrument say where its header is silent."""
    for setting in instrument.settings:
        facts = {**cards, **{k: v for k, v in values.items() if v is not None}, "PATH": path}
        if all(_fits(facts.get(name), pattern) for name, pattern in setting["when"].items()):
            _fill(values, origins, setting["then"], "settings", instrument)
    _fill(values, origins, instrument.defaults, "default", instrument)


def _fill(values: dict, origins: dict, given: dict, origin: str, instrument: Instrument) -> None:
    for name, value in given.items():
        if values.get(name) is None and value is not None:
            converted = CONVERSIONS[name](value, instrument) if name in SECTIONS else value
            values[name], origins[name] = converted, origin


def _kind(cards: dict, values: dict, instrument: Instrument, path: str) -> tuple[str | None, str | None]:
    facts = {**cards, **{k: v for k, v in values.items() if v is not None}, "PATH": path}
    for rule in instrument.kinds:
        conditions = {k: v for k, v in rule.items() if k != "is"}
        if all(_fits(facts.get(k), pattern) for k, pattern in conditions.items()):
            return rule["is"], "rule " + ", ".join(f"{k}={facts.get(k)!r}" for k in conditions)
    return None, None


def _fits(value, pattern) -> bool:
    """Whether a header value fits a pattern: text with ``*``, a list of alternatives, limits, or None for no card."""
    if value is None or pattern is None:
        return value is None and pattern is None
    if isinstance(pattern, dict):
        number = as_number(value)
        return number is not None and number >= pattern.get("min", -math.inf) and number <= pattern.get("max", math.inf)
    if isinstance(pattern, (int, float)):
        return value == pattern or as_number(value) == pattern
    if isinstance(pattern, list):
        return any(_fits(value, one) for one in pattern)
    return fnmatchcase(str(value).strip().lower(), pattern.lower())


def _amplifiers(cards: dict, instrument: Instrument) -> list[dict] | None:
    """The amplifiers of a detector that has several, where the header has all that the instrument file names."""
    amplifiers = []
    for described in instrument.amplifiers:
        amplifier = {}
        for name, value in described.items():
            found = cards.get(value, value) if isinstance(value, str) else value
            amplifier[name] = (
                CONVERSIONS["trim"](found, instrument) if name in ("data", "overscan") else as_number(found)
            )
        if amplifier.get("data") is None:
            return None
        amplifiers.append({name: value for name, value in amplifier.items() if value is not None})
    return amplifiers or None


def _set_sections(values: dict, shape: tuple[int, int] | None) -> None:
    """Trim and overscan sections from the widths of the margins or from each other, where there are none."""
    left, right, bottom, top = (int(values.pop(name, None) or 0) for name in MARGINS)
    if shape is None or values.get("trim") is not None:
        return
    if left + right + bottom + top == 0:
        values["trim"] = _beside(values.get("overscan"), shape)
        return
    ny, nx = shape
    if left + right >= nx or bottom + top >= ny:
        return
    rows = slice(bottom, ny - top)
    values["trim"] = (rows, slice(left, nx - right))
    if values.get("overscan") is None and (left or right):
        values["overscan"] = (rows, slice(nx - right, nx) if right else slice(0, left))


def _lies_on(section: tuple[slice, slice], shape: tuple[int, int] | None) -> bool:
    return shape is None or all(part.stop <= size for part, size in zip(section, shape, strict=True))


def _beside(overscan: tuple[slice, slice] | None, shape: tuple[int, int]) -> tuple[slice, slice] | None:
    """What an overscan strip along one side of a frame leaves of it; None if it is no such strip."""
    for axis in (1, 0) if overscan is not None else ():
        strip, along, size = overscan[axis], overscan[1 - axis], shape[axis]
        if 2 * (along.stop - along.start) < shape[1 - axis] or 2 * (strip.stop - strip.start) >= size:
            continue
        if strip.stop == size or strip.start == 0:
            data = slice(0, strip.start) if strip.stop == size else slice(strip.stop, size)
            return (slice(0, shape[0]), data) if axis == 1 else (data, slice(0, shape[1]))
    return None


def _binning(values: dict) -> str:
    """Binning as ``2x2``; 1x1 where the header is silent."""
    x, y = as_number(values.get("binning_x")), as_number(values.get("binning_y"))
    if x is None:
        both = re.findall(r"\d+", str(values.get("binning") or ""))
        x, y = (int(both[0]), int(both[-1])) if both else (1, 1)
    return f"{int(x)}x{int(y if y is not None else x)}"
