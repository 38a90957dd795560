"""Previews and the tables and page of a run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from PIL import Image as Picture

from nightflow import previews, products, report
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
    data = np.zeros((300, 200))
    data[:30] = 100
    previews.write_png(tmp_path / "a.png", data, longest=100)
    with Picture.open(tmp_path / "a.png") as picture:
        assert max(picture.size) <= 100 and picture.getpixel((5, picture.size[1] - 2)) > picture.getpixel((5, 2))


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


def test_summary_is_three_lines(frames, quality):
    stacks = [{"target": "M51", "filter": "V", "rejected": None, "frames": 1}]
    lines = report.summary(frames, quality, stacks, "results").splitlines()
    assert lines[0] == "nightflow: 4 frames found (1 bias, 2 light; 1 not usable), 1 of 3 lights stacked"
    assert lines[1] == "stacks: M51/V (1 frames)" and "results/report/index.html" in lines[2]


def test_page_lists_what_was_left_out_and_escapes_header_text(frames, quality, root, tmp_path):
    good, bad = tmp_path / "M51" / "V.fits", tmp_path / "M51" / "R.fits"
    header = fits.Header({"BUNIT": "electron", "NCOMBINE": 1, "TOTEXP": 60.0, "FWHM": 2.5})
    products.write_image(good, Image(np.ones((9, 9)), np.zeros((9, 9)), np.ones((9, 9)), header))
    products.write_rejected(bad, RejectedFrame("no frame can be used"))
    stacks = report.describe_stacks([str(good), str(bad)])
    report.write_previews(stacks, [tmp_path / "V.png", tmp_path / "R.png"], 64)
    template = (root / "workflow" / "report" / "night.html.j2").read_text(encoding="utf-8")
    detector = pd.DataFrame({"camera": ["cam"], "warning": ["gain 2.4 in the header, 1.32 measured"]})
    page = report.page(template, frames, quality, detector, stacks, str(tmp_path))
    assert "1.32 measured" in page
    assert "truncated" in page and "clouds &lt;b&gt;" in page and "clouds <b>" not in page
    assert "no frame can be used" in page and "data:image/png;base64," in page and "FWHM 2.50 px" in page
    assert "://" not in page  # nothing from outside
