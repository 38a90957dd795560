"""Master bias, dark and flat.

A master dark keeps the bias in, so that ``light - (1 - k) bias - k dark`` holds for an exposure k times the dark's and
a dark of equal exposure needs no bias. Masters of bias and dark are in ADU, the flat has mean 1 over its good pixels.
Their uncertainty is the noise of their own combination.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from nightflow import bayer
from nightflow import detector as detectors
from nightflow.badpixels import find_bad_pixels
from nightflow.calibration import DarkSubtracted, exposure_tolerance, pedestal_of
from nightflow.combine import Combined, NoiseModel, Rejection, combine
from nightflow.detector import SignalRows
from nightflow.medians import median_of_known
from nightflow.photontransfer import measure_gain, measure_read_noise, sample
from nightflow.products import Image, MaskBit, RejectedFrame, StoredImage, clean_header, read_image
from nightflow.rawfiles import JoinedRawFile, RawFile, open_raw, open_sound

__all__ = ["find_bad_pixels", "make_bias", "make_dark", "make_flat"]

log = logging.getLogger(__name__)

_MANY_REJECTED = 0.01  # part of the values; beyond it the noise model is doubtful


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
        ``method``: ``median``, ``mean`` or ``clipped_mean``, which leaves out values further from the median than
        ``clip_low`` or ``clip_high`` standard deviations, these with ``clip_fraction`` of the level added in
        quadrature; ``memory_mb``; ``overscan_*``.
    hdu : int or str, or a sequence of these, optional
        Extension to read, one for all frames or one for each.
    header : `~astropy.io.fits.Header`, optional
        Cards for the master; those of the first frame by default.

    Returns
    -------
    Image
        Master bias in ADU. Its header has NCOMBINE and RNMEAS, the measured read noise (ADU).

    Raises
    ------
    RejectedFrame
        If none of the frames can be used.
    """
    frames = _open_frames(paths, detector, options, hdu)
    noise = measure_read_noise([frame.signal for frame in frames])
    model = NoiseModel(read_noise=noise, step=_step(frames))
    combined = _combine([frame.signal for frame in frames], model, options)
    cards = _master_header(frames, header, options, "BIAS")
    cards["RNMEAS"] = (noise, "[adu] read noise, from differences of frames")
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

    The noise of a pixel is that of the differences of frames, with photon noise for what lies above the frame's
    level, so that hot pixels may scatter more.

    Parameters
    ----------
    paths : sequence of path-like
        Raw dark frames of one exposure time.
    bias : Image or None
        Master bias, needed only where the detector has a linearity polynomial.
    detector, options, hdu, header
        As in `make_bias`.
    exptimes : sequence of float, optional
        Exposure times in s; the EXPTIME or EXPOSURE cards by default.

    Returns
    -------
    Image
        Master dark in ADU with EXPTIME (s) and DARKNOIS, the noise of one frame (ADU).

    Raises
    ------
    RejectedFrame
        If none of the frames can be used, or the bias is of another shape.
    """
    frames = _open_frames(paths, detector, options, hdu, exptimes)
    _check_shapes(frames[0].signal.shape, bias=bias)
    signals = [_linear(frame.signal, detector, bias) for frame in frames]
    noise = measure_read_noise(signals)
    level = median_of_known(sample(signals[0]))
    faintest = 3 * noise / math.sqrt(len(frames))
    model = NoiseModel(noise, _gain(frames), pedestal=level, faintest=faintest, step=_step(frames))
    combined = _combine(signals, model, options)
    cards = _master_header(frames, header, options, "DARK")
    cards["DARKNOIS"] = (noise, "[adu] noise of one frame, from differences")
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

    Each frame loses its bias and dark current and is divided by its own median level; the quotients are combined, and
    stars in twilight flats go with the median or the clipping.

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
    tolerance = exposure_tolerance(options)
    flats = [DarkSubtracted(frame.signal, frame.exptime, detector, bias, dark, tolerance) for frame in frames]
    _check_bias_level(frames[0], flats[0], options)
    kept, left_out = _choose_flats(frames, flats, detector, options)
    frames, flats = [frames[i] for i in kept], [flats[i] for i in kept]
    scaled = [_Scaled(flat, 1 / frame.level) for frame, flat in zip(frames, flats, strict=True)]
    combined = _combine(scaled, _flat_noise(frames, flats), options)
    cards = _master_header(frames, header, options, "FLAT")
    for card, master in (("CALBIAS", bias), ("CALDARK", dark)):
        cards[card] = ("none" if master is None else "applied", f"master {card[3:].lower()}")
    for reason in left_out:
        cards.add_history(f"left out: {reason}")
    return _normalised(_master(combined, cards, ""), norm, options, bayer.trimmed_pattern(detector))


def exposure_levels(chips: Sequence[dict], options: dict) -> dict[str, float]:
    """One level for each exposure of a camera with several chips: the mean over the good pixels of all of them.

    Divided by these, the flats of the chips keep their relative sensitivity, and their common mean is 1.

    Parameters
    ----------
    chips : sequence of dict
        For each chip ``paths``, ``hdu``, ``exptimes``, ``detector``, ``bias`` and ``dark`` as `make_flat` takes them.
    options : dict
        As in `make_flat`.

    Returns
    -------
    dict of str to float
        Level in electron (ADU where the gain is unknown) by path, of exposures that every chip can use.
    """
    found = {}
    for chip in chips:
        frames = _open_frames(chip["paths"], chip["detector"], options, chip["hdu"], chip["exptimes"])
        for frame in frames:
            signal = DarkSubtracted(
                frame.signal, frame.exptime, chip["detector"], chip["bias"], chip["dark"], exposure_tolerance(options)
            )
            pixels = sample(signal)
            good = pixels[pixels > options.get("low_response", 0.2) * median_of_known(pixels)]
            found.setdefault(str(frame.raw.path), []).append((float(good.sum(dtype=np.float64)), good.size))
    complete = {path: parts for path, parts in found.items() if len(parts) == len(chips)}
    return {path: sum(total for total, _ in parts) / sum(n for _, n in parts) for path, parts in complete.items()}


def common_levels(table, frames: Sequence) -> dict:
    """What `make_flat` needs to share one normalisation with other chips, from a table of `exposure_levels`.

    Raises
    ------
    RejectedFrame
        If the table has not all of the `frames`.
    """
    lines = Path(table).read_text(encoding="utf-8").splitlines()[1:]
    levels = {path: float(level) for path, level in (line.split("\t") for line in lines)}
    lacking = [str(frame) for frame in frames if str(frame) not in levels]
    if lacking:
        raise RejectedFrame(f"no level common to all chips for {', '.join(lacking)}: see the log of {Path(table).stem}")
    return {"levels": [levels[str(frame)] for frame in frames], "norm": 1.0}


def cut_outs(masters: dict, corners: dict, shape: tuple[int, int]) -> dict[str, Image | StoredImage | None]:
    """The parts of masters that a windowed frame covers.

    Parameters
    ----------
    masters : dict of str to Image, StoredImage or None
        By kind.
    corners : dict of str to (int, int) or None
        Row and column where the window begins; None leaves a master as it is.
    shape : tuple of int
        Rows and columns of the window.
    """
    return {kind: _cut_out(master, corners[kind], shape) for kind, master in masters.items()}


def _cut_out(master: Image | StoredImage | None, corner: tuple[int, int] | None, shape: tuple[int, int]):
    if master is None or corner is None:
        return master
    (y, x), (ny, nx) = corner, shape
    planes = (plane[y : y + ny, x : x + nx].copy() for plane in (master.data, master.mask, master.uncertainty))
    return Image(*planes, master.header)


def read_library_master(path, hdu: int, kind: str, options: dict) -> Image:
    """A ready-made master: a product of nightflow as it is, any other image as a master without noise of its own.

    Parameters
    ----------
    path : path-like
    hdu : int
        Where the image is.
    kind : {'bias', 'dark', 'flat'}
        Bias and dark are in ADU, and the dark holds the bias; a flat may have any mean.
    options : dict
        ``low_response``.

    Raises
    ------
    RejectedFrame
        If the file cannot be read, or is a product that was rejected.
    """
    header = open_raw(path, hdu).header
    if "NFVERS" in header:
        image = read_image(path)
    else:
        data = open_raw(path, hdu).read()
        mask = np.where(np.isfinite(data), np.uint16(0), np.uint16(MaskBit.NO_DATA))
        cards = clean_header(header)
        cards["IMAGETYP"], cards["BUNIT"] = kind.upper(), "" if kind == "flat" else "adu"
        if kind == "dark" and "EXPTIME" not in cards and "EXPOSURE" in cards:
            cards["EXPTIME"] = (cards["EXPOSURE"], "[s] exposure time")
        image = Image(data, mask, np.zeros_like(data), cards)
        image = _normalised(image, None, options) if kind == "flat" else image
    image.header["LIBRARY"] = (open_raw(path, hdu).path.name[:60], "ready-made master")
    return image


@dataclass
class _Frame:
    """A raw calibration frame in use."""

    name: str
    raw: RawFile | JoinedRawFile
    signal: SignalRows
    exptime: float | None
    level: float | None


@dataclass(frozen=True)
class _Scaled:
    """A frame times a factor."""

    source: DarkSubtracted
    factor: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.source.shape

    def rows(self, start: int, stop: int) -> np.ndarray:
        strip = self.source.rows(start, stop)
        strip *= np.float32(self.factor)
        return strip


@dataclass(frozen=True)
class _Linear:
    """A frame whose signal above the pedestal is linearised; the pedestal stays in."""

    signal: SignalRows
    pedestal: float | np.ndarray
    coefficients: Sequence[float]

    @property
    def shape(self) -> tuple[int, int]:
        return self.signal.shape

    def rows(self, start: int, stop: int) -> np.ndarray:
        pedestal = self.pedestal[start:stop] if isinstance(self.pedestal, np.ndarray) else np.float32(self.pedestal)
        return pedestal + detectors.linearise(self.signal.rows(start, stop) - pedestal, self.coefficients)


def _linear(signal: SignalRows, detector: dict, bias: Image | None) -> SignalRows | _Linear:
    coefficients = detector.get("linearity")
    if coefficients is None:
        return signal
    return _Linear(signal, pedestal_of(signal, detector, bias, required=True), coefficients)


def _open_frames(paths, detector, options, hdu, exptimes=None, levels=None) -> list[_Frame]:
    """Open the usable frames; those that are damaged or of another shape are left out with a warning."""
    exptimes, levels = ([None] * len(paths) if given is None else given for given in (exptimes, levels))
    hdus = hdu if isinstance(hdu, (list, tuple)) else [hdu] * len(paths)
    frames, reasons = [], []
    for path, hdu, exptime, level in zip(paths, hdus, exptimes, levels, strict=True):
        try:
            frame = _open_frame(path, detector, options, hdu, exptime, level)
            if frames and frame.signal.shape != frames[0].signal.shape:
                raise RejectedFrame(f"{frame.name} is not of the shape of {frames[0].name}")
            frames.append(frame)
        except RejectedFrame as verdict:
            log.warning("left out: %s", verdict.reason)
            reasons.append(verdict.reason)
    if not frames:
        raise RejectedFrame(f"no frame can be used: {'; '.join(reasons) or 'none were given'}")
    return frames


def _open_frame(path, detector, options, hdu, exptime, level) -> _Frame:
    raw = open_sound(path, hdu)
    exptime = raw.header.get("EXPTIME", raw.header.get("EXPOSURE")) if exptime is None else exptime
    return _Frame(raw.path.name, raw, SignalRows(raw, detector, options), exptime, level)


def _check_shapes(shape: tuple[int, int], **masters) -> None:
    for name, master in masters.items():
        if master is not None and master.shape != shape:
            sizes = f"{shape[1]} x {shape[0]} pixels, their {name} {master.shape[1]} x {master.shape[0]}"
            raise RejectedFrame(f"the frames have {sizes}")


def _combine(sources: list, noise: NoiseModel, options: dict) -> Combined:
    method = options.get("method", "median")
    limits = {name: options[f"clip_{name}"] for name in ("low", "high", "fraction") if f"clip_{name}" in options}
    rejection = Rejection(**limits) if method == "clipped_mean" else None
    memory_mb = options.get("memory_mb", 256)
    combined = combine(sources, method, sigma_model=noise, rejection=rejection, memory_mb=memory_mb)
    part = combined.rejected.sum() / (len(sources) * combined.data.size)
    if part > _MANY_REJECTED:
        log.warning("%.1f %% of the pixel values were rejected: are gain and read noise right?", 100 * part)
    return combined


def _master_header(frames: list[_Frame], header: fits.Header | None, options: dict, kind: str) -> fits.Header:
    cards = clean_header((frames[0].raw.header if header is None else header).copy())
    exptimes = [frame.exptime for frame in frames if frame.exptime is not None]
    cards["IMAGETYP"] = kind
    if kind == "BIAS" or exptimes:
        cards["EXPTIME"] = (0.0 if kind == "BIAS" else float(np.median(exptimes)), "[s] exposure time")
    cards["NCOMBINE"] = (len(frames), "frames combined")
    cards["OVERSCAN"] = (frames[0].signal.overscan_method(options), "how the overscan level was found")
    return cards


def _master(combined: Combined, cards: fits.Header, unit: str) -> Image:
    mask = np.where(combined.count == 0, np.uint16(MaskBit.NO_DATA), np.uint16(0))
    cards["BUNIT"] = unit
    cards["NREJECT"] = (int(combined.rejected.sum()), "pixel values left out as outliers")
    return Image(combined.data, mask, combined.uncertainty, cards)


def _step(frames: list[_Frame]) -> float:
    """Step of the pixel values that all frames share, 0 where there is none."""
    steps = {frame.raw.step for frame in frames}
    shared = len(steps) == 1 and frames[0].signal.overscan_level is None
    return steps.pop() if shared else 0.0


def _gain(frames: list[_Frame]) -> float | np.ndarray | None:
    amps = frames[0].signal.amplifiers
    return detectors.by_amplifier(amps, lambda amp: amp.gain) if all(amp.gain for amp in amps) else None


def _check_bias_level(frame: _Frame, flat: DarkSubtracted, options: dict) -> None:
    if flat.pedestal is None and flat.dark is None and not options.get("flat_without_bias", False):
        raise RejectedFrame(
            f"the flat {frame.name} has neither a bias nor a dark of its exposure time: what is divided by it would "
            "keep part of the vignetting; add bias frames, or set calibration.flat_without_bias"
        )


def _choose_flats(frames, flats, detector: dict, options: dict) -> tuple[list[int], list[str]]:
    """Indices of the frames with a usable level, which is noted, and the reasons of the others."""
    kept, left_out = [], []
    for index, (frame, flat) in enumerate(zip(frames, flats, strict=True)):
        level = median_of_known(sample(flat))
        reason = _unusable_flat(frame, level, detector, options)
        if reason is None:
            frame.level = level if frame.level is None else frame.level
            kept.append(index)
        else:
            log.warning("left out: %s", reason)
            left_out.append(reason)
    if not kept:
        raise RejectedFrame(f"no flat field can be used: {'; '.join(left_out)}")
    return kept, left_out


def _unusable_flat(frame: _Frame, level: float, detector: dict, options: dict) -> str | None:
    """Why a flat of this level above the bias cannot be used, or None."""
    level /= float(np.mean([amp.gain or 1.0 for amp in frame.signal.amplifiers]))
    lowest = options.get("flat_min_level", 500.0)
    if not level >= lowest:
        return f"{frame.name} is too faint: {level:.0f} ADU above the bias, at least {lowest:.0f} are needed"
    raw = sample(frame.raw)
    saturation = detector.get("saturation") or detectors.find_saturation(raw)
    if saturation is None:
        return None
    saturated = np.count_nonzero(raw >= saturation) / raw.size
    allowed = options.get("flat_max_saturated", 0.01)
    if saturated > allowed:
        return f"{frame.name} is saturated in {saturated:.1%} of its pixels, {allowed:.1%} are allowed"
    median, highest = median_of_known(raw), options.get("flat_max_level", 0.9) * saturation
    if median > highest:
        return f"{frame.name} is too bright: {median:.0f} ADU, at most {highest:.0f} are allowed"
    return None


def _flat_noise(frames: list[_Frame], flats: list[DarkSubtracted]) -> NoiseModel:
    """Noise of flats: electrons have photon noise as they are; for ADU the gain is measured on the flats."""
    read_noise = 0.0 if flats[0].read_noise is None else flats[0].read_noise
    gain = 1.0 if flats[0].gain is not None else measure_gain(flats, float(np.mean(read_noise)))
    return NoiseModel(read_noise=read_noise, gain=gain, scales=[1 / frame.level for frame in frames])


def _normalised(flat: Image, norm: float | None, options: dict, pattern: str | None = None) -> Image:
    """Divide a flat by its mean over good pixels, each colour of a mosaic by itself, in place; flag low response."""
    norms = []
    for part in bayer.phases(flat.shape, pattern):
        norms.append(_normalise(flat.data[part], flat.uncertainty[part], flat.mask[part], norm, options))
    if None in norms:
        raise RejectedFrame("the flat has no pixel with a usable response", flat.header)
    flat.header["FLATNORM"] = (float(np.mean(norms)), "mean response before the normalisation")
    return flat


def _normalise(data, uncertainty, mask, norm: float | None, options: dict) -> float | None:
    """Divide by `norm`, else by the mean over good pixels, in place; that number, or None without a good pixel."""
    typical = _typical(data, norm)
    lowest = options.get("low_response", 0.2) * typical
    with np.errstate(invalid="ignore"):
        good, low = data >= lowest, data < lowest
    if not good.any():
        return None
    norm = _mean_response(data, uncertainty, good, typical, options) if norm is None else norm
    data /= np.float32(norm)
    uncertainty /= np.float32(norm)
    data[low], uncertainty[low] = 1, 0
    mask[low] |= np.uint16(MaskBit.LOW_RESPONSE)
    return norm


def _mean_response(data, uncertainty, good, typical: float, options: dict) -> float:
    """Mean of the pixels of usable response that are neither dead nor deviant: how many of those a detector has must
    not change the scale of its fluxes."""
    relative = Image(data / np.float32(typical), np.zeros(data.shape, np.uint16), uncertainty / np.float32(typical))
    sound = good & (find_bad_pixels(None, relative, options) == 0)
    return float(data[sound if sound.any() else good].mean(dtype=np.float64))


def _typical(data: np.ndarray, norm: float | None) -> float:
    """Response in units of which the lowest useful one is given: that of a typical pixel."""
    return abs(median_of_known(data)) if norm is None and np.isfinite(data).any() else 1.0
