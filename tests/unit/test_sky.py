"""Sky statistics and sky models against known skies."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from astropy.stats import sigma_clipped_stats
from fields import star_field

from nightflow import scenes, sky, sources


def gaussian_sky(shape=(300, 260), level=1000.0, sigma=30.0, seed=1):
    return np.random.default_rng(seed).normal(level, sigma, shape).astype(np.float32)


def gradient(shape, level, share):
    """A plane that rises by `share` of `level` from one corner to the other."""
    y, x = (np.arange(n) / n for n in shape)
    return level * (1 + share * ((0.6 * x + 0.4 * y[:, None]) - 0.5))


def test_statistics_equal_sigma_clipping_of_astropy():
    data = gaussian_sky()
    data[::17, ::13] += 5000
    found = sky.sky_statistics(data, sigma=3.0, maxiters=20)
    mean, median, stddev = sigma_clipped_stats(data.astype(np.float64), sigma=3.0, maxiters=20)
    assert (found.mean, found.median, found.stddev) == pytest.approx((mean, median, stddev), rel=1e-6)


def test_mode_is_three_medians_less_two_means():
    found = sky.sky_statistics(gaussian_sky())
    assert found.mode == pytest.approx(3 * found.median - 2 * found.mean, rel=1e-12)


@pytest.mark.parametrize("dtype", [bool, np.uint16])
def test_masked_and_not_finite_pixels_do_not_count(dtype):
    data = gaussian_sky()
    mask = np.zeros(data.shape, dtype)
    data[:50], mask[:50] = 1e6, 8 if dtype is np.uint16 else True
    data[100, 100] = np.nan
    found = sky.sky_statistics(data, mask)
    assert found.mean == pytest.approx(1000, abs=1)
    assert found.masked_fraction == pytest.approx((50 * 260 + 1) / data.size)
    assert data.size - 50 * 260 - 30 < found.npix < data.size - 50 * 260


def test_clipping_limit_and_rounds_matter():
    data = gaussian_sky()
    data[::5, ::5] += 200
    assert sky.sky_statistics(data, maxiters=0).mean > 1007
    assert sky.sky_statistics(data, sigma=4).mean < sky.sky_statistics(data, maxiters=0).mean - 6


@pytest.mark.parametrize("usable", [0, 1])
def test_statistics_of_almost_nothing(usable):
    """An image with no usable pixel, or one, has statistics all the same."""
    mask = np.ones((20, 20), bool)
    mask.ravel()[:usable] = False
    found = sky.sky_statistics(np.full((20, 20), 7, np.float32), mask)
    assert found.npix == usable
    assert np.isnan(found.mean) if usable == 0 else found.mean == 7
    assert found.masked_fraction == pytest.approx(1 - usable / 400)


def test_statistics_of_equal_pixels():
    found = sky.sky_statistics(np.full((20, 20), 7, np.float32))
    assert (found.mean, found.median, found.mode, found.stddev, found.npix) == (7, 7, 7, 0, 400)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="shape"):
        sky.sky_statistics(np.zeros((3, 3)), np.zeros((3, 4), bool))
    with pytest.raises(ValueError, match="sigma"):
        sky.sky_statistics(np.zeros((3, 3)), sigma=0)
    with pytest.raises(ValueError, match="sky.method"):
        sky.sky_model(gaussian_sky(), None, {"method": "spline"})
    with pytest.raises(ValueError, match="sky.estimator"):
        sky.sky_model(gaussian_sky(), None, {"estimator": "average"})


@pytest.mark.parametrize("method", ["scalar", "mesh"])
def test_model_of_no_pixel_is_refused(method):
    with pytest.raises(ValueError, match="no usable pixel"):
        sky.sky_model(gaussian_sky(), np.ones((300, 260), bool), {"method": method})


@pytest.mark.parametrize("estimator", sky.ESTIMATORS)
@pytest.mark.parametrize("method", ["scalar", "mesh"])
def test_every_estimator_finds_a_flat_sky(method, estimator):
    level, rms = sky.sky_model(gaussian_sky(), None, {"method": method, "estimator": estimator, "mesh": 64})
    assert np.mean(level) == pytest.approx(1000, abs=1)
    assert rms == pytest.approx(30, rel=0.02)


def test_scalar_model_takes_given_statistics():
    known = sky.SkyStatistics(5.0, 6.0, 8.0, 1.0, 10, 0.0)
    options = {"method": "scalar", "estimator": "mode"}
    assert sky.sky_model(gaussian_sky(), None, options, statistics=known) == (8.0, 1.0)


@pytest.mark.parametrize("estimator", sky.ESTIMATORS)
def test_meshes_are_those_of_photutils(estimator):
    """Levels and scatter of every box, cut ones, empty ones and ones with few pixels included."""
    from astropy.stats import SigmaClip
    from photutils import background

    rng = np.random.default_rng(8)
    data = rng.gamma(4.0, 30.0, (230, 330)).astype(np.float32)
    masked = rng.random(data.shape) < 0.3
    masked[:64, 64:128] = masked[130:190, :60] = True
    data[masked] = np.nan
    model = {
        "median": background.MedianBackground,
        "mean": background.MeanBackground,
        "mode": background.ModeEstimatorBackground,
        "sextractor": background.SExtractorBackground,
    }[estimator](sigma_clip=None)
    boxes = background.Background2D(
        np.nan_to_num(data), (64, 64), mask=masked, exclude_percentile=99.9, filter_size=1, bkg_estimator=model,
        sigma_clip=SigmaClip(sigma=2.5, maxiters=6),
    )  # fmt: skip
    options = {"estimator": estimator, "sigma": 2.5, "maxiters": 6, "max_masked": 0.999}
    level, rms = sky._mesh_levels(data, ~masked, (64, 64), options)
    known = np.isfinite(level)
    assert known.sum() >= 20 and not known[0, 1]
    np.testing.assert_allclose(level[known], boxes.background_mesh[known], rtol=2e-6)
    np.testing.assert_allclose(rms[known], boxes.background_rms_mesh[known], rtol=2e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 33])
def test_splines_are_those_of_scipy(n):
    from scipy.interpolate import make_interp_spline

    knots = np.cumsum(np.random.default_rng(n).uniform(20, 200, n))
    at = np.linspace(knots[0], knots[-1], 500)
    expected = make_interp_spline(knots, np.eye(n), k=min(3, n - 1))(at) if n > 1 else np.ones((500, 1))
    np.testing.assert_allclose(sky._cardinal_splines(knots, at), expected, atol=1e-10)


@pytest.mark.parametrize(("shape", "size"), [((16, 16), 3), ((3, 2), 5), ((1, 9), 3), ((7, 6), 4)])
def test_medians_of_the_mesh_are_those_of_scipy(shape, size):
    from scipy.ndimage import median_filter

    mesh = np.random.default_rng(2).normal(size=shape)
    np.testing.assert_array_equal(sky._median_filtered(mesh, size), median_filter(mesh, size, mode="nearest"))


def test_boxes_equal_statistics_of_each():
    """Also looked at in steps, far from zero, and with boxes of equal pixels."""
    rng = np.random.default_rng(9)
    data = (1e5 + rng.normal(size=(70, 90))).astype(np.float32)
    data[:20, :30] = 1e5
    usable = rng.random(data.shape) < 0.8
    for step in (1, 2):
        boxes = sky.clipped_boxes(data, usable, (20, 30), sigma=2.0, maxiters=10, step=step)
        for i, j in np.ndindex(4, 3):
            part = np.s_[20 * i : 20 * i + 20 : step, 30 * j : 30 * j + 30 : step]
            expected = sky.sky_statistics(data[part], ~usable[part], sigma=2.0)
            assert boxes["usable"][i, j] == usable[part].sum() and boxes["median"][i, j] == expected.median
            assert boxes["mean"][i, j] == pytest.approx(expected.mean, rel=1e-9)
            assert boxes["stddev"][i, j] == pytest.approx(expected.stddev, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("estimator", sky.ESTIMATORS)
@pytest.mark.parametrize("shape", [(1024, 1024), (700, 900)])
def test_gradient_is_followed_to_the_corners(shape, estimator):
    """What is left of a 10 % gradient is below 0.2 % of the sky, whether meshes divide the image or not."""
    truth = gradient(shape, 20000, 0.1)
    data = (truth + np.random.default_rng(2).normal(0, 140, shape)).astype(np.float32)
    model, _ = sky.sky_model(data, None, {"estimator": estimator})
    assert model.dtype == np.float32 and model.shape == shape
    assert np.abs(model / truth - 1).max() < 0.002


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_twilight_on_a_small_frame_is_no_source(share):
    """With fewer than three meshes along an axis the bright side of the gradient would be masked and left in."""
    truth = gradient((300, 400), 1800, share)
    data = np.random.default_rng(7).normal(truth, 43).astype(np.float32)
    found = sources.source_mask(data)
    model, _ = sky.sky_model(data, found)
    assert found.mean() < 0.01 and np.abs(model - truth).mean() < 5


def test_meshes_without_sky_are_filled_along_the_gradient():
    truth = gradient((1024, 1024), 1000, 0.2)
    data = (truth + np.random.default_rng(3).normal(0, 20, truth.shape)).astype(np.float32)
    mask = np.zeros(data.shape, np.uint16)
    data[300:640, :410], mask[300:640, :410] = np.nan, 16
    model, _ = sky.sky_model(data, mask)
    assert np.isfinite(model).all()
    assert np.abs(model - truth).max() < 4


def test_crowded_meshes_are_measured_where_none_is_better():
    """With 90 % of all pixels masked the model still follows the sky."""
    data = gaussian_sky((512, 512))
    mask = np.random.default_rng(4).uniform(size=data.shape) < 0.9
    data[mask] += 1e4
    model, _ = sky.sky_model(data, mask)
    assert np.abs(model - 1000).max() < 5


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (130, 20)])
def test_small_images_have_a_model(shape):
    model, _ = sky.sky_model(np.full(shape, 50, np.float32))
    assert np.allclose(model, 50)


def test_source_extractor_finds_the_same_background(shared_data):
    """Mesh 64, filter 3, 3 sigma, no mask: within 2.5 % of the rms level of the published map in the median."""
    from astropy.io import fits

    folder = shared_data / "singles" / "sep_sextractor"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cards that break the standard
        image, published, rms = (
            fits.getdata(folder / f"{name}.fits").astype("f4") for name in ("image", "back", "rms")
        )
    options = {"mesh": 64, "filter_size": 3, "sigma": 3.0, "estimator": "sextractor"}
    model, mesh_rms = sky.sky_model(image, None, options)
    difference = np.median(np.abs(model - published)) / np.median(rms)
    print(f"median difference {100 * difference:.2f} % of the rms level, rms {mesh_rms:.2f} and {np.median(rms):.2f}")
    assert difference < 0.025
    assert mesh_rms == pytest.approx(np.median(rms), rel=0.01)


SEEDS = range(1, 6)
CLUSTERED = {"star_profile": "moffat", "galaxy_profile": "sersic"}
SCENES = [
    # options, limits of mean, median and mode in standard deviations of the sky
    ({"stars": 200, "galaxies": 0}, (0.005, 0.005, 0.01)),
    ({"stars": 200, "galaxies": 30}, (0.005, 0.005, 0.01)),
    ({"stars": 200, "galaxies": 0, **CLUSTERED}, (0.03, 0.03, 0.03)),
    ({"stars": 200, "galaxies": 30, **CLUSTERED}, (0.03, 0.03, 0.03)),
    ({"stars": 4000, "galaxies": 300, **CLUSTERED}, (0.1, 0.1, 0.1)),
]


@pytest.mark.accuracy
@pytest.mark.parametrize(("options", "limits"), SCENES)
def test_sky_of_masked_scenes(options, limits):
    """Mean errors over five scenes of 1024 x 1024 pixels: the mask hides the wings too."""
    errors = []
    for seed in SEEDS:
        data, _, _ = scenes.make_scene(seed=seed, size_x=1024, size_y=1024, **options)
        found = sky.sky_statistics(data, sources.source_mask(data))
        errors.append([(v - 1000) / 30 for v in (found.mean, found.median, found.mode)] + [found.stddev / 30 - 1])
    mean = np.mean(errors, axis=0)
    print(options, "mean {:.4f} median {:.4f} mode {:.4f} sigma, stddev {:.2%}".format(*mean))
    assert (np.abs(mean[:3]) <= limits).all()
    assert np.abs(mean[3]) < 0.02


@pytest.mark.accuracy
@pytest.mark.parametrize("intensity", [1, 3, 10, 30])
def test_sky_under_a_large_galaxy(intensity):
    """n = 1, effective radius 25 px, mesh 128: at most 0.05 sigma of mean error inside 75 px, on a gradient too."""
    errors = []
    for seed in SEEDS:
        field = star_field(60, seed=seed, sky=gradient((1024, 1024), 900, 0.1))
        x, y = field.positions(1, margin=150)[0]
        field.add_galaxy(x, y, intensity * field.noise, 25.0, n=1.0, theta=seed)
        data = field.image().data
        model, _ = sky.sky_model(data, sources.source_mask(data))
        near = np.hypot(*(np.indices(data.shape) - np.array([y, x])[:, None, None])) < 75
        errors.append(np.mean((model - field.sky)[near]) / field.noise)
    print(f"I_e = {intensity} sigma: {np.mean(errors):.4f} sigma, of single frames up to {np.abs(errors).max():.4f}")
    assert np.abs(np.mean(errors)) < 0.05


@pytest.mark.accuracy
def test_residual_gradient_with_sources():
    """The plane left of a 10 % gradient, with stars and galaxies masked, spans at most 0.2 % of the sky."""
    left = []
    for seed in SEEDS:
        field = star_field(300, 30, seed=seed, sky=gradient((1024, 1024), 900, 0.1))
        data = field.image().data
        model, _ = sky.sky_model(data, sources.source_mask(data))
        terms = np.stack([np.ones(data.size), *(g.ravel() / 1024 for g in np.indices(data.shape))], axis=1)
        _, slope_y, slope_x = np.linalg.lstsq(terms, (model - field.sky).ravel(), rcond=None)[0]
        left.append((abs(slope_y) + abs(slope_x)) / 900)
    print("residual gradients", ", ".join(f"{100 * g:.3f} %" for g in left))
    assert max(left) < 0.002
