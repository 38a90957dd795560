"""The solve stage: what it writes about a frame, solved or not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from skies import OPTIONS, make_sky

from nightflow import solving

SECTIONS = {
    "astrometry": OPTIONS,
    "reference_catalogue": {"magnitudes": {"V": {"magnitude": "V"}}, "system": "Vega"},
    "zero_points": {"colour_term": None, "spatial_term": False, "min_snr": 10.0},
}


@pytest.fixture
def sky():
    sky = make_sky(n=400, spurious=0.0)
    rng = np.random.default_rng(0)
    x, y = sky.plate.to_pixel(sky.catalogue.ra, sky.catalogue.dec)
    nearest = [int(np.argmin(np.hypot(x - a, y - b))) for a, b in zip(sky.sources["x"], sky.sources["y"], strict=True)]
    flux = 60 * 10 ** (-0.4 * (sky.catalogue.magnitude[nearest] - 24.0))
    sky.sources["flux_err"] = np.sqrt(flux + 500)
    sky.sources["flux"] = flux + sky.sources["flux_err"] * rng.standard_normal(len(flux))
    sky.catalogue = replace(sky.catalogue, error=np.full(len(sky.catalogue), 0.01))
    sky.header.update({"EXPTIME": 60.0, "SKYMED": 400.0, "SKYNOISE": 20.0, "BUNIT": "electron", "APRADIUS": 4.0})
    sky.row |= {"frame": "a", "target": "T", "filter": "V", "date_obs": "2024-01-01", "airmass": 1.2}
    return sky


def solve(sky, **changes):
    table = Table(sky.sources)
    solution, values = solving.solve_frame(table, sky.header, {**sky.row, **changes}, sky.catalogue, SECTIONS)
    return table, solution, values


def test_a_solved_frame(sky, tmp_path):
    table, solution, values = solve(sky)
    header = sky.header
    assert abs(header["MAGZP"] - 24.0) < 4 * header["MAGZPERR"] < 0.02 and header["MAGZPSRC"] == "catalogue"
    assert header["WCSSTAT"] == "SOLVED" and header["CTYPE1"] == "RA---TAN-SIP" and header["MAGSYS"] == "Vega"
    assert header["WCSNREF"] == len(solution.stars) > 200 and 0 < header["WCSRMS"] < 0.2
    assert np.hypot((values["ra"] - 150) * np.cos(np.radians(40)), values["dec"] - 40) < 1e-4
    assert 20 < values["sky_brightness"] < 23 and values["limiting_magnitude"] > 15 and values["remark"] == ""
    matched = sky.catalogue.magnitude[solution.reference]
    assert abs(np.median(np.asarray(table["mag"])[solution.stars] - matched)) < 0.02
    assert {name: str(table[name].unit) for name in ("ra", "rate", "mag")} == {
        "ra": "deg",
        "rate": "electron / s",
        "mag": "mag",
    }
    solving.write_zero_points(tmp_path / "a.tsv", [values])
    assert abs(solving.zero_point_of(tmp_path / "a.tsv") - header["MAGZP"]) < 1e-6


def test_an_unsolved_frame_goes_on_with_its_reason(sky, tmp_path):
    table, solution, values = solve(sky, ra=None)
    assert solution.plate is None and "MAGZP" not in sky.header and sky.header["WCSSTAT"] == "NOT SOLVED"
    assert "no pointing" in sky.header["WCSREASN"] and np.isnan(table["ra"]).all() and np.isnan(table["mag"]).all()
    assert values["remark"].startswith("not solved: no pointing") and "no zero point" in values["remark"]
    solving.write_zero_points(tmp_path / "a.tsv", [values])
    assert np.isnan(solving.zero_point_of(tmp_path / "a.tsv"))


def test_a_filter_without_magnitudes_is_said(sky):
    _, solution, values = solve(sky, filter="R")
    assert solution.status == "SOLVED" and "no entry for the filter R" in values["remark"]


def test_a_stack_takes_wcs_and_zero_point_but_nothing_else(sky, tmp_path):
    solve(sky)
    fits.PrimaryHDU(header=sky.header).writeto(tmp_path / "a.fits")
    cards = solving.stack_cards(tmp_path / "a.fits")
    assert {"CRVAL1", "CD1_1", "A_ORDER", "MAGZP", "WCSSTAT"} <= set(cards) and not {"EXPTIME", "APRADIUS"} & set(cards)


@pytest.mark.parametrize("method", ["mean", "kappa_sigma", "sum", "max", "entropy"])
def test_the_zero_point_of_a_stack(method):
    """Of a star of 1000 electrons on a 60 s reference frame and half of that on a 60 s frame through clouds."""
    header = fits.Header({"MAGZP": 24.0, "MAGZPERR": 0.01, "EXPTIME": 120.0 if method == "sum" else 60.0})
    solving.adapt_zero_point(header, method, [1.0, 2.0], 60.0)
    if method in ("max", "entropy"):
        assert not {"MAGZP", "MAGZPERR"} & set(header)
    else:
        flux = 1500.0 if method == "sum" else 1000.0
        magnitude = header["MAGZP"] - 2.5 * np.log10(flux / header["EXPTIME"])
        assert np.isclose(magnitude, 24.0 - 2.5 * np.log10(1000.0 / 60.0))


def test_no_table_no_zero_point():
    assert np.isnan(solving.zero_point_of(None))
