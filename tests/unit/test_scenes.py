"""The synthetic images of session 15: what is asked for is in the image, the table and the header."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy.io import fits
from astropy.stats import sigma_clipped_stats
from astropy.table import Table
from astropy.wcs import WCS

from nightflow import scenes

SMALL = {"size_x": 300, "size_y": 200, "stars": 20, "galaxies": 5, "seed": 1}


def test_axes_are_right():
    """size_x columns and size_y rows, with stars over all of the image and none beside it."""
    data, _, truth = scenes.make_scene(**{**SMALL, "stars": 2000})
    stars = truth[truth["type"] == "star"]
    assert data.shape == (200, 300) and data.dtype == np.float32
    assert stars["x"].max() == pytest.approx(299.5, abs=1) and stars["x"].min() == pytest.approx(-0.5, abs=1)
    assert stars["y"].max() == pytest.approx(199.5, abs=1) and stars["y"].min() == pytest.approx(-0.5, abs=1)


def test_image_is_the_sum_of_the_table():
    """Every source of the table, as written there, and the sky: the image to a hundredth of an ADU."""
    data, _, truth = scenes.make_scene(**SMALL, sky_stddev=0.0)
    y, x = np.indices(data.shape)
    model = np.full(data.shape, 1000.0)
    for row in truth:
        dx, dy = x - row["x"], y - row["y"]
        u = dx * np.cos(row["theta"]) + dy * np.sin(row["theta"])
        v = -dx * np.sin(row["theta"]) + dy * np.cos(row["theta"])
        radius2 = (u / row["fwhm_x"]) ** 2 + (v / row["fwhm_y"]) ** 2
        model += row["amplitude"] * np.exp(-4 * math.log(2) * radius2)
    np.testing.assert_allclose(data, model, atol=0.01, rtol=1e-6)


def test_fwhm_is_the_full_width_at_half_maximum():
    """A star falls to half of its amplitude half a FWHM from its centre."""
    options = {**SMALL, "stars": 1, "galaxies": 0, "fwhm": 12.0, "fwhm_stddev": 0.0, "sky": 0.0, "sky_stddev": 0.0}
    data, _, truth = scenes.make_scene(**options)
    star = truth[0]
    column = data[:, round(star["x"])].max()
    above = np.count_nonzero(data > column / 2)
    assert above == pytest.approx(math.pi * 36, rel=0.06)
    assert data.sum() == pytest.approx(star["flux"], rel=1e-3)


def test_brightness_follows_the_power_laws():
    """Amplitudes flux_min / power(1.5) for stars, 3 flux_min / power(2) for galaxies."""
    _, _, truth = scenes.make_scene(**{**SMALL, "stars": 20000, "galaxies": 20000, "sky_stddev": 0.0})
    for kind, faintest, exponent in (("star", 1000.0, 1.5), ("galaxy", 3000.0, 2.0)):
        amplitude = truth["amplitude"][truth["type"] == kind]
        assert amplitude.min() >= faintest
        assert np.median(amplitude) == pytest.approx(faintest * 2 ** (1 / exponent), rel=0.02)


def test_galaxies_gather_about_the_centre():
    _, _, truth = scenes.make_scene(size_x=400, size_y=600, stars=0, galaxies=5000, seed=2, galaxy_fwhm_stddev=0.1)
    assert truth["x"].mean() == pytest.approx(199.5, abs=15) and truth["y"].mean() == pytest.approx(299.5, abs=15)
    assert truth["x"].std() == pytest.approx(300, rel=0.03) and truth["y"].std() == pytest.approx(300, rel=0.03)


def test_widths_are_drawn_again_until_positive():
    """A spread as large as the mean gives no width at or below zero, and leaves the others as they were."""
    _, _, truth = scenes.make_scene(**{**SMALL, "galaxies": 3000, "galaxy_fwhm": 4.0, "galaxy_fwhm_stddev": 4.0})
    galaxies = truth[truth["type"] == "galaxy"]
    assert min(galaxies["fwhm_x"].min(), galaxies["fwhm_y"].min()) > 0
    # A normal distribution cut at its mean minus one stddev has its mean 0.2876 stddev higher.
    assert galaxies["fwhm_x"].mean() == pytest.approx(4.0 * 1.2876, rel=0.03)


def test_noise_is_the_skys():
    data, _, _ = scenes.make_scene(size_x=500, size_y=500, stars=0, galaxies=0, seed=3, sky=700.0, sky_stddev=12.0)
    assert data.mean(dtype=float) == pytest.approx(700.0, abs=0.1)
    assert data.std(dtype=float) == pytest.approx(12.0, rel=0.01)


def test_scene_follows_from_its_seed():
    """The same seed gives the same image; galaxies added leave the stars and the noise as they are."""
    first, second = scenes.make_scene(**SMALL), scenes.make_scene(**SMALL)
    np.testing.assert_array_equal(first[0], second[0])
    without, _, truth = scenes.make_scene(**{**SMALL, "galaxies": 0})
    assert (truth["x"] == first[2]["x"][:20]).all()
    assert np.mean(without == first[0]) > 0.3
    other = scenes.make_scene(**{**SMALL, "seed": 2})
    assert not np.array_equal(other[0], first[0])


def test_seed_not_given_is_recorded():
    options = {k: v for k, v in SMALL.items() if k != "seed"}
    data, header, _ = scenes.make_scene(**options)
    again, _, _ = scenes.make_scene(**options, seed=header["SEED"])
    np.testing.assert_array_equal(data, again)
    assert scenes.make_scene(**options)[1]["SEED"] != header["SEED"]


def test_header_holds_all_parameters_and_a_wcs():
    _, header, _ = scenes.make_scene(**{**SMALL, "flux_min": 500.0, "sky": 321.0, "galaxy_fwhm_stddev": 1.5})
    assert (header["SIZEX"], header["SIZEY"], header["NSTARS"], header["NGALAXY"]) == (300, 200, 20, 5)
    assert (header["FLUXMIN"], header["SKYLEVEL"], header["SKYSIGMA"], header["FWHMGALS"]) == (500.0, 321.0, 30.0, 1.5)
    assert (header["FWHMPSF"], header["FWHMPSFS"], header["FWHMGAL"], header["SEED"]) == (3.5, 0.1, 8.0, 1)
    centre = WCS(header).all_pix2world([[149.5, 99.5]], 0)[0]
    np.testing.assert_allclose(centre, [150.0, 2.0], atol=1e-9)


@pytest.mark.parametrize("profile", [{"star_profile": "moffat"}, {"galaxy_profile": "sersic"}])
def test_other_profiles_keep_flux_and_place(profile):
    """Moffat stars and Sersic galaxies hold the flux of the table, at its places."""
    kind = "stars" if "star_profile" in profile else "galaxies"
    counts = {"stars": 0, "galaxies": 0, kind: 1}
    data, _, truth = scenes.make_scene(size_x=801, size_y=801, sky=0.0, sky_stddev=0.0, seed=11, **counts, **profile)
    y, x = np.indices(data.shape)
    total = data.sum(dtype=float)
    assert total == pytest.approx(truth["flux"][0], rel=1e-3)
    assert (data * x).sum(dtype=float) / total == pytest.approx(truth["x"][0], abs=0.05)
    assert (data * y).sum(dtype=float) / total == pytest.approx(truth["y"][0], abs=0.05)


def test_moffat_stars_have_the_central_brightness_asked_for():
    options = {**SMALL, "stars": 1, "galaxies": 0, "fwhm": 15.0, "sky": 0.0, "sky_stddev": 0.0}
    data, _, truth = scenes.make_scene(**options, star_profile="moffat")
    assert data.max() == pytest.approx(truth["amplitude"][0], rel=0.02)


def test_as_published_swaps_axes_and_widths():
    """The course's image has size_x rows, and its sources are wider by the ratio of FWHM and stddev."""
    right, published = (scenes.make_scene(**SMALL, as_published=value) for value in (False, True))
    assert published[0].shape == (300, 200)
    stars = slice(0, 20)
    ratio = np.asarray(published[2]["fwhm_x"][stars]) / np.asarray(right[2]["fwhm_x"][stars])
    np.testing.assert_allclose(ratio, 2 * math.sqrt(2 * math.log(2)))
    assert published[1]["ASPUBL"] is True


@pytest.mark.accuracy
@pytest.mark.parametrize(
    ("galaxies", "printed"), [(0, (1000.42, 1000.29, 1000.05, 30.34)), (30, (1000.78, 1000.49, 999.91, 30.67))]
)
def test_as_published_gives_the_published_numbers(galaxies, printed, capsys):
    """The unmasked image, clipped at 4 sigma, has the course's mean, median, mode and stddev within 0.15."""
    rows = []
    for seed in range(5):
        data, _, _ = scenes.make_scene(stars=200, galaxies=galaxies, seed=seed, as_published=True)
        mean, median, stddev = sigma_clipped_stats(data.astype(float), sigma=4.0, maxiters=10)
        rows.append((mean, median, 3 * median - 2 * mean, stddev))
    with capsys.disabled():
        print(f"\n  {galaxies} galaxies: published {printed}, here {np.round(np.mean(rows, axis=0), 2)}")
    np.testing.assert_allclose(rows, np.broadcast_to(printed, (5, 4)), atol=0.15)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size_x": 0}, "size_x: expected a number above 0, got 0"),
        ({"stars": -1}, "stars: expected a number from 0, got -1"),
        ({"fwhm": math.nan}, "fwhm: expected a number above 0, got nan"),
        ({"star_profile": "airy"}, "star_profile: expected gaussian or moffat, got 'airy'"),
        ({"star_profile": "moffat", "as_published": True}, "the published images are Gaussian"),
    ],
)
def test_wrong_parameters_are_named(options, sentence):
    with pytest.raises(ValueError) as error:
        scenes.make_scene(**options)
    assert sentence in str(error.value)


def test_written_scene_has_its_table_beside_it(tmp_path):
    scenes.write_scene(tmp_path / "one.fits", **SMALL)
    data, _, truth = scenes.make_scene(**SMALL)
    np.testing.assert_array_equal(fits.getdata(tmp_path / "one.fits"), data)
    table = Table.read(tmp_path / "one_truth.tsv", format="ascii.tab")
    np.testing.assert_allclose(table["flux"], truth["flux"])
