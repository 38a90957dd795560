"""Matching of star lists by their triangles."""

from __future__ import annotations

import numpy as np
import pytest

from nightflow import asterisms


def lists(matrix, n=20, missing=0.3, seed=0):
    """Positions in a frame and in the reference, each without a part of the stars and with centroid errors."""
    rng = np.random.default_rng(seed)
    stars = rng.uniform(0, 1000, (n, 2))
    moved = stars @ matrix[:2, :2].T + matrix[:2, 2]
    return [xy[rng.random(n) > missing] + rng.normal(0, 0.1, (1, 2)) for xy in (stars, moved)]


def similarity(angle, scale, shift, mirrored=False):
    a = np.radians(angle)
    linear = scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    linear = linear @ np.diag((1.0, -1.0)) if mirrored else linear
    return np.vstack((np.column_stack((linear, shift)), (0, 0, 1)))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("angle", "scale"), [(0, 1), (35, 1), (180, 1), (-90, 0.5), (120, 2.5)])
def test_finds_the_transform(angle, scale, mirrored):
    """Shift, rotation, scale and parity come out from lists that share half of their stars."""
    truth = similarity(angle, scale, (30, -200), mirrored)
    found = asterisms.match(*lists(truth), mirrored, 3.0)
    corners = np.array([(0, 0, 1), (1000, 0, 1), (0, 1000, 1), (1000, 1000, 1)]).T
    assert np.abs((found - truth) @ corners)[:2].max() < 2


def test_wrong_parity_brings_few_stars_together():
    truth = similarity(10, 1, (0, 0), mirrored=True)
    positions, reference = lists(truth, missing=0)
    found = asterisms.match(positions, reference, False, 3.0)
    moved = positions @ found[:2, :2].T + found[:2, 2]
    assert (np.hypot(*(moved - reference).T) < 3).sum() <= 4


@pytest.mark.parametrize(("n", "m"), [(0, 10), (2, 10), (10, 2)])
def test_too_few_stars(n, m):
    assert asterisms.match(np.zeros((n, 2)), np.ones((m, 2)), False, 3.0) is None


def test_stars_on_one_spot():
    """Degenerate lists have no triangle, and raise nothing."""
    assert asterisms.match(np.zeros((5, 2)), np.zeros((6, 2)), False, 3.0) is None
