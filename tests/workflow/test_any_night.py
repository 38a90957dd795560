"""Nights of all sorts up to calibrated frames: mosaics of chips, colour, windows, ready masters, several cameras."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from astropy.io import fits

from nightflow import products
from nights import Workspace

pytestmark = pytest.mark.workflow


def raw_frames(folder):
    """Name, pixels and header of each frame of a raw night."""
    for path in sorted(folder.glob("*.fits")):
        with fits.open(path) as hdus:
            yield path.name, hdus[0].data.astype(np.float32), hdus[0].header.copy()


def write(path, pixels, header):
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(np.clip(np.round(pixels), 0, 65535).astype(np.uint16), header).writeto(path)


def calibrated(workspace, name):
    return products.read_image(workspace.results / "calibrated" / f"{name}.fits")


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


LIGHT = "M67_V_001"


def test_chips_of_a_mosaic_share_one_normalisation(raw_night, workspace):
    """The second chip is less sensitive: with one normalisation both see the same sky."""
    for name, pixels, header in raw_frames(raw_night):
        second = 500 + 0.8 * (pixels - 500)
        images = [fits.ImageHDU(p.round().astype(np.uint16), name=f"CCD{i}") for i, p in enumerate((pixels, second), 1)]
        workspace.raw.mkdir(exist_ok=True)
        fits.HDUList([fits.PrimaryHDU(header=header), *images]).writeto(workspace.raw / name)
    workspace.run("--until", "calibrate")
    one, two = (calibrated(workspace, f"{LIGHT}.hdu{n}") for n in (1, 2))
    skies = [np.median(image.data[image.mask == 0]) for image in (one, two)]
    assert skies[1] == pytest.approx(skies[0], rel=0.01)
    flats = [products.read_image(path) for path in sorted((workspace.results / "masters").glob("flat_*.fits"))]
    means = [flat.data[flat.mask == 0].mean() for flat in flats]
    assert means[1] / means[0] == pytest.approx(0.8, rel=0.01) and np.mean(means) == pytest.approx(1, abs=2e-3)


def test_colour_frames_become_channels(raw_night, workspace):
    factor = np.array([[0.5, 1.0], [1.0, 0.3]])
    for name, pixels, header in raw_frames(raw_night):
        header["BAYERPAT"] = "RGGB"
        header.remove("FILTER", ignore_missing=True)
        tiles = np.tile(factor, (pixels.shape[0] // 2, pixels.shape[1] // 2))
        write(workspace.raw / name, 500 + (pixels - 500) * tiles, header)
    workspace.run("--until", "calibrate")
    skies = {}
    for channel in "RGB":
        image = calibrated(workspace, f"{LIGHT}.{channel}")
        assert image.shape == (100, 110) and image.header["FILTER"] == channel
        skies[channel] = np.median(image.data[image.mask == 0])
    assert skies["R"] / skies["G"] == pytest.approx(0.25, rel=0.03)
    assert skies["B"] / skies["G"] == pytest.approx(0.15, rel=0.03)


def test_a_windowed_light_is_calibrated_with_its_part_of_the_masters(raw_night, reduced, workspace):
    for name, pixels, header in raw_frames(raw_night):
        x, y, window = 0, 0, np.s_[:, :]
        if name == f"{LIGHT}.fits":
            x, y, window = 40, 60, np.s_[60:180, 40:190]
        header["XORGSUBF"], header["YORGSUBF"] = x, y
        write(workspace.raw / name, pixels[window], header)
    workspace.run("--until", "calibrate")
    part, whole = calibrated(workspace, LIGHT), calibrated(reduced, LIGHT)
    np.testing.assert_array_equal(part.data, whole.data[60:180, 40:190])
    np.testing.assert_array_equal(part.uncertainty, whole.uncertainty[60:180, 40:190])


def test_ready_masters_of_a_library_give_the_same_pixels(raw_night, reduced, workspace):
    library = workspace.folder / "library"
    library.mkdir()
    for path in (reduced.results / "masters").glob("*_*.fits"):
        shutil.copy(path, library)
    workspace.raw.mkdir()
    shutil.copy(raw_night / f"{LIGHT}.fits", workspace.raw)
    calibration = {"library": str(library)}
    workspace.run("--until", "calibrate", calibration=calibration)
    np.testing.assert_array_equal(calibrated(workspace, LIGHT).data, calibrated(reduced, LIGHT).data)
    assert calibrated(workspace, LIGHT).header["CALFLAT"].startswith("library_flat")
    assert not workspace.planned("--until", "calibrate", calibration=calibration)


def test_ready_masters_of_other_programs_serve_too(raw_night, reduced, workspace):
    """Plain images, named by their header or their file."""
    library = workspace.folder / "library"
    for kind, word in (("bias", "Master Bias"), ("dark", "Master Dark"), ("flat", None)):
        (path,) = (reduced.results / "masters").glob(f"{kind}_*.fits")
        image = products.read_image(path)
        header = fits.Header(
            [(k, image.header[k]) for k in ("EXPTIME", "INSTRUME", "XBINNING", "YBINNING", "CCD-TEMP")]
        )
        if kind == "flat":
            header["FILTER"] = "V"
        else:
            header["IMAGETYP"] = word
        scale = 30000 if kind == "flat" else 1
        library.mkdir(exist_ok=True)
        fits.PrimaryHDU(image.data * np.float32(scale), header).writeto(library / f"master_{kind}.fits")
    workspace.raw.mkdir()
    shutil.copy(raw_night / f"{LIGHT}.fits", workspace.raw)
    workspace.run("--until", "calibrate", calibration={"library": str(library)})
    mine, truth = calibrated(workspace, LIGHT), calibrated(reduced, LIGHT)
    good = (mine.mask | truth.mask) == 0
    np.testing.assert_allclose(mine.data[good], truth.data[good], rtol=1e-3, atol=0.5)


def test_two_cameras_and_two_nights_keep_to_their_own_masters(raw_night, workspace):
    """The second camera has another bias level; the second night of the first camera has flats alone."""
    for name, pixels, header in raw_frames(raw_night):
        write(workspace.raw / "first" / name, pixels, header)
        header["INSTRUME"] = "Other"
        write(workspace.raw / "second" / name, pixels + 100, header)
        header["INSTRUME"] = "Simulated CCD"
        header["DATE-OBS"] = header["DATE-OBS"].replace("2018-05-12", "2018-05-14")
        if header["IMAGETYP"] in ("flat", "light"):
            write(workspace.raw / "later" / name, pixels, header)
    workspace.run("--until", "calibrate")
    first, second, later = (calibrated(workspace, f"{folder}.{LIGHT}") for folder in ("first", "second", "later"))
    np.testing.assert_allclose(first.data, second.data, rtol=1e-4, atol=0.01)
    np.testing.assert_array_equal(first.data, later.data)
    assert "2018-05-12" in later.header["CALBIAS"] and "2018-05-14" in later.header["CALFLAT"]
    assert "Other" in second.header["CALBIAS"] and "Other" not in first.header["CALBIAS"]


def test_the_measured_gain_is_used_where_asked_for(raw_night, workspace):
    for name, pixels, header in raw_frames(raw_night):
        header["GAIN"] = 2.9
        write(workspace.raw / name, pixels, header)
    workspace.run("--until", "calibrate", calibration={"gain": "measured"})
    assert calibrated(workspace, LIGHT).header["CAMGAIN"] == pytest.approx(1.5, rel=0.02)
