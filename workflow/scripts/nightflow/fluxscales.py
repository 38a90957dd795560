"""Factors that bring the fluxes of a group of frames to the scale of one of them.

All stars that frames share are measured together: their logarithmic fluxes are those of a star plus those of a frame
(as in Padmanabhan et al. 2008, ApJ 674, 1217), so that a mosaic holds together through its overlaps. Zero points join
as one more star, which every frame shows that has one: they tie frames that share no star, and thin overlaps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nightflow.sharedstars import SharedStars

_ROUNDS = 20
_CAUCHY_WIDTH = 2.5  # sigma, where a star counts half
_ZERO_POINT_ERROR = 0.02  # of the logarithm, from aperture corrections and the catalogue's stars in a frame


def from_zero_points(zero_points: Mapping[str, float], exposures: Mapping[str, float], reference: str) -> dict:
    """Factors from zero points (mag of 1 electron/s) and exposures (s) alone, of the frames that have both.

    Returns
    -------
    dict of str to tuple of float
        Factor and its standard error, which is unknown (NaN).
    """
    with np.errstate(divide="ignore"):
        rates = {frame: np.float64(10 ** (0.4 * z)) * exposures[frame] for frame, z in zero_points.items()}
    return {f: (float(rates[reference] / r), np.nan) for f, r in rates.items() if np.isfinite(r) and r > 0}


def from_stars(
    stars: SharedStars, frames: list[str], exposures: Mapping[str, float], zero_points: Mapping[str, float],
    reference: str,
) -> dict:  # fmt: skip
    """Factors from the stars that frames share, and from their zero points.

    Parameters
    ----------
    stars : `~nightflow.sharedstars.SharedStars`
    frames : list of str
        Names of the frames that `stars` has the numbers of.
    exposures : mapping of str to float
        s; frames that nothing ties to the reference get the ratio of exposures, and an unknown error.
    zero_points : mapping of str to float
        Magnitude of 1 electron/s; NaN where unknown.
    reference : str

    Returns
    -------
    dict of str to tuple of float
        Factor and its standard error.
    """
    from scipy.sparse.csgraph import connected_components

    origin = frames.index(reference)
    stars = _with_zero_points(stars, [zero_points[f] for f in frames], [exposures[f] for f in frames])
    levels, errors, shared = _solve(stars, len(frames), origin)
    tied = connected_components(shared > 0, directed=False)[1]
    factors = {}
    for k, name in enumerate(frames):
        if tied[k] == tied[origin]:
            factor = float(np.exp(levels[origin] - levels[k]))
            factors[name] = (factor, factor * float(errors[k]))
        else:
            ratio = exposures[reference] / exposures[name]
            factors[name] = (float(ratio) if np.isfinite(ratio) and ratio > 0 else 1.0, np.nan)
    return factors


def _with_zero_points(stars: SharedStars, zero_points: list[float], exposures: list[float]) -> SharedStars:
    """The stars, and one of magnitude 0 in each frame that has a zero point."""
    z, t = np.array(zero_points), np.array(exposures)
    rows = np.flatnonzero(np.isfinite(z) & np.isfinite(t) & (t > 0))
    n, unknown = len(rows), np.full((len(rows), 2), np.nan)
    return SharedStars(
        np.append(stars.star, np.full(n, stars.n_stars)),
        np.append(stars.frame, rows),
        np.concatenate((stars.where, unknown)),
        np.append(stars.log_flux, np.log(t[rows]) + 0.4 * np.log(10) * z[rows]),
        np.append(stars.flux_error, np.full(n, _ZERO_POINT_ERROR)),
        np.append(stars.position_error, unknown[:, 0]),
    )


def _solve(stars: SharedStars, n_frames: int, origin: int):
    """Level of each frame by least squares, its error, and how many stars each two frames share.

    The stars' own levels are eliminated; outliers (variables, blends) weigh as in a Cauchy distribution.
    """
    from scipy.sparse import coo_matrix

    star, frame, flux, sigma = stars.star, stars.frame, stars.log_flux, stars.flux_error
    levels, weight = np.zeros(n_frames), 1 / sigma**2
    free = np.flatnonzero(np.arange(n_frames) != origin)
    errors, shared = np.zeros(n_frames), np.zeros((n_frames, n_frames))
    for _ in range(_ROUNDS if stars.n_stars else 0):
        table = coo_matrix((weight, (frame, star)), shape=(n_frames, stars.n_stars)).tocsr()
        total = np.asarray(table.sum(axis=0)).ravel()
        brightness = np.bincount(star, weight * flux) / total
        normal = np.diag(np.asarray(table.sum(axis=1)).ravel()) - (table.multiply(1 / total) @ table.T).toarray()
        right = np.bincount(frame, weight * (flux - brightness[star]), n_frames)
        inverse = np.linalg.pinv(normal[np.ix_(free, free)], hermitian=True)
        updated = np.zeros(n_frames)
        updated[free] = inverse @ right[free]
        brightness = np.bincount(star, weight * (flux - updated[frame])) / total
        residual = flux - updated[frame] - brightness[star]
        errors[free] = np.sqrt(np.clip(np.diag(inverse), 0, None))
        shared = ((table > 0).astype(int) @ (table > 0).astype(int).T).toarray()
        settled = np.abs(updated - levels).max() < 1e-7
        levels = updated
        unit = max(1.0, 1.4826 * float(np.median(np.abs(residual) / sigma)))
        weight = 1 / ((unit * sigma) ** 2 + (residual / _CAUCHY_WIDTH) ** 2)
        if settled:
            break
    return levels, errors, shared
