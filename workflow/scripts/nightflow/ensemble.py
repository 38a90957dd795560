"""Differential photometry against an ensemble of stars that is chosen for its steadiness.

Each measured magnitude is the star's own plus the zero point of its frame, m_sf = M_s + B_s c_f, with B_s = 1, or
(1, x_s, y_s) where a plane over the field is needed: a drift across a vignetted field, differential extinction.
Magnitudes and zero points follow from one weighted least-squares solution over all stars of the ensemble and all
frames, so that a star may be missing from some (Honeycutt 1992, PASP 104, 435). A star weighs by its photon noise and
by its own excess scatter, found from zero points that it had no part in (in the manner of Broeg, Fernandez &
Neuhaeuser 2005, AN 326, 134), and leaves the ensemble where it varies more than its kind.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

CONSTANT, PLANE = "constant", "plane"

_ROUNDS = 25
_LEAST_STARS = {CONSTANT: 2, PLANE: 10}
_LEAST_COVERAGE = 0.8  # of the frames that have stars at all
_LEAST_EXCESS = 5e-4  # mag: no star is taken for steadier
_UNSTEADY = 3.0  # sigma of the estimate of its variance by which a star that leaves the ensemble is off
_NOISE_OF_SPREAD = 1.65  # of a variance from the median absolute deviation, over that of the plain one
_STEADY = 2e-3  # mag: no star leaves the ensemble for less
_OUTLIER = 4.0  # sigma of a single measurement
_MOST_OF_WEIGHT = 0.8  # that the members make up
_LEAST_IN_FRAME = 3  # members, where there are so many
_JUDGES = 20  # candidates by which one solution is told better than another
_GAIN_OF_PLANE = 0.95  # scatter with the plane, over that with a constant, below which the plane is used


@dataclass(frozen=True)
class Ensemble:
    """Solution for one set of magnitudes.

    Attributes
    ----------
    members : ndarray of bool, shape (s,)
        Stars of the ensemble.
    excess : ndarray, shape (s,)
        Standard deviation of each member beyond its photon noise, mag; NaN for other stars.
    model : str
        ``constant`` or ``plane``.
    zero_points : ndarray, shape (s, f)
        To be subtracted from the magnitudes of each star in each frame, from the members without the star itself, mag;
        NaN in frames without a member.
    zero_errors : ndarray, shape (s, f)
        Standard errors of the zero points, mag.
    frame_zero_points : ndarray, shape (f,)
        At the middle of the field, mag.
    frame_excess : ndarray, shape (f,)
        Scatter of the members in a frame beyond what their errors say (clouds), mag.
    n : ndarray of int, shape (f,)
        Members measured in each frame.
    scatter : float
        Median over the candidates with the least photon noise, members or not, of the robust scatter of their
        differential magnitudes, mag: what tells a good zero point from one that merely fits its own members.
    """

    members: np.ndarray
    excess: np.ndarray
    model: str
    zero_points: np.ndarray
    zero_errors: np.ndarray
    frame_zero_points: np.ndarray
    frame_excess: np.ndarray
    n: np.ndarray
    scatter: float


class NoEnsemble(Exception):
    """There are not enough steady stars; the message says how many there are."""


def solve(magnitude, error, position, catalogue, eligible, *, size: int = 100, model: str | None = None) -> Ensemble:
    """Choose the ensemble and find the zero points of the frames.

    Parameters
    ----------
    magnitude, error : ndarray, shape (s, f)
        Instrumental magnitudes and their photon errors; NaN where a star is not measured or spoilt.
    position : ndarray, shape (s, 2)
        In the field, about -1 to 1.
    catalogue : ndarray, shape (s,)
        Magnitudes of the stars, whose zero point the result has.
    eligible : ndarray of bool, shape (s,)
        Stars that may be in the ensemble.
    size : int
        Largest number of stars in the ensemble.
    model : str, optional
        ``constant`` or ``plane``; by default the plane where it makes the members steadier.

    Raises
    ------
    NoEnsemble
        If fewer than two stars can be used.
    """
    candidates = _candidates(magnitude, error, catalogue, eligible, size)
    models = [model] if model else [CONSTANT, PLANE]
    found = [
        _solve(magnitude, error, position, catalogue, candidates, name)
        for name in models
        if len(candidates) >= _LEAST_STARS[name] or model
    ]
    plain, *plane = found
    return plane[0] if plane and plane[0].scatter < _GAIN_OF_PLANE * plain.scatter else plain


def _candidates(magnitude, error, catalogue, eligible, size: int) -> np.ndarray:
    """Rows of the eligible stars that are measured in most frames, those with the least photon noise first."""
    measured = np.isfinite(magnitude) & np.isfinite(error)
    frames = measured[eligible].any(axis=0)
    if not frames.any():
        raise NoEnsemble("no star is measured whole and unsaturated in any frame")
    coverage = measured[:, frames].mean(axis=1)
    usable = eligible & np.isfinite(catalogue) & (coverage > 0)
    for least in (_LEAST_COVERAGE, 0.5, 0.0):
        rows = np.flatnonzero(usable & (coverage >= least))
        if len(rows) >= min(size, 10):
            break
    if len(rows) < _LEAST_STARS[CONSTANT]:
        raise NoEnsemble(f"{len(rows)} of the stars can be used for comparison, at least 2 are needed")
    noise = np.array([np.median(error[row][measured[row]]) for row in rows])
    return rows[np.argsort(noise, kind="stable")[:size]]


def _basis(position: np.ndarray, model: str) -> np.ndarray:
    ones = np.ones((len(position), 1))
    return ones if model == CONSTANT else np.hstack((ones, position))


@dataclass(frozen=True)
class _Members:
    """The ensemble's stars and what is known of them: magnitudes m, photon variances, B, and the excess variances."""

    rows: np.ndarray
    m: np.ndarray
    variance: np.ndarray
    basis: np.ndarray
    start: np.ndarray
    excess: np.ndarray
    good: np.ndarray

    @property
    def weight(self) -> np.ndarray:
        return np.where(self.good, 1 / (self.variance + self.excess[:, None]), 0.0)

    def only(self, kept: np.ndarray) -> _Members:
        names = ("rows", "m", "variance", "basis", "start", "excess", "good")
        return _Members(*(getattr(self, name)[kept] for name in names))


def _solve(magnitude, error, position, catalogue, candidates, model: str) -> Ensemble:
    basis = _basis(position, model)
    good = np.isfinite(magnitude[candidates]) & np.isfinite(error[candidates])
    stars = _Members(
        candidates, np.where(good, magnitude[candidates], 0.0), np.where(good, error[candidates], 1.0) ** 2,
        basis[candidates], catalogue[candidates], np.full(len(candidates), 0.005**2), good,
    )  # fmt: skip
    stars = _settled(_without_lightweights(_settled(stars), _LEAST_STARS[model]))
    return _applied(stars, magnitude[candidates], candidates, basis, model)


def _settled(stars: _Members) -> _Members:
    """The members after rounds of solving and judging them, until they no longer change."""
    for _ in range(_ROUNDS):
        residual, share, *_ = _fit(stars)
        judged = _judged(stars, np.where(stars.good, residual / np.maximum(1 - share, 1e-3), np.nan), share)
        same = len(judged.rows) == len(stars.rows) and np.allclose(judged.excess, stars.excess, rtol=0.02)
        stars = judged
        if same:
            break
    return stars


def _without_lightweights(stars: _Members, fewest: int) -> _Members:
    """The members that make up most of the weight: many faint stars would add little but their own troubles."""
    weight = stars.weight.sum(axis=1)
    order = np.argsort(-weight, kind="stable")
    before = np.cumsum(weight[order]) - weight[order]
    number = max(int((before < _MOST_OF_WEIGHT * weight.sum()).sum()), 2 * fewest)
    kept = np.zeros(len(order), dtype=bool)
    kept[order[:number]] = True
    for f in np.flatnonzero((stars.good & kept[:, None]).sum(axis=0) < _LEAST_IN_FRAME):  # a field that drifts away
        best = np.argsort(-stars.weight[:, f], kind="stable")[:_LEAST_IN_FRAME]
        kept[best[stars.good[best, f]]] = True
    return stars.only(kept)


def _fit(stars: _Members):
    """Residuals and the weight of each star in its own zero point, shape (s, f); magnitudes, coefficients, inverses.

    The coefficients of each frame are eliminated from the normal equations, which leaves one unknown a star. What
    they leave undetermined, a constant or a plane common to all stars, stays as in the catalogue.
    """
    weight, basis, m = stars.weight, stars.basis, stars.m
    normal = np.einsum("sp,sf,sq->fpq", basis, weight, basis)
    inverse = np.linalg.pinv(normal, rcond=1e-10, hermitian=True)  # a frame with few stars has no plane
    gain = np.einsum("fpq,sq,sf->fps", inverse, basis, weight)  # coefficients of a frame for unit magnitudes
    matrix = np.diag(weight.sum(axis=1)) - np.einsum("sf,sp,fpt->st", weight, basis, gain, optimize=True)
    target = m - stars.start[:, None]
    coefficients = np.einsum("fps,sf->fp", gain, target)
    right = (weight * (target - basis @ coefficients.T)).sum(axis=1)
    step = np.linalg.lstsq(matrix, right, rcond=1e-9)[0]
    own = stars.start + step
    coefficients = np.einsum("fps,sf->fp", gain, m - own[:, None])
    residual = m - own[:, None] - basis @ coefficients.T
    share = np.einsum("sp,fps->sf", basis, gain)
    return residual, share, own, coefficients, inverse


def _judged(stars: _Members, alone: np.ndarray, share: np.ndarray) -> _Members:
    """The members with new excess variances, without outlying measurements and without stars that vary."""
    known = np.isfinite(alone)
    n = known.sum(axis=1)
    # the variance of a residual from the others is that of the star over 1 - its share
    spread = np.array([robust_variance(row[ok]) for row, ok in zip(alone, known, strict=True)])
    spread = spread * np.array([1 - np.mean(h[ok]) if ok.any() else 1.0 for h, ok in zip(share, known, strict=True)])
    photon = np.array([np.mean(v[ok]) if ok.any() else np.inf for v, ok in zip(stars.variance, known, strict=True)])
    with np.errstate(invalid="ignore"):
        excess = np.where(n >= 3, np.maximum(spread - photon, _LEAST_EXCESS**2), stars.excess)
    steady = _steady(spread, photon, excess, n)
    allowed = _OUTLIER * np.sqrt(stars.variance + excess[:, None])
    good = stars.good & (np.abs(np.nan_to_num(alone)) <= np.maximum(allowed, _OUTLIER * _STEADY))
    # a frame keeps its measurements where most of them would go: the frame is bad, not its stars
    good = np.where(good.sum(axis=0) >= 0.5 * stars.good.sum(axis=0), good, stars.good)
    return replace(stars, excess=excess, good=good).only(steady)


def _steady(spread, photon, excess, n) -> np.ndarray:
    """Stars that do not vary more than their kind, beyond what chance does to their scatter."""
    typical = float(np.median(excess))
    expected = np.where(np.isfinite(photon), photon, 1.0) + typical
    chance = _UNSTEADY * _NOISE_OF_SPREAD * np.sqrt(2 / np.maximum(n, 1)) * expected
    steady = (np.sqrt(excess) <= max(2 * np.sqrt(typical), _STEADY)) | (spread - expected <= chance)
    fewest = max(_LEAST_STARS[CONSTANT], -(-len(excess) * 2 // 5))
    if steady.sum() < fewest:
        steady[np.argsort(excess, kind="stable")[:fewest]] = True
    return steady


def robust_variance(values: np.ndarray) -> float:
    """Variance from the median absolute deviation; infinite for fewer than three values.

    The factor for few values is Croux & Rousseeuw's (1992, COMPSTAT 1, 411), n / (n - 0.8).
    """
    if len(values) < 3:
        return np.inf
    n = len(values)
    sigma = 1.4826 * float(np.median(np.abs(values - np.median(values)))) * (n / (n - 0.8))
    return sigma**2


def _applied(stars: _Members, magnitude, candidates, basis, model: str) -> Ensemble:
    """Zero points for all stars from the final ensemble."""
    residual, share, own, coefficients, inverse = _fit(stars)
    # the level is that of the catalogue, in the median of the members
    coefficients[:, 0] += np.median(own - stars.start)
    seen = stars.good.sum(axis=0)
    coefficients[seen == 0] = np.nan
    zero_points = basis @ coefficients.T
    zero_variance = np.einsum("sp,fpq,sq->sf", basis, inverse, basis)
    # a member is compared with the others alone: its residual from them is larger by 1 / (1 - its own share)
    others = np.maximum(1 - np.where(stars.good, share, 0.0), 1e-3)
    alone = residual / others
    zero_points[stars.rows] += np.where(stars.good, residual - alone, 0.0)
    zero_variance[stars.rows] /= others
    differential = magnitude - zero_points[candidates]
    scatter = [np.sqrt(robust_variance(row[np.isfinite(row)])) for row in differential[:_JUDGES]]
    excess = np.full(len(basis), np.nan)
    excess[stars.rows] = np.sqrt(stars.excess)
    return Ensemble(
        np.isfinite(excess), excess, model, zero_points, np.sqrt(zero_variance), coefficients[:, 0],
        _frame_excess(alone, stars, zero_variance[stars.rows]), seen, float(np.median(scatter)),
    )  # fmt: skip


def _frame_excess(alone, stars: _Members, zero_variance) -> np.ndarray:
    """Scatter in each frame beyond the members' errors, where it is there beyond doubt."""
    seen = stars.good.sum(axis=0)
    expected = stars.variance + stars.excess[:, None] + zero_variance
    chi2 = np.where(stars.good, alone**2 / expected, 0.0).sum(axis=0)
    excess = np.zeros(len(seen))
    for f in np.flatnonzero((seen >= 5) & (chi2 > seen + 3 * np.sqrt(2.0 * seen))):
        own = stars.good[:, f]
        excess[f] = np.sqrt(max(robust_variance(alone[own, f]) - float(np.median(expected[own, f])), 0.0))
    return excess
