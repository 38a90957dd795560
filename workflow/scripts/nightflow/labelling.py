"""Pixels and regions of a mask, in numpy alone: to import scipy.ndimage takes longer than what it would do here."""

from __future__ import annotations

import numpy as np


def places(mask) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of a mask; numpy's `nonzero` of a plane takes ten times as long."""
    return np.divmod(np.flatnonzero(mask), mask.shape[1])


def connected_regions(mask):
    """Number the regions of pixels that touch each other by a side or a corner.

    Runs of pixels in the rows are joined instead of single pixels, of which there are many more: each round every
    region takes the lowest number of the regions that it touches.

    Parameters
    ----------
    mask : ndarray of bool, shape (ny, nx)

    Returns
    -------
    at : ndarray of int, shape (n,)
        Where `mask` is true, as numbers of the flattened plane in order.
    region : ndarray of int, shape (n,)
        Number of the region of each, from 1 on, in order of their first pixels.
    count : int
        Number of regions.
    """
    at = np.flatnonzero(mask)
    if not at.size:
        return at, at, 0
    # rows two farther apart than they are, so that no pixel touches the end of another row
    stride = mask.shape[1] + 2
    place = at + 2 * (at // mask.shape[1])
    begins = np.concatenate([[True], np.diff(place) > 1])
    first, last = place[begins], place[np.concatenate([begins[1:], [True]])]
    root = _joined(first.size, *_touching(first, last, stride))
    is_first = root == np.arange(root.size)
    number = np.cumsum(is_first)
    return at, np.repeat(number[root], np.diff(np.append(np.flatnonzero(begins), at.size))), int(number[-1])


def _touching(first, last, stride: int):
    """Pairs of runs, the second in the row below the first, that touch."""
    low = np.searchsorted(last, first + stride - 1)
    number = np.searchsorted(first, last + stride + 1, side="right") - low
    upper = np.repeat(np.arange(first.size), number)
    return upper, np.arange(upper.size) + np.repeat(low - np.cumsum(number) + number, number)


def _joined(size: int, one, other):
    """Lowest number among all that each of `size` numbers is joined with by pairs."""
    root = np.arange(size)
    while one.size:
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        while (root[root] != root).any():
            root = root[root]
        one, other = root[one], root[other]
        apart = one != other
        one, other = one[apart], other[apart]
    return root
