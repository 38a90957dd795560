"""Matching the skies of the frames of a stack: what to subtract from each so that all agree where they overlap.

The sky level of every frame is measured in boxes about the same places of the sky. What is there beside the sky is
the same in all frames, so that only differences between frames count: a nebula that fills the field is kept, and
frames that overlap only in a chain are matched along it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

MODES = ("none", "constant", "local")

_PLACES = 8  # along each axis of the stack
_HALF_BOX = 24  # pixels of the frame
_LEAST_PART = 0.3  # of a box that must be usable
_CLIP, _CLIP_ROUNDS = 3.0, 5
_QUARTILES = 1.349  # distance of the quartiles of normal values, in standard deviations
_ROUNDS = 3  # of leaving out boxes that disagree


def match_skies(frames: Sequence, shape: tuple[int, int], mode: str) -> np.ndarray:
    """Coefficients of the surface to be subtracted from each frame.

    Parameters
    ----------
    frames : sequence
        With ``grid`` (`~nightflow.resampling.Grid`), ``flux_scale`` and ``good_values(windows)``, which gives the
        usable pixels in each of some windows (rows and columns) of the turned frame.
    shape : tuple of int
        (ny, nx) of the stack.
    mode : {'none', 'constant', 'local'}
        Nothing, a number for each frame, or a surface of second degree.

    Returns
    -------
    ndarray, shape (n, 6)
        For `surface`, on the common flux scale. Their sum over the frames is zero: matching does not move the sky of
        the stack where all frames overlap.

    Raises
    ------
    ValueError
        If the mode is unknown.
    """
    if mode not in MODES:
        raise ValueError(f"stack.match_sky is {mode!r}, must be one of {', '.join(MODES)}")
    coefficients = np.zeros((len(frames), 6))
    if mode == "none" or len(frames) < 2:
        return coefficients
    x, y = (c.ravel() for c in np.meshgrid(*((np.arange(_PLACES) + 0.5) / _PLACES * n - 0.5 for n in shape[::-1])))
    levels = np.array([_levels(frame, x, y) for frame in frames])
    terms = _terms(x, y, shape)[: 1 if mode == "constant" else 6]
    coefficients[:, : len(terms)] = _fit(levels, terms)
    return coefficients


def surface(coefficients: np.ndarray, rows: tuple[int, int], shape: tuple[int, int]) -> np.ndarray | np.float32:
    """What to subtract from a frame on the output rows `rows`: a number, or float32 of shape (rows, nx)."""
    if not coefficients[1:].any():
        return np.float32(coefficients[0])
    y, x = np.arange(*rows, dtype=float)[:, None], np.arange(shape[1], dtype=float)[None, :]
    total = np.zeros((rows[1] - rows[0], shape[1]))
    for coefficient, term in zip(coefficients, _terms(x, y, shape), strict=True):
        total += coefficient * term
    return total.astype(np.float32)


def _terms(x, y, shape) -> list:
    """Terms of second degree in the position, which runs from -1 to 1 over the stack."""
    u, v = (2 * (c + 0.5) / n - 1 for c, n in zip((x, y), shape[::-1], strict=True))
    return [np.ones_like(u), u, v, u**2 - 1 / 3, u * v, v**2 - 1 / 3]


def _levels(frame, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sky level of a frame in the boxes about the output positions, on the common flux scale; NaN where unknown."""
    places = frame.grid.matrix @ np.stack((x, y, np.ones_like(x)))
    factor = frame.grid.pixel_area * frame.flux_scale
    boxes = [_box(round(float(a)), round(float(b)), frame.grid.frame_shape) for a, b in places.T]
    return np.array([_level(values) for values in frame.good_values(boxes)]) * factor


def _box(column: int, row: int, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of what a frame has of the box about a pixel."""
    return tuple(
        slice(max(0, centre - _HALF_BOX), max(0, min(length, centre + _HALF_BOX + 1)))
        for centre, length in zip((row, column), shape, strict=True)
    )


def _level(values: np.ndarray) -> float:
    """Clipped median of the usable pixels of a box; NaN where they are too few."""
    if len(values) < _LEAST_PART * (2 * _HALF_BOX + 1) ** 2:
        return np.nan
    values = np.sort(values).astype(float)
    for _ in range(_CLIP_ROUNDS):
        lower, median, upper = (values[int(part * len(values))] for part in (0.25, 0.5, 0.75))
        reach = _CLIP * (upper - lower) / _QUARTILES
        kept = values[np.searchsorted(values, median - reach) : np.searchsorted(values, median + reach, "right")]
        if len(kept) in (0, len(values)):
            break
        values = kept
    return float(np.median(values))


def _fit(levels: np.ndarray, terms: Sequence[np.ndarray]) -> np.ndarray:
    """Coefficients of the surfaces whose subtraction makes the frames agree best at each place, shape (n, terms).

    The common sky at a place is the mean of the frames there, so that the residuals are the deviations from it. Boxes
    that disagree (a star that one frame has in the box and another has not) are left out and the fit is repeated.
    """
    terms = np.array(terms)  # (terms, places)
    good = np.isfinite(levels)
    for _ in range(_ROUNDS):
        coefficients = _solve(np.where(good, levels, 0.0), good.astype(float), terms)
        matched = np.where(good, levels - np.einsum("nt,tp->np", coefficients, terms), np.nan)
        number = good.sum(axis=0)
        shared = good & (number > 1)
        if not shared.any():
            break
        middle = np.where(good, matched, 0).sum(axis=0) / np.maximum(number, 1)
        residual = np.abs(matched - middle)
        limit = 5 * 1.4826 * np.median(residual[shared])
        outliers = shared & (residual > limit) if limit > 0 else np.zeros_like(good)
        if not outliers.any():
            break
        good = good & ~outliers
    return coefficients


def _solve(levels: np.ndarray, good: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Least squares by conjugate gradients from zero: of the solutions that differ by a common surface, the smallest.

    Sums by einsum are the same on any number of cores, unlike those of a threaded linear algebra library.
    """
    number = np.maximum(good.sum(axis=0), 1.0)

    def about_mean(values):
        return good * (values - (good * values).sum(axis=0) / number)

    def normal(coefficients):
        return np.einsum("np,tp->nt", about_mean(np.einsum("nt,tp->np", coefficients, terms)), terms)

    return _conjugate_gradients(normal, np.einsum("np,tp->nt", about_mean(levels), terms))


def _conjugate_gradients(operator: Callable, target: np.ndarray) -> np.ndarray:
    """Solution of operator(x) = target for a positive semi-definite operator (Hestenes & Stiefel 1952)."""
    solution, residual = np.zeros_like(target), target.copy()
    direction, size = residual.copy(), float((residual**2).sum())
    least = 1e-20 * size
    for _ in range(2 * target.size):
        if size <= least:
            break
        image = operator(direction)
        curvature = float((direction * image).sum())
        if not curvature > 0:  # what is left is rounding: the frames agree already
            break
        step = size / curvature
        solution += step * direction
        residual -= step * image
        size, previous = float((residual**2).sum()), size
        direction = residual + size / previous * direction
    return solution
