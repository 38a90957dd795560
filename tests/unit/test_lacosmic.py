"""L.A.Cosmic held to astroscrappy, pixel by pixel."""

from __future__ import annotations

import time

import numpy as np
import pytest
from astropy.io import fits
from fields import star_field

from nightflow import lacosmic

FEWEST = 1e-5  # of the pixels may differ


def astroscrappy_mask(pixels, variance, excluded, options):
    import astroscrappy

    return astroscrappy.detect_cosmics(
        pixels,
        inmask=excluded,
        invar=variance,
        gain=1.0,
        satlevel=np.inf,
        verbose=False,
        **{**lacosmic.DEFAULTS, **options},
    )[0]


def assert_same(pixels, variance, excluded, options=None):
    """Both engines give one mask; how many rays it has."""
    before = pixels.copy(), variance.copy(), excluded.copy()
    found = lacosmic.detect(pixels, variance, excluded, options)
    expected = astroscrappy_mask(pixels, variance, excluded, options or {})
    differing = np.count_nonzero(found != expected)
    assert differing <= FEWEST * found.size, f"{differing} of {np.count_nonzero(expected)} rays differ"
    for now, then in zip((pixels, variance, excluded), before, strict=True):
        assert (now == then).all()
    return int(np.count_nonzero(found))


@pytest.fixture(scope="module")
def crowded():
    """Stars, galaxies, rays (also on bad columns and at the edges) and bad pixels, in odd dimensions."""
    field = star_field(150, 8, 150, shape=(331, 401), fwhm=2.5, beta=3.0)
    image = field.image(60000.0)
    image.data[:, :4] += np.where(np.random.default_rng(3).random((331, 4)) < 0.05, np.float32(900), np.float32(0))
    excluded = image.mask != 0
    excluded[::40, ::30] = excluded[100:130, 100:140] = excluded[:, 200] = True
    image.data[200:206, 50:56] += 4000  # a ray so large that its middle has no neighbours
    return image.data, image.uncertainty**2, excluded


@pytest.mark.parametrize("cleantype", ["meanmask", "medmask", "idw"])
@pytest.mark.parametrize("sepmed", [True, False])
def test_every_way_of_filtering_and_cleaning(crowded, sepmed, cleantype):
    assert assert_same(*crowded, {"sepmed": sepmed, "cleantype": cleantype}) > 500


@pytest.mark.parametrize(
    "options",
    [
        {"niter": 1},
        {"niter": 12},
        {"sigclip": 3.0, "objlim": 1.5},
        {"sigclip": 12.0},
        {"sigfrac": 0.9},
        {"sigfrac": 0.05},
    ],
)
def test_every_limit(crowded, options):
    assert assert_same(*crowded, options)


@pytest.mark.parametrize("scale", [0.04, 25.0])
def test_a_wrong_noise_gives_the_same_wrong_mask(crowded, scale):
    """Where a fifth of all pixels is flagged, or next to none."""
    pixels, variance, excluded = crowded
    assert_same(pixels, np.float32(scale) * variance, excluded)


def test_noise_without_a_floor():
    """Pixels of zero variance, as in frames without read noise, and steps of the noise within a few pixels."""
    rng = np.random.default_rng(5)
    variance = np.full((120, 130), 100, np.float32)
    variance[40:80] = 0
    variance[:, 60:63] = 1e4
    pixels = (rng.normal(size=variance.shape) * np.sqrt(variance)).astype(np.float32)
    pixels[rng.random(pixels.shape) < 0.01] += 80
    assert assert_same(pixels, variance, np.zeros(pixels.shape, dtype=bool))


@pytest.mark.parametrize("shape", [(16, 16), (17, 200), (250, 16), (33, 47)])
def test_small_images(shape):
    rng = np.random.default_rng(1)
    pixels = rng.normal(100, 10, shape).astype(np.float32)
    pixels[rng.random(shape) < 0.03] += 500
    assert_same(pixels, np.full(shape, 100, np.float32), rng.random(shape) < 0.02)


def test_an_image_without_usable_pixels_has_no_rays():
    plane = np.zeros((20, 30), np.float32)
    assert not lacosmic.detect(plane, plane + 1, np.ones(plane.shape, dtype=bool)).any()


def test_cleaning_with_the_plain_median():
    """astroscrappy's own is undefined: here a ray is replaced by the median of the 5 x 5 as they were."""
    rng = np.random.default_rng(2)
    pixels = rng.normal(100, 10, (60, 60)).astype(np.float32)
    pixels[30, 20:26] += 900
    options = {"cleantype": "median"}
    found = lacosmic.detect(pixels, np.full(pixels.shape, 100, np.float32), np.zeros(pixels.shape, bool), options)
    assert found[30, 20:26].all() and found.sum() < 12


def test_unknown_cleaning_is_refused():
    plane = np.ones((20, 20), np.float32)
    with pytest.raises(ValueError, match="cleantype"):
        lacosmic.detect(plane, plane, plane < 0, {"cleantype": "mean"})


def raw_planes(folder):
    """A plane of the first frame in each folder; headers to try dialects on, of a few pixels, are left out."""
    first = {path.parent: path for path in sorted(folder.rglob("*"), reverse=True) if path.suffix.lower()[:4] == ".fit"}
    for path in first.values():
        with fits.open(path, memmap=False) as hdus:
            for hdu in hdus:
                if hdu.is_image and hdu.header["NAXIS"] == 2 and min(hdu.shape) > 100:
                    yield path.name, hdu.data.astype(np.float32)


def as_electrons(pixels):
    """Pixels, a variance that fits them roughly, and what is saturated or missing."""
    missing = ~np.isfinite(pixels)
    pixels = np.where(missing, np.float32(0), pixels)
    variance = np.maximum(pixels - np.float32(np.percentile(pixels, 0.1)), 0) + np.float32(100)
    return pixels, variance.astype(np.float32), missing | (pixels >= 60000)


@pytest.mark.accuracy
@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyUserWarning")
def test_real_frames(shared_data):
    """One of each camera, raw or processed."""
    rays = {name: assert_same(*as_electrons(pixels)) for name, pixels in raw_planes(shared_data)}
    print(f"masks of {len(rays)} real frames differ in less than {FEWEST:g} of the pixels, rays: {rays}")
    assert len(rays) >= 7 and any(rays.values())


@pytest.mark.accuracy
def test_ten_times_as_fast():
    """On 1 Mpix with 750 rays."""
    image = star_field(225, 10, 750, shape=(1024, 1024), fwhm=2.5, beta=3.0).image(60000.0)
    arguments = image.data, image.uncertainty**2, image.mask != 0, {}
    seconds = []
    for engine in (lacosmic.detect, astroscrappy_mask, lacosmic.detect, astroscrappy_mask):
        start = time.process_time()
        engine(*arguments)
        seconds.append(time.process_time() - start)
    ratio = (seconds[1] + seconds[3]) / (seconds[0] + seconds[2])
    print(f"CPU time of astroscrappy over that of the default engine: {ratio:.0f}")
    assert ratio > 10
