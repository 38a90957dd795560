"""Stated errors of aperture fluxes against their scatter, at one, one and a half (the default) and two FWHM."""

from __future__ import annotations

import numpy as np
import pytest

from nightflow import simulate, sources
from nightflow.products import Image
from simulated import OPTIONS, SEEDS

pytestmark = pytest.mark.accuracy

STEP, FWHM, FLUX, SKY, READ_NOISE = 30, 3.0, 6000.0, 400.0, 6.0


def grid_of_stars(seed: int) -> tuple[Image, np.ndarray, np.ndarray]:
    """Equal stars on a grid, each somewhere in its pixel, with the noise of light, sky and read-out; no sky left."""
    rng = np.random.default_rng(seed)
    shape = (720, 720)
    y, x = np.mgrid[STEP : shape[0] - 15 : STEP, STEP : shape[1] - 15 : STEP] + rng.uniform(-0.5, 0.5, (2, 23, 23))
    x, y = x.ravel(), y.ravel()
    light = np.zeros(shape, np.float32)
    simulate.render_stars(light, x, y, np.full(x.size, FLUX), simulate.PSF(FWHM, 3.5))
    variance = light + SKY + READ_NOISE**2
    data = rng.poisson(light + SKY) - SKY + rng.normal(0, READ_NOISE, shape)
    sigma = np.sqrt(variance).astype(np.float32)
    return Image(data.astype(np.float32), np.zeros(shape, np.uint16), sigma), x, y


@pytest.mark.parametrize("radius", [3.0, 4.5, 6.0])
def test_stated_errors_are_the_scatter(radius, capsys):
    """Pulls about the median have a standard deviation of one to 5 % over all seeds."""
    pulls = []
    for seed in SEEDS:
        image, x, _ = grid_of_stars(seed)
        table = sources.detect_sources(image, {**OPTIONS["photometry"], "aperture": radius / FWHM})
        bright = table["snr"] > 15
        assert np.count_nonzero(bright) == pytest.approx(x.size, abs=3)
        flux, error = table["flux"].value[bright], table["flux_err"].value[bright]
        pulls.append((flux - np.median(flux)) / error)
    each = [1 / np.std(pull) for pull in pulls]
    with capsys.disabled():
        print(f"\n  radius {radius} px: stated/true {1 / np.std(np.concatenate(pulls)):.3f}", end=" ")
        print(f"({min(each):.3f} to {max(each):.3f})")
    assert 1 / np.std(np.concatenate(pulls)) == pytest.approx(1, abs=0.05)
