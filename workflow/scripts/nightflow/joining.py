"""Detectors whose amplifiers are read out into extensions of their own: which belong together, and where each lies.

The place of an amplifier on its detector is written as a section such as ``[4096:2049,1:2048]``; numbers that fall say
that the pixels were read out in the opposite direction. The image of such a detector is read as if its extensions lay
one above the other, in the order given here, and becomes whole when the data sections are joined.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SECTION = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]")


@dataclass(frozen=True)
class _Placed:
    """One extension: its standard values, and its first and last pixel on the detector, rows first."""

    hdu: dict
    values: dict
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def corner(self) -> tuple[int, int]:
        return min(self.rows), min(self.columns)


def join_amplifiers(rows: list[tuple[dict, dict]], keyword: str) -> list[tuple[dict, dict]]:
    """Images of a file, with the amplifiers of one detector joined into one image.

    Extensions belong together if they name the same chip, or none. They stay apart where a place is missing, where two
    places overlap, or where their sizes differ.

    Parameters
    ----------
    rows : list of (dict, dict)
        Extensions, as `nightflow.inventory.read_headers` gives them, and their standard values.
    keyword : str
        Card that holds an amplifier's place on the detector.

    Returns
    -------
    list of (dict, dict)
        In the order of their first extensions. ``hdu`` of a joined image is a text such as ``1+2``, the lowest left
        amplifier first; its values have ``amplifiers``, each with ``place`` and ``flip``.
    """
    chips: dict[object, list] = {}
    for row in rows:
        chips.setdefault(row[1].get("chip"), []).append(row)
    return [image for chip in chips.values() for image in _joined(chip, keyword)]


def _joined(rows: list[tuple[dict, dict]], keyword: str) -> list[tuple[dict, dict]]:
    placed = [_placed(hdu, values, keyword) for hdu, values in rows]
    if len(rows) < 2 or None in placed or len({tuple(hdu["shape"]) for hdu, _ in rows}) > 1:
        return rows
    placed.sort(key=lambda amp: amp.corner)
    if any(_overlap(one, other) for i, one in enumerate(placed) for other in placed[:i]):
        return rows
    first = tuple(min(amp.corner[axis] for amp in placed) for axis in (0, 1))
    ny, nx = placed[0].hdu["shape"]
    hdu = {
        **placed[0].hdu,
        "hdu": "+".join(str(amp.hdu["hdu"]) for amp in placed),
        "shape": (ny * len(placed), nx),
        "error": next((amp.hdu["error"] for amp in placed if amp.hdu.get("error")), None),
    }
    amplifiers = [_amplifier(amp, number * ny, first) for number, amp in enumerate(placed)]
    saturations = [amp.values["saturation"] for amp in placed if amp.values.get("saturation") is not None]
    values = {**placed[0].values, "amplifiers": amplifiers, "trim": None, "overscan": None}
    return [(hdu, values | {"saturation": min(saturations, default=None)})]


def _placed(hdu: dict, values: dict, keyword: str) -> _Placed | None:
    section = _SECTION.fullmatch(str(hdu["cards"].get(keyword, "")).strip())
    if section is None:
        return None
    x1, x2, y1, y2 = (int(number) for number in section.groups())
    return _Placed(hdu, values, (y1, y2), (x1, x2))


def _overlap(one: _Placed, other: _Placed) -> bool:
    return all(min(a) <= max(b) and min(b) <= max(a) for a, b in ((one.rows, other.rows), (one.columns, other.columns)))


def _amplifier(amp: _Placed, offset: int, first: tuple[int, int]) -> dict:
    """What `nightflow.detector` needs to know of an amplifier that lies `offset` rows up in the raw image."""
    shape = amp.hdu["shape"]
    whole = (slice(0, shape[0]), slice(0, shape[1]))
    data = amp.values.get("trim") or whole
    overscan = amp.values.get("overscan")
    return {
        "data": _lifted(data, offset),
        "overscan": _lifted(overscan, offset) if overscan else None,
        "place": tuple(
            _binned(ends, start, part) for ends, start, part in zip((amp.rows, amp.columns), first, data, strict=True)
        ),
        "flip": [ends[1] < ends[0] for ends in (amp.rows, amp.columns)],
        **{name: amp.values[name] for name in ("gain", "read_noise") if amp.values.get(name) is not None},
    }


def _lifted(section: tuple[slice, slice], offset: int) -> tuple[slice, slice]:
    rows, columns = section
    return slice(rows.start + offset, rows.stop + offset), columns


def _binned(ends: tuple[int, int], first: int, data: slice) -> slice:
    """Place along one axis in binned pixels: places are told in those of the detector."""
    size = data.stop - data.start
    binning = max(1, round((abs(ends[1] - ends[0]) + 1) / size))
    start = (min(ends) - first) // binning
    return slice(start, start + size)
