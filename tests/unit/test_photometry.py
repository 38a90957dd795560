"""Aperture photometry: fluxes, errors and the correction to total flux, against stars of known flux."""

from __future__ import annotations

import fields
import numpy as np
import pytest
from astropy.table import Table

from nightflow import photometry, sources
from nightflow.products import MaskBit

OPTIONS = {"aperture": 1.5, "apertures": [1.0, 2.0, 3.0, 4.0]}


def star_image(beta=3.5, fwhm=3.0, n=36, flux=2e5, sky=200.0):
    """Stars on a grid with subpixel offsets, sky subtracted, and their places."""
    made = fields.Field(shape=(420, 420), fwhm=fwhm, sky=sky, seed=3)
    grid = np.arange(35, 420, 70)[: int(np.sqrt(n))]
    rng = np.random.default_rng(1)
    x, y = (c.ravel() + rng.uniform(-0.5, 0.5, n) for c in np.meshgrid(grid, grid))
    for place in zip(x, y, strict=True):
        made.add_star(*place, flux, fwhm, beta=beta)
    image = made.image()
    image.data -= np.float32(sky)
    return image, x, y


@pytest.mark.parametrize("beta", [2.5, 3.5, None])
def test_corrected_fluxes_are_total(beta):
    """Flux in the main aperture times APCOR is what the star gave within the largest aperture."""
    image, _, _ = star_image(beta)
    table = sources.detect_sources(image)
    photometry.measure_apertures(image, table, OPTIONS)
    rate, _ = photometry.total_rates(table, {**image.header, "EXPTIME": 1.0})
    outside = 0.0 if beta is None else (1 + (4 * 2) ** 2 * (2 ** (1 / beta) - 1)) ** (1 - beta)
    ratio = np.median(rate[:36]) / 2e5
    print(f"beta {beta}: {ratio:.4f}, inside 4 FWHM {1 - outside:.4f}, APCOR {image.header['APCOR']:.4f}")
    assert abs(ratio - (1 - outside)) < 0.004
    assert image.header["APCORN"] > 25 and image.header["APCORERR"] < 0.002


def test_errors_match_the_scatter():
    image, x, y = star_image(flux=5e3, sky=400.0)
    flux, error = photometry.aperture_fluxes(image, x, y, np.array([3.0, 4.5]))
    for k in range(2):
        assert 0.7 < flux[:, k].std() / np.median(error[:, k]) < 1.3


def test_units_and_shapes():
    image, _, _ = star_image()
    table = sources.detect_sources(image)
    photometry.measure_apertures(image, table, OPTIONS)
    assert table["aperture_flux"].shape == (len(table), 5) and str(table["aperture_flux"].unit) == "electron"
    radii = [image.header[f"APRAD{k}"] for k in range(1, 6)]
    assert image.header["APRADIUS"] == radii[1] and radii == sorted(radii)


def test_a_bad_pixel_counts_as_zero_and_a_neighbour_spoils_the_curve_of_growth():
    image, x, y = star_image()
    before, _ = photometry.aperture_fluxes(image, x[:1], y[:1], np.array([4.0]))
    row, column = int(round(y[0])), int(round(x[0]))
    lost = image.data[row, column]
    image.data[row, column], image.mask[row, column] = np.nan, int(MaskBit.NO_DATA)
    after, _ = photometry.aperture_fluxes(image, x[:1], y[:1], np.array([4.0]))
    assert np.isclose(before[0, 0] - after[0, 0], lost, rtol=1e-4)
    alone = photometry.isolated(np.array([0.0, 5.0, 50.0]), np.zeros(3), np.array([100.0, 1.0, 10.0]), 10.0, 0.02)
    assert alone.tolist() == [True, False, True]


def test_local_sky_takes_away_what_the_model_of_the_sky_left():
    """A slope and a step under the stars, and faint neighbours in the rings, do not change the fluxes."""
    image, x, y = star_image(flux=5e4)
    truth = photometry.aperture_fluxes(image, x, y, np.array([4.5]))[0][:, 0]
    image.data += np.linspace(-30, 60, 420, dtype=np.float32) + np.where(np.arange(420) > 200, 20, 0)[:, None]
    table = sources.detect_sources(image)
    photometry.measure_apertures(image, table, {**OPTIONS, "sky": "local"})
    found = np.array(
        [np.argmin(np.hypot(table["x"].value - a, table["y"].value - b)) for a, b in zip(x, y, strict=True)]
    )
    main = [k for k in range(5) if image.header[f"APRAD{k + 1}"] == image.header["APRADIUS"]][0]
    inside = (np.abs(y - 200) > 30) & (x > 40) & (x < 380)
    flux, error = (table[name].value[found, main] for name in ("aperture_flux", "aperture_flux_err"))
    pull = ((flux - truth) / error)[inside]
    print(f"pull {pull.mean():+.2f} +- {pull.std():.2f}; levels {table['local_sky'].value[found][inside][:4]}")
    assert str(table["local_sky"].unit) == "electron" and np.abs(pull).max() < 4 and abs(np.mean(pull)) < 0.7
    assert np.all(error > photometry.aperture_fluxes(image, x, y, np.array([image.header["APRADIUS"]]))[1][:, 0] * 0.99)


@pytest.mark.parametrize(("distance", "share", "limit"), [(8.5, 0.25, 0.01), (11.0, 0.8, 0.01), (11.0, 0.25, 0.004)])
def test_what_neighbours_cover_is_left_out_of_the_curve_of_growth(distance, share, limit):
    """Stars that all have a neighbour inside the largest aperture have the right total flux."""
    _, x, y = star_image()
    made, rng = fields.Field(shape=(420, 420), fwhm=3.0, sky=200.0, seed=3), np.random.default_rng(2)
    for a, b, angle in zip(x, y, rng.uniform(0, 2 * np.pi, len(x)), strict=True):
        made.add_star(a, b, 2e5, 3.0, beta=3.5)
        made.add_star(a + distance * np.cos(angle), b + distance * np.sin(angle), share * 2e5, 3.0, beta=3.5)
    image = made.image()
    image.data -= np.float32(200.0)
    table = sources.detect_sources(image)
    photometry.measure_apertures(image, table, OPTIONS)
    rate, _ = photometry.total_rates(table, {**image.header, "EXPTIME": 1.0})
    print(f"{np.median(rate[:36]) / 2e5:.4f}, APCOR {image.header['APCOR']:.4f} from {image.header['APCORN']}")
    assert image.header["APCORN"] > 20 and abs(np.median(rate[:36]) / 2e5 - 0.9989) < limit


def test_sources_near_a_pixel_are_counted():
    near = photometry.near_sources((30, 40), np.array([0.0, 4.0, 20.0]), np.array([0.0, 0.0, 15.0]), 5.0)
    assert near[0, 0] == near[0, 5] == 2 and near[0, 9] == near[20, 20] == near[18, 24] == 1
    assert near[0, 10] == near[19, 24] == 0 and (near[8:] > 0).sum() == 81  # pixels of a disc of radius 5


@pytest.mark.accuracy
@pytest.mark.parametrize(("stars", "faintest", "beta", "limit"), [(350, 400.0, 3.5, 0.015), (60, 2e3, 2.5, 0.008)])
def test_the_correction_is_right(stars, faintest, beta, limit):
    """In a crowd with two stars in the area of the largest aperture, and in a sparse field with long wings."""
    found = []
    for seed in range(10):
        made = fields.star_field(
            stars, shape=(400, 400), fwhm=3.0, beta=beta, faintest=faintest, sky=200.0, seed=seed
        )  # fmt: skip
        image = made.image()
        image.data -= np.float32(200.0)
        photometry.measure_apertures(image, sources.detect_sources(image), OPTIONS)
        inner, outer = (photometry.enclosed(image.header[card] / 3.05, beta) for card in ("APRADIUS", "APRAD5"))
        found.append((image.header["APCOR"] * inner / outer, image.header["APCORERR"]))
    ratio, error = np.array(found).T
    print(f"APCOR / expected {ratio.mean():.4f} +- {ratio.std():.4f}, stated {np.median(error):.4f}")
    assert abs(ratio.mean() - 1) < limit and ratio.std() < 0.025
    assert 0.6 < np.sqrt(np.mean(((ratio - ratio.mean()) / error) ** 2)) < 1.6


def test_a_frame_without_stars_has_no_apertures():
    image, _, _ = star_image()
    table = sources.detect_sources(image)[:0]
    photometry.measure_apertures(image, table, OPTIONS)
    assert "APRADIUS" not in image.header and "aperture_flux" not in table.colnames


@pytest.mark.parametrize("measured", [(1.0, np.nan, 0), (1.18, 0.066, 3)])
def test_a_crowd_has_apertures_and_an_assumed_correction(monkeypatch, measured):
    image, _, _ = star_image()
    monkeypatch.setattr(photometry, "aperture_correction", lambda *arguments: measured)
    table = sources.detect_sources(image)
    photometry.measure_apertures(image, table, OPTIONS)
    assert image.header["APCORN"] == 0 and image.header["APCORERR"] == 0.05
    assert image.header["APCOR"] == pytest.approx(1.069, abs=0.002)


def test_an_aperture_that_holds_all_needs_no_correction():
    image, _, _ = star_image()
    table = sources.detect_sources(image)
    photometry.measure_apertures(image, table, {"aperture": 4.0, "apertures": [1.5, 4.0]})
    assert image.header["APCOR"] == 1 and image.header["APCORERR"] == 0 and image.header["APCORN"] > 20


def test_without_apertures_the_detections_flux_counts():
    table = Table({"flux": [60.0], "flux_err": [6.0]})
    rate, error = photometry.total_rates(table, {"EXPTIME": 60.0})
    assert rate[0] == 1 and error[0] == 0.1
