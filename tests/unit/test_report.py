"""Previews and the tables and page of a run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.visualization import ZScaleInterval
from PIL import Image as Picture

from nightflow import charts, previews, products, report, weakness
from nightflow.products import Image, RejectedFrame


def test_stretch_shows_faint_and_bright():
    rng = np.random.default_rng(1)
    data = rng.normal(0, 1, (100, 100))
    data[50, 50], data[60, 60] = 10, 1000
    grey = previews.stretch(data)
    assert grey.dtype == np.uint8 and grey[60, 60] == 255 and grey[50, 50] > np.median(grey) > 0


@pytest.mark.parametrize("data", [np.full((5, 6), np.nan), np.full((5, 6), 3.0), np.zeros((1, 1))])
def test_stretch_of_nothing_is_no_error(data):
    assert previews.stretch(data).shape == data.shape


def test_preview_has_the_first_row_at_the_bottom_and_a_bounded_size(tmp_path):
    data = np.zeros((3000, 2000))
    data[:300] = 100
    previews.write_png(tmp_path / "a.png", data)
    with Picture.open(tmp_path / "a.png") as picture:
        assert max(picture.size) <= 1024 and picture.getpixel((5, picture.size[1] - 2)) > picture.getpixel((5, 2))


@pytest.fixture
def frames():
    rows = [
        ("a", "light", "M51", "V", "ok", "dark scaled"),
        ("b", "light", "M51", "V", "rejected", "truncated"),
        ("c", "light", "M51", "V", "ok", ""),
        ("d", "bias", None, None, "ok", ""),
    ]
    table = pd.DataFrame(rows, columns=["frame", "kind", "target", "filter", "status", "reason"])
    return table.assign(date_obs="2024-01-01T00:00:00", path="raw/" + table["frame"])


@pytest.fixture
def quality(frames):
    sky = pd.DataFrame({"frame": ["a", "c"], "median": [100.0, 200.0], "stddev": [5.0, 6.0]})
    selection = pd.DataFrame(
        {"frame": ["a", "c"], "used": [True, False], "reason": ["", "clouds <b>"], "fwhm": [2.5, 3.0]}
    )
    return report.quality_table(frames, sky, selection)


def test_every_light_is_in_the_quality_table_with_its_verdict(quality):
    rows = quality.set_index("frame")
    assert list(rows.index) == ["a", "b", "c"] and list(rows["used"]) == [True, False, False]
    assert rows.loc["b", "reason"] == "truncated" and rows.loc["c", "reason"] == "clouds <b>"
    assert rows.loc["a", "remarks"] == "dark scaled" and rows.loc["a", "median"] == 100.0


def test_summary_says_what_was_found_left_out_and_made(frames, quality):
    stacks = [{"target": "M51", "filter": "V", "rejected": None, "frames": 1, "exposure": 60.0, "depth": 21.3}]
    lines = report.summary(frames, quality, stacks, "results").splitlines()
    assert lines[0] == "nightflow: 4 frames found (1 bias, 2 light; 1 not usable), 1 of 3 lights stacked"
    assert lines[1:3] == ["left out: raw/b: truncated", "left out: c: clouds <b>"]
    assert lines[3] == "stacks: M51/V (1 frames, 60 s, 5 sigma 21.30 mag)" and "results/report/index.html" in lines[4]


def test_summary_lists_few_of_many(frames, quality):
    many = pd.concat([quality.iloc[[2]]] * 40)
    lines = report.summary(frames, many, [], "results").splitlines()
    assert len(lines) == 9 and "36 more" in lines[6]


def test_stacks_and_masters_are_described(tmp_path, frames):
    good, bad = tmp_path / "M51" / "V.fits", tmp_path / "M51" / "R.fits"
    header = fits.Header({"BUNIT": "electron", "NCOMBINE": 1, "TOTEXP": 60.0, "FWHM": 2.5})
    products.write_image(good, Image(np.arange(81.0).reshape(9, 9), np.zeros((9, 9)), np.ones((9, 9)), header))
    products.write_rejected(bad, RejectedFrame("no frame can be used"))
    stacks = report.describe_stacks([str(good), str(bad)])
    report.write_previews(stacks, tmp_path)
    assert stacks[0]["fwhm"] == 2.5 and stacks[0]["picture"].startswith("data:image/png;base64,")
    assert stacks[1]["rejected"] == "no frame can be used" and (tmp_path / "M51" / "R.png").is_file()
    masters = report.describe_masters([str(good), str(bad)], frames.assign(bias="V", dark=None), str(tmp_path))
    assert masters[0]["median"] == 40.0 and masters[0]["lights"] == 2 and masters[0]["link"] == "../M51/V.fits"
    assert masters[1]["rejected"] and masters[1]["picture"] is None and masters[0].keys() == masters[1].keys()


def group_of(n=7, **columns):
    table = {"frame": [f"f{i}" for i in range(n)], "target": "M51", "filter": "V", "exptime": 60.0, "status": "ok"}
    table |= {"used": True, "fwhm": 3.0, "sky_std": 20.0, "flux_scale": 1.0, "ellipticity": 0.05}
    return pd.DataFrame(table | columns)


@pytest.mark.parametrize(
    "column, factor, words",
    [("fwhm", 1.5, "seeing 4.5 px, median 3 px"), ("sky_std", 2.0, "noise of the sky 40, median 20")]
    + [("flux_scale", 2.0, "transparency 50 % of the median")],
)
def test_the_loss_of_depth_is_that_of_the_signal_to_noise_ratio(column, factor, words):
    """S/N goes as transparency / (sky_std x FWHM): a factor x costs 2.5 log10 x magnitudes."""
    table = group_of()
    table.loc[2, column] *= factor
    losses = weakness.depth_losses(table)
    assert losses["depth_loss"][2] == pytest.approx(2.5 * np.log10(factor))
    assert words in losses["weakness"][2] and (losses["weakness"].drop(2) == "").all()


def test_losses_of_depth_add_up_and_what_is_unknown_stays_unknown():
    table = group_of()
    table.loc[1, ["fwhm", "sky_std"]] = [6.0, 40.0]
    table.loc[3, ["fwhm", "sky_std", "flux_scale", "ellipticity"]] = np.nan
    table.loc[4, "ellipticity"] = 0.4
    losses = weakness.depth_losses(table)
    assert losses["depth_loss"][1] == pytest.approx(2.5 * np.log10(4)) and np.isnan(losses["depth_loss"][3])
    assert losses["weakness"][3] == "" and "elongated: ellipticity 0.40, median 0.05" in losses["weakness"][4]


def test_other_exposures_and_filters_are_no_weakness():
    table = group_of(8, exptime=[10.0] * 4 + [60.0] * 4, sky_std=[8.0] * 4 + [20.0] * 4)
    assert (weakness.depth_losses(table)["weakness"] == "").all()


def test_worst_first():
    table = group_of(5)
    table.loc[0, "fwhm"], table.loc[1, "used"], table.loc[2, "status"], table.loc[2, "used"] = (
        4.0,
        False,
        "rejected",
        False,
    )
    table = table.join(weakness.depth_losses(table))
    assert list(weakness.worst_first(table)["frame"])[:3] == ["f2", "f1", "f0"]


def test_time_axis_leaves_the_days_between_nights_out():
    axis = charts.TimeAxis.of([0.0, 0.1, 0.2, 30.0, 30.1, np.nan])
    assert len(axis.spans) == 2 and axis.position(10.0) is None and axis.position(np.nan) is None
    places = [axis.position(t) for t in (0.0, 0.1, 0.2, 30.0, 30.1)]
    assert places == sorted(places) and places[0] >= 58 and places[-1] <= charts.WIDTH


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [-5e-9, 1e9, np.nan], [np.inf, 1.0, 2.0]])
def test_charts_of_odd_values(values):
    times = np.array([0.0, 0.1, 0.2])
    svg = charts.chart(charts.TimeAxis.of(times), times, values, [0, 1, 9], [True, False, True], "<T>", "mag")
    assert svg.startswith("<svg") and "&lt;T&gt;" in svg and "nan" not in svg and "inf" not in svg.replace("info", "")


def test_a_chart_of_nothing_is_nothing():
    assert charts.chart(charts.TimeAxis.of([]), [np.nan], [1.0], [0], [True], "T", "") == ""
    assert charts.sheet([]).startswith("<svg")


def test_masked_pixels_are_marked():
    mask = np.zeros((20, 20), np.uint16)
    mask[3, 4], mask[10:14, 10:14] = products.MaskBit.COSMIC_RAY, products.MaskBit.SOURCE
    picture, palette = previews.marked(np.full((10, 10), 101, np.uint8), previews.shrink_mask(mask, 10))
    assert len(palette) <= 256
    picture = palette[picture]
    assert tuple(picture[1, 2]) == (230, 40, 40) and picture[5, 5, 2] > picture[5, 5, 0]
    assert abs(int(picture[0, 0, 0]) - 101) <= 1 and len(set(picture[0, 0])) == 1


def test_zscale_shows_the_noise_of_the_sky():
    grey = previews.zscale(np.random.default_rng(1).normal(500, 5, (200, 200)))
    assert 80 < np.median(grey) < 176 and grey.std() > 30
    assert previews.zscale(np.full((3, 3), np.nan)).max() == 0 and previews.zscale(np.full((3, 3), 7.0)).min() == 128


@pytest.mark.parametrize("size", [1, 2, 4, 5, 90, 3000, 80_000])
@pytest.mark.parametrize("bright", [0.0, 0.2, 0.6])
def test_zscale_is_that_of_astropy(size, bright):
    rng = np.random.default_rng(size)
    values = (rng.normal(500, 5, size) + rng.exponential(300, size) * (rng.random(size) < bright)).astype(np.float32)
    np.testing.assert_allclose(previews._zscale_limits(values), ZScaleInterval().get_limits(values), rtol=1e-6)


def drawn(path):
    with Picture.open(path) as picture:
        return np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)[::-1]


def test_both_pictures_of_a_frame_and_of_a_rejected_one(tmp_path):
    mask = np.zeros((40, 30), np.uint16)
    mask[5, 6] = products.MaskBit.COSMIC_RAY
    data = np.random.default_rng(1).normal(100, 5, (40, 30)).astype(np.float32)
    paths = [tmp_path / "grey.png", tmp_path / "marked.png"]
    previews.write_frame(paths, Image(data, mask, np.ones_like(data)))
    grey, marked = map(drawn, paths)
    assert grey.shape == (40, 30) and marked.shape == (40, 30, 3) and tuple(marked[5, 6]) == (230, 40, 40)
    assert abs(marked[mask == 0].astype(int) - grey[mask == 0][:, None]).max() <= 1
    previews.write_frame(paths, None)
    assert [drawn(path).shape for path in paths] == [(1, 1), (1, 1)]


@pytest.mark.parametrize("shape", [(1, 2000), (2000, 1), (3, 3), (1001, 999)])
def test_previews_of_any_shape(shape):
    assert max(previews.shrink(np.ones(shape), 100).shape) <= 100
    assert previews.shrink_mask(np.ones(shape, np.uint16), 100).shape == previews.shrink(np.ones(shape), 100).shape
