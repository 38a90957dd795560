"""A common grid on the sky for frames with plate solutions: mosaics, several chips, scales, flips and distortions.

The grid is a plain gnomonic projection with square pixels, east to the left. What is not given in the configuration
is chosen from the frames: the middle of all, the finest of their pixels, north up, and all that they cover.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from astropy.io import fits

from nightflow import astrometry, plates
from nightflow.products import RejectedFrame


@dataclass(frozen=True)
class SolvedFrame:
    """A frame with a plate solution.

    Attributes
    ----------
    wcs : `~astropy.wcs.WCS`
    shape : tuple of int
        (ny, nx).
    rms : float
        Of the stars matched, arcsec; NaN where nothing was matched.
    n_matched : int
        Stars matched.
    """

    wcs: object
    shape: tuple[int, int]
    rms: float = np.nan
    n_matched: int = 0

    def to_sky(self, x, y) -> tuple[np.ndarray, np.ndarray]:
        """Right ascension and declination (degrees) of 0-based pixels."""
        return self.wcs.all_pix2world(x, y, 0)

    @property
    def pixel_scale(self) -> float:
        """Arcseconds per pixel in the middle, geometric mean of the axes."""
        ny, nx = self.shape
        x, y = (nx - 1) / 2 + np.array([0.0, 1.0, 0.0]), (ny - 1) / 2 + np.array([0.0, 0.0, 1.0])
        ra, dec = self.to_sky(x, y)
        xi, eta = plates.project(ra, dec, ra[0], dec[0])
        return float(3600 * np.sqrt(abs((xi[1] - xi[0]) * (eta[2] - eta[0]) - (xi[2] - xi[0]) * (eta[1] - eta[0]))))

    def outline(self) -> tuple[np.ndarray, np.ndarray]:
        """Right ascension and declination of points along the outer edges of the frame's pixels."""
        ny, nx = self.shape
        along = np.linspace(0, 1, 17)
        x = np.concatenate((along, along, np.zeros(17), np.ones(17))) * nx - 0.5
        y = np.concatenate((np.zeros(17), np.ones(17), along, along)) * ny - 0.5
        return self.to_sky(x, y)


def read_solution(path: str | os.PathLike, shape: tuple[int, int]) -> SolvedFrame:
    """Plate solution of a frame from its ``.head`` file.

    Raises
    ------
    RejectedFrame
        If the frame has none; says why.
    """
    from astropy.wcs import WCS

    head = astrometry.read_head(path)
    if "CRVAL1" not in head:
        raise RejectedFrame(f"no place on the sky: {head.get('WCSREASN', 'no plate solution')}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on the form of the header
        wcs = WCS(head)
    return SolvedFrame(wcs, shape, float(head.get("WCSRMS", np.nan)), int(head.get("WCSNREF", 0)))


@dataclass(frozen=True)
class SkyGrid:
    """Pixels on the plane tangent to the sky.

    Attributes
    ----------
    ra, dec : float
        Tangent point, degrees.
    x0, y0 : float
        Its pixel, 0-based.
    matrix : ndarray, shape (2, 2)
        The CD matrix, degrees per pixel.
    shape : tuple of int
        (ny, nx).
    """

    ra: float
    dec: float
    x0: float
    y0: float
    matrix: np.ndarray
    shape: tuple[int, int]

    def to_pixel(self, ra, dec) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (0-based) of positions in degrees."""
        x, y = np.linalg.inv(self.matrix) @ np.stack(plates.project(ra, dec, self.ra, self.dec))
        return x + self.x0, y + self.y0

    def to_sky(self, x, y) -> tuple[np.ndarray, np.ndarray]:
        """Right ascension and declination (degrees) of 0-based pixels."""
        offset = np.stack((np.asarray(x, dtype=float) - self.x0, np.asarray(y, dtype=float) - self.y0))
        return plates.deproject(*(self.matrix @ offset), self.ra, self.dec)

    def header(self) -> fits.Header:
        """Size and sky coordinates as FITS cards."""
        header = fits.Header()
        header["NAXIS1"], header["NAXIS2"] = self.shape[1], self.shape[0]
        header["WCSAXES"] = 2
        header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
        header["CUNIT1"], header["CUNIT2"] = "deg", "deg"
        header["CRVAL1"], header["CRVAL2"] = self.ra, self.dec
        header["CRPIX1"], header["CRPIX2"] = self.x0 + 1, self.y0 + 1
        for i in (1, 2):
            for j in (1, 2):
                header[f"CD{i}_{j}"] = float(self.matrix[i - 1, j - 1])
        header["RADESYS"], header["EQUINOX"] = "ICRS", 2000.0
        return header


def read_grid(header: fits.Header) -> SkyGrid:
    """The grid of `SkyGrid.header`."""
    matrix = np.array([[header[f"CD{i}_{j}"] for j in (1, 2)] for i in (1, 2)])
    return SkyGrid(
        header["CRVAL1"], header["CRVAL2"], header["CRPIX1"] - 1, header["CRPIX2"] - 1, matrix,
        (header["NAXIS2"], header["NAXIS1"]),
    )  # fmt: skip


def transform(frame: SolvedFrame, grid: SkyGrid) -> Callable:
    """Function from 0-based pixels of a frame to pixels of the grid."""
    return lambda x, y: grid.to_pixel(*frame.to_sky(x, y))


def corrected(to_grid: Callable, matrix: np.ndarray) -> Callable:
    """A transform followed by a matrix, shape (3, 3)."""

    def both(x, y):
        x, y = to_grid(x, y)
        return matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2], matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]

    return both


def choose(frames: Mapping[str, SolvedFrame], options: Mapping) -> SkyGrid:
    """Grid for a group of frames.

    Parameters
    ----------
    frames : mapping of str to `SolvedFrame`
    options : mapping
        ``center`` ([ra, dec], degrees), ``pixel_scale`` (arcsec), ``position_angle`` (degrees, of the upward direction,
        east of north), ``size`` ([nx, ny], pixels) and ``max_size`` (pixels along an axis); None, where there may be
        none, leaves the choice to the frames.

    Raises
    ------
    RejectedFrame
        If the frames lie too far apart for a grid.
    """
    outlines = {name: np.array(frame.outline()) for name, frame in frames.items()}
    ra, dec = options["center"] or _middle(np.concatenate(list(outlines.values()), axis=1))
    scale = (options["pixel_scale"] or min(frame.pixel_scale for frame in frames.values())) / 3600
    angle = np.radians(options["position_angle"])
    matrix = scale * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    about = SkyGrid(float(ra), float(dec), 0.0, 0.0, matrix, (0, 0))
    places = {name: np.stack(about.to_pixel(*outline)) for name, outline in outlines.items()}
    low, high = _extent(places, options)
    if options["size"]:
        size = np.array(options["size"])
        low = (low + high - size + 1) / 2
    else:
        size = (high - low + 1).astype(int)
    if size.max() > options["max_size"]:
        raise RejectedFrame(
            f"its frames cover {size[0]} x {size[1]} px of {3600 * scale:.3g} arcsec, {_farthest(places)} farthest "
            f"from the others, and registration.grid.max_size is {options['max_size']}"
        )
    return SkyGrid(about.ra, about.dec, float(-low[0]), float(-low[1]), matrix, (int(size[1]), int(size[0])))


def _middle(positions: np.ndarray) -> tuple[float, float]:
    """Mean direction of positions (degrees), shape (2, n), whatever pole or origin they surround."""
    ra, dec = np.radians(positions)
    x, y, z = (c.mean() for c in (np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)))
    return float(np.degrees(np.arctan2(y, x)) % 360), float(np.degrees(np.arctan2(z, np.hypot(x, y))))


def _extent(places: Mapping[str, np.ndarray], options: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """First and last pixel along x and y: of all frames, or as much as needed to either side of a given centre."""
    everything = np.concatenate(list(places.values()), axis=1)
    if not np.isfinite(everything).all():
        raise RejectedFrame("its frames lie on more than one half of the sky")
    # half a pixel beyond the centres of the outermost pixels
    low, high = np.floor(everything.min(axis=1) + 0.5), np.ceil(everything.max(axis=1) - 0.5)
    if options["center"]:
        high = np.maximum(np.abs(low), np.abs(high))
        low = -high
    return low, high


def _farthest(places: Mapping[str, np.ndarray]) -> str:
    middles = {name: place.mean(axis=1) for name, place in places.items()}
    centre = np.median(list(middles.values()), axis=0)
    return max(middles, key=lambda name: float(np.hypot(*(middles[name] - centre))))
