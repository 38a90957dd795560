"""Simulated nights with known truth: raw bias, dark, flat and light frames, and what a perfect reduction would give.

A night follows from its configuration and seed alone: `simulate_settings` says what it consists of and
`simulate_effects` what can be switched on, off and set. The sky is in `simulate_sky`, the images of sources in
`simulate_sources`, the camera in `simulate_detector`, what is written besides the frames in `simulate_truth`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS

from nightflow import simulate_sky as sky
from nightflow.products import write_fits
from nightflow.simulate_detector import Camera
from nightflow.simulate_effects import only
from nightflow.simulate_headers import dialect, hdus_of, header_of
from nightflow.simulate_noise import stream
from nightflow.simulate_settings import Site, Target, settings_of, slug
from nightflow.simulate_sky import Conditions
from nightflow.simulate_sources import PSF, render_galaxies, render_stars, sersic_flux
from nightflow.simulate_truth import frame_row, reference_catalogue, write_frame_truth, write_masters, write_tables

__all__ = [
    "PSF",
    "Exposure",
    "Frame",
    "Night",
    "only",
    "reference_catalogue",
    "render_galaxies",
    "render_stars",
    "sersic_flux",
    "simulate_night",
]


@dataclass(frozen=True)
class Exposure:
    """One frame of the night's plan.

    Attributes
    ----------
    name : str
        Name of the file without suffix; the random streams depend on it.
    kind : {'bias', 'dark', 'flat', 'light'}
    exptime : float
        Second.
    hours : float
        Start, since the start of the night.
    filter : str or None
    target : `Target` or None
    number, of : int
        Its place, from 1, among the frames of its sort.
    """

    name: str
    kind: str
    exptime: float
    hours: float
    filter: str | None
    target: Target | None
    number: int
    of: int


@dataclass
class Frame:
    """A simulated raw frame and its truth.

    Attributes
    ----------
    exposure : `Exposure`
    raw : ndarray of uint16, shape (ny, nx + overscan)
        ADU.
    facts : dict
        Header values by standard name.
    mjd_mid : float
        Modified Julian Date (UT) of the middle of the exposure.
    cosmic_rays : ndarray of int32, shape (ny, nx)
        Electrons left by cosmic rays.
    conditions : `~nightflow.simulate_sky.Conditions` or None
        Only for lights, as all below.
    wcs : `~astropy.wcs.WCS` or None
    sources : `~astropy.table.Table` or None
        See `~nightflow.simulate_sky.sources_on_frame`.
    trail : ndarray of float32, shape (ny, nx), or None
        Expected electrons of satellites.
    expected : ndarray of float32, shape (ny, nx), or None
        Electrons of sky and sources that a perfect calibration gives.
    sigma : ndarray of float32, shape (ny, nx), or None
        True standard deviation about `expected`.
    """

    exposure: Exposure
    raw: np.ndarray
    facts: dict
    mjd_mid: float
    cosmic_rays: np.ndarray
    conditions: Conditions | None = None
    wcs: WCS | None = None
    sources: Table | None = None
    trail: np.ndarray | None = None
    expected: np.ndarray | None = None
    sigma: np.ndarray | None = None


class Night:
    """A night of observing: its plan, and its frames on demand.

    Parameters
    ----------
    config : dict
        Section ``simulate`` of the configuration; what is not given keeps its default.
    """

    def __init__(self, config: dict):
        self.settings = settings_of(config)

    @cached_property
    def camera(self) -> Camera:
        """The detector."""
        s = self.settings
        noise_seed = s.seed if s.noise_seed is None else s.noise_seed
        return Camera(s.shape, s.effects, s.bias_level, s.seed, noise_seed)

    @cached_property
    def plan(self) -> list[Exposure]:
        """All exposures in the order of the night: bias, flats, lights target by target, darks."""
        return list(_timed(self._sorts()))

    def lights(self, target: str | None = None, filter_name: str | None = None) -> list[Exposure]:
        """The plan's light frames, of one target and filter if these are given."""
        return [
            e for e in self.plan
            if e.kind == "light" and target in (None, e.target.name) and filter_name in (None, e.filter)
        ]  # fmt: skip

    def _sorts(self) -> Iterable[tuple]:
        s = self.settings
        used = list(dict.fromkeys(name for target in s.targets for name in target.filters))
        yield from (("bias", "bias", 0.0, None, None, n, s.bias_frames) for n in _count(s.bias_frames))
        for name in used:
            stem = f"flat_{slug(name)}"
            yield from ((stem, "flat", s.flat_exptime, name, None, n, s.flat_frames) for n in _count(s.flat_frames))
        for target in s.targets:
            for n in _count(target.frames):
                for name in target.filters:
                    stem = f"{slug(target.name)}_{slug(name)}"
                    yield stem, "light", target.exptime, name, target, n, target.frames
        exptimes = sorted({t.exptime for t in s.targets}) if s.dark_exptime is None else [s.dark_exptime]
        for exptime in exptimes:
            stem = "dark" if len(exptimes) == 1 else f"dark_{exptime:g}s"
            yield from ((stem, "dark", exptime, None, None, n, s.dark_frames) for n in _count(s.dark_frames))

    def field(self, target: Target) -> Table:
        """Sources of a target's field; see `~nightflow.simulate_sky.make_field`."""
        s = self.settings
        centre = (target.ra, target.dec)
        return _field(centre, target.kind, target.pointings, s.shape, s.pixel_scale, s.effects, s.seed).copy()

    def conditions(self, exposure: Exposure) -> Conditions:
        """What happened during a light exposure."""
        s = self.settings
        return sky.draw_conditions(
            exposure.name, exposure.number, exposure.of, exposure.hours, self._airmass(exposure), exposure.exptime,
            s.filters[exposure.filter], exposure.target.name, exposure.target.pointings, s.shape, s.effects,
            s.seed,
        )  # fmt: skip

    def wcs(self, exposure: Exposure) -> WCS:
        """True WCS of a light frame, for 0-based pixels of the part that sees light."""
        s = self.settings
        target = (exposure.target.ra, exposure.target.dec)
        return sky.frame_wcs(target, self.conditions(exposure), s.shape, s.pixel_scale, s.effects)

    def expose(self, exposure: Exposure) -> Frame:
        """Make one frame with its truth."""
        if exposure.kind == "light":
            return self._expose_light(exposure)
        light = self._flat_light(exposure) if exposure.kind == "flat" else None
        raw, cosmic_rays = self._read_out(light, exposure)
        return Frame(exposure, raw, self._facts(exposure, None), self._mjd_mid(exposure), cosmic_rays)

    def _read_out(self, light: np.ndarray | None, exposure: Exposure) -> tuple[np.ndarray, np.ndarray]:
        return self.camera.expose(light, exposure.exptime, exposure.filter, exposure.name, exposure.hours)

    def _expose_light(self, exposure: Exposure) -> Frame:
        s = self.settings
        conditions, wcs = self.conditions(exposure), self.wcs(exposure)
        mjd_mid = self._mjd_mid(exposure)
        sources = sky.sources_on_frame(
            self.field(exposure.target), wcs, s.filters[exposure.filter], conditions, exposure.exptime, mjd_mid, s.shape
        )
        expected = sky.sky_light(s.shape, conditions, self._fringes(exposure.filter))
        expected += sky.render_sources(s.shape, sources, conditions.psf)
        noise = math.sqrt(conditions.sky + self.camera.read_noise**2)
        trail = sky.trail_light(s.shape, conditions, noise, s.effects)
        raw, cosmic_rays = self._read_out(expected + trail, exposure)
        sigma = self.camera.sigma(expected, exposure.exptime, exposure.filter)
        facts = self._facts(exposure, wcs)
        return Frame(exposure, raw, facts, mjd_mid, cosmic_rays, conditions, wcs, sources, trail, expected, sigma)

    def _fringes(self, filter_name: str) -> np.ndarray | None:
        fringes = self.settings.effects.fringes
        if not fringes.enabled or filter_name not in fringes.filters:
            return None
        return self._fringe_pattern

    @cached_property
    def _fringe_pattern(self) -> np.ndarray:
        return sky.fringe_pattern(self.settings.shape, self.settings.effects, self.settings.seed)

    def _flat_light(self, exposure: Exposure) -> np.ndarray:
        """Twilight: even light whose level changes from one exposure to the next, with stars if asked."""
        s = self.settings
        rng = stream(s.seed, "flat", exposure.name)
        level = s.flat_level * rng.uniform(0.85, 1.1)
        light = np.full(s.shape, level, np.float32)
        if s.effects.flat_stars.enabled:
            stars = s.effects.flat_stars
            n = round(stars.density * light.size / 1e6)
            psf = PSF(sum(s.effects.seeing.fwhm) / 2, s.effects.seeing.beta)
            peaks = level * np.exp(rng.uniform(*np.log(stars.peak), n))
            flux = peaks * math.pi * psf.alpha**2 / (psf.beta - 1)
            render_stars(light, rng.uniform(0, s.shape[1], n), rng.uniform(0, s.shape[0], n), flux, psf)
        return light

    def _start(self, exposure: Exposure) -> datetime:
        return datetime.fromisoformat(self.settings.start) + timedelta(hours=exposure.hours)

    def _mjd_mid(self, exposure: Exposure) -> float:
        return _mjd(self._start(exposure)) + exposure.exptime / 2 / 86400

    def _airmass(self, exposure: Exposure) -> float:
        return airmass(exposure.target.ra, exposure.target.dec, self._mjd_mid(exposure), self.settings.site)

    def _header_coordinates(self, exposure: Exposure, wcs: WCS) -> tuple[float, float]:
        """Where the telescope believes to point: the middle of the frame, and an error if asked."""
        ra, dec = wcs.wcs.crval
        error = self.settings.effects.pointing_error
        if error.enabled:
            angle = stream(self.settings.seed, "pointing_error", exposure.target.name).uniform(0, 2 * math.pi)
            dec = dec + error.offset / 60 * math.sin(angle)
            ra = (ra + error.offset / 60 * math.cos(angle) / math.cos(math.radians(dec))) % 360
        return float(ra), float(dec)

    def _facts(self, exposure: Exposure, wcs: WCS | None) -> dict:
        s = self.settings
        ny, nx = s.shape
        overscan = s.effects.overscan.columns if s.effects.overscan.enabled else 0
        ra, dec = (None, None) if wcs is None else self._header_coordinates(exposure, wcs)
        return {
            "kind": exposure.kind,
            "target": exposure.target.name if exposure.target else None,
            "filter": exposure.filter,
            "exptime": exposure.exptime,
            "date_obs": self._start(exposure).isoformat(timespec="milliseconds"),
            "ra": ra,
            "dec": dec,
            "airmass": round(self._airmass(exposure), 4) if exposure.target else None,
            "temperature": s.temperature,
            "binning": 1,
            "gain": self.camera.gain,
            "read_noise": self.camera.read_noise,
            "saturation": self.camera.saturation,
            "trim_section": f"[1:{nx},1:{ny}]" if overscan else None,
            "bias_section": f"[{nx + 1}:{nx + overscan},1:{ny}]" if overscan else None,
            "instrument": "Simulated CCD",
            "telescope": "Simulated 0.4 m",
            "site_latitude": s.site.latitude,
            "site_longitude": s.site.longitude,
            "site_height": s.site.height,
        }


@lru_cache(maxsize=16)
def _field(*arguments) -> Table:
    return sky.make_field(*arguments)


def _count(n: int) -> range:
    return range(1, n + 1)


_OVERHEAD = 8.0  # second between exposures


def _timed(sorts: Iterable[tuple]) -> Iterable[Exposure]:
    seconds = 0.0
    for stem, kind, exptime, filter_name, target, number, of in sorts:
        name = f"{stem}_{number:03d}"
        yield Exposure(name, kind, exptime, seconds / 3600, filter_name, target, number, of)
        seconds += exptime + _OVERHEAD


def _mjd(moment: datetime) -> float:
    return (moment - datetime(1858, 11, 17)) / timedelta(days=1)


def airmass(ra: float, dec: float, mjd: float, site: Site) -> float:
    """Relative airmass after Kasten & Young (1989, Applied Optics 28, 4735, eq. 3).

    The hour angle comes from the mean sidereal time (Meeus 1998, Astronomical Algorithms, eq. 12.4); precession is
    left out, which changes the airmass of a target at 60 degrees from the zenith by less than 0.01.

    Parameters
    ----------
    ra, dec : float
        Degree.
    mjd : float
        UT.
    site : `Site`
    """
    sidereal = 280.46061837 + 360.98564736629 * (mjd - 51544.5) + site.longitude
    hour_angle, lat, delta = (math.radians(a) for a in (sidereal - ra, site.latitude, dec))
    sin_altitude = math.sin(lat) * math.sin(delta) + math.cos(lat) * math.cos(delta) * math.cos(hour_angle)
    altitude = max(math.degrees(math.asin(sin_altitude)), 5.0)
    return 1 / (math.sin(math.radians(altitude)) + 0.50572 * (altitude + 6.07995) ** -1.6364)


def simulate_night(config: dict, directory: str | Path, truth_directory: str | Path | None = None) -> None:
    """Write a night's raw frames, and beside them the truth.

    Parameters
    ----------
    config : dict
        Section ``simulate`` of the configuration; what is not given keeps its default.
    directory : path-like
        Where the raw frames go.
    truth_directory : path-like, optional
        Where the truth goes; by default ``truth`` beside `directory`, so that nobody takes it for raw frames.

    Raises
    ------
    ValueError
        For an unknown option or a value of the wrong type.
    """
    night = Night(config)
    directory = Path(directory)
    truth = Path(truth_directory) if truth_directory else directory.absolute().parent / "truth"
    directory.mkdir(parents=True, exist_ok=True)
    truth.mkdir(parents=True, exist_ok=True)
    rows = _write_frames(night, directory, truth)
    write_tables(truth, night, rows)
    if night.settings.truth.masters:
        write_masters(truth, night)


def _write_frames(night: Night, directory: Path, truth: Path) -> list[dict]:
    """Write all frames; rows of the table of frames. Threads suffice: numpy works outside the interpreter's lock."""
    with ThreadPoolExecutor(max(night.settings.cores, 1)) as pool:
        return list(pool.map(lambda exposure: _write_frame(night, exposure, directory, truth), night.plan))


def _write_frame(night: Night, exposure: Exposure, directory: Path, truth: Path) -> dict:
    frame = night.expose(exposure)
    definition = dialect(night.settings.dialect)
    write_fits(directory / f"{exposure.name}.fits", hdus_of(frame.raw, header_of(frame.facts, definition), definition))
    if exposure.kind == "light" and night.settings.truth.frames:
        write_frame_truth(truth / f"{exposure.name}.fits", frame, expected=night.settings.truth.expected)
    return frame_row(frame)
