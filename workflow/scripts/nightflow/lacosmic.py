"""L.A.Cosmic, evaluated only where its verdict is open.

The mask is that of astroscrappy, at a fraction of its time: a pixel can be a cosmic ray only where the Laplacian
exceeds the limit for the least noise of its surroundings. This is looked at everywhere, in one pass. The medians, the
fine structure and the growth into neighbours, on which most of the time would go, are computed at the few pixels left,
and in later iterations only near those that were cleaned.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, reduce

import numpy as np

from nightflow.medians import median_of, ranked

DEFAULTS = {"sigclip": 4.5, "sigfrac": 0.3, "objlim": 5.0, "niter": 4, "sepmed": True, "cleantype": "meanmask"}
CLEANING = ("median", "medmask", "meanmask", "idw")
ENGINES = ("lacosmic", "astroscrappy")  # this one, and the package
_BLOCK = 16  # px, within which the noise is bounded from below
_MARGIN = 6  # px around the image; the fine structure looks so far
# Pixels whose verdict a changed one can alter are nearer than this: medians of medians, then growth by two.
_REACH = 8
_AT_A_TIME = 4096  # pixels whose surroundings are gathered together


def refused(options: Mapping) -> str | None:
    """Why these options cannot be used together, in a sentence; None where they can.

    Parameters
    ----------
    options : mapping
        Section ``cosmic_rays`` of the configuration.
    """
    engine = options["engine"]
    if engine not in ENGINES:
        return f"cosmic_rays.engine is one of {', '.join(ENGINES)}, not {engine!r}"
    if engine == "lacosmic" and options["fsmode"] != "median":
        return f"cosmic_rays.fsmode {options['fsmode']} needs cosmic_rays.engine: astroscrappy"
    if engine == "astroscrappy" and options["cleantype"] == "median":
        # its array for the median is filled in two places of 25
        return "cosmic_rays.cleantype median needs cosmic_rays.engine: lacosmic; astroscrappy's is not reproducible"
    return None


def detect(pixels, variance, excluded, options: Mapping | None = None):
    """Cosmic rays of an image.

    Parameters
    ----------
    pixels : ndarray of float32, shape (ny, nx)
        With the sky in them, finite everywhere.
    variance : ndarray of float32, shape (ny, nx)
        Of the pixels; it is median-filtered, so that a ray's own Poisson noise does not hide it.
    excluded : ndarray of bool, shape (ny, nx)
        Pixels that are never flagged, and their neighbours with them, and that clean no others.
    options : mapping, optional
        ``sigclip`` (limit of the Laplacian, standard deviations), ``sigfrac`` (share of it for neighbours), ``objlim``
        (contrast to the fine structure), ``niter``, ``sepmed`` (separable medians), ``cleantype``.

    Returns
    -------
    rays : ndarray of bool, shape (ny, nx)

    Raises
    ------
    ValueError
        If ``cleantype`` is unknown.

    References
    ----------
    van Dokkum (2001), PASP 113, 1420, sections 3.1 to 3.3; the treatment of neighbours and of the edges, which keep
    their values in filters, is astroscrappy's.
    """
    options = {**DEFAULTS, **(options or {})}
    if options["cleantype"] not in CLEANING:
        raise ValueError(f"cosmic_rays.cleantype is one of {', '.join(CLEANING)}, not {options['cleantype']!r}")
    return _Search(pixels, variance, excluded, options).run()


class _Search:
    """An image under search. Pixels are numbered in planes with a margin, so that all have surroundings."""

    def __init__(self, pixels, variance, excluded, options):
        self.options = options
        self.shape = pixels.shape
        self.stride = pixels.shape[1] + 2 * _MARGIN
        self.original = pixels, variance
        self.light, self.variance = _with_margin(pixels), _with_margin(variance)
        self.usable = ~_with_margin(_grown(excluded))
        self.edge = _with_margin(_edge_distance(pixels.shape) + np.int8(1)) - np.int8(1)  # -1 in the margin
        self.rays = np.zeros(self.light.size, dtype=bool)
        self.noise = np.full(self.light.size, np.nan, np.float32)  # NaN: not known yet
        self.marks = np.zeros(self.light.size, dtype=bool)
        self.sigclip = np.float32(options["sigclip"])
        self.siglow = np.float32(options["sigfrac"]) * self.sigclip

    def run(self):
        suspects = near = self.suspects()
        for _ in range(self.options["niter"]):
            found = self.verdict(near)
            if self.rays[found].all():
                break
            self.rays[found] = True
            changed, blank = self.clean()
            self.noise[self.around(changed, 3)] = np.nan
            # the Laplacian changed beside what was cleaned; the noise may be below its bound about a blank
            suspects = self.union(suspects, self.around(changed, 1), self.around(blank, 3))
            suspects = suspects[self.usable[suspects]]
            near = self.common(suspects, self.around(changed, _REACH))
        return self.rays.reshape(-1, self.stride)[_inside(self.shape)]

    def suspects(self):
        """Pixels whose Laplacian could exceed the limit, whatever the median of the noise about them."""
        light, usable = (plane.reshape(-1, self.stride) for plane in (self.light, self.usable))
        limit = 2 * self.sigclip * np.sqrt(np.maximum(_least_in_surroundings(self.original[1]), 1e-5)) * 0.9999
        limit = np.repeat(limit.astype(np.float32), _BLOCK, axis=1)[:, : self.shape[1]]
        found = []
        for block, first in enumerate(range(0, self.shape[0], _BLOCK)):
            above, rows, below = (
                light[first + _MARGIN + shift : min(first + _BLOCK, self.shape[0]) + _MARGIN + shift]
                for shift in (-1, 0, 1)
            )
            x, left, right = (slice(_MARGIN + d, self.stride - _MARGIN + d) for d in (0, -1, 1))
            excess = positive_laplacian(rows[:, x], rows[:, left], rows[:, right], above[:, x], below[:, x])
            found.append(np.flatnonzero(excess > limit[block]) + first * self.shape[1])
        y, x = np.divmod(np.concatenate(found), self.shape[1])
        at = (y + _MARGIN) * self.stride + x + _MARGIN
        return at[usable.ravel()[at]]

    def verdict(self, suspects):
        """Those of the suspects, and of their neighbours, that are cosmic rays of this iteration."""
        sharp, contrast = self.sharp(suspects, self.sigclip)
        is_ray = contrast / self.fine_structure(sharp) > np.float32(self.options["objlim"])
        # beside a ray the contrast to the fine structure does not matter, then a lower limit holds
        neighbours = self.around(self.common(sharp, self.around(sharp[is_ray], 1)), 1)
        return self.sharp(neighbours[self.usable[neighbours]], self.siglow)[0]

    def sharp(self, at, limit):
        """Pixels whose Laplacian exceeds its own median by more than `limit` sigma, and by how many."""
        # what is below the limit without its median, which is positive, need not be looked at further
        at = at[self.significance(at) > limit]
        self.know_noise(self.around(at, 3))
        filtered = self.median(self.significance, at, 7 if self.options["sepmed"] else 5)
        contrast = self.significance(at) - filtered
        return at[contrast > limit], contrast[contrast > limit]

    def significance(self, at):
        """Laplacian at pixels in units of its noise; two is the factor by which it is subsampled."""
        self.know_noise(at)
        light, stride = self.light, self.stride
        excess = positive_laplacian(light[at], light[at - 1], light[at + 1], light[at - stride], light[at + stride])
        return excess / (np.float32(2) * self.noise[at])

    def know_noise(self, at):
        """Work out the noise at pixels where it is not known."""
        at = at.ravel()
        at = at[np.isnan(self.noise[at])]
        filtered = self.median(self.variance.take, at, 7 if self.options["sepmed"] else 5)
        self.noise[at] = np.sqrt(np.maximum(filtered, np.float32(1e-5)))

    def fine_structure(self, at):
        """Light of the size of stars at pixels, in units of the noise: the median of 3 x 3 less that of 7 x 7."""
        narrow, wide = (5, 9) if self.options["sepmed"] else (3, 7)
        around = self.around(at, wide // 2)
        light = self.light[around]
        self.light[around] = self.median(self.light.take, around, narrow)
        structure = (self.light[at] - self.median(self.light.take, at, wide)) / self.noise[at]
        self.light[around] = light
        return np.maximum(structure, np.float32(0.01))

    def median(self, values, at, size):
        """Median of `values` about pixels; near the edge the value itself."""
        at = np.asarray(at)
        filtered = values(at)
        inner = np.flatnonzero(self.edge[at] >= size // 2)
        for part in np.array_split(inner, -(-inner.size // _AT_A_TIME) or 1):
            around = values(at[part] + self.offsets(size // 2)[:, :, None])
            if self.options["sepmed"]:
                filtered[part] = median_of(median_of(around.swapaxes(0, 1)))
            else:
                filtered[part] = median_of(around.reshape(size * size, -1))
        return filtered

    def offsets(self, reach):
        """Differences in number from a pixel to those within `reach` rows and columns of it."""
        steps = np.arange(-reach, reach + 1)
        return steps[:, None] * self.stride + steps

    def union(self, *sets):
        """Pixels of any of the sets, in order."""
        for at in sets:
            self.marks[at] = True
        found = np.flatnonzero(self.marks)
        self.marks[found] = False
        return found

    def common(self, at, others):
        """Those of the pixels `at` that are among the others too."""
        self.marks[others] = True
        found = at[self.marks[at]]
        self.marks[others] = False
        return found

    def around(self, at, reach):
        """Pixels of the image within `reach` rows and columns of some, in order."""
        found = self.union(*(at + offset for offset in self.offsets(reach).ravel()))
        return found[self.edge[found] >= 0]

    def clean(self):
        """Write over the rays what is about them; the pixels that changed, and those of them without neighbours."""
        at = np.flatnonzero(self.rays & (self.edge >= 2))
        around = at + self.offsets(2).reshape(25, 1)
        good = self.usable[around] & ~self.rays[around]
        blank = ~good.any(axis=0)
        changed = np.zeros(at.size, dtype=bool)
        for plane, number in ((self.light, 0), (self.variance, 1)):
            values = _replacement(plane[around], good, self.options["cleantype"])
            if blank.any() and self.options["cleantype"] != "median":
                values[blank] = self.typical[number]
            changed |= plane[at] != values
            plane[at] = values
        return at[changed], at[changed & blank]

    @cached_property
    def typical(self):
        """Medians of the usable pixels and of their variance; of an even number the lower one in the middle."""
        usable = self.usable.reshape(-1, self.stride)[_inside(self.shape)]
        middle = (np.count_nonzero(usable) - 1) // 2
        return [ranked(plane[usable], [middle])[0] for plane in self.original]


def positive_laplacian(centre, left, right, above, below):
    """Mean of the positive Laplacians of the quarters of pixels; two neighbours of each are in its own pixel.

    Parameters
    ----------
    centre, left, right, above, below : ndarray of float32
        The pixels and their neighbours, zero beyond the image.

    Returns
    -------
    laplacian : ndarray of float32
    """
    twice, zero = centre + centre, np.float32(0)
    left, right = twice - left, twice - right
    total = np.maximum(left - above, zero)
    for quarter in (left - below, right - below, right - above):
        total += np.maximum(quarter, zero, out=quarter)
    total *= np.float32(0.25)
    return total


def _replacement(around, good, cleantype):
    """What each cleaning writes over pixels with these 5 x 5 `around` them, shape (25, n), of which some are `good`."""
    if cleantype == "median":
        return median_of(around)
    if cleantype == "medmask":
        order = np.sort(np.where(good, around, np.float32(np.inf)), axis=0)
        return np.take_along_axis(order, np.maximum(good.sum(axis=0) - 1, 0)[None] // 2, axis=0)[0]
    weight = np.ones(25, np.float32)
    if cleantype == "idw":
        y, x = np.divmod(np.arange(25), 5)
        weight[:] = 1 / np.hypot(y - 2, x - 2, where=np.arange(25) != 12, out=np.full(25, np.inf))
    total = share = np.float32(0)
    for value, use, w in zip(around, good, weight, strict=True):
        total = total + np.where(use, w * value, np.float32(0))
        share = share + np.where(use, w, np.float32(0))
    return total / np.maximum(share, np.float32(1e-6))


def _inside(shape):
    return tuple(slice(_MARGIN, _MARGIN + n) for n in shape)


def _with_margin(plane):
    """Flat copy of a plane with zeros around it."""
    wide = np.zeros([n + 2 * _MARGIN for n in plane.shape], plane.dtype)
    wide[_inside(plane.shape)] = plane
    return wide.ravel()


def _grown(mask):
    """`mask` grown by one pixel on all sides, but for pixels at the very edge."""
    grown = mask.copy()
    wide = mask[:, :-2] | mask[:, 1:-1] | mask[:, 2:]
    grown[1:-1, 1:-1] = wide[:-2] | wide[1:-1] | wide[2:]
    return grown


def _edge_distance(shape):
    """Distance of pixels from the edge in px, no more than four."""
    distance = np.zeros(shape, dtype=np.int8)
    for step in range(1, 5):
        distance[step:-step, step:-step] = step
    return distance


def _least_in_surroundings(plane):
    """Minimum of each block of pixels and the blocks that touch it."""
    whole = np.pad(plane, [(0, -n % _BLOCK) for n in plane.shape], mode="edge")
    rows = reduce(np.minimum, (whole[i::_BLOCK] for i in range(_BLOCK)))
    least = reduce(np.minimum, (rows[:, i::_BLOCK] for i in range(_BLOCK)))
    padded = np.pad(least, 1, mode="edge")
    rows = np.minimum(np.minimum(padded[:-2], padded[1:-1]), padded[2:])
    return np.minimum(np.minimum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
