"""A raw light with its standard cards, and masters that were rejected."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from astropy.io import fits

from nightflow import lights, products, steps
from nightflow.products import Image, RejectedFrame

CARDS = {"NFFRAME": "a", "OBJECT": "M_51", "FILTER": "V", "EXPTIME": 30.0, "DATE-OBS": "2024-01-01T00:00:00"}


def write(path, **cards):
    fits.writeto(path, np.arange(12, dtype=np.uint16).reshape(3, 4), fits.Header(cards))
    return str(path)


def test_standard_cards_replace_the_cameras_but_not_the_observers_target(tmp_path):
    path = write(tmp_path / "a.fits", OBJECT="M 51", EXPOSED=30.0, FILTER="Johnson V", TELESCOP="T1")
    pixels, header = lights.read_light(path, None, {**CARDS, "AIRMASS": None})
    assert pixels.dtype == np.float32 and pixels[2, 3] == 11
    assert (header["OBJECT"], header["FILTER"], header["EXPTIME"], header["TELESCOP"]) == ("M 51", "V", 30.0, "T1")
    assert "AIRMASS" not in header and "BZERO" not in header


def test_a_blank_target_is_filled_in(tmp_path):
    _, header = lights.read_light(write(tmp_path / "a.fits", OBJECT="   "), None, CARDS)
    assert header["OBJECT"] == "M_51"


def test_an_extension_inherits_the_primary_cards(tmp_path):
    primary = fits.PrimaryHDU(header=fits.Header({"TELESCOP": "T1", "GAIN": 1.0}))
    chip = fits.ImageHDU(np.ones((3, 4), np.int16), fits.Header({"GAIN": 2.0}), name="CHIP1")
    fits.HDUList([primary, chip]).writeto(tmp_path / "a.fits")
    _, header = lights.read_light(str(tmp_path / "a.fits"), 1, CARDS)
    assert header["TELESCOP"] == "T1" and header["GAIN"] == 2.0


def test_an_unreadable_light_is_rejected_with_its_cards(tmp_path):
    (tmp_path / "a.fits").write_text("no")
    with pytest.raises(RejectedFrame) as verdict:
        lights.read_light(str(tmp_path / "a.fits"), None, CARDS)
    assert verdict.value.header["NFFRAME"] == "a"


@pytest.fixture
def paths(tmp_path):
    image = Image(np.ones((3, 4)), np.zeros((3, 4)), np.ones((3, 4)), fits.Header({"BUNIT": "adu"}))
    products.write_image(tmp_path / "bias.fits", image)
    products.write_rejected(tmp_path / "flat.fits", RejectedFrame("too faint"))
    return {"bias": str(tmp_path / "bias.fits"), "dark": None, "flat": str(tmp_path / "flat.fits")}


def test_a_rejected_master_follows_the_policy(paths, caplog):
    with pytest.raises(steps.UserError, match=r"master flat .*flat.fits was rejected: too faint.*calibration.missing"):
        lights.read_masters(paths, "error")
    with pytest.raises(RejectedFrame, match="was rejected: too faint"):
        lights.read_masters(paths, "skip")
    with caplog.at_level(logging.WARNING):
        found = lights.read_masters(paths, "warn")
    assert found["bias"].shape == (3, 4) and found["dark"] is None and found["flat"] is None
    assert "going on without it" in caplog.text
