"""Registration: the transform from a frame's pixels to the reference frame's, and the ratio of their fluxes.

Asterisms of the brightest sources give a first transform whatever the rotation, flip or scale. It is then refined on
every star that both lists share, weighted by centroid errors, with outlier rejection.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from unittest import mock

import numpy as np

from nightflow import asterisms, photometry
from nightflow.neighbours import mutual_nearest
from nightflow.products import MaskBit, RejectedFrame

# Centroids of bright stars are limited by undersampling and atmosphere, not by photons: an error floor in pixels keeps
# one bright star from outweighing all others.
_CENTROID_FLOOR = 0.02
_OUTLIER_SIGMA = 4.0
_CAUCHY_WIDTH = 3.0  # in centroid errors, where a pair counts half
_MAX_ITERATIONS = 20
# Stars for the ratio of fluxes: FWHM within which no other has more than a part of their light, if so many are left.
_REACH, _NEIGHBOUR, _ENOUGH_ALONE = 3.0, 0.05, 10


@dataclass(frozen=True)
class Transform:
    """Transform from frame pixels to reference pixels (0-based, x to the right, pixel centres at integers).

    Attributes
    ----------
    matrix : ndarray of float64, shape (3, 3)
        Homogeneous matrix: reference (x, y, 1) = matrix @ frame (x, y, 1).
    rms : float
        Root mean square distance of the stars used, weighted by their centroid errors, in reference pixels.
    n_matched : int
        Number of stars used in the fit.
    flux_scale : float
        Factor that brings the frame's fluxes to the reference's scale.
    flux_scale_error : float
        Standard error of `flux_scale`.
    """

    matrix: np.ndarray
    rms: float
    n_matched: int
    flux_scale: float = 1.0
    flux_scale_error: float = np.nan

    @property
    def scale(self) -> float:
        """Length of one frame pixel in reference pixels (geometric mean of the two axes)."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix[:2, :2]))))

    @property
    def rotation(self) -> float:
        """Angle of the frame's x axis in the reference frame, in degrees, counter-clockwise from +x towards +y."""
        return float(np.degrees(np.arctan2(self.matrix[1, 0], self.matrix[0, 0])))

    @property
    def mirrored(self) -> bool:
        """Whether the transform changes the parity."""
        return bool(np.linalg.det(self.matrix[:2, :2]) < 0)

    def __call__(self, x, y) -> tuple[np.ndarray, np.ndarray]:
        """Reference coordinates of frame coordinates."""
        return _apply(self.matrix, np.asarray(x, dtype=float), np.asarray(y, dtype=float))


def register_group(sources: Mapping, reference: str, options: Mapping) -> dict:
    """Transforms of a group of frames to one of them, drifting fields included.

    A frame that shares too little with the reference to be recognised is led there by its nearest neighbour, in the
    order of the frames, that was registered; the fit is on the reference's own stars all the same.

    Parameters
    ----------
    sources : mapping of str to table
        Source tables by frame, in the order of the exposures.
    reference : str
    options : mapping
        As for `find_transform`.

    Returns
    -------
    dict of str to `Transform` or `~nightflow.products.RejectedFrame`
        By frame; a verdict where it cannot be registered.
    """
    frames = list(sources)
    found = {reference: identity(len(sources[reference]))}
    for frame in frames:
        if frame != reference:
            found[frame] = _attempt(sources[frame], sources[reference], options)
    progress = True
    while progress:
        progress = False
        for place, frame in enumerate(frames):
            registered = [i for i, other in enumerate(frames) if isinstance(found[other], Transform)]
            if isinstance(found[frame], Transform) or not registered:
                continue
            neighbour = frames[min(registered, key=lambda i: (abs(i - place), i))]
            link = _attempt(sources[frame], sources[neighbour], options)
            if isinstance(link, Transform):
                guess = found[neighbour].matrix @ link.matrix
                led = _attempt(sources[frame], sources[reference], options, guess)
                progress |= isinstance(led, Transform)
                found[frame] = led if isinstance(led, Transform) else found[frame]
    return found


def _attempt(sources, reference_sources, options: Mapping, first_guess=None) -> Transform | RejectedFrame:
    try:
        return find_transform(sources, reference_sources, options, first_guess)
    except RejectedFrame as verdict:
        return verdict


def find_transform(sources, reference_sources, options: Mapping, first_guess=None) -> Transform:
    """Transform that brings a frame onto the reference frame.

    Parameters
    ----------
    sources, reference_sources : table
        Columns ``x`` and ``y`` (0-based pixels), ``flux``; ``flux_err``, ``fwhm`` (pixels) and ``flags`` (mask bits)
        are used where present.
    options : mapping
        Section ``registration`` of the configuration: ``model`` (``similarity`` or ``affine``), ``max_sources``,
        ``min_matches``, ``match_radius`` (pixels), ``max_rms`` (pixels), ``allow_mirrored``.
    first_guess : ndarray, shape (3, 3), optional
        Matrix to start from instead of a search for asterisms.

    Returns
    -------
    `Transform`

    Raises
    ------
    ValueError
        If the model is unknown.
    RejectedFrame
        If the two lists share too few stars, or if no transform brings them together.
    """
    if options["model"] not in _FITS:
        raise ValueError(f"registration.model is {options['model']!r}, must be one of {', '.join(_FITS)}")
    frame, reference = _star_list(sources), _star_list(reference_sources)
    n_least = min(len(frame.x), len(reference.x))
    if n_least < 3:
        raise RejectedFrame(f"cannot be registered: {n_least} stars, at least 3 are needed")
    required = min(options["min_matches"], max(3, n_least // 2))
    guesses = _first_guesses(frame, reference, options) if first_guess is None else [first_guess]
    for first in guesses:
        transform, radius = _refine(first, frame, reference, options)
        if transform is None or transform.rms > options["max_rms"]:
            continue
        chance = _chance_matches(transform.matrix, radius, frame, reference)
        if transform.n_matched >= max(required, 2 + chance + 4 * np.sqrt(chance)):
            return transform
    raise RejectedFrame(
        f"cannot be registered: no transform brings {required} of its {len(frame.x)} stars "
        f"onto the {len(reference.x)} of the reference frame"
    )


def identity(n_stars: int = 0) -> Transform:
    """Transform of the reference frame itself, with its `n_stars` stars."""
    return Transform(np.eye(3), 0.0, n_stars, 1.0, 0.0)


@dataclass(frozen=True)
class _StarList:
    """Positions, fluxes and their errors of the usable stars, the best for asterisms first."""

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    flux_error: np.ndarray
    position_error: np.ndarray
    saturated: np.ndarray
    fwhm: float

    @property
    def xy(self) -> tuple[np.ndarray, np.ndarray]:
        return self.x, self.y


def _star_list(table) -> _StarList:
    """Usable stars of a source table: unsaturated ones first, each group by falling flux."""
    names = set(table.keys())

    def column(name, default):
        return np.asarray(table[name], dtype=float) if name in names else np.full(len(x), float(default))

    x, y = (np.asarray(table[name], dtype=float) for name in ("x", "y"))
    flux = column("flux", 1.0)
    flux_error, fwhm = column("flux_err", np.nan), column("fwhm", 3.0)
    flags = np.asarray(table["flags"], dtype=np.int64) if "flags" in names else np.zeros(len(x), dtype=np.int64)
    saturated = (flags & int(MaskBit.SATURATED)) != 0
    good = np.isfinite(x) & np.isfinite(y) & np.isfinite(flux) & (flux > 0)
    order = np.lexsort((x, y, -flux, saturated))
    order = order[good[order]]
    with np.errstate(divide="ignore", invalid="ignore"):
        # centroid error of a Gaussian star of given flux error (King 1983, PASP 95, 163): sigma / (S/N)
        photon = np.nan_to_num(fwhm / 2.3548 * flux_error / flux, nan=_CENTROID_FLOOR, posinf=1.0)
    position_error = np.hypot(np.clip(photon, 0, 1), np.where(saturated, 10.0, 1.0) * _CENTROID_FLOOR)
    typical = float(np.nanmedian(fwhm)) if np.isfinite(fwhm).any() else 3.0
    return _StarList(*(column[order] for column in (x, y, flux, flux_error, position_error, saturated)), typical)


def _first_guesses(frame: _StarList, reference: _StarList, options: Mapping) -> Iterator[np.ndarray]:
    """Matrices from the brightest stars: from all their triangles, from asterisms of neighbours, mirrored ones last.

    Voting triangles find nearly all frames of a tracked night, and those where a third of the stars is missing, where
    there are ten or fewer, or that overlap little, of which astroalign misses half or more; it takes longer.
    """
    n_max = options["max_sources"]
    lists = [np.column_stack((stars.x, stars.y))[:n_max] for stars in (frame, reference)]
    bright = [stars[: n_max // 2] for stars in lists]
    radius = options["match_radius"]

    def guesses():
        yield asterisms.match(*bright, False, radius)
        yield _match_neighbours(*bright)
        yield asterisms.match(*lists, False, radius)
        if options["allow_mirrored"]:
            yield asterisms.match(*bright, True, radius)
            yield asterisms.match(*lists, True, radius)

    return (guess for guess in guesses() if guess is not None)


def _match_neighbours(positions: np.ndarray, reference: np.ndarray) -> np.ndarray | None:
    """The matrix that astroalign finds, if any."""
    import astroalign

    # ValueError and IndexError: astroalign on lists without one triangle in common
    with _seeded_generator(), contextlib.suppress(astroalign.MaxIterError, ValueError, IndexError):
        model, _ = astroalign.find_transform(positions, reference, max_control_points=len(positions))
        return np.asarray(model.params, dtype=float)
    return None


def _seeded_generator():
    """astroalign shuffles its candidates with an unseeded generator; the same stars must give the same transform."""
    return mock.patch("numpy.random.default_rng", functools.partial(np.random.default_rng, 0))


def _refine(
    first: np.ndarray, frame: _StarList, reference: _StarList, options: Mapping
) -> tuple[Transform | None, float]:
    """Fit on all stars that both lists share, repeated until their set no longer changes, and the search radius."""
    matrix, radius, previous = first, options["match_radius"], None
    for _ in range(_MAX_ITERATIONS):
        pairs = _mutual_nearest(matrix, frame, reference, radius)
        fit = _fit_inliers(pairs, frame, reference, options["model"]) if len(pairs[0]) >= 3 else None
        if fit is None:
            return None, radius
        matrix, kept, distance = fit
        if previous is not None and np.array_equal(kept, previous):
            break
        previous = kept
        radius = float(np.clip(5.0 * np.sqrt(np.mean(distance**2)), 0.3, options["match_radius"]))
    i, j = kept
    weight = 1 / (frame.position_error[i] ** 2 + reference.position_error[j] ** 2)
    rms = float(np.sqrt((weight * distance**2).sum() / weight.sum()))
    return Transform(matrix, rms, len(i), *_flux_scale(frame, reference, i, j)), radius


def _chance_matches(matrix: np.ndarray, radius: float, frame: _StarList, reference: _StarList) -> float:
    """Matches expected from unrelated stars: long lists, or a frame shrunk onto a few stars, match anything."""
    moved = _apply(matrix, frame.x, frame.y)
    corners = [(max(c.min(), r.min()), min(c.max(), r.max())) for c, r in zip(moved, reference.xy, strict=True)]
    area = np.prod([high - low for low, high in corners])
    n_frame, n_reference = (
        int(np.logical_and.reduce([(c >= low) & (c <= high) for c, (low, high) in zip(xy, corners, strict=True)]).sum())
        for xy in (moved, reference.xy)
    )
    share = 1 - np.exp(-max(n_frame, n_reference) * np.pi * radius**2 / max(area, 1.0))
    return float(min(n_frame, n_reference) * share)


def _mutual_nearest(matrix, frame, reference, radius) -> np.ndarray:
    """Indices, shape (2, n), of stars that are each other's nearest within `radius` reference pixels."""
    moved = np.column_stack(_apply(matrix, frame.x, frame.y))
    return np.stack(mutual_nearest(moved, np.column_stack(reference.xy), radius))


def _fit_inliers(pairs, frame, reference, model):
    """Robust fit to matched stars: the matrix, the pairs it explains and their distances.

    Knots of galaxies and blends scatter more than their photons say, and may outnumber the stars. Each pair weighs as
    in a Cauchy distribution of its centroid error, whose unit is set by the third with the smallest errors.
    """
    fit, least = _FITS[model]
    i, j = pairs
    fit = fit if len(i) >= least else _fit_similarity
    sigma = np.hypot(frame.position_error[i], reference.position_error[j])
    best = np.argsort(sigma, kind="stable")[: max(3, len(i) // 3)]
    x, y, to_x, to_y = frame.x[i], frame.y[i], reference.x[j], reference.y[j]
    weight = 1 / sigma**2
    for _ in range(_MAX_ITERATIONS):
        matrix = fit(x, y, to_x, to_y, weight)
        if matrix is None:
            return None
        moved_x, moved_y = _apply(matrix, x, y)
        distance = np.hypot(moved_x - to_x, moved_y - to_y)
        # the distance of two-dimensional Gaussian errors has the median sqrt(2 ln 2) sigma
        unit = max(1.0, float(np.median(distance[best] / sigma[best])) / np.sqrt(2 * np.log(2)))
        weight = 1 / ((unit * sigma) ** 2 + (distance / _CAUCHY_WIDTH) ** 2)
    inside = distance <= _OUTLIER_SIGMA * unit * sigma
    return (matrix, pairs[:, inside], distance[inside]) if inside.sum() >= 3 else None


def _fit_similarity(x, y, to_x, to_y, weight) -> np.ndarray | None:
    """Weighted least-squares similarity: in complex numbers w = a z + b, or w = a conj(z) + b for a mirrored frame."""
    z, w, total = x + 1j * y, to_x + 1j * to_y, weight.sum()
    z0, w0 = (weight * z).sum() / total, (weight * w).sum() / total
    dz, dw = z - z0, w - w0
    weighted = weight * dz
    spread = (weight * abs(dz) ** 2).sum()
    if spread <= 0:
        return None
    # chi2 = sum(weight |w - w0|^2) - |a|^2 spread: of the two parities the one with the larger scale is the better fit
    a, mirrored = (np.conj(weighted) * dw).sum() / spread, (weighted * dw).sum() / spread
    if abs(a) >= abs(mirrored):
        b = w0 - a * z0
        matrix = np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag], [0.0, 0.0, 1.0]])
    else:
        a, b = mirrored, w0 - mirrored * np.conj(z0)
        matrix = np.array([[a.real, a.imag, b.real], [a.imag, -a.real, b.imag], [0.0, 0.0, 1.0]])
    return matrix if abs(np.linalg.det(matrix)) > 0 else None


def _fit_affine(x, y, to_x, to_y, weight) -> np.ndarray | None:
    """Weighted least-squares affine transform."""
    root = np.sqrt(weight)
    design = np.column_stack((x, y, np.ones_like(x))) * root[:, None]
    solution, _, rank, _ = np.linalg.lstsq(design, np.column_stack((to_x, to_y)) * root[:, None], rcond=None)
    if rank < 3:
        return None
    return np.vstack((solution.T, (0.0, 0.0, 1.0)))


# model -> (fit, least number of stars for which its residuals say anything)
_FITS = {"similarity": (_fit_similarity, 3), "affine": (_fit_affine, 5)}


def _flux_scale(frame: _StarList, reference: _StarList, i: np.ndarray, j: np.ndarray) -> tuple[float, float]:
    """Ratio of reference to frame fluxes and its standard error: robust weighted mean of the stars' logarithms.

    Of stars without bright neighbours, if there are enough: the worse the seeing, the more of a neighbour comes in.
    """
    good = ~(frame.saturated[i] | reference.saturated[j])
    i, j = (i[good], j[good]) if good.any() else (i, j)
    reach = _REACH * max(frame.fwhm, reference.fwhm)
    alone = photometry.isolated(reference.x, reference.y, reference.flux, reach, _NEIGHBOUR)[j]
    i, j = (i[alone], j[alone]) if alone.sum() >= _ENOUGH_ALONE else (i, j)
    log_ratio = np.log(reference.flux[j] / frame.flux[i])
    # errors relative to the geometric mean of both fluxes: relative to its own, a flux measured high would weigh more
    middle = np.sqrt(frame.flux[i] * reference.flux[j])
    ratio = np.exp(0.5 * np.median(log_ratio))
    relative = np.hypot(frame.flux_error[i] * ratio, reference.flux_error[j] / ratio) / middle
    sigma = np.hypot(np.nan_to_num(relative, nan=0.02), 0.005)
    centre = _weighted_median(log_ratio, 1 / sigma**2)
    for _ in range(_MAX_ITERATIONS):
        excess = max(1.0, 1.4826 * float(np.median(abs(log_ratio - centre) / sigma)))
        kept = abs(log_ratio - centre) <= 3 * excess * sigma
        if not kept.any():
            break
        weight = kept / sigma**2
        updated = float((weight * log_ratio).sum() / weight.sum())
        if abs(updated - centre) < 1e-7:
            break
        centre = updated
    scale = float(np.exp(centre))
    return scale, float(scale * excess / np.sqrt((1 / sigma[kept] ** 2).sum())) if kept.any() else np.nan


def flux_ratio(sources, reference_sources, matrix: np.ndarray, radius: float) -> tuple[float, float] | None:
    """Factor that brings a frame's fluxes to the reference's scale, and its error, where `matrix` is known.

    None where fewer than three stars lie within `radius` pixels of each other.
    """
    frame, reference = _star_list(sources), _star_list(reference_sources)
    if min(len(frame.x), len(reference.x)) < 3:
        return None
    i, j = _mutual_nearest(matrix, frame, reference, radius)
    return _flux_scale(frame, reference, i, j) if len(i) >= 3 else None


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])


def _apply(matrix, x, y) -> tuple[np.ndarray, np.ndarray]:
    return (
        matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2],
        matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2],
    )
