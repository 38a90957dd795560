"""Cosmic rays in simulated light frames, whose every electron is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from astropy.io import fits

from nightflow import calibration, cosmicrays, simulate
from nightflow.products import MaskBit
from simulated import OPTIONS, SEEDS, detector_of, grown, one_target

pytestmark = pytest.mark.accuracy


@dataclass
class Tally:
    """Counts over frames.

    Attributes
    ----------
    about : int
        What lies within so many pixels of a saturated one is its surroundings, which do not count.
    """

    about: int
    rays: int = 0  # pixels of rays above 5 sigma of their place
    found: int = 0
    flagged: int = 0
    false: int = 0  # flagged without a ray within a pixel, and not in the surroundings of saturated pixels
    stars: int = 0
    lost: int = 0  # stars whose brightest pixel is flagged without a ray there

    def add(self, frame: simulate.Frame, image, flagged: np.ndarray) -> None:
        saturated = (image.mask & MaskBit.SATURATED) != 0
        surroundings = grown(saturated, self.about)
        hit = frame.cosmic_rays > 0
        bright = (frame.cosmic_rays > 5 * frame.sigma) & ~saturated
        self.rays += int(bright.sum())
        self.found += int((bright & flagged).sum())
        counted = flagged & ~surroundings
        self.flagged += int(counted.sum())
        self.false += int((counted & ~grown(hit, 1)).sum())
        x, y = (np.rint(frame.sources[name][frame.sources["type"] == 0]).astype(int) for name in ("x", "y"))
        ny, nx = flagged.shape
        inside = (x > 0) & (y > 0) & (x < nx - 1) & (y < ny - 1)
        x, y = x[inside], y[inside]
        sky = np.median(frame.expected)
        seen = (frame.expected[y, x] - sky > 5 * frame.sigma[y, x]) & ~surroundings[y, x]
        self.stars += int(seen.sum())
        self.lost += int((seen & flagged[y, x] & ~grown(hit, 1)[y, x]).sum())

    def __str__(self) -> str:
        return (
            f"recall {self.recall:.3f} of {self.rays} px, false discovery {self.false_discovery:.3f}, "
            f"{self.lost} of {self.stars} stars lost ({100 * self.lost / self.stars:.2f} %)"
        )

    def __iadd__(self, other: Tally) -> Tally:
        for name in ("rays", "found", "flagged", "false", "stars", "lost"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    @property
    def recall(self) -> float:
        return self.found / self.rays

    @property
    def false_discovery(self) -> float:
        return self.false / self.flagged


def look(tally: Tally, seed: int, shape, effects: dict) -> None:
    """Find the rays of one light frame, and count."""
    always = {"gain": {}, "read_noise": {}, "shot_noise": {}, "sky": {}, "saturation": {}, "bleeding": {}}
    effects = simulate.only(**always, **effects)
    night = simulate.Night(one_target(shape=shape, seed=seed, effects=effects))
    frame = night.expose(night.lights()[0])
    detector = {**detector_of(night), "pedestal": night.settings.bias_level}
    header = fits.Header([("EXPTIME", frame.exposure.exptime)])
    image = calibration.calibrate(frame.raw, header, detector, None, None, None, None, OPTIONS["calibration"])
    tally.add(frame, image, cosmicrays.find_cosmic_rays(image, OPTIONS["cosmic_rays"]))


@pytest.mark.parametrize(
    ("name", "shape", "fwhm", "stars", "galaxies", "rays"),
    [
        ("FWHM 2.2", (512, 512), 2.2, 500, 60, 120),
        ("FWHM 3", (512, 512), 3.0, 500, 60, 120),
        ("FWHM 4", (512, 512), 4.0, 500, 60, 120),
        ("crowded, few rays, FWHM 2.2", (1024, 1024), 2.2, 900, 30, 60),
        ("crowded, few rays, FWHM 4", (1024, 1024), 4.0, 900, 30, 60),
    ],
)
def test_cosmic_rays_of_a_night(name, shape, fwhm, stars, galaxies, rays, capsys):
    """Recall, false discovery and stars kept in five frames; stars, galaxies and rays are given a megapixel."""
    effects = {
        "seeing": {"fwhm": [fwhm, fwhm]},
        "stars": {"density": float(stars)},
        "galaxies": {"density": float(galaxies)},
        "cosmic_rays": {"rate": rays / 120},
    }
    total, worst = Tally(math.ceil(2 * fwhm)), [1.0, 0.0]
    for seed in SEEDS:
        tally = Tally(total.about)
        look(tally, seed, shape, effects)
        worst = [min(worst[0], tally.recall), max(worst[1], tally.false_discovery)]
        total += tally
    with capsys.disabled():
        print(f"\n  {name}: {total}; worst frame: recall {worst[0]:.3f}, false discovery {worst[1]:.3f}")
    assert total.recall >= 0.95
    assert total.false_discovery <= 0.15
    assert total.lost < 0.005 * total.stars
