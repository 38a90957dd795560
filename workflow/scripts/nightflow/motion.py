"""Stacking on an object that moves: the shift that keeps it in place from frame to frame."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from astropy.io import fits

UNITS = ("arcsec/h", "px/h")


def velocity(motion: Mapping, cd_matrix: np.ndarray | None) -> np.ndarray | None:
    """Pixels per hour along x and y.

    Parameters
    ----------
    motion : mapping
        ``rate``, ``unit`` (``arcsec/h`` or ``px/h``) and ``position_angle`` (degrees): east of north on the sky, or, in
        pixels, from the upward direction counter-clockwise, which is the same with north up and east to the left.
    cd_matrix : ndarray, shape (2, 2), or None
        Degrees per pixel, of the grid.

    Returns
    -------
    ndarray, shape (2,), or None
        None where the rate is on the sky and the grid is not.
    """
    angle = np.radians(motion["position_angle"])
    if motion["unit"] == "px/h":
        return motion["rate"] * np.array([-np.sin(angle), np.cos(angle)])
    if cd_matrix is None:
        return None
    return np.linalg.inv(cd_matrix) @ (motion["rate"] / 3600 * np.array([np.sin(angle), np.cos(angle)]))


def middle(header: fits.Header) -> float:
    """MJD of the middle of an exposure; NaN where the header does not tell."""
    from astropy.time import Time

    start = header.get("MJD-OBS")
    if not isinstance(start, (int, float)):
        try:
            start = Time(str(header["DATE-OBS"]).strip(), scale="utc").mjd
        except (KeyError, ValueError):
            return np.nan
    exposure = header.get("EXPTIME", 0.0)
    return float(start) + (float(exposure) / 172800 if isinstance(exposure, (int, float)) else 0.0)


def cards(motion: Mapping, mjd: float) -> fits.Header:
    """What a stack says of the motion: rate, direction, and the time at which its sky coordinates hold."""
    header = fits.Header()
    header["MOVRATE"] = (float(motion["rate"]), f"[{motion['unit']}] rate of the object followed")
    header["MOVPA"] = (float(motion["position_angle"]), "[deg] position angle of its motion")
    header["MOVMJD"] = (round(mjd, 8), "[d] time at which the sky coordinates hold")
    return header
