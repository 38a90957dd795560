"""Medians by exchanges against sorting."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from nightflow import medians


@pytest.mark.parametrize("n", [1, 3, 5, 7, 9, 25])
def test_median_of_arrays_is_the_sorted_middle(n):
    """Ties included: the values are few."""
    values = np.random.default_rng(n).integers(0, 12, (n, 2000)).astype(np.float32)
    before = values.copy()
    assert (medians.median_of(values) == np.median(values, axis=0)).all()
    assert (values == before).all()


def test_an_even_number_has_no_middle():
    with pytest.raises(ValueError, match="median of 4 arrays"):
        medians.median_of(np.zeros((4, 3)))


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("shape", [(9, 7), (40, 33), (1, 5), (2, 20000)])
def test_separable_median(shape, size):
    data = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    expected = ndimage.median_filter(ndimage.median_filter(data, (size, 1), mode="nearest"), (1, size), mode="nearest")
    assert (medians.separable_median(data, size) == expected).all()
    y, x = np.nonzero(data > 0)
    assert (medians.separable_median_at(data, y, x, size) == expected[y, x]).all()


@pytest.mark.parametrize("n", [1, 2, 9, 1000, 300_001])
@pytest.mark.parametrize("kind", ["noise", "ties", "sorted", "half"])
def test_median_of_many_is_that_of_numpy(n, kind):
    values = np.random.default_rng(n).normal(size=n).astype(np.float32)
    values = {"ties": np.round(values), "sorted": np.sort(values), "half": values * (np.arange(n) > n // 2)}.get(
        kind, values
    )
    median = medians.median_of_many(values)
    assert median == np.median(values) and median.dtype == np.float32
    assert medians.ranked(values, [n // 3])[0] == np.sort(values)[n // 3]


@pytest.mark.parametrize("unknown", [0, 1, 500, 1000])
def test_median_of_known_leaves_nan_out(unknown):
    values = np.random.default_rng(3).normal(size=(20, 50)).astype(np.float32)
    values.flat[:unknown] = np.nan
    expected = np.nanmedian(values) if unknown < values.size else np.nan
    np.testing.assert_equal(medians.median_of_known(values), float(expected))


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.5, 0.999, 1])
@pytest.mark.parametrize("n", [1, 2, 77, 100_000])
def test_quantile_is_that_of_numpy(n, share):
    values = np.random.default_rng(n).exponential(size=n).astype(np.float32)
    assert medians.quantile(values, share) == pytest.approx(np.quantile(values.astype(float), share), rel=1e-12)
