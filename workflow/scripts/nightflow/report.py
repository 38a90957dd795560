"""What a report tells of a run: tables of all frames, what stacks and masters are, and a summary in a few lines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nightflow import extinction, page, previews, products, transfer, weakness
from nightflow.atomic import write_if_changed
from nightflow.medians import quantile

_IDENTITY = ["frame", "target", "filter", "date_obs"]
_LISTED = 5
_THUMBNAIL = 144  # px
_INLINED = 512  # px
_MOST_INLINED = 40


def read_tables(paths: Sequence[str]) -> pd.DataFrame:
    """Rows of several tab-separated tables with the same columns, in one; empty without paths."""
    tables = [pd.read_csv(path, sep="\t", dtype={"frame": str, "target": str, "filter": str}) for path in paths]
    tables = [table for table in tables if len(table)]
    return pd.concat([table.astype(object) for table in tables], ignore_index=True) if tables else pd.DataFrame()


def gather_rows(paths: Sequence[str]) -> pd.DataFrame:
    """Rows of several tab-separated tables as text, in one."""
    tables = [pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False) for path in paths]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"camera": [], "warning": []})


def zero_point_tables(frames: Sequence[str], nights: Sequence[str], night_of: dict[str, str]):
    """Zero points of the frames, those of the nights' standard stars where a frame has none, and the extinction.

    Parameters
    ----------
    frames, nights : sequence of path-like
        Tables of `nightflow.solving` and of `nightflow.transfer`.
    night_of : dict of str to str
        Name of each frame's night.

    Returns
    -------
    zero_points, extinction : DataFrame
    """
    own = gather_rows(frames)
    fitted = transfer.nights_of_frames(nights, night_of)
    rows = [transfer.completed(row, fitted.get(row["frame"])) for row in own.to_dict("records")]
    told = extinction.table(own.to_dict("records"), [transfer.read(path) for path in nights])
    return pd.DataFrame(rows, columns=own.columns), told


def quality_table(frames: pd.DataFrame, sky: pd.DataFrame, selection: pd.DataFrame) -> pd.DataFrame:
    """One row for each light: how good it is, whether it was stacked, and why not.

    Parameters
    ----------
    frames : DataFrame
        The table of raw frames.
    sky : DataFrame
        The sky table.
    selection : DataFrame
        The selection tables of all stacks.
    """
    quality = frames.loc[frames["kind"] == "light", [*_IDENTITY, "path", "status", "reason"]].copy()
    quality = quality.rename(columns={"reason": "remarks"})
    for table in (sky, selection):
        if len(table):
            new = ["frame", *(c for c in table.columns if c not in quality.columns)]
            quality = quality.merge(table[new], on="frame", how="left")
    if "used" not in quality:
        quality["used"] = False
    quality["used"] = quality["used"].map(lambda used: str(used) in ("True", "1"))
    if "reason" not in quality:
        quality["reason"] = ""
    left_out = quality["status"] != "ok"
    quality.loc[left_out, "reason"] = quality.loc[left_out, "remarks"]
    return quality.join(weakness.depth_losses(quality))


def write_table(path: str | os.PathLike, table: pd.DataFrame) -> None:
    """Write a tab-separated table, numbers with seven digits."""
    write_if_changed(path, table.to_csv(sep="\t", index=False, float_format="%.7g", lineterminator="\n"))


def describe_stacks(paths: Sequence[str]) -> list[dict]:
    """What the headers of the stacks say, for the page and the summary."""
    return [_described(path) | {"target": Path(path).parent.name, "filter": Path(path).stem} for path in paths]


def _described(path: str) -> dict:
    header = products.read_header(path)
    cards = {
        "frames": "NCOMBINE", "exposure": "TOTEXP", "fwhm": "FWHM", "unit": "BUNIT", "depth": "MAGLIM",
        "zero_point": "MAGZP", "sky_brightness": "SKYMAG", "exptime": "EXPTIME", "temperature": "CCD-TEMP",
        "read_noise": "RNMEAS", "bad": "NBAD", "filter": "FILTER", "kind": "IMAGETYP",
    }  # fmt: skip
    rejected = header.get("NFREASON") if header.get("NFSTAT") == products.REJECTED else None
    return {"path": path, "rejected": rejected, **{name: header.get(card) for name, card in cards.items()}}


def describe_masters(paths: Sequence[str], frames: pd.DataFrame, results: str, apply=map) -> list[dict]:
    """Statistics and a small picture of each master, and how many lights it serves.

    `apply` is `map`, or that of several threads: most of the time is spent on pixels.
    """
    usable = frames[frames["kind"].eq("light") & frames["status"].eq("ok")]

    def describe(path: str) -> dict:
        name = Path(path).stem
        lights = sum(int(usable[kind].eq(name).sum()) for kind in ("bias", "dark", "flat") if kind in usable)
        link = os.path.relpath(path, Path(results, "report"))
        master = _described(path) | {"name": name, "lights": lights, "link": link}
        return master | (_NO_PIXELS if master["rejected"] else _pixel_statistics(path))

    return list(apply(describe, paths))


_NO_PIXELS = dict.fromkeys(("low", "median", "high", "picture"))


def _pixel_statistics(path: str) -> dict:
    import numpy as np

    data = products.read_data(path)
    finite = np.isfinite(data)
    known = data if finite.all() else data[finite]
    low, median, high = (quantile(known, share) if known.size else np.nan for share in (0.01, 0.5, 0.99))
    picture = previews.zscale(previews.shrink(data, _THUMBNAIL))
    return {"low": low, "median": median, "high": high, "picture": previews.thumbnail(picture)}


def describe_previews(paths: Sequence[str], results: str, apply=map) -> list[dict]:
    """Frame, links and a small picture of each pair of previews (calibrated, masked); `apply` as above."""
    folder = Path(results, "report")

    def describe(calibrated: str, masked: str) -> dict:
        links = {"calibrated": os.path.relpath(calibrated, folder), "masked": os.path.relpath(masked, folder)}
        name = Path(calibrated).name.removesuffix(".calibrated.png")
        return {"frame": name, **links, "picture": page.thumbnail_of(masked)}

    return list(apply(describe, paths[::2], paths[1::2]))


def describe_composites(paths: Sequence[str], results: str) -> list[dict]:
    """Target, link and a smaller copy of each colour picture."""
    folder = Path(results, "report")
    return [
        {
            "target": Path(path).stem,
            "large": os.path.relpath(path, folder),
            "picture": page.thumbnail_of(path, _INLINED),
        }
        for path in paths[:_MOST_INLINED]
    ]


def write_previews(stacks: Sequence[dict], folder: str | os.PathLike, apply=map) -> None:
    """A picture of each stack as ``folder/target/filter.png``; `apply` as above.

    It is a single grey pixel for a stack without data, so that every link has its picture. The first stacks keep
    a smaller one for the page itself, more would make it heavy.
    """
    import numpy as np

    def write(number: int, stack: dict) -> None:
        path = Path(folder, stack["target"], f"{stack['filter']}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        data = np.zeros((1, 1)) if stack["rejected"] else products.read_data(stack["path"])
        previews.write_png(path, data)
        stack["large"], stack["picture"] = f"stacks/{stack['target']}/{path.name}", None
        if number < _MOST_INLINED:
            stack["picture"] = previews.thumbnail(previews.stretch(previews.shrink(data, _INLINED)))

    list(apply(write, range(len(stacks)), stacks))


def lights_of(quality: pd.DataFrame, frames: pd.DataFrame, zero_points: pd.DataFrame) -> pd.DataFrame:
    """The quality table with what the page tells besides: times, exposures, zero points."""
    lights = quality
    for table in (frames, zero_points):
        new = ["frame", *(c for c in table.columns if c not in lights.columns)]
        if "frame" in table:
            lights = lights.merge(table[new].drop_duplicates("frame"), on="frame", how="left")
    return lights


def summary(frames: pd.DataFrame, quality: pd.DataFrame, stacks: Sequence[dict], results: str) -> str:
    """A few lines: what was found, what was left out and why, what was made and how deep, where to look."""
    usable = frames[frames["status"] == "ok"]
    counts = ", ".join(f"{n} {kind}" for kind, n in usable["kind"].value_counts().sort_index().items())
    odd = len(frames) - len(usable)
    lines = [
        f"nightflow: {len(frames)} frames found ({counts}; {odd} not usable), "
        f"{int(quality['used'].sum())} of {len(quality)} lights stacked"
    ]
    left_out = [f"{row['path']}: {row['reason']}" for row in frames[frames["status"] == "rejected"].to_dict("records")]
    for row in quality[~quality["used"] & quality["status"].eq("ok")].to_dict("records"):
        left_out.append(f"{row['frame']}: {row['reason']}")
    lines += [f"left out: {sentence}" for sentence in left_out[:_LISTED]]
    if len(left_out) > _LISTED:
        lines.append(f"left out: {len(left_out) - _LISTED} more, see {results}/quality.tsv and {results}/frames.tsv")
    lines.append(f"stacks: {', '.join(map(_in_words, stacks))}")
    lines.append(f"look at {results}/report/index.html, {results}/stacks, {results}/sky.tsv and {results}/quality.tsv")
    return "\n".join(lines) + "\n"


def _in_words(stack: dict) -> str:
    facts = [
        ("{} frames", "frames"),
        ("{:g} s", "exposure"),
        ("FWHM {:.2f} px", "fwhm"),
        ("5 sigma {:.2f} mag", "depth"),
    ]
    known = ["rejected"] if stack["rejected"] else [f.format(stack[k]) for f, k in facts if stack.get(k) is not None]
    return f"{stack['target']}/{stack['filter']} ({', '.join(known)})"
