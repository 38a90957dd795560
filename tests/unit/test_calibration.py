"""Calibrated pixels against the equation and against truth, and every refusal by its sentence."""

from __future__ import annotations

import gzip
import logging

import numpy as np
import pytest
from astropy.io import fits

from nightflow import calibration as cal
from nightflow import detector as det
from nightflow.combine import ArrayRows
from nightflow.products import Image, MaskBit, RejectedFrame
from nightflow.rawfiles import RawFile, read_raw

GAIN, READ_NOISE, SHAPE = 1.5, 9.0, (60, 80)
DETECTOR = {"gain": GAIN, "read_noise": READ_NOISE, "saturation": 60000.0, "linearity_limit": 50000.0}


def header(exptime=100.0, **cards):
    return fits.Header([("EXPTIME", exptime), ("OBJECT", "M 51"), *cards.items()])


def image(data, uncertainty=0.0, **cards):
    data = np.broadcast_to(np.asarray(data, np.float32), SHAPE).copy()
    sigma = np.broadcast_to(np.asarray(uncertainty, np.float32), SHAPE).copy()
    return Image(data, np.zeros(SHAPE, np.uint16), sigma, fits.Header(cards))


@pytest.fixture
def truth():
    """Bias, dark current (ADU/s), response, and one raw frame without noise, with their masters."""
    rng = np.random.default_rng(3)
    bias = 300 + rng.normal(0, 3, SHAPE).astype(np.float32)
    current = np.float32(0.5) + rng.exponential(0.3, SHAPE).astype(np.float32)
    response = (1 - 0.2 * np.linspace(-1, 1, SHAPE[1]) ** 2 + rng.normal(0, 0.01, SHAPE)).astype(np.float32)
    response /= response.mean(dtype=np.float64)
    sky = 2000 + 10 * rng.random(SHAPE).astype(np.float32)
    raw = np.round(bias + 100 * current + sky * response / GAIN).astype(np.float32)
    masters = {
        "bias": image(bias, 3.0),
        "dark": image(bias + 300 * current, 4.0, EXPTIME=300.0),
        "flat": image(response, 0.004),
    }
    return {"sky": sky, "raw": raw, "current": current, "response": response} | masters


def test_pixels_equal_the_guides_equation(truth):
    """science = (raw - master dark) / (master flat / <master flat>), times the gain: to float32 rounding."""
    dark = image(truth["bias"].data + 100 * truth["current"], 4.0, EXPTIME=100.0)
    flat = truth["flat"].data.astype(np.float64)
    expected = GAIN * (truth["raw"].astype(np.float64) - dark.data) / (flat / flat.mean())
    for bias in (None, truth["bias"]):
        result = cal.calibrate(truth["raw"], header(), DETECTOR, bias, dark, truth["flat"], None, {})
        np.testing.assert_allclose(result.data, expected, rtol=4 * np.finfo(np.float32).eps, atol=GAIN * 1e-4)


def test_scaled_dark_and_variance_follow_the_algebra(truth):
    """(light - (1 - k) bias - k dark) / flat and its variance, evaluated again in float64."""
    bias, dark, flat = (truth[name] for name in ("bias", "dark", "flat"))
    result = cal.calibrate(truth["raw"], header(), DETECTOR, bias, dark, flat, None, {})
    light, b, d, f = (x.astype(np.float64) for x in (truth["raw"], bias.data, dark.data, flat.data))
    k = 100 / 300
    numerator = GAIN * (light - (1 - k) * b - k * d)
    variance = np.maximum(GAIN * (light - b), 0) + READ_NOISE**2 + GAIN**2 * ((1 - k) ** 2 * 3.0**2 + k**2 * 4.0**2)
    np.testing.assert_allclose(result.data, numerator / f, rtol=1e-6)
    expected = np.sqrt(variance / f**2 + (numerator * 0.004 / f**2) ** 2)
    np.testing.assert_allclose(result.uncertainty, expected, rtol=1e-5)
    assert result.header["DARKSCAL"] == pytest.approx(k)
    np.testing.assert_allclose(result.data, truth["sky"], atol=GAIN)  # rounding to whole ADU


def test_negative_pixels_stay():
    raw = np.full(SHAPE, 90, np.float32)
    result = cal.calibrate(raw, header(), DETECTOR, image(100, 1.0), None, None, None, {})
    np.testing.assert_allclose(result.data, -10 * GAIN)
    np.testing.assert_allclose(result.uncertainty, np.hypot(READ_NOISE, GAIN), rtol=1e-6)


def test_masks_say_what_the_pixels_are(truth):
    raw = truth["raw"].copy()
    raw[5, 5], raw[6, 6], raw[7, 7] = 60000, 55000, np.nan
    bad = np.zeros(SHAPE, np.uint16)
    bad[8, 8] = MaskBit.BAD
    flat = truth["flat"]
    flat.mask[9, 9] |= MaskBit.LOW_RESPONSE
    result = cal.calibrate(raw, header(), DETECTOR, truth["bias"], truth["dark"], flat, bad, {})
    expected = {
        (5, 5): MaskBit.SATURATED | MaskBit.NONLINEAR,
        (6, 6): MaskBit.NONLINEAR,
        (7, 7): MaskBit.NO_DATA,
        (8, 8): MaskBit.BAD,
        (9, 9): MaskBit.LOW_RESPONSE,
    }
    for place, bits in expected.items():
        assert result.mask[place] == bits
    assert np.count_nonzero(result.mask) == len(expected)
    np.testing.assert_array_equal(np.isnan(result.data), (result.mask & MaskBit.NO_DATA) != 0)
    np.testing.assert_array_equal(np.isnan(result.uncertainty), np.isnan(result.data))


def test_pixels_that_a_master_lacks_have_no_data(truth):
    truth["dark"].data[4, 4] = np.nan
    result = cal.calibrate(truth["raw"], header(), DETECTOR, truth["bias"], truth["dark"], None, None, {})
    assert result.mask[4, 4] == MaskBit.NO_DATA
    assert np.isnan(result.data).sum() == 1


@pytest.mark.parametrize("grow", [0, 1, 2])
def test_saturation_grows_by_a_square(truth, grow):
    raw = truth["raw"].copy()
    raw[20, 30] = 65535
    raw[0, 0] = 65535
    result = cal.calibrate(raw, header(), DETECTOR, truth["bias"], None, None, None, {"saturation_grow": grow})
    saturated = (result.mask & MaskBit.SATURATED) != 0
    expected = np.zeros(SHAPE, bool)
    expected[20 - grow : 21 + grow, 30 - grow : 31 + grow] = True
    expected[: 1 + grow, : 1 + grow] = True
    np.testing.assert_array_equal(saturated, expected)


def test_header_is_true_for_electrons(truth):
    cards = header(100.0, GAIN=1.5, EGAIN=1.5, BZERO=32768, PEDESTAL=100, BIASSEC="[1:5,1:10]")
    result = cal.calibrate(truth["raw"], cards, DETECTOR, truth["bias"], truth["dark"], truth["flat"], None, {})
    h = result.header
    assert (h["BUNIT"], h["GAIN"], h["EGAIN"], h["CAMGAIN"], h["RDNOISE"]) == ("electron", 1, 1, GAIN, READ_NOISE)
    assert h["SATURATE"] == pytest.approx((60000 - 300) * GAIN, abs=2)
    assert (h["CALBIAS"], h["CALDARK"], h["CALFLAT"], h["OVERSCAN"]) == ("applied", "applied", "applied", "none")
    assert h["OBJECT"] == "M 51"
    assert not {"BZERO", "PEDESTAL", "BIASSEC"} & set(h)
    assert h["VARMODEL"] == "photons, read noise, masters"
    assert cards["GAIN"] == 1.5, "the caller's header is left alone"


def test_unknown_gain_stays_in_adu_and_says_so(truth, caplog):
    bias = truth["bias"]
    bias.header["RNMEAS"] = 6.5
    result = cal.calibrate(truth["raw"], header(), {"gain": None}, bias, None, None, None, {})
    assert (result.header["BUNIT"], result.header["RDNOISE"]) == ("adu", 6.5)
    assert result.header["VARMODEL"] == "scatter of the frame, read noise, masters"
    assert "CAMGAIN" not in result.header
    assert result.uncertainty.min() >= np.hypot(6.5, 3.0) * (1 - 1e-6)
    assert "gain is unknown" in caplog.text


@pytest.mark.parametrize("pedestal", [None, 300.0])
def test_unknown_gain_takes_the_noise_from_the_frame(pedestal):
    """Sky noise is the true one; a star's photons add to it as the sky's do."""
    rng = np.random.default_rng(4)
    light = np.full((300, 300), 2000.0)
    light[100:140, 100:140] = 20000.0
    raw = np.round(300 + rng.poisson(light) / GAIN).astype(np.float32)
    result = cal.calibrate(raw, header(), {"pedestal": pedestal}, None, None, None, None, {})
    sky = np.sqrt(2000) / GAIN
    assert np.median(result.uncertainty) == pytest.approx(sky, rel=0.03)
    bright = float(np.median(result.uncertainty[110:130, 110:130]))
    assert bright == pytest.approx(np.sqrt(20000) / GAIN, rel=0.03 if pedestal else 0.2)


def test_slopes_of_stars_are_no_noise_of_the_frame():
    """A third of the frame under the wings of stars: the sky's uncertainty stays the sky's."""
    rng = np.random.default_rng(6)
    y, x = np.indices((300, 300))
    light = 400 + sum(
        8000 / (1 + ((x - i) ** 2 + (y - j) ** 2) / 16) ** 2 for i in range(25, 300, 50) for j in (60, 220)
    )
    raw = np.round(300 + rng.poisson(light) / GAIN).astype(np.float32)
    result = cal.calibrate(raw, header(), {"pedestal": 300.0}, None, None, None, None, {})
    assert np.median(result.uncertainty[140]) == pytest.approx(np.sqrt(np.median(light[140])) / GAIN, rel=0.05)


def test_read_noise_is_the_measured_one_where_the_detector_has_none(truth):
    truth["bias"].header["RNMEAS"] = 6.0
    result = cal.calibrate(truth["raw"], header(), {"gain": GAIN}, truth["bias"], None, None, None, {})
    assert result.header["RDNOISE"] == pytest.approx(6.0 * GAIN)


def test_night_without_any_calibration_frame(truth):
    result = cal.calibrate(truth["raw"], header(), DETECTOR, None, None, None, None, {})
    np.testing.assert_allclose(result.data, GAIN * truth["raw"])
    assert result.header["VARMODEL"] == "photons (pedestal unknown), read noise"
    assert (result.header["CALBIAS"], result.header["CALDARK"], result.header["CALFLAT"]) == ("none",) * 3


def test_known_pedestal_stands_in_for_a_bias(truth):
    result = cal.calibrate(truth["raw"], header(), DETECTOR | {"pedestal": 300.0}, None, truth["dark"], None, None, {})
    k = 1 / 3
    expected = GAIN * (truth["raw"] - (1 - k) * 300 - k * truth["dark"].data)
    np.testing.assert_allclose(result.data, expected, rtol=1e-5)


def test_dark_scaled_up_is_a_warning(truth, caplog):
    caplog.set_level(logging.WARNING)
    cal.calibrate(truth["raw"], header(600.0), DETECTOR, truth["bias"], truth["dark"], None, None, {})
    assert "scaled up from 300 s to 600 s" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bias": None}, "cannot be scaled from 300 s to 100 s without a bias"),
        ({"raw": np.full(SHAPE, 65535.0)}, "100% of the pixels are saturated, 50% are allowed"),
        ({"raw": np.full(SHAPE, np.nan)}, "no valid pixel"),
        ({"raw": np.zeros((50, 80))}, "the frame has 80 x 50 pixels, its bias 80 x 60"),
        ({"raw": np.zeros((3, 60, 80))}, "3 dimensions"),
        ({"bad": np.full(SHAPE, 1, np.uint16)}, "no pixel is usable"),
        ({"bad": np.zeros((2, 2), np.uint16)}, "its bad pixels 2 x 2"),
        ({"header": fits.Header()}, "exposure time is missing"),
        ({"detector": {"linearity": [0, 1, 1e-6]}, "bias": None, "dark": None}, "linearity correction needs the bias"),
        (
            {"detector": {"trim": (slice(0, 90), slice(0, 80))}},
            r"section \[1:80,1:90\] does not lie on a frame of 80 x 60",
        ),
    ],
)
def test_what_cannot_go_on_says_why(truth, change, words):
    given = {"raw": truth["raw"], "bias": truth["bias"], "dark": truth["dark"], "bad": None, "header": header()}
    given |= {"detector": DETECTOR} | change
    with pytest.raises(RejectedFrame, match=words):
        cal.calibrate(
            given["raw"], given["header"], given["detector"], given["bias"], given["dark"], None, given["bad"], {}
        )


def test_saturation_without_a_limit_is_found_and_flagged(truth):
    raw = truth["raw"].copy()
    raw[10:12, 10:13] = 64000
    result = cal.calibrate(raw, header(), {"gain": GAIN}, truth["bias"], None, None, None, {})
    assert ((result.mask & MaskBit.SATURATED) != 0).sum() == 6
    assert result.header["SATURATE"] == pytest.approx((64000 - 300) * GAIN, abs=2)


def noisy(level, shape=(200, 200), seed=0):
    return np.round(np.random.default_rng(seed).normal(level, 12, shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([64000], None),  # a bright star's single peak
        ([64000, 64000], None),
        ([64000] * 4, 64000),
        ([4095] * 150 + list(range(3900, 4095, 20)), 4095),
        ([], None),
    ],
)
def test_saturation_is_a_pile_up_never_a_single_peak(values, expected):
    raw = noisy(1000)
    raw.flat[: len(values)] = values
    assert det.find_saturation(raw) == expected


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("sigma", [0.4, 1.0, 12.0, 150.0])
def test_highest_values_of_plain_noise_are_no_saturation(seed, sigma):
    raw = np.round(np.random.default_rng(seed).normal(1000, sigma, (300, 300))).astype(np.float32)
    assert det.find_saturation(raw) is None
    assert det.find_saturation(16 * raw) is None, "left-justified converter"


@pytest.mark.parametrize(("level", "expected"), [(65535, 65535), (4095, 4095), (0, None), (1234, None)])
def test_a_constant_frame_is_saturated_only_at_a_converter_limit(level, expected):
    assert det.find_saturation(np.full((20, 20), level, np.float32)) == expected


@pytest.mark.parametrize(
    ("frame", "expected"),
    [("m51_qsi532/raw/M51_I_001.fit", 64000), ("hatp32_microobs/raw/HATP-32171220013343.FITS", 4095),
     ("m51_qsi532/raw/bias1.fit", None), ("m51_qsi532/raw/twiflat_I1.fit", None),
     ("stargate_iraf/raw/StarGateCluster_030_sec_1x1_0001.fit", None)],
)  # fmt: skip
def test_saturation_of_real_frames(shared_data, frame, expected):
    assert det.find_saturation(read_raw(shared_data / frame)) == expected


def overscan_frame(level_of_row, shape=(60, 100), width=20, data=700.0):
    raw = np.full(shape, 0, np.float32)
    raw[:, :] = level_of_row[:, None]
    raw[:, : shape[1] - width] += data
    return raw, {"trim": (slice(0, shape[0]), slice(0, shape[1] - width)),
                 "overscan": (slice(0, shape[0]), slice(shape[1] - width + 2, shape[1]))}  # fmt: skip


@pytest.mark.parametrize("method", ["median", "smooth", "polynomial"])
def test_overscan_takes_a_drifting_level_off(method):
    rows = np.arange(60)
    raw, sections = overscan_frame(1000 + 0.5 * rows)
    options = {"overscan_method": method, "overscan_smooth": 5, "overscan_order": 2}
    signal = det.SignalRows(ArrayRows(raw), sections, options)
    assert signal.shape == (60, 80)
    inner = slice(3, -3) if method == "smooth" else slice(None)
    np.testing.assert_allclose(signal.rows(0, 60)[inner], 700, atol=1e-3)
    np.testing.assert_array_equal(signal.rows(10, 20), signal.rows(0, 60)[10:20])


def test_overscan_above_the_data_gives_a_level_per_column():
    raw, sections = overscan_frame(1000 + 0.5 * np.arange(60))
    turned = {name: pair[::-1] for name, pair in sections.items()}
    np.testing.assert_allclose(det.SignalRows(ArrayRows(raw.T.copy()), turned, {}).rows(0, 80), 700, atol=1e-3)


def test_unknown_overscan_method_is_named():
    raw, sections = overscan_frame(np.full(60, 1000.0))
    with pytest.raises(ValueError, match="expected median, smooth or polynomial"):
        det.SignalRows(ArrayRows(raw), sections, {"overscan_method": "mode"})


@pytest.mark.accuracy
@pytest.mark.parametrize("method", ["median", "smooth", "polynomial"])
def test_overscan_noise_is_in_the_uncertainty(method):
    """Twelve overscan columns: the level's own noise is 6 % of a pixel's for the median of a row."""
    rng = np.random.default_rng(5)
    raw, sections = overscan_frame(np.full(400, 1000.0), (400, 314), 14, 0.0)
    raw += rng.normal(0, 6, raw.shape).astype(np.float32)
    options = {"overscan_method": method, "overscan_smooth": 5, "overscan_order": 3}
    result = cal.calibrate(raw, header(), sections | {"gain": 1.0, "read_noise": 6.0}, None, None, None, None, options)
    variance = result.uncertainty**2 - np.maximum(result.data, 0)
    ratio = np.sqrt(variance.mean()) / result.data.std()
    print(f"{method}: stated/true {ratio:.4f}")
    assert ratio == pytest.approx(1, abs=0.02)
    assert result.header["OVERSCAN"] == method


def test_trim_moves_the_reference_pixel_and_keeps_the_star(truth):
    raw = truth["raw"].copy()
    raw[30, 40] = 30000
    cards = header(CRPIX1=41.0, CRPIX2=31.0, CRPIX1A=41.0, CRVAL1=10.0, CRVAL2=20.0)
    sections = {"trim": (slice(10, 60), slice(15, 80))}
    result = cal.calibrate(raw, cards, DETECTOR | sections, None, None, None, None, {})
    assert result.shape == (50, 65)
    assert (result.header["CRPIX1"], result.header["CRPIX2"], result.header["CRPIX1A"]) == (26, 21, 26)
    assert np.unravel_index(result.data.argmax(), result.shape) == (20, 25)


def test_amplifiers_each_have_their_gain_and_overscan():
    """Two amplifiers with their overscans in the middle of the frame: one seamless image without them."""
    electrons = np.random.default_rng(1).uniform(1000, 2000, (40, 60)).astype(np.float32)
    raw = np.empty((40, 70), np.float32)
    raw[:, :30], raw[:, 40:] = electrons[:, :30] / 1.2 + 500, electrons[:, 30:] / 2.0 + 800
    raw[:, 30:35], raw[:, 35:40] = 500, 800
    whole = slice(0, 40)
    amps = [
        {"data": (whole, slice(0, 30)), "overscan": (whole, slice(30, 35)), "gain": 1.2, "read_noise": 4.0},
        {"data": (whole, slice(40, 70)), "overscan": (whole, slice(35, 40)), "gain": 2.0, "read_noise": 8.0},
    ]
    result = cal.calibrate(raw, header(), {"amplifiers": amps}, None, None, None, None, {})
    np.testing.assert_allclose(result.data, electrons, rtol=1e-5)
    variance = (result.uncertainty**2 - result.data).mean(axis=0)
    np.testing.assert_allclose(variance[30:].mean() / variance[:30].mean(), 4.0, rtol=0.01)


def test_linearity_polynomial_is_undone_for_light_and_dark_alike():
    """measured = true - 2e-6 true**2; the dark passed through the same detector."""
    light, dark = np.linspace(100, 30000, SHAPE[1]), np.full(SHAPE[1], 200.0)

    def measured(x):
        return 300 + x - 2e-6 * x**2

    x = np.linspace(0, 40000, 2000)
    polynomial = np.polynomial.Polynomial.fit(x - 2e-6 * x**2, x, 4).convert().coef
    master_dark = image(300 + dark, 0.0, EXPTIME=100.0)  # masters are linear already
    raw = np.broadcast_to(measured(light + dark), SHAPE)
    detector = {"gain": 1.0, "read_noise": 5.0, "linearity": polynomial}
    result = cal.calibrate(raw, header(), detector, image(300), master_dark, None, None, {})
    np.testing.assert_allclose(result.data[0], light, rtol=2e-4, atol=0.5)
    slope = 1 / (1 - 4e-6 * 30200)
    assert result.uncertainty[0, -1] ** 2 - 30200 == pytest.approx((5 * slope) ** 2, rel=0.3)


@pytest.mark.accuracy
@pytest.mark.parametrize("effect", ["bias", "dark", "hot", "vignetting", "response"])
def test_each_effect_alone_vanishes_to_its_stated_sigma(effect):
    """z = (with - without) / sqrt(s1**2 + s2**2), noise independent; bounds of the project's accuracy table."""
    means, deviations = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        shape = (250, 250)
        structure = {
            "bias": 20 * np.sin(np.arange(250) / 9)[None, :],
            "dark": 0.4 + 0.2 * np.linspace(-1, 1, 250)[:, None],
            "hot": np.where(rng.random(shape) < 0.02, rng.exponential(20, shape), 0),
            "vignetting": 1 - 0.4 * (np.linspace(-1, 1, 250) ** 2)[:, None],
            "response": rng.normal(1, 0.02, shape),
        }
        kind = {"hot": "dark", "vignetting": "flat", "response": "flat"}.get(effect, effect)
        with_it = _exposed(rng, {kind: np.broadcast_to(structure[effect], shape)})
        without = _exposed(rng, {})
        z = (with_it.data - without.data) / np.hypot(with_it.uncertainty, without.uncertainty)
        means.append(z.mean(dtype=np.float64))
        deviations.append(z.std(dtype=np.float64))
    print(f"{effect}: mean {np.mean(means):+.4f}, worst {max(np.abs(means)):.4f}")
    print(f"{effect}: stddev {min(deviations):.4f} to {max(deviations):.4f}")
    assert max(np.abs(means)) < 0.02
    assert all(0.95 < deviation < 1.05 for deviation in deviations)


def _exposed(rng, effects, sky=800.0, exptime=100.0, n_masters=9):
    """A light with these effects, calibrated with masters that saw the same detector."""
    shape = (250, 250)
    bias = 300 + effects.get("bias", np.zeros(shape))
    current, response = effects.get("dark", np.zeros(shape)), effects.get("flat", np.ones(shape))

    def adu(electrons):
        return np.round(bias + (rng.poisson(electrons) + rng.normal(0, READ_NOISE, shape)) / GAIN)

    bias_frames = np.array([adu(np.zeros(shape)) for _ in range(n_masters)])
    dark_frames = np.array([adu(current * 2 * exptime) for _ in range(n_masters)])
    flats = np.array([adu(30000 * response + 0 * current) for _ in range(n_masters)])
    noise = READ_NOISE / GAIN / np.sqrt(n_masters)
    b = Image(bias_frames.mean(0).astype("f4"), np.zeros(shape, np.uint16), np.full(shape, noise, "f4"))
    sigma = np.sqrt(noise**2 + current * 2 * exptime / GAIN**2 / n_masters)
    d = Image(dark_frames.mean(0).astype("f4"), b.mask, sigma.astype("f4"), fits.Header([("EXPTIME", 2 * exptime)]))
    level = 30000 / GAIN
    f = ((flats.mean(0) - b.data) / level).astype("f4")
    f_sigma = (np.sqrt(30000 * response + READ_NOISE**2) / np.sqrt(n_masters) / 30000).astype("f4")
    flat = Image(f, b.mask, f_sigma)
    raw = adu(sky * response + current * exptime)
    return cal.calibrate(raw, header(exptime), DETECTOR, b, d, flat, None, {})


@pytest.mark.accuracy
@pytest.mark.parametrize(("sky", "allowed"), [(0.0, 0.10), (150.0, 0.03), (3000.0, 0.03), (40000.0, 0.03)])
def test_uncertainty_is_the_true_one(sky, allowed):
    """(pixel - truth)/true sigma: mean within 0.02, stddev 0.95 to 1.05; mean stated over true variance near 1."""
    means, deviations, ratios = [], [], []
    for seed in range(5):
        rng = np.random.default_rng(100 + seed)
        current = rng.exponential(0.05, (250, 250))
        result = _exposed(rng, {"dark": current}, sky=sky)
        n = 9
        masters = (READ_NOISE**2 * 0.25 + 0.25 * (READ_NOISE**2 + 200 * current)) / n
        flat = (sky**2) * (30000 + READ_NOISE**2) / n / 30000**2
        variance = sky + 100 * current + READ_NOISE**2 + GAIN**2 / 12 + masters + flat
        z = (result.data - sky) / np.sqrt(variance)
        means.append(z.mean()), deviations.append(z.std())
        ratios.append(np.mean(result.uncertainty.astype(np.float64) ** 2) / np.mean(variance))
    worst = max(ratios, key=lambda r: abs(r - 1))
    print(f"sky {sky:.0f} e: z mean {np.mean(means):+.4f} (worst {max(np.abs(means)):.4f}), ", end="")
    print(f"stddev {np.mean(deviations):.4f}, variance ratio {np.mean(ratios):.4f} (worst {worst:.4f})")
    assert max(np.abs(means)) < 0.02
    assert all(0.95 < d < 1.05 for d in deviations)
    assert max(abs(r - 1) for r in ratios) < allowed


def write(path, data, **cards):
    hdu = fits.PrimaryHDU(data)
    hdu.header.update(cards)
    hdu.writeto(path)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_every_pixel_type_reads_as_float32(tmp_path, dtype):
    data = np.arange(35).reshape(5, 7).astype(dtype)
    if dtype in ("uint16", "uint32"):
        data[0, 0] = 65535
    pixels = read_raw(write(tmp_path / "a.fits", data))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, data.astype(np.float32))


def test_scale_zero_and_blank_are_applied(tmp_path):
    hdu = fits.PrimaryHDU(np.array([[1, 2, -99]], dtype=np.int16))
    hdu.header.update({"BSCALE": 0.5, "BZERO": 10.0, "BLANK": -99})
    hdu.writeto(tmp_path / "a.fits")
    np.testing.assert_array_equal(read_raw(tmp_path / "a.fits"), [[10.5, 11.0, np.nan]])


def test_gzip_fpack_cubes_and_extensions_read_alike(tmp_path):
    data = np.random.default_rng(0).integers(0, 60000, (50, 40)).astype(np.uint16)
    plain = write(tmp_path / "a.fits", data)
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress(plain.read_bytes()))
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data)]).writeto(tmp_path / "a.fits.fz")
    write(tmp_path / "cube.fits", data[None])
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(data + 1), fits.ImageHDU(data)]).writeto(tmp_path / "mef.fits")
    for name, hdu in [("a.fits", None), ("a.fits.gz", None), ("a.fits.fz", None), ("cube.fits", 0), ("mef.fits", 2)]:
        raw = RawFile(tmp_path / name, hdu)
        np.testing.assert_array_equal(raw.read(), data, err_msg=name)
        strips = [raw.rows(start, min(start + 16, 50)) for start in range(0, 50, 16)]
        np.testing.assert_array_equal(np.concatenate(strips), data, err_msg=name)
    assert read_raw(tmp_path / "mef.fits")[0, 0] == data[0, 0] + 1, "the first image by default"


def _truncated(path, data):
    content = write(path, data).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _gzip_truncated(path, data):
    content = gzip.compress(write(path.with_name("whole.fits"), data).read_bytes())
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("cut.fits", _truncated, "truncated"),
        ("cut.fits.gz", _gzip_truncated, "unreadable|truncated or damaged"),
        ("empty.fits", lambda path, data: path.write_bytes(b""), "unreadable"),
        ("text.fits", lambda path, data: path.write_text("a text file\n" * 500), "unreadable"),
        ("cube.fits", lambda path, data: write(path, np.stack([data] * 3)), "no two-dimensional image"),
        ("table.fits", lambda path, data: fits.HDUList([fits.PrimaryHDU()]).writeto(path), "has no image"),
    ],
)
def test_files_that_hold_no_frame_are_rejected_with_a_reason(tmp_path, name, make, words):
    data = np.random.default_rng(0).integers(0, 60000, (50, 400)).astype(np.int16)
    make(tmp_path / name, data)
    with pytest.raises(RejectedFrame, match=words) as verdict:
        read_raw(tmp_path / name)
    assert name in verdict.value.reason


def test_a_missing_file_is_no_verdict_about_data(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_raw(tmp_path / "absent.fits")


def test_the_masters_part_of_the_noise_is_stated():
    """CALNOISE: what frames with the same masters have in common, for the stack's uncertainty."""
    shape, level = (64, 80), 900.0
    raw = np.full(shape, 1000 + level, np.float32)

    def plane(value, sigma):
        return Image(
            np.full(shape, value, np.float32),
            np.zeros(shape, np.uint16),
            np.full(shape, sigma, np.float32),
            fits.Header(),
        )

    bias, dark, flat = plane(1000, 2), plane(1000, 3), plane(1, 0.01)
    dark.header["EXPTIME"] = 60.0
    detector = {"gain": 2.0, "read_noise": 5.0}
    raw[0, 0] += 1
    image = cal.calibrate(raw, fits.Header({"EXPTIME": 30.0}), detector, bias, dark, flat, None, {})
    expected = np.sqrt((2 * 0.5 * 2) ** 2 + (2 * 0.5 * 3) ** 2 + (2 * level * 0.01) ** 2)
    assert image.header["CALNOISE"] == pytest.approx(expected, rel=1e-3)
