"""Values of header cards in standard units: numbers, angles, temperatures, sections, and moments.

Headers write them in many ways; what cannot be read as what it should be is None.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Protocol

#: The Modified Julian Date's origin.
_MJD_ZERO = datetime(1858, 11, 17, tzinfo=UTC)

#: Standard names of the widths of a detector's margins that see no light, pixels.
MARGINS = ("margin_left", "margin_right", "margin_bottom", "margin_top")


class Units(Protocol):
    """What a conversion has to know of an instrument."""

    units: dict
    longitude_sign: str


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
    size = float(whole) + float(minutes) / 60 + float((seconds or "0").replace(",", ".")) / 3600
    negative = sign == "-" or direction.upper() in ("S", "W")
    return (-size if negative else size), True


def _right_ascension(value, instrument: Units) -> float | None:
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


def _longitude(value, instrument: Units) -> float | None:
    angle = as_angle(value)
    if angle is None or abs(angle[0]) > 360:
        return None
    east = angle[0] if instrument.longitude_sign == "east" else -angle[0]
    return (east + 180) % 360 - 180


_KELVIN_FROM = 100.0  # no detector is as hot in degrees Celsius


def _celsius(value, instrument: Units) -> float | None:
    number = as_number(re.sub(r"\s*[CK]$", "", value.strip()) if isinstance(value, str) else value)
    if number is None:
        return None
    unit = instrument.units.get("temperature", "auto")
    kelvin = unit == "kelvin" or (unit == "auto" and number >= _KELVIN_FROM)
    return round(number - 273.15, 3) if kelvin else number


_SECONDS = {"second": 1.0, "millisecond": 1e-3, "minute": 60.0}


def _exposure(value, instrument: Units) -> float | None:
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


def _width(value, _instrument) -> float | None:
    number = as_number(value)
    return number if number is not None and 0 <= number < 10**_LONGEST_PIXEL else None


def _airmass(value, _instrument) -> float | None:
    number = as_number(value)
    return number if number is not None and 1 <= number < 40 else None


_JULIAN_FROM = 2_400_000.5  # a day number from here on is a Julian Date


def _modified_julian(value, _instrument) -> float | None:
    number = as_number(value)
    return number - _JULIAN_FROM if number is not None and number >= _JULIAN_FROM else number


def _text(value, _instrument) -> str | None:
    return " ".join(str(value).split()) if value is not None else None


_LONGEST_PIXEL = 6  # digits of a pixel's coordinate


def _section(value, _instrument) -> tuple[slice, slice] | None:
    """A FITS section ``[x1:x2,y1:y2]`` (1-based, inclusive) as slices of rows and columns; None if it is none."""
    found = re.fullmatch(r"\s*\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]\s*", str(value or ""))
    if not found:
        return None
    if max(map(len, found.groups())) > _LONGEST_PIXEL:
        return None
    x1, x2, y1, y2 = map(int, found.groups())
    return (slice(y1 - 1, y2), slice(x1 - 1, x2)) if 0 < x1 <= x2 and 0 < y1 <= y2 else None


#: What turns a header value into a standard one, by standard name: functions of the value and its instrument.
CONVERSIONS = {
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
    "mjd_obs": _modified_julian,
    "window_x": _number,
    "window_y": _number,
    "trim": _section,
    "overscan": _section,
    "linearity_limit": _positive,
    "bayer": _bayer,
    "bayer_x": _number,
    "bayer_y": _number,
    **dict.fromkeys(MARGINS, _width),
}
SECTIONS = ("trim", "overscan")


def start_of_exposure(values: dict, time: dict | None = None) -> tuple[str | None, float | None]:
    """Start of the exposure as ISO text in UTC and as MJD; the day alone and None where no card tells the time of day.

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
    if not known_mjd and _is_date_only(values):
        return moment.date().isoformat(), None
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
    text = re.sub(r"^(\d{4})/(\d\d)/(\d\d)", r"\1-\2-\3", text)
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text) and time is not None:
        text = f"{text}T{_clock(time)}"
    text = re.sub(r"(\.\d{6})\d+", r"\1", text)  # datetime knows no more than microseconds
    try:
        moment = datetime.fromisoformat(text)
        return (moment.replace(tzinfo=UTC) - timedelta(hours=zone)) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _clock(time) -> str:
    """A time of day as ``hh:mm:ss``; a number is hours."""
    hours = as_number(time)
    if hours is not None and 0 <= hours < 24:
        return (datetime.min + timedelta(hours=hours)).time().isoformat()
    text = str(time).strip()
    return f"0{text}" if text[1:2] == ":" else text


def modified_julian_date(moment: datetime) -> float:
    """Modified Julian Date (UTC) of `moment`."""
    return (moment - _MJD_ZERO) / timedelta(days=1)
