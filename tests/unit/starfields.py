"""Small fields of stars as stacks and frames have them, with truth."""

from __future__ import annotations

import numpy as np
from astropy.io import fits

from nightflow import measurement, products
from nightflow.products import Image

PHOTOMETRY = {"detection_threshold": 5.0, "aperture": 1.5, "apertures": [1.0, 2.0, 3.0, 4.0], "max_sources": 5000}


def render(x, y, flux, *, shape=(200, 220), sky=100.0, fwhm=3.0, seed=0, exptime=60.0, **cards) -> Image:
    """Sky-subtracted Gaussian stars with photon noise of stars and sky; flux in electrons, positions 0-based."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    sigma, data = fwhm / 2.3548, np.zeros(shape)
    for a, b, f in zip(x, y, flux, strict=True):
        part = np.s_[max(0, int(b) - 25) : int(b) + 26, max(0, int(a) - 25) : int(a) + 26]
        square = (columns[part] - a) ** 2 + (rows[part] - b) ** 2
        data[part] += f / (2 * np.pi * sigma**2) * np.exp(-0.5 * square / sigma**2)
    noisy = np.random.default_rng(seed).poisson(data + sky) - sky
    header = fits.Header([("BUNIT", "electron"), ("EXPTIME", exptime), *((k.upper(), v) for k, v in cards.items())])
    return Image(
        noisy.astype(np.float32),
        np.zeros(shape, np.uint16),
        np.sqrt(np.maximum(noisy + sky, 1)).astype(np.float32),
        header,
    )


def write_frame(folder, name: str, image: Image) -> tuple[str, str]:
    """The frame and its source table as the sky step leaves them; their paths."""
    table = measurement.measure_sources(image, PHOTOMETRY)
    paths = str(folder / f"{name}.fits"), str(folder / f"{name}_sources.fits")
    products.write_image(paths[0], image)
    products.write_table(paths[1], table, image.header, "SOURCES")
    return paths


def spread(n: int, seed: int, shape=(200, 220), apart: float = 18.0) -> tuple[np.ndarray, np.ndarray]:
    """Random positions that keep their distance from each other and from the edge."""
    rng, places = np.random.default_rng(seed), []
    while len(places) < n:
        place = rng.uniform((20, 20), (shape[1] - 20, shape[0] - 20))
        if all(np.hypot(*(place - other)) > apart for other in places):
            places.append(place)
    return tuple(np.array(places).T)


def wcs_cards(ra=150.0, dec=20.0, scale=1.0, shape=(200, 220)) -> dict:
    """Cards of a gnomonic projection, north up."""
    return {
        "ctype1": "RA---TAN", "ctype2": "DEC--TAN", "crval1": ra, "crval2": dec, "crpix1": shape[1] / 2,
        "crpix2": shape[0] / 2, "cd1_1": -scale / 3600, "cd1_2": 0.0, "cd2_1": 0.0, "cd2_2": scale / 3600,
    }  # fmt: skip
