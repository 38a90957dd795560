"""Light curves of a simulated night: amplitude and mean of a variable, errors against scatter, times, the picture."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from astropy.table import Table

from nightflow import catalogues, lightcurve_plots, lightcurves, products
from nightflow.products import MaskBit, RejectedFrame
from starfields import render, spread, wcs_cards, write_frame

STARS, FRAMES, VARIABLE = 40, 24, 6
SITE = {"latitude": 23.4686, "longitude": 120.8736, "height": 2862.0}


@pytest.fixture(scope="module")
def options(root):
    return yaml.safe_load((root / "config" / "config.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def night(tmp_path_factory, options):
    """Frames with drift, dimming, changing seeing and 4 mmag of excess scatter; a star that varies by 0.1 mag."""
    folder, rng = tmp_path_factory.mktemp("frames"), np.random.default_rng(4)
    x, y = spread(STARS, 1)
    magnitude = np.sort(rng.uniform(13.0, 17.5, STARS))
    rate = 10 ** (0.4 * (22.0 - magnitude))
    stack = render(x, y, rate * 1440, sky=2400, exptime=1440.0, magzp=22.0, **wcs_cards())
    frames, truth = [], 0.05 * np.sin(np.arange(FRAMES) / 3.0)
    for number in range(FRAMES):
        dx, dy = 0.4 * number + rng.uniform(-1, 1), -0.3 * number
        dimming = 0.02 * number + rng.normal(0, 0.03)
        own = magnitude + dimming + rng.normal(0, 0.004, STARS)
        own[VARIABLE] += truth[number]
        image = render(x + dx, y + dy, 60 * 10 ** (0.4 * (22.0 - own)), fwhm=2.6 + 0.04 * number, seed=number)
        if number == 3:
            image.flag(
                np.hypot(*(np.mgrid[:200, :220] - np.array([y[2] + dy, x[2] + dx])[:, None, None])) < 2, MaskBit.BAD
            )
        row = {
            "frame": f"f{number:02d}",
            "mjd_mid": 58000.0 + number / 200,
            "exptime": 60.0,
            "airmass": 1 + number / 50,
        }
        row |= {"ra": 150.0, "dec": 20.0, "site": SITE}
        matrix = np.array([[1, 0, -dx], [0, 1, -dy], [0, 0, 1.0]]) if number % 2 else None
        frames.append(lightcurves.FrameInput(row, *write_frame(folder, row["frame"], image), None, matrix))
    sections = {name: options[name] for name in ("photometry", "sources", "sky")}
    catalogue = catalogues.make(stack, options["catalogue"], sections)
    return {
        "catalogue": catalogue,
        "header": stack.header,
        "frames": frames,
        "x": x,
        "y": y,
        "mag": magnitude,
        "truth": truth,
    }


@pytest.fixture(scope="module")
def made(night, options):
    star = {"x": float(night["x"][VARIABLE]), "y": float(night["y"][VARIABLE])}
    return lightcurves.make(
        night["catalogue"], night["header"], night["frames"], star, options["lightcurves"], options["registration"]
    )


def of(night, made, star):
    """Light curve of a star of the truth."""
    stars = made[0]["STARS"]
    row = int(np.argmin(np.hypot(stars["x"] - night["x"][star], stars["y"] - night["y"][star])))
    curve = made[0]["LIGHTCURVES"]
    return stars[row], curve[curve["id"] == stars["id"][row]]


def test_every_star_is_measured_on_every_frame(night, made):
    tables, header = made
    assert STARS <= len(tables["STARS"]) <= STARS + 2 and len(tables["FRAMES"]) == FRAMES
    assert len(tables["LIGHTCURVES"]) > 0.97 * STARS * FRAMES and header["NENSEMB"] >= 5
    assert np.nanmax(tables["FRAMES"]["position_rms"]) < 0.1
    assert all(
        column.unit is not None for name, column in tables["STARS"].columns.items() if name in ("mag", "ra", "x")
    )


@pytest.mark.accuracy
def test_amplitude_and_mean_of_the_variable(night, made):
    row, curve = of(night, made, VARIABLE)
    assert made[1]["STARID"] == row["id"] and not row["in_ensemble"]
    expected = night["truth"] - night["truth"].mean()
    slope, _ = np.polyfit(expected, np.asarray(curve["mag"], dtype=float), 1)
    mean = np.mean(curve["mag"]) - night["mag"][VARIABLE] - night["truth"].mean()
    print(f"amplitude {slope:.3f} of the truth, mean off by {1000 * mean:.1f} mmag")
    assert abs(slope - 1) < 0.05 and abs(mean) < 0.01


@pytest.mark.accuracy
def test_errors_match_the_scatter(night, made):
    """All constant stars, bright ones with their excess and faint ones with their photons: pulls of 0.9 to 1.1."""
    pulls = []
    for star in (s for s in range(STARS) if s != VARIABLE):
        row, curve = of(night, made, star)
        good = (np.asarray(curve["flags"]) & int(MaskBit.BAD)) == 0
        pulls.append((np.asarray(curve["mag"], float) - row["mag"])[good] / np.asarray(curve["mag_err"], float)[good])
    bright, faint = (np.std(np.concatenate(p)) * np.sqrt(FRAMES / (FRAMES - 1)) for p in (pulls[:20], pulls[20:]))
    print(f"pulls: bright {bright:.3f}, faint {faint:.3f}; floor {made[1]['ERRFLOOR']:.4f}")
    assert 0.9 < bright < 1.1 and 0.9 < faint < 1.1 and 0.002 < made[1]["ERRFLOOR"] < 0.007


def test_spoilt_pixels_are_flagged_and_do_not_count(night, made):
    row, curve = of(night, made, 2)
    assert row["n"] == FRAMES - 1 and (np.asarray(curve["flags"]) & int(MaskBit.BAD)).astype(bool).sum() == 1


def test_times_are_barycentric_for_the_star(night, made):
    from nightflow import barycentre

    row, curve = of(night, made, 5)
    expected = barycentre.bjd_tdb([f.row["mjd_mid"] for f in night["frames"]], row["ra"], row["dec"], SITE)[0]
    assert made[1]["BJDPOS"] == "star" and np.abs(np.asarray(curve["bjd_tdb"]) - expected).max() < 1e-8


def test_products_are_read_back_and_shown(night, made, tmp_path):
    path = tmp_path / "curve.fits"
    products.write_tables(path, made[0], made[1])
    stars, _ = products.read_table(path, "STARS")
    assert len(stars) >= STARS and stars["mag"].unit == "mag"
    lightcurve_plots.plot(tmp_path / "curve.png", made[0], made[1], "field, V")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_frames_that_cannot_be_measured_are_told(night, options, tmp_path):
    from astropy.io import fits

    path = tmp_path / "rejected.fits"
    products.write_rejected(path, RejectedFrame("no light", fits.Header([("BUNIT", "electron")])))
    lost = lightcurves.FrameInput({**night["frames"][0].row, "frame": "z", "mjd_mid": None}, str(path), str(path))
    tables, _ = lightcurves.make(
        night["catalogue"],
        night["header"],
        [*night["frames"][:6], lost],
        None,
        options["lightcurves"],
        options["registration"],
    )
    assert tables["FRAMES"]["reason"][-1] == "no light" and np.isnan(tables["FRAMES"]["zero_point"][-1])
    with pytest.raises(RejectedFrame):
        lightcurves.make(
            night["catalogue"], night["header"], [lost], None, options["lightcurves"], options["registration"]
        )


@pytest.mark.parametrize(
    ("star", "row"), [({"x": 12.0, "y": 9.0}, 1), ({"ra": 359.9999, "dec": 0.0}, 0), ({"x": 90.0, "y": 9.0}, None)]
)
def test_find_star(star, row):
    catalogue = Table({"x": [50.0, 10.0], "y": [50.0, 10.0], "ra": [0.0001, 0.1], "dec": [0.0, 0.0]})
    assert lightcurves.find_star(catalogue, star) == row


def test_error_model_recovers_scale_and_floor():
    rng = np.random.default_rng(1)
    photon = 10 ** rng.uniform(-3.3, -1, 200)
    scatter = np.hypot(1.3 * photon, 0.005) * rng.normal(1, 0.1, 200)
    scatter[::10] *= 8  # variable stars
    scale, floor = lightcurves.error_model(scatter, photon)
    assert scale == pytest.approx(1.3, rel=0.08) and floor == pytest.approx(0.005, rel=0.15)


def test_scintillation_of_a_small_telescope():
    """0.2 m, 60 s, zenith, sea level: a variance of 1e-5 * 1.56^2 * 0.2^(-4/3) / 60, and airmass^3 times that."""
    sigma = lightcurves.scintillation(0.2, 0.0, np.zeros(2), np.array([60.0, 60.0]), np.array([1.0, 2.0]))
    assert sigma[0] == pytest.approx(0.00202, rel=0.01) and sigma[1] == pytest.approx(sigma[0] * 2**1.5)
    assert not lightcurves.scintillation(None, None, np.zeros(2), np.ones(2), np.ones(2)).any()
