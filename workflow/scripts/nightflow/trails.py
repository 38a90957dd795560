"""Trails of satellites, aircraft and meteors: straight, narrow and even, unlike diffraction spikes and galaxies.

A Hough transform of the binned image proposes lines; each is judged on the pixels along it, where stars, which are
short, and the light of galaxies, which is wide, drop out of medians.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nightflow import sky
from nightflow.labelling import connected_regions
from nightflow.medians import median_of_many
from nightflow.products import UNUSABLE, Image, MaskBit

DEFAULTS = {"find": True, "significance": 5.0, "min_length": 200, "max_trails": 10}
_BLOCK = 4  # px; the Hough transform works on sums over such squares
_BLOCK_SIGNIFICANCE = 2.5
_MESH = 128  # px, of the local sky
_SEGMENT = 32  # px along a line from which one median profile is taken
_REACH = 20  # px to each side of a line that are looked at
_BORDER = 10  # px from a line, from where on its surroundings are measured
# Light along a trail changes less than this; spikes and galaxies fade away from their centres. Where the ends are the
# image's own edges, a satellite that tumbles may change more.
_EVENNESS, _EVENNESS_ACROSS = 2.5, 5.0
_AT_A_TIME = 65536  # points times angles that are projected together, in the processor's cache
_FAINTEST = 0.1  # standard deviations of the sky that the edge of a flagged trail still has


@dataclass(frozen=True)
class Line:
    """A line through (x, y), the point nearest to the middle of the image, in the direction `angle`.

    The distance across it bends by `bend` (px) times the square of the distance along it in units of 1000 px, after
    the `shift` and `turn` (px per 1000 px) that refine the proposal.
    """

    x: float
    y: float
    angle: float
    shift: float = 0.0
    turn: float = 0.0
    bend: float = 0.0

    def centre(self, along):
        """Distance of the trail's middle from the straight line, px."""
        s = along / 1000.0
        return self.shift + self.turn * s + self.bend * s**2


def find_trails(image: Image, options: Mapping | None = None):
    """Pixels that a trail brightens.

    Parameters
    ----------
    image : `~nightflow.products.Image`
        Calibrated frame with the sky in it; bad pixels are not looked at. Cosmic rays are, since a search for them
        also flags parts of trails: look for trails first, and spare them in the search for rays.
    options : mapping, optional
        ``find`` (False: flag nothing), ``significance`` (of a proposed line, standard deviations), ``min_length``
        (px), ``max_trails`` (lines that are looked at).

    Returns
    -------
    trails : ndarray of bool, shape (ny, nx)

    References
    ----------
    Duda & Hart (1972), Comm. ACM 15, 11, for lines as peaks in the plane of angle and distance.
    """
    options = {**DEFAULTS, **(options or {})}
    found = np.zeros(image.shape, dtype=bool)
    usable = ((image.mask & int(UNUSABLE & ~MaskBit.COSMIC_RAY)) == 0) & np.isfinite(image.data)
    if not options["find"] or min(image.shape) < 4 * _SEGMENT or not usable.any():
        return found
    pixels = np.where(usable, image.data, np.float32(0))
    around = sky.LocalSky(pixels, usable, _MESH)
    if not around.widths.min() > 0:
        return found
    residual = around.significance(pixels)
    residual[~usable] = np.nan
    y, x, weight = _bright_blocks(residual, usable)
    lines = _Hough(y, x, weight, image.shape)
    left = int(options["max_trails"])
    while left and (line := lines.strongest(options["significance"])):
        found |= _trail_pixels(residual, line, options)
        lines.remove(line)
        left -= 1
    return found


def _bright_blocks(residual, usable):
    """Centres (px) of the blocks that outshine their surroundings, however brightly."""
    clipped = np.where(usable, np.clip(residual, -5, 5), np.float32(0))
    ny, nx = (n // _BLOCK for n in residual.shape)
    inside = np.s_[: ny * _BLOCK, : nx * _BLOCK]
    total, number = (
        sum(rows[:, i::_BLOCK] for i in range(_BLOCK))
        for rows in (sum(p[inside][i::_BLOCK] for i in range(_BLOCK)) for p in (clipped, usable.astype(np.float32)))
    )
    blocks = total / np.sqrt(np.maximum(number, 1))
    blocks = sky.LocalSky(blocks, number > 0, 12).subtracted_from(blocks)
    at, piece, count = connected_regions(blocks > _BLOCK_SIGNIFICANCE)
    y, x = np.divmod(at, nx)
    # pieces of a trail are long, stars and noise are not
    extent = np.maximum(_extent(y, piece, count), _extent(x, piece, count))
    weight = np.clip(extent[piece], 0, 6).astype(float)
    y, x, weight = y[weight > 0], x[weight > 0], weight[weight > 0]
    # spread over the blocks, lest their grid show in the transform
    jitter = np.outer((0.7548776662466927, 0.5698402909980532), np.arange(y.size)) % 1 * _BLOCK - 0.5
    return y * _BLOCK + jitter[0], x * _BLOCK + jitter[1], weight


def _extent(position, group, count: int):
    """Distance of the last from the first position of each of the groups 0 to `count`."""
    first, last = np.full(count + 1, position.max(initial=0)), np.zeros(count + 1, position.dtype)
    np.minimum.at(first, group, position)
    np.maximum.at(last, group, position)
    return last - first


class _Hough:
    """Weights of points summed along all lines through an image."""

    def __init__(self, y, x, weight, shape):
        ny, nx = shape
        self.middle = (ny - 1) / 2, (nx - 1) / 2
        self.y, self.x, self.weight = y, x, weight
        self.step = 2 * _BLOCK
        self.radius = 0.5 * np.hypot(ny, nx)
        self.angles = np.arange(0, np.pi, self.step / (2 * self.radius))
        self.distances = (np.arange(int(2 * self.radius / self.step) + 3) - 0.5) * self.step - self.radius
        length = _chords(self.angles, self.distances, shape)
        # of the image that is on each line; corners are too short to tell
        self.share = np.where(length > 0.1 * length.max(), length * self.step / (ny * nx), 0)
        self.sums = self._project(y, x, weight)

    def _project(self, y, x, weight):
        """Sum of weights at each angle (row) and distance (column) of a line's normal."""
        dy, dx = (
            ((at - middle) / self.step).astype(np.float32) for at, middle in zip((y, x), self.middle, strict=True)
        )
        cos, sin = (of(self.angles)[:, None].astype(np.float32) for of in (np.cos, np.sin))
        first_distance = np.float32(self.radius / self.step + 1)
        sums = np.empty((self.angles.size, self.distances.size))
        together = max(1, _AT_A_TIME // max(y.size, 1))
        weights = np.tile(weight, together)
        for first in range(0, self.angles.size, together):
            rows = slice(first, first + together)
            index = (dx * cos[rows] + dy * sin[rows] + first_distance).astype(np.intp)
            index += np.arange(len(index))[:, None] * self.distances.size
            part = sums[rows]
            part[:] = np.bincount(index.ravel(), weights[: index.size], part.size).reshape(part.shape)
        return sums

    def strongest(self, significance) -> Line | None:
        """The line that most exceeds what is expected on it, if that is significant."""
        if self.y.size < 10:
            return None
        # points of one piece come together, as many as their weight
        total, squares = self.weight.sum(), (self.weight**3).sum()
        noise = np.sqrt(np.maximum(self.share * squares, squares / self.y.size))
        excess = np.where(self.share > 0, (self.sums - self.share * total) / noise, 0)
        spread = max(1.0, 1.4826 * float(median_of_many(np.abs(excess[self.share > 0]))))
        i, j = np.unravel_index(np.argmax(excess), excess.shape)
        if excess[i, j] < significance * spread:
            return None
        distance, normal = self.distances[j], (np.cos(self.angles[i]), np.sin(self.angles[i]))
        x, y = self.middle[1] + distance * normal[0], self.middle[0] + distance * normal[1]
        return Line(float(x), float(y), float(self.angles[i] + np.pi / 2))

    def remove(self, line: Line) -> None:
        """Take out the points that are near a line."""
        near = np.abs(_across(line, self.y, self.x)) <= 3 * _BLOCK
        self.sums -= self._project(self.y[near], self.x[near], self.weight[near])
        self.y, self.x, self.weight = self.y[~near], self.x[~near], self.weight[~near]


def _chords(angles, distances, shape):
    """Lengths (px) inside the image of lines with these normals' angles and distances from its middle."""
    half_y, half_x = shape[0] / 2, shape[1] / 2
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    limits = []
    # a point of the line is distance * (cos, sin) + t * (-sin, cos)
    for start, slope, half in ((distances * cos, -sin, half_x), (distances * sin, cos, half_y)):
        slope = np.where(np.abs(slope) < 1e-9, 1e-9, slope)
        middle, reach = -start / slope, np.abs(half / slope)
        limits.append((middle - reach, middle + reach))
    (low, high), (other_low, other_high) = limits
    return np.maximum(np.minimum(high, other_high) - np.maximum(low, other_low), 0)


def _across(line: Line, y, x):
    """Distances of points from the middle of the trail, px."""
    cos, sin = np.cos(line.angle), np.sin(line.angle)
    along = (x - line.x) * cos + (y - line.y) * sin
    return (y - line.y) * cos - (x - line.x) * sin - line.centre(along)


def _profiles(residual, line: Line):
    """Medians over the segments of a line, shape (segments, 2 reach + 1), and the segments' middles along it (px)."""
    ny, nx = residual.shape
    half = int(np.hypot(ny, nx) / 2 / _SEGMENT + 1) * _SEGMENT
    along = np.arange(-half, half) + 0.5
    across = np.arange(-_REACH, _REACH + 1) + line.centre(along)[:, None]
    cos, sin = np.cos(line.angle), np.sin(line.angle)
    x = np.rint(line.x + along[:, None] * cos - across * sin).astype(int)
    y = np.rint(line.y + along[:, None] * sin + across * cos).astype(int)
    inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
    values = np.full(x.shape, np.nan, dtype=np.float32)
    values[inside] = residual[y[inside], x[inside]]
    values = np.sort(values.reshape(-1, _SEGMENT, values.shape[1]), axis=1)  # NaN last
    number = np.isfinite(values).sum(axis=1)
    profiles = np.take_along_axis(values, (number // 2)[:, None, :], axis=1)[:, 0]
    covered = (number >= _SEGMENT // 4).mean(axis=1) > 0.7
    return np.where(number > 0, profiles, 0)[covered], along.reshape(-1, _SEGMENT).mean(axis=1)[covered]


def _trail_pixels(residual, line: Line, options):
    """Pixels of the trail along a proposed line; none if it is no trail."""
    nothing = np.zeros(residual.shape, dtype=bool)
    for window in (_BORDER, _BORDER / 2, _BORDER / 2):
        profiles, along = _profiles(residual, line)
        if len(along) * _SEGMENT < options["min_length"]:
            return nothing
        profiles, noise = _without_surroundings(profiles)
        first, last = _longest_run(profiles, noise)
        if (last - first) * _SEGMENT < options["min_length"] / 2:
            return nothing
        line = _refine(line, profiles[first:last], along[first:last], noise, window)
    first, last = _longest_run(profiles, noise)
    run = profiles[first:last]
    if (last - first + 1) * _SEGMENT < options["min_length"]:  # the ends are lit in part
        return nothing
    across_image = first <= 2 and last >= len(along) - 2
    if not _is_trail(run, noise, _EVENNESS_ACROSS if across_image else _EVENNESS):
        return nothing
    return _flag(line, residual.shape, _half_width(run), along, first, last)


def _without_surroundings(profiles):
    """Profiles less the light at both sides of the line, and the noise of one of their values."""
    offset = np.abs(np.arange(-_REACH, _REACH + 1))
    sides = profiles[:, offset >= _BORDER]
    profiles = profiles - np.median(sides, axis=1, keepdims=True)
    return profiles, max(1.4826 * float(np.median(np.abs(sides - np.median(sides, axis=1, keepdims=True)))), 1e-6)


def _core(profiles):
    """Mean of the middle of each profile."""
    return profiles[:, _REACH - 2 : _REACH + 3].mean(axis=1)


def _refine(line: Line, profiles, along, noise, window):
    """The line moved, turned and bent through the light within `window` px of it."""
    offset = np.arange(-_REACH, _REACH + 1)
    near = np.abs(offset) < window
    light = np.clip(profiles[:, near], 0, None)
    light = np.where(light > 2.5 * noise, light, 0)
    weight = light.sum(axis=1)
    bright = weight > 0
    if np.count_nonzero(bright) < 4:
        return line
    centre = (light @ offset[near])[bright] / weight[bright]
    s = along[bright] / 1000.0
    keep = np.ones(s.size, dtype=bool)
    for _ in range(5):
        degree = 2 if np.ptp(s[keep]) > 1.0 else 1
        fit = np.polynomial.polynomial.polyfit(s[keep], centre[keep], degree)
        off = np.abs(centre - np.polynomial.polynomial.polyval(s, fit))
        keep = off <= max(3 * 1.4826 * float(np.median(off[keep])), 0.5)
    shift, turn, bend = (*fit, 0.0)[:3]
    return Line(line.x, line.y, line.angle, line.shift + shift, line.turn + turn, line.bend + bend)


def _longest_run(profiles, noise):
    """First and past-last segment of the stretch in which lit segments most outnumber dark ones, three to two."""
    lit = _core(profiles) > 3 * noise / np.sqrt(5)
    score = np.concatenate([[0.0], np.cumsum(np.where(lit, 1.0, -1.5))])
    lowest = np.minimum.accumulate(score)
    last = int(np.argmax(score - lowest))
    return int(np.argmin(score[: last + 1])), last


def _is_trail(run, noise, limit):
    """Whether a run is bright enough to be one, and the middles of its quarters differ by less than `limit`."""
    if np.median(_core(run)) < 5 * noise / np.sqrt(5):
        return False
    light = [float(np.median(_core(part))) for part in np.array_split(run, 4)]
    return min(light) > 0 and max(light) < limit * min(light)


def _half_width(run):
    """Distance (px) from the middle at which the mean profile has fallen to `_FAINTEST`, as a Gaussian would."""
    profile = np.median(run, axis=0)
    offset = np.arange(-_REACH, _REACH + 1)
    light = np.where(np.abs(offset) < _BORDER, np.clip(profile, 0, None), 0)
    peak = float(profile[_REACH - 1 : _REACH + 2].max())
    # area over peak gives the width without the noise of the wings that second moments suffer from
    sigma = np.clip(light.sum() / (peak * np.sqrt(2 * np.pi)), 0.6, _BORDER / 2)
    return float(np.clip(sigma * np.sqrt(2 * np.log(max(peak / _FAINTEST, 2))), 1.5, _REACH))


def _flag(line: Line, shape, half_width, along, first, last):
    """Pixels within `half_width` of the line between two segments, to the image's edge where that is near."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    start = along[first] - _SEGMENT / 2 if first > 2 else -np.inf
    end = along[last - 1] + _SEGMENT / 2 if last < len(along) - 2 else np.inf
    position = (x - line.x) * np.cos(line.angle) + (y - line.y) * np.sin(line.angle)
    return (np.abs(_across(line, y, x)) <= half_width) & (position >= start) & (position <= end)
