"""Source masks and source measurements against fields of known stars and galaxies."""

from __future__ import annotations

import numpy as np
import pytest
from fields import Field, star_field
from scipy import ndimage
from scipy.spatial import cKDTree

from nightflow import sources
from nightflow.products import Image, MaskBit

COLUMNS = ["x", "y", "flux", "flux_err", "peak", "fwhm", "ellipticity", "theta", "snr", "flags", "npix"]
PIXEL = 8 * np.log(2) / 12  # what integration over a pixel adds to a squared FWHM


def sky_image(shape=(600, 600), level=1000.0, sigma=30.0, seed=1):
    return (np.random.default_rng(seed).normal(0, sigma, shape) + level).astype(np.float32)


def subtracted(field: Field, saturation=np.inf) -> Image:
    image = field.image(saturation)
    image.data -= np.float32(np.mean(field.sky))
    return image


# --- mask ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0, 0.9, 1, 1.5, 4.5, 10])
def test_dilation_is_by_a_disc(radius):
    mask = np.random.default_rng(1).uniform(size=(60, 47)) < 0.003
    mask[0, 0] = mask[-1, 20] = True
    reach = int(radius)
    offset = np.arange(-reach, reach + 1)
    disc = offset**2 + offset[:, None] ** 2 <= radius**2
    assert (sources.dilate(mask, radius) == ndimage.binary_dilation(mask, disc)).all()


def test_dilation_reaches_beyond_a_small_image():
    mask = np.zeros((3, 4), bool)
    mask[1, 1] = True
    assert sources.dilate(mask, 20).all()


@pytest.mark.parametrize("seed", range(5))
def test_blank_sky_stays_unmasked(seed):
    """At 2 sigma and with dilation, at most 0.3 % of a blank image is masked."""
    found = sources.source_mask(sky_image((1024, 1024), seed=seed), None, {"threshold": 2.0, "dilation": 21})
    assert found.mean() < 0.003


@pytest.mark.parametrize(("level", "sigma"), [(1000, 30), (20000, 140)])
@pytest.mark.parametrize("curved", [False, True])
def test_gradient_of_the_sky_is_no_source(level, sigma, curved):
    """Neither a plane of 10 % nor a vignetted sky of 10 % is masked."""
    y, x = np.indices((700, 900)) / 900
    shape = 1 - 0.1 * ((x - 0.5) ** 2 + (y - 0.4) ** 2) / 0.41 if curved else 1 + 0.1 * (0.7 * x + 0.5 * y - 0.5)
    assert sources.source_mask(sky_image((700, 900), 0, sigma) + (level * shape).astype(np.float32)).mean() < 0.003


@pytest.mark.parametrize(("fwhm", "peak"), [(2.0, 10), (2.8, 10), (3.5, 5), (5.0, 5), (8.0, 5)])
def test_faint_stars_are_masked(fwhm, peak):
    """99 % of stars of a peak of 5 sigma at a FWHM of 3.5 px and above, 10 sigma below that."""
    hidden = []
    for seed in range(5):
        field = Field(shape=(700, 700), seed=seed, fwhm=fwhm)
        for x, y in field.positions(80):
            field.add_star(x, y, peak * field.noise * np.pi * fwhm**2 / (4 * np.log(2)), fwhm)
        found = sources.source_mask(field.image().data)
        hidden += [found[round(y), round(x)] for x, y, *_ in field.catalogue]
    assert np.mean(hidden) >= 0.99


@pytest.mark.parametrize(("radius", "intensity"), [(4, 5), (25, 1), (60, 0.5)])
def test_sources_of_any_size_are_masked(radius, intensity):
    """Half the light's radius of a galaxy is masked whether it spans a few pixels or a quarter of the image."""
    field = star_field(50, shape=(1024, 1024))
    field.add_galaxy(500, 520, intensity * field.noise, radius, axis_ratio=1.0)
    found = sources.source_mask(field.image().data)
    inside = np.hypot(*(np.indices(field.shape) - np.array([520, 500])[:, None, None])) < radius
    assert found[inside].mean() > 0.98
    assert found.mean() < 0.35


def test_options_of_the_mask_act():
    field = star_field(100, shape=(512, 512), faintest=4000)
    data = field.image().data
    default = sources.source_mask(data).sum()
    assert sources.source_mask(data, None, {"dilation": 21}).sum() > 1.5 * default
    assert sources.source_mask(data, None, {"threshold": 10.0}).sum() < 0.8 * default
    assert sources.source_mask(data, None, {"npixels": 5000}).sum() < 0.1 * default
    assert sources.source_mask(data, None, {"peak": 200.0}).sum() < 0.5 * default


def test_masked_pixels_are_neither_looked_at_nor_returned():
    data = sky_image()
    mask = np.zeros(data.shape, np.uint16)
    data[100:140, 200:260], mask[100:140, 200:260] = 60000, int(MaskBit.BAD)
    data[300, 300] = np.nan
    found = sources.source_mask(data, mask)
    assert not found[mask != 0].any() and not found[300, 300]
    assert found.mean() < 0.003


@pytest.mark.parametrize(
    "data", [np.zeros((1, 1)), np.full((20, 30), 5.0), np.full((64, 64), np.nan), np.ones((3, 200))]
)
def test_images_without_anything_have_an_empty_mask(data):
    found = sources.source_mask(data.astype(np.float32))
    assert found.shape == data.shape and not found.any()


def test_mask_is_the_same_again():
    data = star_field(100, 10, shape=(400, 500)).image().data
    before = data.copy()
    assert (sources.source_mask(data) == sources.source_mask(data)).all()
    assert (data == before).all()


# --- detection and measurement ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fwhm", [2.2, 3.0, 5.0])
@pytest.mark.parametrize("beta", [None, 3.0])
def test_positions_of_bright_stars(fwhm, beta):
    """0.03 px rms at a signal-to-noise ratio of 100 and more, as registration needs."""
    field = Field(shape=(500, 500), seed=3)
    for x, y in field.positions(60, margin=20):
        field.add_star(x, y, 60000, fwhm, beta=beta)
    table = sources.detect_sources(subtracted(field))
    truth = np.array(field.catalogue)[:, :2]
    alone = cKDTree(truth).query(truth, k=2)[0][:, 1] > 6 * fwhm
    distance, _ = cKDTree(np.column_stack([table["x"].value, table["y"].value])).query(truth[alone])
    assert np.sqrt(np.mean(distance**2) / 2) < 0.03


@pytest.mark.parametrize("fwhm", [2.2, 3.0, 5.0, 9.0])
@pytest.mark.parametrize("beta", [None, 2.5, 3.5, 4.765])
def test_seeing_is_the_width_at_half_maximum(fwhm, beta):
    """Within 3 % for Gaussian and Moffat stars alike, of the profile as the pixels integrate it."""
    field = Field(shape=(700, 700), seed=4)
    for x, y in field.positions(40, margin=40):
        field.add_star(x, y, 2e5, fwhm, beta=beta)
    found, ellipticity, n = sources.seeing(sources.detect_sources(subtracted(field)))
    assert found == pytest.approx(np.sqrt(fwhm**2 + PIXEL), rel=0.03)
    assert ellipticity < 0.04 and n > 20


@pytest.mark.parametrize("theta", [0.3, 1.2, 2.5])
def test_elongation(theta):
    field = Field(shape=(500, 500), seed=5)
    for x, y in field.positions(30, margin=30):
        field.add_star(x, y, 2e5, 5.0, axis_ratio=0.7, theta=theta)
    table = sources.detect_sources(subtracted(field))
    bright = table["snr"] > 100
    assert np.median(table["ellipticity"][bright]) == pytest.approx(0.3, abs=0.02)
    turned = (table["theta"][bright].value - theta + np.pi / 2) % np.pi - np.pi / 2
    assert np.median(np.abs(turned)) < 0.03


def test_flux_errors_are_the_scatter():
    """The pulls of aperture fluxes of equal stars have a standard deviation of one."""
    field = Field(shape=(900, 900), seed=6)
    y, x = np.mgrid[30:870:30, 30:870:30] + field.rng.uniform(-0.5, 0.5, (2, 28, 28))
    for place in zip(x.ravel(), y.ravel(), strict=True):
        field.add_star(*place, 8000, 3.0)
    table = sources.detect_sources(subtracted(field))
    assert len(table) == pytest.approx(784, abs=4)
    flux = table["flux"].value
    pull = (flux - np.median(flux)) / table["flux_err"].value
    assert np.std(pull[np.abs(pull) < 5]) == pytest.approx(1, abs=0.08)


def test_table_has_columns_units_and_order():
    table = sources.detect_sources(subtracted(star_field(50, shape=(400, 400), faintest=6000)))
    assert table.colnames == COLUMNS
    units = {name: str(table[name].unit) for name in COLUMNS if table[name].unit}
    assert units == {
        **dict.fromkeys(("x", "y", "fwhm"), "pix"),
        **dict.fromkeys(("flux", "flux_err", "peak"), "electron"),
        "theta": "rad",
    }
    assert (np.diff(table["flux"].value) <= 0).all()


@pytest.mark.parametrize("data", [np.zeros((200, 200)), np.full((200, 200), np.nan), np.zeros((2, 3))])
def test_no_sources_make_an_empty_table(data):
    data = data.astype(np.float32)
    mask = np.where(np.isnan(data), int(MaskBit.NO_DATA), 0).astype(np.uint16)
    table = sources.detect_sources(Image(data, mask, np.ones_like(data)))
    assert table.colnames == COLUMNS and len(table) == 0
    fwhm, ellipticity, n = sources.seeing(table)
    assert np.isnan(fwhm) and np.isnan(ellipticity) and n == 0


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_no_source(seed):
    data = sky_image((1024, 1024), 0.0, seed=seed)
    assert len(sources.detect_sources(Image(data, np.zeros(data.shape, np.uint16), np.full_like(data, 30)))) <= 5


def test_saturated_star_is_one_flagged_source_and_no_seeing_star():
    field = star_field(40, shape=(400, 400), seed=8, faintest=8000)
    field.add_star(200.3, 210.4, 5e6, 3.0, beta=3.0)
    table = sources.detect_sources(subtracted(field, saturation=30000))
    near = np.hypot(table["x"].value - 200.3, table["y"].value - 210.4) < 6
    assert near.sum() == 1
    assert table["flags"][near][0] & MaskBit.SATURATED
    assert np.hypot(table["x"].value[near] - 200.3, table["y"].value[near] - 210.4)[0] < 0.3
    assert sources.seeing(table)[0] == pytest.approx(3.07, rel=0.03)


def test_flagged_pixels_are_no_sources_but_flag_their_neighbours():
    field = Field(shape=(200, 200), seed=9)
    field.add_star(100, 100, 5e4, 3.0)
    image = subtracted(field)
    for y, x, bit in ((30, 40, MaskBit.BAD), (101, 101, MaskBit.COSMIC_RAY)):
        image.data[y, x], image.mask[y, x] = 1e5, int(bit)
    table = sources.detect_sources(image)
    assert len(table) == 1
    assert table["flags"][0] == MaskBit.COSMIC_RAY


def test_single_hot_pixels_are_no_stars():
    field = star_field(60, shape=(500, 500), seed=10, faintest=8000)
    image = subtracted(field)
    image.data[::50, 7::53] += 3000
    table = sources.detect_sources(image)
    hot = cKDTree(np.argwhere(np.ones((10, 10))) * [50, 53] + [0, 7])
    distance, _ = hot.query(np.column_stack([table["y"].value, table["x"].value]))
    assert np.count_nonzero(distance < 0.5) < 10
    assert sources.seeing(table)[0] == pytest.approx(3.07, rel=0.04)


@pytest.mark.parametrize("fwhm", [2.0, 4.5])
def test_a_frame_without_darks_is_measured_by_its_stars_and_not_by_its_hot_pixels(fwhm):
    """Hundreds of hot pixels, bright and faint, beside twenty stars move neither the seeing nor the positions."""
    field = star_field(20, shape=(500, 500), fwhm=fwhm, faintest=4e4, seed=7)
    image = subtracted(field)
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 500, (2, 600))
    stars = np.array([star[:2] for star in field.catalogue])
    away = cKDTree(stars).query(np.column_stack([x, y]))[0] > 15
    image.data[y[away], x[away]] += (300 * rng.uniform(0.005, 1, away.sum()) ** -1).astype(np.float32)
    table = sources.detect_sources(image)
    assert sources.seeing(table)[0] == pytest.approx(np.sqrt(fwhm**2 + PIXEL), rel=0.05)
    found = np.column_stack([table["x"].value, table["y"].value])
    distance, _ = cKDTree(found).query(stars)
    assert np.median(distance) < 0.03 and distance.max() < 0.2


def test_the_smooth_light_of_a_galaxy_is_no_star():
    """The noise in the disc of a bright galaxy is not taken for stars; its nucleus may be."""
    field = star_field(60, shape=(500, 500), seed=10, faintest=8000)
    field.add_galaxy(250, 250, 8 * field.noise, 40.0, axis_ratio=1.0)
    table = sources.detect_sources(subtracted(field))
    found = np.count_nonzero(np.hypot(table["x"].value - 250, table["y"].value - 250) < 80)
    assert found <= 1 + sum(np.hypot(x - 250, y - 250) < 80 for x, y, *_ in field.catalogue)
    assert sources.seeing(table)[0] == pytest.approx(3.07, rel=0.04)


def test_a_star_cut_by_the_edge_is_flagged():
    field = Field(shape=(100, 100), seed=11)
    field.add_star(1.0, 50.0, 1e5, 3.0)
    field.add_star(50.0, 50.0, 1e5, 3.0)
    table = sources.detect_sources(subtracted(field))
    at_edge = table["x"].value < 5
    assert table["flags"][at_edge] == [int(MaskBit.NO_DATA)] and table["flags"][~at_edge] == [0]


def test_only_the_brightest_are_kept():
    image = subtracted(star_field(80, shape=(400, 400), faintest=8000))
    everything = sources.detect_sources(image)
    assert len(sources.detect_sources(image, {"max_sources": 10})) <= 10
    assert len(sources.detect_sources(image, {"detection_threshold": 100.0})) < len(everything) / 2


@pytest.mark.parametrize("n", [1, 3])
def test_seeing_of_few_stars(n):
    field = Field(shape=(300, 300), seed=12)
    for x, y in field.positions(n, margin=60):
        field.add_star(x, y, 1e5, 4.0)
    fwhm, _, used = sources.seeing(sources.detect_sources(subtracted(field)))
    assert used == n
    assert fwhm == pytest.approx(4.06, rel=0.03)


@pytest.mark.accuracy
def test_crowded_field():
    """4000 stars in a megapixel: bright ones are found where they are, and the seeing holds."""
    field = star_field(4000, 100, seed=13, fwhm=3.0, beta=3.5, faintest=2000)
    table = sources.detect_sources(subtracted(field, saturation=60000))
    truth = np.array(field.catalogue)
    bright = truth[:, 2] > 20000
    distance, _ = cKDTree(np.column_stack([table["x"].value, table["y"].value])).query(truth[bright, :2])
    fwhm, _, n = sources.seeing(table)
    print(f"{np.mean(distance < 1):.3f} of bright stars found, median offset {np.median(distance):.4f} px")
    print(f"FWHM {fwhm:.3f} of {n} stars, true {np.sqrt(9 + PIXEL):.3f}")
    assert np.mean(distance < 1) > 0.93
    assert np.median(distance) < 0.05
    assert fwhm == pytest.approx(np.sqrt(9 + PIXEL), rel=0.05)


@pytest.mark.parametrize("sigma", [0.4, 1.27, 2.54, 11.0])
@pytest.mark.parametrize("shape", [(1, 7), (5, 40000), (90, 70)])
def test_smoothing_is_that_of_scipy(shape, sigma):
    image = np.random.default_rng(1).normal(1.0, 5.0, shape).astype(np.float32)
    expected = ndimage.gaussian_filter(image, sigma, mode="constant", truncate=3)
    smooth = sources.gaussian_smoothed(image, sigma)
    assert smooth.dtype == image.dtype
    np.testing.assert_allclose(smooth, expected, atol=1e-5)


def test_apertures_in_pixels_do_not_change_what_a_source_is():
    """Detection goes with the seeing: `flux` and `snr` are those within 1.5 FWHM whatever the radii in px are."""
    image = star_field(60, seed=3, shape=(300, 300), fwhm=3.0).image()
    usual = sources.detect_sources(image)
    pixels = sources.detect_sources(image, {"aperture_unit": "px", "aperture": 6.0})
    np.testing.assert_array_equal(usual["flux"], pixels["flux"])


@pytest.mark.parametrize("half", [0, 2, 4, 30])
def test_stamps_are_squares_of_the_plane_filled_up_beyond_its_edges(half):
    """Also where the plane is smaller than a square, and for positions off the plane, which count as at its edge."""
    plane = np.arange(12 * 9, dtype=np.float32).reshape(12, 9)
    x, y = np.array([4.2, 0.0, 8.4, 3.6, 20.0]), np.array([5.6, 0.0, 11.0, 2.0, -7.0])
    padded = np.pad(plane, half, constant_values=-1)
    rows, columns = np.clip(np.rint(y).astype(int), 0, 11), np.clip(np.rint(x).astype(int), 0, 8)
    expected = [padded[r : r + 2 * half + 1, c : c + 2 * half + 1] for r, c in zip(rows, columns, strict=True)]
    np.testing.assert_array_equal(sources.stamps(plane, x, y, half, fill=-1), expected)
    assert sources.stamps(plane, x[:0], y[:0], half).shape == (0, 2 * half + 1, 2 * half + 1)
