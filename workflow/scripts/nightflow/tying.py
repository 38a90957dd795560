"""Tying frames to each other: plate solutions that agree on the stars that the frames share.

Each frame's solution has errors of its own, from the catalogue's positions and from the few stars that are in it. In a
stack they would widen the stars, and double them at the seams of a mosaic. A small linear correction for each frame is
found by least squares over all frames at once, in which the solutions count with their own errors: they keep the whole
where the catalogue has it, and thin overlaps from turning a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightflow.sharedstars import SharedStars

_ROUNDS = 10
_SETTLED = 1e-4  # px
_CAUCHY_WIDTH = 3.0  # sigma, where a star counts half


@dataclass(frozen=True)
class Place:
    """Where a frame lies on the grid, in pixels: its centre, half its diagonal, and the error of its solution."""

    centre: np.ndarray
    radius: float
    error: float


def corrections(stars: SharedStars, places: list[Place]) -> np.ndarray:
    """Matrices, shape (n, 3, 3), that bring the frames' positions on the grid together.

    Parameters
    ----------
    stars : `~nightflow.sharedstars.SharedStars`
    places : list of `Place`
        Of the frames, in the order of their numbers.
    """
    n, centres = len(places), np.array([place.centre for place in places])
    radii, prior = (np.array([getattr(place, name) for place in places]) for name in ("radius", "error"))
    terms = np.column_stack((np.ones(len(stars.star)), (stars.where - centres[stars.frame]) / radii[stars.frame, None]))
    solution, weight = np.zeros((n, 3, 2)), 1 / stars.position_error**2
    for _ in range(_ROUNDS if stars.n_stars else 0):
        before, (solution, middle) = solution, _solve(stars, terms, weight, prior)
        moved = stars.where + np.einsum("ij,ijk->ik", terms, solution[stars.frame])
        distance = np.hypot(*(moved - middle[stars.star]).T)
        unit = max(1.0, float(np.median(distance / stars.position_error)) / np.sqrt(2 * np.log(2)))
        weight = 1 / ((unit * stars.position_error) ** 2 + (distance / _CAUCHY_WIDTH) ** 2)
        if np.abs(solution - before).max() < _SETTLED:
            break
    matrices = np.tile(np.eye(3), (n, 1, 1))
    slopes = solution[:, 1:].transpose(0, 2, 1) / radii[:, None, None]
    matrices[:, :2, :2] += slopes
    matrices[:, :2, 2] = solution[:, 0] - np.einsum("ijk,ik->ij", slopes, centres)
    return matrices


def _solve(stars: SharedStars, terms: np.ndarray, weight: np.ndarray, prior: np.ndarray):
    """Coefficients, shape (n_frames, 3, 2), of 1, u and v in x and y, and where they put the stars.

    The places of the stars are eliminated from the normal equations.
    """
    from scipy.sparse import coo_matrix, diags

    n, rows = len(prior), np.arange(len(stars.star))
    columns = 3 * stars.frame[:, None] + np.arange(3)
    design = coo_matrix((terms.ravel(), (np.repeat(rows, 3), columns.ravel())), shape=(len(rows), 3 * n)).tocsr()
    weighted = coo_matrix((weight, (stars.star, rows)), shape=(stars.n_stars, len(rows))).tocsr()
    total = np.asarray(weighted.sum(axis=1)).ravel()
    mean = diags(1 / total) @ weighted
    inner = design - (mean @ design)[stars.star]
    left = stars.where - (mean @ stars.where)[stars.star]
    normal = (inner.T @ diags(weight) @ inner).toarray() + np.diag(np.repeat(1 / prior**2, 3))
    solution = np.linalg.solve(normal, -(inner.T @ (weight[:, None] * left)))
    return solution.reshape(n, 3, 2), mean @ (stars.where + design @ solution)
