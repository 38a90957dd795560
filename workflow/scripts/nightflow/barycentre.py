"""Times of observations as seen from the barycentre of the solar system: BJD in TDB.

Everything is computed from formulae that astropy brings along: no ephemeris and no table of the Earth's rotation is
read or fetched. The Earth's place is good to 0.05 ms of light travel time; a site that is unknown costs at most 21 ms.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

_LIGHT_DAY = 299792458.0 * 86400.0  # m
_JD_OF_MJD = 2400000.5


def bjd_tdb(mjd_utc, ra, dec, site: Mapping | None = None) -> np.ndarray:
    """Barycentric Julian Date in Barycentric Dynamical Time.

    Parameters
    ----------
    mjd_utc : array-like, shape (f,)
        Modified Julian Dates, UTC, of the middle of the exposures. NaN stays NaN.
    ra, dec : array-like, shape (s,)
        Directions of the stars, ICRS, degrees.
    site : mapping, optional
        ``latitude`` and ``longitude`` (degrees, east positive) and ``height`` (m); the geocentre where unknown.

    Returns
    -------
    ndarray, shape (s, f)
        Days.

    References
    ----------
    Eastman, Siverd & Gaudi (2010), PASP 122, 935: the light travel time of a distant star is the projection of the
    observer's barycentric position on its direction (their Roemer delay); the others are below 0.1 ms.
    """
    mjd = np.atleast_1d(np.asarray(mjd_utc, dtype=float))
    ra, dec = (np.radians(np.atleast_1d(np.asarray(angle, dtype=float))) for angle in (ra, dec))
    days = np.full((ra.size, mjd.size), np.nan)
    known = np.isfinite(mjd)
    if not known.any():
        return days
    tdb, position = _observer(mjd[known], site or {})
    direction = np.column_stack((np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)))
    days[:, known] = tdb + direction @ position / _LIGHT_DAY
    return days


def _observer(mjd: np.ndarray, site: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Julian dates in TDB, shape (f,), and barycentric positions of the observer in m, shape (3, f)."""
    import erfa
    from astropy import units as u
    from astropy.coordinates import EarthLocation
    from astropy.time import Time

    latitude, longitude = site.get("latitude"), site.get("longitude")
    known = latitude is not None and longitude is not None
    place = [np.radians(longitude), np.radians(latitude), site.get("height") or 0.0] if known else None
    location = EarthLocation.from_geodetic(longitude, latitude, place[2]) if known else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", erfa.ErfaWarning)  # dubious year: leap seconds to come are not known yet
        utc = Time(mjd, format="mjd", scale="utc", location=location)
        tdb, tt = utc.tdb, utc.tt
        earth = erfa.epv00(tdb.jd1, tdb.jd2)[1]["p"] * u.au.to(u.m)
        if known:
            # without polar motion, and UT1 taken as UTC: less than 0.5 km, 2 us
            turned = erfa.pvtob(*place, 0.0, 0.0, 0.0, erfa.era00(utc.jd1, utc.jd2))["p"]
            earth = earth + np.einsum("fij,fi->fj", erfa.c2i06a(tt.jd1, tt.jd2), turned)
    return np.asarray(tdb.mjd) + _JD_OF_MJD, earth.T
