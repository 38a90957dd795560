"""Gain, read noise and saturation as measured: against truth, against a real camera, and in words."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from nightflow import characterisation as ch

GAIN, READ_NOISE, SHAPE = 1.5, 9.0, (200, 240)


@pytest.fixture
def frames(tmp_path):
    """Writes a raw frame and gives its path and HDU; left half with another gain if asked."""
    rng = np.random.default_rng(8)
    count = 0

    def write(light=0.0, left_gain=GAIN, top=65535):
        nonlocal count
        count += 1
        gain = np.full(SHAPE, GAIN)
        gain[:, : SHAPE[1] // 2] = left_gain
        electrons = rng.poisson(np.full(SHAPE, light)) + rng.normal(0, READ_NOISE, SHAPE)
        path = tmp_path / f"{count:03d}.fits"
        raw = np.clip(np.round(300 + electrons / gain), 0, top).astype(np.uint16)
        fits.PrimaryHDU(raw).writeto(path)
        return str(path), 0

    return write


def characterise(frames, detector, options=None, flats=4, bias=4, lights=(), **kind):
    return ch.characterise(
        "cam",
        [frames(**kind) for _ in range(bias)],
        [[frames(30000.0, **kind) for _ in range(flats)]] if flats else [],
        lights,
        detector,
        options or {},
    )


@pytest.mark.accuracy
def test_gain_and_read_noise_are_the_true_ones(frames):
    (row,) = characterise(frames, {"gain": 1.5, "read_noise": 9.0})
    print(f"gain {row['gain_measured']:.4f} (1.5), read noise {row['read_noise_measured']:.3f} (9)")
    assert row["gain_measured"] == pytest.approx(GAIN, rel=0.02)
    assert row["read_noise_measured"] == pytest.approx(READ_NOISE, rel=0.02)
    assert (row["gain_used"], row["read_noise_used"], row["warning"]) == (1.5, 9.0, "")


@pytest.mark.parametrize(
    ("detector", "options", "used", "words"),
    [
        ({"gain": 2.4}, {}, 2.4, r"gain is 1\.[45]\d* electron/ADU as measured, 2.4 in the header; used is 2.4"),
        ({"gain": 2.4}, {"gain": "measured"}, 1.5, "used is 1\\.[45]"),
        ({"gain": 3.0}, {"gain": 3.0}, 3.0, "3 in the configuration; used is 3"),
        ({"gain": 1.4}, {}, 1.4, "^$"),
        ({"gain": None}, {"gain": "measured"}, 1.5, "^$"),
        ({"gain": 1.5, "read_noise": 20.0}, {}, 1.5, r"read noise is \S+ electron as measured, 20 in the header"),
    ],
)
def test_header_and_measurement_are_compared(frames, detector, options, used, words):
    import re

    (row,) = characterise(frames, detector, options)
    assert row["gain_used"] == pytest.approx(used, rel=0.02)
    assert re.search(words, row["warning"])


def test_an_unknown_gain_is_said_with_what_could_be_done(frames):
    (row,) = characterise(frames, {"gain": None}, {})
    assert row["gain_used"] is None
    assert row["warning"].startswith("gain is unknown: pixels stay in ADU; 1.") and "gain: measured" in row["warning"]


def test_without_pairs_there_is_nothing_to_measure(frames):
    (row,) = characterise(frames, {"gain": 2.0}, {"gain": "measured"}, flats=1)
    assert (row["gain_measured"], row["gain_used"]) == (None, 2.0)
    assert row["warning"] == "gain could not be measured, the header's is used"
    (row,) = characterise(frames, {"gain": None}, {"gain": "measured"}, flats=0, bias=0)
    assert (row["gain_used"], row["warning"]) == (None, "gain is unknown: pixels stay in ADU")


def test_flats_without_anything_that_tells_the_bias_level_measure_nothing(frames):
    (row,) = characterise(frames, {"gain": 2.0}, bias=0)
    assert row["gain_measured"] is None
    (row,) = characterise(frames, {"gain": 1.5, "read_noise": 9.0, "pedestal": 300.0}, bias=0)
    assert row["gain_measured"] == pytest.approx(GAIN, rel=0.02)


def test_flats_that_are_too_faint_or_saturated_do_not_count(frames):
    detector = {"gain": 2.0, "saturation": 65535.0}
    bias = [frames() for _ in range(3)]
    faint, bright = [[frames(level) for _ in range(3)] for level in (300.0, 95000.0)]
    assert ch.characterise("cam", bias, [faint, bright], [], detector, {})[0]["gain_measured"] is None


def test_every_amplifier_has_a_row(frames):
    half = SHAPE[1] // 2
    sections = [[[0, 200], [0, half]], [[0, 200], [half, 2 * half]]]
    detector = {"gain": None, "amplifiers": [{"data": section, "gain": 1.5} for section in sections]}
    rows = characterise(frames, detector, {"gain": "measured"}, left_gain=2.5)
    assert [row["gain_measured"] for row in rows] == pytest.approx([2.5, 1.5], rel=0.03)
    merged = ch.with_measurements(detector, rows)
    assert [amp["gain"] for amp in merged["amplifiers"]] == pytest.approx([2.5, 1.5], rel=0.03)
    assert "header; used is 2." in rows[0]["warning"] and rows[1]["warning"] == ""


def test_saturation_is_found_on_the_lights_of_the_night(frames):
    """One saturated star in one of the frames shows it for all."""
    lights = [frames(100.0) for _ in range(3)]
    with fits.open(lights[1][0], mode="update") as hdus:
        hdus[0].data[50:53, 60:63] = 4095
    (row,) = characterise(frames, {"gain": 1.5}, flats=0, bias=0, lights=lights)
    assert (row["saturation_header"], row["saturation_found"], row["saturation_used"]) == (None, 4095.0, 4095.0)
    assert ch.with_measurements({"gain": 1.5, "saturation": None}, [row])["saturation"] == 4095.0
    (row,) = characterise(frames, {"gain": 1.5, "saturation": 60000.0}, flats=0, bias=0, lights=lights)
    assert (row["saturation_found"], row["saturation_used"]) == (None, 60000.0)


def test_table_reads_back(frames, tmp_path):
    rows = characterise(frames, {"gain": 2.4}, {"gain": "measured"})
    ch.write_table(tmp_path / "t.tsv", rows)
    again = ch.read_table(tmp_path / "t.tsv")
    assert list(again[0]) == list(ch.COLUMNS) and again[0]["read_noise_header"] is None
    assert again[0]["gain_used"] == pytest.approx(rows[0]["gain_used"], rel=1e-6)
    assert again[0]["warning"] == rows[0]["warning"] and again[0]["camera"] == "cam"


def test_damaged_frames_are_left_out(frames, tmp_path):
    (tmp_path / "bad.fits").write_bytes(b"no")
    bias = [frames() for _ in range(3)] + [(str(tmp_path / "bad.fits"), 0)]
    assert ch.characterise("cam", bias, [], [], {"gain": 1.5}, {})[0]["n_bias"] == 3


def test_gain_of_a_real_camera_is_not_the_headers(shared_data):
    """M51 set: 2.4 in the header, 1.32 by photon transfer; saturation at 64000 without a card."""
    raw = shared_data / "m51_qsi532" / "raw"
    bias, flats, lights = (
        [(str(path), 0) for path in sorted(raw.glob(pattern))] for pattern in ("bias*", "twiflat*", "M51_I_00[1-3]*")
    )
    (row,) = ch.characterise("QSI", bias, [flats], lights, {"gain": 2.4}, {"gain": "measured"})
    print(f"gain {row['gain_measured']:.4f}, read noise {row['read_noise_measured']:.2f}, {row['warning']}")
    assert row["gain_measured"] == pytest.approx(1.32, rel=0.03)
    assert row["read_noise_measured"] == pytest.approx(16.2, abs=0.5)
    assert row["saturation_found"] == 64000
    assert "2.4 in the header" in row["warning"]


def test_saturation_of_a_real_twelve_bit_camera(shared_data):
    lights = [(str(path), 0) for path in sorted((shared_data / "hatp32_microobs" / "raw").iterdir())[:6]]
    assert ch.characterise("cam", [], [], lights, {}, {})[0]["saturation_found"] == 4095
