"""Estimators of outliers against their published definitions, on samples of one pixel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nightflow import rejection

OPTIONS = {
    "clip_low": 3.0,
    "clip_high": 3.0,
    "clip_fraction": 0.0,
    "clip_gradient": 0.0,
    "kappa": 2.0,
    "iterations": 5,
    "percentile_low": 0.2,
    "percentile_high": 0.1,
    "esd_significance": 0.05,
    "esd_outliers": 0.3,
}


def judged(values, name, *, suspect=None, sky=0.0, **options):
    """Which of the values stay, in ascending order."""
    values = np.sort(np.asarray(values, dtype=float))
    zeros = np.zeros(len(values))
    rejector = rejection.make_rejector(name, OPTIONS | options, zeros, zeros, sky)
    suspect = np.ones(len(values), bool) if suspect is None else suspect
    return values[rejection.judge(values, suspect, float(np.median(values)), rejector)]


def clipped(values, centre, low, high, rounds):
    """The textbook loop of sigma clipping."""
    left = np.sort(values)
    for _ in range(rounds):
        deviation, sigma = left - centre(left), left.std(ddof=1)
        kept = left[(deviation <= high * sigma) & (-deviation <= low * sigma)]
        if len(kept) == len(left):
            break
        left = kept
    return left


def sample(n, outliers=(), seed=0):
    return np.concatenate((np.random.default_rng(seed).normal(10, 1, n - len(outliers)), outliers))


@pytest.mark.parametrize("seed", range(5))
def test_sigma_and_kappa_sigma_are_the_textbook_loops(seed):
    """Clipping about the median, and DeepSkyStacker's about the mean."""
    values = sample(25, (30.0, 17.0, 4.0), seed)
    expected = clipped(values, np.median, 2.5, 3.0, 5)
    np.testing.assert_array_equal(judged(values, "sigma", clip_low=2.5), expected)
    np.testing.assert_array_equal(judged(values, "kappa_sigma"), clipped(values, np.mean, 2.0, 2.0, 5))
    assert len(judged(values, "kappa_sigma", iterations=1)) > len(judged(values, "kappa_sigma"))


def test_few_values_do_not_judge_themselves():
    """Below 15 values the noise alone decides for sigma: what is suspect goes."""
    suspect = np.arange(8) == 7
    assert len(judged(sample(8), "sigma", suspect=suspect)) == 7
    assert len(judged(sample(20), "sigma", suspect=np.arange(20) == 19)) == 20


@pytest.mark.parametrize("name", [*rejection.REJECTIONS[2:], "kappa_sigma", "median_kappa_sigma"])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 40])
def test_what_noise_allows_is_never_rejected(name, n):
    """Values within the expected noise stay whatever the estimator says of them."""
    values = sample(n, (1e4,)[: n - 1], n)
    assert len(judged(values, name, suspect=np.zeros(n, bool))) == n


@pytest.mark.parametrize("name", [name for name in rejection.REJECTIONS if name not in ("none", "noise")])
def test_one_of_eight(name):
    """One contradicting value of eight goes, the others stay."""
    values = sample(8, (600.0,))
    assert np.array_equal(judged(values, name, suspect=np.sort(values) > 20), np.sort(values)[:-1])


def test_winsorised_deviation_is_robust():
    """It is the standard deviation of clean normal samples, to 3 %, and little more with a tenth of outliers."""
    clean = np.array([rejection._winsorised_deviation(np.sort(sample(100, seed=s))) for s in range(100)])
    dirty = np.array([rejection._winsorised_deviation(np.sort(sample(100, [1e4] * 10, s))) for s in range(100)])
    print(f"winsorised deviation: {clean.mean():.3f}; with a tenth of outliers {dirty.mean():.3f}")
    assert clean.mean() == pytest.approx(1, abs=0.03)
    assert 1 < dirty.mean() < 1.5
    assert len(judged(sample(100, [1e4] * 10), "winsorised")) == 90


@pytest.mark.parametrize("seed", range(3))
def test_line_of_least_absolute_deviations(seed):
    """It is as good as the best line through any two points, one of which is the exact answer."""
    values = np.sort(sample(12, (40.0,), seed))
    rank = np.arange(12)
    best = np.inf
    for i, j in itertools.combinations(range(12), 2):
        slope = (values[j] - values[i]) / (j - i)
        best = min(best, np.abs(values - values[i] - slope * (rank - i)).sum())
    assert np.abs(rejection._deviations_from_line(values)).sum() == pytest.approx(best, rel=1e-3)


def test_linear_fit_follows_a_drift():
    """A sky that brightens from frame to frame is no outlier; a value off its line is."""
    drift = np.linspace(0, 100, 20) + np.random.default_rng(0).uniform(-0.5, 0.5, 20)
    np.testing.assert_array_equal(judged(drift, "linear_fit"), drift)
    np.testing.assert_array_equal(judged(np.append(drift, 400.0), "linear_fit"), drift)


def test_percentile_counts_the_sky():
    """Limits are parts of the level with the sky in, separate below and above."""
    values = np.array([-15.0, 0, 0, 0, 0, 8, 12])
    np.testing.assert_array_equal(judged(values, "percentile", sky=100), values[:-1])
    np.testing.assert_array_equal(judged(values, "percentile", sky=70), values[1:-2])


def test_generalised_esd_on_rosners_data():
    """The 54 values of Rosner (1983): three outliers where up to ten are sought at 5 %."""
    values = [
        -0.25, 0.68, 0.94, 1.15, 1.20, 1.26, 1.26, 1.34, 1.38, 1.43, 1.49, 1.49, 1.55, 1.56, 1.58, 1.65, 1.69, 1.70,
        1.76, 1.77, 1.81, 1.91, 1.94, 1.96, 1.99, 2.06, 2.09, 2.10, 2.14, 2.15, 2.23, 2.24, 2.26, 2.35, 2.37, 2.40,
        2.47, 2.54, 2.62, 2.64, 2.90, 2.92, 2.92, 2.93, 3.21, 3.26, 3.30, 3.59, 3.68, 4.30, 4.64, 5.34, 5.42, 6.01,
    ]  # fmt: skip
    options = {"esd_outliers": 10 / 54}
    np.testing.assert_array_equal(judged(values, "generalised_esd", **options), values[:-3])
    critical = rejection._critical_values(54, OPTIONS | options)[54]
    np.testing.assert_allclose(critical[[0, 1, 2, 9]], [3.1588, 3.1514, 3.1439, 3.0854], atol=1e-4)


def test_unknown_name():
    with pytest.raises(ValueError, match="stack.rejection is 'mad'"):
        rejection.make_rejector("mad", OPTIONS, np.zeros(3), np.zeros(3))
