"""Masters against the detector that made their frames: values, stated noise, read noise, gain, and refusals."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from astropy.io import fits

from nightflow import badpixels, masters, photontransfer, products
from nightflow.badpixels import hot_pixels, local_median, local_median_at
from nightflow.combine import ArrayRows
from nightflow.products import Image, MaskBit, RejectedFrame
from nightflow.steps import UserError

GAIN, READ_NOISE, SHAPE = 1.5, 9.0, (160, 200)
DETECTOR = {"gain": GAIN, "read_noise": READ_NOISE, "saturation": 65535.0}


class Camera:
    """A detector that writes raw frames: bias structure, dark current (electron/s), response."""

    def __init__(self, folder, seed=0, shape=SHAPE):
        self.folder, self.rng, self.shape = folder, np.random.default_rng(seed), shape
        self.bias = 400 + 5 * np.sin(np.arange(shape[1]) / 7)[None, :] + self.rng.normal(0, 2, shape)
        self.current = np.full(shape, 0.2)
        x, y = np.meshgrid(np.linspace(-1, 1, shape[1]), np.linspace(-1, 1, shape[0]))
        self.response = (1 - 0.3 * (x**2 + y**2)) * self.rng.normal(1, 0.01, shape)
        self.number = 0

    def expose(self, exptime=0.0, light=0.0, extra=0.0, **cards):
        electrons = self.rng.poisson(light * self.response + self.current * exptime + extra)
        adu = self.bias + (electrons + self.rng.normal(0, READ_NOISE, self.shape)) / GAIN
        self.number += 1
        path = self.folder / f"frame{self.number:03d}.fits"
        header = fits.Header([("EXPTIME", exptime), *cards.items()])
        fits.PrimaryHDU(np.clip(np.round(adu), 0, 65535).astype(np.uint16), header).writeto(path)
        return path


@pytest.fixture
def camera(tmp_path):
    return Camera(tmp_path)


def bias_of(camera, n=5):
    return masters.make_bias([camera.expose() for _ in range(n)], DETECTOR, {})


def dark_of(camera, n=5, exptime=300.0):
    return masters.make_dark([camera.expose(exptime) for _ in range(n)], None, DETECTOR, {})


def flats_of(camera, levels=(20000, 30000, 26000, 35000, 24000)):
    return [camera.expose(2.0, level) for level in levels]


def test_median_masters_are_plain_medians(camera):
    paths = [camera.expose() for _ in range(5)]
    expected = np.median([fits.getdata(p).astype(np.float32) for p in paths], axis=0)
    np.testing.assert_array_equal(masters.make_bias(paths, DETECTOR, {}).data, expected)
    np.testing.assert_array_equal(masters.make_dark(paths, None, DETECTOR, {}).data, expected)


def test_flat_is_the_plain_recipe(camera):
    """Each flat minus bias and scaled dark, over its median; the median of these over its mean."""
    bias, dark, paths = bias_of(camera), dark_of(camera), flats_of(camera)
    k = 2.0 / 300
    raw = [fits.getdata(p).astype(np.float64) for p in paths]
    counts = [r - (1 - k) * bias.data - k * dark.data for r in raw]
    expected = np.median([c / np.median(c) for c in counts], axis=0)
    flat = masters.make_flat(paths, bias, dark, DETECTOR, {})
    np.testing.assert_allclose(flat.data, expected / expected.mean(), rtol=3e-5)
    assert flat.data.mean(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    assert (flat.header["NCOMBINE"], flat.header["BUNIT"]) == (5, "")
    assert (flat.header["CALBIAS"], flat.header["CALDARK"]) == ("applied", "applied")


def test_headers_say_what_the_masters_are(camera):
    bias, dark = bias_of(camera), dark_of(camera)
    assert (bias.header["IMAGETYP"], bias.header["NCOMBINE"], bias.header["BUNIT"]) == ("BIAS", 5, "adu")
    assert (dark.header["IMAGETYP"], dark.header["EXPTIME"]) == ("DARK", 300.0)
    assert "BZERO" not in bias.header
    own = masters.make_bias([camera.expose()], DETECTOR, {}, header=fits.Header([("INSTRUME", "Test")]))
    assert own.header["INSTRUME"] == "Test"


def test_exposure_times_given_count_more_than_the_header(camera):
    paths = [camera.expose(10.0) for _ in range(3)]
    assert masters.make_dark(paths, None, DETECTOR, {}, exptimes=[20.0] * 3).header["EXPTIME"] == 20


@pytest.mark.accuracy
@pytest.mark.parametrize("n", [2, 3, 10])
def test_read_noise_is_measured_despite_hot_pixels_and_drift(tmp_path, n):
    camera = Camera(tmp_path, shape=(400, 400))
    hot = np.where(camera.rng.random(camera.shape) < 0.01, 30000, 0)
    paths = [camera.expose(extra=hot + 20 * i) for i in range(n)]
    drifting = [ArrayRows(fits.getdata(p) + np.float32(40 * i)) for i, p in enumerate(paths)]
    expected = np.sqrt((READ_NOISE**2 + 20 * (n - 1) / 2) / GAIN**2 + 1 / 12)
    measured = photontransfer.measure_read_noise(drifting)
    print(f"N={n}: read noise {measured:.3f} ADU, true {expected:.3f}")
    assert measured == pytest.approx(expected, rel=0.01)


def test_read_noise_of_a_single_bias_is_an_upper_estimate(camera):
    bias = masters.make_bias([camera.expose()], DETECTOR, {})
    assert READ_NOISE / GAIN < bias.header["RNMEAS"] < 1.2 * READ_NOISE / GAIN


def test_read_noise_below_the_digital_step_is_not_zero():
    """Most pixels of two frames are then equal, and the median deviation is zero."""
    rng = np.random.default_rng(5)
    frames = [ArrayRows(np.round(rng.normal(100.3, 0.35, (300, 300))).astype(np.float32)) for _ in range(4)]
    assert photontransfer.measure_read_noise(frames) == pytest.approx(np.hypot(0.35, 1 / np.sqrt(12)), rel=0.15)


def test_dark_corners_do_not_count_for_the_gain(tmp_path):
    """A round field on a square detector: a pixel without light has no photon noise, but a level near zero."""
    camera = Camera(tmp_path, shape=(300, 300))
    y, x = np.indices(camera.shape) / 149.5 - 1
    lit = np.clip(1.3 - np.hypot(x, y), 0, 1)
    flats = [ArrayRows((fits.getdata(camera.expose(1.0, 20000 * lit)) - camera.bias).astype(np.float32)) for _ in "abc"]
    assert photontransfer.measure_gain(flats, READ_NOISE / GAIN) == pytest.approx(GAIN, rel=0.02)


@pytest.mark.accuracy
def test_gain_is_measured_on_fading_flats_whose_shape_changes(tmp_path):
    camera = Camera(tmp_path, shape=(500, 500))
    slope = np.linspace(-1, 1, 500)[None, :]
    paths = [
        camera.expose(1.0, level * (1 + tilt * slope)) for level, tilt in ((30000, 0), (26000, 0.01), (21000, 0.02))
    ]
    flats = [ArrayRows((fits.getdata(p) - camera.bias).astype(np.float32)) for p in paths]
    gain = photontransfer.measure_gain(flats, READ_NOISE / GAIN)
    print(f"gain {gain:.4f}, true {GAIN}")
    assert gain == pytest.approx(GAIN, rel=0.01)
    assert photontransfer.measure_gain(flats[:1], 6.0) is None


@pytest.mark.accuracy
@pytest.mark.parametrize("method", ["median", "mean", "clipped_mean"])
@pytest.mark.parametrize("n", [3, 5, 11, 25])
def test_masters_state_their_sigma(tmp_path, n, method):
    """Bias, dark and flat: stated over true scatter within 5 % in each of five seeds."""
    ratios = {"bias": [], "dark": [], "flat": []}
    for seed in range(5):
        (tmp_path / str(seed)).mkdir()
        camera = Camera(tmp_path / str(seed), seed, (100, 120))
        options = {"method": method}
        bias = masters.make_bias([camera.expose() for _ in range(n)], DETECTOR, options)
        dark = masters.make_dark([camera.expose(300.0) for _ in range(n)], None, DETECTOR, options)
        exact = Image(camera.bias.astype(np.float32), bias.mask, np.zeros_like(bias.data))
        flat = masters.make_flat(flats_of(camera, np.linspace(18000, 40000, n)), exact, None, DETECTOR, options)
        response = camera.response / camera.response.mean()
        errors = {
            "bias": (bias.data - camera.bias, bias),
            "dark": (dark.data - camera.bias - 300 * camera.current / GAIN, dark),
            "flat": (flat.data - response, flat),
        }
        for kind, (error, master) in errors.items():
            z = error / master.uncertainty
            ratios[kind].append(1 / z.std())
    for kind, values in ratios.items():
        worst = max(values, key=lambda v: abs(v - 1))
        print(f"{kind} {method} N={n}: stated/true {np.mean(values):.4f} (worst {worst:.4f})")
        assert abs(worst - 1) < 0.05


def test_stars_in_twilight_flats_vanish(camera):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    bias, paths = bias_of(camera), []
    for i in range(4):
        star = 40000 * np.exp(-0.5 * ((x - 40 - 30 * i) ** 2 + (y - 80) ** 2) / 2**2)
        paths.append(camera.expose(1.0, 25000 - 1500 * i, extra=star))
    response = camera.response / camera.response.mean()
    for options, limit in [({"method": "median"}, 0.03), ({"method": "clipped_mean"}, 0.03)]:
        flat = masters.make_flat(paths, bias, None, DETECTOR, options)
        assert np.abs(flat.data / response - 1)[60:100].max() < limit


def test_low_response_is_one_and_flagged(camera):
    camera.response[10:20, 10:20] = 0.05
    flat = masters.make_flat(flats_of(camera), bias_of(camera), None, DETECTOR, {"low_response": 0.2})
    low = (flat.mask & MaskBit.LOW_RESPONSE) != 0
    assert low[10:20, 10:20].all() and low.sum() == 100
    assert (flat.data[low] == 1).all()
    assert flat.data[~low].mean(dtype=np.float64) == pytest.approx(1, abs=1e-6)


def test_one_normalisation_for_several_chips(camera):
    bias, paths = bias_of(camera), flats_of(camera)
    alone = masters.make_flat(paths, bias, None, DETECTOR, {})
    levels = np.array([20000, 30000, 26000, 35000, 24000]) * 0.5
    shared = masters.make_flat(paths, bias, None, DETECTOR, {}, levels=levels, norm=1.0)
    assert np.median(shared.data / alone.data) == pytest.approx(2 * camera.response.mean(), rel=0.01)


def test_unknown_gain_takes_the_flats_noise_from_the_flats(camera):
    bias, paths = bias_of(camera), flats_of(camera)
    known = masters.make_flat(paths, bias, None, DETECTOR, {})
    unknown = masters.make_flat(paths, bias, None, {"gain": None, "read_noise": None}, {})
    np.testing.assert_allclose(unknown.data, known.data, rtol=1e-5)
    assert np.median(unknown.uncertainty / known.uncertainty) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("light", "words"),
    [(300, "too faint: 200 ADU above the bias, at least 500"), (92500, r"too bright: 6\d+ ADU, at most 58982"),
     (97500, r"saturated in 2\d\.\d% of its pixels, 1.0%")],
)  # fmt: skip
def test_flats_outside_the_limits_are_left_out_with_a_reason(camera, caplog, light, words):
    camera.response[:] = 1.0
    bias, good = bias_of(camera), flats_of(camera, (20000, 30000))
    poor = camera.expose(1.0, light)
    flat = masters.make_flat([*good, poor], bias, None, DETECTOR, {})
    assert flat.header["NCOMBINE"] == 2
    assert poor.name in str(flat.header["HISTORY"])
    with pytest.raises(RejectedFrame, match=words):
        masters.make_flat([poor], bias, None, DETECTOR, {})
    assert "left out" in caplog.text


def test_flat_without_bias_or_dark_is_refused_unless_told_otherwise(camera):
    paths = flats_of(camera)
    with pytest.raises(RejectedFrame, match="neither a bias nor a dark of its exposure time"):
        masters.make_flat(paths, None, None, DETECTOR, {})
    assert masters.make_flat(paths, None, None, DETECTOR, {"flat_without_bias": True}).header["CALBIAS"] == "none"
    equal = dark_of(camera, exptime=2.0)
    assert masters.make_flat(paths, None, equal, DETECTOR, {}).header["CALDARK"] == "applied"
    with pytest.raises(RejectedFrame, match="cannot be scaled from 300 s to 2 s without a bias"):
        masters.make_flat(paths, None, dark_of(camera), DETECTOR, {})


def test_damaged_frames_are_left_out_and_none_left_is_a_rejection(camera, tmp_path, caplog):
    good = [camera.expose() for _ in range(3)]
    cut, other = tmp_path / "cut.fits", tmp_path / "other.fits"
    cut.write_bytes(good[0].read_bytes()[:5000])
    fits.PrimaryHDU(np.arange(25, dtype=np.int16).reshape(5, 5)).writeto(other)
    blank, dead = tmp_path / "blank.fits", tmp_path / "dead.fits"
    fits.PrimaryHDU(np.full((5, 5), np.nan, np.float32)).writeto(blank)
    fits.PrimaryHDU(np.zeros((5, 5), np.int16)).writeto(dead)
    bias = masters.make_bias([*good, cut, other, blank, dead], DETECTOR, {})
    assert bias.header["NCOMBINE"] == 3
    assert "blank.fits holds no numbers" in caplog.text and "all pixels of dead.fits are 0" in caplog.text
    assert "cut.fits is truncated" in caplog.text
    assert "other.fits is not of the shape of frame001.fits" in caplog.text
    with pytest.raises(RejectedFrame, match="no frame can be used: cut.fits is truncated"):
        masters.make_bias([cut], DETECTOR, {})


def test_masters_of_another_shape_are_refused(camera):
    small = Image(np.zeros((5, 5), np.float32), np.zeros((5, 5), np.uint16), np.zeros((5, 5), np.float32))
    with pytest.raises(RejectedFrame, match="the frames have 200 x 160 pixels, their bias 5 x 5"):
        masters.make_flat(flats_of(camera), small, None, DETECTOR, {})


def test_wrong_noise_model_is_noticed(camera, caplog):
    caplog.set_level(logging.WARNING)
    wrong = {"gain": 40.0, "read_noise": 1.0}
    masters.make_flat(flats_of(camera), bias_of(camera), None, wrong, {"method": "clipped_mean"})
    assert "are gain and read noise right?" in caplog.text


def test_master_dark_with_linearity_keeps_the_bias_in(tmp_path):
    """measured = true - 1e-5 true**2 above the bias; the master dark is bias plus the true dark current."""
    camera = Camera(tmp_path)
    bias = Image(camera.bias.astype(np.float32), np.zeros(SHAPE, np.uint16), np.zeros(SHAPE, np.float32))
    true = np.linspace(0, 8000, SHAPE[1])[None, :]
    measured = np.broadcast_to(camera.bias + true - 1e-5 * true**2, SHAPE).astype(np.float32)
    path = tmp_path / "dark.fits"
    fits.PrimaryHDU(measured, fits.Header([("EXPTIME", 60.0)])).writeto(path)
    x = np.linspace(0, 9000, 1000)
    linearity = np.polynomial.Polynomial.fit(x - 1e-5 * x**2, x, 5).convert().coef
    dark = masters.make_dark([path, path], bias, DETECTOR | {"linearity": linearity}, {})
    np.testing.assert_allclose(dark.data - camera.bias, np.broadcast_to(true, SHAPE), atol=0.5)


def spotted_dark(noise=5.0, seed=4):
    rng = np.random.default_rng(seed)
    return (500 + rng.normal(0, noise, SHAPE)).astype(np.float32)


def test_hot_pixels_and_a_bright_column_are_found_and_nothing_else():
    dark = spotted_dark()
    truth = np.zeros(SHAPE, bool)
    for place in [(0, 0), (50, 60), (50, 61), (159, 199), (80, 120)]:
        truth[place] = True
    truth[:, 150] = True
    truth[30:, 20] = True
    dark[truth] += 400
    np.testing.assert_array_equal(hot_pixels(dark, 5.0, 20.0), truth)


def test_hot_pixels_follow_a_glowing_corner():
    dark = spotted_dark()
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    dark += 3000 * np.exp(-np.hypot(x, y) / 40).astype(np.float32)
    assert hot_pixels(dark, 5.0, 20.0).sum() == 0


def test_many_darks_do_not_make_warm_pixels_bad():
    """A hot pixel is one that a single frame shows, whatever the number of darks that were combined."""
    dark = spotted_dark(0.5)
    dark[40, 40] += 60  # 120 times the master's noise, 12 times one frame's
    assert not hot_pixels(dark, 5.0, 20.0).any()


def test_gaps_in_a_bad_column_are_filled():
    dark = spotted_dark()
    dark[20:100, 33] += 500
    dark[range(22, 100, 3), 33] -= 500
    image = Image(dark, np.zeros(SHAPE, np.uint16), np.full(SHAPE, 5, np.float32), fits.Header([("DARKNOIS", 5.0)]))
    bad = masters.find_bad_pixels(image, None, {}) != 0
    assert bad[36:84, 33].all()
    assert bad[:, [32, 34]].sum() == 0


def test_dead_and_deviant_pixels_are_found_in_the_flat(camera):
    camera.response[20, 20], camera.response[30, 30], camera.response[40, 40] = 0.3, 1.5, 0.9
    camera.response[:, 70] = 0.6
    flat = masters.make_flat(flats_of(camera), bias_of(camera), None, DETECTOR, {})
    bad = masters.find_bad_pixels(None, flat, {})
    truth = np.zeros(SHAPE, bool)
    truth[[20, 30], [20, 30]] = True
    truth[:, 70] = True
    np.testing.assert_array_equal(bad, np.where(truth, MaskBit.BAD, 0))
    assert bad.dtype == np.uint16


def test_bad_columns_do_not_change_the_scale_of_a_flat(camera):
    """The mean over good pixels is 1, however many dead and deviant ones there are."""
    whole = masters.make_flat(flats_of(camera), bias_of(camera), None, DETECTOR, {})
    camera.response[:, 70], camera.response[20:25, 20] = 0.4, 1.6
    flat = masters.make_flat(flats_of(camera), bias_of(camera), None, DETECTOR, {})
    good = masters.find_bad_pixels(None, flat, {}) == 0
    assert not good[:, 70].any() and flat.data[good].mean(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    assert np.median(flat.data[good] / whole.data[good]) == pytest.approx(1, abs=1e-3)


def test_a_map_needs_a_master():
    with pytest.raises(ValueError, match="needs a dark or a flat"):
        masters.find_bad_pixels(None, None, {})


@pytest.mark.parametrize("shape", [(40, 50), (7, 300), (130, 9)])
def test_local_median_is_the_separable_median(shape):
    from scipy.ndimage import median_filter

    pixels = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    expected = median_filter(median_filter(pixels, (1, 7), mode="reflect"), (7, 1), mode="reflect")
    np.testing.assert_array_equal(local_median(pixels, 7), expected)


@pytest.mark.parametrize("shape", [(70, 90), (7, 900), (130, 9), (3, 300)])
@pytest.mark.parametrize("unknown", [False, True])
def test_local_median_at_some_pixels(shape, unknown):
    """At the edges too, of images that are smaller than the width, and with pixels that are NaN."""
    pixels = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    pixels[1, ::7] = np.nan if unknown else 0
    y, x = np.divmod(np.linspace(0, pixels.size - 1, pixels.size // 60).astype(int), shape[1])
    np.testing.assert_array_equal(local_median_at(pixels, y, x, 15), local_median(pixels, 15)[y, x])


@pytest.fixture(scope="module")
def m51(shared_data):
    folder = shared_data / "m51_qsi532" / "raw"
    detector = {"gain": 1.32, "read_noise": None}
    bias = masters.make_bias(sorted(folder.glob("bias*")), detector, {})
    dark = masters.make_dark(sorted(folder.glob("dark*")), None, detector, {})
    flats = sorted(folder.glob("twiflat*"))
    return bias, dark, masters.make_flat(flats, bias, dark, detector, {}), flats, detector


def test_read_noise_and_gain_of_a_real_camera(m51):
    bias, _, _, paths, _ = m51
    flats = [ArrayRows(fits.getdata(p).astype(np.float32) - bias.data) for p in paths]
    gain = photontransfer.measure_gain(flats, bias.header["RNMEAS"])
    print(f"M51 set: read noise {bias.header['RNMEAS']:.2f} ADU, gain {gain:.3f} electron/ADU (header 2.4)")
    assert bias.header["RNMEAS"] == pytest.approx(12.3, abs=0.1)
    assert gain == pytest.approx(1.32, rel=0.03)


def test_bad_pixels_of_a_real_camera(m51):
    _, dark, flat, _, _ = m51
    bad = masters.find_bad_pixels(dark, flat, {}) != 0
    excess = dark.data - local_median(dark.data, 7)
    print(f"M51 set: {bad.sum()} bad pixels ({bad.mean():.2%}); dark noise {dark.header['DARKNOIS']:.2f} ADU")
    assert bad[dark.data > 2000].all(), "hot pixels, those at 64000 too"
    assert 0.003 < bad.mean() < 0.01
    assert np.abs(excess[~bad]).max() < 400


def test_frames_of_a_real_flat_agree_with_their_stated_noise(m51):
    """The pixel-to-pixel difference of two single-frame flats against their uncertainties."""
    bias, dark, _, paths, detector = m51
    first, second = (masters.make_flat([p], bias, dark, detector, {}) for p in paths[:2])
    difference = first.data - second.data
    difference = (difference[:, 1:] - difference[:, :-1]) / np.sqrt(2)
    stated = np.hypot(np.median(first.uncertainty), np.median(second.uncertainty))
    ratio = stated / photontransfer.clipped_deviation(difference)
    print(f"M51 set: flat noise stated/true {ratio:.3f}")
    assert ratio == pytest.approx(1, abs=0.03)


# --- bad pixels that the observer knows --------------------------------------------------------------------------


def test_own_map_as_a_list_or_an_image(tmp_path):
    table = tmp_path / "bad.txt"
    table.write_text("# column of the amplifier\n3 4\n10, 12, 1, 5  # a corner\n\n")
    bad = badpixels.read_map(table, (20, 30))
    expected = np.zeros((20, 30), np.uint16)
    expected[3, 2] = expected[0:5, 9:12] = MaskBit.BAD
    np.testing.assert_array_equal(bad, expected)
    fits.PrimaryHDU((expected > 0).astype(np.uint8)).writeto(tmp_path / "bad.fits")
    np.testing.assert_array_equal(badpixels.read_map(tmp_path / "bad.fits", (20, 30)), expected)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("gone.txt", None, "cannot be read"),
        ("bad.txt", "3 4 5\n", "line 1, is '3 4 5': expected 'x y' or 'x1 x2 y1 y2'"),
        ("bad.txt", "0 4\n", "line 1, is '0 4'"),
        ("bad.fits", "text", "cannot be read"),
    ],
)
def test_own_map_that_cannot_be_used_is_explained(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        badpixels.read_map(tmp_path / name, (20, 30))


def test_own_map_of_another_shape_is_refused(tmp_path):
    fits.PrimaryHDU(np.zeros((5, 6), np.uint8)).writeto(tmp_path / "bad.fits")
    with pytest.raises(UserError, match="has 6 x 5 pixels, the trimmed frame 30 x 20"):
        badpixels.read_map(tmp_path / "bad.fits", (20, 30))


# --- several chips, windows, a library ---------------------------------------------------------------------------


def test_levels_common_to_all_chips_keep_their_sensitivities(tmp_path):
    cameras = []
    for seed, sensitivity in enumerate((1.0, 0.7)):
        (tmp_path / str(seed)).mkdir()
        camera = Camera(tmp_path / str(seed), seed)
        camera.response = camera.response * sensitivity
        cameras.append(camera)
    chips = []
    for camera in cameras:
        paths = flats_of(camera)
        chips.append({"paths": paths, "hdu": None, "exptimes": None, "bias": bias_of(camera), "dark": None})
        chips[-1]["detector"] = DETECTOR
    found = masters.exposure_levels(chips, {})
    assert found == {}, "exposures that are not of every chip do not count"
    renamed = [{**chip, "paths": [p.rename(p.parent / f"f{i}") for i, p in enumerate(chip["paths"])]} for chip in chips]
    levels = {}
    for chip in renamed:  # one file a chip here: the levels of the same exposures are put together by hand
        own = masters.exposure_levels([chip], {})
        for path, level in own.items():
            levels.setdefault(path.rsplit("/", 1)[-1], []).append(level)
    common = [float(np.mean(levels[f"f{i}"])) for i in range(5)]
    flats = [masters.make_flat(c["paths"], c["bias"], None, DETECTOR, {}, levels=common, norm=1.0) for c in renamed]
    means = [flat.data.mean() for flat in flats]
    assert means[1] / means[0] == pytest.approx(0.7, rel=0.01) and np.mean(means) == pytest.approx(1, abs=3e-3)


def test_a_table_without_a_frame_of_the_mosaic_is_refused(tmp_path):
    table = tmp_path / "levels.tsv"
    table.write_text("path\tlevel\na.fits\t100.0\n")
    assert masters.common_levels(table, ["a.fits"]) == {"levels": [100.0], "norm": 1.0}
    with pytest.raises(RejectedFrame, match="no level common to all chips for b.fits"):
        masters.common_levels(table, ["a.fits", "b.fits"])


def test_windows_are_cut_out_of_full_masters(camera):
    bias = bias_of(camera)
    cut = masters.cut_outs({"bias": bias, "dark": None}, {"bias": (10, 20), "dark": None}, (30, 40))
    np.testing.assert_array_equal(cut["bias"].data, bias.data[10:40, 20:60])
    assert cut["dark"] is None
    assert masters.cut_outs({"bias": bias}, {"bias": None}, (30, 40))["bias"] is bias


def test_ready_masters_come_with_or_without_noise(camera, tmp_path):
    bias = bias_of(camera)
    products.write_image(tmp_path / "own.fits", bias)
    own = masters.read_library_master(tmp_path / "own.fits", 0, "bias", {})
    np.testing.assert_array_equal(own.uncertainty, bias.uncertainty)
    response = np.full(SHAPE, 25000, np.float32)
    response[5, 5], response[6, 6] = 100, np.nan
    fits.PrimaryHDU(response).writeto(tmp_path / "flat.fits")
    flat = masters.read_library_master(tmp_path / "flat.fits", 0, "flat", {})
    assert flat.data[0, 0] == pytest.approx(1) and flat.mask[5, 5] == MaskBit.LOW_RESPONSE
    assert flat.mask[6, 6] == MaskBit.NO_DATA and not flat.uncertainty.any()
    products.write_rejected(tmp_path / "no.fits", RejectedFrame("too faint"))
    with pytest.raises(RejectedFrame):
        masters.read_library_master(tmp_path / "no.fits", 0, "flat", {})
