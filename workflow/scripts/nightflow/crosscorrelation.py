"""Shifts between images by cross-correlation, as IRAF's xregister finds them: trailed stars, comets, nebulae, planets.

Nothing is detected: all light counts. It finds a shift alone, no rotation and no scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_BOX = 2  # lags on either side of the peak whose centroid is taken


@dataclass(frozen=True)
class Shift:
    """Shift of an image.

    Attributes
    ----------
    x, y : float
        Pixels to add to its positions, so that they become the reference's.
    correlation : float
        Coefficient at the peak, at most 1.
    significance : float
        The same in standard deviations of the coefficient of unrelated noise.
    at_edge : bool
        Whether the peak is at the edge of the search, so that the true one may lie beyond it.
    """

    x: float
    y: float
    correlation: float
    significance: float
    at_edge: bool


def find_shift(data: np.ndarray, reference: np.ndarray, search: int, region: tuple | None = None) -> Shift:
    """Shift that brings an image onto the reference.

    Parameters
    ----------
    data, reference : ndarray, shape (ny, nx)
        Without sky; values that are not finite count as sky.
    search : int
        Largest shift along each axis, pixels.
    region : tuple of int, optional
        First and last column, first and last row (from 1, as in IRAF) of the part of the reference that is compared.
        By default all but a margin as wide as the search.

    Returns
    -------
    `Shift`
        Between pixels it is the centroid of the peak's marginal sums, as in xregister.

    Raises
    ------
    ValueError
        If the region with the search around it does not fit into the image.
    """
    from scipy.signal import correlate

    rows, columns = _region(region, reference.shape, search)
    template = np.nan_to_num(reference[rows, columns].astype(float))
    template -= template.mean()
    wide = (slice(rows.start - search, rows.stop + search), slice(columns.start - search, columns.stop + search))
    image = np.nan_to_num(data[wide].astype(float))
    image -= image.mean()
    spread = np.sqrt(np.maximum(_window_variance(image, template.shape), 0) * (template**2).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        coefficients = np.nan_to_num(correlate(image, template, mode="valid", method="fft") / spread)
    row, column = np.unravel_index(np.argmax(coefficients), coefficients.shape)
    y, x = _centroid(coefficients, int(row), int(column)) - np.array([search, search])
    peak = float(coefficients[row, column])
    at_edge = min(row, column) == 0 or max(row, column) == 2 * search
    return Shift(-float(x), -float(y), peak, peak * float(np.sqrt(template.size)), bool(at_edge))


def _region(region, shape: tuple[int, int], search: int) -> tuple[slice, slice]:
    ny, nx = shape
    first_x, last_x, first_y, last_y = region or (search + 1, nx - search, search + 1, ny - search)
    if not (search < first_x < last_x <= nx - search and search < first_y < last_y <= ny - search):
        raise ValueError(
            f"the columns {first_x} to {last_x} and rows {first_y} to {last_y} with {search} px around them "
            f"do not fit into {nx} x {ny} px"
        )
    return slice(first_y - 1, last_y), slice(first_x - 1, last_x)


def _window_variance(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Sum of squared deviations from the mean in each window of a shape."""
    sums = []
    for power in (1, 2):
        total = np.pad(image**power, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
        height, width = shape
        sums.append(
            total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
        )
    return sums[1] - sums[0] ** 2 / (shape[0] * shape[1])


def _centroid(coefficients: np.ndarray, row: int, column: int) -> np.ndarray:
    """Row and column of the centroid about a peak, from marginal sums above their mean."""
    corner = np.array([max(0, row - _BOX), max(0, column - _BOX)])
    box = coefficients[corner[0] : row + _BOX + 1, corner[1] : column + _BOX + 1]
    found = []
    for marginal in (box.sum(axis=1), box.sum(axis=0)):
        above = np.clip(marginal - marginal.mean(), 0, None)
        found.append((above * np.arange(len(above))).sum() / above.sum() if above.any() else len(above) // 2)
    return corner + found
