"""Simulated nights from raw frames to the stack: transforms, star fluxes and stated noise against truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from nightflow import (
    alignment,
    cosmicrays,
    measurement,
    photometry,
    products,
    quality,
    simulate,
    sources,
    stackheader,
    stacking,
    trails,
)
from nightflow.products import MaskBit
from simulated import OPTIONS, SEEDS, Reduction, one_target

pytestmark = pytest.mark.accuracy

RADIUS = 15.0  # px; holds all but 0.4 mmag of a star of FWHM 3 px
BRIGHT = 1e5  # electron
EFFECTS = {"rotation": {"stddev": 0.3}, "meridian_flip": True, "clouds": {"fraction": 0.3, "depth": [0.05, 0.3]}}


@dataclass
class Stacked:
    """A night's stack with the truth of its frames."""

    inputs: list
    header: object
    selection: object
    frames: dict
    reference: simulate.Frame

    def __post_init__(self):
        self.image = self.stack()

    def stack(self, **options) -> products.Image:
        return stacking.stack(self.inputs, self.header, OPTIONS["stack"] | options)

    @property
    def throughput(self) -> float:
        """Of all frames together, in units of the reference's: a sum's scale."""
        return sum(1 / flux_scale for _, _, flux_scale, _ in self.inputs)


def stacked(folder, seed: int) -> Stacked:
    """A night of six lights, reduced and stacked as the workflow does it."""
    folder.mkdir()
    effects = {**EFFECTS, "stars": {"density": 400.0, "magnitudes": [13.2, 18.0], "slope": 0.15}}
    reduction = Reduction(simulate.Night(one_target(6, seed=seed, shape=[420, 440], effects=effects)), folder)
    frames, tables, rows = {}, {}, []
    for frame, image in reduction.lights():
        image.flag(cosmicrays.find_cosmic_rays(image, OPTIONS["cosmic_rays"]), MaskBit.COSMIC_RAY)
        image.flag(trails.find_trails(image, OPTIONS["trails"]), MaskBit.TRAIL)
        image.flag(sources.source_mask(image.data, image.mask, OPTIONS["sources"]), MaskBit.SOURCE)
        subtracted, _ = measurement.subtract_sky(image, OPTIONS["sky"])
        name = frame.exposure.name
        stars = measurement.measure_sources(subtracted, OPTIONS["photometry"])
        frames[name], tables[name] = frame, alignment.Frame(stars, subtracted.header)
        rows.append(quality.measures(name, subtracted.header, subtracted.header["NSTARS"]))
        products.write_image(folder / f"{name}_subtracted.fits", subtracted)
    selection, _ = alignment.select_and_align(rows, tables, OPTIONS["selection"], OPTIONS["registration"])
    used = selection[selection["used"]]
    inputs = [
        (folder / f"{row['frame']}_subtracted.fits", quality.matrix_of(row), row["flux_scale"], row["weight"])
        for row in used
    ]
    reference = str(used["frame"][used["reference"]][0])
    header = products.read_header(folder / f"{reference}_subtracted.fits")
    return Stacked(inputs, header, used, frames, frames[reference])


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Stacks of all seeds."""
    folder = tmp_path_factory.mktemp("nights")
    return [stacked(folder / str(seed), seed) for seed in SEEDS]


def true_positions(frame, reference, x, y):
    """Where pixels of a frame lie on the reference, by their true WCS."""
    return reference.wcs.all_world2pix(*frame.wcs.all_pix2world(x, y, 0), 0)


def test_transforms(nights, capsys):
    """Each frame's transform is within 0.03 px rms of truth over the part that it shares with the reference."""
    errors = []
    for night in nights:
        ny, nx = night.image.shape
        y, x = (c.ravel().astype(float) for c in np.meshgrid(np.arange(0, ny, 20), np.arange(0, nx, 20)))
        for row in night.selection[~night.selection["reference"]]:
            true_x, true_y = true_positions(night.frames[row["frame"]], night.reference, x, y)
            found = quality.matrix_of(row) @ np.array([x, y, np.ones_like(x)])
            shared = (true_x > 0) & (true_y > 0) & (true_x < nx - 1) & (true_y < ny - 1)
            distance2 = (found[0] - true_x) ** 2 + (found[1] - true_y) ** 2
            errors.append(np.sqrt(distance2[shared].mean()))
    flipped = sum(f.conditions.flipped for night in nights for f in night.frames.values())
    with capsys.disabled():
        print(f"\n  {len(errors)} transforms, {flipped} frames flipped:", end=" ")
        print(f"rms error {np.sqrt(np.mean(np.square(errors))):.4f} px, worst {max(errors):.4f} px")
    assert max(errors) < 0.03


def distances(shape, x, y):
    """Distance of each pixel from each position, one plane at a time."""
    rows, columns = np.indices(shape)
    return (np.hypot(columns - a, rows - b) for a, b in zip(x, y, strict=True))


def sums(image, x, y):
    """Sums over discs about the positions."""
    return np.array([image[distance < RADIUS].sum(dtype=float) for distance in distances(image.shape, x, y)])


def bright_stars(night):
    """Positions of the stars above `BRIGHT` whose disc has no flagged pixel."""
    frame, image = night.reference, night.image
    ny, nx = image.shape
    x, y = np.asarray(frame.sources["x"]), np.asarray(frame.sources["y"])
    bright = (frame.sources["flux"] > BRIGHT) & (frame.sources["type"] == 0)
    bright &= (x > 2 * RADIUS) & (y > 2 * RADIUS) & (x < nx - 2 * RADIUS) & (y < ny - 2 * RADIUS)
    x, y = x[bright], y[bright]
    clean = sums(image.mask != 0, x, y) == 0
    return x[clean], y[clean]


def true_light(night):
    """The stack's sources without noise: the reference's, in the mixture of the frames' point-spread functions."""
    weights = np.asarray(night.selection["weight"]) / np.sum(night.selection["weight"])
    psfs = [night.frames[name].conditions.psf for name in night.selection["frame"]]
    planes = (simulate.sky.render_sources(night.image.shape, night.reference.sources, psf) for psf in psfs)
    return sum(weight * plane.astype(float) for weight, plane in zip(weights, planes, strict=True))


# every rejection on noiseless frames: tests/unit/test_stacking.py
METHODS = [("mean", "noise"), ("sum", "noise"), ("median", "noise"), ("auto_adaptive", "noise")]


def flux_errors(night, image, light):
    """Errors of bright stars in mmag, against `light`, and the errors stated for them."""
    x, y = bright_stars(night)
    found = sums(image.data, x, y)
    variance = sums(image.uncertainty.astype(float) ** 2, x, y)
    stated = 1085.7 * np.sqrt(variance) * image.header["NOISECOR"] / found
    return -2500 * np.log10(found / sums(light, x, y)), stated


@pytest.mark.parametrize(("method", "reject"), METHODS)
def test_star_fluxes(nights, method, reject, capsys):
    """Bright stars on the stack have the flux that the reference frame would show without noise, to 5 mmag."""
    errors, stated = [], []
    for night in nights:
        scale = night.throughput if method == "sum" else 1.0
        found = flux_errors(night, night.stack(method=method, rejection=reject), scale * true_light(night))
        errors.append(found[0])
        stated.append(found[1])
    each = np.array([np.median(e) for e in errors])
    errors, stated = np.concatenate(errors), np.concatenate(stated)
    with capsys.disabled():
        print(f"\n  {method}, {reject}: {len(errors)} stars, median of each night {each.round(2)} mmag,", end=" ")
        print(f"rms {errors.std():.2f}, worst {abs(errors).max():.2f};", end=" ")
        print(f"stated {np.sqrt((stated**2).mean()):.2f}", end="")
    assert abs(each).max() < 5 and np.sqrt((errors**2).mean()) < 5


def box_sums(plane, box: int):
    """Sums over squares of `box` pixels."""
    ny, nx = (n // box for n in plane.shape)
    return plane[: ny * box, : nx * box].astype(float).reshape(ny, box, nx, box).sum(axis=(1, 3))


@pytest.mark.parametrize("method", ["mean", "median"])
def test_stated_noise(nights, method, capsys):
    """Boxes of blank sky scatter by UNCERT times NOISECOR to 10 %, and pixels by UNCERT."""
    of_boxes, of_pixels = [], []
    for night in nights:
        image = night.stack(method=method)
        blank = (image.mask == 0) & (true_light(night) < 0.2 * image.uncertainty)
        box = image.header["NOISEBOX"]
        sigma = np.sqrt(box_sums(image.uncertainty.astype(float) ** 2, box)) * image.header["NOISECOR"]
        of_boxes.append((box_sums(image.data, box) / sigma)[box_sums(blank, box) == box**2].std())
        of_pixels.append((image.data / image.uncertainty)[blank].std(dtype=float))
    with capsys.disabled():
        for name, ratios in (("boxes", of_boxes), ("pixels", of_pixels)):
            print(f"\n  {method}: scatter of {name} over the stated: {np.mean(ratios):.3f}", end=" ")
            print(f"({min(ratios):.3f} to {max(ratios):.3f})", end="")
    assert all(0.9 < ratio < 1.1 for ratio in of_boxes + of_pixels)


def test_limiting_magnitude(nights, capsys):
    """MAGLIM is where a star has five times the scatter of blank apertures of the same size, to 0.1 mag."""
    differences = []
    for night in nights:
        image = night.stack()
        image.header["MAGZP"] = 25.0
        stackheader.add_measures(image, OPTIONS["photometry"])
        radius = image.header["APRADIUS"]
        blank = (image.mask == 0) & (true_light(night) < 0.2 * image.uncertainty)
        step = int(2 * radius + 2)
        y, x = (c.ravel() for c in np.mgrid[step : image.shape[0] - step : step, step : image.shape[1] - step : step])
        occupied = products.Image((~blank).astype(np.float32), 0 * image.mask, image.uncertainty)
        empty = photometry.aperture_fluxes(occupied, x, y, [radius])[0][:, 0] == 0
        fluxes = photometry.aperture_fluxes(image, x[empty], y[empty], [radius])[0]
        five = 5 * np.std(fluxes) * image.header["APCOR"] / image.header["EXPTIME"]
        differences.append(image.header["MAGLIM"] - (25.0 - 2.5 * np.log10(five)))
        fwhm = np.median([frame.conditions.psf.fwhm for frame in night.frames.values()])
        assert image.header["FWHM"] == pytest.approx(fwhm, rel=0.1)
    with capsys.disabled():
        print(
            f"\n  limiting magnitude, stated - found: {np.round(differences, 3)} mag ({len(fluxes)} apertures)", end=""
        )
    assert np.abs(np.mean(differences)) < 0.1
