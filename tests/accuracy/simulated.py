"""Simulated nights through the library as the workflow's scripts run it, to be compared with what was put in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from astropy.io import fits
from scipy import ndimage

from nightflow import calibration, masters, products, simulate

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
SEEDS = range(5)


def detector_of(night: simulate.Night) -> dict:
    """What an instrument file would say of the camera."""
    camera = night.camera
    return {"gain": camera.gain, "read_noise": camera.read_noise, "saturation": camera.saturation}


@dataclass
class Reduction:
    """A night, its masters, and its lights calibrated with them."""

    night: simulate.Night
    folder: Path
    masters: dict = field(default_factory=dict)

    def __post_init__(self):
        options, detector = OPTIONS["calibration"], detector_of(self.night)
        bias = masters.make_bias(self._write("bias"), detector, options)
        dark = masters.make_dark(self._write("dark"), None, detector, options)
        flat = masters.make_flat(self._write("flat"), bias, dark, detector, options)
        bad = masters.find_bad_pixels(dark, flat, options)
        self.masters = {"bias": bias, "dark": dark, "flat": flat, "bad_pixels": bad}

    def _write(self, kind: str) -> list[Path]:
        """Write the raw frames of one kind."""
        paths = []
        for exposure in (e for e in self.night.plan if e.kind == kind):
            paths.append(self.folder / f"{exposure.name}.fits")
            header = fits.Header([("EXPTIME", exposure.exptime)])
            fits.PrimaryHDU(self.night.expose(exposure).raw, header).writeto(paths[-1])
        return paths

    def calibrate(self, frame: simulate.Frame) -> products.Image:
        """A light frame through calibration."""
        exposure = frame.exposure
        header = fits.Header([("EXPTIME", exposure.exptime), ("OBJECT", exposure.target.name)])
        header["NFFRAME"] = exposure.name
        m = self.masters
        return calibration.calibrate(
            frame.raw, header, detector_of(self.night), m["bias"], m["dark"], m["flat"], m["bad_pixels"],
            OPTIONS["calibration"],
        )  # fmt: skip

    def lights(self):
        """Each light frame with its calibrated image."""
        for exposure in self.night.lights():
            frame = self.night.expose(exposure)
            yield frame, self.calibrate(frame)


def one_target(frames: int = 1, exptime: float = 120.0, **options) -> dict:
    """Configuration of a night of one target in one filter."""
    target = {"name": "field", "ra": 150.0, "dec": 20.0, "filters": ["V"], "frames": frames, "exptime": exptime}
    return {"filters": {"V": {}}, **options, "targets": [target]}


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """`mask` and the `pixels` rings of neighbours about it."""
    return ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=pixels) if pixels else mask
