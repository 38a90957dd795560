"""Barycentric times against astropy's own transformation, offline and at any date."""

from __future__ import annotations

import numpy as np
import pytest

from nightflow import barycentre

WHIPPLE = {"latitude": 31.68, "longitude": -110.88, "height": 2606.0}


def test_agrees_with_astropy():
    """astropy's light travel time with its built-in ephemeris, for stars all over the sky, to 10 microseconds."""
    from astropy import units as u
    from astropy.coordinates import EarthLocation, SkyCoord
    from astropy.time import Time
    from astropy.utils import iers

    mjd, ra, dec = (
        np.array([51544.2, 58107.2, 60000.7]),
        np.array([31.04282, 210.0, 0.0]),
        np.array([46.688, -60.0, 89.0]),
    )
    place = EarthLocation.from_geodetic(WHIPPLE["longitude"], WHIPPLE["latitude"], WHIPPLE["height"])
    with iers.conf.set_temp("auto_download", False):
        time = Time(mjd, format="mjd", scale="utc", location=place)
        stars = SkyCoord(ra[:, None] * u.deg, dec[:, None] * u.deg)
        expected = (time.tdb + time.light_travel_time(stars, "barycentric", ephemeris="builtin")).mjd
    found = barycentre.bjd_tdb(mjd, ra, dec, WHIPPLE) - 2400000.5
    assert np.abs(found - expected).max() * 86400 < 1e-4  # what a double holds of a Julian date is 40 microseconds


def test_published_time():
    """2000 January 1.5 TDB in the direction of the ecliptic pole: the Sun's distance from the barycentre, no more."""
    found = barycentre.bjd_tdb([51544.5 - 64.184 / 86400], [270.0], [66.56])
    assert abs(found[0, 0] - 2451545.0) * 86400 < 3


@pytest.mark.parametrize("mjd", [40000.0, 64000.0, 75000.0])
def test_any_date_is_silent_and_offline(mjd, monkeypatch):
    import socket

    monkeypatch.setattr(socket, "socket", None)
    assert np.isfinite(barycentre.bjd_tdb([mjd], [10.0], [20.0], WHIPPLE)).all()


def test_unknown_site_costs_at_most_21_ms_and_unknown_times_stay_unknown():
    here, centre = (barycentre.bjd_tdb([58107.2, np.nan], [31.0], [46.7], site)[0] for site in (WHIPPLE, {}))
    assert 0 < abs(here[0] - centre[0]) * 86400 < 0.0215 and np.isnan(here[1])
