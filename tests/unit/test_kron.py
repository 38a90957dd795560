"""Kron photometry is that of photutils, and areas of pixels within ellipses are right."""

from __future__ import annotations

import numpy as np
import pytest

from nightflow import catalogues, deblending, kron

THRESHOLD, NPIXELS = 8.0, 5


def crowd(seed, number=150, shape=(160, 200)):
    """Stars and galaxies of all fluxes, some at the edges, unknown pixels among them, and the uncertainty."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = rng.normal(0, 1, shape)
    for centre_x, centre_y, flux, a, ratio, theta in np.column_stack(
        [
            rng.uniform(0, shape[1], number),
            rng.uniform(0, shape[0], number),
            10 ** rng.uniform(1.5, 3.5, number),
            rng.uniform(1, 6, number),
            rng.uniform(0.15, 1, number),
            rng.uniform(0, np.pi, number),
        ]
    ):
        dx, dy = x - centre_x, y - centre_y
        u, v = dx * np.cos(theta) + dy * np.sin(theta), dy * np.cos(theta) - dx * np.sin(theta)
        image += flux * np.exp(-0.5 * (u**2 + (v / ratio) ** 2) / a**2) / a**2
    bad = rng.random(shape) < 0.01
    noise = rng.uniform(0.8, 1.2, shape)
    return (np.where(bad, 0, plane).astype(np.float32) for plane in (image, noise)), bad


def segmented(seed, **options):
    (data, noise), bad = crowd(seed, **options)
    labels = catalogues._segments(~bad & (data > THRESHOLD), NPIXELS)
    return data, noise, bad, deblending.deblend(data, labels, NPIXELS, 32, 0.005)


@pytest.mark.parametrize("factor", [2.5, 1.0, 6.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_radii_and_fluxes_are_those_of_photutils(seed, factor):
    from photutils.segmentation import SegmentationImage, SourceCatalog

    data, noise, bad, labels = segmented(seed)
    expected = SourceCatalog(
        data, SegmentationImage(labels), convolved_data=data, error=noise, mask=bad, kron_params=(factor, 1.4, 0.0)
    )
    found = kron.measure(data, noise, data, labels, factor)
    shapes = kron.moments(data, labels)
    for name, own in (("semimajor_axis", shapes.a), ("semiminor_axis", shapes.b), ("x_centroid", shapes.x)):
        np.testing.assert_allclose(own, getattr(getattr(expected, name), "value", getattr(expected, name)), rtol=1e-10)
    assert len(shapes.x) > 60 and np.isnan(expected.kron_radius.value).sum() < 20
    np.testing.assert_allclose(found["kron_radius"], expected.kron_radius.value, rtol=1e-10)
    for name in ("kron_flux", "kron_flux_err"):
        np.testing.assert_allclose(found[name], getattr(expected, name), rtol=1e-10, atol=1e-9)


def test_segments_are_those_of_photutils():
    from photutils.segmentation import SegmentationImage, SourceCatalog, detect_sources

    (data, _), bad = crowd(5)
    labels = catalogues._segments(~bad & (data > THRESHOLD), NPIXELS)
    np.testing.assert_array_equal(labels, detect_sources(data, THRESHOLD, n_pixels=NPIXELS, mask=bad).data)
    expected = SourceCatalog(data, SegmentationImage(labels), mask=bad)
    y, x, flux, area = catalogues._brightest_pixels(data, labels)
    np.testing.assert_array_equal(x, expected.max_value_xindex)
    np.testing.assert_array_equal(y, expected.max_value_yindex)
    np.testing.assert_allclose(flux, expected.segment_flux, rtol=1e-5)
    np.testing.assert_array_equal(area, expected.area.value)


def test_of_equal_pixels_the_first_is_the_brightest():
    labels = np.zeros((5, 5), np.int32)
    labels[1:4, 1:4] = 1
    y, x, flux, area = catalogues._brightest_pixels(np.ones((5, 5), np.float32), labels)
    assert (y, x, flux, area) == (1, 1, 9, 9)


@pytest.mark.parametrize("theta", [0.0, 0.4, 2.0])
@pytest.mark.parametrize("a, b", [(0.3, 0.3), (2.0, 0.5), (30.0, 0.29), (40.0, 25.0)])
def test_pixels_within_an_ellipse_add_up_to_its_area(a, b, theta):
    ellipse = kron.Ellipses(*(np.array([value]) for value in (60.3, 59.8, a, b, theta)))
    y, x = np.mgrid[:120, :120].reshape(2, -1)
    which = np.zeros(x.size, int)
    share = kron._overlap(ellipse, np.ones(1), which, *ellipse.turned(which, x - 60.3, y - 59.8))
    assert share.sum() == pytest.approx(np.pi * a * b, rel=1e-12) and share.min() > -1e-12 and share.max() < 1 + 1e-12


def test_a_straight_row_of_pixels_has_an_ellipse():
    """Along a diagonal, where rounding tells whether the moments' determinant is positive."""
    labels = np.zeros((20, 20), np.int32)
    labels[np.arange(5, 12), np.arange(5, 12)] = 1
    labels[15, 2:9] = 2
    shapes = kron.moments(np.where(labels, np.float32(3), 0), labels)
    np.testing.assert_allclose(shapes.theta, [np.pi / 4, 0], atol=1e-12)
    np.testing.assert_allclose(shapes.b**2, 1 / 12, rtol=1e-9)


def test_a_source_larger_than_the_image_has_no_kron_flux():
    """As photutils has it, from a million pixels on."""
    from photutils.segmentation import SegmentationImage, SourceCatalog

    data = np.full((400, 300), 9, np.float32)
    labels = (data > 0).astype(np.int32)
    expected = SourceCatalog(data, SegmentationImage(labels), error=data, kron_params=(2.5, 1.4, 0.0))
    found = kron.measure(data, data, data, labels, 2.5)
    assert np.isnan(expected.kron_flux).all() and np.isnan(list(found.values())).all()


def test_nothing_has_no_fluxes():
    empty = np.zeros((9, 9), np.float32)
    found = kron.measure(empty, empty, empty, np.zeros((9, 9), np.int32), 2.5)
    assert set(found) == {"kron_flux", "kron_flux_err", "kron_radius"} and not any(map(len, found.values()))


def test_the_size_of_a_list_of_pixels_does_not_show(monkeypatch):
    data, noise, _, labels = segmented(3)
    whole = kron.measure(data, noise, data, labels, 2.5)
    monkeypatch.setattr(kron, "_AT_A_TIME", 100)
    for name, values in kron.measure(data, noise, data, labels, 2.5).items():
        np.testing.assert_array_equal(values, whole[name])
