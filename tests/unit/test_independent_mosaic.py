"""A mosaic that other programs made: stars integrated over pixels by photutils at places that astropy's WCS gives.

Neither the project's simulator nor its projections have a part in the frames, so that no error of theirs is in both.
"""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from test_stacking import OPTIONS, write

from nightflow import astrometry, skygrid, stacking

SHAPE, GRID = (150, 160), (250, 270)
FWHM = 3.2  # arcsec
RADIUS = 9.0
POINTINGS = [(-45, -40), (45, -40), (-45, 40), (45, 40)]


def tangent(shape, offset=(0.0, 0.0), angle=0.0, scale=1.0) -> fits.Header:
    """Gnomonic projection about a point `offset` arcsec from the middle of the field, turned by `angle` degrees."""
    a = np.radians(angle)
    turn = scale / 3600 * np.array([[-np.cos(a), np.sin(a)], [np.sin(a), np.cos(a)]])
    header = fits.Header({"NAXIS": 2, "NAXIS1": shape[1], "NAXIS2": shape[0]})
    header.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg", "RADESYS": "ICRS"})
    header["CRVAL2"] = 40 + offset[1] / 3600
    header["CRVAL1"] = 150 - offset[0] / 3600 / np.cos(np.radians(header["CRVAL2"]))
    header.update({"CRPIX1": (shape[1] + 1) / 2, "CRPIX2": (shape[0] + 1) / 2})
    header.update({f"CD{i + 1}_{j + 1}": turn[i, j] for i in (0, 1) for j in (0, 1)})
    return header


def frame_header(k: int) -> fits.Header:
    """Ten frames: four pointings with dithers, every other one turned by half a turn, three of another scale."""
    dither = np.random.default_rng(k).uniform(-3, 3, 2)
    scale = 0.9 if k % 4 == 3 else 1.0
    return tangent(SHAPE, np.add(POINTINGS[k % 4], dither), 180.0 * (k % 2) + 0.3 * k, scale)


def star_places(n=45):
    """Places on the grid at least 22 px apart."""
    rng, places = np.random.default_rng(7), []
    while len(places) < n:
        place = rng.uniform((15, 15), (GRID[1] - 15, GRID[0] - 15))
        if all(np.hypot(*(place - other)) > 22 for other in places):
            places.append(place)
    return np.array(places).T


def expose(header, sky, flux, scale):
    """The stars as a frame shows them."""
    from photutils.datasets import make_model_image
    from photutils.psf import GaussianPRF

    x, y = WCS(header).all_world2pix(*sky, 0)
    width = FWHM / (3600 * np.sqrt(abs(np.linalg.det(WCS(header).pixel_scale_matrix))))
    table = Table({"x_0": x, "y_0": y, "flux": flux / scale, "x_fwhm": np.full(len(x), width)})
    table["y_fwhm"] = width
    near = (x > -15) & (y > -15) & (x < SHAPE[1] + 15) & (y < SHAPE[0] + 15)
    return make_model_image(SHAPE, GaussianPRF(), table[near], model_shape=(35, 35)), width


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory):
    """Stack of ten frames under clouds, the middle star of which varies by 0.1 mag; places and fluxes of the stars."""
    folder, grid = tmp_path_factory.mktemp("mosaic"), tangent(GRID)
    x, y = star_places()
    sky, flux = WCS(grid).all_pix2world(x, y, 0), np.geomspace(3e4, 6e5, len(x))
    distance = np.hypot(x - GRID[1] / 2, y - GRID[0] / 2)
    inputs, middle = [], distance == distance.min()
    for k in range(10):
        header, scale = frame_header(k), 1 + 0.05 * (k % 5)
        varying = np.where(middle, 1 + 0.046 * np.cos(2 * np.pi * k / 10), 1.0) * flux
        image, width = expose(header, sky, varying, scale)
        path = write(folder / f"f{k}.fits", image, FWHM=width)
        (folder / f"f{k}.head").write_text(astrometry.head_text(header), encoding="ascii")
        way = skygrid.transform(skygrid.read_solution(folder / f"f{k}.head", SHAPE), skygrid.read_grid(grid))
        inputs.append((path, way, scale, 1.0))
    grid.update({"EXPTIME": 60.0, "BUNIT": "electron"})
    return stacking.stack(inputs, grid, OPTIONS), x, y, flux


def test_places_and_fluxes(mosaic):
    image, x, y, flux = mosaic
    rows, columns = np.indices(image.shape)
    off, errors, seams = [], [], []
    for a, b, f in zip(x, y, flux, strict=True):
        near = np.hypot(columns - a, rows - b) < RADIUS
        if not np.isfinite(image.data[near]).all():
            continue
        light = image.data[near].astype(float)
        off.append(np.hypot(*((light * (c[near] - p)).sum() / light.sum() for c, p in ((columns, a), (rows, b)))))
        errors.append(-2500 * np.log10(light.sum() / f))
        seams.append(np.ptp(image.extensions["COVERAGE"][near]) > 0)
    errors, seams = np.array(errors), np.array(seams)
    print(f"{len(off)} stars, {seams.sum()} on seams: off {max(off):.3f} px, {abs(errors).max():.2f} mmag at worst")
    assert len(off) > 35 and seams.sum() > 15
    assert max(off) < 0.05 and abs(errors).max() < 5
