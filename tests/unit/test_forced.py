"""Forced photometry: sums against truth, errors against scatter, positions of a drifting and distorted field."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from nightflow import forced
from nightflow.products import Image, MaskBit, RejectedFrame


def star_field(x, y, flux, shape=(120, 140), sky=0.0, noise=1.0, fwhm=3.0, seed=0):
    """Gaussian stars on noise; positions 0-based."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    sigma = fwhm / 2.3548
    data = np.full(shape, sky)
    for a, b, f in zip(x, y, flux, strict=True):
        data += f / (2 * np.pi * sigma**2) * np.exp(-0.5 * ((columns - a) ** 2 + (rows - b) ** 2) / sigma**2)
    data += np.random.default_rng(seed).normal(0, noise, shape)
    return Image(data.astype(np.float32), np.zeros(shape, np.uint16), np.full(shape, noise, np.float32))


def test_flux_above_the_local_sky():
    x, y = np.array([40.3, 90.8]), np.array([60.6, 50.2])
    image = star_field(x, y, [1e5, 5e4], sky=7.0)
    found = forced.measure(image, x, y, [3.0, 6.0], (10.0, 20.0))
    assert found.flux[:, 1] == pytest.approx([1e5, 5e4], rel=2e-3)
    assert found.sky == pytest.approx([7.0, 7.0], abs=0.2)
    share = 1 - np.exp(-0.5 * (3.0 / (3.0 / 2.3548)) ** 2)
    assert found.flux[:, 0] == pytest.approx([1e5 * share, 5e4 * share], rel=1.5e-2)


@pytest.mark.accuracy
def test_errors_match_scatter():
    """Empty places: sums scatter as the stated error says, the error of the local sky included."""
    rng = np.random.default_rng(5)
    pulls = []
    for seed in range(30):
        image = star_field([], [], [], seed=seed, noise=3.0)
        x, y = rng.uniform(30, 110, 20), rng.uniform(30, 90, 20)
        found = forced.measure(image, x, y, [5.0], (8.0, 14.0))
        pulls.append(found.flux / found.error)
    pull = float(np.std(pulls))
    print(f"pull of empty apertures: {pull:.3f}")
    assert 0.9 < pull < 1.1


def test_apertures_beyond_the_frame_have_no_flux():
    image = star_field([], [], [])
    found = forced.measure(
        image, np.array([2.0, 70.0, -30.0, np.nan]), np.array([60.0, 60.0, 60.0, 60.0]), [5.0], (8.0, 14.0)
    )
    assert np.isnan(found.flux[[0, 2, 3], 0]).all() and np.isfinite(found.flux[1, 0])
    assert np.isnan(found.x[2:]).all()


def test_flags_are_those_of_the_aperture_and_a_cosmic_ray_keeps_its_pixels():
    image = star_field([70.0], [60.0], [1e4], noise=0.1)
    whole = forced.measure(image, np.array([70.0]), np.array([60.0]), [5.0], (8.0, 14.0))
    image.mask[60, 70] = MaskBit.COSMIC_RAY
    image.mask[60, 76] = MaskBit.BAD
    found = forced.measure(image, np.array([70.0]), np.array([60.0]), [5.0, 7.0], (8.0, 14.0))
    assert found.flags.tolist() == [[int(MaskBit.COSMIC_RAY), int(MaskBit.COSMIC_RAY | MaskBit.BAD)]]
    assert found.flux[0, 0] == pytest.approx(whole.flux[0, 0])


def test_positions_follow_a_drift_and_a_distortion():
    """A first guess that is off by 1.5 px and knows nothing of the distortion: all stars, used or not."""
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, 1000, (2, 300))
    u, v = (x - 500) / 500, (y - 500) / 500
    true_x, true_y = x + 20 + 1.5 + 0.8 * u * v, y - 9 + 0.7 * u**2
    own = Table({"x": true_x[:200] + rng.normal(0, 0.03, 200), "y": true_y[:200] + rng.normal(0, 0.03, 200)})
    guess = forced.from_matrix(np.array([[1, 0, -20], [0, 1, 9], [0, 0, 1.0]]))
    found_x, found_y, rms, n = forced.place(x, y, own, [guess])
    off = np.hypot(found_x - true_x, found_y - true_y)
    assert np.median(off) < 0.015 and off.max() < 0.05 and n > 180 and rms < 0.06


def test_a_wrong_guess_is_passed_over_and_none_is_told():
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, 1000, (2, 60))
    own = Table({"x": x + 5, "y": y})
    wrong, right = (forced.from_matrix(np.array([[1, 0, d], [0, 1, 0], [0, 0, 1.0]])) for d in (300.0, -5.0))
    assert np.allclose(forced.place(x, y, own, [wrong, right])[0], x + 5)
    with pytest.raises(RejectedFrame, match="not found"):
        forced.place(x, y, own, [wrong])


def test_the_sky_is_that_beside_a_neighbour():
    image = star_field([70.0, 80.0], [60.0, 60.0], [1e3, 1e6], sky=5.0)
    level, error = forced.local_sky(image.data, image.mask != 0, np.array([70.0]), np.array([60.0]), (8.0, 20.0))
    assert level[0] == pytest.approx(5.0, abs=4 * error[0])
