"""The engine swarp, with the real program, against our own stack of the same frames."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits
from skies import distorted_plate

from nightflow import plates, products, skygrid, stacking, swarp
from nightflow.products import Image, MaskBit, RejectedFrame
from nightflow.steps import UserError

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))["stack"]
OPTIONS |= {"method": "mean", "kernel": "lanczos3", "rejection": "none"}
SHAPE = (260, 300)
SIGMA = 10.0
# pixel scale, angle (degrees), offset of the pointing (arcsec), transparency
FRAMES = [
    (1.0, 0.0, (0.0, 0.0), 1.0),
    (1.0, 180.5, (8.3, -5.2), 0.8),
    (1.1, 3.0, (-6.1, 9.7), 1.0),
    (1.0, -1.0, (3.9, 4.4), 0.9),
    (1.0, 90.3, (-2.2, -7.1), 1.0),
    (1.0, 0.6, (5.6, 2.9), 0.7),
    (1.0, 181.2, (-9.4, 3.1), 1.0),
    (1.1, -91.0, (1.7, -3.6), 0.9),
    (1.0, 1.4, (-4.8, 6.3), 1.0),
    (1.0, 178.8, (7.2, -8.8), 1.0),
]
RNG = np.random.default_rng(8)
STARS = RNG.uniform(-90, 90, (2, 30)) / 3600
FLUXES = 10 ** RNG.uniform(4.8, 6.2, 30)


@pytest.fixture(scope="module")
def program():
    if shutil.which("SWarp") is None:
        pytest.skip("SWarp is not installed (make engines)")


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Distorted frames with noise, a few bad pixels and a saturated star, as inputs of a stack; and its header."""
    folder, made, solved = tmp_path_factory.mktemp("frames"), [], {}
    ra, dec = plates.deproject(*STARS, 40.0, 30.0)
    for k, (scale, angle, offset, through) in enumerate(FRAMES):
        centre = (float(c) for c in plates.deproject(*np.array(offset) / 3600, 40.0, 30.0))
        plate = distorted_plate(SHAPE, (scale, scale), angle, False, 0.5, *centre)
        data, (yy, xx) = np.zeros(SHAPE), np.mgrid[: SHAPE[0], : SHAPE[1]]
        sigma = 1.7 / scale
        for x, y, flux in zip(*plate.to_pixel(ra, dec), FLUXES * through, strict=True):
            data += flux / (2 * np.pi * sigma**2) * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * sigma**2))
        uncertainty = np.sqrt(data + SIGMA**2)
        data += RNG.normal(0, uncertainty)
        mask = np.zeros(SHAPE, np.uint16)
        mask[5 + 20 * k, 7] = MaskBit.BAD
        data[5 + 20 * k, 7] = 1e5
        mask[data > 4e4] |= np.uint16(MaskBit.SATURATED)
        header = fits.Header({"BUNIT": "electron", "EXPTIME": 60.0, "SKYNOISE": SIGMA, "FWHM": 4.0 / scale})
        header["DATE-OBS"] = f"2024-03-01T22:0{k}:00"
        path = folder / f"f{k}.fits"
        products.write_image(path, Image(data.astype(np.float32), mask, uncertainty.astype(np.float32), header))
        from astropy.wcs import WCS

        solved[path] = skygrid.SolvedFrame(WCS(plates.tpv_header(plate, SHAPE)), SHAPE)
        made.append((path, through))
    grid = skygrid.choose(
        {p.stem: s for p, s in solved.items()},
        {"center": None, "pixel_scale": 1.0, "position_angle": 0.0, "size": None, "max_size": 1000},
    )
    inputs = [
        stacking.StackInput(path, skygrid.transform(solved[path], grid), 1 / through, weight)
        for (path, through), weight in zip(made, (1.0, 0.7, 0.8, 0.9, 1.0, 0.6, 1.0, 0.8, 1.0, 1.0), strict=True)
    ]
    header = products.read_header(made[0][0])
    header.update(grid.header())
    return inputs, header


def photometry(image, header, radius=10.0):
    """Fluxes of the isolated stars that every frame shows whole."""
    ra, dec = plates.deproject(*STARS, 40.0, 30.0)
    x, y = skygrid.read_grid(header).to_pixel(ra, dec)
    yy, xx = np.mgrid[: image.shape[0], : image.shape[1]]
    fluxes = {}
    for k in range(len(x)):
        apart = np.hypot(x - x[k], y - y[k])
        near = np.hypot(xx - x[k], yy - y[k]) < radius
        if np.sort(apart)[1] > 2 * radius and (image.extensions["COVERAGE"][near] == len(FRAMES)).all():
            fluxes[k] = image.data[near].astype(float).sum()
    return fluxes


@pytest.mark.parametrize("method", ["mean", "median", "sum"])
def test_swarp_and_our_own_stack_agree(program, frames, method):
    """Same frames, same kernel: median difference below 0.2 sigma, fluxes within 2 mmag, and both right."""
    inputs, header = frames
    options = OPTIONS | {"method": method}
    ours, theirs = stacking.stack(inputs, header, options, 2), swarp.stack(inputs, header, options, 2, 120)
    apart = (theirs.data - ours.data) / ours.uncertainty
    known = np.isfinite(apart)
    flux, other = photometry(ours, header), photometry(theirs, header)
    both = sorted(set(flux) & set(other))
    magnitudes = np.array([-2500 * np.log10(other[k] / flux[k]) for k in both])
    print(
        f"{method}: median difference {np.median(apart[known]):+.4f} sigma, of its size "
        f"{np.median(np.abs(apart[known])):.4f}; {len(both)} stars within {np.abs(magnitudes).max():.2f} mmag"
    )
    assert known.mean() > 0.6 and len(both) > 6
    assert np.median(np.abs(apart[known])) < 0.2
    assert np.abs(magnitudes).max() < 2
    if method == "mean":
        truth = np.array([-2500 * np.log10(flux[k] / FLUXES[k]) for k in both])
        assert np.abs(truth).max() < 5


def test_the_product_is_whole(program, frames):
    """Planes fit together: NaN, NO_DATA, no coverage and no sigma in the same places; flags and header as in ours."""
    inputs, header = frames
    image = swarp.stack(inputs, header, OPTIONS, 1, 120)
    empty = ~np.isfinite(image.data)
    coverage = image.extensions["COVERAGE"]
    np.testing.assert_array_equal(empty, coverage == 0)
    np.testing.assert_array_equal(empty, ~np.isfinite(image.uncertainty))
    np.testing.assert_array_equal(empty, (image.mask & MaskBit.NO_DATA) > 0)
    assert (image.mask & MaskBit.SATURATED).any() and coverage.max() == len(FRAMES)
    assert image.extensions["WEIGHT"].max() == pytest.approx(8.8, rel=1e-5)
    assert image.header["STACKENG"] == "SWarp" and image.header["NCOMBINE"] == len(FRAMES)
    x, y = skygrid.read_grid(header).to_pixel(*plates.deproject(*STARS, 40.0, 30.0))
    yy, xx = np.mgrid[: image.shape[0], : image.shape[1]]
    blank = (coverage == len(FRAMES)) & (np.hypot(xx[..., None] - x, yy[..., None] - y).min(axis=-1) > 9)
    scatter = np.std(image.data[blank] / image.uncertainty[blank])
    print(f"scatter of the sky {scatter:.3f} of the stated sigma")
    assert scatter == pytest.approx(1.0, abs=0.1)


def test_what_swarp_cannot_do_is_said(program, frames):
    inputs, header = frames
    with pytest.raises(UserError, match="stack.kernel is 'cubic'; with SWarp it is one of nearest, bilinear, lanczos3"):
        swarp.stack(inputs, header, OPTIONS | {"kernel": "cubic"}, 1, 60)
    with pytest.raises(RejectedFrame, match="SWarp did not end within 0.001 s"):
        swarp.stack(inputs, header, OPTIONS, 1, 0.001)


def test_a_missing_program_names_its_package(frames, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="SWarp is not installed; on Debian it is in the package swarp"):
        swarp.stack(*frames, OPTIONS, 1, 60)
