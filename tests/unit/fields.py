"""Small synthetic fields with known truth, shared by the tests of masks, sources and sky."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from nightflow.products import Image, MaskBit

SUBPIXELS = 5


@dataclass
class Field:
    """A field in electrons: its parts, and the image that a detector would give."""

    shape: tuple[int, int] = (1024, 1024)
    seed: int = 1
    sky: float | np.ndarray = 900.0
    read_noise: float = 10.0
    stars: np.ndarray = field(init=False)
    galaxies: np.ndarray = field(init=False)
    rays: np.ndarray = field(init=False)
    fwhm: float = 3.0
    catalogue: list = field(default_factory=list)

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)
        self.stars, self.galaxies, self.rays = (np.zeros(self.shape, np.float64) for _ in range(3))

    @property
    def noise(self) -> float:
        """Standard deviation of a pixel of mean sky."""
        return float(np.sqrt(np.mean(self.sky) + self.read_noise**2))

    def positions(self, n: int, margin: float = 8.0) -> np.ndarray:
        """`n` uniform positions (x, y), `margin` pixels inside the edges."""
        ny, nx = self.shape
        return self.rng.uniform(margin, (nx - 1 - margin, ny - 1 - margin), (n, 2))

    def add_star(self, x, y, flux, fwhm, *, beta=None, axis_ratio=1.0, theta=0.0) -> None:
        """Add a Gaussian (`beta` None) or Moffat star of total `flux`, integrated over the pixels."""
        size = 6 * fwhm if beta is None else min(20 + 3 * fwhm * np.sqrt(max(flux, 1) / 2000) ** (1 / beta), 250)
        profile, area = (gaussian(fwhm), np.pi * fwhm**2 / (4 * np.log(2))) if beta is None else moffat(fwhm, beta)
        self._add(self.stars, x, y, size, flux / (area * axis_ratio), profile, axis_ratio, theta)
        self.catalogue.append((x, y, flux, fwhm))

    def add_galaxy(self, x, y, intensity, radius, *, n=1.0, axis_ratio=0.6, theta=0.0) -> None:
        """Add a Sersic galaxy of intensity `intensity` at its effective radius `radius` (px), before the seeing."""
        b = 2 * n - 1 / 3 + 0.009876 / n

        def profile(r2):
            return np.exp(-b * ((r2 / radius**2) ** (0.5 / n) - 1))

        self._add(self.galaxies, x, y, radius * (6 if n <= 1 else 14), intensity, profile, axis_ratio, theta)

    def add_ray(self, x, y, length, angle, charge) -> None:
        """Add the track of a particle: `charge` electrons a pixel of length, no wider than the line it draws."""
        steps = max(int(length * 20), 1)
        s = np.linspace(0, length, steps)
        ix = np.rint(x + s * np.cos(angle)).astype(int)
        iy = np.rint(y + s * np.sin(angle)).astype(int)
        inside = (ix >= 0) & (iy >= 0) & (ix < self.shape[1]) & (iy < self.shape[0])
        np.add.at(self.rays, (iy[inside], ix[inside]), charge * max(length, 1) / steps)

    def add_rays(self, n: int, faintest: float = 150.0) -> None:
        """`n` rays with lengths of one to tens of pixels and charges over two decades."""
        for x, y in self.positions(n):
            length = min(self.rng.exponential(5.0), 60)
            self.add_ray(x, y, length, self.rng.uniform(0, 2 * np.pi), faintest * self.rng.uniform(0.01, 1) ** -0.8)

    @property
    def seen_galaxies(self) -> np.ndarray:
        """The galaxies through a Gaussian seeing of `fwhm`."""
        if not self.galaxies.any():
            return self.galaxies
        return ndimage.gaussian_filter(self.galaxies, self.fwhm / np.sqrt(8 * np.log(2)), mode="constant")

    def image(self, saturation: float = np.inf) -> Image:
        """The observed image: Poisson and read noise, uncertainty and saturation as a detector would give."""
        expected = self.stars + self.seen_galaxies + self.rays + self.sky
        data = self.rng.poisson(expected) + self.rng.normal(0, self.read_noise, self.shape)
        data = np.minimum(data, saturation).astype(np.float32)
        mask = np.where(data >= saturation, MaskBit.SATURATED, 0).astype(np.uint16)
        uncertainty = np.sqrt(np.maximum(data, 0) + self.read_noise**2).astype(np.float32)
        image = Image(data, mask, uncertainty)
        image.header.update({"BUNIT": "electron", "GAIN": 1.0, "RDNOISE": self.read_noise, "EXPTIME": 60.0})
        if np.isfinite(saturation):
            image.header["SATURATE"] = saturation
        return image

    def _add(self, plane, x, y, size, amplitude, profile, axis_ratio, theta):
        ny, nx = self.shape
        size = int(np.ceil(size))
        x0, x1 = max(int(x) - size, 0), min(int(x) + size + 2, nx)
        y0, y1 = max(int(y) - size, 0), min(int(y) + size + 2, ny)
        total = np.zeros((y1 - y0, x1 - x0))
        offsets = (np.arange(SUBPIXELS) + 0.5) / SUBPIXELS - 0.5
        near = 14
        for n, box, parts in ((1, (y0, y1, x0, x1), [0.0]), (2, None, offsets)):
            if n == 2:  # the core again, with subpixels
                box = max(int(y) - near, y0), min(int(y) + near, y1), max(int(x) - near, x0), min(int(x) + near, x1)
            by0, by1, bx0, bx1 = box
            yy, xx = np.arange(by0, by1)[:, None] - y, np.arange(bx0, bx1)[None, :] - x
            cos, sin = np.cos(theta), np.sin(theta)
            mean = 0.0
            for dy in parts:
                for dx in parts:
                    u = (xx + dx) * cos + (yy + dy) * sin
                    v = ((yy + dy) * cos - (xx + dx) * sin) / axis_ratio
                    mean = mean + profile(u * u + v * v)
            total[by0 - y0 : by1 - y0, bx0 - x0 : bx1 - x0] = mean / len(parts) ** 2
        plane[y0:y1, x0:x1] += amplitude * total


def gaussian(fwhm):
    """Gaussian profile of squared radius, 1 at its centre."""
    return lambda r2: np.exp(-4 * np.log(2) * r2 / fwhm**2)


def moffat(fwhm, beta):
    """Moffat profile of squared radius, 1 at its centre, and its integral over the plane."""
    alpha2 = fwhm**2 / (4 * (2 ** (1 / beta) - 1))
    return (lambda r2: (1 + r2 / alpha2) ** -beta), np.pi * alpha2 / (beta - 1)


def star_field(n_stars=200, n_galaxies=0, n_rays=0, fwhm=3.0, beta=None, faintest=1500.0, **options) -> Field:
    """Stars with power-law fluxes, clustered galaxies and cosmic rays."""
    made = Field(fwhm=fwhm, **options)
    for (x, y), u in zip(made.positions(n_stars), made.rng.uniform(size=n_stars), strict=True):
        made.add_star(x, y, faintest / max(u, 0.002) ** (2 / 3), fwhm, beta=beta)
    for x, y in made.positions(n_galaxies):
        rng = made.rng
        n, radius, q = rng.choice([1.0, 2.5, 4.0]), rng.uniform(3, 14), rng.uniform(0.3, 1)
        made.add_galaxy(x, y, made.noise * rng.uniform(0.5, 8), radius, n=n, axis_ratio=q, theta=rng.uniform(0, np.pi))
    made.add_rays(n_rays)
    return made
