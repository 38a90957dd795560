"""Correlated noise of stacks against sums over the weights themselves."""

from __future__ import annotations

import numpy as np
import pytest

from nightflow import noisecorrelation, resampling

SHAPE = (96, 96)


def weights(matrix, polynomials, rows, columns):
    """Weight of each input pixel in the sum over a box of output pixels: the response to unit impulses."""
    grid = resampling.make_grid(matrix, SHAPE)
    response = np.zeros(SHAPE)
    inverse = np.linalg.inv(matrix)
    for y in range(*rows):
        for x in range(*columns):
            px, py, _ = inverse @ (x, y, 1)
            i, j = int(np.floor(px)), int(np.floor(py))
            wx, wy = (resampling.kernel_weights(polynomials, p - np.floor(p)) for p in (px, py))
            response[j - 2 : j + 4, i - 2 : i + 4] += grid.pixel_area * np.outer(wy, wx)
    return response


def turned(angle, shift=(0.0, 0.0)):
    a = np.radians(angle)
    linear = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    centre = np.array([47.5, 47.5])
    return np.vstack((np.column_stack((linear, centre - linear @ centre + shift)), (0, 0, 1)))


@pytest.mark.parametrize(
    "matrices",
    [
        [np.eye(3), turned(0, (0.3, 0.2)), turned(0, (-0.4, 1.7))],
        [np.eye(3), turned(180, (0.3, 0.2)), turned(90, (0.5, 0.5)), turned(-90, (0.1, 0.2))],
        [turned(0, (0.3, 0.2)), turned(0, (7.0, -6.4))],
        [turned(180, (0.3, 0.2)), turned(180, (0.9, -0.5)), turned(180)],
    ],
    ids=["small dithers", "turned", "large dithers", "all turned"],
)
@pytest.mark.parametrize("kernel", ["bilinear", "lanczos3"])
def test_equals_the_sum_over_all_weights(matrices, kernel):
    """Variance of pixels and boxes, masters' noise included, equals that computed from every weight."""
    polynomials = resampling.kernel_polynomials(kernel)
    grids = [resampling.make_grid(matrix, SHAPE) for matrix in matrices]
    n = len(matrices)
    shares, variances, common = np.linspace(1, 2, n) / (1.5 * n), np.linspace(100, 150, n), np.full(n, 4.0)
    factors = np.linspace(1.2, 0.9, n)
    amplitudes = shares * factors
    noise = noisecorrelation.stack_noise(
        grids, polynomials, SHAPE, shares, factors, variances, common, ["dark"] * n
    )  # fmt: skip

    def variance(side, shared):
        box = (14, 14 + side)  # far from the centre, which frames turned by half a turn share
        responses = [weights(matrix, polynomials, box, box) for matrix in matrices]
        own = sum(a**2 * (v - c**2) * (r**2).sum() for a, v, c, r in
                  zip(amplitudes, variances, common, responses, strict=True))  # fmt: skip
        if shared:
            total = sum(a * c * r for a, c, r in zip(amplitudes, common, responses, strict=True))
            return own + (total**2).sum()
        return own + sum((a * c * r) ** 2 for a, c, r in zip(amplitudes, common, responses, strict=True)).sum()

    pixel, box = variance(1, True), variance(noisecorrelation.BOX, True)
    assert noise.common_in((14, 15), 15)[0, 14] == pytest.approx(pixel - variance(1, False), rel=1e-4, abs=1e-4)
    assert noise.correlation == pytest.approx(np.sqrt(box / pixel) / noisecorrelation.BOX, rel=5e-3)


def test_frames_with_other_masters_share_nothing():
    """Only frames calibrated with the same masters share their noise."""
    polynomials = resampling.kernel_polynomials("lanczos3")
    grids = [resampling.make_grid(np.eye(3), SHAPE)] * 2
    numbers = np.full(2, 0.5), np.ones(2), np.full(2, 100.0), np.full(2, 5.0)
    alike = noisecorrelation.stack_noise(grids, polynomials, SHAPE, *numbers, ["a", "a"])
    apart = noisecorrelation.stack_noise(grids, polynomials, SHAPE, *numbers, ["a", "b"])
    np.testing.assert_allclose(alike.common_variance, 2 * 0.25 * 25, rtol=1e-5)
    assert not apart.common_variance.any()
    assert alike.correlation == pytest.approx(1) and apart.correlation == pytest.approx(1)


def test_common_noise_is_that_of_the_frames_that_cover_a_pixel():
    """Two pointings of two undithered frames each: half a frame's common variance, also where all four overlap."""
    polynomials = resampling.kernel_polynomials("lanczos3")
    grids = [resampling.make_grid(turned(0, (shift, 0)), SHAPE) for shift in (0, 0, 64, 64)]
    numbers = np.ones(4), np.ones(4), np.full(4, 100.0), np.full(4, 5.0)
    noise = noisecorrelation.stack_noise(grids, polynomials, (96, 160), *numbers, ["a"] * 4)
    common = noise.common_in((30, 31), 160)[0]
    assert common[[10, 150]] == pytest.approx(12.5, rel=1e-5) and common[80] == pytest.approx(6.25, rel=1e-5)
    assert noise.correlation == pytest.approx(1)


def test_many_frames_are_quick():
    """Pairs of 200 frames take about a second, not minutes."""
    import time

    polynomials = resampling.kernel_polynomials("lanczos3")
    rng = np.random.default_rng(0)
    grids = [resampling.make_grid(turned(0, rng.uniform(-5, 5, 2)), SHAPE) for _ in range(200)]
    numbers = np.ones(200), np.ones(200), np.full(200, 100.0), np.full(200, 5.0)
    start = time.process_time()
    noisecorrelation.stack_noise(grids, polynomials, SHAPE, *numbers, ["a"] * 200)
    assert time.process_time() - start < 10
