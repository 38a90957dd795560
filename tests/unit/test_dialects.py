"""The same night, as six observatories write it, is the same night: facts, masters and calibrated pixels."""

from __future__ import annotations

import numpy as np
import pytest
from dialects import DIALECTS, write_night
from reduction import reduce

from nightflow import explain, inventory, products, simulate

NIGHT = {
    "shape": [40, 48],
    "bias_frames": 3,
    "dark_frames": 3,
    "flat_frames": 3,
    "filters": {"V": {}},
    "targets": [{"name": "M67", "ra": 132.846, "dec": 11.814, "filters": ["V"], "frames": 2, "exptime": 60.0}],
    "effects": {"overscan": {"enabled": True, "columns": 8}},
}


@pytest.fixture(scope="module")
def known():
    return explain.load_dialects()


@pytest.fixture(scope="module")
def generic(tmp_path_factory, known):
    folder = tmp_path_factory.mktemp("generic") / "raw"
    write_night(simulate.Night(NIGHT), folder, "generic")
    return reduce(folder, known)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_reduces_to_the_same_pixels(dialect, generic, known, tmp_path):
    write_night(simulate.Night(NIGHT), tmp_path / "raw", DIALECTS[dialect])
    files = inventory.find_files([str(tmp_path / "raw")])
    chosen = {explanation.dialect for explanation in explain.explain(files, known, "auto")}
    assert chosen == {dialect}
    rows, images = reduce(tmp_path / "raw", known)
    assert len(images) == 2
    columns = ("frame", "kind", "filter", "exptime", "date_obs", "night")
    assert [[getattr(r, c) for c in columns] for r in rows] == [[getattr(r, c) for c in columns] for r in generic[0]]
    for (name, image), (true_name, truth) in zip(sorted(images.items()), sorted(generic[1].items()), strict=True):
        assert name.removeprefix("unknown") in (true_name, true_name.removeprefix("M67"))
        assert image.header["OVERSCAN"] == "median" and image.header["BUNIT"] == "electron"
        np.testing.assert_array_equal(image.data, truth.data)
        np.testing.assert_array_equal(image.uncertainty, truth.uncertainty)
        np.testing.assert_array_equal(image.mask, truth.mask)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_places_and_temperatures_agree(dialect, generic, known, tmp_path):
    write_night(simulate.Night(NIGHT), tmp_path / "raw", DIALECTS[dialect])
    rows = {row.frame: row for row in reduce(tmp_path / "raw", known)[0]}
    for truth in generic[0]:
        row = rows[truth.frame]
        assert row.temperature == pytest.approx(truth.temperature, abs=0.01)
        if truth.kind == "light":
            assert (row.ra, row.dec) == pytest.approx((truth.ra, truth.dec), abs=1e-3)
            assert row.airmass == pytest.approx(truth.airmass, abs=1e-3)


def test_every_product_is_written(generic, tmp_path):
    for name, image in generic[1].items():
        products.write_image(tmp_path / f"{name}.fits", image)
        assert products.read_image(tmp_path / f"{name}.fits").shape == (40, 48)
