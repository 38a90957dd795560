"""The report of a run: tables of all frames and one page to look at."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nightflow import __version__, previews, products
from nightflow.configuration import write_if_changed

_IDENTITY = ["frame", "target", "filter", "date_obs"]


def read_tables(paths: Sequence[str]) -> pd.DataFrame:
    """Rows of several tab-separated tables with the same columns, in one; empty without paths."""
    tables = [pd.read_csv(path, sep="\t", dtype={"frame": str, "target": str, "filter": str}) for path in paths]
    tables = [table for table in tables if len(table)]
    return pd.concat([table.astype(object) for table in tables], ignore_index=True) if tables else pd.DataFrame()


def gather_rows(paths: Sequence[str]) -> pd.DataFrame:
    """Rows of several tab-separated tables as text, in one."""
    tables = [pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False) for path in paths]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"camera": [], "warning": []})


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
    return quality


def write_table(path: str | os.PathLike, table: pd.DataFrame) -> None:
    """Write a tab-separated table, numbers with seven digits."""
    write_if_changed(path, table.to_csv(sep="\t", index=False, float_format="%.7g", lineterminator="\n"))


def describe_stacks(paths: Sequence[str]) -> list[dict]:
    """What the headers of the stacks say, for the page and the summary."""
    described = []
    for path in paths:
        header = products.read_header(path)
        described.append(
            {
                "path": path,
                "target": Path(path).parent.name,
                "filter": Path(path).stem,
                "rejected": header.get("NFREASON") if header.get("NFSTAT") == products.REJECTED else None,
                "frames": header.get("NCOMBINE"),
                "exposure": header.get("TOTEXP"),
                "fwhm": header.get("FWHM"),
                "unit": header.get("BUNIT"),
            }
        )
    return described


def write_previews(stacks: Sequence[dict], paths: Sequence[str], longest: int) -> None:
    """A picture of each stack; a single grey pixel for one without data, so that every link has its picture."""
    import numpy as np

    for stack, path in zip(stacks, paths, strict=True):
        data = np.zeros((1, 1)) if stack["rejected"] else products.read_image(stack["path"]).data
        previews.write_png(path, data, longest)
        stack["picture"] = base64.b64encode(Path(path).read_bytes()).decode("ascii")


def summary(frames: pd.DataFrame, quality: pd.DataFrame, stacks: Sequence[dict], results: str) -> str:
    """Three lines: what was found, what was made, where to look."""
    usable = frames[frames["status"] == "ok"]
    counts = ", ".join(f"{n} {kind}" for kind, n in usable["kind"].value_counts().sort_index().items())
    lights, used = len(quality), int(quality["used"].sum())
    odd = len(frames) - len(usable)
    made = ", ".join(
        f"{s['target']}/{s['filter']} ({'rejected' if s['rejected'] else str(s['frames']) + ' frames'})" for s in stacks
    )
    return (
        f"nightflow: {len(frames)} frames found ({counts}; {odd} not usable), {used} of {lights} lights stacked\n"
        f"stacks: {made}\n"
        f"look at {results}/report/index.html, {results}/stacks, {results}/sky.tsv and {results}/quality.tsv\n"
    )


def page(
    template: str,
    frames: pd.DataFrame,
    quality: pd.DataFrame,
    detector: pd.DataFrame,
    stacks: Sequence[dict],
    results: str,
) -> str:
    """The report as one HTML page without anything from outside."""
    from jinja2 import Environment, select_autoescape

    environment = Environment(autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True)
    numbers = ["median", "stddev", "fwhm", "ellipticity", "n_stars"]
    shown = quality.reindex(columns=[*_IDENTITY, "used", "reason", "remarks", *numbers])
    return environment.from_string(template).render(
        version=__version__,
        stacks=[{**stack, "link": os.path.relpath(stack["path"], Path(results, "report"))} for stack in stacks],
        counts=frames.groupby(["kind", "status"], dropna=False)
        .size()
        .reset_index(name="n")
        .fillna("unknown")
        .to_dict("records"),
        warnings=detector.loc[detector["warning"] != "", ["camera", "warning"]].to_dict("records"),
        problems=frames.loc[frames["status"] == "rejected", ["path", "reason"]].to_dict("records"),
        left_out=shown[~shown["used"] & quality["status"].eq("ok")].to_dict("records"),
        lights=[{k: _shown(v) for k, v in row.items()} for row in shown.to_dict("records")],
        numbers=numbers,
    )


def _shown(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value != value:  # NaN
        return ""
    try:
        return f"{float(value):.4g}"
    except (TypeError, ValueError):
        return str(value)
