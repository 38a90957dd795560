"""Image products: readable by CCDData, checksummed, without the time of writing, never half written."""

from __future__ import annotations

import gzip
import time
import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import Table

from nightflow import products
from nightflow.products import Image, MaskBit, RejectedFrame


@pytest.fixture
def image():
    rng = np.random.default_rng(1)
    header = fits.Header({"BUNIT": "electron", "OBJECT": "M51", "BZERO": 32768, "TRIMSEC": "[1:2,1:2]"})
    data = rng.normal(100, 10, (12, 15)).astype(np.float32)
    mask = np.where(rng.random((12, 15)) < 0.2, np.uint16(MaskBit.COSMIC_RAY), np.uint16(0))
    return Image(data, mask, np.full((12, 15), 10, np.float32), header)


def test_roundtrip_is_exact(tmp_path, image):
    products.write_image(tmp_path / "a.fits", image)
    back = products.read_image(tmp_path / "a.fits")
    for name in ("data", "mask", "uncertainty"):
        np.testing.assert_array_equal(getattr(back, name), getattr(image, name))
        assert getattr(back, name).dtype == getattr(image, name).dtype and getattr(back, name).dtype.isnative


@pytest.mark.parametrize("compression", ["none", "rice"])
def test_planes_alone_are_those_of_the_image(tmp_path, image, compression):
    products.write_image(tmp_path / "a.fits", image, compression)
    data, whole = products.read_data(tmp_path / "a.fits"), products.read_image(tmp_path / "a.fits")
    np.testing.assert_array_equal(data, whole.data)
    assert data.dtype == np.float32 and data.dtype.isnative
    stored = products.StoredImage(tmp_path / "a.fits")
    assert stored.shape == whole.shape and stored.header == whole.header
    for name in ("data", "mask", "uncertainty"):
        plane, expected = getattr(stored, name), getattr(whole, name)
        np.testing.assert_array_equal(plane, expected)
        assert plane.dtype.newbyteorder("=") == expected.dtype


def test_planes_that_another_program_compressed_or_scaled_are_read_as_they_are_meant(tmp_path, image):
    products.write_image(tmp_path / "a.fits", image)
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress((tmp_path / "a.fits").read_bytes()))
    with fits.open(tmp_path / "a.fits") as hdus:
        hdus[0].data = np.rint(hdus[0].data * 10) / 10
        hdus[0].scale("int16", bscale=0.1, bzero=50)
        hdus["MASK"] = fits.ImageHDU(image.mask.astype(np.uint8), name="MASK")
        hdus.writeto(tmp_path / "scaled.fits")
    for path, tolerance in (("a.fits.gz", 0), ("scaled.fits", 0.051)):
        back, stored = products.read_image(tmp_path / path), products.StoredImage(tmp_path / path)
        for read in (back, stored):
            np.testing.assert_allclose(read.data, image.data, rtol=0, atol=tolerance)
            np.testing.assert_array_equal(read.mask, image.mask)
            np.testing.assert_array_equal(read.uncertainty, image.uncertainty)


def test_ccddata_reads_data_mask_and_uncertainty(tmp_path, image):
    products.write_image(tmp_path / "a.fits", image)
    ccd = CCDData.read(tmp_path / "a.fits")
    assert ccd.unit == u.electron
    np.testing.assert_array_equal(ccd.mask, image.mask != 0)
    np.testing.assert_array_equal(ccd.uncertainty.array, image.uncertainty)


def test_cards_of_the_raw_file_survive_unless_no_longer_true(tmp_path, image):
    products.write_image(tmp_path / "a.fits", image)
    header = products.read_header(tmp_path / "a.fits")
    assert header["OBJECT"] == "M51" and "BZERO" not in header and "TRIMSEC" not in header


def test_checksums_verify_and_no_card_has_the_time_of_the_run(tmp_path, image):
    products.write_image(tmp_path / "a.fits", image)
    time.sleep(1.1)
    products.write_image(tmp_path / "b.fits", image)
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()
    with fits.open(tmp_path / "a.fits", checksum=True) as hdus:  # a wrong checksum warns, and a warning is an error
        assert all({"CHECKSUM", "DATASUM"} <= set(hdu.header) for hdu in hdus)


def test_bits_are_named_in_the_mask_header(tmp_path, image):
    products.write_image(tmp_path / "a.fits", image)
    with fits.open(tmp_path / "a.fits") as hdus:
        assert [hdus["MASK"].header[f"BIT{i:02d}"] for i in range(9)] == [bit.name for bit in MaskBit]


def test_design_values_of_the_bits():
    assert {bit.name: bit.value for bit in MaskBit} == {
        **{"BAD": 1, "NONLINEAR": 2, "SATURATED": 4, "COSMIC_RAY": 8, "NO_DATA": 16},
        **{"LOW_RESPONSE": 32, "TRAIL": 64, "SOURCE": 128, "INTERPOLATED": 256},
    }


def test_rejected_frames_say_why_and_keep_their_header(tmp_path):
    products.write_rejected(
        tmp_path / "a.fits", RejectedFrame("all pixels — saturated", fits.Header({"OBJECT": "M51"}))
    )
    readers = (products.read_image, products.read_data, products.StoredImage, products.read_table)
    for read in (*readers, products.read_columns):
        with pytest.raises(RejectedFrame, match="all pixels . saturated") as verdict:
            read(tmp_path / "a.fits")
        assert verdict.value.header["OBJECT"] == "M51"


def test_long_reasons_survive(tmp_path):
    reason = "because " * 60
    products.write_rejected(tmp_path / "a.fits", RejectedFrame(reason.strip()))
    with pytest.raises(RejectedFrame) as verdict:
        products.read_image(tmp_path / "a.fits")
    assert verdict.value.reason == reason.strip()


@pytest.mark.parametrize("extra", [{}, {"blended": np.array([True, False, True])}])
def test_columns_are_written_as_the_same_table_would_be(tmp_path, extra):
    """A step that imports no tables of astropy's writes the same bytes, columns of several values included."""
    columns = products.Columns(
        {"x": np.arange(3.0), "flux": np.ones((3, 2)), "flags": np.array([1, 0, 4], np.int32), **extra},
        {"x": "pix", "flux": "electron", "not_there": "adu"},
    )
    for name, table in {"columns": columns, "table": columns.table()}.items():
        products.write_table(tmp_path / f"{name}.fits", table, fits.Header({"FWHM": 2.5}), "SOURCES")
    assert (tmp_path / "columns.fits").read_bytes() == (tmp_path / "table.fits").read_bytes()
    table, _ = products.read_table(tmp_path / "columns.fits")
    assert table["x"].unit == u.pix and table["flux"].unit == "electron" and table["flags"].dtype == np.int32
    back, header = products.read_columns(tmp_path / "columns.fits")
    assert back.units == {"x": "pix", "flux": "electron"} and header["FWHM"] == 2.5
    for name in columns.colnames:
        np.testing.assert_array_equal(back[name], columns[name])
        assert back[name].dtype == columns[name].dtype


def test_columns_give_columns_rows_and_parts():
    columns = products.Columns({"x": [1.0, 2.0, 3.0], "name": ["a", "b", "c"]}, {"x": "pix"})
    assert len(columns) == 3 and columns.colnames == ["x", "name"] and columns[1] == {"x": 2.0, "name": "b"}
    assert [row["name"] for row in columns[columns["x"] > 1]] == ["b", "c"] and columns[:1].units == {"x": "pix"}
    other = columns.copy()
    other["x"][0], other["y"] = 9.0, columns["x"]
    assert columns["x"][0] == 1.0 and list(columns.keys()) == ["x", "name"] and len(products.Columns({})) == 0


def test_tables_keep_units_and_the_frame_header(tmp_path):
    table = Table({"x": [1.0, 2.0] * u.pix, "flux": [3.0, 4.0] * u.electron})
    products.write_table(tmp_path / "t.fits", table, fits.Header({"FWHM": 2.5}), "SOURCES")
    back, header = products.read_table(tmp_path / "t.fits")
    assert header["FWHM"] == 2.5 and back["flux"].unit == u.electron and list(back["x"]) == [1.0, 2.0]


def test_nothing_is_left_when_writing_fails(tmp_path):
    target = tmp_path / "a.fits"
    target.write_text("old")
    with pytest.raises(RuntimeError), products.replacing(target) as scratch:
        scratch.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "card",
    [
        "GOOD    = 'x'",
        "BADNUM  = 3,2E-05",
        "NOQUOTE = hello world",
        "TIME    = 10:20:30",
        "lower   =                    1",
        "VERYLONGKEYWORD = 3",
        "NAN     = NaN",
    ],
)
def test_headers_with_broken_cards_can_be_written(tmp_path, image, card):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy remarks on the broken card when it is read
        image.header = fits.Header.fromstring("BUNIT   = 'electron'".ljust(80) + card.ljust(80))
    products.write_image(tmp_path / "a.fits", image)
    assert products.read_image(tmp_path / "a.fits").header["BUNIT"] == "electron"
