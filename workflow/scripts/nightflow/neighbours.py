"""Near neighbours in the plane, in numpy alone: to import scipy.spatial takes longer than what it would do here."""

from __future__ import annotations

import numpy as np


def pairs_within(points: np.ndarray, others: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of a point of one list and a point of another that are within `radius` of each other.

    The plane is cut into bands as high as the radius, and `others` are sorted band after band, each from left to right:
    what is near a point lies in one short run of each of three bands.

    Parameters
    ----------
    points, others : ndarray, shapes (n, 2) and (m, 2)
        Finite coordinates.
    radius : float

    Returns
    -------
    i, j : ndarray of int, shape (n_pairs,)
        Numbers of the point and of the other.
    distance : ndarray of float, shape (n_pairs,)
    """
    if not len(points) or not len(others):
        return np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0)
    reach = radius * (1 + 1e-6) or 1.0  # rounding must not lose a pair: the distances decide
    left = others[:, 0].min()
    width = np.ptp(others[:, 0]) + 2 * reach

    def along(xy: np.ndarray, band: int = 0) -> np.ndarray:
        """Place in the row that all bands make, one behind the other; `band` bands above the point's own."""
        return (np.floor(xy[:, 1] / reach) + band) * width + (xy[:, 0] - left)

    place = along(others)
    order = np.argsort(place, kind="stable")
    place = place[order]
    number_of = np.argsort(along(points), kind="stable")  # one behind the other they are looked up twice as fast
    points, found = points[number_of], []
    for band in (-1, 0, 1):
        middle = along(points, band)
        first = np.searchsorted(place, middle - reach)
        number = np.searchsorted(place, middle + reach, side="right") - first
        i = np.repeat(np.arange(len(points)), number)
        j = order[np.arange(i.size) + np.repeat(first - np.cumsum(number) + number, number)]
        distance = np.hypot(points[i, 0] - others[j, 0], points[i, 1] - others[j, 1])
        near = distance <= radius
        found.append((number_of[i[near]], j[near], distance[near]))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def close_pairs(x: np.ndarray, y: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers i < j of the positions of one list, shapes (n,), that are no farther than `radius` from each other."""
    points = np.column_stack((x, y))
    i, j, _ = pairs_within(points, points, radius)
    return i[i < j], j[i < j]


def mutual_nearest(points: np.ndarray, others: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the points, in order, and of the others that are each other's nearest and within `radius`.

    Parameters are those of `pairs_within`. Of others that are equally near the first counts.
    """
    i, j, distance = pairs_within(points, others, radius)
    order = np.lexsort((i, j, distance))[::-1]  # of several values for one place the last stays: the nearest
    nearest, back = np.full(len(points), -1), np.full(len(others), -1)
    nearest[i[order]], back[j[order]] = j[order], i[order]
    found = np.flatnonzero(nearest >= 0)
    found = found[back[nearest[found]] == found]
    return found, nearest[found]
