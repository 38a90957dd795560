"""Differential photometry: zero points recovered, variable stars left out, no star compared with itself, all steady."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.stats import biweight_midvariance

from nightflow import ensemble

STARS, FRAMES = 40, 60


def night(seed=1, noise=0.004, missing=0.0, gradient=0.0):
    """True magnitudes, zero points and measured ones with photon noise; the first star varies by 0.1 mag."""
    rng = np.random.default_rng(seed)
    own = np.sort(rng.uniform(10, 14, STARS))
    zero = 0.3 * np.sin(np.arange(FRAMES) / 9) + rng.normal(0, 0.05, FRAMES)
    position = rng.uniform(-1, 1, (STARS, 2))
    error = np.repeat(noise * 10 ** (0.2 * (own[:, None] - 12)), FRAMES, axis=1)
    truth = own[:, None] + zero + gradient * np.outer(position[:, 0], np.linspace(-1, 1, FRAMES))
    variation = 0.05 * np.sin(np.arange(FRAMES) / 5)
    measured = truth + rng.normal(0, 1, truth.shape) * error
    measured[0] += variation
    measured[rng.random(truth.shape) < missing] = np.nan
    return {"own": own, "zero": zero, "position": position, "error": error, "m": measured, "variation": variation}


def solved(n, eligible=None, **options):
    eligible = np.ones(STARS, bool) if eligible is None else eligible
    return ensemble.solve(n["m"], n["error"], n["position"], n["own"], eligible, **options)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_zero_points_and_magnitudes_come_out(missing):
    n = night(missing=missing)
    found = solved(n)
    assert found.model == ensemble.CONSTANT and not found.members[0]
    assert np.std(found.frame_zero_points - n["zero"]) < 0.002
    differential = n["m"] - found.zero_points
    assert np.nanstd(differential[0] - n["variation"] - n["own"][0]) < 1.3 * n["error"][0, 0]
    assert abs(np.nanmean(differential, axis=1) - n["own"])[1:].max() < 0.01


@pytest.mark.accuracy
def test_pulls_of_all_stars_are_one():
    """Differential magnitudes scatter as photon noise and the error of the zero point say, members or not."""
    pulls = []
    for seed in range(5):
        n = night(seed)
        found = solved(n)
        differential = (n["m"] - found.zero_points)[1:]
        sigma = np.sqrt(n["error"] ** 2 + found.zero_errors**2)[1:]
        pulls.append((differential - differential.mean(axis=1, keepdims=True)) / sigma)
    pull = float(np.std(pulls) * np.sqrt(FRAMES / (FRAMES - 1)))
    print(f"pull of {STARS - 1} stars in 5 nights: {pull:.3f}")
    assert 0.95 < pull < 1.05


def test_a_member_is_not_compared_with_itself():
    """The brightest star of three varies; against itself its variation would be damped."""
    n = night(noise=0.002)
    rows = slice(0, 3)
    found = ensemble.solve(n["m"][rows], n["error"][rows], n["position"][rows], n["own"][rows], np.ones(3, bool))
    differential = (n["m"][rows] - found.zero_points)[0]
    slope = np.polyfit(n["variation"], differential, 1)[0]
    assert abs(slope - 1) < 0.05


def test_a_gradient_that_turns_is_taken_up_by_a_plane():
    """A drift over a vignetted field: magnitudes change in proportion to the place, frame by frame."""
    n = night(gradient=0.03)
    found = solved(n)
    assert found.model == ensemble.PLANE
    differential = n["m"] - found.zero_points
    faint = np.nanstd(differential[1:10], axis=1) / n["error"][1:10, 0]
    assert faint.max() < 1.6


def test_eligible_stars_alone_are_members():
    eligible = np.arange(STARS) % 2 == 1
    assert not solved(night(), eligible).members[~eligible].any()


def test_a_cloudy_frame_is_told_by_its_excess():
    n = night()
    n["m"][:, 7] += np.random.default_rng(3).normal(0, 0.05, STARS)
    found = solved(n)
    assert found.frame_excess[7] > 0.015 and np.delete(found.frame_excess, 7).max() < 0.005


def test_too_few_stars():
    n = night()
    with pytest.raises(ensemble.NoEnsemble, match="at least 2"):
        solved(n, np.arange(STARS) < 1)
    with pytest.raises(ensemble.NoEnsemble, match="no star"):
        solved(n, np.zeros(STARS, bool))


def test_a_frame_without_a_star_has_no_zero_point():
    n = night()
    n["m"][:, 5] = np.nan
    found = solved(n)
    assert np.isnan(found.zero_points[:, 5]).all() and np.isfinite(np.delete(found.frame_zero_points, 5)).all()


def test_a_field_that_drifts_away_keeps_an_ensemble():
    """Each star is there in a quarter of the frames; every frame has its zero point."""
    n = night()
    there = np.abs(np.linspace(0, 1, STARS)[:, None] - np.linspace(0, 1, FRAMES)) < 0.125
    n["m"][~there] = np.nan
    found = solved(n)
    assert np.isfinite(found.frame_zero_points).all() and found.n.min() >= 2
    differential = n["m"] - found.zero_points
    offset = np.nanmean(differential, axis=1) - n["own"]
    assert np.nanstd(offset[1:]) < 0.02


def field(seed, stars, gradient):
    """Stars of 1 to 15 mmag of photon noise whose own drifts and jumps go from 2 to 20 mmag; a fifth varies by more.

    Some measurements are missing, some are off by a tenth of a magnitude.
    """
    rng = np.random.default_rng(seed)
    brightness, time = np.sort(rng.uniform(0, 1, stars)), np.linspace(-1, 1, 24)
    error = np.repeat(1e-3 * 15 ** brightness[:, None], len(time), axis=1)
    drift = [1.14 * np.interp(time, np.linspace(-1, 1, 7), rng.normal(size=7)) for _ in range(stars)]
    own = 0.006 * np.exp(0.5 * rng.normal(size=(stars, 1))) * (drift + rng.normal(size=error.shape)) / np.sqrt(2)
    varies = rng.random(stars) < 0.2
    period, phase = rng.uniform(2, 9, (stars, 1)), rng.uniform(0, 6, (stars, 1))
    own += (varies * rng.uniform(0.02, 0.1, stars))[:, None] * np.sin(period * time + phase)
    position = rng.uniform(-1, 1, (stars, 2))
    zero = 0.3 * np.sin(3 * time) + rng.normal(0, 0.05, len(time)) + gradient * np.outer(position[:, 0], time)
    magnitude = 10 + 5 * brightness[:, None]
    measured = magnitude + zero + own + error * rng.normal(size=error.shape)
    measured += (rng.random(error.shape) < 0.02) * rng.normal(0, 0.1, error.shape)
    measured[rng.random(error.shape) < 0.05] = np.nan
    stir = 0.02 * error * rng.normal(size=error.shape)
    return {"m": measured, "error": error, "position": position, "own": magnitude[:, 0], "zero": zero,
            "varies": varies, "stir": stir}  # fmt: skip


def without_level(zero_points):
    """Zero points of each star without their mean over the frames, which is that of the catalogue."""
    return zero_points - zero_points.mean(axis=1, keepdims=True)


@pytest.mark.accuracy
@pytest.mark.parametrize(("stars", "gradient", "most"), [(100, 0.0, 0.95), (100, 0.03, 1.0), (12, 0.0, 3.5)])
def test_a_breath_on_the_magnitudes_changes_hardly_anything(stars, gradient, most):
    """Noise of 2 % of the stated errors: next to the same members, and zero points that move by far less than they err.

    `most`: rms error of the zero points against the truth, mmag.
    """
    moved, off, alike, varies = [], [], [], 0
    for seed in range(12):
        n = field(seed, stars, gradient)
        eligible = np.ones(stars, bool)
        first = solved(n, eligible)
        stirred = solved({**n, "m": n["m"] + n["stir"]}, eligible)
        moved.append(1000 * without_level(stirred.zero_points - first.zero_points))
        off.append(1000 * np.median(without_level(first.zero_points - n["zero"]), axis=0))
        alike.append((first.members & stirred.members).sum() / (first.members | stirred.members).sum())
        varies += int((first.members & n["varies"]).sum())
    rms = [float(np.sqrt(np.mean(np.square(values)))) for values in (moved, off)]
    print(
        f"zero points moved by {rms[0]:.3f} mmag, off by {rms[1]:.2f}; "
        f"members alike {np.mean(alike):.3f}, at worst {min(alike):.2f}; variable members {varies}"
    )
    assert rms[0] < 0.05 * rms[1] and rms[1] < most and np.mean(alike) > 0.97 and min(alike) > 0.8 and not varies


def test_robust_variance_is_that_of_astropy_for_a_sample():
    """Times n / (n - 1), row by row with gaps and outliers; astropy warns where a row is empty, and takes longer."""
    values = np.random.default_rng(1).normal(size=(6, 30))
    values[0, :5], values[1, 3], values[2, 3:] = np.nan, 40.0, np.nan
    n = np.isfinite(values).sum(axis=1)
    expected = biweight_midvariance(values, axis=1, ignore_nan=True) * n / (n - 1)
    assert ensemble.robust_variance(values) == pytest.approx(expected, rel=1e-12)


def test_robust_variance_hears_all_values_but_outliers():
    rng = np.random.default_rng(2)
    values = rng.normal(0, 3, (4000, 24))
    variance = ensemble.robust_variance(values)
    assert variance.mean() == pytest.approx(9, rel=0.05)
    assert variance.std() / variance.mean() < 1.2 * np.sqrt(2 / 23)  # that of the median absolute deviation is 1.65
    values[:, 3], values[:, 5] = 1e3, np.nan
    assert ensemble.robust_variance(values).mean() == pytest.approx(9, rel=0.1)
    assert np.isnan(ensemble.robust_variance(np.array([1.0, 2.0, np.nan])))
    assert ensemble.robust_variance(np.array([2.0, 2.0, 2.0])) == 0
