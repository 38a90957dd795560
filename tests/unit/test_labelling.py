"""Connected regions against scipy's labels."""

import numpy as np
import pytest
from scipy import ndimage

from nightflow.labelling import connected_regions


def spiral(side):
    """One line of pixels wound up inwards: the farthest way that a number can have to go."""
    mask = np.zeros((side, side), dtype=bool)
    for ring in range(0, side // 2, 2):
        inner = slice(ring, side - ring)
        mask[ring, inner] = mask[-ring - 1, inner] = mask[inner, ring] = mask[inner, -ring - 1] = True
        mask[ring + 1, ring], mask[ring + 2, ring + 1] = False, True
    return mask


MASKS = {
    f"{shape[0]}x{shape[1]}_{share}": np.random.default_rng(1).random(shape) < share
    for shape in ((1, 1), (1, 30), (30, 1), (61, 40))
    for share in (0, 0.03, 0.3, 0.6, 1)
}


@pytest.mark.parametrize("mask", [*MASKS.values(), spiral(61)], ids=[*MASKS, "spiral"])
def test_regions_are_those_of_scipy(mask):
    labels, expected = ndimage.label(mask, structure=np.ones((3, 3)))
    at, region, count = connected_regions(mask)
    assert count == expected
    np.testing.assert_array_equal(at, np.flatnonzero(mask))
    np.testing.assert_array_equal(region, labels.ravel()[at])
