"""Plate solutions: right ones are found wherever the frame really points, wrong ones never."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from skies import OPTIONS, distorted_plate, make_sky

from nightflow import astrometry, plates


def solve(sky, **options):
    return astrometry.solve(sky.sources, sky.header, sky.row, sky.catalogue, {**OPTIONS, **options})


CASES = {
    "plain": {},
    "turned": {"angle": 213.0},
    "mirrored": {"mirrored": True},
    "larger scale": {"true_scale": 1.1},
    "smaller scale": {"true_scale": 0.9},
    "a degree off": {"off": 1.0},
    "a degree off, larger scale": {"off": 1.0, "true_scale": 1.1, "angle": 100.0},
    "pixels not square": {"scale": (1.7, 1.3)},
    "pixels not square, mirrored": {"scale": (1.3, 1.7), "mirrored": True},
    "crowded": {"n": 1500},
}


@pytest.mark.parametrize("case", CASES)
def test_a_distorted_field_is_solved_to_its_corners(case):
    sky = make_sky(**CASES[case])
    solution = solve(sky)
    assert solution.status == astrometry.SOLVED, solution.reason
    print(f"{case}: {sky.error(solution.plate):.3f} px at worst, {len(solution.stars)} stars")
    assert sky.error(solution.plate) < 0.25
    assert 0.05 < solution.rms / solution.plate.pixel_scale < 0.1  # 0.05 px in x and in y
    separation = np.hypot(
        (sky.catalogue.ra - 150)[solution.reference] * np.cos(np.radians(40)),
        (sky.catalogue.dec - 40)[solution.reference],
    )
    assert separation.max() < 1


@pytest.mark.parametrize("seed", range(4))
def test_eight_stars_are_enough(seed):
    sky = make_sky(seed=seed, n=8, lost=0.0, spurious=0.0, corner=0.0)
    assert len(sky.sources["x"]) >= 4
    solution = solve(sky)
    if len(sky.sources["x"]) >= 6:
        assert solution.status == astrometry.SOLVED and sky.error(solution.plate) < 1
    else:
        assert solution.status == astrometry.NOT_SOLVED or sky.error(solution.plate) < 1


@pytest.mark.parametrize("n", [8, 60, 250])
@pytest.mark.parametrize("seed", range(3))
def test_a_field_that_is_not_in_the_catalogue_is_not_solved(n, seed):
    sky, other = make_sky(seed=seed, n=n), make_sky(seed=seed + 50, n=n)
    sky.catalogue = other.catalogue
    solution = solve(sky)
    assert solution.status == astrometry.NOT_SOLVED and solution.plate is None
    assert solution.reason.startswith("not solved: ")


@pytest.mark.parametrize(
    "change, options, reason",
    [
        (lambda sky: sky.row.update(ra=None), {}, "no pointing"),
        (lambda sky: sky.header.remove("PIXSCAL1"), {}, "no pixel scale"),
        (lambda sky: setattr(sky, "catalogue", None), {}, "no reference catalogue"),
        (lambda sky: setattr(sky, "catalogue", sky.catalogue[:0]), {}, "no reference stars around the pointing"),
        (lambda sky: setattr(sky, "sources", {k: v[:1] for k, v in sky.sources.items()}), {}, "1 star on the frame"),
        (lambda sky: None, {"engine": "header"}, "the header has no WCS"),
    ],
)
def test_what_is_missing_is_said(change, options, reason):
    sky = make_sky()
    change(sky)
    solution = solve(sky, **options)
    assert solution.status == astrometry.NOT_SOLVED and reason in solution.reason


def test_one_star_in_the_field_is_said():
    sky = make_sky(off=0.001)
    middle = np.argsort(np.hypot(sky.catalogue.ra - 150, sky.catalogue.dec - 40))[:1]
    far = np.flatnonzero(np.abs(sky.catalogue.dec - 40) > 0.5)[:20]
    sky.catalogue = sky.catalogue[np.append(middle, far)]
    assert solve(sky).reason == "not solved: 1 reference star in the field"


def test_configured_pointing_and_scale_go_before_the_header():
    sky = make_sky()
    sky.row, sky.header["PIXSCAL1"] = {"ra": 10.0, "dec": -40.0}, 7.0
    solution = solve(sky, ra=150.0, dec=40.0, pixel_scale=[1.0, 1.0])
    assert solution.status == astrometry.SOLVED and sky.error(solution.plate) < 0.25


def test_the_engine_is_checked():
    with pytest.raises(ValueError, match="astrometry.engine is 'magic'"):
        solve(make_sky(), engine="magic")


def with_wcs(sky, shift=0.0):
    cards = plates.sip_header(sky.plate, sky.shape)
    cards["CRPIX1"] += shift
    sky.header.update(cards)
    return sky


def test_engine_header_trusts_the_wcs_without_a_catalogue():
    sky = with_wcs(make_sky())
    sky.catalogue = None
    solution = solve(sky, engine="header")
    assert solution.status == astrometry.HEADER and sky.error(solution.plate) < 1e-3


def test_engine_header_refines_a_wcs_that_is_a_little_off():
    sky = with_wcs(make_sky(), shift=5.0)
    solution = solve(sky, engine="header")
    assert solution.status == astrometry.SOLVED and sky.error(solution.plate) < 0.25
    assert abs(solve(sky, engine="header", refine=False).plate.to_pixel(150.0, 40.0)[0][0] - 604.5) < 0.1


def test_engine_header_takes_no_wrong_wcs():
    sky = with_wcs(make_sky(), shift=300.0)
    assert "does not fit the catalogue" in solve(sky, engine="header").reason


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("mirrored", [False, True])
def test_sip_tpv_and_the_plate_are_the_same(order, mirrored):
    """wcslib reads both headers as the plate means them, to far better than 0.01 px; pixels are 1-based there."""
    shape = (900, 1300)
    true = distorted_plate(shape, (2.0, 1.5), 20.0, mirrored, 15.0, ra=359.9, dec=-70.0)
    x, y = (c.ravel() for c in np.meshgrid(np.linspace(0, 1299, 7), np.linspace(0, 899, 7)))
    plate = plates.fit(x, y, *true.to_sky(x, y), order, shape, (0.1, -70.2))
    ra, dec = plate.to_sky(x, y)
    for make in (plates.sip_header, plates.tpv_header):
        header = make(plate, shape)
        assert header["CTYPE1"].endswith("-SIP") == (order > 1 and make is plates.sip_header)
        wcs = WCS(header)
        found = wcs.all_pix2world(x + 1, y + 1, 1)
        apart = np.hypot((found[0] - ra + 180) % 360 - 180, found[1] - dec) * 3600 / 1.5
        assert apart.max() < 1e-4
    back = plate.to_pixel(ra, dec)
    assert np.hypot(back[0] - x, back[1] - y).max() < 1e-5


def test_the_inverse_sip_polynomial_is_good_over_the_frame():
    shape = (900, 1300)
    plate = distorted_plate(shape, (1.0, 1.0), 0.0, False, 5.0)
    x, y = (c.ravel() for c in np.meshgrid(np.linspace(0, 1299, 7), np.linspace(0, 899, 7)))
    wcs = WCS(plates.sip_header(plate, shape))
    focal = wcs.wcs_world2pix(np.column_stack(plate.to_sky(x, y)), 0) - (wcs.wcs.crpix - 1)
    header = plates.sip_header(plate, shape)
    u, v = focal.T
    du = sum(header[f"AP_{p}_{q}"] * u**p * v**q for p, q in plates.powers(header["AP_ORDER"]))
    dv = sum(header[f"BP_{p}_{q}"] * u**p * v**q for p, q in plates.powers(header["BP_ORDER"]))
    assert np.hypot(u + du + 649.5 - x, v + dv + 449.5 - y).max() < 0.01


def test_projection_and_its_inverse():
    rng = np.random.default_rng(3)
    ra, dec = rng.uniform(100, 120, 50), rng.uniform(60, 75, 50)
    xi, eta = plates.project(ra, dec, 110.0, 68.0)
    back = plates.deproject(xi, eta, 110.0, 68.0)
    np.testing.assert_allclose(back, (ra, dec), atol=1e-10)
    assert np.isnan(plates.project(290.0, -68.0, 110.0, 68.0)[0])


def test_a_head_file_survives_writing_and_reading(tmp_path):
    sky = make_sky()
    solution = solve(sky)
    cards = astrometry.head_cards(solution)
    astrometry.write_head(tmp_path / "frame.head", cards)
    text = (tmp_path / "frame.head").read_text()
    assert text.endswith("\nEND\n") and "RA---TPV" in text
    read = astrometry.read_head(tmp_path / "frame.head")
    assert list(read) == list(cards)
    for card in cards:
        assert read[card] == (pytest.approx(cards[card], rel=1e-12) if isinstance(cards[card], float) else cards[card])
    assert read["WCSSTAT"] == "SOLVED" and read["WCSRMS"] > 0 and read["WCSNREF"] == len(solution.stars)


def test_a_new_wcs_replaces_all_of_the_old_one():
    header = fits.Header(
        {"CRVAL1": 1.0, "CDELT1": 2.0, "CROTA2": 3.0, "PC1_1": 1.0, "PV1_5": 7.0, "GAIN": 1.0, "A_2_0": 1}
    )
    sky = make_sky()
    astrometry.set_wcs(header, astrometry.wcs_cards(solve(sky)))
    assert not {"CDELT1", "CROTA2", "PC1_1", "PV1_5"} & set(header) and header["GAIN"] == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WCS(header)
    unsolved = fits.Header({"CRVAL1": 1.0})
    astrometry.set_wcs(unsolved, astrometry.wcs_cards(solve(sky, engine="none")))
    assert unsolved["CRVAL1"] == 1.0 and unsolved["WCSSTAT"] == "NOT SOLVED"


def test_the_same_stars_give_the_same_solution():
    first, second = solve(make_sky(seed=4)), solve(make_sky(seed=4))
    np.testing.assert_array_equal(first.plate.coefficients, second.plate.coefficients)
