"""Quality of the frames of a group: who enters the stack, with what weight, and which frame is the reference.

A group is a table with one row a frame. `measures` makes a row from a frame's sources and header, `select` applies the
limits and says in a sentence why a frame is left out, and `choose_reference` picks the frame on whose flux scale, and
often grid, the others are stacked. `nightflow.alignment` adds the transforms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nightflow.products import Columns, RejectedFrame, replacing

WEIGHTS = ("none", "exposure", "inverse_variance", "seeing", "stars")

# option -> (column, words for the sentence, unit, sign: +1 an upper limit, -1 a lower one, least sigma: as a fraction
# of the median and absolute, so that a very steady night does not throw out its own ordinary frames)
_LIMITS = {
    "max_fwhm": ("fwhm", "FWHM", " px", 1, (0.05, 0.0)),
    "max_ellipticity": ("ellipticity", "ellipticity", "", 1, (0.0, 0.03)),
    "max_sky": ("sky", "sky", "", 1, (0.05, 0.0)),
    "min_stars": ("n_stars", "number of stars", "", -1, (0.1, 0.0)),
    "min_zero_point": ("zero_point", "zero point", " mag", -1, (0.0, 0.02)),
}
_FLOATS = ("fwhm", "ellipticity", "sky", "sky_std", "exptime", "zero_point")
_MATRIX = ("xx", "xy", "x0", "yx", "yy", "y0")
TRANSFORM = (*_MATRIX, "rms", "flux_scale", "flux_scale_error")
#: Columns of a selection that can be weights.
WEIGHT_COLUMNS = ("n_stars", *_FLOATS, "n_matched", "rms", "flux_scale", "flux_scale_error")
_LEAST_FRAMES_FOR_SPREAD = 5


def measures(frame: str, header: Mapping, n_stars: int, zero_point: float = np.nan) -> dict:
    """Row of one frame, from the cards that the sky stage wrote.

    Parameters
    ----------
    frame : str
        Frame id.
    header : mapping
        FWHM (pixels), ELLIPT, SKYMED and SKYNOISE (electron), EXPTIME (s); those missing become NaN.
    n_stars : int
        Number of sources.
    zero_point : float
        Magnitude of 1 electron/s, NaN where unknown.
    """
    cards = {"fwhm": "FWHM", "ellipticity": "ELLIPT", "sky": "SKYMED", "sky_std": "SKYNOISE", "exptime": "EXPTIME"}
    row = {name: _number(header.get(card)) for name, card in cards.items()}
    return {"frame": frame, "reason": "", "n_stars": int(n_stars), "zero_point": float(zero_point), **row}


def _number(value) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else np.nan


def make_table(rows: list[dict]) -> Columns:
    """Table of rows from `measures`, sorted by frame; a row of a rejected frame has just ``frame`` and ``reason``."""
    rows = sorted(rows, key=lambda row: row["frame"])
    columns = {
        "frame": np.array([row["frame"] for row in rows], dtype=str),
        "used": np.array([not row["reason"] for row in rows], dtype=bool),
        "reason": np.array([row["reason"] for row in rows], dtype=object),
        "weight": np.zeros(len(rows)),
        "n_stars": np.array([row.get("n_stars", 0) for row in rows], dtype=int),
    }
    return Columns(columns | {name: np.array([row.get(name, np.nan) for row in rows], float) for name in _FLOATS})


def select(table: Columns, options: Mapping) -> Columns:
    """Mark the frames that pass every limit.

    Parameters
    ----------
    table : `~nightflow.products.Columns`
        From `make_table`.
    options : mapping
        Section ``selection`` of the configuration. A limit is a number in the unit of the measure, ``"3 sigma"``
        (robust standard deviations from the median of the group), ``"90 %"`` (quantile), or None. A measure that is
        unknown for a frame passes.

    Returns
    -------
    `~nightflow.products.Columns`
        Copy with ``used``, ``reason`` and ``weight`` filled in.

    Raises
    ------
    ValueError
        If a limit or a weight cannot be understood.
    """
    table = table.copy()
    candidates = np.array(table["used"], dtype=bool)
    for option, (column, words, unit, sign, floor) in _LIMITS.items():
        values = np.asarray(table[column], dtype=float)
        limit = _limit(option, options[option], values[candidates], sign, floor)
        for i in np.flatnonzero(candidates & (sign * values > sign * limit)):
            side, short = ("above", "maximum") if sign > 0 else ("below", "minimum")
            sentence = f"{words} {values[i]:.4g}{unit} is {side} the {short} {limit:.4g}{unit}"
            sentence = f"{sentence} ({option}: {options[option]})"
            table["reason"][i] = "; ".join(filter(None, (table["reason"][i], sentence)))
            table["used"][i] = False
    table["weight"] = frame_weights(table, options["weights"])
    return table


def _limit(option: str, setting, values: np.ndarray, sign: int, floor: tuple[float, float]) -> float:
    """Limit in the unit of the measure; infinite where none applies."""
    values = values[np.isfinite(values)]
    none = sign * np.inf
    if setting is None:
        return none
    if isinstance(setting, (int, float)) and not isinstance(setting, bool):
        return float(setting)
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(sigma|%)\s*", str(setting))
    if match is None:
        raise ValueError(f"selection.{option} is {setting!r}, must be a number, '3 sigma', '90 %' or null")
    number, kind = float(match[1]), match[2]
    if len(values) < _LEAST_FRAMES_FOR_SPREAD:
        return none
    if kind == "%":
        return float(np.quantile(values, number / 100, method="higher" if sign > 0 else "lower"))
    median = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - median)))
    return median + sign * number * max(spread, floor[0] * abs(median), floor[1])


def frame_weights(table, scheme: str) -> np.ndarray:
    """Weights of the frames in means, with mean 1 over those used and 0 for the others.

    Parameters
    ----------
    table : `~nightflow.products.Columns`
        ``flux_scale`` is taken as 1 where the column is missing.
    scheme : str
        ``none`` (all alike), ``exposure``, ``inverse_variance`` (of the sky, on the reference's flux scale),
        ``seeing`` (1 / FWHM^2) or ``stars``; or a column of numbers, whose values are the weights as they are. Where
        one is missing or not positive for a frame in use, all weigh alike.

    Raises
    ------
    ValueError
        If the scheme is unknown.
    """
    scale = np.asarray(table["flux_scale"], dtype=float) if "flux_scale" in table.colnames else np.ones(len(table))
    with np.errstate(divide="ignore", invalid="ignore"):
        schemes = {
            "none": np.ones(len(table)),
            "exposure": np.asarray(table["exptime"], dtype=float),
            "inverse_variance": 1 / (scale * np.asarray(table["sky_std"], dtype=float)) ** 2,
            "seeing": 1 / np.asarray(table["fwhm"], dtype=float) ** 2,
            "stars": np.asarray(table["n_stars"], dtype=float),
        }
    if scheme not in (*schemes, *WEIGHT_COLUMNS):
        allowed = f"{', '.join(WEIGHTS)} or a column: {', '.join(WEIGHT_COLUMNS)}"
        raise ValueError(f"selection.weights is {scheme!r}, must be one of {allowed}")
    if scheme in schemes:
        weights = schemes[scheme]
    elif scheme in table.colnames:
        weights = np.asarray(table[scheme], dtype=float)
    else:  # not measured yet
        weights = schemes["none"]
    used = np.asarray(table["used"], dtype=bool)
    if not (np.isfinite(weights[used]) & (weights[used] > 0)).all():
        weights = schemes["none"]
    return np.where(used, weights / weights[used].mean(), 0.0) if used.any() else np.zeros(len(table))


def choose_reference(table) -> str:
    """Frame on whose grid the others are stacked: the one that shows faint stars best.

    The noise of a star's flux grows as FWHM times the sky's standard deviation; among frames with at least 70 % of the
    median number of stars, the one with the least noise for its exposure is chosen.

    Raises
    ------
    RejectedFrame
        If no frame is in use.
    """
    used = table[np.asarray(table["used"], dtype=bool)]
    if len(used) == 0:
        raise RejectedFrame("no frame of this group can be used")
    stars = np.asarray(used["n_stars"], dtype=float)
    used = used[stars >= 0.7 * np.median(stars)]
    noise = np.ones(len(used))
    for column, power in (("fwhm", 1), ("sky_std", 1), ("exptime", -1)):
        values = np.asarray(used[column], dtype=float)
        if (np.isfinite(values) & (values > 0)).all():
            noise = noise * values**power
    best = min(range(len(used)), key=lambda i: (noise[i], str(used["frame"][i])))
    return str(used["frame"][best])


def matrix_of(row) -> np.ndarray:
    """Transform of a row of the selection, shape (3, 3), frame to reference pixels."""
    return np.array([[row[n] for n in _MATRIX[:3]], [row[n] for n in _MATRIX[3:]], [0.0, 0.0, 1.0]], dtype=float)


def write_selection(path, table) -> None:
    """Write a selection as tab-separated text; numbers keep all their digits."""
    with replacing(path) as scratch, open(scratch, "w", encoding="utf-8") as file:
        file.write("\t".join(table.colnames) + "\n")
        for row in table:
            file.write("\t".join(_cell(row[name]) for name in table.colnames) + "\n")


def _cell(value) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)):
        return "" if np.isnan(value) else repr(float(value))
    return re.sub(r"\s+", " ", str(value))


def read_selection(path) -> Columns:
    """Read what `write_selection` wrote."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    names = lines[0].split("\t")
    cells = list(zip(*(line.split("\t") for line in lines[1:]), strict=True)) or [[]] * len(names)
    return Columns({name: _column(name, column) for name, column in zip(names, cells, strict=True)})


def _column(name: str, cells: Sequence[str]) -> np.ndarray:
    if name in ("frame", "reason"):
        return np.array(cells, dtype=object)
    if name in ("used", "reference"):
        return np.array([cell == "true" for cell in cells], dtype=bool)
    if name in ("n_stars", "n_matched"):
        return np.array(cells, dtype=int)
    return np.array([float(cell) if cell else np.nan for cell in cells], dtype=float)
