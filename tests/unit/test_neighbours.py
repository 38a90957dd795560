"""Near neighbours against those of scipy's tree."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import KDTree

from nightflow import neighbours


def lists(seed, n, m, size):
    rng = np.random.default_rng(seed)
    return rng.uniform(-size, size, (n, 2)), rng.uniform(-size, size, (m, 2)) + 0.1 * size


@pytest.mark.parametrize("radius", [0.01, 1.0, 30.0])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 200), (200, 3), (400, 500)])
def test_pairs_are_those_of_a_tree(n, m, radius):
    points, others = lists(n, n, m, 50.0)
    i, j, distance = neighbours.pairs_within(points, others, radius)
    expected = KDTree(points).sparse_distance_matrix(KDTree(others), radius, output_type="ndarray")
    order, other = np.lexsort((j, i)), np.lexsort((expected["j"], expected["i"]))
    np.testing.assert_array_equal(i[order], expected["i"][other])
    np.testing.assert_array_equal(j[order], expected["j"][other])
    np.testing.assert_allclose(distance[order], expected["v"][other], rtol=1e-12)


@pytest.mark.parametrize("radius", [0.5, 5.0, 200.0])
def test_mutual_nearest_are_those_of_two_trees(radius):
    points, others = lists(1, 300, 350, 60.0)
    distance, nearest = KDTree(others).query(points)
    _, back = KDTree(points).query(others)
    expected = np.flatnonzero((distance <= radius) & (back[nearest] == np.arange(len(points))))
    i, j = neighbours.mutual_nearest(points, others, radius)
    np.testing.assert_array_equal(i, expected)
    np.testing.assert_array_equal(j, nearest[expected])


def test_points_at_whole_distances_are_within():
    """A pair at exactly the radius counts, wherever the bands begin."""
    grid = np.stack(np.meshgrid(np.arange(-6.0, 7), np.arange(-6.0, 7)), axis=-1).reshape(-1, 2)
    i, j, _ = neighbours.pairs_within(grid, grid, 3.0)
    count = np.hypot(*(grid[:, None] - grid[None]).transpose(2, 0, 1)) <= 3
    assert i.size == count.sum()
    assert count[i, j].all()


def test_far_and_empty_lists_have_no_pairs():
    points, others = lists(2, 20, 30, 10.0)
    for a, b in ((points[:0], others), (points, others[:0]), (points + 1e12, others)):
        assert [array.size for array in neighbours.pairs_within(a, b, 3.0)] == [0, 0, 0]
        assert [array.size for array in neighbours.mutual_nearest(a, b, 3.0)] == [0, 0]


def test_everything_in_one_place():
    """Where stars coincide, one of them is matched."""
    i, j = neighbours.mutual_nearest(np.zeros((5, 2)), np.zeros((4, 2)), 1.0)
    assert (i.tolist(), j.tolist()) == ([0], [0])


@pytest.mark.parametrize(("n", "radius"), [(0, 5.0), (1, 5.0), (2, 500.0), (400, 0.0), (400, 3.0), (400, 60.0)])
def test_close_pairs_are_those_of_a_tree(n, radius):
    x, y = np.random.default_rng(n).integers(0, 300, (2, n)) + 0.25
    found = {frozenset(map(int, pair)) for pair in zip(*neighbours.close_pairs(x, y, radius), strict=True)}
    expected = KDTree(np.column_stack((x, y))).query_pairs(radius) if n else set()
    assert found == {frozenset(pair) for pair in expected}
