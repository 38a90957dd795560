"""What a simulated night is made of: targets, filters, numbers of frames, and the effects."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime

from nightflow.simulate_effects import Effects, configure
from nightflow.simulate_headers import dialect
from nightflow.simulate_sky import Filter


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

    bands: tuple[str, str] = ("V", "R")  # names of the two magnitudes
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
    _check_start(settings.start)
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


def _check_start(start: str) -> None:
    try:
        aware = datetime.fromisoformat(start).tzinfo is not None
    except ValueError:
        aware = True
    if aware:
        raise ValueError(f"simulate.start: expected a time in UT like '2018-05-12T11:30:00', got '{start}'")


def _check_targets(targets: tuple[Target, ...], filters: dict) -> None:
    for i, target in enumerate(targets):
        if slug(target.name) in {slug(other.name) for other in targets[:i]}:
            raise ValueError(f"simulate.targets[{i}].name: two targets would write the same files, '{target.name}'")
        if target.kind not in ("field", "cluster", "galaxy"):
            raise ValueError(f"simulate.targets[{i}].kind: expected field, cluster or galaxy, got '{target.kind}'")
        for name in target.filters:
            if name not in filters:
                raise ValueError(
                    f"simulate.targets[{i}].filters: '{name}' is not among simulate.filters ({', '.join(filters)})"
                )


def slug(text: str) -> str:
    """`text` as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.")
