"""Every detector effect of the simulator, alone, vanishes in calibration to the sigma that calibration states."""

from __future__ import annotations

import pytest
from reduction import reduce

from nightflow import explain, fringes, products, simulate, sky, sources
from nightflow.products import MaskBit
from nightflow.simulate_effects import only

SHAPE = [220, 260]
BASE = ("gain", "read_noise", "shot_noise", "sky", "dark_current", "vignetting", "saturation")
HALVES = [{"data": [[0, 220], [0, 130]], "gain": 1.5 * 0.9}, {"data": [[0, 220], [130, 260]], "gain": 1.5 * 1.1}]


def polynomial(coefficient, terms=6):
    """Coefficients that undo ``m = x (1 - k x)``: x = m + k m**2 + 2 k**2 m**3 + 5 k**3 m**4 + ... (Catalan)."""
    k, catalan = coefficient / 90000 * 1.5, [1, 1, 2, 5, 14, 42, 132]
    return [0.0, *(catalan[i] * k**i for i in range(terms))]


EFFECTS = {
    "none": ({}, {}),
    "overscan": ({"overscan": {"columns": 24}, "bias_drift": {"rate": 20.0, "stddev": 5.0}}, {}),
    "nonlinearity": ({"nonlinearity": {"coefficient": 0.05}}, {"linearity": polynomial(0.05)}),
    "amplifiers": ({"amplifiers": {"gains": [0.9, 1.1], "pedestals": [0.0, 50.0]}}, {"amplifiers": HALVES}),
    "bleeding": (
        {"bleeding": True, "stars": {"density": 60.0, "magnitudes": [5.0, 7.0]}, "seeing": {"fwhm": [2.5, 2.5]}},
        {},
    ),
}
OPTIONS = {"saturation_grow": 1}


@pytest.mark.accuracy
@pytest.mark.parametrize("effect", EFFECTS)
def test_effect_alone_vanishes_to_its_stated_sigma(effect, tmp_path):
    parameters, detector = EFFECTS[effect]
    config = {
        "shape": SHAPE,
        "bias_frames": 12,
        "dark_frames": 12,
        "flat_frames": 12,
        "filters": {"V": {"sky": 60.0}},
        "targets": [{"name": "T", "ra": 132.8, "dec": 11.8, "filters": ["V"], "frames": 1, "exptime": 120.0}],
        "effects": only(*BASE, **parameters),
        "truth": {"frames": False, "masters": False},
    }
    simulate.simulate_night(config, tmp_path / "raw")
    night = simulate.Night(config)
    truth = night.expose(night.lights()[0])
    detector = detector if "amplifiers" not in detector else detector | {"gain": None}
    _, images = reduce(tmp_path / "raw", explain.load_dialects(), detector, OPTIONS)
    (image,) = images.values()
    good = (image.mask == 0) & (truth.expected < 60000)
    if effect == "bleeding":
        saturated = (image.mask & MaskBit.SATURATED) != 0
        assert saturated.sum() > 100
        assert not good[:, saturated.any(axis=0)].all()
    assert good.mean() > 0.9
    z = ((image.data - truth.expected) / image.uncertainty)[good]
    print(f"\n  {effect}: mean {z.mean(dtype=float):.4f}, stddev {z.std(dtype=float):.4f} over {z.size} pixels")
    assert abs(z.mean(dtype=float)) < 0.02
    assert 0.95 < z.std(dtype=float) < 1.05


@pytest.mark.accuracy
def test_fringes_alone_vanish_to_their_stated_sigma(tmp_path):
    config = {
        "shape": [256, 256],
        "bias_frames": 12,
        "dark_frames": 12,
        "flat_frames": 12,
        "filters": {"I": {"sky": 30.0}},
        "targets": [{"name": "T", "ra": 132.8, "dec": 11.8, "filters": ["I"], "frames": 12, "exptime": 60.0}],
        "effects": only(*BASE, "dithers", fringes={"amplitude": 0.06, "filters": ["I"]}),
        "truth": {"frames": False, "masters": False},
    }
    simulate.simulate_night(config, tmp_path / "raw")
    _, images = reduce(tmp_path / "raw", explain.load_dialects(), {}, OPTIONS)
    paths = [tmp_path / f"{name}.fits" for name in sorted(images)]
    for path in paths:
        products.write_image(path, images[path.stem])
    fringe = fringes.make_fringe(paths[1:], sky.DEFAULTS, sources.MASK_DEFAULTS)
    image = images[paths[0].stem]
    result = fringes.subtract_fringe(image, fringe, sky.DEFAULTS)
    scores = []
    for one in (image, result):
        good = one.mask == 0
        level, _ = sky.sky_model(one.data, one.mask, sky.DEFAULTS)
        scores.append(((one.data - level) / one.uncertainty)[good])
    before, after = scores
    print(f"\n  fringes: mean {after.mean():.4f}, stddev {after.std():.4f}, with them {before.std():.4f}")
    assert abs(after.mean(dtype=float)) < 0.02 and 0.95 < after.std(dtype=float) < 1.05 < before.std()
