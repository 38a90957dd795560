"""Tables of standard stars, Landolt's among them, and which sources of a frame the stars are."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from nightflow import plates, standards
from nightflow.products import MaskBit
from nightflow.steps import UserError

COLUMNS = {name: name for name in "name band magnitude error colour ra dec frame x y".split()}
SECTION = {"columns": COLUMNS, "bands": {}, "equinox": 2000.0}
TWO_STARS = {"name": ["A", "B"], "band": ["V", "V"], "magnitude": [11.0, 12.0]}


def write(tmp_path, ending=".csv", **columns):
    path = tmp_path / f"stars{ending}"
    formats = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".tsv": "ascii.tab", ".txt": "ascii.basic", ".fits": "fits"}
    Table({**TWO_STARS, **columns}).write(path, format=formats[ending])
    return path


@pytest.mark.parametrize("ending", [".csv", ".ecsv", ".tsv", ".txt", ".fits"])
def test_tables_of_any_format(tmp_path, ending):
    path = write(tmp_path, ending, ra=[10.5, 11.5], dec=[-2.0, 3.0], error=[0.01, 0.02])
    stars = standards.read(path, SECTION, "V")
    assert list(stars.name) == ["A", "B"] and list(stars.magnitude) == [11, 12] and list(stars.error) == [0.01, 0.02]
    assert list(stars.ra) == [10.5, 11.5] and np.isnan(stars.x).all() and list(stars.frame) == ["", ""]
    assert len(standards.read(path, SECTION, "R")) == 0


def test_names_of_bands_and_columns_and_sexagesimal_angles(tmp_path):
    path = write(tmp_path, RA=["00:42:00", "23:59:59.5"], DE=["-00:30:00", "+10:00:36"], band=["Johnson V", "R"])
    section = {**SECTION, "columns": {**COLUMNS, "ra": "RA", "dec": "DE"}, "bands": {"V": "Johnson V"}}
    stars = standards.read(path, section, "V")
    assert list(stars.name) == ["A"] and stars.ra[0] == pytest.approx(10.5) and stars.dec[0] == pytest.approx(-0.5)


@pytest.mark.parametrize(
    "columns, words",
    [
        ({}, "no column ra and dec, or frame, x and y"),
        ({"frame": ["f", "f"], "x": [1.0, 2.0]}, "no column ra and dec, or frame, x and y"),
        ({"ra": [1.0, 2.0], "dec": [1.0, 2.0], "magnitude": ["bright", "faint"]}, "column magnitude"),
        ({"ra": ["here", "there"], "dec": [1.0, 2.0]}, "'here' is no angle"),
    ],
)
def test_a_table_that_cannot_be_used_is_said(tmp_path, columns, words):
    with pytest.raises(UserError, match=words):
        standards.read(write(tmp_path, **columns), SECTION, "V")


@pytest.mark.parametrize(
    "name, content, words",
    [("none.csv", None, "not found"), ("a.xyz", "", "unknown ending"), ("a.dat", "one two\n", "not Landolt's table"),
     ("a.fits", "no FITS", "cannot be read")],
)  # fmt: skip
def test_a_file_that_is_no_table_is_said(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words):
        standards.read(tmp_path / name, SECTION, "V")


def test_landolts_bands_follow_from_v_and_the_colours(shared_data):
    path = shared_data / "catalogs" / "landolt_iraf" / "nlandolt.dat"
    expected = {"U": 12.013, "B": 12.052, "V": 11.613, "R": 11.347, "I": 11.075}
    expected["U"], expected["B"] = 11.613 + 0.436 - 0.042, 11.613 + 0.436
    for band, magnitude in expected.items():
        stars = standards.read(path, SECTION, band)
        (star,) = np.flatnonzero(stars.name == "92_342")
        assert len(stars) == 526 and stars.magnitude[star] == pytest.approx(magnitude)
        assert 0.0013 <= stars.error[star] < 0.005 and stars.colour[star] in (0.436, 0.266, 0.538)
    assert len(standards.read(path, SECTION, "Halpha")) == 0


def test_landolts_old_table_is_of_the_equinox_1985(shared_data):
    """Stars of both tables lie at the same places, to what the rounding to a second of time leaves."""
    old, new = (
        standards.read(shared_data / "catalogs" / "landolt_iraf" / name, {**SECTION, "equinox": equinox}, "V")
        for name, equinox in (("landolt.dat", 1985.0), ("nlandolt.dat", 2000.0))
    )
    _, i, j = np.intersect1d(old.name, new.name, return_indices=True)
    apart = np.hypot((old.ra[i] - new.ra[j]) * np.cos(np.radians(new.dec[j])), old.dec[i] - new.dec[j]) * 3600
    assert len(i) > 20 and np.median(apart) < 12


def frame(x, y, flux, flags=None):
    """Sources of a frame of 1 arcsec/px about (150, 20), its header and its plate."""
    coefficients = np.array([[0, 0], [-1 / 3600 * 250, 0], [0, 1 / 3600 * 250]])
    plate = plates.Plate(150.0, 20.0, 249.5, 199.5, 1, coefficients, 250.0)
    header = fits.Header({"NFXSIZE": 500, "NFYSIZE": 400, "EXPTIME": 10.0, "APRADIUS": 4.0, "APRAD1": 4.0})
    header.update({"APCOR": 1.1, "APCORERR": 0.011, "APCORN": 5})
    flux = np.array(flux, dtype=float)
    sources = Table({"x": x, "y": y, "flux": flux, "flux_err": np.sqrt(flux), "aperture_flux": flux[:, None]})
    sources["aperture_flux_err"] = np.sqrt(flux)[:, None]
    sources["flags"] = np.zeros(len(x), int) if flags is None else flags
    return sources, header, plate


def table_of(plate, at_x, at_y, **columns):
    ra, dec = plate.to_sky(np.array(at_x, float), np.array(at_y, float))
    n, nothing = len(at_x), np.full(len(at_x), np.nan)
    values = {"name": np.array([f"S{i}" for i in range(n)]), "magnitude": np.full(n, 12.0), "error": np.zeros(n)}
    values |= {"colour": nothing, "ra": ra, "dec": dec, "frame": np.full(n, ""), "x": nothing, "y": nothing, **columns}
    return standards.Standards(**values)


ROW = {"frame": "night-1_a", "path": "/raw/night 1/a.fit", "night": "2018-05-12", "filter": "V", "airmass": 1.2}


def test_the_brightest_source_near_the_place_is_the_star():
    sources, header, plate = frame([100.0, 103.0, 300.0, 480.0], [100.0, 100.0, 200.0, 390.0], [1e4, 1e6, 1e5, 1e5])
    stars = table_of(plate, [101.0, 301.0, 350.0, 900.0], [100.0, 200.0, 50.0, 50.0])
    found = standards.measure(stars, sources, header, ROW, plate, 5.0)
    assert [(row["star"], row["x"]) for row in found] == [("S0", 103.0), ("S1", 300.0)]
    assert found[1]["rate"] == pytest.approx(1.1e4) and found[1]["rate_error"] == pytest.approx(1.1 * np.sqrt(1e5) / 10)
    assert found[0]["total_error"] == pytest.approx(0.01) and found[0]["airmass"] == 1.2


def test_spoilt_and_faint_sources_and_doubles_are_left_out():
    flags = [int(MaskBit.SATURATED), 0, 0]
    sources, header, plate = frame([100.0, 200.0, 300.0], [100.0, 200.0, 300.0], [1e6, 50.0, 1e5], flags)
    stars = table_of(plate, [100.0, 200.0, 302.0, 299.0], [100.0, 200.0, 300.0, 300.0])
    assert [row["star"] for row in standards.measure(stars, sources, header, ROW, plate, 5.0)] == ["S3"]


@pytest.mark.parametrize("name", ["night-1_a", "a.fit", "a", "night 1/a.fit"])
def test_frame_and_pixel_take_the_place_of_the_sky(name):
    sources, header, plate = frame([100.0, 300.0], [100.0, 200.0], [1e5, 1e5])
    pixels = {"ra": np.full(2, np.nan), "dec": np.full(2, np.nan), "x": np.array([101.5, 299.0])}
    stars = table_of(plate, [0, 0], [0, 0], **pixels, y=np.array([100.0, 201.0]), frame=np.array([name, "other"]))
    assert [row["star"] for row in standards.measure(stars, sources, header, ROW, None, 5.0)] == ["S0"]


def test_without_an_aperture_correction_the_largest_aperture_counts():
    sources, header, plate = frame([100.0], [100.0], [1e5])
    sources["aperture_flux"], sources["aperture_flux_err"] = [[1e5, 1.2e5]], [[300.0, 400.0]]
    header["APCORN"] = 0
    (row,) = standards.measure(table_of(plate, [100.0], [100.0]), sources, header, ROW, plate, 5.0)
    assert row["rate"] == pytest.approx(1.2e4) and row["total_error"] == 0


def test_measured_standards_are_read_as_they_were_written(tmp_path):
    sources, header, plate = frame([100.0], [100.0], [1e5])
    found = standards.measure(table_of(plate, [100.0], [100.0]), sources, header, ROW, plate, 5.0)
    standards.write(tmp_path / "a.tsv", found)
    standards.write(tmp_path / "b.tsv", [])
    (row,) = standards.read_measured([tmp_path / "a.tsv", tmp_path / "b.tsv"])
    assert row["star"] == "S0" and row["rate"] == pytest.approx(found[0]["rate"], rel=1e-8) and np.isnan(row["colour"])
