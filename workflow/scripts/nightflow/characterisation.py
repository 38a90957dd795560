"""Gain, read noise and saturation of a camera, measured on a night's own frames and held against the header's.

Headers are often wrong about the gain: it may be that of another binning or setting. Read noise comes from pairs of
bias frames, gain from pairs of flats (photon transfer), saturation from values that pile up.
"""

from __future__ import annotations

import csv
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nightflow.atomic import write_if_changed
from nightflow.detector import Amplifier, SignalRows, find_saturation
from nightflow.medians import median_of_known
from nightflow.photontransfer import measure_gain, measure_read_noise, sample
from nightflow.products import RejectedFrame
from nightflow.rawfiles import JoinedRawFile, RawFile, open_sound

log = logging.getLogger(__name__)

COLUMNS = (
    *("camera", "amplifier", "n_bias", "n_flat", "gain_header", "gain_measured", "gain_used"),
    *("read_noise_header", "read_noise_measured", "read_noise_used"),
    *("saturation_header", "saturation_found", "saturation_used", "warning"),
)
_DISAGREEMENT = 0.2  # relative difference of header and measurement that is worth a warning
_UNITS = {"gain": "electron/ADU", "read_noise": "electron"}


@dataclass(frozen=True)
class _Part:
    """The pixels of one amplifier, above the level of the bias frames if these are given."""

    signal: SignalRows
    amplifier: Amplifier
    bias: _Level | None = None
    pedestal: float = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.amplifier.trimmed
        return rows.stop - rows.start, columns.stop - columns.start

    def rows(self, start: int, stop: int) -> np.ndarray:
        rows, columns = self.amplifier.trimmed
        strip = self.signal.rows(rows.start + start, rows.start + stop)[:, columns]
        return strip - (np.float32(self.pedestal) if self.bias is None else self.bias.rows(start, stop))


class _Level:
    """Mean of the bias frames; since every flat asks for the same few rows, they are kept."""

    def __init__(self, parts: Sequence[_Part]):
        self._parts, self._kept = parts, {}

    def rows(self, start: int, stop: int) -> np.ndarray:
        if (start, stop) not in self._kept:
            strips = [part.rows(start, stop) for part in self._parts]
            self._kept[start, stop] = np.mean(strips, axis=0, dtype=np.float32)
        return self._kept[start, stop]


def characterise(
    camera: str,
    bias: Sequence[tuple],
    flats: Sequence[Sequence[tuple]],
    lights: Sequence[tuple],
    detector: dict,
    options: dict,
) -> list[dict]:
    """Measure a camera.

    Parameters
    ----------
    camera : str
        What the rows are to be called.
    bias, lights : sequence of (path, hdu)
        Raw frames; the lights serve to find the saturation only.
    flats : sequence of sequences of (path, hdu)
        Raw flats of each filter.
    detector : dict
        What the header says, see `nightflow.detector`.
    options : dict
        ``gain``, ``read_noise`` and ``saturation`` (``header``, ``measured`` or a number), ``flat_min_level``,
        ``flat_max_level``, ``overscan_*``.

    Returns
    -------
    list of dict
        A row of `COLUMNS` for each amplifier; None where something is unknown. Gains in electron/ADU, read noise in
        electron, saturation in ADU.
    """
    bias = [SignalRows(raw, detector, options) for raw in _opened(bias)]
    flats = [[SignalRows(raw, detector, options) for raw in _opened(members)] for members in flats]
    found = None if detector.get("saturation") else _saturation(flats, _opened(lights))
    saturation = detector.get("saturation") or found
    every = [*bias, *(flat for members in flats for flat in members)]
    amplifiers = every[0].amplifiers if every else [None]
    rows = []
    for number, amplifier in enumerate(amplifiers):
        row = {"camera": camera, "amplifier": number, "n_bias": len(bias), "n_flat": sum(map(len, flats))}
        row |= _measured(amplifier, bias, flats, saturation, detector, options)
        row |= {"saturation_header": detector.get("saturation"), "saturation_found": found}
        rows.append(_decided(row, options))
    return rows


def _opened(frames: Sequence[tuple]) -> list[RawFile | JoinedRawFile]:
    opened = []
    for path, hdu in frames:
        try:
            raw = open_sound(path, hdu)
            if not opened or raw.shape == opened[0].shape:
                opened.append(raw)
        except RejectedFrame as verdict:
            log.warning("left out: %s", verdict.reason)
    return opened


def _saturation(flats: Sequence[Sequence[SignalRows]], lights: Sequence[RawFile | JoinedRawFile]) -> float | None:
    """The value at which most of the frames that saturate pile up, or None."""
    raws = [*lights, *(flat.raw for members in flats for flat in members)]
    found = Counter(value for raw in raws if (value := find_saturation(raw.rows(0, raw.shape[0]))) is not None)
    return max(found, key=lambda value: (found[value], value)) if found else None


def _measured(
    amplifier: Amplifier | None, bias, flats, saturation: float | None, detector: dict, options: dict
) -> dict:
    row = {
        "gain_header": amplifier.gain if amplifier else detector.get("gain"),
        "read_noise_header": amplifier.read_noise if amplifier else detector.get("read_noise"),
    }
    parts = tuple(_Part(signal, amplifier) for signal in bias)
    noise = measure_read_noise(parts) if len(parts) > 1 else None  # ADU
    row["gain_measured"] = _gain(amplifier, parts, flats, noise, saturation, detector, options)
    row["noise"] = noise
    return row


def _gain(amplifier, bias: tuple, flats, noise, saturation, detector: dict, options: dict) -> float | None:
    """Mean of the gains that the pairs of each filter give, or None."""
    if amplifier is None:
        return None
    overscanned = amplifier.overscan is not None
    if not bias and not overscanned and detector.get("pedestal") is None:
        return None  # nothing tells the level without light
    pedestal = 0.0 if overscanned else detector.get("pedestal") or 0.0
    if noise is None:
        noise = (amplifier.read_noise or 0.0) / (amplifier.gain or 1.0)
    level = _Level(bias) if bias else None
    gains = []
    for members in flats:
        lit = [_Part(signal, amplifier, level, pedestal) for signal in members]
        gain = measure_gain([part for part in lit if _is_usable(part, saturation, options)], noise)
        gains += [gain] if gain is not None else []
    return float(np.mean(gains)) if gains else None


def _is_usable(flat: _Part, saturation: float | None, options: dict) -> bool:
    bright = median_of_known(sample(flat.signal.raw))
    too_bright = saturation is not None and bright > options.get("flat_max_level", 0.9) * saturation
    return not too_bright and median_of_known(sample(flat)) >= options.get("flat_min_level", 500.0)


def _decided(row: dict, options: dict) -> dict:
    """`row` with what calibration uses, and warnings where header and measurement disagree."""
    noise = row.pop("noise")  # ADU
    row["gain_used"], warnings = _choice("gain", row, options)
    gain = row["gain_used"]
    row["read_noise_measured"] = noise * gain if noise is not None and gain else None
    row["read_noise_used"], more = _choice("read_noise", row, options)
    if row["read_noise_used"] is None:
        row["read_noise_used"] = row["read_noise_measured"]
    known = row["saturation_header"]
    row["saturation_used"] = row["saturation_found"] if known is None else known
    row["warning"] = "; ".join(warnings + more)
    return row


def _choice(name: str, row: dict, options: dict) -> tuple[float | None, list[str]]:
    """The gain or read noise to use, and warnings; a number of the configuration stands in for the header's."""
    header, measured, chosen = row[f"{name}_header"], row[f"{name}_measured"], options.get(name, "header")
    words, warnings = name.replace("_", " "), []
    used = measured if chosen == "measured" and measured is not None else header
    if chosen == "measured" and measured is None and header:
        warnings.append(f"{words} could not be measured, the header's is used")
    if name == "gain" and used is None:
        advice = f"; {measured:.4g} {_UNITS[name]} as measured, for calibration.gain: measured" if measured else ""
        warnings.append(f"gain is unknown: pixels stay in ADU{advice}")
    if header and measured and abs(measured / header - 1) > _DISAGREEMENT:
        source = "configuration" if isinstance(chosen, (int, float)) else "header"
        found = f"{words} is {measured:.4g} {_UNITS[name]} as measured, {header:.4g} in the {source}"
        warnings.append(f"{found}; used is {used:.4g}")
    for sentence in warnings:
        log.warning("%s", sentence)
    return used, warnings


def with_measurements(detector: dict, rows: list[dict]) -> dict:
    """`detector` with the gain, read noise and saturation that a characterisation decided on.

    Parameters
    ----------
    detector : dict
        What the header says.
    rows : list of dict
        From `characterise`, or `read_table`.
    """
    used = [{name: row[f"{name}_used"] for name in ("gain", "read_noise")} for row in rows]
    known = [{name: value for name, value in values.items() if value is not None} for values in used]
    updated = {**detector, "saturation": detector.get("saturation") or rows[0]["saturation_used"]}
    if detector.get("amplifiers") and len(detector["amplifiers"]) == len(rows):
        return updated | {"amplifiers": [amp | new for amp, new in zip(detector["amplifiers"], known, strict=True)]}
    return updated | known[0]


def write_table(path: str | os.PathLike, rows: list[dict]) -> None:
    """Write rows of `COLUMNS` as a tab-separated table, empty cells where something is unknown."""
    lines = ["\t".join(COLUMNS), *("\t".join(_cell(row.get(column)) for column in COLUMNS) for row in rows)]
    write_if_changed(path, "\n".join(lines) + "\n")


def _cell(value) -> str:
    return "" if value is None else f"{value:.7g}" if isinstance(value, float) else str(value)


def read_table(path: str | os.PathLike) -> list[dict]:
    """Rows of a table that `write_table` wrote."""
    with Path(path).open(encoding="utf-8", newline="") as table:
        return [
            {name: _value(name, text) for name, text in row.items()} for row in csv.DictReader(table, delimiter="\t")
        ]


def _value(name: str, text: str):
    if name in ("camera", "warning"):
        return text
    return float(text) if text else None
