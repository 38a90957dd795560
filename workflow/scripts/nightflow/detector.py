"""What the detector does to a frame: overscan, amplifiers, linearity and saturation.

A detector is a plain dict of what is known of it: ``gain`` (electron/ADU), ``read_noise`` (electron), ``saturation``,
``linearity_limit`` and ``pedestal`` (ADU), ``overscan`` and ``trim`` (pairs of slices, or of first and last + 1, rows
first), ``linearity``
(coefficients c0, c1, ... of the true signal as a polynomial of the measured one, both in ADU above the bias) and
``amplifiers``, a list of dicts with ``data`` and ``overscan`` sections, ``gain`` and ``read_noise`` of their own; where
the data sections do not lie in their places already, also ``place``, a section of the trimmed frame, and ``flip``, for
rows and columns. An absent key or None means unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nightflow.combine import median_variance_factor
from nightflow.products import RejectedFrame

#: Top values of analogue-to-digital converters of 8 to 16 bits, and of signed 16-bit files.
_CONVERTER_LIMITS = frozenset(2**bits - 1 for bits in (8, 10, 12, 14, 15, 16))
_READ_BLOCK = 1 << 22  # pixels


def find_saturation(raw: np.ndarray) -> float | None:
    """Value at which a detector of unknown saturation clips, where the pixels themselves show it.

    Clipped pixels pile up at exactly the largest value. A single bright pixel never counts: at least three pixels must
    share the maximum, many more than share any other of the highest values.

    Parameters
    ----------
    raw : ndarray, shape (ny, nx)
        Raw pixels in ADU.

    Returns
    -------
    float or None
        The saturated value in ADU, or None where nothing piles up.
    """
    with np.errstate(invalid="ignore"):
        highest = float(np.fmax.reduce(raw, axis=None))
        top = raw[raw >= highest - max(0.05 * abs(highest), 10.0)]
    values, counts = np.unique(top, return_counts=True)
    if values.size == 0:
        return None
    if counts[-1] == raw.size:  # one value everywhere is a saturated frame only at a converter's limit
        return highest if highest in _CONVERTER_LIMITS else None
    mean_below = counts[:-1].sum() / max(highest - float(values[0]), 1.0) if values.size > 1 else 0.0
    most_below = counts[:-1].max(initial=0)
    return highest if counts[-1] >= 3 and counts[-1] > max(10 * mean_below, 3 * most_below) else None


@dataclass(frozen=True)
class Amplifier:
    """One amplifier: its sections of the raw and of the trimmed frame (rows, columns), gain and read noise.

    `flip` tells for rows and columns whether they were read out in the opposite direction.
    """

    data: tuple[slice, slice]
    overscan: tuple[slice, slice] | None
    trimmed: tuple[slice, slice]
    gain: float | None
    read_noise: float | None
    flip: tuple[bool, bool] = (False, False)

    def turned(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels of the data section as they lie on the trimmed frame."""
        return pixels[:: -1 if self.flip[0] else 1, :: -1 if self.flip[1] else 1]


def amplifiers(detector: dict, shape: tuple[int, int]) -> list[Amplifier]:
    """The amplifiers of a detector; one that reads everything unless ``detector['amplifiers']`` lists several.

    Raises
    ------
    RejectedFrame
        If a section does not lie on the frame.
    """
    sections = detector.get("amplifiers") or [detector | {"data": detector.get("trim")}]
    whole = (slice(0, shape[0]), slice(0, shape[1]))
    data = [_section_within(amp.get("data") or whole, shape) for amp in sections]
    rows = np.unique(np.concatenate([np.arange(d[0].start, d[0].stop) for d in data]))
    columns = np.unique(np.concatenate([np.arange(d[1].start, d[1].stop) for d in data]))
    return [
        Amplifier(
            data=d,
            overscan=_section_within(amp["overscan"], shape) if amp.get("overscan") else None,
            trimmed=_as_slices(amp.get("place")) or (_renumbered(d[0], rows), _renumbered(d[1], columns)),
            gain=amp.get("gain", detector.get("gain")),
            read_noise=amp.get("read_noise", detector.get("read_noise")),
            flip=tuple(amp.get("flip") or (False, False)),
        )
        for amp, d in zip(sections, data, strict=True)
    ]


def _section_within(section, shape: tuple[int, int]) -> tuple[slice, slice]:
    section = _as_slices(section)
    rows, columns = (slice(*part.indices(n)[:2]) for part, n in zip(section, shape, strict=True))
    beyond = any(part.stop is not None and part.stop > n for part, n in zip(section, shape, strict=True))
    if beyond or rows.stop <= rows.start or columns.stop <= columns.start:
        raise RejectedFrame(f"the section {_fits_section(section)} does not lie on a frame of {shape[1]} x {shape[0]}")
    return rows, columns


def _as_slices(section) -> tuple[slice, slice] | None:
    return section and tuple(part if isinstance(part, slice) else slice(*part) for part in section)


def _fits_section(section) -> str:
    rows, columns = section
    return f"[{(columns.start or 0) + 1}:{columns.stop},{(rows.start or 0) + 1}:{rows.stop}]"


def _renumbered(part: slice, kept: np.ndarray) -> slice:
    start = int(np.searchsorted(kept, part.start))
    return slice(start, start + part.stop - part.start)


def trimmed_shape(amps: list[Amplifier]) -> tuple[int, int]:
    """Rows and columns that are left when only the data sections are kept."""
    return max(amp.trimmed[0].stop for amp in amps), max(amp.trimmed[1].stop for amp in amps)


def by_amplifier(amps: list[Amplifier], value: Callable[[Amplifier], float]) -> float | np.ndarray:
    """A number for the whole detector, or an image, shape (ny, nx), where the amplifiers differ."""
    numbers = [value(amp) for amp in amps]
    if len(set(numbers)) == 1:
        return numbers[0]
    image = np.full(trimmed_shape(amps), np.nan, np.float32)
    for amp, number in zip(amps, numbers, strict=True):
        image[amp.trimmed] = number
    return image


class SignalRows:
    """Strips of a raw frame with the overscan level subtracted and the data sections joined, in ADU.

    Parameters
    ----------
    raw : `~nightflow.rawfiles.RawFile` or `~nightflow.combine.ArrayRows`
        The raw frame.
    detector : dict
        What is known of the detector.
    options : dict
        ``overscan_method`` (median, smooth or polynomial), ``overscan_smooth`` (rows), ``overscan_order``.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns after trimming.
    origin : tuple of int or None
        Row and column of the raw frame that come first; None where these were read out backwards.
    overscan_level : float or None
        Mean level that was subtracted, ADU.
    noise_factor : float
        Variance of a pixel after the subtraction in units of the read noise's: the overscan level has noise too.
    """

    def __init__(self, raw, detector: dict, options: dict):
        self.raw = raw
        self.amplifiers = amplifiers(detector, raw.shape)
        self.shape = trimmed_shape(self.amplifiers)
        self._levels = [_overscan_levels(raw, amp, options) for amp in self.amplifiers]
        known = [level for level in self._levels if level is not None]
        self.overscan_level = float(np.mean([level.mean() for level in known])) if known else None
        self.noise_factor = np.float32(1 + max(_level_variance(amp, options) for amp in self.amplifiers))
        corner = min(self.amplifiers, key=lambda amp: (amp.trimmed[0].start, amp.trimmed[1].start))
        self.origin = None if any(corner.flip) else (corner.data[0].start, corner.data[1].start)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of the trimmed frame as float32, shape (stop - start, nx)."""
        if len(self.amplifiers) == 1:
            return self._amplifier_rows(0, start, stop)
        strip = np.full((stop - start, self.shape[1]), np.nan, np.float32)
        for index, amp in enumerate(self.amplifiers):
            first, last = max(start, amp.trimmed[0].start), min(stop, amp.trimmed[0].stop)
            if first < last:
                shift = amp.trimmed[0].start
                strip[first - start : last - start, amp.trimmed[1]] = self._amplifier_rows(
                    index, first - shift, last - shift
                )
        return strip

    def trim(self, image: np.ndarray) -> np.ndarray:
        """The data sections of an array of the raw frame's shape, joined."""
        trimmed = np.zeros(self.shape, image.dtype)
        for amp in self.amplifiers:
            trimmed[amp.trimmed] = amp.turned(image[amp.data])
        return trimmed

    def overscan_method(self, options: dict) -> str:
        """How the overscan level was found, ``none`` without overscan."""
        return "none" if self.overscan_level is None else options.get("overscan_method", "median")

    def _amplifier_rows(self, index: int, start: int, stop: int) -> np.ndarray:
        amp, level = self.amplifiers[index], self._levels[index]
        first, last = amp.data[0].start, amp.data[0].stop
        if amp.flip[0]:
            start, stop = last - first - stop, last - first - start
        strip = self.raw.rows(first + start, first + stop)[:, amp.data[1]]
        if level is None:
            return amp.turned(strip).copy()  # the strip may be a view of the raw frame
        return amp.turned(strip - (level[start:stop] if level.shape[1] == 1 else level))


def _is_beside(amp: Amplifier) -> bool:
    """Whether the overscan lies beside the data (one level a row) rather than above or below (one a column)."""
    return amp.overscan[1].start >= amp.data[1].stop or amp.overscan[1].stop <= amp.data[1].start


def _overscan_levels(raw, amp: Amplifier, options: dict) -> np.ndarray | None:
    """Overscan level of each row, shape (n, 1), or of each column, shape (1, n), of the data section."""
    if amp.overscan is None:
        return None
    axis = 1 if _is_beside(amp) else 0
    strip = _read_section(raw, amp.overscan)
    along, data = amp.overscan[1 - axis], amp.data[1 - axis]
    level = overscan_level(np.moveaxis(strip, axis, 1), options)
    level = np.interp(np.arange(data.start, data.stop), np.arange(along.start, along.stop), level)
    return np.expand_dims(level.astype(np.float32), axis)


def _read_section(raw, section: tuple[slice, slice]) -> np.ndarray:
    rows, columns = section
    height = max(1, _READ_BLOCK // raw.shape[1])
    starts = range(rows.start, rows.stop, height)
    return np.concatenate([raw.rows(y, min(y + height, rows.stop))[:, columns] for y in starts])


def overscan_level(strip: np.ndarray, options: dict) -> np.ndarray:
    """Level of each row of an overscan strip.

    Parameters
    ----------
    strip : ndarray, shape (n_rows, n_overscan)
        Overscan pixels in ADU.
    options : dict
        ``overscan_method``: ``median`` takes each row's median, ``smooth`` a running mean of these over
        ``overscan_smooth`` rows, ``polynomial`` a polynomial of degree ``overscan_order`` through them.

    Returns
    -------
    ndarray of float64, shape (n_rows,)
    """
    level = np.nanmedian(strip, axis=1).astype(np.float64)
    method = options.get("overscan_method", "median")
    if method == "median":
        return level
    if method == "smooth":
        return _running_mean(level, int(options.get("overscan_smooth", 25)))
    if method == "polynomial":
        row = np.linspace(-1, 1, level.size)
        coefficients = np.polynomial.polynomial.polyfit(row, level, int(options.get("overscan_order", 3)))
        return np.polynomial.polynomial.polyval(row, coefficients)
    raise ValueError(f"overscan_method is {method!r}, expected median, smooth or polynomial")


def _running_mean(level: np.ndarray, width: int) -> np.ndarray:
    kernel = np.ones(min(width, level.size))
    return np.convolve(level, kernel, "same") / np.convolve(np.ones(level.size), kernel, "same")


def _level_variance(amp: Amplifier, options: dict) -> float:
    """Variance of an overscan level in units of the read noise's."""
    if amp.overscan is None:
        return 0.0
    rows, columns = (part.stop - part.start for part in amp.overscan)
    across, along = (columns, rows) if _is_beside(amp) else (rows, columns)
    averaged = {
        "median": 1.0,
        "smooth": min(options.get("overscan_smooth", 25), along),
        "polynomial": along / (options.get("overscan_order", 3) + 1),
    }
    return median_variance_factor(across) / (across * averaged[options.get("overscan_method", "median")])


def linearise(signal: np.ndarray, coefficients) -> np.ndarray:
    """True signal from the measured one, both in ADU above the bias level.

    Parameters
    ----------
    signal : ndarray
        Measured signal.
    coefficients : sequence of float or None
        c0, c1, ... of ``c0 + c1 x + c2 x**2 + ...``; None for a linear detector.
    """
    if coefficients is None:
        return signal
    return np.polynomial.polynomial.polyval(signal, np.asarray(coefficients, signal.dtype))


def linearity_slope(signal: np.ndarray, coefficients) -> np.ndarray | float:
    """Derivative of `linearise`: by this factor it stretches the read noise."""
    if coefficients is None:
        return 1.0
    derivative = np.polynomial.polynomial.polyder(np.asarray(coefficients, signal.dtype))
    return np.polynomial.polynomial.polyval(signal, derivative)
