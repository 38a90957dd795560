"""Catalogues of stacks: completeness, fluxes and errors against truth, units, deblending, engines, filters, marks."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from astropy.table import Table

from nightflow import catalogues, composites, crossmatch, products, regions, stacking, wavelengths
from nightflow.products import Image
from starfields import render, spread, wcs_cards

STARS = 45


@pytest.fixture(scope="module")
def options(root):
    return yaml.safe_load((root / "config" / "config.yaml").read_text(encoding="utf-8"))


def field(seed=0, n=STARS, **cards):
    x, y = spread(n, 3)
    magnitude = np.linspace(13.0, 17.0, n)
    rate = 10 ** (0.4 * (22.0 - magnitude))
    return (
        x,
        y,
        magnitude,
        render(x, y, rate * 300, sky=300.0, exptime=300.0, seed=seed, magzp=22.0, **wcs_cards(), **cards),
    )


def made(image, options, **changed):
    return catalogues.make(image, {**options["catalogue"], **changed}, options)


def matched(table, x, y):
    return np.array([np.argmin(np.hypot(table["x"] - a, table["y"] - b)) for a, b in zip(x, y, strict=True)])


@pytest.mark.accuracy
@pytest.mark.parametrize("engine", ["segmentation", "daofind", "peaks"])
def test_stars_are_found_and_measured(options, engine):
    x, y, magnitude, image = field()
    table = made(image, options, engine=engine)
    row = matched(table, x, y)
    distance = np.hypot(table["x"][row] - x, table["y"][row] - y)
    off = np.asarray(table["mag"])[row] - magnitude
    print(f"{engine}: {len(table)} sources, {np.median(distance):.3f} px, {1000 * np.median(off):.1f} mmag")
    assert len(set(row)) == STARS and len(table) <= STARS + 3
    assert np.median(distance) < 0.1 and abs(np.median(off[:20])) < 0.005
    assert np.abs(off[:20]).max() < 0.03


def test_every_column_with_a_unit_has_one_and_the_sky_is_that_of_the_wcs(options):
    *_, image = field()
    table = made(image, options)
    units = {name: table.units[name] for name in table.colnames if name in table.units}
    assert units["rate"] == units["kron_rate_err"] == units["aperture_rate"] == "electron / s"
    assert units["mag"] == units["kron_mag_err"] == "mag" and units["ra"] == "deg" and units["x"] == "pix"
    without = {"id", "ellipticity", "snr", "flags", "blended", "kron_radius"}
    assert set(table.colnames) - set(units) == without
    assert np.abs(table["dec"] - (20 + (table["y"] + 1 - 100) / 3600)).max() < 1e-4


def pulls(fluxes, errors):
    """Scatter over stated error of each star, from realisations along the first axis."""
    return np.nanvar(fluxes, axis=0, ddof=1) / np.nanmean(np.square(errors), axis=0)


@pytest.mark.accuracy
def test_errors_of_total_kron_and_psf_fluxes_match_scatter(options):
    """Pulls over ten noise realisations, of stars of all brightnesses."""
    rates = {"rate": [], "kron_rate": [], "psf_rate": []}
    for seed in range(10):
        x, y, _, image = field(seed)
        table = made(image, options, psf=True)
        row = matched(table, x, y)
        for name, values in rates.items():
            values.append((np.asarray(table[name])[row], np.asarray(table[f"{name}_err"])[row]))
    for name, values in rates.items():
        pull = np.sqrt(pulls(*(np.array(part)[:, :35] for part in zip(*values, strict=True))).mean())
        print(f"{name}: pull {pull:.3f}")
        assert 0.9 < pull < 1.1, name


@pytest.mark.accuracy
def test_errors_on_a_stack_match_scatter(options, tmp_path):
    """Of bright and faint stars on stacks of dithered frames that share a master's noise of 40 % of the sky's."""
    x, y = spread(STARS, 3)
    rate, master, values = 10 ** (0.4 * (22.0 - np.linspace(13.0, 17.0, STARS))), 4.0, []
    for seed in range(12):
        rng = np.random.default_rng(1000 + seed)
        pattern, inputs = rng.normal(0, master, (200, 220)).astype(np.float32), []
        for k, (dx, dy) in enumerate(rng.uniform(-3, 3, (6, 2))):
            frame = render(x - dx, y - dy, 50 * rate, exptime=50.0, seed=100 * seed + k, fwhm=3.0, calnoise=master)
            frame.header["SKYNOISE"] = np.hypot(10.0, master)
            frame.data += pattern
            frame.uncertainty[:] = np.hypot(frame.uncertainty, np.float32(master))
            products.write_image(tmp_path / f"{k}.fits", frame)
            inputs.append((tmp_path / f"{k}.fits", np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1.0]])))
        header = products.read_header(inputs[0][0])
        table = made(stacking.stack(inputs, header, options["stack"]), options)
        row = matched(table, x, y)
        values.append([np.asarray(table[name])[row] for name in ("rate", "rate_err", "kron_rate", "kron_rate_err")])
    rates = np.array(values)
    for name, column in (("rate", 0), ("kron_rate", 2)):
        pull = pulls(rates[:, column], rates[:, column + 1])
        bright, faint = np.sqrt(pull[:22].mean()), np.sqrt(pull[22:].mean())
        print(f"{name}: pull of the brighter half {bright:.3f}, of the fainter {faint:.3f}")
        assert bright == pytest.approx(1, abs=0.1) and faint == pytest.approx(1, abs=0.1)


def test_kron_and_psf_fluxes_are_those_of_the_stars(options):
    x, y, magnitude, image = field()
    table = made(image, options, psf=True)
    row = matched(table, x, y)[:15]
    for name, limit in (("kron_mag", 0.06), ("psf_mag", 0.015)):
        off = np.asarray(table[name])[row] - magnitude[:15]
        print(f"{name}: {1000 * np.median(off):.1f} mmag")
        assert abs(np.median(off)) < limit


def test_two_stars_that_touch_are_two_and_blended(options):
    """5 px from each other at 3 px FWHM."""
    x, y = spread(8, 2, apart=40)
    image = render([*x, x[0] + 5.0], [*y, y[0]], [2e5] * 8 + [1e5])
    table = made(image, options)
    assert len(table) == 9 and table["blended"].sum() == 2
    assert len(made(image, options, deblend=False)) == 8


def test_correlated_noise_enters_the_errors(options):
    """Fully, and where frames share noise, for the part of an error that is not the photon noise of the source."""
    plain, correlated = made(field()[-1], options), made(field(noisecor=1.5)[-1], options)
    assert np.median(correlated["rate_err"] / plain["rate_err"]) == pytest.approx(1.5, rel=0.01)
    ratio = made(field(noisecor=1.5, noiseown=1.1)[-1], options)["rate_err"] / plain["rate_err"]
    assert ratio[0] == pytest.approx(1.1, abs=0.02) and ratio[-1] > 1.25
    assert (np.diff(ratio[:STARS]) > -0.01).all()


@pytest.mark.parametrize("engine", ["segmentation", "daofind", "peaks"])
def test_an_empty_stack_has_an_empty_catalogue(options, engine, tmp_path):
    table = made(render([], [], []), options, engine=engine, threshold=6.0)
    assert len(table) == 0 and "rate" in table.colnames and "aperture_rate" in table.colnames
    regions.write_ds9(tmp_path / "a.reg", table, 5.0)
    assert (tmp_path / "a.reg").read_text().splitlines()[-1] == "image"


def test_a_stack_without_a_pixel_or_a_zero_point(options):
    nothing = Image(
        np.full((60, 60), np.nan, np.float32), np.full((60, 60), 16, np.uint16), np.ones((60, 60), np.float32)
    )
    nothing.header["EXPTIME"], nothing.header["BUNIT"] = 10.0, "adu"
    table = made(nothing, options)
    assert len(table) == 0 and table.units["rate"] == "adu / s"


@pytest.fixture(scope="module")
def three_filters(options):
    """The field in three filters, shifted against each other, each with stars of its own."""
    x, y = spread(STARS, 3)
    rate = 10 ** (0.4 * (22.0 - np.linspace(13.0, 16.0, STARS)))
    found = {}
    for number, (name, colour, (dx, dy)) in enumerate(
        (("B", 0.5, (0, 0)), ("V", 1.0, (4.3, -2.1)), ("R", 1.6, (-3.0, 1.5)))
    ):
        own = np.arange(STARS) != number
        image = render((x + dx)[own], (y + dy)[own], (300 * colour * rate)[own], sky=300.0, exptime=300.0, seed=number)
        found[name] = (made(image, options), image.header, image)
    return found


@pytest.mark.parametrize("solved", [False, True])
def test_filters_are_matched(three_filters, options, solved):
    """Without a WCS by the stars themselves, with one over the sky; sources in one filter alone stay."""
    pairs = {name: (table, header.copy()) for name, (table, header, _) in three_filters.items()}
    if solved:
        for (_, header), (dx, dy) in zip(pairs.values(), ((0, 0), (4.3, -2.1), (-3.0, 1.5)), strict=True):
            header.update({k.upper(): v for k, v in wcs_cards().items()})
            header["CRPIX1"] += dx
            header["CRPIX2"] += dy
    table, header = crossmatch.merge(pairs, options["catalogue"], options["registration"])
    real = table[table["n_filters"] > 1]
    assert len(real) == STARS and (real["n_filters"] == 3).sum() == STARS - 3
    colour = np.asarray(real["R_rate"] / real["B_rate"])[:20]
    assert np.nanmedian(colour) == pytest.approx(3.2, rel=0.02)
    assert table.units["V_rate"] == "electron / s" and header["GRID"] in ("B", "V", "R")
    assert np.isfinite(table["ra"]).all() == solved


def test_a_filter_that_cannot_be_matched_stays_apart(three_filters, options):
    lonely = three_filters["B"][0][:1]
    pairs = {"B": (lonely, three_filters["B"][1]), "V": three_filters["V"][:2]}
    table, _ = crossmatch.merge(pairs, options["catalogue"], options["registration"])
    assert (table["B_id"] == 0).all() and len(table) == len(three_filters["V"][0])


def test_colour_picture_is_registered_and_balanced(three_filters, options, tmp_path):
    channels = [(three_filters[n][2], *three_filters[n][:2]) for n in ("R", "V", "B")]
    picture = composites.make(channels, options["composite"], options["registration"])
    assert picture.shape == (200, 220, 3) and picture.dtype == np.uint8
    x, y = spread(STARS, 3)
    places = [(round(b - 2.1), round(a + 4.3)) for a, b in zip(x[15:30], y[15:30], strict=True)]
    colours = np.array([picture[b - 3 : b + 4, a - 3 : a + 4].mean(axis=(0, 1)) for b, a in places])
    print("stars' mean colour", colours.mean(axis=0))
    assert np.ptp(colours.mean(axis=0)) < 30 and colours.mean() > 80
    # V is shifted by (4.3, -2.1), R by (-3, 1.5): what a channel lacks has no colour
    assert not picture[:, :7].any() and not picture[-3:].any() and picture[5:-5, 10:-5].any(axis=2).mean() > 0.8
    composites.write_png(tmp_path / "c.png", picture)
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("filters", "configured", "chosen"),
    [
        (["B", "V", "R"], "auto", ("R", "V", "B")),
        (["SDSS-g", "SDSS-r", "SDSS-i", "SDSS-z"], "auto", ("SDSS-z", "SDSS-r", "SDSS-g")),
        (["Ha", "OIII", "SII"], "auto", ("SII", "Ha", "OIII")),
        (["R", "G", "B"], "auto", ("R", "G", "B")),
        (["gp", "rp", "ip"], "auto", ("ip", "rp", "gp")),
        (["B", "V"], "auto", None),
        (["B", "V", "Clear"], "auto", None),
        (["B", "V", "R"], "none", None),
        (["a", "b", "c"], ["c", "a", "b"], ("c", "a", "b")),
        (["B", "V", "R"], ["I", "V", "B"], None),
    ],
)
def test_filters_of_red_green_and_blue(filters, configured, chosen):
    assert wavelengths.choose(filters, configured) == chosen


def test_marks_for_ds9_and_ginga(tmp_path):
    """DS9 counts pixels from 1; TVMark reads columns called ra, dec, x and y, and counts from 1 too."""
    table = Table({"id": [7], "x": [10.0], "y": [20.5], "ra": [150.25], "dec": [-3.5]})
    regions.write_ds9(tmp_path / "pixels.reg", table, 6.0)
    assert (tmp_path / "pixels.reg").read_text().splitlines()[-2:] == [
        "image",
        "circle(11.000,21.500,6.000) # text={7}",
    ]
    regions.write_ds9(tmp_path / "sky.reg", table, 6.0, 0.5)
    assert (tmp_path / "sky.reg").read_text().splitlines()[-2:] == [
        "icrs",
        'circle(150.2500000,-3.5000000,3.000") # text={7}',
    ]
    regions.write_ginga(tmp_path / "marks.txt", table)
    read = Table.read(tmp_path / "marks.txt", format="ascii")
    assert read["ra"][0] == 150.25 and read["x"][0] == 11.0 and read.colnames == ["id", "ra", "dec", "x", "y"]
