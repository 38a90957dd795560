"""A synthetic scene goes through the workflow as a light frame does, and its sky comes out right."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from nightflow import scenes
from nights import Workspace

pytestmark = pytest.mark.workflow

SCENE = {"size_x": 500, "size_y": 400, "stars": 40, "galaxies": 3, "seed": 2}


@pytest.fixture(scope="module")
def reduced(tmp_path_factory) -> Workspace:
    """A scene, reduced without calibration frames."""
    workspace = Workspace(tmp_path_factory.mktemp("scenes"))
    workspace.raw.mkdir()
    scenes.write_scene(workspace.raw / "scene.fits", **SCENE)
    workspace.finished = workspace.run(calibration={"missing": "warn"})
    return workspace


def test_masked_scene_has_its_sources_masked(reduced):
    """Every star and galaxy of the truth table lies under the SOURCE plane."""
    truth = Table.read(reduced.raw / "scene_truth.tsv", format="ascii.tab")
    mask = fits.getdata(reduced.results / "masked" / "scene.fits", "MASK")
    ny, nx = mask.shape
    inside = (truth["x"] > 2) & (truth["y"] > 2) & (truth["x"] < nx - 3) & (truth["y"] < ny - 3)
    x, y = (np.rint(truth[name][inside]).astype(int) for name in ("x", "y"))
    assert len(x) > 30 and (mask[y, x] & 128).all()


def test_sky_of_the_scene_is_the_true_one(reduced):
    """sky.tsv has the four numbers in ADU, within the noise of the median of so few pixels."""
    row = Table.read(reduced.results / "sky.tsv", format="ascii.tab")[0]
    assert row["frame"] == "scene"
    for name, tolerance in (("mean", 0.3), ("median", 0.3), ("mode", 0.9)):
        assert row[name] == pytest.approx(1000, abs=tolerance), name
    assert row["stddev"] == pytest.approx(30, rel=0.02)


def test_table_of_the_truth_is_no_frame(reduced):
    frames = Table.read(reduced.results / "frames.tsv", format="ascii.tab")
    assert list(frames["frame"]) == ["scene"]
