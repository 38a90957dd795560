"""From a first guess to a plate solution: matching all stars, fitting them, and proving that it is no accident."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightflow import plates
from nightflow.plates import Plate

_OUTLIER_SIGMA = 4.0
_ROUNDS = 12
# The chance that unrelated stars agree as well must stay below 10 to this power; some 10^5 guesses are looked at for
# each frame, and a survey has 10^5 frames.
LEAST_LOG_ODDS = 12.0


@dataclass(frozen=True)
class Stars:
    """Stars of a frame, brightest first; arrays of shape (n,).

    Attributes
    ----------
    x, y : ndarray
        Pixels, 0-based.
    sigma : ndarray
        Centroid errors, px.
    """

    x: np.ndarray
    y: np.ndarray
    sigma: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, which) -> Stars:
        return Stars(self.x[which], self.y[which], self.sigma[which])


@dataclass(frozen=True)
class Match:
    """A plate with the stars that it rests on.

    Attributes
    ----------
    plate : `Plate`
    stars, reference : ndarray of int, shape (n,)
        Rows of the matched stars in the frame's and in the catalogue's list.
    distance : ndarray, shape (n,)
        How far apart they are, px.
    log_odds : float
        -log10 of the probability that unrelated stars match as well.
    """

    plate: Plate
    stars: np.ndarray
    reference: np.ndarray
    distance: np.ndarray
    log_odds: float

    @property
    def rms(self) -> float:
        """Root mean square distance, arcsec."""
        return float(np.sqrt(np.mean(self.distance**2)) * self.plate.pixel_scale)


def refine(first: Plate, stars: Stars, ra, dec, shape, *, order: int, start: float, radius: float, aspect: float):
    """Fit on all stars that frame and catalogue share, with a polynomial that grows with their number.

    Parameters
    ----------
    first : `Plate`
        First guess.
    stars : `Stars`
    ra, dec : ndarray, shape (m,)
        Catalogue, degrees, brightest first.
    shape : tuple of int
        (ny, nx).
    order : int
        Highest degree of the polynomial; 1 is linear.
    start, radius : float
        Distances within which stars match, of the first guess and of a good solution, px.
    aspect : float
        Height of a pixel in units of its width.

    Returns
    -------
    `Match` or None
        None if fewer than four stars agree.
    """
    plate, match = first, None
    reach = start
    for highest in range(order + 1):
        previous = None
        for _ in range(_ROUNDS):
            i, j = pairs(plate, stars, ra, dec, shape, reach)
            if len(i) < 4:
                return match
            degree = _degree(stars, i, j, ra, dec, shape, plate, highest)
            fitted = _fit_inliers(stars, i, j, ra, dec, shape, plate, degree, aspect)
            if fitted is None:
                return match
            plate, i, j, distance = fitted
            # robust, since the first matches are in part accidents: the median of a Rayleigh distribution is 1.18 sigma
            scatter = float(np.median(distance)) / 1.18
            reach = float(np.clip(5 * scatter, min(radius, reach), reach))
            if previous is not None and np.array_equal(previous, i):
                break
            previous = i
        odds = log_odds(plate, stars, ra, dec, shape, (i, j), distance, degree)
        match = Match(plate, i, j, distance, odds)
    return match


def _degree(stars, i, j, ra, dec, shape, plate, highest: int) -> int:
    """Degree of the polynomial: as high as wanted where that predicts stars left out of the fit better.

    The criterion is the sum of squared residuals, each divided by 1 - its leverage (Allen 1974, Technometrics 16, 125).
    """
    if len(i) < 9:
        return min(highest, 1 if len(i) >= 7 else 0)
    goal = np.column_stack(plates.project(ra[j], dec[j], plate.ra, plate.dec))
    ny, nx = shape
    u, v = (stars.x[i] - plate.x0) / max(nx, ny) * 2, (stars.y[i] - plate.y0) / max(nx, ny) * 2
    best = (np.inf, min(highest, 1))
    for degree in range(1, highest + 1):
        terms = plates.design(u, v, degree)
        if len(i) < 2 * terms.shape[1]:
            break
        q, _ = np.linalg.qr(terms)
        leverage = (q**2).sum(axis=1)
        residual = np.hypot(*(goal - q @ (q.T @ goal)).T) / np.maximum(1 - leverage, 1e-3)
        predicted = float(
            np.median(residual) if len(i) < 15 else np.sqrt(np.mean(np.sort(residual)[: -len(i) // 10] ** 2))
        )
        if predicted < 0.98 * best[0]:
            best = (predicted, degree)
    return best[1] if highest >= 1 else 0


def pairs(plate, stars, ra, dec, shape, radius) -> tuple[np.ndarray, np.ndarray]:
    """Stars of frame and catalogue that are each other's nearest within `radius` px."""
    from scipy.spatial import KDTree

    x, y, inside = _on_frame(plate, ra, dec, shape, radius)
    if not len(inside):
        return inside, inside
    here, there = np.column_stack((stars.x, stars.y)), np.column_stack((x, y))
    distance, nearest = KDTree(there).query(here)
    _, back = KDTree(here).query(there)
    i = np.flatnonzero((distance <= radius) & (back[nearest] == np.arange(len(here))))
    return i, inside[nearest[i]]


def _on_frame(plate, ra, dec, shape, margin=0.0):
    """Pixels of the catalogue stars on the frame, and their rows."""
    ny, nx = shape
    near = np.flatnonzero(np.isfinite(plates.project(ra, dec, plate.ra, plate.dec)[0]))
    xi, eta = plates.project(ra[near], dec[near], plate.ra, plate.dec)
    extent = 1.3 * np.hypot(nx, ny) / 2 * plate.pixel_scale / 3600
    near = near[np.hypot(xi, eta) < extent]
    x, y = plate.to_pixel(ra[near], dec[near])
    inside = (x > -0.5 - margin) & (x < nx - 0.5 + margin) & (y > -0.5 - margin) & (y < ny - 0.5 + margin)
    return x[inside], y[inside], near[inside]


def _fit_inliers(stars, i, j, ra, dec, shape, plate, degree, aspect):
    """Weighted fit without outliers: plate, the pairs kept, their distances; None where nothing can be fitted."""
    scatter, kept = 0.0, np.ones(len(i), dtype=bool)
    for _ in range(_ROUNDS):
        sigma = np.hypot(stars.sigma[i], scatter)
        try:
            fitted = plates.fit(
                stars.x[i[kept]], stars.y[i[kept]], ra[j[kept]], dec[j[kept]], degree, shape,
                (plate.ra, plate.dec), 1 / np.maximum(sigma[kept], 1e-3) ** 2, aspect,
            )  # fmt: skip
        except np.linalg.LinAlgError:
            return None
        distance = residuals(fitted, stars.x[i], stars.y[i], ra[j], dec[j])
        # the square of a two-dimensional Gaussian distance has the median 2 ln 2 sigma^2
        spread = np.median(distance[kept] ** 2) / (2 * np.log(2)) - np.median(stars.sigma[i[kept]] ** 2)
        scatter = float(np.sqrt(max(spread, 0.0)))
        inside = distance <= _OUTLIER_SIGMA * np.hypot(stars.sigma[i], max(scatter, 1e-3))
        if inside.sum() < 4 or np.array_equal(inside, kept):
            break
        kept = inside
    return fitted, i[kept], j[kept], distance[kept]


def residuals(plate: Plate, x, y, ra, dec) -> np.ndarray:
    """Distances in pixels between pixel positions and catalogue positions."""
    goal = np.column_stack(plates.project(ra, dec, plate.ra, plate.dec))
    return np.hypot(*((plate.plane(x, y) - goal) @ np.linalg.inv(plate.matrix).T).T)


def log_odds(plate, stars, ra, dec, shape, matched, distance, degree) -> float:
    """-log10 of the probability that as many stars of unrelated lists agree as closely.

    Of the shorter list (the bright stars of the frame, as many as the catalogue has there, or the catalogue's) each
    star has a chance neighbour within the distance r with the probability 1 - exp(-density pi r^2); the number of
    agreeing stars, less those that the fit's parameters make agree, is binomial.
    """
    from scipy.stats import binom

    ny, nx = shape
    _, _, inside = _on_frame(plate, ra, dec, shape)
    i, j = matched
    best = 0.0
    least = min(len(stars), len(inside))
    for n in {
        min(least, most) for most in (10, 20, 50, least)
    }:  # the brightest say most, where faint ones do not match
        for which, others in ((i < n, len(inside)), (np.isin(j, inside[:n]), len(stars))):
            nearest = np.sort(distance[which])
            for share in (0.5, 0.75, 1.0):  # the closest matches say most, where others are blends
                agreeing = int(share * len(nearest))
                free = 2 if degree == 0 else len(plates.powers(degree))
                if agreeing <= free:
                    continue
                reach = max(float(nearest[agreeing - 1]), 0.5)
                chance = 1 - np.exp(-others * np.pi * reach**2 / (nx * ny))
                best = max(best, -float(binom.logsf(agreeing - free - 1, n - free, chance)) / np.log(10))
    return best
