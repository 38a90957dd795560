"""Synthetic images of stars and galaxies on a sky of known level, as in session 15 of D. Kinoshita's course.

The course (Advanced Astronomical Observations 2022) makes such images to measure the sky under sources. Its programs
pass full widths at half maximum where standard deviations belong and swap the axes of the image; here both are right
unless ``as_published`` asks for the course's own images.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from nightflow.products import write_fits
from nightflow.simulate_noise import stream
from nightflow.simulate_sky import tangent_wcs
from nightflow.simulate_sources import PSF, render_galaxies, render_stars

#: Galaxies gather about the middle of the image with this standard deviation, pixel.
CLUSTER_RADIUS = 300.0

#: Exponent of Moffat stars.
BETA = 3.5

_FWHM_OF_SIGMA = 2 * math.sqrt(2 * math.log(2))
_CENTRE = (150.0, 2.0)  # right ascension and declination of the middle, degree
_PIXEL_SCALE = 1.0  # arcsec

_GAUSSIAN, _MOFFAT, _SERSIC = "gaussian", "moffat", "sersic"


@dataclass(frozen=True)
class Scene:
    """The parameters of a synthetic image.

    Attributes
    ----------
    size_x, size_y : int
        Columns and rows.
    stars, galaxies : int
        How many.
    flux_min : float
        Least central brightness of a star, ADU: that of stars is `flux_min` / p with p from a power distribution of
        exponent 1.5; that of galaxies 3 `flux_min` / p with exponent 2.
    fwhm, fwhm_stddev : float
        Stars' full width at half maximum and its spread, pixel; drawn for each star and axis.
    galaxy_fwhm, galaxy_fwhm_stddev : float
        The same of galaxies. A width drawn at or below zero is drawn again.
    sky, sky_stddev : float
        Level and noise of the background, ADU.
    star_profile : {'gaussian', 'moffat'}
        Moffat stars are integrated over pixels and have the same widths and central brightness.
    galaxy_profile : {'gaussian', 'sersic'}
        Sersic galaxies have the same flux, half of the FWHM as effective radius, an index between 1 and 4, and are
        convolved with the stars' mean profile.
    seed : int
        Of the random numbers.
    as_published : bool
        Do as the course's programs: widths taken for standard deviations, axes of the image swapped.

    Raises
    ------
    ValueError
        For a parameter outside its range, or Moffat or Sersic profiles together with `as_published`.
    """

    size_x: int = 2048
    size_y: int = 2048
    stars: int = 100
    galaxies: int = 10
    flux_min: float = 1000.0
    fwhm: float = 3.5
    fwhm_stddev: float = 0.1
    galaxy_fwhm: float = 8.0
    galaxy_fwhm_stddev: float = 4.0
    sky: float = 1000.0
    sky_stddev: float = 30.0
    star_profile: str = _GAUSSIAN
    galaxy_profile: str = _GAUSSIAN
    seed: int = 0
    as_published: bool = False

    def __post_init__(self):
        for name in ("size_x", "size_y", "flux_min", "fwhm", "galaxy_fwhm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a number above 0, got {getattr(self, name)}")
        for name in ("stars", "galaxies", "fwhm_stddev", "galaxy_fwhm_stddev", "sky_stddev", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a number from 0, got {getattr(self, name)}")
        for name, other in (("star_profile", _MOFFAT), ("galaxy_profile", _SERSIC)):
            if getattr(self, name) not in (_GAUSSIAN, other):
                raise ValueError(f"{name}: expected {_GAUSSIAN} or {other}, got '{getattr(self, name)}'")
            if self.as_published and getattr(self, name) != _GAUSSIAN:
                raise ValueError(f"{name}: the published images are Gaussian, got '{getattr(self, name)}'")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the array."""
        return (self.size_x, self.size_y) if self.as_published else (self.size_y, self.size_x)


def make_scene(**options) -> tuple[np.ndarray, fits.Header, Table]:
    """Make a synthetic image.

    Parameters
    ----------
    **options
        Of `Scene`; a `seed` that is not given is drawn, and stands in the header.

    Returns
    -------
    data : ndarray of float32, shape (size_y, size_x)
        The image, ADU; with `as_published` of shape (size_x, size_y).
    header : `~astropy.io.fits.Header`
        All parameters, and a WCS.
    truth : `~astropy.table.Table`
        type ('star' or 'galaxy'), x, y (0-based pixel), amplitude (ADU), fwhm_x, fwhm_y (pixel), theta (radian), flux
        (ADU), index (Sersic index, 0 for other profiles).

    Raises
    ------
    ValueError
        For a parameter outside its range.
    """
    scene = Scene(**{"seed": secrets.randbits(31), **options})
    truth = _draw(scene)
    data = np.full(scene.shape, float(scene.sky))
    _add_sources(data, truth, scene)
    data += stream(scene.seed, "scene noise").normal(0.0, scene.sky_stddev, scene.shape)
    return data.astype(np.float32), _header(scene), truth


def _draw(scene: Scene) -> Table:
    """Parameters of all sources, stars first; the stars do not depend on the number of galaxies."""
    size = np.array([scene.size_x, scene.size_y])
    rng = stream(scene.seed, "scene stars")
    places = rng.uniform(0, 1, (scene.stars, 2)) * size - 0.5
    widths = _widths(rng, scene.fwhm, scene.fwhm_stddev, scene.stars, scene.as_published)
    stars = _sources(rng, "star", places, widths, scene.flux_min, 1.5)
    rng = stream(scene.seed, "scene galaxies")
    places = rng.normal((size - 1) / 2, CLUSTER_RADIUS, (scene.galaxies, 2))
    widths = _widths(rng, scene.galaxy_fwhm, scene.galaxy_fwhm_stddev, scene.galaxies, scene.as_published)
    galaxies = _sources(rng, "galaxy", places, widths, 3 * scene.flux_min, 2.0)
    if scene.galaxy_profile == _SERSIC:
        galaxies["index"] = rng.uniform(1, 4, scene.galaxies)
    if scene.star_profile == _MOFFAT:
        # The central brightness of a Moffat of unit flux, against that of a Gaussian of the same width.
        stars["flux"] *= math.pi * PSF(_FWHM_OF_SIGMA, BETA).alpha ** 2 / (BETA - 1) / (2 * math.pi)
    return Table({name: np.concatenate([stars[name], galaxies[name]]) for name in stars})


def _sources(rng, kind: str, places: np.ndarray, widths: np.ndarray, faintest: float, exponent: float) -> dict:
    n = len(places)
    amplitude = faintest / rng.power(exponent, n)
    return {
        "type": np.full(n, kind),
        "x": places[:, 0],
        "y": places[:, 1],
        "amplitude": amplitude,
        "fwhm_x": widths[:, 0],
        "fwhm_y": widths[:, 1],
        "theta": rng.uniform(0, 2 * math.pi, n),
        "flux": 2 * math.pi * amplitude * widths[:, 0] * widths[:, 1] / _FWHM_OF_SIGMA**2,
        "index": np.zeros(n),
    }


def _widths(rng, mean: float, stddev: float, n: int, as_published: bool) -> np.ndarray:
    """True FWHMs along both axes, shape (n, 2)."""
    widths = rng.normal(mean, stddev, (n, 2))
    if as_published:
        # The number serves as standard deviation; only its square counts, so that a negative one acts as positive.
        return np.abs(widths) * _FWHM_OF_SIGMA
    while (widths <= 0).any():
        again = widths <= 0
        widths[again] = rng.normal(mean, stddev, again.sum())
    return widths


def _add_sources(data: np.ndarray, truth: Table, scene: Scene) -> None:
    is_star = truth["type"] == "star"
    for sources, profile in ((truth[is_star], scene.star_profile), (truth[~is_star], scene.galaxy_profile)):
        add = {_GAUSSIAN: _add_gaussians, _MOFFAT: _add_moffats, _SERSIC: _add_sersics}[profile]
        add(data, sources, scene)


def _add_gaussians(data: np.ndarray, sources: Table, _scene: Scene) -> None:
    """Gaussians, sampled at the middle of each pixel as in the course, out to a thousandth of an ADU."""
    for row in sources.iterrows("x", "y", "amplitude", "fwhm_x", "fwhm_y", "theta"):
        x, y, amplitude, fwhm_x, fwhm_y, theta = row
        sigma_x, sigma_y = fwhm_x / _FWHM_OF_SIGMA, fwhm_y / _FWHM_OF_SIGMA
        reach = max(sigma_x, sigma_y) * math.sqrt(2 * math.log(max(amplitude, 1.0) / 1e-3))
        rows = slice(max(math.ceil(y - reach), 0), max(math.floor(y + reach) + 1, 0))
        columns = slice(max(math.ceil(x - reach), 0), max(math.floor(x + reach) + 1, 0))
        stamp = data[rows, columns]
        dy = (np.arange(stamp.shape[0]) + rows.start - y)[:, None]
        dx = np.arange(stamp.shape[1]) + columns.start - x
        u = (dx * math.cos(theta) + dy * math.sin(theta)) / sigma_x
        v = (-dx * math.sin(theta) + dy * math.cos(theta)) / sigma_y
        stamp += amplitude * np.exp(-0.5 * (u**2 + v**2))


def _ellipses(sources: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Major and minor axis, and the angle of the major one, of widths along the turned x and y axes."""
    fwhm_x, fwhm_y, theta = (np.asarray(sources[name]) for name in ("fwhm_x", "fwhm_y", "theta"))
    angle = np.where(fwhm_x >= fwhm_y, theta, theta + math.pi / 2)
    return np.maximum(fwhm_x, fwhm_y), np.minimum(fwhm_x, fwhm_y), angle


def _add_moffats(data: np.ndarray, sources: Table, _scene: Scene) -> None:
    for row, major, minor, angle in zip(sources, *_ellipses(sources), strict=True):
        psf = PSF(math.sqrt(major * minor), BETA, 1 - minor / major, angle)
        render_stars(data, [row["x"]], [row["y"]], [row["flux"]], psf)


def _add_sersics(data: np.ndarray, sources: Table, scene: Scene) -> None:
    major, minor, angle = _ellipses(sources)
    psf = PSF(scene.fwhm, BETA)
    render_galaxies(
        data, sources["x"], sources["y"], sources["flux"], major / 2, sources["index"], minor / major, angle, psf
    )


#: Header keyword and comment of each parameter.
_CARDS = {
    "size_x": ("SIZEX", "[pix] asked size in x"),
    "size_y": ("SIZEY", "[pix] asked size in y"),
    "stars": ("NSTARS", "number of stars"),
    "galaxies": ("NGALAXY", "number of galaxies"),
    "flux_min": ("FLUXMIN", "[adu] least central brightness"),
    "fwhm": ("FWHMPSF", "[pix] FWHM of stars"),
    "fwhm_stddev": ("FWHMPSFS", "[pix] its standard deviation"),
    "galaxy_fwhm": ("FWHMGAL", "[pix] FWHM of galaxies"),
    "galaxy_fwhm_stddev": ("FWHMGALS", "[pix] its standard deviation"),
    "sky": ("SKYLEVEL", "[adu] true sky"),
    "sky_stddev": ("SKYSIGMA", "[adu] true standard deviation of the sky"),
    "star_profile": ("STARPROF", "profile of stars"),
    "galaxy_profile": ("GALPROF", "profile of galaxies"),
    "seed": ("SEED", "of the random numbers"),
    "as_published": ("ASPUBL", "widths as stddev and axes swapped, as published"),
}


def _header(scene: Scene) -> fits.Header:
    header = fits.Header()
    header["OBJECT"] = ("scene", "synthetic stars and galaxies")
    header["IMAGETYP"] = "light"
    header["EXPTIME"] = (1.0, "[s] nominal")
    header["BUNIT"] = "adu"
    for name, (keyword, comment) in _CARDS.items():
        header[keyword] = (getattr(scene, name), comment)
    ny, nx = scene.shape
    header.update(tangent_wcs(_CENTRE, ((nx - 1) / 2, (ny - 1) / 2), _PIXEL_SCALE).to_header())
    return header


def truth_path(output: str | Path) -> Path:
    """Where the truth table of the image `output` stands: ``scene.fits`` has ``scene_truth.tsv``."""
    output = Path(output)
    return output.with_name(f"{output.stem}_truth.tsv")


def write_scene(output: str | Path, **options) -> None:
    """Write a scene, and its truth table beside it.

    Parameters
    ----------
    output : path-like
        The image; replaced if it exists, as is the table.
    **options
        Of `Scene`.

    Raises
    ------
    ValueError
        For an option outside its range.
    """
    data, header, truth = make_scene(**options)
    write_fits(output, [fits.PrimaryHDU(data, header)])
    truth.write(truth_path(output), format="ascii.tab", overwrite=True)
