"""Drizzled stacks of dithered, undersampled frames with known content."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from test_stacking import OPTIONS as STACK
from test_stacking import dithers, reference_header, shift, stars, write

from nightflow import drizzling, products
from nightflow.products import MaskBit
from nightflow.steps import UserError

OPTIONS = STACK | {"method": "mean", "rejection": "none", "match_sky": "none", "pixfrac": 0.8, "drizzle_scale": 0.5}
SHAPE = (90, 100)
PLACES = [(20.3, 25.8), (70.0, 24.5), (24.9, 66.2), (74.2, 64.7)]
FLUXES = np.array([2e5, 1e5, 5e4, 1.5e5])
SIGMA = 10.0


def frames(folder, offsets, fwhm=1.3, changes=None, seed=3, scales=None):
    """Dithered frames of stars that are narrower than the pixels allow."""
    rng, inputs = np.random.default_rng(seed), []
    scales = np.ones(len(offsets)) if scales is None else scales
    for k, offset in enumerate(offsets):
        image = stars(SHAPE, PLACES, FLUXES / scales[k], fwhm, offset)
        image += rng.normal(0, 1, SHAPE) * np.sqrt(image + SIGMA**2)
        mask = np.zeros(SHAPE, np.uint16)
        if changes and k in changes:
            changes[k](image, mask)
        path = write(folder / f"f{k:02d}.fits", image, mask=mask, FWHM=fwhm)
        inputs.append((path, shift(*offset), scales[k], 1.0))
    return inputs


def drizzle(inputs, threads=1, **options):
    from nightflow.stacking import StackInput

    return drizzling.stack(
        [StackInput(*entry) for entry in inputs], reference_header(SHAPE), OPTIONS | options, threads
    )


def fluxes(image, scale, radius=5.0):
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    places = [((x0 + 0.5) / scale - 0.5, (y0 + 0.5) / scale - 0.5) for x0, y0 in PLACES]
    found = []
    for x0, y0 in places:
        near = np.hypot(x - x0, y - y0) < radius / scale
        light = image.data[near].astype(float)
        found.append(
            (light.sum(), (light * x[near]).sum() / light.sum() - x0, (light * y[near]).sum() / light.sum() - y0)
        )
    return np.array(found)


@pytest.mark.parametrize("scale, pixfrac", [(0.5, 0.8), (0.7, 1.0), (1.0, 0.6)])
def test_fluxes_and_places(tmp_path, scale, pixfrac):
    """Fluxes within 5 mmag of truth, frames of unequal transparency included, and places within 0.05 input pixels."""
    inputs = frames(tmp_path, dithers(16, 2.0, seed=4), scales=np.tile((1.0, 1.25), 8))
    image = drizzle(inputs, drizzle_scale=scale, pixfrac=pixfrac)
    assert image.shape == tuple(int(np.ceil(n / scale)) for n in SHAPE)
    found = fluxes(image, scale)
    magnitudes = -2500 * np.log10(found[:, 0] / FLUXES)
    print(np.round(magnitudes, 1), np.round(found[:, 1:] * scale, 3))
    assert np.abs(magnitudes[[0, 1, 3]]).max() < 5
    assert np.abs(found[:, 1:] * scale).max() < 0.05
    assert image.extensions["COVERAGE"].max() == 16 and image.header["STACKKRN"] == "drizzle"


def test_tiles_are_parts_of_the_whole(tmp_path, monkeypatch):
    """Tiles of any size give the same planes, also of distorted and turned frames, and whatever the threads."""
    inputs = frames(tmp_path, dithers(5, 2.0, seed=4))
    inputs[1] = (inputs[1][0], lambda x, y: (x + 2e-4 * (x - 50) ** 2, y * 1.01 - 0.5), 1.0, 1.0)
    turned = np.array([[0.8, -0.6, 38.0], [0.6, 0.8, -20.0], [0, 0, 1]])
    inputs[2] = (inputs[2][0], turned, 1.0, 1.0)
    how = {"rejection": "noise", "match_sky": "constant"}
    whole = drizzle(inputs, **how)
    for side, threads in ((37, 2), (70, 1)):
        monkeypatch.setattr(drizzling, "_TILE", side)
        parts = drizzle(inputs, threads, **how)
        np.testing.assert_allclose(parts.data, whole.data, rtol=1e-4, atol=1e-3 * SIGMA)
        np.testing.assert_allclose(parts.uncertainty, whole.uncertainty, rtol=1e-4)
        np.testing.assert_allclose(parts.extensions["WEIGHT"], whole.extensions["WEIGHT"], rtol=1e-5)
        # a drop that touches a pixel by a rounding error counts as one more frame
        assert (parts.extensions["COVERAGE"] != whole.extensions["COVERAGE"]).mean() < 0.002
        np.testing.assert_array_equal(parts.mask, whole.mask)


def test_frames_may_end_anywhere_near_a_tile(tmp_path, monkeypatch):
    """A window of a single column holds nothing that reaches the tile, and does no harm."""
    monkeypatch.setattr(drizzling, "_TILE", 64)
    path = frames(tmp_path, [(0.0, 0.0)])[0][0]
    for cut in range(10, 22):
        image = drizzle([(path, shift(-cut, 0), 1.0, 1.0)], pixfrac=1.0)
        assert np.isfinite(image.data[:, : 200 - 2 * cut]).all() and np.isnan(image.data[:, 200 - 2 * cut :]).all()


def test_narrow_stars_stay_narrow(tmp_path):
    """Finer pixels and small drops show undersampled stars narrower than interpolation does."""
    from nightflow import stacking

    inputs = frames(tmp_path, dithers(24, 2.0, seed=4), fwhm=1.0)
    fine = drizzle(inputs, drizzle_scale=0.5, pixfrac=0.5)
    plain = stacking.stack(inputs, reference_header(SHAPE), OPTIONS | {"kernel": "bilinear"})

    def width(image, scale):
        y, x = np.mgrid[: image.shape[0], : image.shape[1]]
        x0, y0 = ((c + 0.5) / scale - 0.5 for c in PLACES[0])
        near = np.hypot(x - x0, y - y0) < 4 / scale
        light = image.data[near].astype(float)
        return scale * np.sqrt((light * ((x[near] - x0) ** 2 + (y[near] - y0) ** 2)).sum() / light.sum() / 2)

    print(f"drizzle {width(fine, 0.5):.3f} px, bilinear {width(plain, 1.0):.3f} px")
    assert width(fine, 0.5) < 0.9 * width(plain, 1.0)


def test_noise_is_as_stated(tmp_path):
    """Pixels scatter by UNCERT and large areas by UNCERT times NOISECOR, within 10 %."""
    inputs = frames(tmp_path, dithers(20, 3.0, seed=5))
    image = drizzle(inputs)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    away = np.min([np.hypot(x - 2 * x0 - 0.5, y - 2 * y0 - 0.5) for x0, y0 in PLACES], axis=0) > 14
    inner = away & (image.extensions["COVERAGE"] > 10)
    inner[:12], inner[-12:], inner[:, :12], inner[:, -12:] = False, False, False, False
    ratio = (image.data / image.uncertainty)[inner].std()
    side = 20
    boxes = [
        image.data[j : j + side, i : i + side].sum()
        / np.sqrt((image.uncertainty[j : j + side, i : i + side] ** 2).sum())
        for j in range(12, image.shape[0] - side - 12, side)
        for i in range(12, image.shape[1] - side - 12, side)
        if inner[j : j + side, i : i + side].all()
    ]
    print(f"pixels {ratio:.3f}, {len(boxes)} boxes {np.std(boxes):.3f}, stated {image.header['NOISECOR']}")
    assert ratio == pytest.approx(1.0, abs=0.1)
    assert np.std(boxes) == pytest.approx(image.header["NOISECOR"], rel=0.35)  # few boxes: 1 / sqrt(2 n) is 0.13


def test_a_trail_and_a_cosmic_ray_leave_nothing(tmp_path):
    """What one frame alone shows is found against the ordinary stack; without a rejection it would stay."""

    def spoil(image, mask):
        image[45, :] += 400
        image[60, 50] += 5000

    inputs = frames(tmp_path, dithers(10, 2.0, seed=6), changes={3: spoil})
    clean = drizzle(frames(tmp_path / "clean", dithers(10, 2.0, seed=6)))
    left = {}
    for rejection in ("none", "noise"):
        image = drizzle(inputs, rejection=rejection)
        difference = (image.data - clean.data) / clean.uncertainty
        left[rejection] = np.nanmax(np.abs(difference[20:-20, 20:-20]))
    print(left)
    assert left["none"] > 100 and left["noise"] < 2.5
    assert np.abs(2500 * np.log10(fluxes(image, 0.5)[:, 0] / fluxes(clean, 0.5)[:, 0])).max() < 5


def test_flags_and_gaps(tmp_path):
    """Bad pixels give no light; saturated ones keep theirs and flag what they touch; empty pixels are NO_DATA."""

    def flag(image, mask):
        mask[10:14, 10:14] = MaskBit.BAD
        mask[40:42, 50:52] = MaskBit.SATURATED

    inputs = frames(tmp_path, [(0.0, 0.0)], changes={0: flag})
    image = drizzle(inputs, drizzle_scale=0.5, pixfrac=1.0)
    assert (image.mask[20:28, 20:28] == MaskBit.NO_DATA).all() and np.isnan(image.data[20:28, 20:28]).all()
    assert (image.mask[80:84, 100:104] & MaskBit.SATURATED).all() and np.isfinite(image.data[80:84, 100:104]).all()
    assert (image.extensions["COVERAGE"][20:28, 20:28] == 0).all() and image.mask[50, 50] == 0
    products.write_image(tmp_path / "stack.fits", image)
    again = products.read_header(tmp_path / "stack.fits")
    assert {"NOISECOR", "PIXFRAC", "DRIZSCAL", "STACKKRN"} <= set(again)


def test_the_finer_header_points_to_the_same_sky():
    header = fits.Header({"NAXIS1": 100, "NAXIS2": 80, "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"})
    header.update({"CRVAL1": 10.0, "CRVAL2": 40.0, "CRPIX1": 50.5, "CRPIX2": 40.5, "A_ORDER": 2, "B_ORDER": 2})
    header.update({"CD1_1": -3e-4, "CD1_2": 1e-5, "CD2_1": 1e-5, "CD2_2": 3e-4, "A_2_0": 1e-4, "B_1_1": -2e-4})
    fine = drizzling.finer(header, 0.4)
    assert (fine["NAXIS1"], fine["NAXIS2"]) == (250, 200)
    x, y = np.array([0.0, 99.0, 30.0]), np.array([0.0, 10.0, 79.0])
    first = WCS(header).all_pix2world(x, y, 0)
    second = WCS(fine).all_pix2world((x + 0.5) / 0.4 - 0.5, (y + 0.5) / 0.4 - 0.5, 0)
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-9)


@pytest.mark.parametrize("option, value", [("method", "median"), ("match_sky", "local")])
def test_what_drizzle_cannot_do_is_said(tmp_path, option, value):
    with pytest.raises(UserError, match=f"stack.{option} is '{value}'; with drizzle it is one of"):
        drizzle([], **{option: value})


def test_a_distorted_frame_keeps_its_flux(tmp_path):
    """The flux of a star does not depend on how large its pixels are on the sky."""

    def bent(x, y):
        return x + 2e-4 * (x - 50) ** 2, y * 1.1 - 3.0

    (path, _, _, _) = frames(tmp_path, [(0.0, 0.0)], fwhm=2.5)[0]
    image = drizzle([(path, bent, 1.0, 1.0)], drizzle_scale=1.0, pixfrac=1.0)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    for (x0, y0), flux in list(zip(PLACES, FLUXES, strict=True))[:2]:
        x1, y1 = bent(x0, y0)
        assert np.nansum(image.data[np.hypot(x - x1, y - y1) < 8]) == pytest.approx(flux, rel=5e-3)
