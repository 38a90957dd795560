"""Trails against fields with and without them, and against what looks like one."""

from __future__ import annotations

import numpy as np
import pytest
from fields import Field, star_field

from nightflow import trails
from nightflow.products import MaskBit


def across_and_along(field: Field, x, y, angle):
    """Distances of all pixels from a line through (x, y), and along it."""
    dy, dx = np.indices(field.shape) - np.array([y, x])[:, None, None]
    return dy * np.cos(angle) - dx * np.sin(angle), dx * np.cos(angle) + dy * np.sin(angle)


def add_trail(field: Field, angle, crest=2.0, x=None, y=None, sigma=1.6, ends=(-np.inf, np.inf)):
    """Add a trail with a crest in units of the noise, and return its light."""
    ny, nx = field.shape
    across, along = across_and_along(field, 0.52 * nx if x is None else x, 0.45 * ny if y is None else y, angle)
    light = crest * field.noise * np.exp(-0.5 * (across / sigma) ** 2) * ((along > ends[0]) & (along < ends[1]))
    field.stars += light
    return light / field.noise


def add_spikes(field: Field, x, y, peak, angle):
    """Add four diffraction spikes that fade as the square of the distance from their star."""
    for turn in (0, np.pi / 2):
        across, along = across_and_along(field, x, y, angle + turn)
        field.stars += peak * np.exp(-0.5 * (across / 1.3) ** 2) / (1 + (along / 30) ** 2)


@pytest.mark.parametrize("angle", [0.0, 0.3, 0.785, np.pi / 2, 2.9])
def test_trail_across_the_image(angle):
    """95 % of the pixels of a trail with a crest of 2 sigma, and at most 0.1 % of the clean sky."""
    field = star_field(100, 5, shape=(700, 800), seed=int(10 * angle), beta=3.0)
    light = add_trail(field, angle)
    found = trails.find_trails(field.image())
    assert found[light > 0.5].mean() >= 0.95
    assert found[light < 0.05].mean() <= 0.001


@pytest.mark.parametrize("crest", [1.0, 5.0, 50.0])
def test_faint_and_bright_trails(crest):
    field = star_field(100, shape=(700, 700), seed=3)
    light = add_trail(field, 1.1, crest)
    found = trails.find_trails(field.image(60000))
    assert found[light > 0.25 * crest].mean() >= 0.95
    assert found[light < 0.05].mean() <= 0.001


def test_trail_that_ends_inside():
    field = star_field(100, shape=(800, 800), seed=4)
    light = add_trail(field, 0.5, 3.0, ends=(-200, 180))
    found = trails.find_trails(field.image())
    assert found[light > 0.5].mean() >= 0.95
    assert found[light < 0.05].mean() <= 0.001


def test_two_trails_and_cosmic_ray_flags_on_them():
    """Pixels of a trail that were taken for cosmic rays do not hide it."""
    field = star_field(100, 0, 20, shape=(700, 700), seed=5)
    light = add_trail(field, 0.4, 4.0) + add_trail(field, 2.0, 2.0, x=300)
    image = field.image()
    image.mask[(light > 3) & (field.rng.uniform(size=field.shape) < 0.7)] = int(MaskBit.COSMIC_RAY)
    assert trails.find_trails(image)[light > 0.5].mean() >= 0.95


def test_slightly_curved_trail():
    """Distortion bends a trail by a few pixels."""
    field = Field(shape=(800, 800), seed=6)
    across, along = across_and_along(field, 400, 380, 0.3)
    light = 3 * np.exp(-0.5 * ((across - 1.2e-5 * along**2) / 1.6) ** 2)
    field.stars += light * field.noise
    found = trails.find_trails(field.image())
    assert found[light > 0.5].mean() >= 0.95
    assert found[light < 0.05].mean() <= 0.001


def test_trail_through_a_galaxy_is_followed():
    field = star_field(60, shape=(800, 800), seed=7)
    light = add_trail(field, 0.6)
    field.add_galaxy(420, 365, 10 * field.noise, 25.0, axis_ratio=0.7)
    found = trails.find_trails(field.image())
    assert found[light > 0.5].mean() >= 0.95


@pytest.mark.parametrize(("n_stars", "n_galaxies"), [(0, 0), (300, 30), (3000, 100)])
def test_fields_without_a_trail(n_stars, n_galaxies):
    field = star_field(n_stars, n_galaxies, 40, seed=8, beta=3.0)
    assert not trails.find_trails(field.image(60000)).any()


@pytest.mark.parametrize("peak", [500, 3000, 30000])
@pytest.mark.parametrize("seed", [1, 2])
def test_diffraction_spikes_are_no_trail(seed, peak):
    field = star_field(200, 10, seed=seed, shape=(900, 900), beta=3.0)
    for _ in range(3):
        x, y = field.positions(1)[0]
        field.add_star(x, y, 100 * peak, 3.0, beta=3.0)
        add_spikes(field, x, y, peak, 0.3 + seed)
    assert not trails.find_trails(field.image(60000)).any()


@pytest.mark.parametrize(("radius", "intensity"), [(40, 10), (80, 3), (60, 30)])
def test_edge_on_galaxies_are_no_trail(radius, intensity):
    field = star_field(200, shape=(800, 800), seed=9)
    field.add_galaxy(430, 380, intensity * field.noise, radius, axis_ratio=0.06, theta=0.9)
    assert not trails.find_trails(field.image()).any()


def test_bad_columns_that_are_flagged_are_no_trail():
    field = star_field(50, shape=(500, 500), seed=10)
    image = field.image()
    image.data[:, 200:202] += 500
    image.mask[:, 200:202] = int(MaskBit.BAD)
    assert not trails.find_trails(image).any()


def test_search_can_be_off():
    field = Field(shape=(400, 400))
    add_trail(field, 0.3, 5.0)
    image = field.image()
    assert trails.find_trails(image).any()
    assert not trails.find_trails(image, {"find": False}).any()
    assert not trails.find_trails(image, {"min_length": 2000}).any()
    assert not trails.find_trails(image, {"significance": 1e4}).any()
    assert not trails.find_trails(image, {"max_trails": 0}).any()


@pytest.mark.parametrize(
    "data", [np.zeros((300, 300)), np.full((300, 300), np.nan), np.ones((1, 1)), np.ones((90, 400))]
)
def test_images_without_anything(data):
    image = Field(shape=data.shape).image()
    image.data[:] = data
    assert not trails.find_trails(image).any()


def test_real_frames_have_no_trail(shared_data):
    """The raw M51 frames, with a galaxy that fills a quarter of the image, show no satellite."""
    from astropy.io import fits

    for path in sorted((shared_data / "m51_qsi532" / "raw").glob("M51_I_*.fit"))[::6]:
        image = Field(shape=(736, 1092)).image()
        image.data[:] = fits.getdata(path)
        assert not trails.find_trails(image).any()


@pytest.mark.accuracy
def test_small_crowded_frames():
    """Stars fill a good part of the few blocks that the search for lines has there."""
    found, false = 0, 0
    for seed in range(16):
        field = star_field(100, 2, 15, seed=100 + seed, shape=(200, 220), fwhm=2.5 + 1.5 * (seed % 3), beta=3.0)
        false += trails.find_trails(field.image(60000)).any()
        sigma = np.hypot(field.fwhm / 2.355, 0.5)
        light = add_trail(field, 0.6 + 0.02 * seed, (2, 5, 20, 60)[seed % 4], sigma=sigma)
        found += trails.find_trails(field.image(60000))[light > 1].mean() > 0.8
    print(f"trails through the middle of 200 x 220 px with 100 stars: {found} of 16 found, {false} false")
    assert found == 16 and not false


@pytest.mark.accuracy
@pytest.mark.parametrize("n_stars", [200, 1500])
def test_recall_and_clean_sky(n_stars):
    """Trails of 2 sigma through a megapixel of stars at five angles and seeings."""
    recall, clean = [], []
    for seed in range(5):
        field = star_field(n_stars, 20, 30, seed=seed, fwhm=2.2 + 0.5 * seed, beta=3.0)
        x, y = field.positions(1, margin=200)[0]
        light = add_trail(field, field.rng.uniform(0, np.pi), 2.0, x, y, sigma=np.hypot(field.fwhm / 2.355, 0.5))
        found = trails.find_trails(field.image(60000))
        recall.append(found[light > 0.5].mean())
        clean.append(found[light < 0.05].mean())
    print(f"{n_stars} stars: recall {np.mean(recall):.3f} (least {min(recall):.3f}), clean sky {np.max(clean):.5f}")
    assert min(recall) >= 0.95
    assert max(clean) <= 0.001
