"""A mosaic of ten frames, from raw pixels to the stack: positions, fluxes across seams, and an object that moves."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.wcs import WCS
from mosaics import Mosaic

from nightflow import astrometry

pytestmark = pytest.mark.accuracy

SEEDS = (1, 2)
RADIUS = 9.0


def night(seed):
    """2 x 2 pointings, turned by 180 degrees half-way, three frames of another scale, distorted, under thin clouds."""
    target = {"name": "field", "ra": 150.0, "dec": 20.0, "kind": "cluster", "filters": ["V"], "frames": 10}
    target |= {"exptime": 120.0, "pointings": [[-110, -100], [110, -100], [-110, 100], [110, 100]]}
    effects = {
        "meridian_flip": {"enabled": True},
        "rotation": {"enabled": True},
        "scale": {"enabled": True, "fraction": 0.3},
        "distortion": {"enabled": True},
        "zero_point_drift": {"enabled": True, "stddev": 0.1},
        "stars": {"density": 700.0, "magnitudes": [12.4, 17.5], "slope": 0.12},
        "galaxies": {"enabled": False},
        "cluster": {"enabled": False},
    }
    catalogue = {"magnitude_error": 0.01, "position_error": 0.02}
    return {"seed": seed, "shape": [300, 320], "filters": {"V": {}}, "targets": [target], "flat_level": 40000.0,
            "catalogue": catalogue, "effects": effects}  # fmt: skip


@pytest.fixture(scope="module", params=SEEDS)
def mosaic(request, tmp_path_factory):
    return Mosaic(night(request.param), tmp_path_factory.mktemp("mosaics") / str(request.param))


def compare(mosaic, image):
    """Isolated bright stars: offset in x and y (px), in flux (mmag), least and largest coverage, place."""
    reference = mosaic.truth[mosaic.reference].conditions
    stars = {}
    for frame in mosaic.truth.values():
        inside = frame.sources[frame.sources["inside"]]
        scale = 10 ** (0.4 * (reference.zero_point - frame.conditions.zero_point))
        sky = frame.wcs.all_pix2world(inside["x"], inside["y"], 0)
        stars |= {int(n): row for n, *row in zip(inside["id"], *sky, inside["flux"] * scale, strict=True)}
    ra, dec, flux = np.array(list(stars.values())).T
    x, y = WCS(astrometry.wcs_of(image.header)).all_world2pix(ra, dec, 0)
    apart = np.hypot(x[:, None] - x, y[:, None] - y) + np.diag(np.full(len(x), np.inf))
    lonely = ~((flux[None, :] > 0.003 * flux[:, None]) & (apart < 2.2 * RADIUS)).any(axis=1)
    psfs = [frame.conditions.psf for frame in mosaic.truth.values()]
    share = np.mean([1 - (1 + (RADIUS / psf.alpha) ** 2) ** (1 - psf.beta) for psf in psfs])
    yy, xx = np.mgrid[: image.shape[0], : image.shape[1]]
    rows = []
    for k in np.flatnonzero(lonely & (flux > 1.5e5)):
        near = np.hypot(xx - x[k], yy - y[k]) < RADIUS
        if near.sum() > 250 and np.isfinite(image.data[near]).all() and not image.mask[near].any():
            light, (cx, cy) = image.data[near].astype(float), (x[k], y[k])
            for _ in range(15):  # windowed centroid
                weight = light * np.exp(-((xx[near] - cx) ** 2 + (yy[near] - cy) ** 2) / (2 * 1.6**2))
                cx += 2 * (weight * (xx[near] - cx)).sum() / weight.sum()
                cy += 2 * (weight * (yy[near] - cy)).sum() / weight.sum()
            coverage = image.extensions["COVERAGE"][near]
            magnitude = -2500 * np.log10(light.sum() / flux[k] / share)
            rows.append((cx - x[k], cy - y[k], magnitude, coverage.min(), coverage.max(), x[k], y[k]))
    return np.array(rows)


@pytest.mark.parametrize("rejection", ["none", "noise"])
def test_positions_and_fluxes_across_the_seams(mosaic, rejection):
    """Stars lie within 0.05 px of the catalogue, and each quarter and the seams show the same flux to 5 mmag."""
    image = mosaic.stack(engine="wcs", stack={"method": "mean", "rejection": rejection})
    stars = compare(mosaic, image)
    off = np.hypot(stars[:, 0], stars[:, 1])
    seam = stars[:, 3] < stars[:, 4]
    ny, nx = image.shape
    right, upper = stars[:, 5] > nx / 2, stars[:, 6] > ny / 2
    places = {"seams": seam, "lower left": ~right & ~upper, "lower right": right & ~upper}
    places |= {"upper left": ~right & upper, "upper right": right & upper}
    means = {name: np.median(stars[chosen, 2]) for name, chosen in places.items() if chosen.sum() > 3}
    print(
        f"{rejection}: {len(stars)} stars, {seam.sum()} on seams, off {np.sqrt((off**2).mean()):.3f} px rms, "
        f"{off.max():.3f} at worst; mmag: {', '.join(f'{n} {m:+.1f}' for n, m in means.items())}, "
        f"scatter {stars[:, 2].std():.1f}"
    )
    assert len(stars) > 12 and seam.sum() > 4
    assert off.max() < 0.05
    assert max(abs(value) for value in means.values()) < 5


def test_untied_frames_and_star_fluxes(mosaic):
    """What ties the frames: stars alone do for the fluxes, and the tie moves nothing away from the catalogue."""
    for options in ({"tie": False}, {"flux_scale": "stars"}):
        stars = compare(mosaic, mosaic.stack(engine="wcs", stack={"rejection": "none"}, **options))
        off = np.hypot(stars[:, 0], stars[:, 1])
        print(f"{options}: off {np.sqrt((off**2).mean()):.3f} px rms; {np.median(stars[:, 2]):+.1f} mmag")
        assert np.sqrt((off**2).mean()) < 0.05 and abs(np.median(stars[:, 2])) < 5


def test_an_object_that_moves(mosaic):
    """A stack that follows an object at 60 px/h to the east leaves stars as trails: their peaks drop."""
    still = mosaic.stack(engine="wcs", stack={"rejection": "none"})
    moving = {"rate": 60.0, "unit": "px/h", "position_angle": 90.0}
    followed = mosaic.stack(engine="wcs", stack={"rejection": "none"}, moving=moving)
    assert followed.header["MOVRATE"] == 60.0 and "MOVRATE" not in still.header
    assert np.nanquantile(followed.data, 0.9995) < 0.7 * np.nanquantile(still.data, 0.9995)
