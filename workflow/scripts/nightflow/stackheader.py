"""The header of a stack and the table of its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np
from astropy.io import fits

from nightflow import noisecorrelation
from nightflow.products import Columns, Image, clean_header

# Cards that were measured on one frame and say nothing about the stack.
_FRAME_CARDS = ("CALNOISE", "CRNUM", "DARKSCAL", "ELLIPT", "FWHM", "NSOURCES", "NSTARS", "MAGLIM", "SKYMAG")
_FRAME_CARDS += ("SKYMEAN", "SKYMED", "SKYMODE", "SKYSTD", "SKYMETH", "SKYNOISE")

_MJD_ZERO = datetime(1858, 11, 17)
_CALENDAR = [(day - _MJD_ZERO).days for day in (datetime.min, datetime.max)]  # first and last day with a date


def stack_header(frames: Sequence, reference: fits.Header, options: Mapping, combination) -> fits.Header:
    """Cards of a stack: the reference frame's, with exposure, times and noise of the combination.

    Parameters
    ----------
    frames : sequence
        Frames combined, with ``header``, ``exposure``, ``flux_scale`` and ``card(keyword, default)``.
    reference : `~astropy.io.fits.Header`
        Of the frame whose grid and flux scale the stack has.
    options : mapping
        Section ``stack`` of the configuration.
    combination
        With ``weights`` of the frames, ``total`` (factor from the mean to the stack), ``variance_factor`` (variance in
        units of the mean's), ``rejection`` and ``noise`` (`~nightflow.noisecorrelation.StackNoise`).
    """
    header = clean_header(reference)
    for card in _FRAME_CARDS:
        header.remove(card, ignore_missing=True)
    exposures = np.array([frame.exposure for frame in frames])
    reference_exposure = reference.get("EXPTIME")
    total = float(exposures.sum())
    if options["method"] == "sum":
        header["EXPTIME"] = (total, "[s] sum of the exposures")
    header["TOTEXP"] = (total, "[s] total exposure of the frames combined")
    header["NCOMBINE"] = (len(frames), "frames combined")
    header["STACKMET"] = (options["method"], "combination method")
    header["STACKREJ"] = (combination.rejection, "rejection")
    header["STACKKRN"] = (options["kernel"], "interpolation kernel")
    _add_times(header, frames, exposures)
    _add_detector(header, frames, combination, reference_exposure)
    header["NOISECOR"] = (round(combination.noise.correlation, 5), "noise in a box over that of independent pixels")
    header["NOISEOWN"] = (round(combination.noise.own_correlation, 5), "the same of noise that frames do not share")
    header["NOISEBOX"] = (noisecorrelation.BOX, "[pix] side of the box of NOISECOR")
    return header


def _add_detector(header: fits.Header, frames: Sequence, combination, exposure) -> None:
    """Effective gain, exposure, read noise and saturation, such that variance = signal / GAIN + (RDNOISE / GAIN)^2.

    With a_f the share of frame f and s_f its flux scale, a signal S on the reference's scale is S / s_f electrons in
    the frame, and contributes a_f^2 s_f^2 S / s_f to the variance of the mean. One frame of the reference's throughput
    would need 1 / sum(a_f^2 s_f) times its exposure for the same photon noise.
    """
    scales = np.array([frame.flux_scale for frame in frames])
    shares = combination.weights / combination.weights.sum()
    gain = 1 / (float((shares**2 * scales).sum()) * combination.variance_factor)
    if isinstance(exposure, (int, float)):
        header["EFFEXP"] = (round(exposure * gain, 4), "[s] effective exposure, by photon noise")
    gain /= combination.total
    if header.get("BUNIT") == "electron":
        header["GAIN"] = (round(gain, 6), "[electron] effective, electrons per unit")
    noise = np.array([frame.card("RDNOISE", np.nan) for frame in frames])
    if np.isfinite(noise).all() and "RDNOISE" in header:
        variance = float(((shares * scales * noise) ** 2).sum()) * combination.variance_factor
        header["RDNOISE"] = (round(combination.total * gain * float(np.sqrt(variance)), 4), "[electron] effective")
    saturation = np.array([frame.card("SATURATE", np.nan) for frame in frames]) * scales * combination.total
    if np.isfinite(saturation).all() and "SATURATE" in header:
        header["SATURATE"] = (round(float(saturation.min()), 2), "lowest saturation of the frames combined")


def _add_times(header: fits.Header, frames: Sequence, exposures: np.ndarray) -> None:
    """DATE-AVG and MJD-AVG (middle of the exposures, weighted by exposure), and the first start as DATE-OBS."""
    starts = np.array([_start_mjd(frame.header) for frame in frames])
    known = (starts >= _CALENDAR[0]) & (starts < _CALENDAR[1])
    if not known.any():
        return
    weights = exposures[known] if (exposures[known] > 0).any() else np.ones(known.sum())
    middle = float(np.average(starts[known] + exposures[known] / 172800.0, weights=weights))
    if not _CALENDAR[0] <= middle < _CALENDAR[1]:
        return
    first = float(starts[known].min())
    header["DATE-OBS"] = (_isot(first), "start of the first exposure")
    header["MJD-OBS"] = (round(first, 8), "[d] start of the first exposure")
    header["DATE-AVG"] = (_isot(middle), "mid-time weighted by exposure")
    header["MJD-AVG"] = (round(middle, 8), "[d] mid-time weighted by exposure")


def _isot(mjd: float) -> str:
    """A Modified Julian Date as date and time to the millisecond."""
    day, part = divmod(mjd, 1)
    moment = _MJD_ZERO + timedelta(day, milliseconds=math.floor(part * 86400e3 + 0.5))
    return moment.isoformat(timespec="milliseconds")


def _start_mjd(header: fits.Header) -> float:
    if isinstance(header.get("MJD-OBS"), (int, float)):
        return float(header["MJD-OBS"])
    from astropy.time import Time

    try:
        return float(Time(str(header["DATE-OBS"]).strip(), scale="utc").mjd)
    except (KeyError, ValueError):
        return np.nan


def inputs_table(frames: Sequence, sky_offsets: Sequence[float], rejected: Sequence[float]) -> Columns:
    """Table of the frames combined: name, weight, flux scale, exposure, start, transform and what became of them.

    Parameters
    ----------
    frames : sequence
        See `stack_header`.
    sky_offsets : sequence of float
        What was subtracted from each frame to match the skies, at the middle of the stack, on its flux scale.
    rejected : sequence of float
        Share of each frame's values that were rejected.

    Returns
    -------
    `~nightflow.products.Columns`
    """
    columns = {
        "frame": [frame.name for frame in frames],
        "weight": [frame.weight for frame in frames],
        "flux_scale": [frame.flux_scale for frame in frames],
        "sky_offset": np.asarray(sky_offsets, dtype=float),
        "rejected": np.asarray(rejected, dtype=float),
        "fwhm": [frame.card("FWHM", np.nan) for frame in frames],
        "exptime": [frame.exposure for frame in frames],
        "mjd_obs": [_start_mjd(frame.header) for frame in frames],
    }
    for row, axis in enumerate("xy"):
        for column, name in enumerate(("x", "y", "0")):
            columns[f"{axis}_{name}"] = [frame.matrix[row, column] for frame in frames]
    unit = frames[0].header.get("BUNIT", "electron")
    return Columns(columns, {"sky_offset": unit, "fwhm": "pix", "exptime": "s", "mjd_obs": "d"})


def add_measures(image: Image, options: Mapping) -> None:
    """Seeing and depth of a stack, measured on itself.

    FWHM, ELLIPT, NSTARS, NSOURCES, the radii of the apertures and the aperture correction come from its own stars.
    MAGLIM is the magnitude of a star whose flux in the main aperture is five times its noise, NOISECOR included.

    Parameters
    ----------
    image : `~nightflow.products.Image`
        The stack; its header is completed.
    options : mapping
        Section ``photometry`` of the configuration.
    """
    from nightflow import measurement, zero_points

    header = image.header
    for card in [card for card in header if card.startswith(("APRAD", "APCOR"))]:
        header.remove(card)
    measurement.measure_sources(image, options)
    if not all(header.get(card) for card in ("MAGZP", "APRADIUS", "APCOR", "EXPTIME")):
        return
    noise = float(np.nanmedian(image.uncertainty)) * header["NOISECOR"]
    rate = zero_points.limiting_rate(noise, header["APRADIUS"], header["APCOR"], header["EXPTIME"])
    depth = zero_points.magnitude_of(header["MAGZP"], rate)
    if np.isfinite(depth):
        header["MAGLIM"] = (round(depth, 4), "[mag] 5 sigma in the main aperture")
