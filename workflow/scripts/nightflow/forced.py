"""Forced photometry: where the stars of a catalogue are on a frame, and what the pixels there add up to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from nightflow import packages, products, sources
from nightflow.products import UNUSABLE, Image, MaskBit, RejectedFrame

_MATCH_RADIUS = 3.0  # px of the first match to the frame's own sources
_LEAST_SHARE = 0.3  # of the frame's bright sources that the catalogue must explain
_BRIGHT = 100  # sources of the frame that are looked for in the catalogue
_FINE = 400  # sources that the positions are refined on
# Least number of matched sources for polynomials of degree 0, 1, 2 and 3.
_LEAST_FOR_DEGREE = (3, 8, 30, 80)
#: Mask bits that make a flux wrong. A cosmic ray keeps its pixels' values unless they were replaced: on undersampled
#: frames the sharp cores of bright stars are taken for rays, and a true ray shows as an outlier of the light curve.
SPOILT = int((UNUSABLE & ~MaskBit.COSMIC_RAY) | MaskBit.SATURATED | MaskBit.NONLINEAR | MaskBit.INTERPOLATED)
_CHUNK = 2000  # stars whose annuli are held at once
_ROUNDS = 5


@dataclass(frozen=True)
class Measurement:
    """Sums in apertures on one frame.

    Attributes
    ----------
    x, y : ndarray, shape (n,)
        Centres, 0-based px; NaN beyond the frame.
    flux, error : ndarray, shape (n, apertures)
        Above the local sky, in the unit of the frame; NaN where an aperture reaches beyond the frame.
    flags : ndarray of int, shape (n, apertures)
        Mask bits of the pixels in the aperture.
    sky : ndarray, shape (n,)
        Local sky that was subtracted, of what the sky step left, per px.
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    error: np.ndarray
    flags: np.ndarray
    sky: np.ndarray


def place(x, y, frame_sources, guesses: Iterable[Callable]) -> tuple[np.ndarray, np.ndarray, float, int]:
    """Positions of catalogue stars on a frame.

    The first guess that brings the catalogue onto the frame's own sources is refined: a polynomial of low degree takes
    up distortion, refraction and a drift of the transform. Single stars keep the common solution; none is centred on
    its own noise.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        Positions in the catalogue, px, brightest star first.
    frame_sources : table
        Of the frame, brightest first: ``x``, ``y`` and ``snr``.
    guesses : iterable of callable
        Each takes ``x, y`` of the catalogue and returns those on the frame.

    Returns
    -------
    x, y : ndarray, shape (n,)
        On the frame, 0-based px.
    rms : float
        Of the sources about the solution, px; NaN without any.
    n : int
        Sources behind the refinement.

    Raises
    ------
    RejectedFrame
        If no guess explains the frame's sources.
    """
    own = np.column_stack([np.asarray(frame_sources[name], dtype=float)[:_FINE] for name in ("x", "y")])
    for guess in guesses:
        try:
            on_frame = np.column_stack(guess(x, y))
        except RejectedFrame:
            continue
        i, j = _matches(on_frame, own, _MATCH_RADIUS)
        bright = min(len(own), _BRIGHT)
        if bright >= _LEAST_FOR_DEGREE[0] and (j < bright).sum() < _LEAST_SHARE * bright:
            continue
        refined, rms, n = _refined(on_frame, own, i, j)
        return refined[:, 0], refined[:, 1], rms, n
    raise RejectedFrame("the stars of the catalogue are not found on this frame")


def _matches(on_frame: np.ndarray, own: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of catalogue and frame that are each other's nearest within `radius`."""
    from scipy.spatial import KDTree

    inside = np.flatnonzero(np.isfinite(on_frame).all(axis=1))
    if not len(own) or not len(inside):
        return np.zeros(0, int), np.zeros(0, int)
    catalogue = KDTree(on_frame[inside])
    distance, i = catalogue.query(own)
    _, back = KDTree(own).query(on_frame[inside])
    j = np.flatnonzero((distance <= radius) & (back[i] == np.arange(len(own))))
    return inside[i[j]], j


def _refined(on_frame: np.ndarray, own: np.ndarray, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Positions with the polynomial through the offsets of the matched sources added."""
    if len(i) < _LEAST_FOR_DEGREE[0]:
        return on_frame, np.nan, len(i)
    offset = own[j] - on_frame[i]
    offset_of_all = np.median(offset, axis=0)
    kept = np.hypot(*(offset - offset_of_all).T) < 2.0
    degree = sum(kept.sum() >= least for least in _LEAST_FOR_DEGREE) - 1
    middle, scale = own.mean(axis=0), np.ptp(own, axis=0).max() / 2 or 1.0
    for _ in range(_ROUNDS):
        degree = min(degree, sum(kept.sum() >= least for least in _LEAST_FOR_DEGREE) - 1)
        if degree < 0:
            return on_frame, np.nan, len(i)
        coefficients = np.linalg.lstsq(_terms((on_frame[i[kept]] - middle) / scale, degree), offset[kept], rcond=None)[
            0
        ]
        distance = np.hypot(*(offset - _terms((on_frame[i] - middle) / scale, degree) @ coefficients).T)
        inside = distance < max(4 * float(np.median(distance[kept])), 0.1)
        if np.array_equal(inside, kept):
            break
        kept = inside
    # beyond the matched sources the polynomial is held at the edge of where they are
    low, high = own[j[kept]].min(axis=0), own[j[kept]].max(axis=0)
    moved = on_frame + _terms((np.clip(on_frame, low, high) - middle) / scale, degree) @ coefficients
    return moved, float(np.sqrt(np.mean(distance[kept] ** 2))), int(kept.sum())


def _terms(position: np.ndarray, degree: int) -> np.ndarray:
    x, y = position.T
    return np.column_stack([x**p * y ** (d - p) for d in range(degree + 1) for p in range(d + 1)])


def measure(image: Image | str | os.PathLike, x, y, radii, annulus: tuple[float, float]) -> Measurement:
    """Aperture photometry at given positions, above the local sky.

    Parameters
    ----------
    image : `~nightflow.products.Image` or path-like
        Sky-subtracted frame.
    x, y : ndarray, shape (n,)
        0-based px.
    radii : sequence of float
        Of the apertures, px.
    annulus : tuple of float
        Inner and outer radius of the ring that the local sky is measured in, px.

    Raises
    ------
    RejectedFrame
        If `image` is the path of a rejected frame.
    """
    with packages.quick_photutils():
        from photutils.aperture import CircularAperture

    image = image if isinstance(image, Image) else products.read_image(image)
    ny, nx = image.shape
    x, y = (np.asarray(c, dtype=float) for c in (x, y))
    unknown = ~np.isfinite(image.data) | ~np.isfinite(image.uncertainty)
    bad = unknown | ((image.mask & (int(UNUSABLE) & SPOILT)) != 0)
    shape = (len(x), len(radii))
    flux, error, flags = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=np.int32)
    with np.errstate(invalid="ignore"):
        inside = np.flatnonzero((x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5))
    sky, sky_error = np.full(len(x), np.nan), np.full(len(x), np.nan)
    no_sky = unknown | ((image.mask & int(UNUSABLE)) != 0)
    sky[inside], sky_error[inside] = local_sky(image.data, no_sky, x[inside], y[inside], annulus)
    level, level_error = (np.nan_to_num(c[inside]) for c in (sky, sky_error))
    light, noise = (np.where(bad, np.float32(0), plane) for plane in (image.data, image.uncertainty))
    edge = np.minimum(np.minimum(x, nx - 1 - x), np.minimum(y, ny - 1 - y))[inside] + 0.5
    for k, radius in enumerate(radii if len(inside) else ()):
        aperture = CircularAperture(np.column_stack((x[inside], y[inside])), radius)
        total, total_error = aperture.do_photometry(light, error=noise)
        area, whole = np.pi * radius**2, edge >= radius
        flux[inside, k] = np.where(whole, total - level * area, np.nan)
        error[inside, k] = np.where(whole, np.hypot(total_error, level_error * area), np.nan)
        flags[inside, k] = flags_within(image.mask, x[inside], y[inside], radius)
    gone = np.setdiff1d(np.arange(len(x)), inside)
    x, y = x.copy(), y.copy()
    x[gone] = y[gone] = np.nan
    return Measurement(x, y, flux, error, flags, sky)


def flags_within(mask: np.ndarray, x, y, radius: float) -> np.ndarray:
    """All mask bits of the pixels whose middle lies within `radius` of each position, shape (n,)."""
    half = int(np.ceil(radius))
    offset = np.arange(-half, half + 1)
    flags = np.zeros(len(x), dtype=np.int32)
    for start in range(0, len(x), _CHUNK):
        part = slice(start, start + _CHUNK)
        dx, dy = (np.rint(c[part]) - c[part] for c in (x, y))
        near = np.hypot((dy[:, None] + offset)[:, :, None], (dx[:, None] + offset)[:, None, :]) <= radius
        bits = sources.stamps(mask, x[part], y[part], half)
        flags[part] = np.bitwise_or.reduce(np.where(near, bits, 0), axis=(1, 2))
    return flags


def local_sky(data: np.ndarray, bad: np.ndarray, x, y, annulus: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Clipped median of the pixels in a ring about each position, and its standard error.

    The clipping limit is three standard deviations as the fainter half of the pixels shows them, which neighbours do
    not widen. NaN where fewer than ten pixels are left.

    Returns
    -------
    level, error : ndarray, shape (n,)
    """
    inner, outer = annulus
    half = int(np.ceil(outer))
    dy, dx = np.mgrid[-half : half + 1, -half : half + 1]
    ring = (np.hypot(dx, dy) >= inner) & (np.hypot(dx, dy) <= outer)
    padded = np.pad(np.where(bad, np.nan, data).astype(np.float32), half, constant_values=np.nan)
    column, row = (np.rint(c).astype(int) + half for c in (x, y))
    level, error = np.full(len(x), np.nan), np.full(len(x), np.nan)
    for start in range(0, len(x), _CHUNK):
        part = slice(start, start + _CHUNK)
        values = np.sort(padded[row[part, None] + dy[ring], column[part, None] + dx[ring]], axis=1)
        level[part], error[part] = _clipped_median(values)
    return level, error


def _clipped_median(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clipped median of each row of sorted values (NaN last), and its standard error."""
    rows = np.arange(len(values))
    first, last = np.zeros(len(values), int), np.isfinite(values).sum(axis=1)
    for _ in range(_ROUNDS):
        number = last - first
        median = values[rows, np.clip(first + number // 2, 0, values.shape[1] - 1)]
        lower = values[rows, np.clip(first + (0.1587 * number).astype(int), 0, values.shape[1] - 1)]
        sigma = median - lower
        with np.errstate(invalid="ignore"):
            low = (values < (median - 3 * sigma)[:, None]).sum(axis=1)
            high = (values <= (median + 3 * sigma)[:, None]).sum(axis=1)
        if np.array_equal(low, first) and np.array_equal(high, last):
            break
        first, last = low, high
    number = last - first
    with np.errstate(invalid="ignore", divide="ignore"):
        error = sigma * np.sqrt(np.pi / 2 / number)
    enough = number >= 10
    return np.where(enough, median, np.nan), np.where(enough, error, np.nan)


def from_matrix(matrix: np.ndarray) -> Callable:
    """Guess from a frame's transform to the catalogue's grid, shape (3, 3)."""
    inverse = np.linalg.inv(matrix)

    def guess(x, y):
        return inverse[:2, :2] @ np.array([x, y]) + inverse[:2, 2:]

    return guess


def from_sky(ra, dec, header: Mapping) -> Callable:
    """Guess from sky positions (degrees) and a frame's WCS."""
    from nightflow.pointing import celestial_wcs

    def guess(x, y):
        wcs = celestial_wcs(header)
        if wcs is None:
            raise RejectedFrame("no plate solution")
        return wcs.all_world2pix(ra, dec, 0, quiet=True)

    return guess


def from_stars(frame_sources, catalogue, options: Mapping) -> Callable:
    """Guess from asterisms that the frame and the catalogue share; sought only when it is asked for."""
    from nightflow import registration
    from nightflow.crossmatch import star_list

    def guess(x, y):
        found = registration.find_transform(frame_sources, star_list(catalogue), options)
        return from_matrix(found.matrix)(x, y)

    return guess
