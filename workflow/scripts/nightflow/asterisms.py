"""Matching two star lists of unknown shift, rotation, scale and parity by the triangles that they have in common.

All triangles of the brightest stars vote for the pairs of stars at their corners; the transform that most stars agree
with, among those that two voted pairs define, wins. It costs more than looking at near neighbours only, and finds the
transform of short lists, of lists of which a third is missing, and of frames that overlap by a quarter.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from nightflow.neighbours import pairs_within

# Centroid errors of a few tenths of a pixel change the ratios of sides of 100 px by this much.
_RATIO_TOLERANCE = 0.004
_LEAST_SIDE = 10.0  # pixels; shorter sides have no exact ratio
_MOST_VOTED = 60


def match(positions: np.ndarray, reference: np.ndarray, mirrored: bool, radius: float) -> np.ndarray | None:
    """Similarity transform that brings most of `positions` onto `reference`.

    Parameters
    ----------
    positions, reference : ndarray, shapes (n, 2) and (m, 2)
        x and y of the stars, a few tens; the time grows with the cube of their number.
    mirrored : bool
        Whether the transform changes the parity.
    radius : float
        Distance in reference pixels within which stars agree.

    Returns
    -------
    ndarray, shape (3, 3), or None
        None if the lists have no triangle in common.

    Notes
    -----
    Triangles are compared by the ratios of their sides (Groth 1986, AJ 91, 1244; Valdes et al. 1995, PASP 107, 1119)
    and by their sense of rotation. All is deterministic.
    """
    if min(len(positions), len(reference)) < 3:
        return None
    # complex numbers turn a similarity into w = a z + b
    z = positions[:, 0] + 1j * positions[:, 1]
    z = np.conj(z) if mirrored else z
    w = reference[:, 0] + 1j * reference[:, 1]
    pairs = _voted_pairs(_votes(z, w))
    if len(pairs) < 2:
        return None
    a, b = _most_agreed(z, w, pairs, radius)
    sign = -1.0 if mirrored else 1.0
    return np.array([[a.real, -sign * a.imag, b.real], [a.imag, sign * a.real, b.imag], [0.0, 0.0, 1.0]])


def _triangles(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners, ordered by the sides opposite to them, shape (n, 3), and ratios of sides with the sense of rotation."""
    corners = np.array(list(combinations(range(len(z)), 3)))
    sides = np.abs(z[np.roll(corners, -1, axis=1)] - z[np.roll(corners, -2, axis=1)])
    order = np.argsort(sides, axis=1, kind="stable")
    corners, sides = (np.take_along_axis(array, order, axis=1) for array in (corners, sides))
    good = sides[:, 0] > _LEAST_SIDE
    corners, sides = corners[good], sides[good]
    a, b, c = z[corners].T
    sense = np.sign(((b - a) * np.conj(c - a)).imag)
    return corners, np.column_stack((sides[:, 0] / sides[:, 2], sides[:, 1] / sides[:, 2], sense))


def _votes(z: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Number of triangles in common that have star i of one list and star j of the other at the same corner."""
    votes = np.zeros((len(z), len(w)), dtype=int)
    corners, shape = _triangles(z)
    other_corners, other_shape = _triangles(w)
    if len(corners) == 0 or len(other_corners) == 0:
        return votes
    i, j, _ = pairs_within(shape[:, :2], other_shape[:, :2], _RATIO_TOLERANCE)
    alike = shape[i, 2] == other_shape[j, 2]
    np.add.at(votes, (corners[i[alike]], other_corners[j[alike]]), 1)
    return votes


def _voted_pairs(votes: np.ndarray) -> np.ndarray:
    """The pairs (i, j) with most votes, shape (n, 2)."""
    order = np.argsort(-votes, axis=None, kind="stable")[:_MOST_VOTED]
    order = order[votes.ravel()[order] > 0]
    return np.column_stack(np.unravel_index(order, votes.shape))


def _most_agreed(z: np.ndarray, w: np.ndarray, pairs: np.ndarray, radius: float) -> tuple[complex, complex]:
    """a and b of the transform w = a z + b through two pairs with which most stars agree, the closest of those."""
    first, second = np.array(list(combinations(range(len(pairs)), 2))).T
    (i, j), (k, m) = pairs[first].T, pairs[second].T
    distinct = (i != k) & (j != m)
    i, j, k, m = (index[distinct] for index in (i, j, k, m))
    if len(i) == 0:
        return 1.0 + 0j, 0j
    a = (w[m] - w[j]) / (z[k] - z[i])
    b = w[j] - a * z[i]
    moved = a[:, None] * z + b[:, None]
    # a tiny scale brings all stars onto one
    score = _agreement(moved, w, radius).sum(axis=1) * (np.abs(a) > 0.05) * (np.abs(a) < 20)
    best = int(np.argmax(score))
    return complex(a[best]), complex(b[best])


def _agreement(moved: np.ndarray, w: np.ndarray, radius: float) -> np.ndarray:
    """For each of `moved` 1 where it is on one of the stars `w`, falling to 0 at a distance of `radius`."""
    x, y = np.ascontiguousarray(moved.real), np.ascontiguousarray(moved.imag)
    nearest = np.full(moved.shape, radius**2)
    for star in w:
        np.minimum(nearest, (x - star.real) ** 2 + (y - star.imag) ** 2, out=nearest)
    return 1 - nearest / radius**2
