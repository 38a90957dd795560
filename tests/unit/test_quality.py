"""Selection of frames: limits, reference, weights, and the table that carries them."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from nightflow import quality
from nightflow.products import RejectedFrame

OPTIONS = {
    "max_fwhm": "6 sigma",
    "max_ellipticity": "6 sigma",
    "max_sky": None,
    "min_stars": 3,
    "min_zero_point": None,
    "weights": "inverse_variance",
}


def row(frame, fwhm=3.0, **measures):
    """Measures of a plain frame."""
    plain = {"ellipticity": 0.1, "sky": 500.0, "sky_std": 20.0, "exptime": 60.0, "zero_point": 24.0, "n_stars": 100}
    return {"frame": frame, "reason": "", "fwhm": fwhm} | plain | measures


def group(n=10, seed=0, **columns):
    """Table of `n` frames of slightly varying quality; `columns` maps a measure to its values."""
    rng = np.random.default_rng(seed)
    rows = [row(f"f{k:02d}", 3.0 + rng.normal(0, 0.05), sky=500 + rng.normal(0, 5)) for k in range(n)]
    for name, values in columns.items():
        for target, value in zip(rows, values, strict=False):
            target[name] = value
    return quality.make_table(rows)


def test_measures_come_from_the_header():
    header = {"FWHM": 3.1, "ELLIPT": 0.12, "SKYMED": 250.0, "SKYNOISE": 16.0, "EXPTIME": 200}
    made = quality.measures("a", header, 40)
    assert made["fwhm"] == 3.1 and made["n_stars"] == 40 and made["exptime"] == 200
    assert made["reason"] == ""
    assert np.isnan(quality.measures("a", {"FWHM": "unknown"}, 0)["fwhm"])


def test_ordinary_frames_all_pass():
    """The default limits leave out none of a night's ordinary frames, however alike they are."""
    for spread in (0.0, 0.001, 0.3):
        fwhm = 3.0 + spread * np.sin(np.arange(20))
        table = quality.select(group(20, fwhm=fwhm), OPTIONS)
        assert table["used"].all()
        assert not any(table["reason"])


@pytest.mark.parametrize(
    ("column", "value", "option", "limit", "words"),
    [
        ("fwhm", 9.0, "max_fwhm", 6.0, "FWHM 9 px is above the maximum 6 px (max_fwhm: 6.0)"),
        ("fwhm", 9.0, "max_fwhm", "6 sigma", "FWHM 9 px is above the maximum"),
        ("ellipticity", 0.7, "max_ellipticity", "6 sigma", "ellipticity 0.7 is above the maximum 0.28"),
        ("sky", 2000.0, "max_sky", "5 sigma", "sky 2000 is above the maximum"),
        ("n_stars", 2, "min_stars", 3, "number of stars 2 is below the minimum 3"),
        ("n_stars", 20, "min_stars", "4 sigma", "number of stars 20 is below the minimum 60"),
        ("zero_point", 22.0, "min_zero_point", "5 sigma", "zero point 22 mag is below the minimum 23.9 mag"),
    ],
)
def test_bad_frame_is_left_out_with_a_sentence(column, value, option, limit, words):
    """Each limit leaves out the frame that breaks it, says why in a sentence, and leaves the others alone."""
    table = quality.select(group(10, **{column: [value]}), OPTIONS | {option: limit})
    assert list(table["used"]) == [False] + [True] * 9
    assert table["reason"][0].startswith(words)
    assert table["weight"][0] == 0


def test_quantile():
    """A limit of 70 % keeps the best seven of ten."""
    table = quality.select(group(10, fwhm=3 + 0.1 * np.arange(10)), OPTIONS | {"max_fwhm": "70 %"})
    assert table["used"].sum() == 8 or table["used"].sum() == 7
    assert list(table["used"][:7]) == [True] * 7
    assert not table["used"][9]


def test_two_reasons_are_both_named():
    table = quality.select(group(10, fwhm=[20.0], ellipticity=[0.9]), OPTIONS)
    assert "FWHM" in table["reason"][0] and "ellipticity" in table["reason"][0]


def test_spread_of_few_frames_says_nothing():
    """Four frames have no meaningful sigma or quantile; absolute limits hold."""
    table = group(4, fwhm=[3.0, 3.0, 3.0, 12.0])
    assert quality.select(table, OPTIONS)["used"].all()
    assert not quality.select(table, OPTIONS | {"max_fwhm": 5})["used"][3]


def test_unknown_measures_pass():
    table = quality.select(group(8, fwhm=[np.nan], sky=[np.nan]), OPTIONS | {"max_sky": "3 sigma"})
    assert table["used"].all()


def test_rejected_frames_stay_rejected():
    rows = [row("a"), {"frame": "b", "reason": "the file is truncated"}, row("c")]
    table = quality.select(quality.make_table(rows), OPTIONS)
    assert list(table["used"]) == [True, False, True]
    assert table["reason"][1] == "the file is truncated"


@pytest.mark.parametrize("limit", ["sharp", "sigma", "-3 sigma", True, [3]])
def test_limit_that_cannot_be_understood(limit):
    with pytest.raises(ValueError, match="selection.max_fwhm is .* must be a number, '3 sigma', '90 %' or null"):
        quality.select(group(), OPTIONS | {"max_fwhm": limit})


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("none", [1, 1, 1]),
        ("exposure", [60, 120, 60]),
        ("inverse_variance", [1 / 20**2, 1 / 40**2, 1 / 20**2]),
        ("seeing", [1 / 9, 1 / 9, 1 / 36]),
        ("stars", [100, 100, 50]),
    ],
)
def test_weights(scheme, expected):
    """Weights follow the scheme and have the mean one; frames left out weigh nothing."""
    rows = [row("a"), row("b", exptime=120.0, sky_std=40.0), row("c", fwhm=6.0, n_stars=50), row("d", n_stars=0)]
    table = quality.select(quality.make_table(rows), OPTIONS | {"weights": scheme})
    np.testing.assert_allclose(table["weight"], [*(np.array(expected) / np.mean(expected)), 0.0])


def test_weights_use_the_flux_scale():
    """Through clouds the same sky noise counts for less signal."""
    table = quality.make_table([row("a"), row("b")])
    table["flux_scale"] = [1.0, 2.0]
    weights = quality.frame_weights(table, "inverse_variance")
    assert weights[0] / weights[1] == pytest.approx(4)


def test_weights_without_the_measure_are_equal():
    rows = [row("a", sky_std=np.nan), row("b", sky_std=5.0)]
    assert list(quality.frame_weights(quality.make_table(rows), "inverse_variance")) == [1, 1]


def test_a_column_as_weights():
    """Values of a column are the weights as they are; a column that is not positive everywhere makes all alike."""
    rows = [quality.measures(f"f{k}", {"FWHM": 2.0 + k}, 10, 24.0 - 25 * k) for k in range(3)]
    table = quality.make_table(rows)
    np.testing.assert_allclose(quality.frame_weights(table, "fwhm"), np.array([2, 3, 4]) / 3)
    assert list(quality.frame_weights(table, "zero_point")) == [1, 1, 1]
    assert list(quality.frame_weights(table, "flux_scale")) == [1, 1, 1]


def test_every_column_of_weights_is_in_the_schema(root):
    """The configuration allows the names that the library knows, and no others."""
    schema = yaml.safe_load((root / "workflow" / "schemas" / "config.schema.yaml").read_text(encoding="utf-8"))
    names = schema["properties"]["selection"]["properties"]["weights"]["enum"]
    assert set(names) == {*quality.WEIGHTS, *quality.WEIGHT_COLUMNS}


def test_unknown_weights():
    with pytest.raises(ValueError, match="selection.weights is 'best'.*inverse_variance"):
        quality.frame_weights(group(), "best")


def test_reference_is_the_deepest_frame():
    """Best seeing and darkest sky win, but not a frame that shows few of the stars."""
    rows = [row("a"), row("b", fwhm=2.5), row("c", fwhm=2.4, sky_std=30.0), row("d", fwhm=2.0, n_stars=20)]
    assert quality.choose_reference(quality.make_table(rows)) == "b"


def test_reference_of_equal_frames_is_the_first():
    assert quality.choose_reference(quality.make_table([row("z"), row("b"), row("c")])) == "b"


def test_reference_without_measures():
    rows = [{"frame": "a", "reason": "no"}, {"frame": "b", "reason": "", "n_stars": 5}]
    assert quality.choose_reference(quality.make_table(rows)) == "b"


def test_no_reference():
    with pytest.raises(RejectedFrame, match="no frame of this group can be used"):
        quality.choose_reference(quality.make_table([{"frame": "a", "reason": "truncated"}]))
