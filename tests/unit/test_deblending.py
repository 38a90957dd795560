"""Deblending finds the parts that photutils finds, label by label."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.utils.exceptions import AstropyUserWarning
from scipy.ndimage import gaussian_filter

from nightflow import deblending

LEVELS, CONTRAST, NPIXELS = 32, 0.005, 5


def crowd(seed, number, shape=(200, 200), sigma=1.5):
    """Stars of all fluxes on some noise, and their segments."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape)
    np.add.at(image, tuple(rng.integers(0, n, number) for n in shape), 10 ** rng.uniform(2.5, 4.5, number))
    return (gaussian_filter(image, sigma) + rng.normal(0, 1, shape)).astype(np.float32)


def segments_of(image, threshold):
    from photutils.segmentation import detect_sources

    return detect_sources(image, threshold, n_pixels=NPIXELS)


def by_photutils(image, segments, npixels=NPIXELS, n_levels=LEVELS, contrast=CONTRAST):
    from photutils.segmentation import deblend_sources

    return deblend_sources(
        image, segments, n_pixels=npixels, n_levels=n_levels, contrast=contrast, progress_bar=False
    ).data


@pytest.mark.parametrize("n_levels, contrast", [(LEVELS, CONTRAST), (LEVELS, 0.0), (5, 0.1), (1, CONTRAST)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blends_are_those_that_photutils_finds(n_levels, contrast, dtype):
    image = crowd(3, 400).astype(dtype)
    segments = segments_of(image, 10.0)
    expected = by_photutils(image, segments, n_levels=n_levels, contrast=contrast)
    assert n_levels < LEVELS or expected.max() > segments.n_labels + 20
    found = deblending.deblend(image, segments.data, NPIXELS, n_levels, contrast)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("npixels", [1, 3, 20])
def test_smallest_parts_are_those_of_photutils(npixels):
    image = crowd(4, 300)
    segments = segments_of(image, 5.0)
    expected = by_photutils(image, segments, npixels=npixels)
    np.testing.assert_array_equal(deblending.deblend(image, segments.data, npixels, LEVELS, CONTRAST), expected)


def test_a_segment_with_negative_pixels_has_even_thresholds():
    """Segments come from another smoothing of the image than the one they are cut in."""
    image = crowd(5, 200)
    segments = segments_of(image, 4.0)
    image = image - np.float32(20)
    with pytest.warns(AstropyUserWarning, match="linear"):
        expected = by_photutils(image, segments)
    assert expected.max() > segments.n_labels
    np.testing.assert_array_equal(deblending.deblend(image, segments.data, NPIXELS, LEVELS, CONTRAST), expected)


def test_a_segment_that_falls_apart_into_noise_has_even_thresholds():
    from photutils.segmentation import SegmentationImage

    rng = np.random.default_rng(6)
    y, x = np.mgrid[:200, :200]
    image = (1000 + 3e4 * np.exp(-((x - 100) ** 2 + (y - 90) ** 2) / 50) + rng.normal(0, 20, x.shape)).astype(
        np.float32
    )
    labels = np.ones(image.shape, np.int32)
    with pytest.warns(AstropyUserWarning, match="linear"):
        expected = by_photutils(image, SegmentationImage(labels), npixels=2, contrast=0.0)
    np.testing.assert_array_equal(deblending.deblend(image, labels, 2, LEVELS, 0.0), expected)


def test_equal_pixels_are_one_source():
    labels = np.zeros((9, 9), np.int32)
    labels[3, 3] = labels[3, 5] = labels[4, 4] = 1
    image = np.where(labels, np.float32(7), np.float32(0))
    np.testing.assert_array_equal(deblending.deblend(image, labels, 1, LEVELS, CONTRAST), labels)


def test_nothing_is_cut_where_nothing_is():
    labels = np.zeros((5, 5), np.int32)
    assert not deblending.deblend(np.ones((5, 5), np.float32), labels, NPIXELS, LEVELS, CONTRAST).any()
