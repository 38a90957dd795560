"""The simulated sky: stars and galaxies of a field, the telescope's pointing, and the light that reaches the camera."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS

from nightflow.simulate_effects import Effects
from nightflow.simulate_noise import stream
from nightflow.simulate_sources import PSF, render_galaxies, render_stars

STAR, GALAXY, SPIRAL = 0, 1, 2


@dataclass(frozen=True)
class Filter:
    """Throughput and night sky in one filter.

    A source whose magnitudes in the two bands are m1 and m2 has the filter's magnitude
    m = m1 - colour_weight (m1 - m2) and gives 10^(0.4 (zero_point - extinction X - m - colour_term (m1 - m2)))
    electrons a second at airmass X.
    """

    zero_point: float = 22.0  # magnitude that gives 1 electron / s outside the atmosphere
    sky: float = 3.0  # electron / s per pixel
    extinction: float = 0.15  # magnitude / airmass
    colour_term: float = 0.0
    colour_weight: float = 0.0  # 0: the first band of the catalogue, 1: the second


@dataclass(frozen=True)
class Conditions:
    """What the air, the mount and the neighbours did during one exposure: the truth of a frame."""

    airmass: float
    zero_point: float  # magnitude of 1 electron / s, extinction and clouds included, for colour 0
    cloud: float  # magnitude
    psf: PSF
    dither: tuple[float, float]  # x, y, pixel: where the target's centre falls relative to the frame's
    rotation: float  # degree
    flipped: bool
    scale: float  # factor on the pixel scale (arcsec per pixel)
    sky: float  # electron per pixel in the frame's middle
    gradient: tuple[float, float]  # relative change of the sky from the left to the right edge, and bottom to top
    trail: tuple[float, float, float] | None  # crest in units of the sky's noise, angle (radian), offset (pixel)


def make_field(
    centre: tuple[float, float], kind: str, pointings: tuple, shape: tuple[int, int], pixel_scale: float,
    effects: Effects, seed: int,
) -> Table:  # fmt: skip
    """Sources about the centre of a field.

    Parameters
    ----------
    centre : tuple of float
        Right ascension and declination, degree.
    kind : {'field', 'cluster', 'galaxy'}
        What stands in the middle: nothing, a star cluster or a spiral galaxy.
    pointings : tuple
        Offsets x, y of the frames, pixel.
    shape : tuple of int
        Rows and columns of a frame.
    pixel_scale : float
        Arcsecond per pixel; the densities and radii of the effects are given in pixels.
    effects : `~nightflow.simulate_effects.Effects`
    seed : int

    Returns
    -------
    sources : `~astropy.table.Table`
        id, type (0 star, 1 galaxy, 2 spiral), ra, dec (degree), m1, m2 (magnitude), amplitude (of variation,
        magnitude), period (day), phase (radian), and for galaxies radius (arcsec), index, axis_ratio, angle
        (position angle of the major axis, degree east of north).
    """
    names = (f"{centre[0]:.6f}", f"{centre[1]:.6f}")
    widest = max((math.hypot(*offset) for offset in pointings), default=0.0)
    radius = widest + 0.5 * math.hypot(*shape) + 40 + (effects.dithers.radius if effects.dithers.enabled else 0)
    if effects.scale.enabled:
        radius *= max(effects.scale.factor, 1)
    area = math.pi * radius**2 / 1e6
    parts = []
    if effects.stars.enabled:
        rng = stream(seed, "stars", *names)
        parts.append(_stars(rng, _in_disc(rng, round(effects.stars.density * area), radius), effects))
    if effects.cluster.enabled and kind == "cluster":
        rng = stream(seed, "cluster", *names)
        parts.append(_stars(rng, rng.normal(0, effects.cluster.radius, (effects.cluster.number, 2)), effects))
    if effects.galaxies.enabled:
        rng = stream(seed, "galaxies", *names)
        parts.append(_galaxies(rng, _in_disc(rng, round(effects.galaxies.density * area), radius), effects.galaxies))
    if effects.spiral.enabled and kind == "galaxy":
        parts.append(_spiral(effects.spiral))
    sources = {name: np.concatenate([part[name] for part in parts] or [np.empty(0)]) for name in _COLUMNS}
    _vary(sources, effects.variables, seed, names)
    plane = tangent_wcs(centre, (0, 0), pixel_scale)
    ra, dec = plane.wcs_pix2world(sources.pop("x"), sources.pop("y"), 0)
    sources["radius"] = sources["radius"] * pixel_scale
    table = Table({"id": np.arange(1, len(ra) + 1), "ra": ra, "dec": dec, **sources})
    for name, unit in _UNITS.items():
        table[name].unit = unit
    return table


_COLUMNS = ("type", "x", "y", "m1", "m2", "amplitude", "period", "phase", "radius", "index", "axis_ratio", "angle")
_UNITS = {
    "ra": "deg", "dec": "deg", "m1": "mag", "m2": "mag", "amplitude": "mag", "period": "d", "phase": "rad",
    "radius": "arcsec", "angle": "deg",
}  # fmt: skip


def _stars(rng: np.random.Generator, places: np.ndarray, effects: Effects) -> dict:
    n = len(places)
    m1 = _magnitudes(rng, n, effects.stars.magnitudes, effects.stars.slope)
    return _columns(n, type=STAR, x=places[:, 0], y=places[:, 1], m1=m1, m2=m1 - rng.normal(*effects.stars.colour, n))


def _galaxies(rng: np.random.Generator, places: np.ndarray, galaxies) -> dict:
    n = len(places)
    m1 = _magnitudes(rng, n, galaxies.magnitudes, galaxies.slope)
    return _columns(
        n, type=GALAXY, x=places[:, 0], y=places[:, 1], m1=m1, m2=m1 - rng.normal(*galaxies.colour, n),
        radius=rng.uniform(*galaxies.radius, n), index=rng.uniform(*galaxies.index, n),
        axis_ratio=rng.uniform(*galaxies.axis_ratio, n), angle=rng.uniform(0, 180, n),
    )  # fmt: skip


def _spiral(spiral) -> dict:
    return _columns(
        1, type=SPIRAL, m1=spiral.magnitude, m2=spiral.magnitude - spiral.colour, radius=spiral.radius, index=1.0,
        axis_ratio=spiral.axis_ratio, angle=30.0,
    )  # fmt: skip


def _columns(n: int, **given) -> dict:
    """Columns of `n` sources; what is not given is 0."""
    columns = {name: np.zeros(n) + given.get(name, 0) for name in _COLUMNS}
    columns["type"] = columns["type"].astype(np.int16)
    return columns


def _in_disc(rng: np.random.Generator, n: int, radius: float) -> np.ndarray:
    distance, angle = radius * np.sqrt(rng.random(n)), rng.uniform(0, 2 * math.pi, n)
    return np.column_stack([distance * np.cos(angle), distance * np.sin(angle)])


def _magnitudes(rng: np.random.Generator, n: int, limits: tuple[float, float], slope: float) -> np.ndarray:
    """Magnitudes between `limits`, their number rising as 10^(slope m), by inversion of the cumulative counts."""
    bright, faint = 10 ** (slope * limits[0]), 10 ** (slope * limits[1])
    if slope == 0 or bright == faint:
        return rng.uniform(*limits, n)
    return np.log10(bright + rng.random(n) * (faint - bright)) / slope


def _vary(sources: dict, variables, seed: int, names: tuple[str, ...]) -> None:
    """Let some of the brighter stars vary."""
    stars = np.flatnonzero(sources["type"] == STAR)
    if variables.enabled and len(stars):
        rng = stream(seed, "variables", *names)
        bright = stars[np.argsort(sources["m1"][stars])][: max(len(stars) // 3, 1)]
        chosen = rng.choice(bright, min(variables.number, len(bright)), replace=False)
        sources["amplitude"][chosen] = variables.amplitude
        sources["period"][chosen] = variables.period
        sources["phase"][chosen] = rng.uniform(0, 2 * math.pi, len(chosen))


def tangent_wcs(
    centre: tuple[float, float], middle: tuple[float, float], pixel_scale: float, rotation: float = 0.0,
    mirrored: bool = False,
) -> WCS:  # fmt: skip
    """Gnomonic projection, north up and east left before a turn by `rotation` degrees.

    Parameters
    ----------
    centre : tuple of float
        Right ascension and declination of the reference pixel, degree.
    middle : tuple of float
        Reference pixel x, y, 0-based.
    pixel_scale : float
        Arcsecond per pixel.
    rotation : float
        Angle from +y of the pixels to north, counter-clockwise, degree, before mirroring.
    mirrored : bool
        East to the right: an odd number of mirrors. The columns run the other way.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = centre
    wcs.wcs.crpix = [middle[0] + 1, middle[1] + 1]
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    parity = -1 if mirrored else 1
    wcs.wcs.cd = pixel_scale / 3600 * np.array([[-cos * parity, -sin], [-sin * parity, cos]])
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs


def frame_wcs(
    target: tuple[float, float], conditions: Conditions, shape: tuple[int, int], pixel_scale: float, effects: Effects
) -> WCS:
    """WCS of a frame, with SIP terms where the optics distort."""
    middle = ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    rotation = conditions.rotation + (180 if conditions.flipped else 0)
    at_target = tangent_wcs(target, (middle[0] + conditions.dither[0], middle[1] + conditions.dither[1]), pixel_scale)
    pointing = at_target.wcs_pix2world([middle], 0)[0]
    wcs = tangent_wcs(tuple(pointing), middle, pixel_scale * conditions.scale, rotation, effects.mirror.enabled)
    if effects.distortion.enabled:
        wcs = _with_sip(wcs, shape, effects.distortion)
    return wcs


def _with_sip(wcs: WCS, shape: tuple[int, int], distortion) -> WCS:
    """Radial cubic terms, (u, v) + k r^2 (u, v), and quadratic ones of a tilted focal plane."""
    corner = 0.5 * math.hypot(*shape)
    cubic, tilt = distortion.corner / corner**3, distortion.tilt / corner**2
    header = wcs.to_header(relax=True)
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    terms = {"A_3_0": cubic, "A_1_2": cubic, "A_2_0": tilt, "B_0_3": cubic, "B_2_1": cubic, "B_1_1": tilt}
    header.update({"A_ORDER": 3, "B_ORDER": 3, **terms})
    return WCS(header)


def pixel_positions(wcs: WCS, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """0-based pixel coordinates; NaN where the inverse of the distortion does not exist, far outside the frame."""
    if wcs.sip is None:
        return tuple(np.asarray(c) for c in wcs.wcs_world2pix(ra, dec, 0))
    x, y = wcs.all_world2pix(ra, dec, 0, tolerance=1e-6, maxiter=50, quiet=True)
    return np.asarray(x), np.asarray(y)


def electrons(sources: Table, band: Filter, conditions: Conditions, exptime: float, mjd_mid: float) -> np.ndarray:
    """Electrons that each source gives in an exposure, all over its profile."""
    colour = sources["m1"] - sources["m2"]
    magnitude = sources["m1"] - (band.colour_weight - band.colour_term) * colour
    period = np.where(sources["period"] > 0, sources["period"], 1)
    magnitude = magnitude + sources["amplitude"] * np.sin(2 * math.pi * mjd_mid / period + sources["phase"])
    return np.asarray(exptime * 10 ** (0.4 * (conditions.zero_point - magnitude)), dtype=float)


def sources_on_frame(
    sources: Table, wcs: WCS, band: Filter, conditions: Conditions, exptime: float, mjd_mid: float,
    shape: tuple[int, int],
) -> Table:  # fmt: skip
    """The sources of a field that send light to a frame, with pixel positions, angles and electrons.

    Returns
    -------
    table : `~astropy.table.Table`
        id, type, ra, dec, x, y (0-based pixel), flux (electron), radius (pixel), index, axis_ratio, theta (radian
        from +x), inside (whether the centre is on the frame).
    """
    x, y = pixel_positions(wcs, sources["ra"], sources["dec"])
    scale = math.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600
    theta = _pixel_angle(wcs, np.radians(sources["angle"]))
    table = Table({
        "id": sources["id"], "type": sources["type"], "ra": sources["ra"], "dec": sources["dec"], "x": x, "y": y,
        "flux": electrons(sources, band, conditions, exptime, mjd_mid), "radius": sources["radius"] / scale,
        "index": sources["index"], "axis_ratio": sources["axis_ratio"], "theta": theta,
    })  # fmt: skip
    for name, unit in {"x": "pix", "y": "pix", "radius": "pix", "theta": "rad"}.items():  # FITS knows no electron
        table[name].unit = unit
    margin = 300  # a bright star outside still lights the edge
    ny, nx = shape
    near = (x > -margin) & (x < nx + margin) & (y > -margin) & (y < ny + margin)
    table["inside"] = (x >= -0.5) & (x < nx - 0.5) & (y >= -0.5) & (y < ny - 0.5)
    return table[near]


def _pixel_angle(wcs: WCS, position_angle: np.ndarray) -> np.ndarray:
    """Angle from +x of a position angle, east of north, radian; the shear of the distortion is left out."""
    along = np.linalg.solve(wcs.pixel_scale_matrix, np.vstack([np.sin(position_angle), np.cos(position_angle)]))
    return np.arctan2(along[1], along[0])


def render_sources(shape: tuple[int, int], table: Table, psf: PSF) -> np.ndarray:
    """Expected electrons of the sources in `table`: float32, shape (ny, nx)."""
    image = np.zeros(shape, np.float32)
    stars, galaxies = table[table["type"] == STAR], table[table["type"] != STAR]
    render_stars(image, stars["x"], stars["y"], stars["flux"], psf)
    render_galaxies(
        image, galaxies["x"], galaxies["y"], galaxies["flux"], galaxies["radius"], galaxies["index"],
        galaxies["axis_ratio"], galaxies["theta"], psf, arms=galaxies["type"] == SPIRAL,
    )  # fmt: skip
    return image


def sky_light(shape: tuple[int, int], conditions: Conditions, fringes: np.ndarray | None = None) -> np.ndarray:
    """Expected electrons of the night sky: level, gradient and, if given, the relative fringe pattern."""
    ny, nx = shape
    along_x = conditions.gradient[0] * (np.arange(nx) / (nx - 1) - 0.5)
    along_y = conditions.gradient[1] * (np.arange(ny) / (ny - 1) - 0.5)
    sky = conditions.sky * (1 + np.add.outer(along_y, along_x))
    if fringes is not None:
        sky = sky * (1 + fringes)
    return sky.astype(np.float32)


def fringe_pattern(shape: tuple[int, int], effects: Effects, seed: int) -> np.ndarray:
    """Relative brightness of the fringes, between -amplitude and amplitude: contours of a wavy layer."""
    rng = stream(seed, "fringes")
    ny, nx = shape
    y, x = np.mgrid[:ny, :nx] / effects.fringes.period
    phase = rng.uniform(0, 2 * math.pi, 4)
    depth = 0.6 * x + 0.8 * y + 0.9 * np.sin(0.7 * x + phase[0]) + 0.7 * np.sin(0.5 * y + 0.4 * x + phase[1])
    return (effects.fringes.amplitude * np.sin(2 * math.pi * depth + phase[2])).astype(np.float32)


def trail_light(shape: tuple[int, int], conditions: Conditions, noise: float, effects: Effects) -> np.ndarray:
    """Expected electrons of a satellite that crossed the frame; zeros without one.

    Parameters
    ----------
    shape : tuple of int
    conditions : `Conditions`
    noise : float
        Noise of the sky per pixel, electron.
    effects : `~nightflow.simulate_effects.Effects`
    """
    if conditions.trail is None:
        return np.zeros(shape, np.float32)
    crest, angle, offset = conditions.trail
    sigma = math.hypot(conditions.psf.fwhm / 2.3548, effects.trails.width)
    y = (np.arange(shape[0]) - (shape[0] - 1) / 2) * math.cos(angle)
    x = (np.arange(shape[1]) - (shape[1] - 1) / 2) * math.sin(angle)
    distance = np.subtract.outer(y, x) - offset
    profile = np.exp(-0.5 * (distance / sigma) ** 2)
    return np.where(profile > 1e-4, crest * noise * profile, 0).astype(np.float32)


def draw_conditions(
    frame: str, number: int, of: int, hours: float, airmass: float, exptime: float, band: Filter, target: str,
    pointings: tuple, shape: tuple[int, int], effects: Effects, seed: int,
) -> Conditions:  # fmt: skip
    """What happened during one exposure, from the frame's own random streams.

    Parameters
    ----------
    frame : str
        Name of the frame.
    number, of : int
        Its place, from 1, among the frames of its target and filter.
    hours : float
        Time since the start of the night.
    airmass, exptime : float
    band : `Filter`
    target : str
    pointings : tuple
        Offsets x, y in pixels that the frames take in turn; empty for a single field.
    shape : tuple of int
    effects : `~nightflow.simulate_effects.Effects`
    seed : int
    """

    def rng(effect: str) -> np.random.Generator:
        return stream(seed, effect, frame)

    cloud = rng("clouds").uniform(*effects.clouds.depth) if _happens(effects.clouds, rng("cloudy"), number) else 0.0
    lost = _happens(effects.guiding_failure, rng("guiding_failure"), number)
    streak = (effects.guiding_failure.length, rng("streak").uniform(0, math.pi)) if lost else (0.0, 0.0)
    pointing = pointings[(number - 1) % len(pointings)] if pointings else (0.0, 0.0)
    dither = _draw_dither(effects.dithers, rng("dithers"))
    return Conditions(
        airmass=airmass,
        zero_point=band.zero_point - _dimming(effects, band, airmass, hours, rng("zero_point_drift")) - cloud,
        cloud=cloud,
        psf=replace(_draw_psf(effects, rng("seeing"), rng("elongation")), streak=streak),
        dither=(pointing[0] + dither[0], pointing[1] + dither[1]),
        rotation=_draw_rotation(effects.rotation, rng("rotation"), hours),
        flipped=effects.meridian_flip.enabled and number > effects.meridian_flip.after * of,
        scale=effects.scale.factor if _happens(effects.scale, rng("scale"), number) else 1.0,
        sky=_draw_sky(effects.sky, rng("sky")) * band.sky * exptime,
        gradient=_draw_gradient(effects.sky_gradient, stream(seed, "sky_gradient", target)),
        trail=_draw_trail(effects.trails, rng("trails"), number, shape),
    )


def _happens(event, rng: np.random.Generator, number: int) -> bool:
    """Whether a frame has an event: those listed by number, else a fraction at random."""
    if not event.enabled:
        return False
    return number in event.frames if event.frames else bool(rng.random() < event.fraction)


def _dimming(effects: Effects, band: Filter, airmass: float, hours: float, rng: np.random.Generator) -> float:
    extinction = band.extinction * airmass if effects.extinction.enabled else 0.0
    drift = effects.zero_point_drift
    return extinction + (drift.rate * hours + rng.normal(0, drift.stddev) if drift.enabled else 0.0)


def _draw_psf(effects: Effects, seeing_rng: np.random.Generator, elongation_rng: np.random.Generator) -> PSF:
    seeing, elongation = effects.seeing, effects.elongation
    fwhm = seeing_rng.uniform(*seeing.fwhm) if seeing.enabled else sum(seeing.fwhm) / 2
    if not elongation.enabled:
        return PSF(fwhm, seeing.beta)
    ellipticity, angle = elongation_rng.uniform(*elongation.ellipticity), elongation_rng.uniform(0, 180)
    return PSF(fwhm, seeing.beta, ellipticity, math.radians(angle if elongation.angle is None else elongation.angle))


def _draw_dither(dithers, rng: np.random.Generator) -> tuple[float, float]:
    distance, angle = dithers.radius * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi)
    return (distance * math.cos(angle), distance * math.sin(angle)) if dithers.enabled else (0.0, 0.0)


def _draw_rotation(rotation, rng: np.random.Generator, hours: float) -> float:
    return rng.normal(0, rotation.stddev) + rotation.rate * hours if rotation.enabled else 0.0


def _draw_sky(sky, rng: np.random.Generator) -> float:
    return max(1 + rng.normal(0, sky.stddev), 0.1) if sky.enabled else 0.0


def _draw_gradient(gradient, rng: np.random.Generator) -> tuple[float, float]:
    angle = rng.uniform(0, 2 * math.pi)
    return (
        (gradient.amplitude * math.cos(angle), gradient.amplitude * math.sin(angle)) if gradient.enabled else (0.0, 0.0)
    )


def _draw_trail(trails, rng: np.random.Generator, number: int, shape: tuple[int, int]):
    if not _happens(trails, rng, number):
        return None
    return rng.uniform(*trails.peak), rng.uniform(0, math.pi), rng.uniform(-0.3, 0.3) * min(shape)
