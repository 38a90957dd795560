"""The effects of the simulated night: sky, optics and detector, each switched and set on its own.

Every effect is a small dataclass whose fields are its parameters; a configuration gives them by name:

.. code-block:: yaml

    effects:
      vignetting: {corner: 0.4}     # on, with this value
      cosmic_rays: false            # off
      fringes: true                 # on, with its defaults

An effect that is off leaves no trace in the pixels, and every effect draws from random streams of its own, so that
the difference of two nights that differ in one effect is that effect alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace

# --- the telescope's pointing and the air above it ----------------------------------------------------------------


@dataclass(frozen=True)
class Dithers:
    """Pointing offsets between the frames of a target, uniform in a circle."""

    enabled: bool = True
    radius: float = 12.0  # pixel


@dataclass(frozen=True)
class Rotation:
    """Field rotation: a random angle per frame, and a steady part (a badly aligned or alt-azimuth mount)."""

    enabled: bool = False
    stddev: float = 0.3  # degree
    rate: float = 0.0  # degree / hour


@dataclass(frozen=True)
class MeridianFlip:
    """A German mount turns the camera by 180 degrees part of the way through each target."""

    enabled: bool = False
    after: float = 0.5  # fraction of the target's frames taken before the flip


@dataclass(frozen=True)
class Scale:
    """Another pixel scale in some frames: a focal reducer, another telescope."""

    enabled: bool = False
    factor: float = 1.1  # on arcsec per pixel
    fraction: float = 0.5  # of the frames
    frames: tuple[int, ...] = ()  # numbers within a target and filter, from 1; replaces `fraction`


@dataclass(frozen=True)
class Mirror:
    """East to the right, after an odd number of mirrors."""

    enabled: bool = False


@dataclass(frozen=True)
class PointingError:
    """The header's coordinates are off by this angle, in a direction of their own for each target."""

    enabled: bool = False
    offset: float = 5.0  # arcminute


@dataclass(frozen=True)
class Distortion:
    """Cubic radial distortion and a tilt, written as SIP (Shupe et al. 2005, ASP Conf. Ser. 347, 491)."""

    enabled: bool = False
    corner: float = 3.0  # pixel, radial shift in the corner
    tilt: float = 0.5  # pixel, quadratic shift in the corner


@dataclass(frozen=True)
class Seeing:
    """Width of the Moffat profile (Moffat 1969, A&A 3, 455), drawn for each frame; off: the same for all frames."""

    enabled: bool = True
    fwhm: tuple[float, float] = (2.5, 3.5)  # pixel, range; off: their mean
    beta: float = 3.5  # Moffat exponent


@dataclass(frozen=True)
class Elongation:
    """Elliptic images from tracking or astigmatism, drawn for each frame."""

    enabled: bool = False
    ellipticity: tuple[float, float] = (0.05, 0.2)  # 1 - minor / major axis, range
    angle: float | None = None  # degree from +x, of the major axis; null: random


@dataclass(frozen=True)
class GuidingFailure:
    """The mount drifts during some exposures: every image becomes a streak."""

    enabled: bool = False
    length: float = 15.0  # pixel
    fraction: float = 0.1  # of the frames
    frames: tuple[int, ...] = ()


@dataclass(frozen=True)
class Extinction:
    """Dimming by the coefficient of the filter times the airmass."""

    enabled: bool = True


@dataclass(frozen=True)
class ZeroPointDrift:
    """Slow change of throughput (dew, dust) and a random part per frame."""

    enabled: bool = False
    rate: float = 0.02  # magnitude / hour, dimming
    stddev: float = 0.005  # magnitude


@dataclass(frozen=True)
class Clouds:
    """Grey dimming of whole frames; the sky background stays."""

    enabled: bool = False
    depth: tuple[float, float] = (0.2, 1.5)  # magnitude, range
    fraction: float = 0.2
    frames: tuple[int, ...] = ()


# --- what the telescope looks at ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stars:
    """Stars, uniform over the field, with counts rising as 10^(slope m)."""

    enabled: bool = True
    density: float = 500.0  # per megapixel
    magnitudes: tuple[float, float] = (10.0, 19.0)  # in the first band
    slope: float = 0.25  # d log10 N / dm
    colour: tuple[float, float] = (0.5, 0.2)  # mean and stddev of first minus second band, magnitude


@dataclass(frozen=True)
class Cluster:
    """Stars of a cluster in targets of kind ``cluster``, with a Gaussian profile."""

    enabled: bool = True
    number: int = 150
    radius: float = 60.0  # pixel, stddev


@dataclass(frozen=True)
class Galaxies:
    """Galaxies with Sersic profiles (Sersic 1963), uniform over the field."""

    enabled: bool = True
    density: float = 60.0  # per megapixel
    magnitudes: tuple[float, float] = (15.0, 18.5)
    slope: float = 0.4
    colour: tuple[float, float] = (0.7, 0.15)
    radius: tuple[float, float] = (2.0, 7.0)  # pixel, effective radius, range
    index: tuple[float, float] = (1.0, 4.0)  # Sersic index, range
    axis_ratio: tuple[float, float] = (0.3, 1.0)


@dataclass(frozen=True)
class Spiral:
    """A large two-armed galaxy in the middle of targets of kind ``galaxy``."""

    enabled: bool = True
    magnitude: float = 11.2
    colour: float = 0.55
    radius: float = 38.0  # pixel, effective radius
    axis_ratio: float = 0.8


@dataclass(frozen=True)
class Variables:
    """Some bright stars vary as a sine."""

    enabled: bool = False
    number: int = 3
    amplitude: float = 0.1  # magnitude, half of the range
    period: float = 0.05  # day


@dataclass(frozen=True)
class Sky:
    """Night-sky light, as bright as the filter says; with changes from frame to frame."""

    enabled: bool = True
    stddev: float = 0.05  # of the level from frame to frame, fraction


@dataclass(frozen=True)
class SkyGradient:
    """Sky brighter on one side (Moon, town): a plane, with its own direction for each target."""

    enabled: bool = True
    amplitude: float = 0.08  # from one side to the other, fraction of the sky


@dataclass(frozen=True)
class Fringes:
    """Interference of night-sky lines in a thinned CCD: on the sky of some filters, never in flats or stars."""

    enabled: bool = False
    amplitude: float = 0.03  # half of the range, fraction of the sky
    period: float = 40.0  # pixel
    filters: tuple[str, ...] = ("I", "z", "R")


@dataclass(frozen=True)
class Trails:
    """Satellites that cross some frames."""

    enabled: bool = True
    peak: tuple[float, float] = (3.0, 20.0)  # crest, in units of the sky's noise per pixel
    width: float = 1.0  # pixel, added in quadrature to the seeing
    fraction: float = 0.1
    frames: tuple[int, ...] = ()


# --- optics and detector, in the order in which light and charge meet them ----------------------------------------


@dataclass(frozen=True)
class Vignetting:
    """Loss of light towards the corners, growing as the square of the distance from the axis."""

    enabled: bool = True
    corner: float = 0.25  # loss in the corner, fraction
    centre: tuple[float, float] = (0.03, -0.02)  # x, y of the axis from the middle, fraction of the size


@dataclass(frozen=True)
class Dust:
    """Out-of-focus shadows of dust on window and filter: rings, as a mirror telescope casts them."""

    enabled: bool = True
    number: int = 8
    radius: tuple[float, float] = (10.0, 28.0)  # pixel, outer
    depth: tuple[float, float] = (0.02, 0.08)  # fraction


@dataclass(frozen=True)
class PixelResponse:
    """Sensitivity differs from pixel to pixel."""

    enabled: bool = True
    stddev: float = 0.01


@dataclass(frozen=True)
class DeadPixels:
    """Pixels almost blind to light."""

    enabled: bool = True
    fraction: float = 2e-4
    response: tuple[float, float] = (0.0, 0.3)


@dataclass(frozen=True)
class BadColumns:
    """Columns that are partly blind above a trap."""

    enabled: bool = True
    number: int = 1
    response: tuple[float, float] = (0.1, 0.5)


@dataclass(frozen=True)
class FlatStars:
    """Stars in twilight flats, at other places in each."""

    enabled: bool = False
    density: float = 30.0  # per megapixel
    peak: tuple[float, float] = (0.02, 1.0)  # fraction of the flat's level


@dataclass(frozen=True)
class ShotNoise:
    """Poisson noise of light and of dark current; off: the expected electrons themselves."""

    enabled: bool = True


@dataclass(frozen=True)
class CosmicRays:
    """Particles that cross the silicon: straight tracks, length by their slope, plus round low-energy worms."""

    enabled: bool = True
    rate: float = 1.0  # per megapixel and second of exposure
    electrons: tuple[float, float] = (300.0, 30000.0)  # per track, range; log-uniform
    thickness: float = 1.5  # of the silicon, in pixels: how long slanted tracks are
    diffusion: float = 0.25  # pixel, stddev of the charge about the track
    worms: float = 0.15  # fraction of winding electrons


@dataclass(frozen=True)
class DarkCurrent:
    """Thermal electrons, with a glow from one edge."""

    enabled: bool = True
    rate: float = 0.05  # electron / s per pixel
    glow: float = 0.05  # electron / s, at the edge where the amplifier is


@dataclass(frozen=True)
class HotPixels:
    """Pixels with much more dark current: log-normal rates."""

    enabled: bool = True
    fraction: float = 1e-3
    rate: float = 8.0  # electron / s, median
    spread: float = 1.0  # stddev of ln(rate)
    columns: int = 0  # whole columns that are hot


@dataclass(frozen=True)
class Saturation:
    """Charge is lost above the full well; off: only the ADC limits."""

    enabled: bool = True
    full_well: float = 90000.0  # electron


@dataclass(frozen=True)
class Bleeding:
    """Charge above the full well runs along the column, in both directions."""

    enabled: bool = True


@dataclass(frozen=True)
class NonLinearity:
    """Recorded = true (1 - coefficient true / full well)."""

    enabled: bool = False
    coefficient: float = 0.03


@dataclass(frozen=True)
class Gain:
    """Electrons per ADU; off: 1."""

    enabled: bool = True
    gain: float = 1.5  # electron / ADU


@dataclass(frozen=True)
class Amplifiers:
    """Halves of the columns read through amplifiers of their own."""

    enabled: bool = False
    gains: tuple[float, ...] = (0.97, 1.03)  # factor on the gain, left to right
    pedestals: tuple[float, ...] = (0.0, 40.0)  # ADU, added to the bias level


@dataclass(frozen=True)
class BiasStructure:
    """Fixed pattern of the read-out: columns and a ramp along the rows. The level itself is always there."""

    enabled: bool = True
    columns: float = 2.0  # ADU, stddev
    ramp: float = 6.0  # ADU, from the first row to the last


@dataclass(frozen=True)
class BiasDrift:
    """The bias level differs from frame to frame."""

    enabled: bool = False
    stddev: float = 3.0  # ADU
    rate: float = 1.0  # ADU / hour


@dataclass(frozen=True)
class ReadNoise:
    """Gaussian noise of the read-out."""

    enabled: bool = True
    noise: float = 6.0  # electron


@dataclass(frozen=True)
class Overscan:
    """Columns read without light after the last pixel of each row."""

    enabled: bool = False
    columns: int = 32


@dataclass(frozen=True)
class Effects:
    """All effects of a night."""

    dithers: Dithers = field(default_factory=Dithers)
    rotation: Rotation = field(default_factory=Rotation)
    meridian_flip: MeridianFlip = field(default_factory=MeridianFlip)
    scale: Scale = field(default_factory=Scale)
    mirror: Mirror = field(default_factory=Mirror)
    pointing_error: PointingError = field(default_factory=PointingError)
    distortion: Distortion = field(default_factory=Distortion)
    seeing: Seeing = field(default_factory=Seeing)
    elongation: Elongation = field(default_factory=Elongation)
    guiding_failure: GuidingFailure = field(default_factory=GuidingFailure)
    extinction: Extinction = field(default_factory=Extinction)
    zero_point_drift: ZeroPointDrift = field(default_factory=ZeroPointDrift)
    clouds: Clouds = field(default_factory=Clouds)
    stars: Stars = field(default_factory=Stars)
    cluster: Cluster = field(default_factory=Cluster)
    galaxies: Galaxies = field(default_factory=Galaxies)
    spiral: Spiral = field(default_factory=Spiral)
    variables: Variables = field(default_factory=Variables)
    sky: Sky = field(default_factory=Sky)
    sky_gradient: SkyGradient = field(default_factory=SkyGradient)
    fringes: Fringes = field(default_factory=Fringes)
    trails: Trails = field(default_factory=Trails)
    vignetting: Vignetting = field(default_factory=Vignetting)
    dust: Dust = field(default_factory=Dust)
    pixel_response: PixelResponse = field(default_factory=PixelResponse)
    dead_pixels: DeadPixels = field(default_factory=DeadPixels)
    bad_columns: BadColumns = field(default_factory=BadColumns)
    flat_stars: FlatStars = field(default_factory=FlatStars)
    shot_noise: ShotNoise = field(default_factory=ShotNoise)
    cosmic_rays: CosmicRays = field(default_factory=CosmicRays)
    dark_current: DarkCurrent = field(default_factory=DarkCurrent)
    hot_pixels: HotPixels = field(default_factory=HotPixels)
    saturation: Saturation = field(default_factory=Saturation)
    bleeding: Bleeding = field(default_factory=Bleeding)
    nonlinearity: NonLinearity = field(default_factory=NonLinearity)
    gain: Gain = field(default_factory=Gain)
    amplifiers: Amplifiers = field(default_factory=Amplifiers)
    bias_structure: BiasStructure = field(default_factory=BiasStructure)
    bias_drift: BiasDrift = field(default_factory=BiasDrift)
    read_noise: ReadNoise = field(default_factory=ReadNoise)
    overscan: Overscan = field(default_factory=Overscan)


#: Names of all effects, in the order in which light and charge meet them.
NAMES = tuple(f.name for f in fields(Effects))


def only(*names: str, **parameters: dict) -> dict:
    """Configuration of effects with all of them off but those named.

    Parameters
    ----------
    *names : str
        Effects that are on with their defaults.
    **parameters : dict
        Effects that are on with these parameters.

    Examples
    --------
    >>> config = {"effects": only("read_noise", dark_current={"rate": 0.5})}
    """
    chosen = {**dict.fromkeys(names, True), **parameters}
    _refuse_unknown(chosen, NAMES, "effects")
    return {name: chosen.get(name, False) for name in NAMES}


def configure(section, settings: dict, where: str):
    """A dataclass `section` with the values of `settings` in place of its own, dataclasses inside it likewise.

    Raises
    ------
    ValueError
        For an unknown name or a value of another type; the message names the place and what is allowed.
    """
    if not isinstance(settings, dict):
        raise ValueError(f"{where}: expected a mapping of options, got {settings!r}")
    kinds = {f.name: f.type for f in fields(section)}
    _refuse_unknown(settings, kinds, where)
    values = {k: _value(getattr(section, k), kinds[k], v, f"{where}.{k}") for k, v in settings.items()}
    return replace(section, **values)


def _value(default, kind: str, value, where: str):
    if is_dataclass(default):
        is_effect = hasattr(default, "enabled")
        if is_effect and isinstance(value, bool):
            return replace(default, enabled=value)
        return configure(default, {"enabled": True, **value} if is_effect and isinstance(value, dict) else value, where)
    value = _as_tuples(value)
    if kind in _ALLOWED and not _ALLOWED[kind](value):
        raise ValueError(f"{where}: expected {kind}, for example {default!r}; got {value!r}")
    return value


def _as_tuples(value):
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_pair(value) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))


_ALLOWED = {
    "bool": lambda v: isinstance(v, bool),
    "str": lambda v: isinstance(v, str),
    "int": _is_count,
    "int | None": lambda v: v is None or _is_count(v),
    "float": _is_number,
    "float | None": lambda v: v is None or _is_number(v),
    "tuple[int, int]": lambda v: isinstance(v, tuple) and len(v) == 2 and all(map(_is_count, v)),
    "tuple[float, float]": _is_pair,
    "tuple[float, ...]": lambda v: isinstance(v, tuple) and all(map(_is_number, v)),
    "tuple[int, ...]": lambda v: isinstance(v, tuple) and all(map(_is_count, v)),
    "tuple[str, str]": lambda v: isinstance(v, tuple) and len(v) == 2 and all(isinstance(one, str) for one in v),
    "tuple[str, ...]": lambda v: isinstance(v, tuple) and all(isinstance(one, str) for one in v),
    "tuple[tuple[float, float], ...]": lambda v: isinstance(v, tuple) and all(map(_is_pair, v)),
}


def _refuse_unknown(given, known, where: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"{where}: unknown option '{unknown[0]}'; known are {', '.join(known)}")
