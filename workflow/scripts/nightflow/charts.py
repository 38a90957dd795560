"""Charts of a measure against time as SVG, for pages: they take their colours from the page, in light and dark.

Time runs from night to night, each as wide as it is long, with the days between left out. Dots of one filter are one
path, so that thousands of frames stay small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 560, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 12, 40
COLOURS = 8  # classes f0 ... f7 of the style sheet
_GAP = 14  # between nights, px
_SEPARATE = 0.4  # days without a frame that separate nights
_MOST_NIGHTS = 12  # more are drawn on one axis of days

STYLE = """\
.chart { --f0: #0060a8; --f1: #b34700; --f2: #00795a; --f3: #a3307a; --f4: #7a6000; --f5: #5b45c4; --f6: #b0182b;
  --f7: #4a5560; --ink: #1c1f24; --rule: #c9ced6; }
@media (prefers-color-scheme: dark) { .chart { --f0: #6cb6ff; --f1: #ffa36b; --f2: #4fd1a5; --f3: #f28fd0;
  --f4: #e3c558; --f5: #b3a4ff; --f6: #ff8f9b; --f7: #b5c0cc; --ink: #e6e9ee; --rule: #454c57; } }
.chart text { fill: var(--ink); font: 13px system-ui, sans-serif; }
.chart .rule { stroke: var(--rule); fill: none; }
.chart .dot { fill: none; stroke-width: 6; stroke-linecap: round; }
.chart .out { fill: none; stroke-width: 1.6; }
""" + "".join(f".chart .f{n} {{ stroke: var(--f{n}); }}\n" for n in range(COLOURS))


@dataclass(frozen=True)
class TimeAxis:
    """Positions of times along a chart.

    Attributes
    ----------
    spans : tuple of (float, float, float, float)
        First and last time of each night (MJD), and the pixels where it begins and ends.
    """

    spans: tuple[tuple[float, float, float, float], ...]

    @classmethod
    def of(cls, times: Sequence[float]) -> TimeAxis:
        """The axis for all `times` (MJD), those not finite left out."""
        known = np.unique(np.asarray(times, dtype=float))
        known = known[np.isfinite(known)]
        if not known.size:
            return cls(())
        nights = np.split(known, np.flatnonzero(np.diff(known) > _SEPARATE) + 1)
        nights = nights if len(nights) <= _MOST_NIGHTS else [known]
        lengths = [max(float(night[-1] - night[0]), 1e-3) for night in nights]
        free = WIDTH - _LEFT - _RIGHT - _GAP * len(nights)
        spans, x = [], _LEFT + _GAP / 2
        for night, length in zip(nights, lengths, strict=True):
            # half of the width is shared equally, so that a short night can be read beside a long one
            width = free * (0.5 / len(nights) + 0.5 * length / sum(lengths))
            spans.append((float(night[0]), float(night[0]) + length, x, x + width))
            x += width + _GAP
        return cls(tuple(spans))

    def position(self, time: float) -> float | None:
        """Pixel of a time, None outside the axis."""
        for first, last, left, right in self.spans:
            if first <= time <= last:
                return left + (right - left) * (time - first) / (last - first)
        return None

    def draw(self) -> str:
        """Labels below the axis: hours within a night, and its date."""
        return "".join(self._night(*span) for span in self.spans)

    def _night(self, first: float, last: float, left: float, right: float) -> str:
        base = HEIGHT - _BOTTOM
        parts = [f'<path class="rule" d="M{left - _GAP / 2:.1f} {base}V{_TOP}M{left:.1f} {base}H{right:.1f}"/>']
        long = last - first > 2
        if right - left > 90:
            for tick in _ticks(
                first if long else first * 24, last if long else last * 24, 4 if right - left < 250 else 6
            ):
                x = self.position(tick if long else tick / 24)
                if x is not None:
                    label = _date(tick) if long else _clock(tick)
                    parts.append(f'<path class="rule" d="M{x:.1f} {base}v4"/>{_text(x, base + 17, label, "middle")}')
        if not long:
            parts.append(_text((left + right) / 2, base + 34, _date(first) + " UTC", "middle"))
        return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _clock(hours: float) -> str:
    minutes = round(hours * 60)
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"


def _date(mjd: float) -> str:
    from datetime import date, timedelta

    try:
        return (date(1858, 11, 17) + timedelta(days=math.floor(mjd))).isoformat()
    except OverflowError:
        return f"MJD {mjd:.0f}"


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from `low` to `high`, at most `most` or so."""
    step = 10 ** math.floor(math.log10((high - low) / most)) if high > low else 1.0
    step = next((step * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) <= most), step)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def chart(axis: TimeAxis, times, values, groups: Sequence[int], used, title: str, unit: str, upside_down=False) -> str:
    """A measure of the lights against time.

    Parameters
    ----------
    axis : `TimeAxis`
    times : ndarray, shape (n,)
        MJD.
    values : ndarray, shape (n,)
        The measure; NaN where unknown.
    groups : sequence of int, shape (n,)
        Number of the filter, for the colour.
    used : sequence of bool, shape (n,)
        Stacked lights are dots, others crosses.
    title, unit : str
        For the label of the axis and for screen readers.
    upside_down : bool
        Whether smaller values are drawn above, as for magnitudes of a sky.

    Returns
    -------
    str
        An ``svg`` element; empty if no value is known.
    """
    values = np.asarray(values, dtype=float)
    shown = [i for i in np.flatnonzero(np.isfinite(values)) if axis.position(times[i]) is not None]
    if not shown:
        return ""
    low, high = float(values[shown].min()), float(values[shown].max())
    margin = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    low, high = low - margin, high + margin
    inner = HEIGHT - _TOP - _BOTTOM

    def y(value: float) -> float:
        part = (value - low) / (high - low)
        return _TOP + inner * (part if upside_down else 1 - part)

    places = {i: (axis.position(times[i]), y(values[i])) for i in shown}
    middle = float(np.median(values[shown]))
    label = (
        f"{title} against time, {len(shown)} lights: from {values[shown].min():.4g} to {values[shown].max():.4g}"
        f"{' ' + unit if unit else ''}, median {middle:.4g}"
    )
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{_levels(low, high, y)}{axis.draw()}{_marks(places, groups, used)}</svg>'
    )


def _levels(low: float, high: float, y) -> str:
    ticks = _ticks(low, high, 5)
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9)) if len(ticks) > 1 else 2
    parts = []
    for tick in ticks:
        parts.append(f'<path class="rule" d="M{_LEFT} {y(tick):.1f}H{WIDTH - _RIGHT}" opacity=".45"/>')
        parts.append(_text(_LEFT - 6, y(tick) + 4.5, f"{tick:.{min(digits, 6)}f}", "end"))
    return "".join(parts)


def _marks(places: dict[int, tuple[float, float]], groups: Sequence[int], used) -> str:
    """One path for the dots of each filter and one for its crosses; ``data-i`` numbers the lights in it."""
    parts = []
    for group in sorted({groups[i] for i in places}):
        for kind, draw in (("dot", "M{:.1f} {:.1f}h0"), ("out", "M{:.1f} {:.1f}m-4-4l8 8m0-8l-8 8")):
            members = [i for i in places if groups[i] == group and bool(used[i]) == (kind == "dot")]
            if members:
                path = "".join(draw.format(*places[i]) for i in members)
                numbers = " ".join(map(str, members))
                parts.append(f'<path class="{kind} f{group % COLOURS}" data-i="{numbers}" d="{path}"/>')
    return "".join(parts)


def sheet(charts: Sequence[tuple[str, str]]) -> str:
    """Charts with their titles below each other, as one SVG file of its own.

    Parameters
    ----------
    charts : sequence of (str, str)
        Titles and ``svg`` elements.
    """
    height = HEIGHT + 30
    parts = [
        f'<g class="chart">{_text(_LEFT, n * height + 20, title, "start")}</g>'
        + svg.replace("<svg ", f'<svg x="0" y="{n * height + 26}" width="{WIDTH}" height="{HEIGHT}" ', 1)
        for n, (title, svg) in enumerate(charts)
    ]
    total = max(1, len(charts)) * height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}">'
        f"<style>{STYLE} svg {{ background: #fff; }} "
        f"@media (prefers-color-scheme: dark) {{ svg {{ background: #16191e; }} }}</style>{''.join(parts)}</svg>\n"
    )
