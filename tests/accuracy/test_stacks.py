"""Simulated nights through all steps to the stack: registration, star fluxes and stated noise against truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from nightflow import alignment, measurement, products, quality, simulate, sources, stacking
from nightflow.products import MaskBit
from simulated import OPTIONS, SEEDS, Reduction, one_target

pytestmark = pytest.mark.accuracy


@dataclass
class Stacked:
    """A night of one target, its frames reduced and registered."""

    config: dict
    folder: Path

    def __post_init__(self):
        self.folder.mkdir()
        self.frames, self.truth, tables, rows = {}, {}, {}, []
        self.night = simulate.Night(self.config)
        for frame, image in Reduction(self.night, self.folder).lights():
            name = frame.exposure.name
            image.header["NFFRAME"] = name
            image.flag(frame.cosmic_rays > 0, MaskBit.COSMIC_RAY)  # finding them has tests of its own
            image.flag(frame.trail > 0.5, MaskBit.TRAIL)
            image.flag(sources.source_mask(image.data, image.mask, OPTIONS["sources"]), MaskBit.SOURCE)
            subtracted, _ = measurement.subtract_sky(image, OPTIONS["sky"])
            stars = measurement.measure_sources(subtracted, OPTIONS["photometry"])
            tables[name] = alignment.Frame(stars, subtracted.header)
            rows.append(quality.measures(name, subtracted.header, subtracted.header["NSTARS"]))
            self.frames[name] = self.folder / f"{name}_subtracted.fits"
            products.write_image(self.frames[name], subtracted)
            self.truth[name] = frame
        self.selection, _ = alignment.select_and_align(rows, tables, OPTIONS["selection"], OPTIONS["registration"])
        self.reference = str(self.selection["frame"][self.selection["reference"]][0])

    @property
    def used(self) -> list:
        return [row for row in self.selection if row["used"]]

    def stack(self, method: str) -> products.Image:
        inputs = [(self.frames[r["frame"]], quality.matrix_of(r), r["flux_scale"], r["weight"]) for r in self.used]
        header = products.read_header(self.frames[self.reference])
        return stacking.stack(inputs, header, OPTIONS["stack"] | {"method": method}, 2)

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


def night(seed, frames=4, **effects):
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


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Nights of bright stars under changing seeing (2.5 to 3.3 px) and transparency."""
    folder = tmp_path_factory.mktemp("nights")
    stars = {"magnitudes": [10.5, 15.0], "density": 250.0}
    effects = {
        "stars": stars,
        "cluster": {"enabled": False},
        "seeing": {"fwhm": [2.5, 3.3]},
        "zero_point_drift": {"enabled": True, "stddev": 0.05},
    }
    return [Stacked(night(seed, 8, **effects), folder / str(seed)) for seed in SEEDS]


def enclosed(psf, radius):
    """Share of a Moffat star's flux within a radius (Moffat 1969, integrated)."""
    return 1 - (1 + (radius / psf.alpha) ** 2) ** (1 - psf.beta)


def isolated(table, shape, margin=30, distance=25):
    """Stars away from the edges and from each other."""
    x, y = np.asarray(table["x"]), np.asarray(table["y"])
    separation = np.hypot(x[:, None] - x, y[:, None] - y) + np.diag(np.full(len(x), np.inf))
    inside = (x > margin) & (x < shape[1] - margin) & (y > margin) & (y < shape[0] - margin)
    return table[inside & (separation.min(axis=1) > distance)]


@pytest.mark.parametrize("method", ["mean", "kappa_sigma", "median", "sum"])
def test_fluxes_of_bright_stars(nights, method):
    """Bright stars in the stack have the reference frame's true flux (the sum: that of all frames) within 5 mmag."""
    offsets, radius = [], 10.0
    for stacked in nights:
        image = stacked.stack(method)
        truth = {str(row["frame"]): stacked.truth[row["frame"]] for row in stacked.used}
        factor = sum(1 / row["flux_scale"] for row in stacked.used) if method == "sum" else 1.0
        share = np.mean([enclosed(frame.conditions.psf, radius) for frame in truth.values()])
        stars = isolated(truth[stacked.reference].sources, image.shape)
        y, x = np.mgrid[: image.shape[0], : image.shape[1]]
        for star in stars[(stars["flux"] > 1e5) & (stars["flux"] < 6e5)]:
            aperture = np.hypot(x - star["x"], y - star["y"]) < radius
            if not image.mask[aperture].any():
                offsets.append(-2.5 * np.log10(image.data[aperture].sum() / factor / star["flux"] / share))
    offsets = np.array(offsets) * 1000
    print(f"{method}: {len(offsets)} stars, mean {offsets.mean():.2f} mmag, stddev {offsets.std():.2f} mmag")
    assert len(offsets) > 20
    assert abs(offsets.mean()) < 5
    assert np.sqrt((offsets**2).mean()) < 5


@pytest.mark.parametrize("method", ["mean", "kappa_sigma", "median"])
def test_stated_noise(nights, method):
    """Blank pixels scatter by UNCERT, and boxes of them by UNCERT and NOISECOR, within 10 %."""
    of_pixels, of_boxes = [], []
    for stacked in nights:
        image = stacked.stack(method)
        table = stacked.truth[stacked.reference].sources
        y, x = np.mgrid[: image.shape[0], : image.shape[1]]
        blank = np.isfinite(image.data)
        blank[:30], blank[-30:], blank[:, :30], blank[:, -30:] = False, False, False, False
        for star in table:
            blank &= np.hypot(x - star["x"], y - star["y"]) > 25
        side = image.header["NOISEBOX"]
        z = np.where(blank, image.data / image.uncertainty, np.nan)
        of_pixels.append(np.nanstd(z))
        ny, nx = (n // side for n in z.shape)
        boxes = z[: ny * side, : nx * side].reshape(ny, side, nx, side).sum(axis=(1, 3)) / side
        of_boxes.append(np.nanstd(boxes) / image.header["NOISECOR"])
    print(f"{method}: scatter/stated {np.mean(of_pixels):.3f} of pixels, {np.mean(of_boxes):.3f} of boxes")
    assert np.mean(of_pixels) == pytest.approx(1, abs=0.1)
    assert np.mean(of_boxes) == pytest.approx(1, abs=0.1)
