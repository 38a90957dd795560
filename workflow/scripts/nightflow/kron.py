"""Kron photometry: the light of sources in ellipses whose size is measured on their own light.

Radii and fluxes are those of `photutils.segmentation.SourceCatalog`, whose import takes longer than all of this. The
pixels of many ellipses are measured together, as one list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_REACH = 6.0  # semi-axes of the ellipse in which the radius is measured; no larger one is believed
_LEAST_RADIUS = 1.4  # semi-axes
_PIXEL = 1 / 12  # variance of a position within a pixel
_AT_A_TIME = 1 << 16  # pixels in a list
_MOST_PIXELS = 1_000_000  # of the box about an ellipse, where the image has less


@dataclass(frozen=True)
class Ellipses:
    """Ellipses with the second moments of sources.

    Attributes
    ----------
    x, y : ndarray, shape (n,)
        Centres, 0-based px.
    a, b : ndarray, shape (n,)
        Semi-axes, the standard deviations along them, px.
    theta : ndarray, shape (n,)
        Angle from the x axis to the major one, radians.
    """

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    b: np.ndarray
    theta: np.ndarray

    def boxes(self, scale) -> tuple[np.ndarray, np.ndarray]:
        """First pixel of the boxes about the ellipses times `scale`, and the one behind the last, rows x and y."""
        axes, direction = (scale * self.a, scale * self.b), (np.cos(self.theta), np.sin(self.theta))
        reach = [np.hypot(axes[0] * c, axes[1] * s) for c, s in (direction, direction[::-1])]
        middle = np.array([self.x, self.y])
        return np.floor(middle - reach + 0.5), np.floor(middle + reach + 1.5)

    def exceed(self, scale, shape: tuple[int, int]) -> np.ndarray:
        """Which of these boxes have more pixels than the image, and than a million."""
        return np.prod(np.diff(self.boxes(scale), axis=0)[0], axis=0) > max(np.prod(shape), _MOST_PIXELS)

    def turned(self, which, dx, dy) -> tuple[np.ndarray, np.ndarray]:
        """Offsets from the centres of some ellipses along their axes, in semi-axes."""
        cosine, sine = np.cos(self.theta), np.sin(self.theta)
        u = (cosine / self.a)[which] * dx + (sine / self.a)[which] * dy
        return u, (cosine / self.b)[which] * dy - (sine / self.b)[which] * dx


def moments(image: np.ndarray, labels: np.ndarray) -> Ellipses:
    """Ellipses of segments.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Pixels, positive in the segments.
    labels : ndarray of int, shape (ny, nx)
        Segments numbered from 1 on, 0 where there is none.

    References
    ----------
    Bertin & Arnouts (1996), A&AS 117, 393; widened where it is as thin as a pixel, as SExtractor does.
    """
    place = np.flatnonzero(labels > 0)
    which, light = labels.ravel()[place] - 1, image.ravel()[place].astype(float)
    y, x = np.divmod(place, labels.shape[1])
    total = np.bincount(which, light)
    centre_x, centre_y = (np.bincount(which, light * c) / total for c in (x, y))
    dx, dy = x - centre_x[which], y - centre_y[which]
    xx, yy, xy = (np.bincount(which, light * product) / total for product in (dx * dx, dy * dy, dx * dy))
    while (thin := xx * yy - xy**2 < _PIXEL**2).any():
        xx, yy = (np.where(thin, moment + _PIXEL, moment) for moment in (xx, yy))
    middle, root = 0.5 * (xx + yy), np.hypot(0.5 * (xx - yy), xy)
    theta = 0.5 * np.arctan2(2 * xy, xx - yy)
    return Ellipses(centre_x, centre_y, np.sqrt(middle + root), np.sqrt(middle - root), theta)


def measure(data, noise, smooth, labels, factor: float) -> dict[str, np.ndarray]:
    """Kron radii and fluxes of segments.

    Where another source covers a pixel, what is opposite to it with respect to the centre takes its place.

    Parameters
    ----------
    data, noise : ndarray, shape (ny, nx)
        Pixels without sky and their standard deviations; both 0 where they are not known.
    smooth : ndarray, shape (ny, nx)
        Image in which the segments were found, positive there.
    labels : ndarray of int, shape (ny, nx)
        Segments numbered from 1 on, 0 where there is none.
    factor : float
        Semi-axes of the ellipses of the fluxes, in those of the segments times the Kron radius.

    Returns
    -------
    dict of str to ndarray, shape (n,)
        ``kron_flux`` and ``kron_flux_err``, in the unit of the image, and ``kron_radius``, in semi-axes; NaN where the
        light has no end within six semi-axes, or where the ellipse is larger than the image.

    References
    ----------
    Kron (1980), ApJS 43, 305.
    """
    ellipses = moments(smooth, labels)
    radius = _radii(ellipses, data, labels)
    scale, n = factor * np.nan_to_num(radius, nan=_LEAST_RADIUS), len(radius)
    flux, variance = np.zeros(n), np.zeros(n)
    for which, u, v, place, known in _pixels(ellipses, scale, labels):
        share = _overlap(ellipses, scale, which, u, v) * known
        flux += np.bincount(which, share * data.ravel()[place], n)
        variance += np.bincount(which, share * noise.ravel()[place] ** 2, n)
    seen = np.isfinite(radius) & (variance > 0) & ~ellipses.exceed(scale, labels.shape)
    flux, error = np.where(seen, flux, np.nan), np.where(seen, np.sqrt(variance), np.nan)
    return {"kron_flux": flux, "kron_flux_err": error, "kron_radius": radius}


def _radii(ellipses: Ellipses, data, labels) -> np.ndarray:
    """Mean distances from the centres, in semi-axes and weighted with the light, within six of them."""
    n = len(ellipses.x)
    weighted, light = np.zeros(n), np.zeros(n)
    for which, u, v, place, known in _pixels(ellipses, np.full(n, _REACH), labels):
        distance = np.sqrt(u * u + v * v)
        values = data.ravel()[place] * (known & (distance <= _REACH))
        weighted += np.bincount(which, distance * values, n)
        light += np.bincount(which, values, n)
    with np.errstate(divide="ignore", invalid="ignore"):
        radius = np.where((weighted > 0) & (light > 0), weighted / light, _LEAST_RADIUS)
    unknown = (radius > _REACH) | ellipses.exceed(_REACH, labels.shape)
    return np.where(unknown, np.nan, np.maximum(radius, _LEAST_RADIUS))


def _pixels(ellipses: Ellipses, scale, labels) -> Iterator[tuple]:
    """Lists of the pixels in boxes about the ellipses times `scale`.

    Yields
    ------
    which : ndarray of int
        Number of the ellipse.
    u, v : ndarray
        Offset from its centre along its axes, in semi-axes.
    place : ndarray of int
        The pixel, or the one opposite to it, in the flattened image.
    known : ndarray of bool
        False where both are other sources' or the opposite one is outside of the box.
    """
    owner, nx = labels.ravel(), labels.shape[1]
    size = np.array(labels.shape[::-1])[:, None]
    (left, top), (right, bottom) = (np.clip(p, 0, size).astype(np.int32) for p in ellipses.boxes(scale))
    middle_x, middle_y = (np.floor(c + 0.5).astype(np.int32) for c in (ellipses.x, ellipses.y))
    width = right - left
    number = width * (bottom - top)
    ends = np.cumsum(number, dtype=np.int64)
    for group in np.split(np.arange(len(number)), np.flatnonzero(np.diff(ends // _AT_A_TIME)) + 1):
        which = np.repeat(group, number[group])
        begins = np.cumsum(number[group]) - number[group]
        row, column = np.divmod(np.arange(which.size) - np.repeat(begins, number[group]), width[which])
        x, y = left[which] + column, top[which] + row
        place, known = y * nx + x, np.ones(which.size, bool)
        own = owner[place]
        others = np.flatnonzero((own != 0) & (own != which + 1))
        of = which[others]
        opposite_x, opposite_y = 2 * middle_x[of] - x[others], 2 * middle_y[of] - y[others]
        inside = (
            (opposite_x >= left[of]) & (opposite_x < right[of]) & (opposite_y >= top[of]) & (opposite_y < bottom[of])
        )
        opposite = np.where(inside, opposite_y * nx + opposite_x, 0)
        known[others] = inside & ((owner[opposite] == 0) | (owner[opposite] == of + 1))
        place[others] = opposite
        yield which, *ellipses.turned(which, x - ellipses.x[which], y - ellipses.y[which]), place, known


def _overlap(ellipses: Ellipses, scale, which, u, v) -> np.ndarray:
    """Share of each pixel that is within its ellipse times `scale`: where its edge crosses it, the exact area."""
    radius, corner = np.sqrt(u * u + v * v), np.sqrt(0.5) / ellipses.b[which]  # no corner is farther from the middle
    share = (radius < scale[which]).astype(float)
    crossed = np.flatnonzero(np.abs(radius - scale[which]) < corner)
    which = which[crossed]
    corners = [ellipses.turned(which, dx, dy) for dx, dy in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))]
    corners = [((u[crossed] + du) / scale[which], (v[crossed] + dv) / scale[which]) for du, dv in corners]
    area = sum(_sector(*one, *other) for one, other in zip(corners, (*corners[1:], corners[0]), strict=True))
    share[crossed] = area * (ellipses.a * ellipses.b * scale**2)[which]
    return share


def _sector(u0, v0, u1, v1) -> np.ndarray:
    """Area of the unit circle in triangles between its centre and lines, negative where these run clockwise.

    Up to where a line enters the circle, and from where it leaves it, the triangle's part is a sector; between, all.
    """
    du, dv = u1 - u0, v1 - v0
    squared, length, along, across = u0**2 + v0**2, du**2 + dv**2, u0 * du + v0 * dv, u0 * v1 - v0 * u1
    root = np.sqrt(np.maximum(along**2 - length * (squared - 1), 0))
    enters, leaves = (np.clip((sign * root - along) / length, 0, 1) for sign in (-1, 1))
    before = np.arctan2(enters * across, squared + enters * along)
    after = np.arctan2((1 - leaves) * across, squared + along + leaves * (along + length))
    return 0.5 * (before + (leaves - enters) * across + after)
