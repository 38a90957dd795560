"""Header dialects: what a camera's header calls the exposure time, the filter, the kind of frame.

A dialect is data, one YAML file in ``config/instruments``: for every standard name the header keywords that may
hold it, rules that tell bias, dark, flat and light apart, units, sections and fallbacks. This module loads such files,
chooses one for a header, and translates.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

KINDS = ("bias", "dark", "flat", "light")

#: The Modified Julian Date's origin.
_MJD_ZERO = datetime(1858, 11, 17, tzinfo=UTC)


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
    _set_sections(values, shape)
    values["binning"] = _binning(values)
    values["date_obs"], values["mjd_start"] = start_of_exposure(values, instrument.time)
    return values, {name: origin for name, origin in origins.items() if values.get(name) is not None}


def _lookup(name: str, cards: dict, instrument: Instrument) -> tuple[object, str | None]:
    """The first usable value of the keywords for `name`, in standard units, and its keyword."""
    for keyword in instrument.keywords[name]:
        value = cards.get(keyword)
        if value is None or (isinstance(value, str) and _says_nothing(value, instrument)):
            continue
        value = _standard(name, value, instrument)
        if value is not None and _is_plausible(name, value, instrument):
            return value, keyword
    return None, None


def _says_nothing(text: str, instrument: Instrument) -> bool:
    text = text.strip()
    return not text or text.lower() in instrument.blank


def _standard(name: str, value, instrument: Instrument):
    for pattern, meaning in instrument.values.get(name, {}).items():
        if _fits(value, pattern):
            value = meaning
            break
    convert = _CONVERSIONS.get(name)
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
            converted = _CONVERSIONS[name](value, instrument) if name in _SECTIONS else value
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
            amplifier[name] = _section(found, instrument) if name in ("data", "overscan") else as_number(found)
        if amplifier.get("data") is None:
            return None
        amplifiers.append({name: value for name, value in amplifier.items() if value is not None})
    return amplifiers or None


def _set_sections(values: dict, shape: tuple[int, int] | None) -> None:
    """Trim and overscan sections from the widths of the margins, where there are no sections."""
    left, right, bottom, top = (int(values.pop(name, None) or 0) for name in _MARGINS)
    if shape is None or values.get("trim") is not None or left + right + bottom + top == 0:
        return
    ny, nx = shape
    if left + right >= nx or bottom + top >= ny:
        return
    rows = slice(bottom, ny - top)
    values["trim"] = (rows, slice(left, nx - right))
    if values.get("overscan") is None and (left or right):
        values["overscan"] = (rows, slice(nx - right, nx) if right else slice(0, left))


_MARGINS = ("margin_left", "margin_right", "margin_bottom", "margin_top")


def as_number(value) -> float | None:
    """`value` as a finite float, a decimal comma allowed; None where it is no number."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(str(value).strip().replace(",", "."))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


_SEXAGESIMAL = re.compile(
    r"\s*([+-]?)\s*(\d+)[\s:hd°]+(\d+)[m'′]?(?:[\s:]*(\d+(?:[.,]\d*)?))?\s*[s\"″]?\s*([NSEWnsew]?)\s*$"
)


def as_angle(value) -> tuple[float, bool] | None:
    """An angle in the unit of its first number, and whether it was written sexagesimally.

    ``'-01 29 07'`` gives (-1.4853, True), ``31.3`` gives (31.3, False), anything else None.
    """
    number = as_number(value)
    if number is not None:
        return number, False
    found = _SEXAGESIMAL.match(str(value)) if value is not None else None
    if not found:
        return None
    sign, whole, minutes, seconds, direction = found.groups()
    size = int(whole) + int(minutes) / 60 + float((seconds or "0").replace(",", ".")) / 3600
    negative = sign == "-" or direction.upper() in ("S", "W")
    return (-size if negative else size), True


def _right_ascension(value, instrument: Instrument) -> float | None:
    angle = as_angle(value)
    if angle is None:
        return None
    size, sexagesimal = angle
    unit = instrument.units.get("ra", "auto")
    degrees = size * 15 if unit == "hour" or (unit == "auto" and sexagesimal) else size
    return degrees if 0 <= degrees <= 360 else None


def _declination(value, _instrument) -> float | None:
    angle = as_angle(value)
    return angle[0] if angle is not None and abs(angle[0]) <= 90 else None


def _longitude(value, instrument: Instrument) -> float | None:
    angle = as_angle(value)
    if angle is None or abs(angle[0]) > 360:
        return None
    east = angle[0] if instrument.longitude_sign == "east" else -angle[0]
    return (east + 180) % 360 - 180


_KELVIN_FROM = 100.0  # no detector is as hot in degrees Celsius


def _celsius(value, instrument: Instrument) -> float | None:
    number = as_number(re.sub(r"\s*[CK]$", "", value.strip()) if isinstance(value, str) else value)
    if number is None:
        return None
    unit = instrument.units.get("temperature", "auto")
    kelvin = unit == "kelvin" or (unit == "auto" and number >= _KELVIN_FROM)
    return round(number - 273.15, 3) if kelvin else number


_SECONDS = {"second": 1.0, "millisecond": 1e-3, "minute": 60.0}


def _exposure(value, instrument: Instrument) -> float | None:
    number = as_number(value)
    return number * _SECONDS[instrument.units.get("exptime", "second")] if number is not None and number >= 0 else None


_CHANNELS = ("RGGB", "BGGR", "GRBG", "GBRG")


def _bayer(value, _instrument) -> str | None:
    pattern = str(value).strip().upper()
    return pattern if pattern in _CHANNELS else None


def _number(value, _instrument) -> float | None:
    return as_number(value)


def _positive(value, _instrument) -> float | None:
    number = as_number(value)
    return number if number is not None and number > 0 else None


def _airmass(value, _instrument) -> float | None:
    number = as_number(value)
    return number if number is not None and 1 <= number < 40 else None


def _text(value, _instrument) -> str | None:
    return " ".join(str(value).split()) if value is not None else None


def _section(value, _instrument) -> tuple[slice, slice] | None:
    """A FITS section ``[x1:x2,y1:y2]`` (1-based, inclusive) as slices of rows and columns; None if it is none."""
    found = re.fullmatch(r"\s*\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]\s*", str(value or ""))
    if not found:
        return None
    x1, x2, y1, y2 = map(int, found.groups())
    return (slice(y1 - 1, y2), slice(x1 - 1, x2)) if 0 < x1 <= x2 and 0 < y1 <= y2 else None


_CONVERSIONS = {
    "target": _text,
    "filter": _text,
    "instrument": _text,
    "telescope": _text,
    "chip": _text,
    "gain_setting": _text,
    "offset": _text,
    "readout_mode": _text,
    "exptime": _exposure,
    "ra": _right_ascension,
    "dec": _declination,
    "airmass": _airmass,
    "temperature": _celsius,
    "gain": _positive,
    "read_noise": _positive,
    "saturation": _positive,
    "pedestal": _number,
    "site_latitude": _declination,
    "site_longitude": _longitude,
    "site_height": _number,
    "mjd_obs": _number,
    "window_x": _number,
    "window_y": _number,
    "trim": _section,
    "overscan": _section,
    "linearity_limit": _positive,
    "bayer": _bayer,
    "bayer_x": _number,
    "bayer_y": _number,
    **dict.fromkeys(_MARGINS, _number),
}
_SECTIONS = ("trim", "overscan")


def _binning(values: dict) -> str:
    """Binning as ``2x2``; 1x1 where the header is silent."""
    x, y = as_number(values.get("binning_x")), as_number(values.get("binning_y"))
    if x is None:
        both = re.findall(r"\d+", str(values.get("binning") or ""))
        x, y = (int(both[0]), int(both[-1])) if both else (1, 1)
    return f"{int(x)}x{int(y if y is not None else x)}"


def start_of_exposure(values: dict, time: dict | None = None) -> tuple[str | None, float | None]:
    """Start of the exposure as ISO text in UTC and as MJD.

    Parameters
    ----------
    values : dict
        ``date_obs``, ``time_obs``, ``mjd_obs`` and ``exptime`` (s).
    time : dict, optional
        ``zone``: hours by which dates without a zone are ahead of UTC; ``moment``: ``start``, ``middle`` or ``end`` of
        the exposure, the moment that the header tells.
    """
    time = time or {}
    known_mjd = 0 < (values.get("mjd_obs") or 0) < 100_000
    moment = as_moment(values.get("date_obs"), values.get("time_obs"), time.get("zone", 0))
    if known_mjd and (moment is None or _is_date_only(values)):
        moment = _MJD_ZERO + timedelta(days=values["mjd_obs"])
    if moment is None:
        return None, None
    elapsed = {"start": 0.0, "middle": 0.5, "end": 1.0}[time.get("moment", "start")] * (values.get("exptime") or 0)
    try:
        moment -= timedelta(seconds=elapsed)
    except OverflowError:
        return None, None
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds"), modified_julian_date(moment)


def _is_date_only(values: dict) -> bool:
    return values.get("time_obs") is None and len(str(values["date_obs"]).strip()) <= len("2024-03-08")


def as_moment(date, time=None, zone: float = 0) -> datetime | None:
    """A header's date, with its time of day where that stands in a card of its own, as UTC; None if not a date.

    `zone` is by how many hours a date that names no zone is ahead of UTC.
    """
    text = str(date).strip() if date is not None else ""
    old_style = re.fullmatch(r"(\d\d)/(\d\d)/(\d\d)", text)  # FITS before 2000: dd/mm/yy
    if old_style:
        day, month, year = old_style.groups()
        text = f"19{year}-{month}-{day}"
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text) and time is not None:
        clock = str(time).strip()
        text = f"{text}T{'0' if clock[1:2] == ':' else ''}{clock}"
    text = re.sub(r"(\.\d{6})\d+", r"\1", text)  # datetime knows no more than microseconds
    try:
        moment = datetime.fromisoformat(text)
        return (moment.replace(tzinfo=UTC) - timedelta(hours=zone)) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def modified_julian_date(moment: datetime) -> float:
    """Modified Julian Date (UTC) of `moment`."""
    return (moment - _MJD_ZERO) / timedelta(days=1)
