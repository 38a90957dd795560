"""The table of raw frames: one row for every image, with an id, standard values and a verdict.

``frames.tsv`` is written from these rows for people to read; the workflow plans from the rows themselves.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import re
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path

from nightflow import inventory
from nightflow.headervalues import start_of_exposure
from nightflow.instruments import KINDS, Instrument, choose, chosen_extensions, translate
from nightflow.joining import join_amplifiers

OK, REJECTED, IGNORED = "ok", "rejected", "ignored"

#: Properties of the detector that calibration needs; all in ADU except gain (electron/ADU) and read noise (electron).
DETECTOR = (
    *("gain", "read_noise", "saturation", "linearity_limit", "pedestal", "overscan", "trim", "linearity"),
    *("amplifiers", "bayer"),
)

#: Channels of a one-shot colour camera.
CHANNELS = ("R", "G", "B")

#: What an overrides table may set.
OVERRIDABLE = (
    *("kind", "target", "filter", "exptime", "binning", "gain_setting", "offset", "readout_mode", "chip"),
    *("temperature", "ra", "dec", "airmass", "date_obs", "instrument", "gain", "read_noise", "saturation"),
)


class OverridesError(ValueError):
    """The overrides table cannot be used; the message says where and what is allowed."""


@dataclass
class Frame:
    """One raw image. The public attributes are the columns of ``frames.tsv``, in order.

    Attributes
    ----------
    frame : str
        Id, made of ``[A-Za-z0-9._-]``, a function of the path within the raw folder alone.
    exptime : float or None
        Seconds. `temperature` is in degrees Celsius, `ra` and `dec` in degrees, `mjd_mid` the middle of the exposure.
    shape : str
        ``nx x ny`` of the raw image as ``1092x736``; `window` is its origin in the full detector as ``x,y``.
    night : str
        Local date of the evening, from local noon to noon.
    detector : dict
        What the header says of the detector, as plain values; no column.
    glass : str or None
        For a channel of a one-shot colour frame the filter in the beam, which its flats share; no column.
    state : list
        Size in bytes and time of change (ns) of the file; no column.
    site : dict
        ``latitude``, ``longitude`` (degrees, east positive) and ``height`` (m), None where unknown; no column.
    """

    frame: str
    path: str
    hdu: int | str = 0
    kind: str | None = None
    target: str | None = None
    filter: str | None = None
    exptime: float | None = None
    binning: str | None = None
    shape: str | None = None
    window: str | None = None
    gain_setting: str | None = None
    offset: str | None = None
    readout_mode: str | None = None
    chip: str | None = None
    temperature: float | None = None
    ra: float | None = None
    dec: float | None = None
    airmass: float | None = None
    date_obs: str | None = None
    mjd_mid: float | None = None
    night: str | None = None
    instrument: str | None = None
    status: str = OK
    reason: str = ""
    bias: str | None = None
    dark: str | None = None
    flat: str | None = None
    detector: dict = field(default_factory=dict, repr=False)
    glass: str | None = None
    state: list = field(default_factory=list, repr=False)
    site: dict = field(default_factory=dict, repr=False)

    def reject(self, reason: str) -> None:
        self.status, self.reason = REJECTED, reason

    def ignore(self, reason: str) -> None:
        self.status, self.reason = IGNORED, reason

    @property
    def trimmed_shape(self) -> str | None:
        """``nx x ny`` of the pixels that see light, as they are left after trimming."""
        amplifiers = self.detector.get("amplifiers") or [{"data": self.detector.get("trim")}]
        sections = [amplifier.get("place") or amplifier["data"] for amplifier in amplifiers]
        if None in sections:
            return self.shape
        rows, columns = ({i for section in sections for i in range(*section[axis])} for axis in (0, 1))
        return f"{len(columns)}x{len(rows)}"

    @property
    def n_pixels(self) -> int:
        """Pixels of the raw image, however its file is compressed; 0 where it has none."""
        return math.prod(map(int, self.shape.split("x"))) if self.shape else 0

    def identity(self) -> dict:
        """What names this frame in tables."""
        return {"frame": self.frame, "target": self.target, "filter": self.filter, "date_obs": self.date_obs}

    def cards(self) -> dict:
        """Standard header cards of a light, whatever its camera calls them; None where unknown."""
        start = self.mjd_mid - (self.exptime or 0) / 2 / 86400 if self.mjd_mid is not None else None
        return {
            "NFFRAME": self.frame,
            "OBJECT": self.target,
            "FILTER": self.filter,
            "EXPTIME": self.exptime,
            "DATE-OBS": self.date_obs,
            "MJD-OBS": start,
            "AIRMASS": self.airmass,
            "NFNIGHT": self.night,
        }


COLUMNS = [column.name for column in fields(Frame) if column.name not in ("detector", "glass", "site", "state")]


def slug(text: str | None, empty: str) -> str:
    """`text` as a name of ``[A-Za-z0-9._-]`` that starts with a letter or digit.

    White space becomes ``_``. Where any other character had to go, a digest of the whole text is appended, so that
    two texts that differ in more than white space never share a slug.
    """
    spaced = "_".join((text or "").split())
    if not spaced:
        return empty
    kept = _shortened(re.sub(r"[^A-Za-z0-9._-]", "", spaced).lstrip("._-"))
    return kept if kept == spaced else f"{kept or 'x'}-{_digest(spaced)}"


def _shortened(text: str) -> str:
    """The beginning of `text`, with what is repeated many times once: Snakemake takes that for an endless recursion."""
    return re.sub(r"(.{1,8}?)\1{15,}", r"\1", text[:1000])[:80]


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()


_LONGEST_NAME = 150  # characters of a product's name; file systems hold 255, endings and all


def distinct(named: list[tuple[str, object]]) -> list[str]:
    """Names of products that tell their keys apart and that file systems can hold.

    Parameters
    ----------
    named : list of (str, object)
        Name, made of ``[A-Za-z0-9._-]``, and what it stands for. Names that stand for several keys, and those that are
        too long, end in a digest of their key.
    """
    counts = Counter(name for name, _ in named)
    return [
        name if counts[name] == 1 and len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}-{_digest(repr(key))}"
        for name, key in named
    ]


def frame_id(name: str, hdu: int | str = 0, several: bool = False) -> str:
    """Id of the image in HDU `hdu` of the file `name` (path within the raw folder).

    Folders are joined by dots. `several`: the file holds more than one image, so that the HDU belongs to the id.
    """
    stem = name
    for ending in (*inventory.COMPRESSED, *inventory.SUFFIXES):
        if stem.lower().endswith(ending):
            stem = stem[: -len(ending)]
    identity = _shortened(re.sub(r"[^A-Za-z0-9._-]+", "_", stem.replace("/", ".")).lstrip("._-"))
    if identity.replace(".", "/") != stem:  # something was lost, or a dot stood in the name itself
        identity = f"{identity or 'x'}-{_digest(stem)}"
    return f"{identity}.hdu{_first(hdu)}" if several else identity


def _first(hdu: int | str) -> str:
    """The first extension of an image that was joined from several, as ``1+2``."""
    return str(hdu).split("+")[0]


def build(
    files: list[inventory.RawFile],
    headers: list[dict],
    instruments: dict[str, Instrument],
    *,
    instrument: str = "auto",
    overrides: list[dict] | None = None,
    site: dict | None = None,
    detector: dict | None = None,
    split_colours: bool = True,
    ready: bool = False,
) -> list[Frame]:
    """Frames of a scan, in order of date and id.

    Parameters
    ----------
    files, headers
        As `inventory.find_files` and `inventory.HeaderCache.headers` give them.
    instruments : dict of str to `Instrument`
    instrument : str
        ``auto`` to choose by header, or the name of one for all frames.
    overrides : list of dict, optional
        Rows with ``path`` (a pattern) and what to set; later rows win.
    site : dict, optional
        ``latitude``, ``longitude`` (degrees, east positive), ``height`` (m); what is None comes from the header.
    detector : dict, optional
        Detector properties that replace the header's.
    split_colours : bool
        Whether a light of a one-shot colour camera becomes a frame for each of its channels.
    ready : bool
        Whether these are ready-made masters, so that ``Master Dark`` and ``DARK`` are the same kind.
    """
    frames = []
    for file, content in zip(files, headers, strict=True):
        if content["error"] is not None:
            frames.append(_unreadable(file, content["error"]))
            continue
        for hdu, dialect, values, several in understood(file.name, content, instruments, instrument):
            _replace(values, {k: v for k, v in (detector or {}).items() if v is not None})
            if ready:
                values["kind"] = _kind_of_master(hdu["cards"], dialect, file.name)
            frame = Frame(frame_id(file.name, hdu["hdu"], several), file.path, hdu["hdu"])
            frame.state = [file.size, file.mtime_ns]
            _describe(frame, file.name, hdu, values, dialect, overrides or [], site or {})
            split = split_colours and frame.detector["bayer"] and frame.kind == "light"
            frames += _channels(frame) if split else [frame]
    _judge_names(frames)
    return sorted(frames, key=lambda frame: (frame.mjd_mid or math.inf, frame.frame))


def understood(name: str, content: dict, instruments: dict[str, Instrument], instrument: str = "auto") -> list[tuple]:
    """The images of a file that are frames, with what their headers say.

    Returns
    -------
    list of (dict, `Instrument`, dict, bool)
        The HDU, its dialect, its standard values, and whether the file holds several frames: chips of a mosaic camera,
        each of which then has a name of its own as ``chip``. Extensions of one chip's amplifiers are one image.
    """
    first = content["hdus"][0]["cards"]
    dialect = choose(first, instruments) if instrument == "auto" else instruments[instrument]
    hdus = chosen_extensions(content["hdus"], dialect)
    rows = [(hdu, translate(hdu["cards"], dialect, name, hdu["shape"])[0]) for hdu in hdus]
    if dialect.extensions.get("join"):
        rows = join_amplifiers(rows, dialect.extensions["join"])
    several = len(rows) > 1
    if several:
        named = [values.get("chip") or hdu.get("name") for hdu, values in rows]
        for chip, (hdu, values) in zip(named, rows, strict=True):
            values["chip"] = chip if chip and named.count(chip) == 1 else f"hdu{_first(hdu['hdu'])}"
    return [(hdu, dialect, values, several) for hdu, values in rows]


def _kind_of_master(cards: dict, dialect: Instrument, name: str) -> str | None:
    """Kind of a ready-made master, from its card for the kind, else from its path."""
    texts = [str(cards[keyword]) for keyword in dialect.keywords["kind"] if keyword in cards]
    for text in (*texts, name.rsplit("/", 1)[-1], name):
        for kind, words in (("dark", ("dark",)), ("flat", ("flat",)), ("bias", ("bias", "zero", "offset"))):
            if any(word in text.lower() for word in words):
                return kind
    return None


def _channels(frame: Frame) -> list[Frame]:
    """The R, G and B frames of a one-shot colour light; their filter is the channel, with the filter in the beam."""
    plain = frame.filter in ("nofilter", frame.detector["bayer"])
    return [
        replace(
            frame,
            frame=f"{frame.frame}.{channel}",
            filter=channel if plain else f"{frame.filter}-{channel}",
            glass=frame.filter,
            detector={**frame.detector, "channel": channel},
        )
        for channel in CHANNELS
    ]


def waiting(file: inventory.RawFile) -> Frame:
    """The row of a file that may still be written."""
    frame = Frame(frame_id(file.name), file.path)
    frame.ignore("changed a moment ago: left for the next run")
    return frame


def _unreadable(file: inventory.RawFile, reason: str) -> Frame:
    frame = Frame(frame_id(file.name), file.path)
    frame.reject(reason)
    return frame


def _describe(frame: Frame, name: str, hdu: dict, values: dict, dialect: Instrument, overrides: list, site: dict):
    """Fill in what header, overrides and configuration say of a frame, and judge it."""
    excluded = _override(values, name, overrides)
    ny, nx = hdu["shape"]
    frame.shape = f"{nx}x{ny}"
    frame.window = _window(values)
    frame.kind = values.get("kind")
    for column in ("exptime", "binning", "temperature", "ra", "dec", "date_obs"):
        setattr(frame, column, values.get(column))
    for column in ("gain_setting", "offset", "readout_mode", "chip"):
        setattr(frame, column, values.get(column) or None)
    frame.instrument = slug(values.get("instrument") or values.get("telescope"), "camera")
    frame.filter = slug(values.get("filter"), "nofilter") if frame.kind in ("flat", "light") else None
    frame.target = slug(values.get("target"), "unknown") if frame.kind == "light" else None
    frame.detector = {key: _plain(values.get(key)) for key in DETECTOR} | {"bayer": _bayer_pattern(values)}
    if frame.kind == "bias":
        frame.exptime = frame.exptime or 0.0
    where = {key: site.get(key) if site.get(key) is not None else values.get(f"site_{key}") for key in _SITE}
    frame.site = where
    _set_times(frame, values.get("mjd_start"), where["longitude"])
    frame.airmass = values.get("airmass") or airmass(frame.ra, frame.dec, frame.mjd_mid, where)
    _judge(frame, hdu, dialect, excluded)


_SITE = ("latitude", "longitude", "height")


def _plain(value):
    """`value` with sections, pairs of slices, as pairs of first and last + 1: what JSON can hold."""
    if isinstance(value, slice):
        return [value.start, value.stop]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def _bayer_pattern(values: dict) -> str | None:
    """Colours of the first four pixels, row by row, with the header's offsets applied."""
    pattern = values.get("bayer")
    if pattern is None:
        return None
    x, y = int(values.get("bayer_x") or 0), int(values.get("bayer_y") or 0)
    return "".join(pattern[(row + y) % 2 * 2 + (column + x) % 2] for row in (0, 1) for column in (0, 1))


def _window(values: dict) -> str | None:
    x, y = values.get("window_x"), values.get("window_y")
    return None if x is None or y is None else f"{x:g},{y:g}"


def _override(values: dict, name: str, overrides: list) -> str | None:
    """Apply the overrides that fit `name` to `values`; the reason if the frame is excluded."""
    excluded = None
    for row in overrides:
        if not (fnmatchcase(name, row["path"]) or fnmatchcase(name.rsplit("/", 1)[-1], row["path"])):
            continue
        _replace(values, {k: v for k, v in row.items() if k in OVERRIDABLE and v not in (None, "")})
        if row.get("date_obs"):
            values["date_obs"], values["mjd_start"] = start_of_exposure({"date_obs": row["date_obs"]})
        if "exclude" in row and row["exclude"] not in (None, ""):
            excluded = None if str(row["exclude"]).lower() in ("false", "no", "0") else str(row.get("reason") or "")
    return excluded


def _replace(values: dict, given: dict) -> None:
    """Put `given` into `values`; a gain or read noise holds for every amplifier then."""
    values.update(given)
    if values.get("amplifiers") and "amplifiers" not in given:
        values["amplifiers"] = [{k: v for k, v in amp.items() if k not in given} for amp in values["amplifiers"]]


def _set_times(frame: Frame, mjd_start: float | None, longitude: float | None) -> None:
    if mjd_start is None:
        frame.night = frame.date_obs  # the day, if that is known
        return
    frame.mjd_mid = round(mjd_start + (frame.exptime or 0) / 2 / 86400, 8)
    try:
        local = datetime.fromisoformat(frame.date_obs) + timedelta(hours=(longitude or 0) / 15)
        frame.night = (local - timedelta(hours=12)).date().isoformat()
    except OverflowError:  # the first or last day of all dates
        return


def airmass(ra: float | None, dec: float | None, mjd: float | None, site: dict) -> float | None:
    """Airmass of a position at a time, or None where something is unknown or the object is below 3 degrees.

    Sidereal time after Meeus, Astronomical Algorithms (1998), equation 12.4; airmass after Kasten & Young (1989),
    Applied Optics 28, 4735. Angles in degrees, longitude east positive; good to 0.002 at airmass 2.
    """
    latitude, longitude = site.get("latitude"), site.get("longitude")
    if None in (ra, dec, mjd, latitude, longitude):
        return None
    hour_angle = math.radians(280.46061837 + 360.98564736629 * (mjd - 51544.5) + longitude - ra)
    lat, delta = math.radians(latitude), math.radians(dec)
    sine = math.sin(lat) * math.sin(delta) + math.cos(lat) * math.cos(delta) * math.cos(hour_angle)
    altitude = math.degrees(math.asin(max(-1.0, min(1.0, sine))))
    return round(1 / (sine + 0.50572 * (altitude + 6.07995) ** -1.6364), 4) if altitude > 3 else None


def _judge(frame: Frame, hdu: dict, dialect: Instrument, excluded: str | None) -> None:
    if excluded is not None:
        frame.reject(f"excluded by overrides{': ' + excluded if excluded else ''}")
    elif hdu["error"] is not None:
        frame.reject(hdu["error"])
    elif frame.kind is None:
        cards = ", ".join(dialect.keywords["kind"])
        frame.reject(
            f"kind of frame unknown (no rule of '{dialect.name}' fits, looked at {cards}): set it in overrides"
        )
    elif frame.kind == "master":
        frame.ignore("a combined master, not a raw frame")
    elif frame.kind not in KINDS:
        frame.ignore(f"kind '{frame.kind}' is not used")
    elif frame.exptime is None and frame.kind != "flat":
        frame.reject(f"no exposure time (looked at {', '.join(dialect.keywords['exptime'])})")
    elif frame.exptime == 0 and frame.kind == "light":
        frame.reject("an exposure time of 0 s, which fluxes cannot be divided by: set it in overrides")


def _judge_names(frames: list[Frame]) -> None:
    """Reject frames that Snakemake could not name, and make ids unique."""
    counts = Counter(frame.frame for frame in frames)
    taken = set()
    for frame in frames:
        if counts[frame.frame] > 1 and frame.frame in taken:  # a.fit beside a.fits
            frame.frame = f"{frame.frame}-{_digest(frame.path)}"
        taken.add(frame.frame)
        if re.search(r"[{}\n\r\x00]", frame.path) or not _is_text(frame.path):
            frame.reject("the file name holds braces, a line break or bytes that are not UTF-8: rename it")


def _is_text(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_overrides(table: str | os.PathLike) -> list[dict]:
    """Rows of an overrides table (tab- or comma-separated, first line the column names).

    Raises
    ------
    OverridesError
        If the file is missing or a column is unknown.
    """
    try:
        text = Path(table).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise OverridesError(f"overrides table '{table}' cannot be read: {error}") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    return check_overrides(list(csv.DictReader(lines, delimiter=delimiter)), f"overrides table '{table}'")


def check_overrides(rows: list[dict], where: str = "overrides") -> list[dict]:
    """`rows` with numbers as numbers.

    Raises
    ------
    OverridesError
        If a row has no ``path`` or sets something unknown.
    """
    checked = []
    for number, row in enumerate(rows, start=1):
        unknown = [str(key) for key in row if key not in (*OVERRIDABLE, "path", "exclude", "reason")]
        if unknown or not row.get("path"):
            problem = f"sets unknown {', '.join(unknown)}" if unknown else "has no path"
            raise OverridesError(
                f"{where}, row {number} {problem}; a row has path and any of exclude, reason, {', '.join(OVERRIDABLE)}"
            )
        checked.append({key: _typed(key, value, where, number) for key, value in row.items()})
    return checked


_NUMBERS = ("exptime", "temperature", "ra", "dec", "airmass", "gain", "read_noise", "saturation")


def _typed(key: str, value, where: str, number: int):
    if key == "kind" and value not in (None, "", *KINDS, "other"):
        raise OverridesError(f"{where}, row {number}: kind '{value}' is none of {', '.join(KINDS)}, other")
    if key in _NUMBERS and value not in (None, ""):
        try:
            return float(value)
        except (TypeError, ValueError):
            raise OverridesError(f"{where}, row {number}: {key} '{value}' is not a number") from None
    return value


def to_records(frames: list[Frame]) -> list[list]:
    """The frames as plain lists, for a cache."""
    names = [column.name for column in fields(Frame)]
    return [[getattr(frame, name) for name in names] for frame in frames]


def from_records(records: list[list]) -> list[Frame]:
    """The frames that `to_records` took apart."""
    return [Frame(*record) for record in records]


def to_tsv(frames: list[Frame]) -> str:
    """The table of frames as text: one line a frame, empty cells where a value is unknown."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    for frame in frames:
        writer.writerow([_cell(getattr(frame, column)) for column in COLUMNS])
    return text.getvalue()


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # among them all that some reader takes for a line's end


def _cell(value) -> str:
    if value is None:
        return ""
    text = f"{value:.13g}" if isinstance(value, float) else str(value)
    return _CONTROL.sub(" ", text.encode("utf-8", "backslashreplace").decode())
