"""Calibrating a frame: from raw ADU to electrons with mask planes and uncertainty.

The order is: saturation flagged, overscan, trim, bias, linearity, gain, uncertainty, dark, flat. Pixels are never
clipped at zero, and NaN only where there are no data.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from astropy.io import fits

from nightflow import detector as detectors
from nightflow.combine import ArrayRows
from nightflow.detector import SignalRows
from nightflow.photontransfer import clipped_deviation, sample
from nightflow.products import Image, MaskBit, RejectedFrame, clean_header
from nightflow.rawfiles import read_raw

__all__ = ["DarkSubtracted", "calibrate", "read_raw"]

log = logging.getLogger(__name__)

_BLOCK_PIXELS = 1 << 16  # the arrays of a block stay in the processor's cache
_COORDINATES = re.compile(r"(CTYPE|CRPIX|CRVAL|CDELT|CUNIT|CROTA)[12][A-Z]?|(CD|PC)[12]_[12][A-Z]?")
_NOISE_ROWS = 64  # rows on which the masters' noise is measured


def calibrate(
    raw: np.ndarray,
    header: fits.Header,
    detector: dict,
    bias: Image | None,
    dark: Image | None,
    flat: Image | None,
    bad_pixels: np.ndarray | None,
    options: dict,
) -> Image:
    """Calibrate one frame.

    With k the exposure time in units of the dark's, the result is
    ``gain (light - (1 - k) bias - k dark) / flat``, linearised where the detector has a polynomial.

    Parameters
    ----------
    raw : ndarray, shape (ny, nx)
        Raw pixels in ADU.
    header : `~astropy.io.fits.Header`
        Standardised header, with EXPTIME (s).
    detector : dict
        What is known of the detector, see `nightflow.detector`.
    bias, dark, flat : Image or None
        Masters as `nightflow.masters` makes them; None leaves that step out.
    bad_pixels : ndarray of uint16 or None, shape of the trimmed frame
        Mask with the bit BAD.
    options : dict
        ``overscan_*``, ``saturation_grow`` (pixels), ``max_saturated`` (part of the pixels), ``match.dark.exposure``.

    Returns
    -------
    Image
        In electrons, or in ADU where the gain is unknown. VARMODEL in the header names the terms of the variance.

    Raises
    ------
    RejectedFrame
        If the frame cannot be calibrated: saturated, without valid pixels, of another shape than its masters, or
        without what the scaling of the dark needs.
    """
    raw = np.asarray(raw, dtype=np.float32)
    _check_pixels(raw, header)
    signal = SignalRows(ArrayRows(raw), detector, options)
    _check_shapes(signal.shape, header, bias=bias, dark=dark, flat=flat, bad_pixels=bad_pixels)
    saturation = detector.get("saturation") or detectors.find_saturation(raw)
    mask = _detector_mask(raw, signal, saturation, detector, options)
    _check_saturated(mask, options, header)

    frame = DarkSubtracted(signal, header.get("EXPTIME"), detector, bias, dark, exposure_tolerance(options))
    if frame.gain is None:
        log.warning("the gain is unknown: pixels stay in ADU")
    science, uncertainty = np.empty(signal.shape, np.float32), np.empty(signal.shape, np.float32)
    for rows in _blocks(signal.shape):
        pixels, variance = frame.with_variance(rows.start, rows.stop)
        if flat is not None:
            _divide(pixels, variance, flat.data[rows], flat.uncertainty[rows])
        science[rows] = pixels
        np.sqrt(variance, out=uncertainty[rows])
    for plane in (flat.mask if flat is not None else None, bad_pixels):
        if plane is not None:
            mask |= plane.astype(np.uint16, copy=False)
    _set_no_data(science, uncertainty, mask)
    _check_usable(mask, header)
    cards = _header(header, frame, flat, saturation, options)
    cards["CALNOISE"] = (_masters_noise(frame, science, flat), f"[{frame.unit}] masters' part of a sky pixel's sigma")
    return Image(science, mask, uncertainty, cards)


def _masters_noise(frame: DarkSubtracted, science: np.ndarray, flat: Image | None) -> float:
    """Median over the pixels of what the masters' noise adds to the uncertainty of one that shows the median signal.

    This part is common to all frames that share the masters: a stack without dithers does not average it down.
    """
    rows = [slice(y, y + 1) for y in np.linspace(0, science.shape[0] - 1, _NOISE_ROWS).astype(int)]
    level = float(np.nanmedian(science[[part.start for part in rows]]))
    variances = []
    for part in rows:
        variance = np.zeros((1, science.shape[1]), np.float32) + frame.masters_variance(part)
        if flat is not None:
            variance += np.square(level * flat.uncertainty[part])
            variance /= np.square(flat.data[part])
        variances.append(variance)
    return float(np.sqrt(np.nanmedian(variances)))


class DarkSubtracted:
    """Strips of a frame without bias and dark, linear, in electrons, or in ADU where the gain is unknown.

    The master dark holds the bias, so that ``bias + k (dark - bias)`` comes off. Without a bias level only a dark of
    equal exposure can be subtracted, and it is then the best level known above which photons make noise.

    Parameters
    ----------
    signal : `~nightflow.detector.SignalRows`
        The frame in ADU.
    exptime : float or None
        Exposure time in s.
    detector : dict
        What is known of the detector.
    bias, dark : Image or None
        Masters.
    tolerance : float
        Relative difference of exposure times up to which a dark may do unscaled where there is no bias level.

    Attributes
    ----------
    shape : tuple of int
    pedestal : ndarray, float or None
        Level without signal, ADU: the master bias, else zero behind an overscan, else the detector's.
    scale : float or None
        k, the exposure time in units of the dark's.
    gain : ndarray, float or None
        Electron/ADU.
    read_noise : ndarray, float or None
        In the unit of the pixels.

    Raises
    ------
    RejectedFrame
        If the dark would have to be scaled, or the signal linearised, without a bias level.
    """

    def __init__(
        self,
        signal: SignalRows,
        exptime: float | None,
        detector: dict,
        bias: Image | None,
        dark: Image | None,
        tolerance: float,
    ):
        self.signal, self.bias, self.dark = signal, bias, dark
        self.shape = signal.shape
        self.linearity = detector.get("linearity")
        self.pedestal = pedestal_of(signal, detector, bias, self.linearity is not None)
        self.scale = None if dark is None else _dark_scale(exptime, dark, self.pedestal is not None, tolerance)
        amps = signal.amplifiers
        self.gain = detectors.by_amplifier(amps, lambda amp: amp.gain) if all(amp.gain for amp in amps) else None
        self.read_noise = self._read_noise()

    @property
    def unit(self) -> str:
        return "adu" if self.gain is None else "electron"

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop`, shape (stop - start, nx)."""
        rows = slice(start, stop)
        return self._without_dark(self._above_pedestal(rows)[0], rows)

    def with_variance(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows `start` to `stop` and their variance.

        Notes
        -----
        ``max(s, 0) + read_noise**2 + gain**2 ((1 - k)**2 var(bias) + k**2 var(dark))`` with s the signal above the
        pedestal before the dark is subtracted, since the dark current has photon-like noise of its own. The terms of
        the masters follow from ``light - (1 - k) bias - k dark``. Where the gain is unknown, the noise of neighbouring
        pixels tells how much variance comes with a signal like the sky's.
        """
        rows = slice(start, stop)
        signal, slope = self._above_pedestal(rows)
        variance = np.maximum(signal, 0)
        if self.gain is None:
            variance = np.float32(self._scatter[0]) + np.float32(self._scatter[1]) * variance
        if self.read_noise is not None:
            variance += self.signal.noise_factor * np.square(_part(self.read_noise, rows) * slope)
        variance += self.masters_variance(rows)
        return self._without_dark(signal, rows), variance

    def _above_pedestal(self, rows: slice) -> tuple[np.ndarray, np.ndarray | np.float32]:
        """Linear signal above the pedestal in electrons, and the slope of the linearity correction."""
        signal, slope = self.signal.rows(rows.start, rows.stop), np.float32(1)
        if self.pedestal is not None:
            signal -= _part(self.pedestal, rows)
        elif self.dark is not None:
            signal -= self.dark.data[rows]
        if self.linearity is not None:
            slope = detectors.linearity_slope(signal, self.linearity)
            signal = detectors.linearise(signal, self.linearity)
        if self.gain is not None:
            signal *= _part(self.gain, rows)
        return signal, slope

    def _without_dark(self, signal: np.ndarray, rows: slice) -> np.ndarray:
        if self.dark is not None and self.pedestal is not None:
            dark_current = self.dark.data[rows] - _part(self.pedestal, rows)
            dark_current *= np.float32(self.scale) * _part(1.0 if self.gain is None else self.gain, rows)
            signal -= dark_current
        return signal

    def masters_variance(self, rows: slice) -> np.ndarray | np.float32:
        """Variance of ``(1 - k) bias + k dark``, in the unit of the pixels squared."""
        variance = np.float32(0)
        bias_share = 1.0 if self.scale is None else 1 - self.scale
        if self.bias is not None and bias_share != 0:
            variance = variance + np.square(np.float32(bias_share) * self.bias.uncertainty[rows])
        if self.dark is not None:
            variance = variance + np.square(np.float32(self.scale) * self.dark.uncertainty[rows])
        return variance if self.gain is None else variance * np.square(_part(self.gain, rows))

    @cached_property
    def _scatter(self) -> tuple[float, float]:
        """For pixels in ADU: variance at zero signal beyond the read noise, and variance for each ADU of signal.

        From the differences of pixels two columns apart, which in a Bayer pattern have the same colour, beside a
        pixel of the fainter half: the slopes of stars are no noise.
        """
        band = sample(_Signal(self))
        beside = band[:, 4:] <= np.nanmedian(band)  # a pixel with noise of its own: choosing by it is fair
        one, other = band[:, :-4][beside], band[:, 2:-2][beside]
        read_variance = 0.0 if self.read_noise is None else float(np.mean(self.read_noise)) ** 2
        photons = max(clipped_deviation(other - one) ** 2 / 2 - read_variance, 0.0)
        level = float(np.nanmedian(one)) if one.size else 0.0
        return (0.0, photons / level) if level > 0 else (photons, 0.0)

    def _read_noise(self) -> np.ndarray | float | None:
        """The detector's, else as measured on the bias frames, else, a little too much, on the dark frames."""
        amps = self.signal.amplifiers
        if self.gain is not None and all(amp.read_noise is not None for amp in amps):
            return detectors.by_amplifier(amps, lambda amp: amp.read_noise)
        for master, card in ((self.bias, "RNMEAS"), (self.dark, "DARKNOIS")):
            if master is not None and card in master.header:
                return master.header[card] * (1.0 if self.gain is None else self.gain)
        return None


@dataclass(frozen=True)
class _Signal:
    """A frame's signal above its pedestal, with the dark current."""

    frame: DarkSubtracted

    @property
    def shape(self) -> tuple[int, int]:
        return self.frame.shape

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self.frame._above_pedestal(slice(start, stop))[0]


def pedestal_of(signal: SignalRows, detector: dict, bias: Image | None, required: bool) -> np.ndarray | float | None:
    """Level of a frame without signal, ADU: the master bias, else zero behind an overscan, else the detector's.

    Raises
    ------
    RejectedFrame
        If it is `required` and unknown.
    """
    if bias is not None:
        return bias.data
    pedestal = 0.0 if signal.overscan_level is not None else detector.get("pedestal")
    if required and pedestal is None:
        raise RejectedFrame("the linearity correction needs the bias level: a bias, an overscan section or a pedestal")
    return pedestal


def exposure_tolerance(options: dict) -> float:
    """Relative difference up to which the matching of darks takes exposure times for equal."""
    return options.get("exposure_tolerance", 0.01)


def _dark_scale(exptime: float | None, dark: Image, pedestal_known: bool, tolerance: float) -> float:
    """Exposure time in units of the dark's, exactly 1 where they agree to 0.1 %."""
    dark_exptime = dark.header.get("EXPTIME")
    if exptime is None or not dark_exptime:
        raise RejectedFrame("the dark cannot be scaled: an exposure time is missing")
    scale = float(exptime) / float(dark_exptime)
    if abs(scale - 1) <= (1e-3 if pedestal_known else tolerance):
        return 1.0
    times = f"from {dark_exptime:g} s to {exptime:g} s"
    if not pedestal_known:
        raise RejectedFrame(f"the dark cannot be scaled {times} without a bias, an overscan section or a pedestal")
    if scale > 1:
        log.warning("the dark is scaled up %s, its noise with it", times)
    return scale


def _divide(pixels: np.ndarray, variance: np.ndarray, flat: np.ndarray, flat_uncertainty: np.ndarray) -> None:
    """Divide by the flat in place: the variance of a / b is ``(sigma_a / b)**2 + (a sigma_b / b**2)**2``."""
    pixels /= flat
    variance += np.square(pixels * flat_uncertainty)
    variance /= np.square(flat)


def _blocks(shape: tuple[int, int]) -> list[slice]:
    height = max(1, _BLOCK_PIXELS // shape[1])
    return [slice(start, min(start + height, shape[0])) for start in range(0, shape[0], height)]


def _part(value, rows: slice):
    """The rows of an image, or a number as it is."""
    return value[rows] if isinstance(value, np.ndarray) else np.float32(value)


def _detector_mask(raw, signal: SignalRows, saturation, detector: dict, options: dict) -> np.ndarray:
    """Saturated and non-linear pixels from the raw values, trimmed."""
    mask = np.zeros(raw.shape, np.uint16)
    if detector.get("linearity_limit") is not None:
        mask[raw > detector["linearity_limit"]] |= np.uint16(MaskBit.NONLINEAR)
    if saturation is not None:
        saturated = _grown(raw >= saturation, int(options.get("saturation_grow", 0)))
        mask[saturated] |= np.uint16(MaskBit.SATURATED)
    return signal.trim(mask)


def _grown(pixels: np.ndarray, steps: int) -> np.ndarray:
    """`pixels` with all that lie within a square of `steps` pixels around them."""
    for axis in (0, 1) if steps else ():
        source, pixels = pixels, pixels.copy()
        for shift in range(1, steps + 1):
            along = np.moveaxis(pixels, axis, 0)
            along[shift:] |= np.moveaxis(source, axis, 0)[:-shift]
            along[:-shift] |= np.moveaxis(source, axis, 0)[shift:]
    return pixels


def _set_no_data(science: np.ndarray, uncertainty: np.ndarray, mask: np.ndarray) -> None:
    """NaN and the bit NO_DATA together, everywhere."""
    empty = ~np.isfinite(science)
    if empty.any():
        mask[empty] |= np.uint16(MaskBit.NO_DATA)
        science[empty] = uncertainty[empty] = np.nan


def _check_pixels(raw: np.ndarray, header: fits.Header) -> None:
    if raw.ndim != 2:
        raise RejectedFrame(f"the frame has {raw.ndim} dimensions, expected 2", header)
    if not np.isfinite(raw).any():
        raise RejectedFrame("the frame has no valid pixel", header)


def _check_shapes(shape: tuple[int, int], header: fits.Header, **masters) -> None:
    for name, master in masters.items():
        if master is not None and master.shape != shape:
            name, size = name.replace("_", " "), f"{master.shape[1]} x {master.shape[0]}"
            raise RejectedFrame(f"the frame has {shape[1]} x {shape[0]} pixels, its {name} {size}", header)


def _check_saturated(mask: np.ndarray, options: dict, header: fits.Header) -> None:
    part = np.count_nonzero(mask & np.uint16(MaskBit.SATURATED)) / mask.size
    allowed = options.get("max_saturated", 0.5)
    if part > allowed:
        raise RejectedFrame(f"{part:.0%} of the pixels are saturated, {allowed:.0%} are allowed", header)


def _check_usable(mask: np.ndarray, header: fits.Header) -> None:
    unusable = MaskBit.BAD | MaskBit.NO_DATA | MaskBit.LOW_RESPONSE | MaskBit.SATURATED
    if np.all(mask & np.uint16(unusable)):
        raise RejectedFrame("no pixel is usable: all are bad, saturated or without data", header)


def _header(header: fits.Header, frame: DarkSubtracted, flat: Image | None, saturation, options) -> fits.Header:
    cards = clean_header(header.copy())
    _shift_reference_pixel(cards, frame.signal)
    cards["BUNIT"] = frame.unit
    for card, master in (("CALBIAS", frame.bias), ("CALDARK", frame.dark), ("CALFLAT", flat)):
        cards[card] = ("none" if master is None else "applied", f"master {card[3:].lower()}")
    if frame.dark is not None:
        cards["DARKSCAL"] = (frame.scale, "exposure time in units of the dark's")
    cards["OVERSCAN"] = (frame.signal.overscan_method(options), "how the overscan level was found")
    cards["VARMODEL"] = (_variance_model(frame), "terms of the variance")
    _set_detector_cards(cards, frame, saturation)
    return cards


def _set_detector_cards(cards: fits.Header, frame: DarkSubtracted, saturation: float | None) -> None:
    """Gain, read noise and saturation as they are for the calibrated pixels."""
    gain = 1.0 if frame.gain is None else float(np.mean(frame.gain))
    if frame.gain is not None:
        cards["CAMGAIN"] = (gain, "[electron/adu] gain of the camera")
        cards["GAIN"] = cards["EGAIN"] = (1.0, "pixels are in electrons")
    if frame.read_noise is not None:
        cards["RDNOISE"] = (float(np.mean(frame.read_noise)), f"[{frame.unit}] read noise")
    if saturation is not None:
        above = saturation - _level(frame.pedestal) - (frame.signal.overscan_level or 0.0)
        cards["SATURATE"] = (above * gain, f"[{frame.unit}] saturation above the pedestal")


def _level(pedestal: np.ndarray | float | None) -> float:
    """One number for the pedestal; some rows of an image are enough."""
    if isinstance(pedestal, np.ndarray):
        return float(np.nanmedian(pedestal[:: max(1, len(pedestal) // 64)]))
    return pedestal or 0.0


def _variance_model(frame: DarkSubtracted) -> str:
    terms = []
    photons = "photons" if frame.gain is not None else "scatter of the frame"
    terms.append(photons if frame.pedestal is not None else f"{photons} (pedestal unknown)")
    if frame.read_noise is not None:
        terms.append("read noise")
    if frame.bias is not None or frame.dark is not None:
        terms.append("masters")
    return ", ".join(terms)


def _shift_reference_pixel(cards: fits.Header, signal: SignalRows) -> None:
    """Move CRPIX with the origin of the trimmed frame, in every coordinate system of the header.

    Coordinates of a corner that was read out backwards do not hold for the joined frame, and go.
    """
    if signal.origin is None:
        for keyword in [card for card in cards if _COORDINATES.fullmatch(card)]:
            del cards[keyword]
        return
    first_row, first_column = signal.origin
    for keyword in list(cards):
        match = re.fullmatch(r"CRPIX([12])[A-Z]?", keyword)
        if match:
            cards[keyword] -= first_column if match[1] == "1" else first_row
