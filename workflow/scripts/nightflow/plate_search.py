"""Searching the field of a frame in a reference catalogue: first guesses of the plate solution.

The brightest stars of the frame and of the sky around the pointing are compared by asterisms: by astroalign where the
pointing is good, then by triangles of neighbours of roughly known size, which find a frame anywhere in a wide field,
either way round. Positions are complex numbers here, in arcseconds: x + i y on the frame (each axis times its pixel
scale, so that pixels need not be square), xi + i eta on the sky.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from unittest import mock

import numpy as np

_NEIGHBOURS = 6
_RATIO_TOLERANCE = 0.012  # centroids, and distortion over the size of a triangle
_MOST_CANDIDATES = 30000
_FRAME_STARS = 40
_KEPT = 12


@dataclass(frozen=True)
class Guess:
    """Similarity from the frame to the sky: w = a z + b, or w = a conj(z) + b where the image is mirrored.

    Attributes
    ----------
    a, b : complex
        `a` is the true scale in units of the nominal one, turned; `b` is in arcseconds.
    mirrored : bool
    agreeing : int
        Bright stars of the frame near a star of the catalogue.
    """

    a: complex
    b: complex
    mirrored: bool
    agreeing: int

    def __call__(self, z: np.ndarray) -> np.ndarray:
        return self.a * (np.conj(z) if self.mirrored else z) + self.b


def guesses(stars: np.ndarray, sky: np.ndarray, extent: float, radius: float, tolerance: float) -> Iterator[Guess]:
    """First guesses, the most promising first.

    Parameters
    ----------
    stars : ndarray of complex, shape (n,)
        Stars of the frame in nominal arcseconds from its middle, brightest first.
    sky : ndarray of complex, shape (m,)
        Stars of the catalogue in arcseconds from the assumed pointing, brightest first.
    extent : float
        Half diagonal of the frame, arcsec.
    radius : float
        Distance of the true pointing from the assumed one, at most, arcsec.
    tolerance : float
        Relative error of the nominal scale, at most.
    """
    yield from _near_the_pointing(stars, sky, extent, tolerance)
    for reach in _growing(0.5 * extent, radius):
        near = sky[np.abs(sky) < reach + extent * (1 + tolerance)]
        for density in (1.0, 2.0, 0.5):  # how many more stars the catalogue's list has, for its area, than the frame's
            yield from _by_triangles(stars[:_FRAME_STARS], near, extent, reach, tolerance, density)


def _growing(first: float, last: float) -> list[float]:
    """Radii of the search, each five times the one before, up to the last."""
    radii = [first]
    while radii[-1] < last:
        radii.append(5 * radii[-1])
    return [min(radius, last) for radius in radii]


def _near_the_pointing(stars, sky, extent, tolerance) -> Iterator[Guess]:
    """What astroalign finds with the stars around the pointing; it matches no mirrored lists, so they are mirrored."""
    near = sky[np.abs(sky) < 1.1 * extent]
    n = min(len(stars), len(near), _FRAME_STARS)
    if n < 4:
        return
    for mirrored in (True, False):  # north up, east left is a mirrored image in x and xi
        z = np.conj(stars) if mirrored else stars
        matrix = _astroalign(z[:n], near[: int(1.3 * n)])
        if matrix is None:
            continue
        a, b = complex(matrix[0, 0], matrix[1, 0]), complex(matrix[0, 2], matrix[1, 2])
        if abs(np.log(abs(a))) < np.log1p(tolerance):
            agreeing = _agreement(stars[:n], sky, extent, np.array([a]), np.array([b]), mirrored)[0]
            yield Guess(a, b, mirrored, int(agreeing))


def _astroalign(source: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    import astroalign

    # its generator is not seeded, and the same stars must give the same transform
    seeded = mock.patch("numpy.random.default_rng", functools.partial(np.random.default_rng, 0))
    lists = [np.column_stack((points.real, points.imag)) for points in (source, target)]
    # ValueError and IndexError: lists without one triangle in common
    with seeded, contextlib.suppress(astroalign.MaxIterError, ValueError, IndexError):
        model, _ = astroalign.find_transform(*lists, max_control_points=len(source))
        return np.asarray(model.params, dtype=float)
    return None


def _by_triangles(stars, sky, extent, radius, tolerance, density) -> list[Guess]:
    """Guesses from triangles of near neighbours that have the same shape and about the same size."""
    area = (1 + radius / extent) ** 2
    chosen = sky[: int(np.clip(density * len(stars) * area * np.pi / 2, 12, 10000))]  # a disc round a square frame
    found = []
    if min(len(stars), len(chosen)) < 3:
        return found
    corners, shape = _triangles(stars, tolerance)
    sky_corners, sky_shape = _triangles(chosen, tolerance)
    for mirrored in (True, False):
        turned = shape * (1, 1, 1, -1) if mirrored else shape
        i, j = _alike(turned, sky_shape)
        if len(i) == 0:
            continue
        z = np.conj(stars) if mirrored else stars
        a, b = _similarities(z[corners[i]], chosen[sky_corners[j]])
        right = np.abs(np.log(np.abs(a))) < np.log1p(tolerance)
        a, b = a[right], b[right]
        agreeing = _agreement(stars, sky, extent, a, b, mirrored)
        best = np.argsort(-agreeing, kind="stable")[:_KEPT]
        found += [Guess(complex(a[k]), complex(b[k]), mirrored, int(agreeing[k])) for k in best]
    return sorted(found, key=lambda guess: -guess.agreeing)[:_KEPT]


def _triangles(z: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Corners, shape (n, 3), and coordinates in which alike triangles lie within 1, shape (n, 4).

    Corners are ordered by the sides opposite to them; the coordinates are the ratios of sides, the logarithm of the
    longest, each in units of its tolerance, and the sense of rotation.
    """
    from scipy.spatial import KDTree

    points = np.column_stack((z.real, z.imag))
    _, near = KDTree(points).query(points, k=min(_NEIGHBOURS + 1, len(z)))
    triples = np.array(list(combinations(range(near.shape[1]), 3)))
    corners = np.unique(np.sort(near[:, triples].reshape(-1, 3), axis=1), axis=0)
    sides = np.abs(z[np.roll(corners, -1, axis=1)] - z[np.roll(corners, -2, axis=1)])
    order = np.argsort(sides, axis=1, kind="stable")
    corners, sides = (np.take_along_axis(array, order, axis=1) for array in (corners, sides))
    a, b, c = z[corners].T
    sense = 10 * np.sign(((b - a) * np.conj(c - a)).imag)
    good = sides[:, 0] > 0
    corners, sides, sense = corners[good], sides[good], sense[good]
    ratios = sides[:, :2] / sides[:, 2:] / _RATIO_TOLERANCE
    return corners, np.column_stack((ratios, np.log(sides[:, 2]) / np.log1p(tolerance), sense))


def _alike(shape, sky_shape) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of alike triangles, the most alike first."""
    from scipy.spatial import KDTree

    near = KDTree(shape).sparse_distance_matrix(KDTree(sky_shape), 1.0, p=np.inf, output_type="ndarray")
    difference = np.hypot(*(shape[near["i"], :2] - sky_shape[near["j"], :2]).T)
    best = np.lexsort((near["j"], near["i"], difference))[:_MOST_CANDIDATES]
    return near["i"][best], near["j"][best]


def _similarities(z: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares a and b of w = a z + b for each row of corners."""
    z0, w0 = z.mean(axis=1), w.mean(axis=1)
    dz, dw = z - z0[:, None], w - w0[:, None]
    a = (np.conj(dz) * dw).sum(axis=1) / (np.abs(dz) ** 2).sum(axis=1)
    return a, w0 - a * z0


def _agreement(stars, sky, extent, a, b, mirrored: bool) -> np.ndarray:
    """Stars of the frame within 1.5 % of its half diagonal of a catalogue star, in each of several similarities.

    The catalogue's stars are thinned so that chance agreement stays rare.
    """
    from scipy.spatial import KDTree

    z = np.conj(stars) if mirrored else stars
    reach = np.abs(sky).max()
    most = int(np.clip(2 * len(stars) * (1 + reach / extent) ** 2, 50, 20000))
    tree = KDTree(np.column_stack((sky.real, sky.imag))[:most])
    found = []
    for start in range(0, len(a), 2000):
        moved = a[start : start + 2000, None] * z + b[start : start + 2000, None]
        distance, _ = tree.query(np.stack((moved.real, moved.imag), axis=-1), distance_upper_bound=0.015 * extent)
        found.append(np.isfinite(distance).sum(axis=1))
    return np.concatenate(found) if found else np.zeros(0, dtype=int)
