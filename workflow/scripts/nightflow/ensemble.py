"""Differential photometry against an ensemble of stars that is chosen for its steadiness.

Each measured magnitude is the star's own plus the zero point of its frame, m_sf = M_s + B_s c_f, with B_s = 1, or
(1, x_s, y_s) where a plane over the field is needed: a drift across a vignetted field, differential extinction.
Magnitudes and zero points follow from one weighted least-squares solution over all stars of the ensemble and all
frames, so that a star may be missing from some (Honeycutt 1992, PASP 104, 435). A star weighs by its photon noise and
by its own excess scatter, found from zero points that it had no part in (in the manner of Broeg, Fernandez &
Neuhaeuser 2005, AN 326, 134).

Weights that follow from scatter that follows from weights can take turns for ever, and then the last digit of a
magnitude decides who is in. They settle here, since a star's scatter is told by all its measurements, its variance is
drawn towards that of its like (as in Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3, 3), and what is doubtful, a star that
varies or an outlying measurement, counts less and less until it does not count (as in Hampel 1974, JASA 69, 383). The
members are the stars that are left with any weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import median_filter

CONSTANT, PLANE = "constant", "plane"

_ROUNDS = 60
_SETTLED = 1e-3  # of the weight, that still moves in a round
_LEAST_STARS = {CONSTANT: 2, PLANE: 10}
_LEAST_COVERAGE = 0.8  # of the frames that have stars at all
_FIRST_EXCESS = 5e-3  # mag
_LEAST_EXCESS = 5e-4  # mag: no kind of star is taken for steadier
_ALIKE = 41  # candidates next to each other in brightness that say what is typical
_PRIOR = 10.0  # measurements that this stands for, beside a star's own
_NOISE_OF_SPREAD = 1.1  # of a biweight variance, over that of the plain one
_STEADY = 2e-3  # mag: nothing counts less for less
# where something begins to count less, and from where it does not count:
_VARIES = (1.2, 2.0)  # excess of a star, over that of the ensemble
_UNSTEADY = (2.0, 3.0)  # sigma of the estimate of its variance by which a star is off
_OUTLIER = (3.0, 5.0)  # sigma of a single measurement
_BAD_FRAME = (0.3, 0.5)  # share of a frame's weight that is left without outliers
_MOST_OF_WEIGHT = 0.8  # that the members make up
_LIGHT = (0.9, 1.1)  # times the weight of the star with which it is reached, from where others begin to count, and do
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
        Standard deviation of each member beyond its photon noise, drawn towards that of its like, mag; NaN for others.
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
        Geometric mean over the candidates with the least photon noise, members or not, of the robust scatter of their
        differential magnitudes, mag: what tells a good zero point from one that merely fits its own members. The ratio
        of two such means is the mean of the ratios star by star.
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
class _Candidates:
    """The stars in question, brightest first: magnitudes m, photon variances, B, and what the rounds find out.

    That is the excess variance of each star; and how much counts, from 0 to 1, a star for its steadiness and for its
    share in the weight, and each measurement for itself.
    """

    m: np.ndarray
    variance: np.ndarray
    known: np.ndarray
    basis: np.ndarray
    start: np.ndarray
    excess: np.ndarray
    steady: np.ndarray
    heavy: np.ndarray
    sound: np.ndarray

    @property
    def whole_weight(self) -> np.ndarray:
        """Weights before any measurement is doubted."""
        return np.where(self.known, (self.steady * self.heavy)[:, None] / (self.variance + self.excess[:, None]), 0.0)

    @property
    def weight(self) -> np.ndarray:
        return self.whole_weight * self.sound


def _solve(magnitude, error, position, catalogue, candidates, model: str) -> Ensemble:
    basis = _basis(position, model)
    known = np.isfinite(magnitude[candidates]) & np.isfinite(error[candidates])
    ones = np.ones(len(candidates))
    stars = _Candidates(
        np.where(known, magnitude[candidates], 0.0), np.where(known, error[candidates], 1.0) ** 2, known,
        basis[candidates], catalogue[candidates], _FIRST_EXCESS**2 * ones, ones, ones, known.astype(float),
    )  # fmt: skip
    stars = _settled(stars)
    stars = _settled(replace(stars, heavy=_heavy(stars.weight, _LEAST_STARS[model])))
    return _applied(stars, magnitude[candidates], candidates, basis, model)


def _settled(stars: _Candidates) -> _Candidates:
    """The candidates after rounds of solving and judging them, until their weights no longer change."""
    for _ in range(_ROUNDS):
        before = stars.weight
        residual, share, *_ = _fit(stars)
        stars = _judged(stars, residual, share)
        if np.abs(stars.weight - before).sum() < _SETTLED * before.sum():
            break
    return stars


def _falling(value, start: float, end: float) -> np.ndarray:
    """How much something counts: wholly up to `start`, not at all from `end`, and evenly less between the two."""
    return np.clip((end - value) / (end - start), 0.0, 1.0)


def _heavy(weight, fewest: int) -> np.ndarray:
    """Keeps the stars that make up most of the weight: many faint ones would add little but their own troubles."""
    own = weight.sum(axis=1)
    falling = -np.sort(-own[own > 0])
    least = np.interp(_MOST_OF_WEIGHT, np.cumsum(falling) / own.sum(), falling)
    heavy = 1 - _falling(own / min(least, falling[: 2 * fewest][-1]), *_LIGHT)
    for f in np.flatnonzero(((weight > 0) & (heavy[:, None] > 0)).sum(axis=0) < _LEAST_IN_FRAME):
        best = np.argsort(-weight[:, f], kind="stable")[:_LEAST_IN_FRAME]  # a field that drifts away
        heavy[best[weight[best, f] > 0]] = 1.0
    return heavy


def _fit(stars: _Candidates):
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


def _judged(stars: _Candidates, residual, share) -> _Candidates:
    """New excess variances; outlying measurements and stars that vary count less."""
    known = stars.known & (stars.weight > 0).any(axis=0)
    alone = np.where(known, residual / np.maximum(1 - share, 1e-3), np.nan)
    n = np.maximum(known.sum(axis=1), 1)
    # the variance of a residual from the others is that of the star over 1 - its share
    spread = robust_variance(alone) * (1 - np.where(known, share, 0.0).sum(axis=1) / n)
    photon = np.where(known, stars.variance, 0.0).sum(axis=1) / n
    own = np.maximum(spread - photon, 0.0)
    typical = _typical(own)
    own = np.where(np.isfinite(own), own, typical)
    told = n / _NOISE_OF_SPREAD**2
    excess = (told * own + _PRIOR * typical) / (told + _PRIOR)
    weight = stars.weight.sum(axis=1)
    steady = _steady(own, photon, (weight * excess).sum() / weight.sum(), n, stars.heavy > 0)
    # half a step, lest stars of one mind take turns
    return replace(stars, excess=np.sqrt(excess * stars.excess), steady=steady, sound=_sound(stars, alone, excess))


def _typical(own) -> np.ndarray:
    """Excess variance of each star's kind: the median of those next to it in brightness."""
    told = np.isfinite(own)
    if not told.any():
        return np.full(len(own), _FIRST_EXCESS**2)
    filled = np.where(told, own, np.median(own[told]))
    typical = median_filter(filled, size=min(_ALIKE, 2 * len(filled) - 1), mode="reflect")
    return np.maximum(typical, _LEAST_EXCESS**2)


def _steady(own, photon, typical: float, n, heavy) -> np.ndarray:
    """How much stars count: less if they vary more than the ensemble, beyond what chance does to their scatter."""
    size = np.sqrt(own / max(typical, (_STEADY / _VARIES[1]) ** 2))
    fewest = max(_LEAST_STARS[CONSTANT], heavy.sum() // 5)
    size /= max(np.sort(size[heavy])[:fewest][-1] / _VARIES[0], 1.0)  # the steadiest fifth counts
    chance = _NOISE_OF_SPREAD * np.sqrt(2 / n) * (photon + typical)
    return np.maximum(_falling(size, *_VARIES), _falling((own - typical) / chance, *_UNSTEADY))


def _sound(stars: _Candidates, alone, excess) -> np.ndarray:
    """How much single measurements count: less if they are off by more than their star's noise."""
    off = np.abs(alone - median(alone)[:, None]) / np.maximum(np.sqrt(stars.variance + excess[:, None]), _STEADY)
    sound = _falling(np.nan_to_num(off), *_OUTLIER)
    # a frame keeps its measurements where most of them would go: the frame is bad, not its stars
    weight = stars.whole_weight
    left = (weight * sound).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-300)
    return np.where(stars.known, np.maximum(sound, _falling(left, *_BAD_FRAME)), 0.0)


def median(values) -> np.ndarray:
    """Median along the last axis of those that are not NaN; NaN where there is none."""
    values = np.sort(values, axis=-1)  # NaN last
    n = np.isfinite(values).sum(axis=-1)
    middle = [np.take_along_axis(values, np.maximum(k, 0)[..., None], axis=-1)[..., 0] for k in ((n - 1) // 2, n // 2)]
    return np.where(n > 0, (middle[0] + middle[1]) / 2, np.nan)


def robust_variance(values) -> np.ndarray:
    """Biweight midvariance along the last axis of the values that are not NaN; NaN for fewer than three.

    All values tell of it, where the median absolute deviation hangs on two of them and of Gaussian noise is as
    uncertain as the plain variance of a third of the data (Beers, Flynn & Gebhardt 1990, AJ 100, 32).
    """
    values = np.asarray(values, dtype=float)
    known = np.isfinite(values)
    n = known.sum(axis=-1)
    off = np.where(known, values - median(values)[..., None], 0.0)
    scale = 9 * median(np.where(known, np.abs(off), np.nan))
    u = np.minimum((off / np.where(scale > 0, scale, 1.0)[..., None]) ** 2, 1.0)
    above = (off**2 * (1 - u) ** 4).sum(axis=-1)
    below = np.where(known, (1 - u) * (1 - 5 * u), 0.0).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = n**2 / (n - 1) * above / below**2
    return np.where(n < 3, np.nan, np.where(scale > 0, variance, 0.0))


def _applied(stars: _Candidates, magnitude, candidates, basis, model: str) -> Ensemble:
    """Zero points for all stars from the final ensemble."""
    residual, share, own, coefficients, inverse = _fit(stars)
    # the level is that of the catalogue, in the median of the members
    weight = stars.weight
    members = (weight > 0).any(axis=1)
    coefficients[:, 0] += np.median((own - stars.start)[members])
    seen = (weight > 0).sum(axis=0)
    coefficients[seen == 0] = np.nan
    zero_points = basis @ coefficients.T
    zero_variance = np.einsum("sp,fpq,sq->sf", basis, inverse, basis)
    # a member is compared with the others alone: its residual from them is larger by 1 / (1 - its own share)
    others = np.maximum(1 - share, 1e-3)
    alone = residual / others
    zero_points[candidates] += np.where(weight > 0, residual - alone, 0.0)
    zero_variance[candidates] /= others
    differential = magnitude - zero_points[candidates]
    judges = robust_variance(differential[:_JUDGES])
    judges = judges[np.isfinite(judges) & (judges > 0)]
    scatter = np.exp(np.log(judges).mean() / 2) if len(judges) else np.inf
    excess = np.full(len(basis), np.nan)
    excess[candidates[members]] = np.sqrt(stars.excess[members])
    return Ensemble(
        np.isfinite(excess), excess, model, zero_points, np.sqrt(zero_variance), coefficients[:, 0],
        _frame_excess(alone, stars, zero_variance[candidates]), seen, float(scatter),
    )  # fmt: skip


def _frame_excess(alone, stars: _Candidates, zero_variance) -> np.ndarray:
    """Scatter in each frame beyond the members' errors, where it is there beyond doubt."""
    used = stars.weight > 0
    seen = used.sum(axis=0)
    expected = stars.variance + stars.excess[:, None] + zero_variance
    chi2 = np.where(used, alone**2 / expected, 0.0).sum(axis=0)
    excess = np.zeros(len(seen))
    for f in np.flatnonzero((seen >= 5) & (chi2 > seen + 3 * np.sqrt(2.0 * seen))):
        own = used[:, f]
        excess[f] = np.sqrt(max(robust_variance(alone[own, f]) - float(np.median(expected[own, f])), 0.0))
    return excess
