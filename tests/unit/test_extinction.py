"""Nightly extinction from the zero points of its frames."""

from __future__ import annotations

import numpy as np
import pytest

from nightflow import extinction


def night(seed, n=40, clouds=0, spread=1.2):
    rng = np.random.default_rng(seed)
    airmass = 1 + spread * rng.uniform(size=n)
    zero_point = 23.0 - 0.15 * airmass + 0.004 * rng.standard_normal(n)
    zero_point[:clouds] -= rng.uniform(0.1, 1.0, clouds)
    return airmass, zero_point, np.full(n, 0.003)


@pytest.mark.parametrize("clouds", [0, 10])
def test_the_coefficient_is_found_through_clouds(clouds):
    pull = []
    for seed in range(40):
        found = extinction.fit_extinction(*night(seed, clouds=clouds))
        pull.append((found["extinction"] - 0.15) / found["extinction_error"])
        assert abs(found["zero_point"] - 23.0) < 5 * found["zero_point_error"] < 0.05
    assert 0.7 < np.std(pull) < 1.4 and abs(np.mean(pull)) < 0.6


@pytest.mark.parametrize("values", [night(1, n=3), night(1, spread=0.1)])
def test_too_little_range_is_said(values):
    found = extinction.fit_extinction(*values)
    assert "no extinction" in found["remark"] and "extinction" not in found


def test_groups_are_nights_and_filters():
    airmass, zero_point, _ = night(2)
    rows = [
        {"night": f"2024-01-0{1 + i % 2}", "filter": "V", "airmass": str(x), "zero_point": str(z)}
        for i, (x, z) in enumerate(zip(airmass, zero_point, strict=True))
    ]
    rows = [{**row, "error": "0.005", "systematic": "0.004"} for row in rows] + [{"zero_point": "", "airmass": "1"}]
    found = extinction.nightly_extinction(rows)
    assert [(row["night"], row["filter"]) for row in found] == [("2024-01-01", "V"), ("2024-01-02", "V")]
    assert all(abs(row["extinction"] - 0.15) < 0.02 for row in found)
