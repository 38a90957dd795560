"""Master bias, dark and flat, and the map of bad pixels.

A master dark keeps the bias in, so that ``light - (1 - k) bias - k dark`` holds for an exposure k times the dark's and
a dark of equal exposure needs no bias. Masters of bias and dark are in ADU, the flat has mean 1 over its good pixels.
Their uncertainty is the noise of their own combination.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.io import fits

from nightflow import detector as detectors
from nightflow.combine import ArrayRows, Combined, NoiseModel, Rejection, combine, order_statistics
from nightflow.detector import RawFile, SignalRows
from nightflow.products import Image, MaskBit, RejectedFrame, clean_header

log = logging.getLogger(__name__)

_SAMPLE_PIXELS = 1 << 20  # enough for a level or a noise to 0.1 %
_SAMPLE_BANDS = 16


def make_bias(
    paths: Sequence, detector: dict, options: dict, *, hdu: int | str | None = None, header: fits.Header | None = None
) -> Image:
    """Combine bias frames and measure the read noise.

    Parameters
    ----------
    paths : sequence of path-like
        Raw bias frames.
    detector : dict
        What is known of the detector, see `nightflow.detector`.
    options : dict
        ``method``, ``clip_low``, ``clip_high`` (sigma), ``clip_fraction``, ``memory_mb``, ``overscan_*``.
    hdu : int or str, optional
        Extension to read.
    header : `~astropy.io.fits.Header`, optional
        Cards for the master; those of the first frame by default.

    Returns
    -------
    Image
        Master bias in ADU. Its header has NCOMBINE and, from two frames on, RNMEAS (ADU).

    Raises
    ------
    RejectedFrame
        If none of the frames can be used.
    """
    frames = _open_frames(paths, detector, options, hdu)
    measured = measure_read_noise([frame.signal for frame in frames])
    noise = NoiseModel(read_noise=measured if measured is not None else _read_noise_adu(detector, frames, None))
    combined = _combine([frame.signal for frame in frames], noise, options)
    cards = _master_header(frames, header, "BIAS", 0.0)
    if measured is not None:
        cards["RNMEAS"] = (measured, "[adu] read noise from frame differences")
    return _master(combined, cards, "adu")


def make_dark(
    paths: Sequence,
    bias: Image | None,
    detector: dict,
    options: dict,
    *,
    hdu: int | str | None = None,
    header: fits.Header | None = None,
    exptimes: Sequence[float] | None = None,
) -> Image:
    """Combine dark frames; the bias stays in.

    Parameters
    ----------
    paths : sequence of path-like
        Raw dark frames of one exposure time.
    bias : Image or None
        Master bias; it tells dark current from pedestal.
    detector, options, hdu, header
        As in `make_bias`.
    exptimes : sequence of float, optional
        Exposure times in s; the EXPTIME or EXPOSURE cards by default.

    Returns
    -------
    Image
        Master dark in ADU with EXPTIME (s).

    Raises
    ------
    RejectedFrame
        If none of the frames can be used, or the bias is of another shape.
    """
    frames = _open_frames(paths, detector, options, hdu, exptimes)
    pedestal = _pedestal(bias, detector, frames)
    _check_shapes(frames[0].signal.shape, bias=bias)
    signals = [_Linearised(frame.signal, pedestal, detector) for frame in frames]
    noise = _noise_model(detector, frames, bias, pedestal)
    combined = _combine(signals, noise, options)
    exptime = float(np.median([frame.exptime for frame in frames]))
    cards = _master_header(frames, header, "DARK", exptime)
    cards["CALBIAS"] = (bias is not None, "a master bias was at hand")
    _keep_read_noise(cards, bias, frames)
    return _master(combined, cards, "adu")


def make_flat(
    paths: Sequence,
    bias: Image | None,
    dark: Image | None,
    detector: dict,
    options: dict,
    *,
    hdu: int | str | None = None,
    header: fits.Header | None = None,
    exptimes: Sequence[float] | None = None,
    levels: Sequence[float] | None = None,
    norm: float | None = None,
) -> Image:
    """Combine flat fields into a response of mean 1.

    Each frame loses its bias and dark current, is divided by its own median level, and the quotients are combined
    with rejection, so that stars in twilight flats go.

    Parameters
    ----------
    paths : sequence of path-like
        Raw flat fields of one filter.
    bias, dark : Image or None
        Masters; the dark is scaled to the flat's exposure time, which needs the bias.
    detector, options, hdu, header, exptimes
        As in `make_dark`; also ``flat_min_level`` (ADU above the bias), ``flat_max_level`` (part of the saturation),
        ``flat_max_saturated`` (part of the pixels), ``flat_without_bias`` and ``low_response``.
    levels : sequence of float, optional
        Level of each frame in electron (ADU where the gain is unknown) instead of its own median: one level an
        exposure for all chips of a camera.
    norm : float, optional
        Mean response instead of this chip's own: one number for all chips.

    Returns
    -------
    Image
        Master flat, dimensionless; pixels below ``low_response`` are 1 and have the bit LOW_RESPONSE. FLATNORM is the
        mean by which it was divided.

    Raises
    ------
    RejectedFrame
        If no frame can be used, or nothing tells the bias level of the flats.
    """
    frames = _open_frames(paths, detector, options, hdu, exptimes, levels)
    _check_shapes(frames[0].signal.shape, bias=bias, dark=dark)
    signals = [_dark_subtracted(frame, bias, dark, detector, frames, options) for frame in frames]
    kept, chosen, left_out = _choose_flats(frames, signals, detector, options)
    scaled = [_Scaled(signal, 1 / frame.level) for frame, signal in zip(kept, chosen, strict=True)]
    noise = _flat_noise(kept, chosen, bias, detector)
    combined = _combine(scaled, noise, options)
    cards = _master_header(kept, header, "FLAT", float(np.median([frame.exptime for frame in kept])))
    cards["CALBIAS"] = (bias is not None, "bias subtracted")
    cards["CALDARK"] = (dark is not None, "dark subtracted")
    for reason in left_out:
        cards.add_history(f"left out: {reason}")
    return _normalised_flat(_master(combined, cards, ""), norm, options)


def find_bad_pixels(dark: Image | None, flat: Image | None, options: dict) -> np.ndarray:
    """Map of pixels that are hot in the dark, or dead or deviant in the flat.

    Parameters
    ----------
    dark : Image or None
        Master dark.
    flat : Image or None
        Master flat.
    options : dict
        ``hot_sigma``: excess of a hot pixel over its surroundings in local standard deviations;
        ``dead_response``: response relative to the surroundings below which a pixel is dead; ``deviant_response``:
        largest relative deviation from the surroundings of a good pixel.

    Returns
    -------
    ndarray of uint16, shape (ny, nx)
        Bit BAD, else 0.

    Raises
    ------
    ValueError
        If there is neither dark nor flat.
    """
    if dark is None and flat is None:
        raise ValueError("a map of bad pixels needs a dark or a flat")
    bad = np.zeros((dark or flat).shape, bool)
    if dark is not None:
        bad |= hot_pixels(dark.data, options.get("hot_sigma", 8.0))
    if flat is not None:
        bad |= deviant_pixels(flat, options.get("dead_response", 0.5), options.get("deviant_response", 0.2))
    return np.where(bad, np.uint16(MaskBit.BAD), np.uint16(0))


def hot_pixels(dark: np.ndarray, threshold: float) -> np.ndarray:
    """Pixels and columns brighter than their surroundings by `threshold` local standard deviations.

    Parameters
    ----------
    dark : ndarray, shape (ny, nx)
        Master dark.
    threshold : float
        Standard deviations.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
    """
    excess = dark - local_median(dark)
    scatter = 1.4826 * local_median(np.abs(excess), 15)
    scatter = np.maximum(scatter, np.float32(0.5 * np.nanmedian(scatter)))
    hot = ~(excess <= threshold * scatter)
    column = np.nanmedian(excess, axis=0)  # a column slightly hot all along shows in its median
    column_error = 1.2533 * np.nanmedian(scatter, axis=0) / math.sqrt(len(dark))
    hot[:, column > threshold * np.maximum(column_error, 1e-30)] = True
    return hot


def deviant_pixels(flat: Image, dead_response: float, deviant_response: float) -> np.ndarray:
    """Pixels whose response is far from that of their surroundings, beyond the flat's own noise.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
    """
    low = (flat.mask & MaskBit.LOW_RESPONSE) != 0
    response = np.where(low, 0, flat.data) / local_median(flat.data)
    noise = 5 * flat.uncertainty
    deviant = ~(np.abs(response - 1) <= np.maximum(deviant_response, noise))
    return deviant | ~(response >= dead_response)


def local_median(image: np.ndarray, width: int = 7) -> np.ndarray:
    """Median over `width` columns, then over `width` rows: a bright column does not become its own background.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        NaN counts as the image's median.
    width : int
        Odd number of pixels.
    """
    filled = np.where(np.isfinite(image), image, np.float32(np.nanmedian(image)))
    return _median_along(_median_along(filled, width, 1), width, 0)


def _median_along(image: np.ndarray, width: int, axis: int) -> np.ndarray:
    half = width // 2
    padding = [(half, half) if a == axis else (0, 0) for a in (0, 1)]
    padded = np.pad(image, padding, mode="reflect")
    n = image.shape[axis]
    shifted = [np.ascontiguousarray(padded[:, i : i + n] if axis else padded[i : i + n]) for i in range(width)]
    return order_statistics([s.reshape(-1) for s in shifted], frozenset({half}))[half].reshape(image.shape)


def measure_read_noise(signals: Sequence) -> float | None:
    """Read noise from the differences of successive bias frames, in their unit.

    Levels may drift from frame to frame; hot pixels and outliers do not count.

    Parameters
    ----------
    signals : sequence of row sources, each of shape (ny, nx)
        Bias frames.

    Returns
    -------
    float or None
        Standard deviation of one frame; None from fewer than two frames.
    """
    if len(signals) < 2:
        return None
    variances = []
    previous = _sample(signals[0])
    for signal in signals[1:]:
        current = _sample(signal)
        variances.append(clipped_deviation(current - previous) ** 2 / 2)
        previous = current
    return math.sqrt(np.mean(variances))


def clipped_deviation(values: np.ndarray, limit: float = 4.0) -> float:
    """Standard deviation about the mean of the values within `limit` standard deviations, iterated from the MAD."""
    values = values[np.isfinite(values)].astype(np.float64)
    centre = float(np.median(values))
    deviation = max(1.4826 * float(np.median(np.abs(values - centre))), np.spacing(abs(centre) + 1))
    tail = _variance_within(limit)
    for _ in range(5):
        inside = values[np.abs(values - centre) <= limit * deviation]
        if inside.size < 2:
            break
        centre, deviation = float(inside.mean()), float(inside.std()) / math.sqrt(tail)
        if deviation == 0:
            break
    return deviation


def _variance_within(limit: float) -> float:
    """Variance of a standard normal variable that is cut off at ``+-limit``."""
    density = math.exp(-0.5 * limit**2) / math.sqrt(2 * math.pi)
    return 1 - 2 * limit * density / math.erf(limit / math.sqrt(2))


def _sample(signal) -> np.ndarray:
    """Pixels of a few bands of rows spread over the frame, shape (n,)."""
    ny, nx = signal.shape
    height = max(1, min(ny // _SAMPLE_BANDS, _SAMPLE_PIXELS // (nx * _SAMPLE_BANDS)))
    starts = np.unique(np.linspace(0, ny - height, min(_SAMPLE_BANDS, ny)).astype(int))
    return np.concatenate([signal.rows(y, y + height).reshape(-1) for y in starts])


@dataclass
class _Frame:
    """A raw calibration frame in use."""

    name: str
    signal: SignalRows
    header: fits.Header
    exptime: float
    level: float | None


def _open_frames(paths, detector, options, hdu, exptimes=None, levels=None) -> list[_Frame]:
    """Open the usable frames; those that are unreadable or of another shape are left out with a warning."""
    exptimes, levels = (values or [None] * len(paths) for values in (exptimes, levels))
    frames, reasons = [], []
    for path, exptime, level in zip(paths, exptimes, levels, strict=True):
        try:
            raw = RawFile(path, hdu)
            exptime = _exptime(raw.header) if exptime is None else float(exptime)
            frame = _Frame(raw.path.name, SignalRows(raw, detector, options), raw.header, exptime, level)
            if frames and frame.signal.shape != frames[0].signal.shape:
                raise RejectedFrame(f"{frame.name} is {frame.signal.shape}, {frames[0].name} {frames[0].signal.shape}")
            frames.append(frame)
        except RejectedFrame as verdict:
            log.warning("left out: %s", verdict.reason)
            reasons.append(verdict.reason)
    if not frames:
        raise RejectedFrame(f"no frame can be used: {'; '.join(reasons) or 'none were given'}")
    return frames


def _exptime(header: fits.Header) -> float:
    try:
        return float(header.get("EXPTIME", header.get("EXPOSURE", 0.0)))
    except (TypeError, ValueError):
        return 0.0


def _check_shapes(shape, **masters) -> None:
    for name, master in masters.items():
        if master is not None and master.shape != shape:
            raise RejectedFrame(f"the master {name} is {master.shape}, the frames are {shape}")


def _combine(sources, noise: NoiseModel, options: dict) -> Combined:
    rejection = Rejection(
        low=options.get("clip_low", 4.0), high=options.get("clip_high", 4.0), fraction=options.get("clip_fraction", 0.01)
    )
    return combine(
        sources,
        options.get("method", "median"),
        sigma_model=noise,
        rejection=rejection,
        memory_mb=options.get("memory_mb", 256),
    )


def _master_header(frames: list[_Frame], header, kind: str, exptime: float) -> fits.Header:
    cards = clean_header(frames[0].header if header is None else header)
    cards["IMAGETYP"] = kind
    cards["EXPTIME"] = (exptime, "[s] exposure time")
    cards["NCOMBINE"] = (len(frames), "frames combined")
    level = frames[0].signal.overscan_level
    cards["OVERSCAN"] = (level is not None, "overscan level subtracted")
    return cards


def _master(combined: Combined, cards: fits.Header, unit: str) -> Image:
    mask = np.where(combined.count == 0, np.uint16(MaskBit.NO_DATA), np.uint16(0))
    cards["BUNIT"] = unit
    cards["NREJECT"] = (int(combined.rejected.sum()), "pixel values left out as outliers")
    return Image(combined.data, mask, combined.uncertainty, cards)


def _pedestal(bias: Image | None, detector: dict, frames: list[_Frame]) -> float | np.ndarray | None:
    """Level without signal: the master bias, else zero behind an overscan, else the detector's, else None."""
    if bias is not None:
        return bias.data
    if frames[0].signal.overscan_level is not None:
        return 0.0
    return detector.get("pedestal")


def _read_noise_adu(detector: dict, frames: list[_Frame], bias: Image | None) -> float | np.ndarray:
    """Read noise in ADU: the detector's, else as measured on the bias, else on these frames themselves."""
    amps = frames[0].signal.amplifiers
    if all(amp.read_noise is not None and amp.gain for amp in amps):
        return detectors.by_amplifier(amps, lambda amp: amp.read_noise / amp.gain)
    if bias is not None and "RNMEAS" in bias.header:
        return float(bias.header["RNMEAS"])
    return measure_read_noise([frame.signal for frame in frames]) or 0.0


def _noise_model(detector, frames, bias, pedestal) -> NoiseModel:
    read_noise = _read_noise_adu(detector, frames, bias)
    gain = _gain(frames)
    if pedestal is None:
        gain = None
    return NoiseModel(read_noise=read_noise, gain=gain, pedestal=0.0 if pedestal is None else pedestal)


def _gain(frames: list[_Frame]) -> float | np.ndarray | None:
    amps = frames[0].signal.amplifiers
    if not all(amp.gain for amp in amps):
        return None
    return detectors.by_amplifier(amps, lambda amp: amp.gain)


def _keep_read_noise(cards: fits.Header, bias: Image | None, frames: list[_Frame]) -> None:
    if bias is not None and "RNMEAS" in bias.header:
        cards["RNMEAS"] = (bias.header["RNMEAS"], bias.header.comments["RNMEAS"])


@dataclass(frozen=True)
class _Linearised:
    """Frame with its signal above the pedestal linearised; the pedestal stays in."""

    signal: SignalRows
    pedestal: float | np.ndarray | None
    detector: dict

    @property
    def shape(self):
        return self.signal.shape

    def rows(self, start: int, stop: int) -> np.ndarray:
        strip = self.signal.rows(start, stop)
        coefficients = self.detector.get("linearity")
        if coefficients is None:
            return strip
        pedestal = detectors.required_pedestal(self.pedestal)
        pedestal = pedestal[start:stop] if isinstance(pedestal, np.ndarray) else np.float32(pedestal)
        return pedestal + detectors.linearise(strip - pedestal, coefficients)


@dataclass(frozen=True)
class _DarkSubtracted:
    """Flat field without bias and dark current, times the gain."""

    linear: _Linearised
    offset: np.ndarray | np.float32
    gain: float | np.ndarray | None

    @property
    def shape(self):
        return self.linear.shape

    def rows(self, start: int, stop: int) -> np.ndarray:
        offset = self.offset[start:stop] if isinstance(self.offset, np.ndarray) else self.offset
        strip = self.linear.rows(start, stop) - offset
        if self.gain is None:
            return strip
        return strip * (self.gain[start:stop] if isinstance(self.gain, np.ndarray) else np.float32(self.gain))


@dataclass(frozen=True)
class _Scaled:
    """A frame times a factor."""

    source: _DarkSubtracted
    factor: float

    @property
    def shape(self):
        return self.source.shape

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self.source.rows(start, stop) * np.float32(self.factor)


def _dark_subtracted(frame, bias, dark, detector, frames, options) -> _DarkSubtracted:
    pedestal = _pedestal(bias, detector, frames)
    offset = _offset(frame, bias, dark, pedestal, options)
    return _DarkSubtracted(_Linearised(frame.signal, pedestal, detector), offset, _gain(frames))


def _offset(frame: _Frame, bias, dark, pedestal, options) -> np.ndarray | np.float32:
    """What a flat holds besides light: ``(1 - k) bias + k dark``."""
    if dark is not None:
        k = detectors.dark_scale(frame.exptime, dark.header.get("EXPTIME"))
        if k == 1:
            return dark.data
        if pedestal is not None:
            return np.float32(1 - k) * pedestal + np.float32(k) * dark.data
    if pedestal is not None:
        return pedestal if isinstance(pedestal, np.ndarray) else np.float32(pedestal)
    if options.get("flat_without_bias", False):
        return np.float32(0)
    raise RejectedFrame(
        f"the flat {frame.name} has neither a bias nor a dark of its exposure time: divided by it, vignetting would be "
        "corrected wrongly; add bias frames, or set calibration.flat_without_bias"
    )


def _choose_flats(frames, signals, detector, options) -> tuple[list[_Frame], list, list[str]]:
    """Frames with a usable level, their signals, and the reasons of the others."""
    kept, chosen, left_out = [], [], []
    for frame, signal in zip(frames, signals, strict=True):
        own_level = float(np.nanmedian(_sample(signal)))
        reason = _unusable_flat(frame, own_level, detector, options)
        if reason is not None:
            log.warning("left out: %s", reason)
            left_out.append(reason)
            continue
        frame.level = own_level if frame.level is None else frame.level
        kept.append(frame)
        chosen.append(signal)
    if not kept:
        raise RejectedFrame(f"no flat field can be used: {'; '.join(left_out)}")
    return kept, chosen, left_out


def _unusable_flat(frame: _Frame, level: float, detector: dict, options: dict) -> str | None:
    gains = [amp.gain or 1.0 for amp in frame.signal.amplifiers]
    level_adu = level / float(np.mean(gains))
    lowest = options.get("flat_min_level", 500.0)
    if not level_adu >= lowest:
        return f"{frame.name} is too faint: {level_adu:.0f} ADU above the bias, at least {lowest:.0f} are needed"
    raw = _sample(frame.signal.raw)
    limit = detector.get("saturation") or detectors.find_saturation(raw)
    if limit is None:
        return None
    raw_level, highest = float(np.nanmedian(raw)), options.get("flat_max_level", 0.9)
    if raw_level > highest * limit:
        return f"{frame.name} is too bright: {raw_level:.0f} ADU, {highest:.0%} of the saturation is {highest * limit:.0f}"
    saturated = float(np.mean(raw >= limit))
    allowed = options.get("flat_max_saturated", 0.01)
    if saturated > allowed:
        return f"{frame.name} is saturated in {saturated:.1%} of its pixels, {allowed:.1%} are allowed"
    return None


def _flat_noise(frames: list[_Frame], signals: list, bias: Image | None, detector: dict) -> NoiseModel:
    """Noise of flats in the unit of their signals: electrons, or ADU with a gain measured on the flats themselves."""
    scales = [1 / frame.level for frame in frames]
    gain = _gain(frames)
    read_noise = _read_noise_adu(detector, frames, bias)
    if gain is not None:
        return NoiseModel(read_noise=read_noise * gain, gain=1.0, scales=scales)
    return NoiseModel(read_noise=read_noise, gain=measure_gain(signals, float(np.mean(read_noise))), scales=scales)


def measure_gain(signals: Sequence, read_noise: float) -> float | None:
    """Gain by photon transfer: the level of flat fields over the variance of their differences.

    Parameters
    ----------
    signals : sequence of row sources, each of shape (ny, nx)
        Flat fields without bias and dark, in ADU.
    read_noise : float
        In ADU.

    Returns
    -------
    float or None
        Electrons per ADU; None from fewer than two frames, or where the noise is no more than read noise.

    Notes
    -----
    Janesick (2001), Scientific Charge-Coupled Devices, chapter 5. Frames of levels a and b are compared after scaling
    both to their mean level m: the variance of a' - b' is ``m/gain (m/a + m/b) + read_noise**2 ((m/a)**2 + (m/b)**2)``.
    """
    gains = []
    for first, second in zip(signals[:-1], signals[1:], strict=True):
        pair = [_sample(signal) for signal in (first, second)]
        levels = [float(np.nanmedian(values)) for values in pair]
        mean = sum(levels) / 2
        a, b = (mean / level for level in levels)
        variance = clipped_deviation(pair[0] * np.float32(a) - pair[1] * np.float32(b)) ** 2
        photons = variance - read_noise**2 * (a**2 + b**2)
        if photons > 0:
            gains.append(mean * (a + b) / photons)
    return float(np.mean(gains)) if gains else None


def _normalised_flat(flat: Image, norm: float | None, options: dict) -> Image:
    low_response = options.get("low_response", 0.2)
    with np.errstate(invalid="ignore"):
        good = flat.data > low_response
    if norm is None:
        if not good.any():
            raise RejectedFrame("the flat has no pixel with a usable response", flat.header)
        norm = float(flat.data[good].mean(dtype=np.float64))
    flat.data /= np.float32(norm)
    flat.uncertainty /= np.float32(norm)
    with np.errstate(invalid="ignore"):
        low = flat.data < low_response
    flat.data[low] = 1
    flat.uncertainty[low] = 0
    flat.mask[low] |= np.uint16(MaskBit.LOW_RESPONSE)
    flat.header["FLATNORM"] = (norm, "mean response before normalisation")
    return flat


__all__ = [
    "ArrayRows",
    "find_bad_pixels",
    "make_bias",
    "make_dark",
    "make_flat",
    "measure_gain",
    "measure_read_noise",
]
