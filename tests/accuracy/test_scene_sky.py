"""The sky under the sources of synthetic scenes, whose true level and noise are known."""

from __future__ import annotations

import numpy as np
import pytest

from nightflow import scenes, sky, sources
from simulated import OPTIONS, SEEDS

pytestmark = pytest.mark.accuracy

GAUSSIAN = {"star_profile": "gaussian", "galaxy_profile": "gaussian"}
REALISTIC = {"star_profile": "moffat", "galaxy_profile": "sersic"}


def measured(**options):
    """Mean, median and mode less the true sky, in units of its noise, and stddev over the true one."""
    data, header, _ = scenes.make_scene(**options)
    mask = sources.source_mask(data, None, OPTIONS["sources"])
    found = sky.sky_statistics(data, mask, sigma=OPTIONS["sky"]["sigma"], maxiters=OPTIONS["sky"]["maxiters"])
    level, noise = header["SKYLEVEL"], header["SKYSIGMA"]
    return *((getattr(found, name) - level) / noise for name in ("mean", "median", "mode")), found.stddev / noise


@pytest.mark.parametrize(
    ("profiles", "stars", "galaxies", "limits"),
    [
        (GAUSSIAN, 200, 0, (0.005, 0.005, 0.01)),
        (GAUSSIAN, 200, 30, (0.005, 0.005, 0.01)),
        (REALISTIC, 200, 0, (0.03, 0.03, 0.03)),
        (REALISTIC, 200, 30, (0.03, 0.03, 0.03)),
        (REALISTIC, 4000, 300, (0.1, 0.1, 0.1)),
    ],
)
def test_sky_of_scenes(profiles, stars, galaxies, limits, capsys):
    """Mean, median and mode to the limits in sigma, stddev to 2 %, each seed on its own."""
    rows = np.array([measured(stars=stars, galaxies=galaxies, seed=seed, **profiles) for seed in SEEDS])
    worst = abs(rows[:, :3]).max(axis=0)
    with capsys.disabled():
        kind = "Moffat, Sersic" if profiles is REALISTIC else "Gaussian"
        print(f"\n  {kind}, {stars} stars, {galaxies} galaxies: error in sigma of mean, median, mode", end=" ")
        print(f"{np.round(rows[:, :3].mean(axis=0), 4)}, worst {np.round(worst, 4)};", end=" ")
        print(f"stddev {rows[:, 3].min():.4f} to {rows[:, 3].max():.4f} of the true one")
    assert (worst < limits).all()
    assert abs(rows[:, 3] - 1).max() < 0.02
