"""Channels of a one-shot colour frame: the right pixels, their noise, their place on the sky."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from nightflow import bayer, calibration, frames, masters
from nightflow.explain import load_dialects
from nightflow.inventory import RawFile
from nightflow.products import Image, MaskBit

SHAPE = (40, 60)
COLOURS = {"R": 900.0, "G": 2000.0, "B": 500.0}


def mosaic(pattern="RGGB", values=COLOURS, shape=SHAPE):
    data = np.zeros(shape, np.float32)
    for channel, value in values.items():
        for y, x in bayer.places(pattern, channel):
            data[y::2, x::2] = value
    return data


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
def test_channels_are_the_pixels_of_their_colour(pattern):
    image = Image(mosaic(pattern), np.zeros(SHAPE, np.uint16), np.full(SHAPE, 3, np.float32), fits.Header())
    for channel, value in COLOURS.items():
        found = bayer.channel_of(image, pattern, channel)
        pixels = 2 if channel == "G" else 1
        assert found.shape == (20, 30) and found.data.dtype == np.float32
        np.testing.assert_array_equal(found.data, pixels * value)
        np.testing.assert_allclose(found.uncertainty, 3 * np.sqrt(pixels), rtol=1e-6)


def test_a_bad_pixel_of_the_cell_is_bad():
    image = Image(mosaic(), np.zeros(SHAPE, np.uint16), np.ones(SHAPE, np.float32), fits.Header())
    image.mask[0, 1], image.mask[5, 4] = MaskBit.BAD, MaskBit.SATURATED
    found = bayer.channel_of(image, "RGGB", "G")
    assert found.mask[0, 0] == MaskBit.BAD and found.mask[2, 2] == MaskBit.SATURATED
    assert np.count_nonzero(found.mask) == 2 and not bayer.channel_of(image, "RGGB", "B").mask.any()


def test_cards_are_true_for_the_channel():
    header = fits.Header(
        [("BAYERPAT", "RGGB"), ("RDNOISE", 4.0), ("SATURATE", 6e4), ("XPIXSZ", 3.8), ("CRPIX1", 31.0), ("CRPIX2", 11.0),
         ("CD1_1", -1e-4), ("CD1_2", 0.0), ("CD2_1", 0.0), ("CD2_2", 1e-4)]
    )  # fmt: skip
    image = Image(mosaic(), np.zeros(SHAPE, np.uint16), np.ones(SHAPE, np.float32), header)
    green, blue = (bayer.channel_of(image, "RGGB", channel).header for channel in "GB")
    assert "BAYERPAT" not in green and green["CHANNEL"] == "G" and green["XPIXSZ"] == 7.6
    assert green["RDNOISE"] == pytest.approx(4 * np.sqrt(2)) and green["SATURATE"] == 1.2e5
    assert blue["RDNOISE"] == 4 and blue["SATURATE"] == 6e4
    assert (green["CRPIX1"], blue["CRPIX1"], green["CD1_1"]) == (15.75, 15.5, -2e-4)
    assert header["RDNOISE"] == 4.0, "the mosaic's header is left alone"


@pytest.mark.parametrize(
    ("cards", "pattern"),
    [
        ({"BAYERPAT": "RGGB"}, "RGGB"),
        ({"BAYERPAT": "rggb ", "XBAYROFF": 1}, "GRBG"),
        ({"BAYERPAT": "RGGB", "YBAYROFF": 1}, "GBRG"),
        ({"BAYERPAT": "RGGB", "XBAYROFF": 1, "YBAYROFF": 1}, "BGGR"),
        ({"FILTER": "RGGB"}, "RGGB"),
        ({"COLORTYP": 2}, None),
    ],
)
def test_lights_become_three_frames_that_behave_like_filters(cards, pattern):
    card = {"IMAGETYP": "LIGHT", "EXPTIME": 60.0, "DATE-OBS": "2024-03-08T22:00:00", **cards}
    hdu = {"hdu": 0, "name": None, "shape": [40, 60], "cards": card, "error": None}
    file = RawFile("raw/a.fits", "a.fits", 1, 1)
    rows = frames.build([file], [{"error": None, "hdus": [hdu]}], load_dialects())
    if pattern is None:
        assert [row.frame for row in rows] == ["a"]
        return
    assert [(row.frame, row.filter) for row in rows] == [("a.B", "B"), ("a.G", "G"), ("a.R", "R")]
    assert all(row.detector["bayer"] == pattern for row in rows)
    whole = frames.build([file], [{"error": None, "hdus": [hdu]}], load_dialects(), split_colours=False)
    assert [row.frame for row in whole] == ["a"]


def test_a_filter_in_the_beam_is_kept_apart():
    card = {"IMAGETYP": "LIGHT", "EXPTIME": 60.0, "FILTER": "L-Pro", "BAYERPAT": "RGGB"}
    hdu = {"hdu": 0, "name": None, "shape": [40, 60], "cards": card, "error": None}
    rows = frames.build([RawFile("a.fits", "a.fits", 1, 1)], [{"error": None, "hdus": [hdu]}], load_dialects())
    assert sorted(row.filter for row in rows) == ["L-Pro-B", "L-Pro-G", "L-Pro-R"]
    assert {row.glass for row in rows} == {"L-Pro"}


def test_trimming_an_odd_column_moves_the_pattern():
    assert bayer.trimmed_pattern({"bayer": "RGGB", "trim": [[0, 10], [1, 21]]}) == "GRBG"
    assert bayer.trimmed_pattern({"bayer": "RGGB", "trim": [[1, 10], [1, 21]]}) == "BGGR"
    assert bayer.trimmed_pattern({"bayer": None}) is None


def test_flat_and_light_of_a_mosaic_give_true_electrons_in_every_channel(tmp_path):
    """Each colour of the flat has mean 1 of its own, so neither electrons nor colour balance change."""
    rng = np.random.default_rng(2)
    gain, vignetting = 1.5, (1 - 0.3 * np.linspace(-1, 1, SHAPE[1]) ** 2)[None, :].astype(np.float32)
    vignetting = vignetting / vignetting.mean()
    detector = {"gain": gain, "read_noise": 5.0, "saturation": 65535.0, "bayer": "RGGB", "pedestal": 300.0}
    paths = []
    for number in range(5):
        light = mosaic(values={"R": 9000.0, "G": 30000.0, "B": 4000.0}) * vignetting
        path = tmp_path / f"{number}.fits"
        fits.PrimaryHDU((300 + rng.poisson(light) / gain).astype(np.uint16)).writeto(path)
        paths.append(path)
    flat = masters.make_flat(paths, None, None, detector, {})
    assert not flat.mask.any()
    for phase in bayer.phases(SHAPE, "RGGB"):
        assert flat.data[phase].mean() == pytest.approx(1, abs=1e-5)
    raw = (300 + mosaic() * vignetting / gain).astype(np.float32)
    image = calibration.calibrate(raw, fits.Header([("EXPTIME", 60.0)]), detector, None, None, flat, None, {})
    for channel, electrons in COLOURS.items():
        found = bayer.channel_of(image, "RGGB", channel)
        expected = electrons * (2 if channel == "G" else 1)
        assert np.median(found.data) == pytest.approx(expected, rel=0.01)
        assert found.data.std() / expected < 0.02, "vignetting is gone"
    bad = masters.find_bad_pixels(None, flat, {})
    assert not bad.any(), "colours do not make pixels deviant"
