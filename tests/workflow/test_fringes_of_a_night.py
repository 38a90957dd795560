"""Fringes through the whole workflow: the pattern comes of the night's own lights, and goes from each of them."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from nightflow import products, simulate
from nights import Workspace

pytestmark = pytest.mark.workflow

LIGHTS = 8
NIGHT = {
    "seed": 9,
    "shape": [200, 220],
    "bias_frames": 5,
    "dark_frames": 3,
    "flat_frames": 5,
    "filters": {"I": {}},
    "effects": {
        "fringes": {"amplitude": 0.05, "filters": ["I"]},
        "stars": {"density": 900.0, "magnitudes": [12.5, 17.0]},
        "galaxies": {"enabled": False},
        "trails": {"enabled": False},
    },
    "targets": [{"name": "field", "ra": 150.0, "dec": 20.0, "filters": ["I"], "frames": LIGHTS, "exptime": 300.0}],
}


@pytest.fixture(scope="module")
def night(tmp_path_factory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("fringes"))
    simulate.simulate_night(NIGHT, workspace.raw)
    return workspace


def ripples(night):
    """Scatter of the sky's level in boxes of 10 px, in units of its stated error, frame by frame.

    Stars, as the simulator knows them, and pixels where no frame shows the pattern are left out.
    """
    found = {}
    patterns = [products.read_image(path) for path in (night.results / "masters").glob("fringe_*.fits")]
    for path in sorted((night.results / "subtracted").glob("*.fits")):
        image = products.read_image(path)
        sky = (image.mask == 0) & ~stars(night, path.stem, image.shape)
        for pattern in patterns:
            sky &= pattern.mask == 0
        data, weight, variance = (
            np.where(sky, plane, 0.0).reshape(20, 10, 22, 10).sum(axis=(1, 3))
            for plane in (image.data, 1.0, image.uncertainty.astype(float) ** 2)
        )
        full = weight > 60
        pull = data[full] / np.sqrt(variance[full])
        assert full.sum() > 50
        found[path.stem] = float(np.std(pull))
    return found


def stars(night, frame, shape):
    """Pixels within 12 px of a source of the simulated scene."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    near = np.zeros(shape, bool)
    for row in fits.getdata(night.folder / "truth" / f"{frame}.fits", "SOURCES"):
        near |= np.hypot(x - row["x"], y - row["y"]) < 12
    return near


@pytest.mark.accuracy
def test_fringes_go_from_every_light_and_nothing_else_is_redone(night):
    """Fringes of 5 % of the sky, which the source mask takes for sources at first."""
    night.run()
    before = ripples(night)
    jobs = night.planned(fringes={"correct": True})
    assert jobs["master_fringe"] == 1 and jobs["sky"] == LIGHTS and "mask" not in jobs
    night.run(fringes={"correct": True})
    after = ripples(night)
    print("boxes of 10 px, scatter over stated:", *(f"{before[f]:.1f} -> {after[f]:.2f}" for f in before))
    assert len(after) == LIGHTS and min(before.values()) > 5
    assert max(after.values()) < 1.3 and np.median(list(after.values())) < 1.15
