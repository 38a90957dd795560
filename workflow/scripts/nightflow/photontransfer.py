"""Read noise and gain measured on pairs of frames (photon transfer)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nightflow.medians import median_of_known, median_of_many

_SAMPLE_PIXELS = 1 << 20  # enough for a noise to 0.1 %
_SAMPLE_BANDS = 16
_LIT = 0.25  # of a flat's level; darker pixels, as in the corners of a round field, tell the read noise rather


def sample(source) -> np.ndarray:
    """Some bands of rows spread over a frame, enough for its level and noise.

    Parameters
    ----------
    source : row source of shape (ny, nx)
        See `nightflow.combine.RowSource`.

    Returns
    -------
    ndarray of float32, shape (n_rows, nx)
        An even number of successive rows from each band, where the frame has two rows.
    """
    ny, nx = source.shape
    height = max(2, min(ny // _SAMPLE_BANDS, _SAMPLE_PIXELS // (nx * _SAMPLE_BANDS)) // 2 * 2)
    starts = np.unique(np.linspace(0, max(ny - height, 0), _SAMPLE_BANDS).astype(int))
    return np.concatenate([source.rows(y, min(y + height, ny)) for y in starts])


def measure_read_noise(sources: Sequence) -> float:
    """Read noise from the differences of successive bias frames, in their unit.

    The level may drift from frame to frame; hot pixels and outliers do not count.

    Parameters
    ----------
    sources : sequence of row sources, each of shape (ny, nx)
        Bias frames. From a single one, neighbouring pixels are compared, which takes its fine structure for noise.

    Returns
    -------
    float
        Standard deviation of one frame.
    """
    if len(sources) == 1:
        pixels = sample(sources[0])
        return clipped_deviation(pixels[:, 1:] - pixels[:, :-1]) / math.sqrt(2)
    variances = []
    previous = sample(sources[0])
    for source in sources[1:]:
        current = sample(source)
        variances.append(clipped_deviation(current - previous) ** 2 / 2)
        previous = current
    return math.sqrt(np.mean(variances))


def measure_gain(sources: Sequence, read_noise: float) -> float | None:
    """Gain by photon transfer: the level of flat fields over the variance of their differences.

    Parameters
    ----------
    sources : sequence of row sources, each of shape (ny, nx)
        Flat fields without bias and dark, in ADU.
    read_noise : float
        In ADU.

    Returns
    -------
    float or None
        Electrons per ADU; None from fewer than two frames, or where the noise is no more than read noise.

    Notes
    -----
    Janesick (2001), Scientific Charge-Coupled Devices, chapter 5, with two changes. The frames are multiplied by a and
    b to their mean level, so that the light source may fade: where that mean is s, the variance of their difference is
    ``s (a + b) / gain + read_noise**2 (a**2 + b**2)``. And each pixel is compared with its neighbour below, since the
    illumination of a twilight sky also changes its shape. Pixels that hardly see light do not count.
    """
    gains = []
    previous = sample(sources[0]) if len(sources) > 1 else None
    for source in sources[1:]:
        current = sample(source)
        gains.append(_pair_gain(previous, current, read_noise))
        previous = current
    gains = [gain for gain in gains if gain is not None]
    return float(np.mean(gains)) if gains else None


def _pair_gain(first: np.ndarray, second: np.ndarray, read_noise: float) -> float | None:
    levels = np.array([median_of_known(first), median_of_known(second)])
    a, b = levels.mean() / levels
    first, second = first * np.float32(a), second * np.float32(b)
    difference = (first[1::2] - second[1::2]) - (first[::2] - second[::2])
    level = 0.25 * (first[1::2] + second[1::2] + first[::2] + second[::2])
    lit = level > _LIT * levels.mean()
    difference, level = difference[lit], level[lit]
    in_units_of_photon_noise = difference / np.sqrt(2 * (a + b) * level)
    read_part = read_noise**2 * (a**2 + b**2) / (a + b) * np.mean(1 / level, dtype=np.float64)
    photon_part = clipped_deviation(in_units_of_photon_noise) ** 2 - read_part
    return float(1 / photon_part) if photon_part > 0 else None


def clipped_deviation(values: np.ndarray, limit: float = 4.0) -> float:
    """Standard deviation of the values within `limit` standard deviations of their mean, iterated from the MAD.

    Where more than half are equal, as the noise is less than the digital step, it is iterated from all values.

    What a normal distribution loses in its cut tails is given back; no values deviate by 0.
    """
    values = values[np.isfinite(values)].astype(np.float64)
    if values.size == 0:
        return 0.0
    centre = float(median_of_many(values))
    smallest = float(np.spacing(np.float32(abs(centre) + 1)))
    away = np.abs(values - centre)
    deviation = max(1.4826 * float(median_of_many(away)) or float(values.std()), smallest)
    for _ in range(5):
        previous = centre, deviation
        inside = values[away <= limit * deviation]
        centre = float(inside.mean())
        inside -= centre  # in place here and below: a new plane costs more than the sum
        deviation = math.sqrt(np.square(inside, out=inside).mean()) / math.sqrt(_variance_within(limit))
        if deviation == 0 or (centre, deviation) == previous:
            break
        np.abs(np.subtract(values, centre, out=away), out=away)
    return deviation


def _variance_within(limit: float) -> float:
    """Variance of a standard normal variable that is cut off at ``+-limit``."""
    density = math.exp(-0.5 * limit**2) / math.sqrt(2 * math.pi)
    return 1 - 2 * limit * density / math.erf(limit / math.sqrt(2))
