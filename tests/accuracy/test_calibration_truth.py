"""Calibration with real masters against what the simulator put in."""

from __future__ import annotations

import numpy as np
import pytest

from nightflow import simulate
from nightflow.products import MaskBit
from simulated import OPTIONS, SEEDS, Reduction, grown, one_target

pytestmark = pytest.mark.accuracy

#: The effects, as strong as in a bad camera.
EFFECTS = {
    "bias_structure": {"columns": 5.0, "ramp": 30.0},
    "dark_current": {"rate": 0.5, "glow": 1.0},
    "hot_pixels": {"fraction": 5e-3},
    "vignetting": {"corner": 0.4},
    "pixel_response": {"stddev": 0.02},
    "dust": {"number": 12},
}
ALWAYS = {"shot_noise": {}, "read_noise": {}, "gain": {}}
SKY = {"sky": {"stddev": 0.0}}


def calibrated(folder, seed, noise_seed, effects, exptime=120.0, **options):
    """A small night with masters of its own, its first light frame, and that frame calibrated."""
    folder.mkdir(parents=True)
    effects = simulate.only(**ALWAYS, **effects)
    config = one_target(1, exptime, seed=seed, noise_seed=noise_seed, shape=[256, 256], effects=effects, **options)
    night = simulate.Night(config)
    return night, *next(iter(Reduction(night, folder).lights()))


@pytest.mark.parametrize("effect", EFFECTS)
def test_an_effect_alone_vanishes(effect, tmp_path, capsys):
    """z = (with - without) / sqrt(s1**2 + s2**2), both with masters, light and noise of their own."""
    rows = []
    for seed in SEEDS:
        with_it = calibrated(tmp_path / f"with{seed}", seed, 1000 + seed, {**SKY, effect: EFFECTS[effect]})[2]
        without = calibrated(tmp_path / f"without{seed}", seed, 2000 + seed, SKY)[2]
        good = (with_it.mask == 0) & (without.mask == 0)
        z = ((with_it.data - without.data) / np.hypot(with_it.uncertainty, without.uncertainty))[good]
        rows.append((z.mean(dtype=float), z.std(dtype=float), 1 - good.mean()))
    mean, stddev, lost = np.array(rows).T
    with capsys.disabled():
        print(f"\n  {effect}: z mean {mean.mean():+.4f} (worst {mean[np.argmax(abs(mean))]:+.4f}),", end=" ")
        print(f"stddev {stddev.min():.3f} to {stddev.max():.3f}, {100 * lost.mean():.2f} % flagged")
    assert abs(mean).max() < 0.02
    assert (stddev > 0.95).all() and (stddev < 1.05).all()


#: A camera with all of it, and what it looks at.
CAMERA = {**EFFECTS, "dead_pixels": {}, "bad_columns": {}, "saturation": {}, "bleeding": {}}
FIELD = {"stars": {"density": 150.0}, "galaxies": {"density": 20.0}, "seeing": {}, "sky_gradient": {}}

#: Variance of the median of five normal values (order statistics; Teichroew 1956, Ann. Math. Stat. 27, 410).
MEDIAN_OF_FIVE = 0.28683


def true_sigma(night, frame):
    """Standard deviation of a calibrated pixel from the simulator's truth: its own noise and that of its masters."""
    camera, exptime = night.camera, frame.exposure.exptime
    response = camera.response("V")
    read_out = camera.read_noise**2 + camera.gain**2 / 12
    dark = (read_out + camera.dark_rate * exptime) / response**2
    level = 0.975 * night.settings.flat_level  # the flats' levels are uniform from 0.85 to 1.1 of it
    flat = frame.expected**2 * (level * response + read_out) / (level * response) ** 2
    return np.sqrt(frame.sigma**2 + MEDIAN_OF_FIVE * (dark + flat))


@pytest.mark.parametrize(
    ("name", "exptime", "sky", "allowed"),
    [("dark", 300.0, None, 0.10), ("sky 180 e", 60.0, 3.0, 0.03), ("sky 1800 e", 600.0, 3.0, 0.03),
     ("sky 15000 e", 600.0, 25.0, 0.03)],
)  # fmt: skip
def test_calibrated_pixels_scatter_about_truth(name, exptime, sky, allowed, tmp_path, capsys):
    """All pixels without a flag, of a night with stars and galaxies, through masters of five frames each."""
    effects = CAMERA if sky is None else {**CAMERA, **FIELD, "sky": {"stddev": 0.0}}
    rows = []
    for seed in SEEDS:
        night, frame, image = calibrated(
            tmp_path / str(seed), seed, 3000 + seed, effects, exptime, filters={"V": {"sky": sky or 0.0}}
        )
        # The flat is one in the mean over good pixels, the simulator's response before any are blind.
        response = night.camera.response("V")
        sound = (night.camera.blind == 1) & (response >= OPTIONS["calibration"]["low_response"])
        truth = frame.expected * response[sound].mean(dtype=float)
        # Charge that runs along a column ends in pixels that are not saturated themselves.
        good = (image.mask == 0) & ~grown((image.mask & MaskBit.SATURATED) != 0, 3)
        residual = (image.data - truth)[good].astype(float)
        variance = true_sigma(night, frame)[good].astype(float) ** 2
        z = residual / np.sqrt(variance)
        stated = image.uncertainty[good].astype(float) ** 2
        rows.append((z.mean(), z.std(), stated.mean() / variance.mean()))
    mean, stddev, ratio = np.array(rows).T
    with capsys.disabled():
        print(f"\n  {name}: z mean {mean.mean():+.4f} (worst {mean[np.argmax(abs(mean))]:+.4f}),", end=" ")
        print(f"stddev {stddev.min():.3f} to {stddev.max():.3f},", end=" ")
        print(f"mean(UNCERT^2)/true variance {ratio.mean():.4f} ({ratio.min():.4f} to {ratio.max():.4f})")
    assert abs(mean).max() < 0.02
    assert (stddev > 0.95).all() and (stddev < 1.05).all()
    assert abs(ratio - 1).max() < allowed
