"""Zero points: unbiased, with errors that are true."""

from __future__ import annotations

import numpy as np
import pytest

from nightflow import zero_points
from nightflow.zero_points import NoZeroPoint

TRUE, EXPTIME = 23.0, 60.0


def observe(seed, n=400, catalogue_error=0.02, excess=0.01, colour_term=0.03, slope=(0.0, 0.0), outliers=0):
    """Measured and catalogue values of `n` stars."""
    rng = np.random.default_rng(seed)
    magnitude, colour = rng.uniform(12, 17.5, n), rng.normal(0.5, 0.2, n)
    position = rng.uniform(-1, 1, (n, 2))
    zero_point = TRUE + position @ np.array(slope)
    flux = EXPTIME * 10 ** (-0.4 * (magnitude + colour_term * colour - zero_point))
    noise = np.sqrt(flux + 60 * 400.0)
    flux = (flux + noise * rng.standard_normal(n)) * 10 ** (-0.4 * excess * rng.standard_normal(n))
    flux[:outliers] *= 2.0
    listed = magnitude + catalogue_error * rng.standard_normal(n)
    return flux / EXPTIME, noise / EXPTIME, listed, np.full(n, catalogue_error), colour, position


@pytest.mark.accuracy
def test_errors_are_true_over_200_frames_with_independent_catalogue_noise():
    """Difference from the truth in units of the stated error has standard deviation 1, and the colour term is right."""
    found = [zero_points.fit_zero_point(*observe(seed), {"colour_term": "fit"}) for seed in range(200)]
    pull = np.array([(z.value - TRUE) / z.error for z in found])
    colour_pull = np.array([(z.colour_term - 0.03) / z.colour_term_error for z in found])
    difference = np.array([z.value - TRUE for z in found])
    terms = np.array([z.colour_term for z in found])
    print(
        f"pull {pull.mean():+.2f} +- {pull.std():.3f}, rms {1e3 * np.sqrt((difference**2).mean()):.1f} mmag; "
        f"colour term: mean error {terms.mean() - 0.03:+.4f}, scatter {terms.std():.4f}, pull {colour_pull.std():.2f}; "
        f"excess scatter {np.median([z.scatter for z in found]):.4f} (0.01)"
    )
    assert 0.9 < pull.std() < 1.1 and abs(pull.mean()) < 0.25
    assert 0.85 < colour_pull.std() < 1.15 and abs(terms.mean() - 0.03) < 0.002
    assert abs(np.median([z.scatter for z in found]) - 0.01) < 0.001


@pytest.mark.accuracy
def test_errors_are_true_for_a_dozen_faint_stars():
    pull = []
    for seed in range(300):
        rate, error, *rest = observe(seed, n=12, colour_term=0.0)
        z = zero_points.fit_zero_point(rate, error, *rest, {"min_snr": 5})
        pull.append((z.value - TRUE) / z.error)
    print(f"pull {np.mean(pull):+.2f} +- {np.std(pull):.2f}")
    assert 0.9 < np.std(pull) < 1.25 and abs(np.mean(pull)) < 0.3  # Student's t: 1.1 with 11 degrees of freedom


@pytest.mark.parametrize("seed", range(5))
def test_300_stars_give_the_zero_point_within_5_mmag(seed):
    z = zero_points.fit_zero_point(*observe(seed, n=300, colour_term=0.0, outliers=10))
    assert abs(z.value - TRUE) < 0.005 and z.n > 250


def test_the_colour_term_is_found_or_taken():
    fitted = zero_points.fit_zero_point(*observe(1, n=1000, colour_term=0.1), {"colour_term": "fit"})
    given = zero_points.fit_zero_point(*observe(1, n=1000, colour_term=0.1), {"colour_term": 0.1})
    assert abs(fitted.colour_term - 0.1) < 0.01 and given.colour_term == 0.1
    assert abs(given.value - TRUE) < 0.004 and np.isnan(given.colour_term_error)


def test_the_spatial_term_is_found():
    z = zero_points.fit_zero_point(*observe(2, slope=(0.05, -0.03), colour_term=0.0), {"spatial_term": True})
    assert np.allclose(z.slope, (0.05, -0.03), atol=0.006) and abs(z.value - TRUE) < 0.006


def test_the_common_error_is_that_of_the_catalogue():
    exact = zero_points.fit_zero_point(*observe(3, catalogue_error=0.0))
    rough = zero_points.fit_zero_point(*observe(3, catalogue_error=0.05))
    assert exact.systematic == 0 and 0.8 * rough.error < rough.systematic < rough.error


@pytest.mark.parametrize("fraction", [0.1, 0.25])
def test_wrong_matches_do_not_matter(fraction):
    rate, error, magnitude, *rest = observe(4, colour_term=0.0)
    wrong = np.random.default_rng(1).permutation(len(rate))[: int(fraction * len(rate))]
    magnitude[wrong] = np.random.default_rng(2).uniform(12, 17.5, len(wrong))
    z = zero_points.fit_zero_point(rate, error, magnitude, *rest)
    assert abs(z.value - TRUE) < 4 * z.error < 0.02


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda a: a.__setitem__(2, np.full(400, np.nan)), "0 stars with a catalogue magnitude"),
        (lambda a: a.__setitem__(4, np.full(400, np.nan)), "the catalogue gives no colour"),
        (lambda a: a.__setitem__(0, np.full(400, -1.0)), "0 stars"),
    ],
)
def test_no_zero_point_says_why(change, sentence):
    values = list(observe(1))
    change(values)
    with pytest.raises(NoZeroPoint, match=sentence):
        zero_points.fit_zero_point(*values, {"colour_term": "fit"})


def test_depth_and_sky_brightness():
    assert np.isclose(zero_points.magnitude_of(25.0, zero_points.sky_rate(100.0 * 60 * 4, 60.0, 2.0)), 20.0)
    assert np.isnan(zero_points.magnitude_of(25.0, zero_points.sky_rate(-1.0, 60.0, 2.0)))
    noise = 10.0
    limit = zero_points.magnitude_of(25.0, zero_points.limiting_rate(noise, 4.0, 1.1, 60.0))
    flux = 10 ** (-0.4 * (limit - 25.0)) * 60 / 1.1
    assert np.isclose(flux / (noise * np.sqrt(np.pi * 16)), 5.0)
