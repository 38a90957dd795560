"""Simulated nights through all steps to the stack: registration, star fluxes and stated noise against truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from nightflow import cosmicrays, measurement, products, quality, simulate, sources, stacking
from nightflow.products import MaskBit
from simulated import OPTIONS, SEEDS, Reduction, one_target

pytestmark = pytest.mark.accuracy


@dataclass
class Stacked:
    """A night of one target, its frames reduced and stacked."""

    config: dict
    folder: Path
    method: str = "clipped_mean"

    def __post_init__(self):
        self.folder.mkdir()
        self.frames, self.truth, tables, rows = {}, {}, {}, []
        self.night = simulate.Night(self.config)
        for frame, image in Reduction(self.night, self.folder).lights():
            name = frame.exposure.name
            image.header["NFFRAME"] = name
            rays = cosmicrays.find_cosmic_rays(image, OPTIONS["cosmic_rays"])
            image.flag(rays, MaskBit.COSMIC_RAY)
            image.flag(sources.source_mask(image.data, image.mask, OPTIONS["sources"]), MaskBit.SOURCE)
            subtracted, _ = measurement.subtract_sky(image, OPTIONS["sky"])
            tables[name] = measurement.measure_sources(subtracted, OPTIONS["photometry"])
            rows.append(quality.measures(name, subtracted.header, subtracted.header["NSTARS"]))
            self.frames[name] = self.folder / f"{name}_subtracted.fits"
            products.write_image(self.frames[name], subtracted)
            self.truth[name] = frame
        table = quality.make_table(rows)
        self.selection = quality.select_and_register(table, tables, OPTIONS["selection"], OPTIONS["registration"])
        self.reference = str(self.selection["frame"][self.selection["reference"]][0])

    @cached_property
    def stack(self):
        used = [row for row in self.selection if row["used"]]
        inputs = [(self.frames[r["frame"]], quality.matrix_of(r), r["flux_scale"], r["weight"]) for r in used]
        header = products.read_header(self.frames[self.reference])
        return stacking.stack(inputs, header, OPTIONS["stack"] | {"method": self.method}, 2)

    def distances(self) -> np.ndarray:
        """For each frame: rms distance of its transform from the truth, over the frame, in pixels."""
        reference = self.truth[self.reference].wcs
        ny, nx = products.read_image(self.frames[self.reference]).shape
        x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(0, nx - 1, 9), np.linspace(0, ny - 1, 9)))
        distances = []
        for row in self.selection:
            on_sky = self.truth[row["frame"]].wcs.all_pix2world(x, y, 0)
            truth = np.array(reference.all_world2pix(*on_sky, 0))
            moved = quality.matrix_of(row)[:2] @ np.stack((x, y, np.ones_like(x)))
            distances.append(np.sqrt(((moved - truth) ** 2).sum(axis=0).mean()))
        return np.array(distances)


GEOMETRIES = {
    "dithers": {},
    "field rotation": {"rotation": {"enabled": True}},
    "meridian flip": {"meridian_flip": {"enabled": True}, "rotation": {"enabled": True}},
    "two scales": {"scale": {"enabled": True}},
}


def night(seed, frames=6, **effects):
    # without blends the truth of a star's flux is its own
    effects = {"galaxies": {"enabled": False}} | effects
    return one_target(frames, seed=seed, shape=[512, 512], effects=effects)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_registration(geometry, tmp_path):
    """Every frame's transform is within 0.03 px rms of truth: dithers, rotations, flips, other scales."""
    worst, number = [], []
    for seed in SEEDS:
        stacked = Stacked(night(seed, **GEOMETRIES[geometry]), tmp_path / f"{seed}")
        assert stacked.selection["used"].all(), list(stacked.selection["reason"])
        worst.append(stacked.distances().max())
        number.append(int(stacked.selection["n_matched"].min()))
    print(f"{geometry}: largest rms distance from truth {np.round(worst, 4)} px, from at least {number} stars")
    assert max(worst) < 0.03
