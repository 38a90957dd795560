"""Taking apart the sources that share a segment: thresholds of rising height, then a watershed.

The segments are those of `photutils.segmentation.deblend_sources`, label by label. It looks for separate parts at
every threshold of every segment. Here that is done only where two peaks of the segment rise above the threshold.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from nightflow.sources import local_maxima

_TOUCHING = np.ones((3, 3), dtype=bool)
_MOST_MARKERS = 200  # beyond these, thresholds that are close together near the sky have found noise


def deblend(image: np.ndarray, labels: np.ndarray, npixels: int, n_levels: int, contrast: float) -> np.ndarray:
    """Labels of segments, of which those that blend sources are cut.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Pixels, without NaN.
    labels : ndarray of int, shape (ny, nx)
        Segments numbered from 1 on, 0 where there is none. No two of them touch, corners included.
    npixels : int
        Fewest pixels of a part above a threshold.
    n_levels : int
        Thresholds between the faintest and the brightest pixel of a segment, in equal steps of the logarithm where all
        its pixels are positive.
    contrast : float
        Least share of a segment's light that is a source of its own.

    Returns
    -------
    labels : ndarray of int, shape (ny, nx)
        Numbered from 1 on without gaps: first the segments that were not cut, in their order, then the others' parts.

    References
    ----------
    Bertin & Arnouts (1996), A&AS 117, 393, section 6.
    """
    cut, boxes, top = labels.copy(), ndimage.find_objects(labels), int(labels.max(initial=0))
    for label, peaks in _blends(image, labels):
        box = boxes[label - 1]
        parts = _parts(image[box], labels[box] == label, peaks, npixels, n_levels, contrast)
        if parts is not None:
            numbers, part = np.unique(parts[parts > 0], return_inverse=True)
            cut[box][parts > 0] = top + 1 + part
            top += len(numbers)
    place = np.flatnonzero(cut > 0)
    numbers = cut.ravel()[place]
    cut.ravel()[place] = np.cumsum(np.bincount(numbers) > 0)[numbers]
    return cut


def _blends(image, labels) -> Iterator[tuple[int, np.ndarray]]:
    """Labels of the segments with more than one local maximum, and the heights of these, the highest first."""
    y, x = np.divmod(np.flatnonzero(labels > 0), labels.shape[1])
    peak = local_maxima(np.where(labels > 0, image, np.float32(-np.inf)), y, x, reach=1)
    label, height = labels[y[peak], x[peak]], image[y[peak], x[peak]]
    order = np.lexsort((-height, label))
    numbers, first = np.unique(label[order], return_index=True)
    for number, peaks in zip(numbers, np.split(height[order], first[1:]), strict=False):  # no peaks are one part, too
        if len(peaks) > 1:
            yield number, peaks


def _parts(data, segment, peaks, npixels: int, n_levels: int, contrast: float):
    """Labels of the parts of a segment; None where it is one source."""
    values = data[segment]
    low, high = values.min(), values.max()
    logarithmic = low > 0
    markers = _markers(data, segment, _thresholds(low, high, n_levels, logarithmic), peaks, npixels)
    if logarithmic and markers is not None and len(_numbers(markers)) > _MOST_MARKERS:
        markers = _markers(data, segment, _thresholds(low, high, n_levels, False), peaks, npixels)
    if markers is None:
        return None
    parts = _flooded(data, segment, markers, contrast)
    return parts if len(_numbers(parts)) > 1 else None


def _thresholds(low, high, number: int, logarithmic: bool) -> np.ndarray:
    even = np.linspace(low, high, number + 2)[1:-1]
    return low * (high / low) ** ((even - low) / (high - low)) if logarithmic and low < high else even


def _markers(data, segment, thresholds, peaks, npixels: int):
    """Labels of the largest parts that are separate at some threshold; None without any.

    Above the second peak only one part is left, and parts with one peak each do not fall apart any more.
    """
    markers = None
    for threshold in thresholds[thresholds < peaks[1]]:
        parts, number = ndimage.label((data > threshold) & segment, _TOUCHING)
        if number == 1:
            continue
        large = np.bincount(parts.ravel()) >= npixels
        large[0] = False
        if np.count_nonzero(large) > 1:
            parts[~large[parts]] = 0
            markers = parts if markers is None else _split(markers, parts)
        if number == np.count_nonzero(peaks > threshold):
            break
    return markers


def _split(markers, parts):
    """The markers, of which each that holds more than one of the parts is replaced by these."""
    found = parts > 0
    of_part = np.zeros(parts.max() + 1, dtype=markers.dtype)
    of_part[parts[found]] = markers[found]
    splits = np.bincount(of_part, minlength=markers.max() + 1) > 1
    splits[0] = False
    return ndimage.label(np.where(splits[markers], found, markers > 0), _TOUCHING)[0] if splits.any() else markers


def _flooded(data, segment, markers, contrast: float):
    """The segment shared out among the markers; the faintest part goes until all have their least share of the light.

    One goes at a time: several that are too faint may together be a source.
    """
    from skimage.segmentation import watershed

    total = data[segment].sum()
    while True:
        parts = watershed(-data, markers, connectivity=_TOUCHING, mask=segment)
        numbers = _numbers(parts)
        share = ndimage.sum_labels(data, parts, numbers) / total
        if len(numbers) == 1 or not (share < contrast).any():
            return parts
        markers = np.where(parts == numbers[np.argmin(share)], 0, parts)


def _numbers(labels) -> np.ndarray:
    numbers = np.unique(labels)
    return numbers[numbers > 0]
