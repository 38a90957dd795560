"""Stars that several frames of a group show, found where the frames lie on one grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nightflow.products import UNUSABLE, MaskBit

_SPOILT = int(UNUSABLE | MaskBit.SATURATED | MaskBit.NONLINEAR)
_MOST_STARS = 1000  # of a frame
_LEAST_SNR = 5.0
_FLUX_FLOOR = 0.003  # of the logarithm of a flux: flat fields and apertures
_CENTROID_FLOOR = 0.02  # px: undersampling and atmosphere


@dataclass(frozen=True)
class SharedStars:
    """Detections of stars that at least two frames show, one row each.

    Attributes
    ----------
    star, frame : ndarray of int, shape (n,)
        Numbers of the star and of the frame.
    where : ndarray, shape (n, 2)
        x and y on the grid.
    log_flux, flux_error : ndarray, shape (n,)
        Natural logarithm of the flux and its error.
    position_error : ndarray, shape (n,)
        Per axis, in pixels of the frame.
    """

    star: np.ndarray
    frame: np.ndarray
    where: np.ndarray
    log_flux: np.ndarray
    flux_error: np.ndarray
    position_error: np.ndarray

    @property
    def n_stars(self) -> int:
        return int(self.star.max()) + 1 if len(self.star) else 0


def find(frames: list[str], tables: Mapping, places: Mapping, radius: float) -> SharedStars:
    """Shared stars.

    Parameters
    ----------
    frames : list of str
        Their numbers are their places in this list.
    tables : mapping of str to table
        Sources: ``flux``, ``flux_err``, ``fwhm`` (pixels) and ``flags``. Saturated ones and those with missing pixels
        are left out.
    places : mapping of str to tuple of ndarray
        x and y of the same sources on the grid.
    radius : float
        Pixels of the grid within which detections are of one star.
    """
    columns = [_detections(k, tables[name], *places[name]) for k, name in enumerate(frames)]
    x, y, log_flux, flux_error, position_error, frame = (np.concatenate(c) for c in zip(*columns, strict=True))
    where = np.column_stack((x, y))
    star = _stars(where, frame, radius)
    keep = star >= 0
    star = np.unique(star[keep], return_inverse=True)[1]
    return SharedStars(star, frame[keep], where[keep], log_flux[keep], flux_error[keep], position_error[keep])


def _detections(number: int, table, x: np.ndarray, y: np.ndarray):
    """Positions, logarithmic fluxes and errors of a frame's good sources, the brightest of them."""
    flux, error, fwhm = (np.asarray(table[c], dtype=float) for c in ("flux", "flux_err", "fwhm"))
    flags = np.asarray(table["flags"], dtype=np.int64)
    good = (flux > 0) & (error > 0) & (_LEAST_SNR * error < flux) & ((flags & _SPOILT) == 0) & np.isfinite(x + y)
    rows = np.flatnonzero(good)[np.argsort(-flux[good], kind="stable")][:_MOST_STARS]
    relative = error[rows] / flux[rows]
    # centroid error of a Gaussian star (King 1983, PASP 95, 163): sigma of its profile / (S/N)
    position_error = np.hypot(np.nan_to_num(fwhm[rows] / 2.3548 * relative, nan=1.0), _CENTROID_FLOOR)
    flux_error = np.hypot(relative, _FLUX_FLOOR)
    return x[rows], y[rows], np.log(flux[rows]), flux_error, position_error, np.full(len(rows), number)


def _stars(where: np.ndarray, frame: np.ndarray, radius: float) -> np.ndarray:
    """Number of the star of each detection; -1 for stars that one frame alone shows, or any frame more than once."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    n = len(where)
    if n == 0:
        return np.zeros(0, dtype=int)
    pairs = KDTree(where).query_pairs(radius, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    star = connected_components(graph, directed=False)[1]
    detections = np.bincount(star)
    distinct = np.bincount(np.unique(np.column_stack((star, frame)), axis=0)[:, 0], minlength=len(detections))
    return np.where(((detections > 1) & (distinct == detections))[star], star, -1)
