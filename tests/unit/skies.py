"""Star fields on the sky and what a frame sees of them, with a known plate; no pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.io import fits

from nightflow import plates
from nightflow.reference_catalogues import ReferenceStars

OPTIONS = {
    "engine": "catalogue",
    "ra": None,
    "dec": None,
    "pixel_scale": None,
    "search_radius": 1.5,
    "scale_tolerance": 0.15,
    "sip_order": 3,
    "match_radius": 2.0,
    "refine": True,
    "time_limit": 120,
    "index_dir": None,
    "server": "http://127.0.0.1:9",
}


@dataclass
class Sky:
    """A frame: its sources, header and pointing, and the true plate."""

    sources: dict
    header: fits.Header
    row: dict
    catalogue: ReferenceStars
    plate: plates.Plate
    shape: tuple[int, int]

    def error(self, plate) -> float:
        """Largest distance in px between a plate and the true one, corners included."""
        ny, nx = self.shape
        x, y = (c.ravel() for c in np.meshgrid(np.linspace(0, nx - 1, 9), np.linspace(0, ny - 1, 9)))
        found = plate.to_pixel(*self.plate.to_sky(x, y))
        return float(np.hypot(found[0] - x, found[1] - y).max())


def distorted_plate(shape, scale, angle, mirrored, corner, ra=150.0, dec=40.0):
    """Plate with a cubic radial distortion of `corner` px in the corner; north is `angle` degrees from +y."""
    ny, nx = shape
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = np.array([[c, -s], [s, c]]) if mirrored else np.array([[-c, s], [s, c]])
    matrix, unit = turn * np.array(scale) / 3600, max(nx, ny) / 2
    coefficients = np.zeros((10, 2))
    coefficients[1:3] = matrix.T * unit
    strength = corner / np.hypot(nx / 2 / unit, ny / 2 / unit) ** 3
    for (p, q), axis in {(3, 0): 0, (1, 2): 0, (2, 1): 1, (0, 3): 1}.items():
        coefficients[plates.powers(3).index((p, q))] += strength * matrix[:, axis]
    return plates.Plate(ra, dec, (nx - 1) / 2, (ny - 1) / 2, 3, coefficients, unit)


def make_sky(
    seed=1, n=250, shape=(1000, 1200), scale=(1.0, 1.0), true_scale=1.0, angle=33.0, mirrored=False, corner=4.0,
    off=0.0, lost=0.15, spurious=0.1, noise=0.05,
) -> Sky:  # fmt: skip
    """About `n` stars; the pointing is `off` degrees away, and the scale is `true_scale` times what the header says."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    extent = np.hypot(nx * scale[0], ny * scale[1]) / 2
    reach = extent * 1.5 + (1.5 * 3600 if off else 0)
    number = int(n / (nx * ny * scale[0] * scale[1]) * np.pi * reach**2)
    radius, angles = reach * np.sqrt(rng.uniform(size=number)), rng.uniform(0, 2 * np.pi, number)
    plate = distorted_plate(shape, np.array(scale) * true_scale, angle, mirrored, corner)
    ra, dec = plates.deproject(radius * np.cos(angles) / 3600, radius * np.sin(angles) / 3600, plate.ra, plate.dec)
    magnitude = 20 + np.log10(rng.uniform(size=number)) / 0.3
    near = np.flatnonzero(radius < 1.15 * extent * true_scale)
    x, y = plate.to_pixel(ra[near], dec[near])
    seen = (x > 0) & (x < nx - 1) & (y > 0) & (y < ny - 1) & (rng.uniform(size=len(x)) >= lost)
    x, y, m = x[seen], y[seen], magnitude[near][seen]
    extra = int(spurious * len(x))
    x, y = np.append(x, rng.uniform(0, nx, extra)), np.append(y, rng.uniform(0, ny, extra))
    m = np.append(m, rng.choice(m, extra)) + 0.2 * rng.standard_normal(len(x))
    x, y = (c + noise * rng.standard_normal(len(x)) for c in (x, y))
    order = np.argsort(m)
    flux = 10 ** (-0.4 * (m[order] - 25))
    sources = {"x": x[order], "y": y[order], "flux": flux, "flux_err": np.sqrt(flux + 100)}
    sources |= {"fwhm": np.full(len(x), 3.0), "flags": np.zeros(len(x), dtype=int)}
    pointing = rng.uniform(0, 2 * np.pi)
    ra0, dec0 = plates.deproject(off * np.cos(pointing), off * np.sin(pointing), plate.ra, plate.dec)
    header = fits.Header({"NFXSIZE": nx, "NFYSIZE": ny, "PIXSCAL1": scale[0], "PIXSCAL2": scale[1]})
    unknown = np.full(number, np.nan)
    catalogue = ReferenceStars(ra, dec, magnitude, magnitude, np.zeros(number), unknown)
    return Sky(sources, header, {"ra": float(ra0), "dec": float(dec0)}, catalogue, plate, shape)
