"""The report of a run as one HTML page without anything from outside.

Text of headers is data: the template escapes it, tables carry it as JSON that the page's script puts into text nodes,
and the page's content security policy lets no other script run.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nightflow import __version__, charts, previews, weakness

#: Measures of the lights that are drawn against time: column, title, unit, whether less is better drawn above.
MEASURES = (
    ("median", "Sky level", "{unit}", False),
    ("stddev", "Standard deviation of the sky", "{unit}", False),
    ("fwhm", "Seeing (FWHM)", "px", False),
    ("ellipticity", "Ellipticity", "", False),
    ("depth_loss", "Loss of depth against the group", "mag", True),
    ("zero_point", "Zero point", "mag", False),
    ("limiting_magnitude", "Limiting magnitude (5 sigma)", "mag", False),
    ("airmass", "Airmass", "", True),
)

# Columns of the page's tables: name, heading, kind, whether a menu of its values filters the rows.
_LIGHTS = (
    ("frame", "Frame", "text", False),
    ("target", "Target", "text", True),
    ("filter", "Filter", "text", True),
    ("date_obs", "Start (UTC)", "time", False),
    ("exptime", "Exposure (s)", "number", False),
    ("used", "Stacked", "text", True),
    ("why", "Why not, and what is weak", "text", False),
    ("depth_loss", "Less deep by (mag)", "number", False),
    ("median", "Sky ({unit})", "number", False),
    ("stddev", "Stddev ({unit})", "number", False),
    ("fwhm", "FWHM (px)", "number", False),
    ("ellipticity", "Ellipticity", "number", False),
    ("n_stars", "Stars", "number", False),
    ("airmass", "Airmass", "number", False),
    ("zero_point", "Zero point (mag)", "number", False),
    ("limiting_magnitude", "Limit (mag)", "number", False),
    ("files", "Files", "files", False),
)
_CALIBRATION = (
    ("frame", "Frame", "text", False),
    ("target", "Target", "text", True),
    ("filter", "Filter", "text", True),
    ("exptime", "Exposure (s)", "number", False),
    ("temperature", "Temperature (°C)", "number", False),
    ("bias", "Bias", "text", True),
    ("dark", "Dark", "text", True),
    ("flat", "Flat", "text", True),
    ("reason", "Remarks", "text", False),
)
_RAW = (
    ("path", "File", "text", False),
    ("kind", "Kind", "text", True),
    ("target", "Target", "text", True),
    ("filter", "Filter", "text", True),
    ("exptime", "Exposure (s)", "number", False),
    ("night", "Night", "text", True),
    ("instrument", "Camera", "text", True),
    ("status", "Status", "text", True),
    ("reason", "Why", "text", False),
)
_WORST = 5
_MOST_THUMBNAILS = 60
_THUMBNAIL = 144  # px
_LISTED = 12  # warnings of one kind


def render(templates: Mapping[str, str], night: Mapping, results: str) -> str:
    """The page.

    Parameters
    ----------
    templates : mapping of str to str
        ``night.html.j2``, ``night.css`` and ``night.js``.
    night : mapping
        What `nightflow.report` gathered: tables ``frames``, ``lights`` and ``detector``, lists of dicts ``stacks``,
        ``composites``, ``masters`` and ``previews``, paths of catalogues and light curves that were ``made``, and
        ``folders`` of single frames that are kept.
    results : str
        Folder of the products.

    Returns
    -------
    str
    """
    from jinja2 import DictLoader, Environment, StrictUndefined

    environment = Environment(
        loader=DictLoader(dict(templates)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    frames, lights = night["frames"], night["lights"]
    unit = next((stack["unit"] for stack in night["stacks"] if stack["unit"]), "electron")
    script = templates["night.js"].strip()
    return environment.get_template("night.html.j2").render(
        version=__version__,
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=charts.STYLE + templates["night.css"],
        counts=_counts(frames),
        nights=sorted({str(night) for night in frames["night"].dropna()}) if "night" in frames else [],
        used=int(lights["used"].sum()),
        lights=len(lights),
        worst=_worst(lights, night["previews"]),
        warnings=_warnings(night),
        charts=draw_charts(lights, unit),
        legend=list(enumerate(filter_names(lights))),
        stacks=[stack | {"links": _links(stack, night["made"], results)} for stack in night["stacks"]],
        composites=night["composites"],
        masters=night["masters"],
        detector=night["detector"].to_dict("records"),
        thumbnails=night["previews"] if len(night["previews"]) <= _MOST_THUMBNAILS else [],
        tables={
            "lights": _table(_with_files(lights, night, results), _LIGHTS, unit) | {"folders": night["folders"]},
            "calibration": _table(frames[_is_usable_light(frames)], _CALIBRATION, unit),
            "raw": _table(frames, _RAW, unit),
        },
    )


def _is_usable_light(frames: pd.DataFrame) -> pd.Series:
    return frames["kind"].eq("light") & frames["status"].eq("ok")


def _counts(frames: pd.DataFrame) -> list[dict]:
    table = (
        frames[["kind", "status"]]
        .astype(object)
        .fillna({"kind": "not understood", "status": ""})
        .groupby(["kind", "status"])
        .size()
    )
    return [{"kind": kind, "status": status, "n": int(n)} for (kind, status), n in table.items()]


def filter_names(lights: pd.DataFrame) -> list[str]:
    """Filters in the order of their colours."""
    return sorted(lights["filter"].astype(object).fillna("none").astype(str).unique())


def draw_charts(lights: pd.DataFrame, unit: str) -> list[dict]:
    """Charts of all measures that are known: ``name``, ``title`` and ``svg``."""
    times = pd.to_numeric(lights.get("mjd_mid", pd.Series(np.nan, lights.index)), errors="coerce").to_numpy()
    axis = charts.TimeAxis.of(times)
    names = filter_names(lights)
    groups = [names.index(name) for name in lights["filter"].astype(object).fillna("none").astype(str)]
    drawn = []
    for name, title, its_unit, upside_down in MEASURES:
        if name in lights:
            values = pd.to_numeric(lights[name], errors="coerce").to_numpy()
            its_unit = its_unit.format(unit=unit)
            svg = charts.chart(axis, times, values, groups, list(lights["used"]), title, its_unit, upside_down)
            if svg:
                drawn.append({"name": name, "title": f"{title} ({its_unit})" if its_unit else title, "svg": svg})
    return drawn


def _worst(lights: pd.DataFrame, pictures: Sequence[dict]) -> list[dict]:
    """The worst lights with the reason, those that are as good as the others left out."""
    by_frame = {picture["frame"]: picture for picture in pictures}
    rows = weakness.worst_first(lights).to_dict("records")
    worst = [row | {"why": _why(row)} for row in rows if not row["used"] or row["weakness"]]
    return [row | {"picture": by_frame.get(row["frame"])} for row in worst[:_WORST]]


def _why(row: Mapping) -> str:
    reason = "" if row["used"] else (_text(row.get("reason")) or "no reason is known")
    return "; ".join(part for part in (reason, _text(row.get("weakness"))) if part)


def _warnings(night: Mapping) -> list[dict]:
    """What the observer should know first: a heading and sentences with how often each holds."""
    frames, lights = night["frames"], night["lights"]
    raw = frames[frames["status"].eq("rejected")]
    left_out = lights[~lights["used"] & lights["status"].eq("ok")]
    found = {
        "Files that cannot be used": [f"{row['path']}: {_text(row['reason'])}" for row in raw.to_dict("records")],
        "Lights that were not stacked": [f"{row['frame']}: {_why(row)}" for row in left_out.to_dict("records")],
        "Stacks that could not be made": [_named(s) + s["rejected"] for s in night["stacks"] if s["rejected"]],
        "Masters that could not be made": [f"{m['name']}: {m['rejected']}" for m in night["masters"] if m["rejected"]],
        "Detectors": _sentences(night["detector"], "camera", "warning"),
        "Calibration": _repeated(frames.loc[_is_usable_light(frames), "reason"]),
        "Astrometry and zero points": _repeated(lights["remark"]) if "remark" in lights else [],
    }
    return [
        {"heading": heading, "sentences": sentences[:_LISTED], "more": max(0, len(sentences) - _LISTED)}
        for heading, sentences in found.items()
        if sentences
    ]


def _named(stack: Mapping) -> str:
    return f"{stack['target']} {stack['filter']}: "


def _sentences(table: pd.DataFrame, name: str, text: str) -> list[str]:
    rows = table.reindex(columns=[name, text]).astype(object).fillna("").to_dict("records")
    return [f"{row[name]}: {row[text]}" for row in rows if row[text]]


def _repeated(texts: pd.Series) -> list[str]:
    """Different sentences, the most frequent first, with the number of lights that they are about."""
    known = texts.dropna().astype(str)
    counts = known[known != ""].value_counts()
    return [f"{n} {'light' if n == 1 else 'lights'}: {text}" for text, n in counts.items()]


def _links(stack: Mapping, made: Collection[str], results: str) -> list[dict]:
    """Files that belong to a stack, relative to the page."""
    target, name = stack["target"], stack["filter"]
    links = [("stack", f"stacks/{target}/{name}.fits"), ("frames used", f"selection/{target}/{name}.tsv")]
    catalogue, curves = f"catalogues/{target}/{name}", f"lightcurves/{target}/{name}"
    if f"{results}/{catalogue}.fits" in made:
        links += [("catalogue", f"{catalogue}.fits"), ("regions for DS9", f"{catalogue}.reg")]
    if sum(path.startswith(f"{results}/catalogues/{target}/") for path in made) > 1:
        links += [("catalogue of all filters", f"catalogues/{target}.fits")]
    if f"{results}/{curves}.fits" in made:
        links += [("light curves", f"{curves}.fits"), ("their plot", f"{curves}.png")]
    return [{"text": text, "href": f"../{path}"} for text, path in links]


def _with_files(lights: pd.DataFrame, night: Mapping, results: str) -> pd.DataFrame:
    """The lights with a number whose bits say which products of a frame are there, and the reason in one column."""
    present = [{Path(e.name).stem for e in _entries(Path(results, folder))} for folder in night["folders"]]
    pictures = {picture["frame"] for picture in night["previews"]}
    table = lights.copy()
    table["files"] = [
        sum((frame in names) << bit for bit, names in enumerate([*present, pictures])) for frame in table["frame"]
    ]
    table["why"] = [_why(row) for row in lights.to_dict("records")]
    return table


def _entries(folder: Path) -> list[os.DirEntry]:
    return list(os.scandir(folder)) if folder.is_dir() else []


def _table(table: pd.DataFrame, columns: Sequence[tuple], unit: str) -> dict:
    """Rows of a table for the page's script; columns that are empty everywhere are left out."""
    kept = [c for c in columns if c[0] in table and (table[c[0]].map(_text) != "").any()] or list(columns[:1])
    cells = [[_cell(value, kind) for value in table[name]] for name, _, kind, _ in kept]
    return {
        "columns": [
            {"name": name, "heading": heading.format(unit=unit), "kind": kind, "menu": menu}
            for name, heading, kind, menu in kept
        ],
        "rows": [list(row) for row in zip(*cells, strict=True)],
    }


def _cell(value, kind: str):
    if kind == "files":
        return int(value)
    if kind == "time":
        return _text(value).replace("T", " ").split(".")[0]
    if kind == "number":
        number = pd.to_numeric(value, errors="coerce")
        return None if pd.isna(number) or not np.isfinite(number) else float(f"{number:.4g}")
    return _text(value)


def _text(value) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return "" if value is None or value != value else str(value)  # NaN is not itself


def shown(value, digits: int = 4) -> str:
    """A number with few digits, anything else as text, nothing for what is unknown."""
    try:
        return "" if value in (None, "") or value != value else f"{float(value):.{digits}g}"
    except (TypeError, ValueError):
        return str(value)


def thumbnail_of(path: str | os.PathLike, longest: int = _THUMBNAIL) -> str:
    """A small copy of a PNG as text for the page."""
    from PIL import Image as Picture

    with Picture.open(path) as picture:
        small = picture.convert("RGB") if picture.mode == "P" else picture  # numbers of colours have no means
        small.thumbnail((longest, longest))
        return previews.thumbnail(np.asarray(small)[::-1])
