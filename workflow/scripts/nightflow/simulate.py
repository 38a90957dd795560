"""Simulated nights with known truth: raw bias, dark, flat and light frames, and what a perfect reduction would give.

A night follows from its configuration and seed alone. The sky is in `simulate_sky`, the images of sources in
`simulate_sources`, the camera in `simulate_detector`, and everything that can be switched on, off and set in
`simulate_effects`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from nightflow import simulate_sky as sky
from nightflow.products import MaskBit, write_fits
from nightflow.simulate_detector import Camera
from nightflow.simulate_effects import Effects, configure, only
from nightflow.simulate_headers import dialect, hdus_of, header_of
from nightflow.simulate_noise import stream
from nightflow.simulate_sky import Conditions, Filter
from nightflow.simulate_sources import PSF, render_galaxies, render_stars, sersic_flux

__all__ = [
    "PSF",
    "Exposure",
    "Frame",
    "Night",
    "only",
    "render_galaxies",
    "render_stars",
    "sersic_flux",
    "simulate_night",
]


@dataclass(frozen=True)
class Target:
    """What the telescope points at."""

    name: str = "field"
    ra: float = 0.0  # degree, ICRS
    dec: float = 0.0
    kind: str = "field"  # or cluster, galaxy: what stands in the middle
    filters: tuple[str, ...] = ("V", "R")
    frames: int = 6  # per filter
    exptime: float = 120.0  # s
    pointings: tuple[tuple[float, float], ...] = ()  # offsets x, y in pixels that frames take in turn: a mosaic


@dataclass(frozen=True)
class Site:
    """Place of the telescope; the defaults are Lulin Observatory's."""

    latitude: float = 23.4686  # degree
    longitude: float = 120.8736  # degree, east
    height: float = 2862.0  # m


@dataclass(frozen=True)
class Catalogue:
    """The reference catalogue: errors and depth."""

    bands: tuple[str, ...] = ("V", "R")  # names of the two magnitudes
    faintest: float = 18.0  # magnitude in the first band
    position_error: float = 0.0  # arcsec, stddev per coordinate
    magnitude_error: float = 0.0  # magnitude, stddev; drawn independently for each star and band
    seed: int | None = None  # of the errors; null: the night's


@dataclass(frozen=True)
class Truth:
    """What is written besides the frames."""

    frames: bool = True  # for each light: WCS, sources, cosmic rays and trails
    expected: bool = False  # also the noiseless image and the true sigma of its calibrated pixels
    masters: bool = True


@dataclass(frozen=True)
class Settings:
    """A night, as the section ``simulate`` of the configuration gives it."""

    seed: int = 20180512
    noise_seed: int | None = None  # of shot and read noise; null: the seed
    cores: int = 1  # threads; the frames do not depend on their number
    shape: tuple[int, int] = (512, 512)  # rows, columns
    pixel_scale: float = 1.0  # arcsec
    start: str = "2018-05-12T11:30:00"  # UT
    bias_frames: int = 5
    dark_frames: int = 5
    dark_exptime: float | None = None  # s; null: a set for each exposure time of the lights
    flat_frames: int = 5  # per filter
    flat_level: float = 30000.0  # electron
    flat_exptime: float = 5.0  # s
    bias_level: float = 500.0  # ADU
    temperature: float = -20.0  # degree Celsius
    filters: dict = field(default_factory=dict)
    targets: tuple = ()
    site: Site = field(default_factory=Site)
    catalogue: Catalogue = field(default_factory=Catalogue)
    truth: Truth = field(default_factory=Truth)
    effects: Effects = field(default_factory=Effects)
    dialect: str | dict = "generic"


DEFAULT_FILTERS = {
    "V": Filter(22.3, 3.0, 0.14, 0.03, 0.0),
    "R": Filter(22.5, 4.5, 0.10, -0.02, 1.0),
}
DEFAULT_TARGETS = (
    Target("M101", 210.802, 54.349, "galaxy"),
    Target("M67", 132.846, 11.814, "cluster"),
)


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


def settings_of(config: dict) -> Settings:
    """Settings of a night from a section of the configuration; what is not given keeps its default.

    Raises
    ------
    ValueError
        For an unknown option or a value of the wrong type.
    """
    config = dict(config)
    filters = config.pop("filters", None)
    targets = config.pop("targets", None)
    settings = configure(Settings(), config, "simulate")
    dialect(settings.dialect)
    if filters is None:
        filters = DEFAULT_FILTERS
    else:
        filters = {
            name: configure(DEFAULT_FILTERS.get(name, Filter()), given or {}, f"simulate.filters.{name}")
            for name, given in filters.items()
        }
    if targets is None:
        targets = DEFAULT_TARGETS
    else:
        targets = tuple(configure(Target(), given, f"simulate.targets[{i}]") for i, given in enumerate(targets))
    _check_targets(targets, filters)
    return replace(settings, filters=dict(filters), targets=targets)


def _check_targets(targets: tuple[Target, ...], filters: dict) -> None:
    for i, target in enumerate(targets):
        if target.kind not in ("field", "cluster", "galaxy"):
            raise ValueError(f"simulate.targets[{i}].kind: expected field, cluster or galaxy, got '{target.kind}'")
        for name in target.filters:
            if name not in filters:
                raise ValueError(
                    f"simulate.targets[{i}].filters: '{name}' is not among simulate.filters ({', '.join(filters)})"
                )


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
            stem = f"flat_{_slug(name)}"
            yield from ((stem, "flat", s.flat_exptime, name, None, n, s.flat_frames) for n in _count(s.flat_frames))
        for target in s.targets:
            for n in _count(target.frames):
                for name in target.filters:
                    stem = f"{_slug(target.name)}_{_slug(name)}"
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
        if not fringes.on or filter_name not in fringes.filters:
            return None
        return sky.fringe_pattern(self.settings.shape, self.settings.effects, self.settings.seed)

    def _flat_light(self, exposure: Exposure) -> np.ndarray:
        """Twilight: even light whose level changes from one exposure to the next, with stars if asked."""
        s = self.settings
        rng = stream(s.seed, "flat", exposure.name)
        level = s.flat_level * rng.uniform(0.85, 1.1)
        light = np.full(s.shape, level, np.float32)
        if s.effects.flat_stars.on:
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
        if error.on:
            angle = stream(self.settings.seed, "pointing_error", exposure.target.name).uniform(0, 2 * math.pi)
            dec = dec + error.offset / 60 * math.sin(angle)
            ra = (ra + error.offset / 60 * math.cos(angle) / math.cos(math.radians(dec))) % 360
        return float(ra), float(dec)

    def _facts(self, exposure: Exposure, wcs: WCS | None) -> dict:
        s = self.settings
        ny, nx = s.shape
        overscan = s.effects.overscan.columns if s.effects.overscan.on else 0
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


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.")


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
    _write_tables(night, truth, rows)
    if night.settings.truth.masters:
        _write_masters(night, truth)


def _write_frames(night: Night, directory: Path, truth: Path) -> list[dict]:
    """Write all frames; rows of the table of frames. Threads suffice: numpy works outside the interpreter's lock."""
    with ThreadPoolExecutor(max(night.settings.cores, 1)) as pool:
        return list(pool.map(lambda exposure: _write_frame(night, exposure, directory, truth), night.plan))


def _write_frame(night: Night, exposure: Exposure, directory: Path, truth: Path) -> dict:
    frame = night.expose(exposure)
    definition = dialect(night.settings.dialect)
    write_fits(directory / f"{exposure.name}.fits", hdus_of(frame.raw, header_of(frame.facts, definition), definition))
    if exposure.kind == "light" and night.settings.truth.frames:
        write_fits(truth / f"{exposure.name}.fits", _truth_hdus(frame, night.settings.truth.expected))
    return _row(frame)


def _truth_hdus(frame: Frame, expected: bool) -> list:
    primary = fits.PrimaryHDU(header=_truth_header(frame))
    tile = (min(64, frame.trail.shape[0]), frame.trail.shape[1])
    rays = fits.CompImageHDU(frame.cosmic_rays, name="COSMIC_RAYS", compression_type="RICE_1", tile_shape=tile)
    trails = fits.CompImageHDU(
        frame.trail, name="TRAILS", compression_type="GZIP_2", quantize_level=0.0, tile_shape=tile
    )
    for hdu in (rays, trails):
        hdu.header["BUNIT"] = "electron"
    sources = _table_hdu(frame.sources, "SOURCES")
    images = [("EXPECTED", frame.expected), ("SIGMA", frame.sigma)] if expected else []
    return [primary, rays, trails, sources, *(fits.ImageHDU(pixels, name=name) for name, pixels in images)]


def _table_hdu(table: Table, name: str) -> fits.BinTableHDU:
    hdu = fits.table_to_hdu(table)
    hdu.name = name
    return hdu


def _truth_header(frame: Frame) -> fits.Header:
    header = frame.wcs.to_header(relax=True)
    row = _row(frame)
    header["FRAME"] = row["frame"]
    header["MAGZP"] = (row["zero_point"], "magnitude of 1 electron/s, colour 0")
    header["FWHM"] = (row["fwhm"], "[pix] geometric mean of the axes")
    header["SKY"] = (row["sky"], "[electron] in the middle of the frame")
    return header


def _row(frame: Frame) -> dict:
    """Row of the table of frames."""
    exposure, conditions = frame.exposure, frame.conditions
    row = {
        "frame": exposure.name,
        "kind": exposure.kind,
        "target": exposure.target.name if exposure.target else "",
        "filter": exposure.filter or "",
        "exptime": exposure.exptime,
        "date_obs": frame.facts["date_obs"],
        "mjd_mid": frame.mjd_mid,
        "cosmic_ray_pixels": int((frame.cosmic_rays > 0).sum()),
    }
    nothing = dict.fromkeys(_CONDITION_COLUMNS, math.nan)
    return {**row, **(nothing if conditions is None else _condition_values(frame))}


_CONDITION_COLUMNS = (
    "airmass zero_point cloud fwhm beta ellipticity theta dither_x dither_y rotation flipped scale streak_length "
    "streak_angle sky gradient_x gradient_y trail"
).split()


def _condition_values(frame: Frame) -> dict:
    c = frame.conditions
    values = (
        c.airmass, c.zero_point, c.cloud, c.psf.fwhm, c.psf.beta, c.psf.ellipticity, math.degrees(c.psf.theta),
        *c.dither, c.rotation, int(c.flipped), c.scale, c.psf.streak[0], math.degrees(c.psf.streak[1]), c.sky,
        *c.gradient, int(c.trail is not None),
    )  # fmt: skip
    return dict(zip(_CONDITION_COLUMNS, values, strict=True))


def _write_tables(night: Night, truth: Path, rows: list[dict]) -> None:
    table = Table(rows)
    formats = {name: "%.12g" for name in table.colnames if table[name].dtype.kind == "f"}
    table.write(truth / "frames.tsv", format="ascii.tab", formats=formats, overwrite=True)
    for target in night.settings.targets:
        name = f"sources_{_slug(target.name)}.fits"
        write_fits(truth / name, [fits.PrimaryHDU(), _table_hdu(night.field(target), "SOURCES")])
    write_fits(truth / "catalogue.fits", [fits.PrimaryHDU(), _table_hdu(reference_catalogue(night), "CATALOGUE")])


def reference_catalogue(night: Night) -> Table:
    """Stars of all fields as a catalogue would list them.

    Returns
    -------
    catalogue : `~astropy.table.Table`
        ra, dec (degree, ICRS), one magnitude column for each band, named for it, and its error; with the errors
        that ``simulate.catalogue`` asks for.
    """
    s = night.settings
    fields = [night.field(target) for target in s.targets]
    parts = {name: np.concatenate([np.asarray(f[name]) for f in fields]) for name in ("type", "ra", "dec", "m1", "m2")}
    keep = (parts["type"] == sky.STAR) & (parts["m1"] < s.catalogue.faintest)
    rng = stream(s.seed if s.catalogue.seed is None else s.catalogue.seed, "catalogue")
    noise = rng.standard_normal((4, len(keep)))[:, keep]
    ra, dec, *magnitudes = (parts[name][keep] for name in ("ra", "dec", "m1", "m2"))
    error = s.catalogue.position_error / 3600
    table = Table({"ra": ra + error * noise[0] / np.cos(np.radians(dec)), "dec": dec + error * noise[1]})
    table["ra"].unit = table["dec"].unit = "deg"
    for band, magnitude, deviation in zip(s.catalogue.bands, magnitudes, noise[2:], strict=True):
        table[band] = magnitude + s.catalogue.magnitude_error * deviation
        table[f"{band}_error"] = np.full(len(ra), s.catalogue.magnitude_error)
        table[band].unit = table[f"{band}_error"].unit = "mag"
    return table


def _write_masters(night: Night, truth: Path) -> None:
    camera, s = night.camera, night.settings
    masters = {"bias": (camera.bias, "adu"), "dark_rate": (camera.dark_rate, "electron / s")}
    masters["bad_pixels"] = (camera.bad_pixels.astype(np.uint8) * np.uint8(MaskBit.BAD), "")
    for exptime in sorted({e.exptime for e in night.plan if e.kind == "dark"}):
        masters[f"dark_{exptime:g}s"] = (camera.dark(exptime), "adu")
    for name in dict.fromkeys(name for target in s.targets for name in target.filters):
        masters[f"flat_{_slug(name)}"] = (camera.response(name), "")
    for name, (pixels, unit) in masters.items():
        hdu = fits.PrimaryHDU(pixels)
        if unit:
            hdu.header["BUNIT"] = unit
        write_fits(truth / f"master_{name}.fits", [hdu])
