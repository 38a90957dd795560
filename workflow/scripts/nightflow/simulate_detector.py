"""The simulated camera: response, dark current, saturation, gain, bias, read noise, 16 bits.

Light meets the effects in the order of a real detector (Janesick 2001, Scientific Charge-Coupled Devices): vignetting,
dust and pixel response; Poisson noise; cosmic rays; dark current; full well and bleeding; non-linearity; gain of the
amplifier; bias level, pattern and drift; read noise; rounding to whole ADU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from nightflow.simulate_effects import Effects
from nightflow.simulate_noise import poisson, stream

ADC_LIMIT = 65535


@dataclass(frozen=True)
class Camera:
    """A detector with its fixed patterns, all made from the seed.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns that see light.
    effects : `~nightflow.simulate_effects.Effects`
    level : float
        Bias level, ADU.
    seed : int
        Of the patterns.
    noise_seed : int
        Of shot noise and read noise.
    """

    shape: tuple[int, int]
    effects: Effects
    level: float
    seed: int
    noise_seed: int

    @property
    def gain(self) -> float:
        """Mean gain, electron / ADU."""
        return self.effects.gain.gain if self.effects.gain.enabled else 1.0

    @property
    def read_noise(self) -> float:
        """Electron."""
        return self.effects.read_noise.noise if self.effects.read_noise.enabled else 0.0

    @property
    def saturation(self) -> float:
        """Level above which a pixel counts as saturated, ADU: the lowest that a full well or the ADC can give."""
        if not self.effects.saturation.enabled:
            return float(ADC_LIMIT)
        full = self.effects.saturation.full_well * (1 - self._nonlinear_fraction)
        lowest = full / self.column_gain.max() + self.level + self.column_pedestal.min()
        margin = 6 * self.read_noise / self.gain + 4 * self.effects.bias_structure.columns
        return float(min(math.floor(lowest - margin), ADC_LIMIT))

    @cached_property
    def column_gain(self) -> np.ndarray:
        """Gain of each column, electron / ADU."""
        amplifiers = self.effects.amplifiers
        factors = amplifiers.gains if amplifiers.enabled else (1.0,)
        return (self.gain * _per_column(factors, self.shape[1])).astype(np.float32)

    @cached_property
    def column_pedestal(self) -> np.ndarray:
        """What the amplifier of each column adds to the bias level, ADU."""
        amplifiers = self.effects.amplifiers
        return _per_column(amplifiers.pedestals if amplifiers.enabled else (0.0,), self.shape[1]).astype(np.float32)

    @cached_property
    def bias(self) -> np.ndarray:
        """Expected bias frame, ADU: float32, shape (ny, nx)."""
        bias = np.full(self.shape, self.level, np.float32) + self.column_pedestal
        structure = self.effects.bias_structure
        if structure.enabled:
            rng = stream(self.seed, "bias_structure")
            bias += rng.normal(0, structure.columns, self.shape[1]).astype(np.float32)
            bias += self._ramp[:, None]
        return bias

    @property
    def _ramp(self) -> np.ndarray:
        structure = self.effects.bias_structure
        ramp = structure.ramp if structure.enabled else 0.0
        return (ramp * (np.linspace(-0.5, 0.5, self.shape[0]))).astype(np.float32)

    @cached_property
    def dark_rate(self) -> np.ndarray:
        """Dark current, electron / s: float32, shape (ny, nx)."""
        rate = np.zeros(self.shape, np.float32)
        dark, hot = self.effects.dark_current, self.effects.hot_pixels
        if dark.enabled:
            rows = np.arange(self.shape[0], dtype=np.float32)
            rate += dark.rate + (dark.glow * np.exp(-rows / (0.1 * self.shape[0])))[:, None]
        if hot.enabled:
            rng = stream(self.seed, "hot_pixels")
            y, x = _random_pixels(rng, self.shape, hot.fraction)
            rate[y, x] += rng.lognormal(math.log(hot.rate), hot.spread, len(y)).astype(np.float32)
            rate[:, rng.integers(0, self.shape[1], hot.columns)] += hot.rate
        return rate

    @cached_property
    def blind(self) -> np.ndarray:
        """Factor on the response of dead pixels and bad columns, 1 elsewhere: float32, shape (ny, nx)."""
        factor = np.ones(self.shape, np.float32)
        dead, bad = self.effects.dead_pixels, self.effects.bad_columns
        if dead.enabled:
            rng = stream(self.seed, "dead_pixels")
            y, x = _random_pixels(rng, self.shape, dead.fraction)
            factor[y, x] = rng.uniform(*dead.response, len(y))
        if bad.enabled:
            rng = stream(self.seed, "bad_columns")
            for _ in range(bad.number):
                column, start = rng.integers(0, self.shape[1]), rng.integers(0, self.shape[0] // 2)
                factor[start:, column] = rng.uniform(*bad.response)
        return factor

    @cached_property
    def bad_pixels(self) -> np.ndarray:
        """Dead and hot pixels and columns: bool, shape (ny, nx)."""
        cold = self.effects.dark_current
        usual = cold.rate + cold.glow if cold.enabled else 0.0
        return (self.blind < 1) | (self.dark_rate > 1.5 * usual)

    def response(self, filter_name: str) -> np.ndarray:
        """Sensitivity to light, 1 in the mean before dead pixels and bad columns: float32, shape (ny, nx)."""
        return _response(self, filter_name)

    def dark(self, exptime: float) -> np.ndarray:
        """Expected dark frame with its bias, ADU."""
        return self.bias + self.recorded(self.dark_rate * np.float32(exptime)) / self.column_gain

    def recorded(self, charge: np.ndarray) -> np.ndarray:
        """Electrons as the output stage reports them: non-linearity alone."""
        if not self.effects.nonlinearity.enabled:
            return charge
        coefficient = self.effects.nonlinearity.coefficient / self.effects.saturation.full_well
        return charge * (1 - np.float32(coefficient) * charge)

    @property
    def _nonlinear_fraction(self) -> float:
        nonlinearity = self.effects.nonlinearity
        return nonlinearity.coefficient if nonlinearity.enabled else 0.0

    def sigma(self, light: np.ndarray, exptime: float, filter_name: str) -> np.ndarray:
        """True standard deviation of a perfectly calibrated pixel, electron, where `light` is expected.

        The variance of the raw pixel is that of light, dark current, read noise and rounding (gain^2 / 12); division
        by the response follows.
        """
        response = self.response(filter_name)
        variance = self.read_noise**2 + self.column_gain**2 / 12
        if self.effects.shot_noise.enabled:
            variance = variance + light * response + self.dark_rate * np.float32(exptime)
        with np.errstate(divide="ignore"):  # infinite where a pixel sees nothing
            return np.broadcast_to(np.sqrt(variance) / response, self.shape).astype(np.float32)

    def expose(
        self, light: np.ndarray | None, exptime: float, filter_name: str, frame: str, hours: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """One raw frame.

        Parameters
        ----------
        light : ndarray of float32, shape (ny, nx), or None
            Expected electrons that a pixel of response 1 would collect; None with the shutter closed.
        exptime : float
            Second.
        filter_name : str
        frame : str
            Name of the frame; the random streams depend on it.
        hours : float
            Time since the start of the night.

        Returns
        -------
        raw : ndarray of uint16, shape (ny, nx + overscan)
        cosmic_rays : ndarray of int32, shape (ny, nx)
            Electrons that cosmic rays left.
        """
        charge = self._counts(self.dark_rate * np.float32(exptime), "dark", frame)
        if light is not None:
            charge += self._counts(light * self.response(filter_name), "light", frame)
        cosmic_rays = self._cosmic_rays(exptime, frame)
        charge += cosmic_rays
        charge = self.recorded(self._limited(charge))
        raw = charge / self.column_gain + self.bias
        if self.effects.overscan.enabled:
            raw = np.hstack([raw, self._overscan_level()])
        raw += self._drift(frame, hours) + self._read_noise(raw.shape, frame)
        return np.clip(np.rint(raw), 0, ADC_LIMIT).astype(np.uint16), cosmic_rays

    def _counts(self, expected: np.ndarray, what: str, frame: str) -> np.ndarray:
        if not self.effects.shot_noise.enabled:
            return expected.astype(np.float32)
        return poisson(expected, stream(self.noise_seed, "shot_noise", what, frame))

    def _read_noise(self, shape: tuple[int, int], frame: str) -> np.ndarray:
        noise = stream(self.noise_seed, "read_noise", frame).standard_normal(shape, np.float32)
        gain = self.column_gain
        if shape[1] > len(gain):
            gain = np.append(gain, self._overscan_part(gain))
        return noise * np.float32(self.read_noise) / gain

    def _drift(self, frame: str, hours: float) -> np.float32:
        drift = self.effects.bias_drift
        if not drift.enabled:
            return np.float32(0)
        return np.float32(drift.rate * hours + stream(self.seed, "bias_drift", frame).normal(0, drift.stddev))

    def _overscan_level(self) -> np.ndarray:
        pedestal = self._overscan_part(self.column_pedestal)
        return (np.float32(self.level) + self._ramp)[:, None] + pedestal

    def _overscan_part(self, per_column: np.ndarray) -> np.ndarray:
        """Values of the overscan columns: those of the amplifiers, from left to right, in equal parts."""
        columns = self.effects.overscan.columns
        return per_column[(np.arange(columns) * len(per_column)) // columns]

    def _cosmic_rays(self, exptime: float, frame: str) -> np.ndarray:
        deposits = np.zeros(self.shape, np.int32)
        rays = self.effects.cosmic_rays
        if rays.enabled and exptime > 0:
            rng = stream(self.seed, "cosmic_rays", frame)
            for _ in range(rng.poisson(rays.rate * exptime * deposits.size / 1e6)):
                _add_ray(deposits, rng, rays)
        return deposits

    def _limited(self, charge: np.ndarray) -> np.ndarray:
        if not self.effects.saturation.enabled:
            return charge
        full_well = np.float32(self.effects.saturation.full_well)
        if self.effects.bleeding.enabled:
            columns = (charge > full_well).any(axis=0)
            charge[:, columns] = _bled(charge[:, columns], full_well)
        return np.minimum(charge, full_well)


@lru_cache(maxsize=8)
def _response(camera: Camera, filter_name: str) -> np.ndarray:
    response = np.ones(camera.shape, np.float32)
    if camera.effects.vignetting.enabled:
        response *= _vignetting(camera)
    if camera.effects.dust.enabled:
        # Half of the dust is on the window, in every filter's light; half on the filter.
        for place, share in (("window", 0.5), (filter_name, 0.5)):
            response *= _dust(camera, place, share)
    if camera.effects.pixel_response.enabled:
        spread = camera.effects.pixel_response.stddev
        rng = stream(camera.seed, "pixel_response")
        response *= 1 + np.float32(spread) * rng.standard_normal(camera.shape, np.float32)
    response /= response.mean(dtype=np.float64)
    return response * camera.blind


def _vignetting(camera: Camera) -> np.ndarray:
    ny, nx = camera.shape
    vignetting = camera.effects.vignetting
    x = np.arange(nx) / (nx - 1) - 0.5 - vignetting.centre[0]
    y = np.arange(ny) / (ny - 1) - 0.5 - vignetting.centre[1]
    return (1 - vignetting.corner * np.add.outer(y**2, x**2) / 0.5).astype(np.float32)


def _dust(camera: Camera, place: str, share: float) -> np.ndarray:
    """Shadows: discs with soft edges and a brighter middle, the shadow of the secondary mirror."""
    rng = stream(camera.seed, "dust", place)
    ny, nx = camera.shape
    transmission = np.ones(camera.shape, np.float32)
    for _ in range(round(camera.effects.dust.number * share)):
        x, y = rng.uniform(0, nx), rng.uniform(0, ny)
        radius, depth = rng.uniform(*camera.effects.dust.radius), rng.uniform(*camera.effects.dust.depth)
        distance = np.sqrt(np.add.outer((np.arange(ny) - y) ** 2, (np.arange(nx) - x) ** 2))
        shadow = _soft_disc(distance, radius) - 0.8 * _soft_disc(distance, 0.4 * radius)
        transmission *= (1 - depth * shadow).astype(np.float32)
    return transmission


def _soft_disc(distance: np.ndarray, radius: float) -> np.ndarray:
    return 0.5 - 0.5 * np.tanh((distance - radius) / 1.5)


def _per_column(values: tuple[float, ...], columns: int) -> np.ndarray:
    return np.asarray(values)[(np.arange(columns) * len(values)) // columns]


def _random_pixels(rng: np.random.Generator, shape: tuple[int, int], fraction: float) -> tuple[np.ndarray, np.ndarray]:
    chosen = rng.choice(shape[0] * shape[1], round(fraction * shape[0] * shape[1]), replace=False)
    return np.unravel_index(chosen, shape)


def _add_ray(deposits: np.ndarray, rng: np.random.Generator, rays) -> None:
    """Add the electrons of one particle to `deposits`."""
    ny, nx = deposits.shape
    start = rng.uniform(-0.5, (ny - 0.5, nx - 0.5))
    electrons = math.exp(rng.uniform(*np.log(rays.electrons)))
    angle = rng.uniform(0, 2 * math.pi)
    if rng.random() < rays.worms:
        steps = rng.integers(20, 120)
        headings = angle + np.cumsum(rng.normal(0, 0.25, steps))
    else:
        # Intensity ~ cos^2 of the angle from the vertical (Groom 2002, Experimental Astronomy 14, 45): cos ~ u^(1/3).
        slope = math.tan(math.acos(rng.random() ** (1 / 3)))
        steps = 1 + int(min(rays.thickness * slope, 150.0) / 0.2)
        headings = np.full(steps, angle)
    path = start + 0.2 * np.cumsum(np.column_stack([np.sin(headings), np.cos(headings)]), axis=0)
    spread = np.repeat(path, 16, axis=0) + rng.normal(0, rays.diffusion, (16 * steps, 2))
    y, x = np.rint(spread).astype(int).T
    inside = (y >= 0) & (y < ny) & (x >= 0) & (x < nx)
    places, hits = np.unique(y[inside] * nx + x[inside], return_counts=True)
    deposits.ravel()[places] += np.rint(electrons * hits / (16 * steps)).astype(np.int32)


def _bled(columns: np.ndarray, full_well: float) -> np.ndarray:
    """Columns in which charge above the full well has flowed half up, half down, to the next pixels with room."""
    excess = np.maximum(columns - full_well, 0) / 2
    filled = np.minimum(columns, full_well)
    for rows in (range(len(columns)), range(len(columns) - 1, -1, -1)):
        carried = np.zeros(columns.shape[1], columns.dtype)
        for row in rows:
            carried += excess[row]
            taken = np.minimum(full_well - filled[row], carried)
            filled[row] += taken
            carried -= taken
    return filled
