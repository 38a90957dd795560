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


@pytest.mark.accuracy
def test_the_correction_is_right_in_a_crowd():
    """With two stars in the area of the largest aperture; where none stands alone the profile is assumed."""
    found = []
    for seed in range(6):
        made = fields.star_field(350, shape=(400, 400), fwhm=3.0, beta=3.5, faintest=400.0, sky=200.0, seed=seed)
        image = made.image()
        image.data -= np.float32(200.0)
        table = sources.detect_sources(image)
        photometry.measure_apertures(image, table, OPTIONS)
        header = image.header
        share = photometry.enclosed(header["APRADIUS"] / 3.05, 3.5)
        found.append((header["APCOR"] * share, header["APCORERR"], header["APCORN"]))
        print(f"APCOR / expected {found[-1][0]:.4f} +- {found[-1][1]:.4f} from {found[-1][2]} stars")
    assert abs(np.median([ratio for ratio, _, _ in found]) - 1) < 0.02
    assert all(abs(ratio - 1) < 3 * error + 0.01 for ratio, error, _ in found)


def test_a_frame_without_stars_has_no_apertures():
    image, _, _ = star_image()
    table = sources.detect_sources(image)[:0]
    photometry.measure_apertures(image, table, OPTIONS)
    assert "APRADIUS" not in image.header and "aperture_flux" not in table.colnames


def test_a_crowd_has_apertures_and_an_assumed_correction(monkeypatch):
    image, _, _ = star_image()
    monkeypatch.setattr(photometry, "_growth_stars", lambda *arguments: np.zeros(0, dtype=int))
    table = sources.detect_sources(image)
    photometry.measure_apertures(image, table, OPTIONS)
    assert image.header["APCORN"] == 0 and image.header["APCORERR"] == 0.05
    assert image.header["APCOR"] == pytest.approx(1.069, abs=0.002)


def test_without_apertures_the_detections_flux_counts():
    table = Table({"flux": [60.0], "flux_err": [6.0]})
    rate, error = photometry.total_rates(table, {"EXPTIME": 60.0})
    assert rate[0] == 1 and error[0] == 0.1
