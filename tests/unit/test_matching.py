"""Masters and their lights: what fits is found, what does not is explained."""

from __future__ import annotations

import copy

import pytest

from nightflow import matching
from nightflow.frames import Frame

SAME = ["instrument", "chip", "binning", "shape", "window", "gain_setting", "offset", "readout_mode"]
CRITERIA = {
    "bias": {"same": SAME, "temperature": None, "max_age": None},
    "dark": {"same": SAME, "temperature": 2.0, "max_age": None},
    "flat": {"same": [*SAME, "filter"], "temperature": None, "max_age": None},
}


def frame(kind, number=0, **values):
    defaults = {
        "exptime": {"bias": 0.0, "dark": 60.0, "flat": 2.0, "light": 60.0}[kind],
        "filter": "V" if kind in ("flat", "light") else None,
        "target": "M51" if kind == "light" else None,
        **{
            "binning": "1x1",
            "shape": "40x30",
            "instrument": "cam",
            "night": "2024-03-08",
            "mjd_mid": 60377.9 + number / 1e3,
        },
    }
    return Frame(f"{kind}{number}", f"raw/{kind}{number}.fits", kind=kind, **{**defaults, **values})


def night(*extra, without=()):
    kinds = [kind for kind in ("bias", "dark", "flat", "light") if kind not in without]
    return [frame(kind, number) for kind in kinds for number in range(3)] + list(extra)


def assign(rows, missing="error", criteria=CRITERIA):
    masters = matching.find_masters(rows, criteria)
    matching.assign(rows, masters, {"match": criteria, "missing": missing, "exposure_tolerance": 0.01})
    return masters


def lights(rows):
    return [row for row in rows if row.kind == "light"]


def test_a_plain_night_is_matched():
    rows = night()
    masters = assign(rows)
    assert sorted(masters) == [
        "bias_2024-03-08_cam_1x1_40x30",
        "dark_2024-03-08_cam_1x1_40x30_60s",
        "flat_2024-03-08_cam_1x1_40x30_V",
    ]
    light = lights(rows)[0]
    assert [light.bias, light.dark, light.flat] == sorted(masters) and light.reason == ""
    flat = masters["flat_2024-03-08_cam_1x1_40x30_V"]
    assert (flat.bias, flat.dark) == tuple(sorted(masters)[:2])


def test_names_do_not_change_when_frames_are_added():
    assert sorted(assign(night())) == sorted(assign(night(frame("dark", 7), frame("bias", 8))))


@pytest.mark.parametrize("column", ["binning", "shape", "instrument", "gain_setting", "readout_mode", "chip"])
def test_settings_keep_masters_apart(column):
    rows = night(*(frame("bias", 5 + i, **{column: "odd"}) for i in range(2)))
    masters = assign(rows)
    assert len([m for m in masters.values() if m.kind == "bias"]) == 2
    assert all(light.bias == "bias_2024-03-08_cam_1x1_40x30" for light in lights(rows)) or column not in SAME


def test_filter_of_bias_and_dark_is_ignored():
    rows = night()
    for row in rows:
        if row.kind in ("bias", "dark"):
            row.filter = "R"
    assign(rows)
    assert all(light.bias and light.dark for light in lights(rows))


def test_a_value_that_one_side_lacks_is_no_mismatch_but_is_reported():
    rows = night()
    for row in lights(rows):
        row.readout_mode = "fast"
    assign(rows)
    assert lights(rows)[0].bias and "readout_mode known only of the light" in lights(rows)[0].reason


def test_equal_exposure_is_preferred_then_longer_darks():
    short, long = frame("dark", 10, exptime=30.0), frame("dark", 11, exptime=300.0)
    rows = night(short, long)
    assign(rows)
    assert lights(rows)[0].dark.endswith("_60s")
    rows = night(short, long, without=["dark"])
    assign(rows)
    assert lights(rows)[0].dark.endswith("_300s") and "scaled by 0.2" in lights(rows)[0].reason


def test_a_dark_of_another_exposure_needs_a_bias():
    rows = night(frame("dark", 10, exptime=300.0), without=["bias", "dark"])
    with pytest.raises(matching.NoCalibration, match="exposure 300 s instead of 60 s .no bias to scale it with"):
        assign(rows)


def test_dark_of_equal_exposure_does_without_bias():
    rows = night(frame("dark", 10, exptime=2.0), without=["bias"])
    masters = assign(rows)
    assert all(light.bias is None and light.dark and light.flat for light in lights(rows))
    assert masters[lights(rows)[0].flat].dark.endswith("_2s")


def test_bias_alone_does_for_a_cooled_camera_and_is_reported():
    rows = night(without=["dark"])
    assign(rows)
    assert lights(rows)[0].dark is None and "no dark: there are no dark frames" in lights(rows)[0].reason


def test_nearest_in_time_wins():
    old = [frame("flat", 10 + i, night="2024-03-01", mjd_mid=60370.0) for i in range(2)]
    rows = night(*old)
    assign(rows)
    assert lights(rows)[0].flat == "flat_2024-03-08_cam_1x1_40x30_V"
    rows = night(*old, without=["flat"])
    assign(rows)
    assert lights(rows)[0].flat == "flat_2024-03-01_cam_1x1_40x30_V" and "flat 7.9 days away" in lights(rows)[0].reason


def test_a_maximum_age_is_kept():
    criteria = copy.deepcopy(CRITERIA)
    criteria["flat"]["max_age"] = 5
    rows = night(frame("flat", 10, night="2024-03-01", mjd_mid=60370.0), without=["flat"])
    with pytest.raises(matching.NoCalibration, match=r"an age of 7.9 days \(at most 5\)"):
        assign(rows, criteria=criteria)


def test_dark_temperatures_are_clustered_and_matched():
    warm = [frame("dark", 20 + i, temperature=-5.0 + i / 10) for i in range(3)]
    rows = night(*warm)
    for row in rows:
        if row.temperature is None:
            row.temperature = -20.0
    masters = assign(rows)
    names = [name for name in masters if name.startswith("dark")]
    assert names == ["dark_2024-03-08_cam_1x1_40x30_60s_T-20", "dark_2024-03-08_cam_1x1_40x30_60s_T-5"]
    assert lights(rows)[0].dark.endswith("T-20")


def test_no_dark_warm_enough_is_explained():
    rows = night(without=["bias", "dark"]) + [frame("dark", i, temperature=-20.0) for i in range(2)]
    for row in lights(rows):
        row.temperature = 0.0
    with pytest.raises(matching.NoCalibration, match=r"temperature -20 C instead of 0 C \(tolerance 2\)"):
        assign(rows)


def test_missing_flat_is_one_sentence_with_the_nearest_candidates():
    rows = night(*(frame("light", 10 + i, filter="R") for i in range(4)))
    with pytest.raises(matching.NoCalibration) as error:
        assign(rows)
    sentence = str(error.value)
    assert "4 lights" in sentence and "no flat for filter R" in sentence and "filter V instead of R" in sentence
    assert "calibration.missing" in sentence and len(sentence.splitlines()) == 1


def test_missing_calibration_can_reject_the_lights_only():
    rows = night(frame("light", 10, filter="R"))
    assign(rows, missing="skip")
    assert [light.status for light in lights(rows)] == ["ok"] * 3 + ["rejected"]


def test_missing_calibration_can_be_a_remark():
    rows = night(without=["bias", "dark", "flat"])
    assign(rows, missing="warn")
    assert all(light.status == "ok" and "there are no flat frames" in light.reason for light in lights(rows))


def test_a_flat_without_bias_or_dark_is_refused():
    rows = night(without=["bias", "dark"])
    with pytest.raises(matching.NoCalibration, match="was refused: neither bias nor dark"):
        assign(rows)


def test_a_light_of_odd_shape_is_rejected_not_an_error():
    rows = night(frame("light", 10, shape="20x20"))
    matching.reject_odd_shapes(rows)
    assign(rows)
    odd = lights(rows)[-1]
    assert odd.status == "rejected" and "shape 20x20" in odd.reason and "40x30" in odd.reason


def test_rejected_calibration_frames_are_not_combined():
    rows = night(frame("bias", 10))
    rows[-1].reject("truncated")
    masters = assign(rows)
    assert len(masters["bias_2024-03-08_cam_1x1_40x30"].frames) == 3


def test_a_bad_pixel_map_belongs_to_a_dark_and_a_flat():
    names = {matching.bad_pixels_name(d, f) for d in ("dark_a", "dark_b") for f in ("flat_a", "flat_b")}
    assert len(names) == 4 and all(name.startswith("badpixels_") for name in names)
    assert matching.bad_pixels_name(None, None) is None


# --- windows, colours, overscan, libraries, nights ----------------------------------------------------------------


def test_a_window_inside_a_full_master_is_cut_out():
    rows = night(frame("light", 10, shape="20x10", window="15,12"))
    matching.reject_odd_shapes(rows)
    masters = assign(rows)
    window = lights(rows)[-1]
    assert window.status == "ok" and window.flat and window.bias == lights(rows)[0].bias
    assert matching.window_corner(window, masters[window.bias].like) == (12, 15)


@pytest.mark.parametrize(
    "odd", [{"window": "25,12"}, {"window": None}, {"window": "15,12", "detector": {"trim": [[0, 10], [0, 20]]}}]
)
def test_a_window_that_is_not_inside_is_rejected(odd):
    rows = night(frame("light", 10, shape="20x10", **odd))
    matching.reject_odd_shapes(rows)
    assert rows[-1].status == "rejected" and "shape 20x10, but the calibration frames" in rows[-1].reason


def test_a_channel_of_a_colour_frame_has_the_flat_of_its_mosaic():
    rows = night(frame("light", 10, filter="R", glass="V"))
    assign(rows)
    assert lights(rows)[-1].flat == lights(rows)[0].flat


def test_overscan_stands_in_for_a_bias_and_scales_darks():
    rows = night(frame("dark", 10, exptime=300.0), without=["bias", "dark"])
    for row in rows:
        row.detector = {"overscan": [[0, 30], [40, 48]], "trim": [[0, 30], [0, 40]]}
    assign(rows)
    assert lights(rows)[0].dark.endswith("_300s") and "scaled by 0.2" in lights(rows)[0].reason
    rows = [row for row in rows if row.kind != "dark"]
    assign(rows)
    assert "no bias, level from the frame itself: there are no bias frames" in lights(rows)[0].reason


def test_a_dark_that_has_to_be_scaled_up_is_a_remark():
    rows = night(frame("dark", 10, exptime=30.0), without=["dark"])
    assign(rows)
    assert "dark of 30 s scaled up, and its noise with it, by 2" in lights(rows)[0].reason


def test_a_dark_of_a_non_linear_camera_gets_a_bias():
    rows = night()
    for row in rows:
        row.detector = {"linearity": [0, 1, 1e-6]}
    masters = assign(rows)
    assert all(m.bias for m in masters.values() if m.kind == "dark")


def test_ready_masters_are_used_where_nothing_is_nearer():
    ready = [frame(kind, 20, mjd_mid=60000.0, night="2023-02-25") for kind in ("bias", "dark", "flat")]
    library = matching.ready_masters(ready)
    rows = night(without=["bias", "dark", "flat"])
    matching.assign(rows, dict(library), {"match": CRITERIA, "missing": "error", "exposure_tolerance": 0.01})
    assert [lights(rows)[0].bias, lights(rows)[0].flat] == ["library_bias20", "library_flat20"]
    rows = night()
    masters = matching.find_masters(rows, CRITERIA) | library
    matching.assign(rows, masters, {"match": CRITERIA, "missing": "error", "exposure_tolerance": 0.01})
    assert not lights(rows)[0].bias.startswith("library")


def test_a_ready_master_is_compared_with_the_trimmed_frame():
    library = matching.ready_masters([frame(kind, 20) for kind in ("bias", "dark", "flat")])
    rows = night(without=["bias", "dark", "flat"])
    for row in rows:
        row.shape, row.detector = "48x30", {"trim": [[0, 30], [0, 40]]}
    matching.assign(rows, dict(library), {"match": CRITERIA, "missing": "error", "exposure_tolerance": 0.01})
    assert lights(rows)[0].bias == "library_bias20"


def test_each_night_has_its_own_masters_and_shares_what_it_lacks():
    second = [frame(kind, 20 + i, night="2024-03-09", mjd_mid=60378.9) for i in range(2) for kind in ("flat", "light")]
    rows = night(*second)
    assign(rows)
    later = lights(rows)[-1]
    assert "2024-03-09" in later.flat and "2024-03-08" in later.bias and "2024-03-08" in later.dark


def test_flats_may_do_without_bias_if_told_so():
    rows = night(without=["bias", "dark"])
    masters = matching.find_masters(rows, CRITERIA)
    policy = {"match": CRITERIA, "missing": "skip", "exposure_tolerance": 0.01, "flat_without_bias": True}
    matching.assign(rows, masters, policy)
    assert any(m.kind == "flat" for m in masters.values())
