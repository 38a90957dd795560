"""Trails of satellites, aircraft and meteors: straight, narrow and even, unlike diffraction spikes and galaxies.

A Hough transform of the binned image proposes lines; each is judged on the pixels along it, where stars, which are
short, and the light of galaxies, which is wide, drop out of medians.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nightflow import sky
from nightflow.products import UNUSABLE, Image

DEFAULTS = {"significance": 6.0, "min_length": 200, "max_trails": 10, "mesh": 128}
_BLOCK = 4  # px; the Hough transform works on sums over such squares
_BLOCK_SIGNIFICANCE = 2.5
_SEGMENT = 32  # px along a line from which one median profile is taken
_REACH = 20  # px to each side of a line that are looked at
_BORDER = 10  # px from a line, from where on its surroundings are measured
# Light along a trail changes less than this; spikes and galaxies fade away from their centres. Where the ends are the
# image's own edges, a satellite that tumbles may change more.
_EVENNESS, _EVENNESS_ACROSS = 2.5, 5.0
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
        Calibrated frame with the sky in it; pixels flagged as unusable or cosmic rays are not looked at.
    options : mapping, optional
        ``significance`` (of a proposed line, standard deviations), ``min_length`` (px), ``max_trails``, ``mesh`` (of
        the local sky, px).

    Returns
    -------
    trails : ndarray of bool, shape (ny, nx)

    References
    ----------
    Duda & Hart (1972), Comm. ACM 15, 11, for lines as peaks in the plane of angle and distance.
    """
    options = {**DEFAULTS, **(options or {})}
    found = np.zeros(image.shape, dtype=bool)
    usable = ((image.mask & int(UNUSABLE)) == 0) & np.isfinite(image.data)
    if min(image.shape) < 4 * _SEGMENT or not usable.any():
        return found
    level, scatter = sky.local_sky(np.where(usable, image.data, np.float32(0)), usable, int(options["mesh"]))
    if not scatter.min() > 0:
        return found
    residual = np.where(usable, (image.data - level) / scatter, np.float32(np.nan))
    y, x = _bright_blocks(residual, usable)
    for _ in range(3 * int(options["max_trails"])):
        line = _propose_line(y, x, image.shape, options["significance"])
        if line is None:
            break
        found |= _trail_pixels(residual, line, options)
        left = np.abs(_across(line, y, x)) > 3 * _BLOCK
        y, x = y[left], x[left]
    return found


def _bright_blocks(residual, usable):
    """Centres (px) of the blocks that outshine their surroundings, however brightly."""
    from scipy import ndimage

    clipped = np.where(usable, np.clip(residual, -5, 5), np.float32(0))
    ny, nx = (n // _BLOCK for n in residual.shape)
    inside = np.s_[: ny * _BLOCK, : nx * _BLOCK]
    total, number = (
        sum(rows[:, i::_BLOCK] for i in range(_BLOCK))
        for rows in (sum(p[inside][i::_BLOCK] for i in range(_BLOCK)) for p in (clipped, usable.astype(np.float32)))
    )
    blocks = total / np.sqrt(np.maximum(number, 1))
    blocks -= ndimage.median_filter(blocks, 11)
    y, x = np.nonzero(blocks > _BLOCK_SIGNIFICANCE)
    middle = (_BLOCK - 1) / 2
    return y * _BLOCK + middle, x * _BLOCK + middle


def _propose_line(y, x, shape, significance):
    """The line that most exceeds the number of blocks expected on it, or None."""
    if y.size < 10:
        return None
    ny, nx = shape
    step = 2 * _BLOCK
    radius = 0.5 * np.hypot(ny, nx)
    angles = np.arange(0, np.pi, step / (2 * radius))
    distances = int(2 * radius / step) + 3
    dx, dy = x - (nx - 1) / 2, y - (ny - 1) / 2
    counts = np.stack([_project(dx, dy, a, radius, step, distances) for a in angles])
    # a regular grid of points tells how long each line is inside the image
    gx, gy = (g.ravel() for g in np.meshgrid(*((np.arange(0, n, 16) - (n - 1) / 2) for n in (nx, ny))))
    length = np.stack([_project(gx, gy, a, radius, step, distances) for a in angles])
    expected = length * (y.size / gx.size)
    enough = length > 0.1 * length.max()
    excess = np.where(enough, (counts - expected) / np.sqrt(np.maximum(expected, 1)), 0)
    spread = max(1.0, 1.4826 * float(np.median(np.abs(excess[enough]))))
    i, j = np.unravel_index(np.argmax(excess), excess.shape)
    if excess[i, j] < significance * spread:
        return None
    distance = (j + 0.5) * step - radius - step
    normal = np.cos(angles[i]), np.sin(angles[i])
    return Line((nx - 1) / 2 + distance * normal[0], (ny - 1) / 2 + distance * normal[1], float(angles[i]) + np.pi / 2)


def _project(dx, dy, angle, radius, step, distances):
    """Number of points at each distance from the middle along the direction `angle`."""
    index = ((dx * np.cos(angle) + dy * np.sin(angle) + radius + step) / step).astype(np.intp)
    return np.bincount(index, minlength=distances)[:distances]


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
    for _ in range(3):
        profiles, along = _profiles(residual, line)
        if len(along) * _SEGMENT < options["min_length"]:
            return nothing
        profiles, noise = _without_surroundings(profiles)
        line = _refine(line, profiles, along, noise)
    first, last = _longest_run(profiles, noise)
    run = profiles[first:last]
    if (last - first) * _SEGMENT < options["min_length"]:
        return nothing
    across_image = first <= 2 and last >= len(along) - 2
    if not _is_even(run, _EVENNESS_ACROSS if across_image else _EVENNESS):
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


def _refine(line: Line, profiles, along, noise):
    """The line moved, turned and bent through the brightest parts of the profiles."""
    offset = np.arange(-_REACH, _REACH + 1)
    near = np.abs(offset) < _BORDER
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
    """First and past-last segment of the longest stretch of light that no more than two dark segments interrupt."""
    lit = np.flatnonzero(_core(profiles) > 3 * noise / np.sqrt(5))
    if not lit.size:
        return 0, 0
    runs = np.split(lit, np.flatnonzero(np.diff(lit) > 3) + 1)
    longest = max(runs, key=lambda run: (run.size, -run[0]))
    return int(longest[0]), int(longest[-1]) + 1


def _is_even(run, limit):
    """Whether the middles of the quarters of a run differ by less than a factor `limit`."""
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
    start = along[first] - _SEGMENT if first > 2 else -np.inf
    end = along[last - 1] + _SEGMENT if last < len(along) - 2 else np.inf
    position = (x - line.x) * np.cos(line.angle) + (y - line.y) * np.sin(line.angle)
    return (np.abs(_across(line, y, x)) <= half_width) & (position >= start) & (position <= end)
