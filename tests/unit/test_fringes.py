"""Fringes: found on dithered lights, scaled to each frame, gone to the stated sigma; refusals in words."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from nightflow import fringes, planning, products, sky, sources
from nightflow.frames import Frame
from nightflow.products import Image, MaskBit, RejectedFrame

SHAPE, OPTIONS, SOURCES = (256, 256), dict(sky.DEFAULTS), dict(sources.MASK_DEFAULTS)


@pytest.fixture(scope="module")
def pattern():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.sin(2 * np.pi * (x + 0.3 * y + 10 * np.sin(y / 60)) / 30).astype(np.float32)


def frame(rng, pattern, level=2000.0, amplitude=0.03, stars=30):
    """A calibrated frame with fringes on its sky and masked stars anywhere, as the image and its true sky."""
    expected = level * (1 + amplitude * pattern)
    data = rng.poisson(expected).astype(np.float32)
    mask = np.zeros(SHAPE, np.uint16)
    for x, y in rng.integers(5, 250, (stars, 2)):
        data[y - 4 : y + 5, x - 4 : x + 5] += 5000
        mask[y - 4 : y + 5, x - 4 : x + 5] = MaskBit.SOURCE
    return Image(data, mask, np.sqrt(expected).astype(np.float32), fits.Header([("BUNIT", "electron")]))


def written(folder, images):
    paths = []
    for number, image in enumerate(images):
        paths.append(folder / f"{number}.fits")
        products.write_image(paths[-1], image)
    return paths


@pytest.mark.accuracy
def test_fringes_vanish_to_their_stated_sigma(pattern, tmp_path):
    """The lines are brighter in some frames than in others, whatever the sky's level."""
    rng = np.random.default_rng(3)
    images = [frame(rng, pattern, rng.uniform(1500, 2500), rng.uniform(0.02, 0.04)) for _ in range(15)]
    fringe = fringes.make_fringe(written(tmp_path, images[1:]), OPTIONS, SOURCES)
    assert np.corrcoef(fringe.data.ravel(), pattern.ravel())[0, 1] > 0.9
    image = images[0]
    result = fringes.subtract_fringe(image, fringe, OPTIONS)
    good = (result.mask == 0) & (fringe.mask == 0)
    level = np.median(image.data[good])
    z = ((result.data - level) / result.uncertainty)[good]
    before = ((image.data - level) / image.uncertainty)[good].std()
    print(f"mean {z.mean():.4f}, stddev {z.std():.4f} (with fringes {before:.3f}) over {z.size} pixels")
    assert abs(z.mean() - np.median(z)) < 0.02 and 0.95 < z.std() < 1.05 < before
    assert result.header["FRINGE"] > 0


def test_a_frame_without_fringes_stays_as_it_is(pattern, tmp_path):
    rng = np.random.default_rng(4)
    fringe = fringes.make_fringe(written(tmp_path, [frame(rng, pattern) for _ in range(6)]), OPTIONS, SOURCES)
    plain = frame(rng, pattern, amplitude=0.0)
    result = fringes.subtract_fringe(plain, fringe, OPTIONS)
    assert abs(result.header["FRINGE"]) < 0.02 * 2000


def test_pixels_that_no_frame_shows_are_left_alone(pattern, tmp_path):
    rng = np.random.default_rng(5)
    images = [frame(rng, pattern, stars=0) for _ in range(4)]
    for image in images:
        image.flag(np.s_[10:12, 20:25], MaskBit.BAD)
    fringe = fringes.make_fringe(written(tmp_path, images), OPTIONS, SOURCES)
    assert (fringe.mask[10:12, 20:25] == MaskBit.NO_DATA).all() and np.count_nonzero(fringe.mask) == 10
    result = fringes.subtract_fringe(images[0], fringe, OPTIONS)
    np.testing.assert_array_equal(result.data[10:12, 20:25], images[0].data[10:12, 20:25])


def test_too_few_frames_are_refused_and_the_fringes_stay(pattern, tmp_path, caplog):
    rng = np.random.default_rng(6)
    images = [frame(rng, pattern) for _ in range(2)]
    paths = written(tmp_path, images)
    products.write_rejected(tmp_path / "no.fits", RejectedFrame("clouds"))
    with pytest.raises(RejectedFrame, match="2 frames show the sky, fringes need 3") as verdict:
        fringes.make_fringe([*paths, tmp_path / "no.fits"], OPTIONS, SOURCES)
    products.write_rejected(tmp_path / "fringe.fits", verdict.value)
    assert fringes.without_fringe(images[0], tmp_path / "fringe.fits", OPTIONS, SOURCES) is images[0]
    assert "fringes stay: 2 frames" in caplog.text


def test_a_pattern_of_another_shape_is_refused(pattern):
    small = Image(*(np.zeros((5, 6), t) for t in (np.float32, np.uint16, np.float32)))
    with pytest.raises(RejectedFrame, match="the frame has 256 x 256 pixels, its fringe pattern 6 x 5"):
        fringes.subtract_fringe(frame(np.random.default_rng(1), pattern), small, OPTIONS)


def test_groups_are_of_one_camera_filter_and_night():
    lights = {
        f"{name}{n}": Frame(
            f"{name}{n}", "p", kind="light", filter=name, night=night, instrument="cam", binning="1x1", shape="9x8"
        )
        for name, night in (("I", "2024-01-01"), ("V", "2024-01-01"), ("R", "2024-01-02"))
        for n in range(3 if name == "R" else 6)
    }
    options = {"correct": True, "filters": [], "min_frames": 5}
    assert list(planning.find_fringes(lights, options)) == [
        "fringe_2024-01-01_cam_1x1_9x8_I",
        "fringe_2024-01-01_cam_1x1_9x8_V",
    ]
    assert list(planning.find_fringes(lights, {**options, "filters": ["I"]})) == ["fringe_2024-01-01_cam_1x1_9x8_I"]
