"""Images of stars and galaxies, integrated over pixels, with conserved flux."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

# Gauss-Legendre nodes and weights across a pixel; three integrate a Moffat of FWHM 2 pixels to 0.1 % everywhere.
_QUADRATURE = np.polynomial.legendre.leggauss(3)
_QUADRATURE_SHARP = np.polynomial.legendre.leggauss(7)

#: A galaxy's profile ends here, in effective radii (or where 99.95 % of the flux is inside).
GALAXY_EDGE = 10.0


@dataclass(frozen=True)
class PSF:
    """Moffat profile (Moffat 1969, A&A 3, 455, eq. 7), elliptic.

    Attributes
    ----------
    fwhm : float
        Geometric mean of the FWHM along the two axes, pixel.
    beta : float
        Exponent, above 1.
    ellipticity : float
        1 - minor / major axis.
    theta : float
        Angle of the major axis from +x towards +y, radian.
    streak : tuple of float
        Length (pixel) and angle (radian) of the line along which the image moved during the exposure.
    """

    fwhm: float
    beta: float = 3.5
    ellipticity: float = 0.0
    theta: float = 0.0
    streak: tuple[float, float] = (0.0, 0.0)

    @property
    def alpha(self) -> float:
        """Scale length, pixel: FWHM = 2 alpha sqrt(2^(1/beta) - 1)."""
        return self.fwhm / (2 * math.sqrt(2 ** (1 / self.beta) - 1))

    def radius_enclosing(self, fraction: float) -> float:
        """Semi-major axis of the isophote that holds `fraction` of the flux, pixel."""
        scaled = (1 - fraction) ** (1 / (1 - self.beta)) - 1
        return self.alpha * math.sqrt(scaled / (1 - self.ellipticity))

    def radius_of(self, brightness: float, flux: float) -> float:
        """Semi-major axis where a star of `flux` falls to `brightness` (per pixel), pixel; 0 if it is fainter."""
        central = flux * (self.beta - 1) / (math.pi * self.alpha**2)
        if central <= brightness:
            return 0.0
        return self.alpha * math.sqrt(((central / brightness) ** (1 / self.beta) - 1) / (1 - self.ellipticity))

    def quadratic_form(self) -> tuple[float, float, float]:
        """Coefficients a, b, c of (r / alpha)^2 = a dx^2 + 2 b dx dy + c dy^2."""
        ratio = 1 - self.ellipticity
        major, minor = 1 / (self.alpha**2 / ratio), 1 / (self.alpha**2 * ratio)
        cos, sin = math.cos(self.theta), math.sin(self.theta)
        return major * cos**2 + minor * sin**2, (major - minor) * sin * cos, major * sin**2 + minor * cos**2

    def shifts(self) -> list[tuple[float, float]]:
        """Offsets x, y of the profiles whose mean is the image: close enough to merge into a streak."""
        length, angle = self.streak
        steps = max(math.ceil(length / (0.3 * self.fwhm)), 1)
        along = (np.arange(steps) - (steps - 1) / 2) * length / steps
        return [(s * math.cos(angle), s * math.sin(angle)) for s in along.tolist()]


def render_stars(
    image: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    flux: np.ndarray,
    psf: PSF,
    *,
    lost: float = 3e-4,
    faintest: float = 0.05,
) -> None:
    """Add stars to `image` in place.

    Parameters
    ----------
    image : ndarray of float32 or float64, shape (ny, nx)
    x, y : array-like, shape (n,)
        Centres, 0-based pixel.
    flux : array-like, shape (n,)
        Total flux, integrated to infinity, in the unit of `image`.
    psf : `PSF`
    lost : float
        Largest fraction of the flux that may fall outside the stamp on which a star is drawn.
    faintest : float
        Brightness per pixel at which a star may end.
    """
    moved = psf.streak[0] / 2
    enclosing = psf.radius_enclosing(1 - lost)
    for x0, y0, total in zip(np.asarray(x, float), np.asarray(y, float), np.asarray(flux, float), strict=True):
        radius = moved + max(enclosing, psf.radius_of(faintest, total))
        place = _overlap(image.shape, x0, y0, radius)
        if place is not None and total > 0:
            image[place] += total * _star_pixels(psf, place, x0, y0)


def render_galaxies(
    image: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    flux: np.ndarray,
    radius: np.ndarray,
    index: np.ndarray,
    axis_ratio: np.ndarray,
    theta: np.ndarray,
    psf: PSF,
    *,
    arms: np.ndarray | None = None,
) -> None:
    """Add galaxies with Sersic profiles, convolved with the PSF, to `image` in place.

    Parameters
    ----------
    image : ndarray of float32 or float64, shape (ny, nx)
    x, y : array-like, shape (n,)
        Centres, 0-based pixel.
    flux : array-like, shape (n,)
        Total flux inside `GALAXY_EDGE`.
    radius : array-like, shape (n,)
        Effective semi-major axis before convolution, pixel.
    index : array-like, shape (n,)
        Sersic index.
    axis_ratio : array-like, shape (n,)
        Minor / major axis.
    theta : array-like, shape (n,)
        Angle of the major axis from +x towards +y, radian.
    psf : `PSF`
    arms : array-like of bool, shape (n,), optional
        Draw a disc with spiral arms and a bulge instead of a plain Sersic profile.
    """
    arms = np.zeros(len(x), bool) if arms is None else arms
    for row in zip(x, y, flux, radius, index, axis_ratio, theta, arms, strict=True):
        _add_galaxy(image, psf, *row)


def sersic_b(index: float) -> float:
    """b_n of the Sersic profile, from Gamma(2n) = 2 gamma(2n, b_n) (Graham & Driver 2005, PASA 22, 118, eq. 1)."""
    from scipy.special import gammaincinv

    return float(gammaincinv(2 * index, 0.5))


def sersic_flux(brightness: float, radius: float, index: float, axis_ratio: float = 1.0) -> float:
    """Total flux of a Sersic profile of `brightness` I_e at the effective radius (Graham & Driver 2005, eq. 4).

    Parameters
    ----------
    brightness : float
        I_e, per square pixel.
    radius : float
        Effective semi-major axis, pixel.
    index, axis_ratio : float
    """
    b = sersic_b(index)
    return (
        2 * math.pi * index * radius**2 * axis_ratio * brightness
        * math.exp(b) * b ** (-2 * index) * math.gamma(2 * index)
    )  # fmt: skip


def _overlap(shape: tuple[int, int], x: float, y: float, radius: float) -> tuple[slice, slice] | None:
    """Slices of the part of an image inside the square of half-width `radius` about (x, y); None if there is none."""
    left, right = max(math.floor(x - radius + 0.5), 0), min(math.floor(x + radius + 0.5) + 1, shape[1])
    low, high = max(math.floor(y - radius + 0.5), 0), min(math.floor(y + radius + 0.5) + 1, shape[0])
    return (slice(low, high), slice(left, right)) if left < right and low < high else None


def _star_pixels(psf: PSF, place: tuple[slice, slice], x: float, y: float) -> np.ndarray:
    """Star of flux 1 on the pixels of `place`."""
    shifts = psf.shifts()
    return sum(_moffat_pixels(psf, place, x + dx, y + dy) for dx, dy in shifts) / np.float32(len(shifts))


def _moffat_pixels(psf: PSF, place: tuple[slice, slice], x: float, y: float) -> np.ndarray:
    """Moffat of flux 1 centred on (x, y), integrated over the pixels of `place` by Gauss-Legendre quadrature."""
    nodes, weights = _QUADRATURE if psf.fwhm >= 2 else _QUADRATURE_SHARP
    dy = _node_offsets(place[0], y, nodes)
    dx = _node_offsets(place[1], x, nodes)
    a, b, c = psf.quadratic_form()
    radius2 = np.add.outer((c * dy * dy).astype(np.float32), (a * dx * dx).astype(np.float32))
    if b != 0:
        radius2 += np.multiply.outer((2 * b * dy).astype(np.float32), dx.astype(np.float32))
    np.log1p(radius2, out=radius2)
    radius2 *= np.float32(-psf.beta)
    density = np.exp(radius2, out=radius2)
    weights = (weights / 2).astype(np.float32)
    rows = (density.reshape(-1, len(weights), dx.size) * weights[:, None]).sum(axis=1)
    pixels = rows.reshape(rows.shape[0], -1, len(weights)) @ weights
    return pixels * np.float32((psf.beta - 1) / (math.pi * psf.alpha**2))


def _node_offsets(pixels: slice, centre: float, nodes: np.ndarray) -> np.ndarray:
    return (np.arange(pixels.start, pixels.stop)[:, None] - centre + nodes / 2).ravel()


def _add_galaxy(image, psf, x, y, flux, radius, index, axis_ratio, theta, arms) -> None:
    edge = _galaxy_edge(index) * radius
    blur = psf.radius_enclosing(0.999) + psf.streak[0] / 2
    if flux <= 0 or _overlap(image.shape, x, y, edge + blur) is None:
        return
    # Fine enough for the narrower of profile and seeing; odd, so that pixel centres stay sample centres.
    fine = 2 * math.ceil(1.5 / min(psf.fwhm, max(radius * axis_ratio, 0.7))) + 1
    half = math.ceil(edge) + 1
    x_pixel, y_pixel = math.floor(x + 0.5), math.floor(y + 0.5)
    profile = _galaxy_samples(half, fine, x - x_pixel, y - y_pixel, radius, index, axis_ratio, theta, arms, edge)
    stamp = _block_sum(_convolved(profile, psf, fine, math.ceil(blur)), fine)
    _add_stamp(image, flux / profile.sum() * stamp, x_pixel, y_pixel)


def _galaxy_edge(index: float) -> float:
    """Radius where a galaxy's profile is cut, in effective radii."""
    from scipy.special import gammaincinv

    return min(GALAXY_EDGE, float((gammaincinv(2 * index, 0.9995) / sersic_b(index)) ** index))


def _galaxy_samples(half, fine, dx, dy, radius, index, axis_ratio, theta, arms, edge) -> np.ndarray:
    """Brightness on the sub-pixels of a square stamp of 2 half + 1 pixels, the centre at (dx, dy) from its middle."""
    axis = (np.arange((2 * half + 1) * fine) - (((2 * half + 1) * fine) - 1) / 2) / fine
    shape = (radius, index, axis_ratio, theta, arms, edge)
    samples = _galaxy_brightness(axis - dx, axis - dy, *shape)
    # The cusp of a steep profile is finer than any grid: the samples about the centre become means over 15 x 15 points.
    middle_x, middle_y = (slice(i - 3, i + 4) for i in (int(np.argmin(abs(axis - d))) for d in (dx, dy)))
    sub = (np.arange(15) - 7) / 15 / fine
    points_x, points_y = (np.add.outer(axis[m], sub).ravel() for m in (middle_x, middle_y))
    points = _galaxy_brightness(points_x - dx, points_y - dy, *shape)
    samples[middle_y, middle_x] = _block_sum(points, 15) / 15**2
    return samples


def _galaxy_brightness(dx, dy, radius, index, axis_ratio, theta, arms, edge) -> np.ndarray:
    """Relative brightness on the grid of the offsets `dx` and `dy` (1-D arrays)."""
    dx, dy = np.meshgrid(dx.astype(np.float32), dy.astype(np.float32))
    u = (dx * math.cos(theta) + dy * math.sin(theta)) / radius
    v = (-dx * math.sin(theta) + dy * math.cos(theta)) / (radius * axis_ratio)
    r = np.hypot(u, v)
    brightness = _spiral_brightness(r, np.arctan2(v, u)) if arms else _sersic_brightness(r, index)
    return np.where(r <= edge / radius, brightness, 0)


def _sersic_brightness(r: np.ndarray, index: float) -> np.ndarray:
    return np.exp(-sersic_b(index) * (r ** (1 / index) - 1))


def _spiral_brightness(r: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """A bulge, an exponential disc, and two patchy logarithmic arms; `r` in effective radii."""
    wound = 2 * (angle - 3.2 * np.log(r + 0.12))
    arm = np.exp(2.2 * (np.cos(wound) - 1)) * (r / (0.35 + r)) ** 2
    patches = 1 + 0.45 * np.sin(9 * angle + 7 * r) * np.sin(13 * r - 4 * angle)
    disc = np.exp(-1.68 * r) * (0.55 + 2.6 * arm * patches)
    return disc + 7 * np.exp(-((r / 0.09) ** 0.8))


def _convolved(profile: np.ndarray, psf: PSF, fine: int, blur: int) -> np.ndarray:
    """`profile` on sub-pixels, convolved with the PSF and grown by `blur` pixels on each side."""
    from scipy.signal import fftconvolve

    size = (2 * blur + 1) * fine
    sharp = replace(psf, fwhm=psf.fwhm * fine, streak=(psf.streak[0] * fine, psf.streak[1]))
    kernel = _star_pixels(sharp, (slice(0, size), slice(0, size)), (size - 1) / 2, (size - 1) / 2)
    return fftconvolve(np.pad(profile, blur * fine), kernel / kernel.sum(dtype=np.float64).astype(np.float32), "same")


def _block_sum(samples: np.ndarray, fine: int) -> np.ndarray:
    ny, nx = samples.shape[0] // fine, samples.shape[1] // fine
    return samples.reshape(ny, fine, nx, fine).sum(axis=(1, 3))


def _add_stamp(image: np.ndarray, stamp: np.ndarray, x: int, y: int) -> None:
    """Add a stamp with an odd number of pixels so that its middle falls on pixel (x, y)."""
    half = stamp.shape[0] // 2
    place = _overlap(image.shape, x, y, half)
    if place is not None:
        rows = slice(place[0].start - y + half, place[0].stop - y + half)
        columns = slice(place[1].start - x + half, place[1].stop - x + half)
        image[place] += stamp[rows, columns]
