"""Combining: the right value, the right pixels left out, and an uncertainty that the scatter confirms."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from astropy.stats import sigma_clip

from nightflow import combine as c

READ_NOISE, GAIN, LEVEL = 8.0, 1.4, 900.0


def frames_of(n, shape=(40, 50), seed=0, level=LEVEL):
    """Frames with read and photon noise, float32."""
    rng = np.random.default_rng(seed)
    photons = rng.poisson(level * GAIN, (n, *shape)) / GAIN
    return [f.astype(np.float32) for f in photons + rng.normal(0, READ_NOISE, (n, *shape))]


NOISE = c.NoiseModel(read_noise=READ_NOISE, gain=GAIN)
SIGMA = float(np.sqrt(READ_NOISE**2 + LEVEL / GAIN))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 16, 25, 40, 41])
def test_median_is_the_plain_median(n):
    frames = frames_of(n)
    np.testing.assert_array_equal(c.combine(frames, "median").data, np.median(np.array(frames), axis=0))


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_mean_is_the_plain_mean(n):
    frames = frames_of(n)
    expected = np.mean(np.array(frames, dtype=np.float64), axis=0)
    np.testing.assert_allclose(c.combine(frames, "mean").data, expected, rtol=2e-7)


@pytest.mark.parametrize("n", range(1, 34))
def test_networks_give_every_order_statistic(n):
    planes = np.random.default_rng(n).permuted(np.tile(np.arange(n, dtype=np.float32), (300, 1)), axis=1).T
    expected = np.sort(planes, axis=0)
    for ranks in [{0}, {n - 1}, {n // 2}, {0, n // 2, n - 1}, set(range(n))]:
        for rank, plane in c.order_statistics(list(planes), frozenset(ranks)).items():
            np.testing.assert_array_equal(plane, expected[rank])


def test_networks_leave_their_input_alone():
    frames = frames_of(5)
    before = [f.copy() for f in frames]
    c.combine(frames, "clipped_mean", sigma_model=NOISE, rejection=c.Rejection())
    np.testing.assert_array_equal(frames, before)


@pytest.mark.parametrize("method", c.METHODS)
@pytest.mark.parametrize("n", [3, 4, 10, 20])
def test_rejection_equals_sigma_clip_about_the_median(n, method):
    """Against astropy's sigma_clip, given the true sigma: the same pixels go, the same values come out."""
    rng = np.random.default_rng(n)
    stack = np.array(frames_of(n, (60, 70)))
    stack[rng.random(stack.shape) < 0.01] += 5000
    stack[rng.random(stack.shape) < 0.01] = np.nan
    result = c.combine(
        list(stack), method, sigma_model=c.NoiseModel(read_noise=SIGMA), rejection=c.Rejection(low=4, high=4)
    )
    masked = np.ma.masked_invalid(stack)
    if method != "mean":
        masked = sigma_clip(
            masked, sigma=4, cenfunc="median", stdfunc=lambda a, axis: np.full(a.shape[1:], SIGMA), axis=0, maxiters=5
        )
    clear = masked.count(axis=0) >= 3  # two values that disagree have no majority: see below
    expected = np.ma.median(masked, axis=0) if method == "median" else masked.mean(axis=0, dtype=np.float64)
    np.testing.assert_array_equal(result.count[clear], masked.count(axis=0)[clear])
    np.testing.assert_allclose(result.data[clear], expected.filled(np.nan)[clear], rtol=3e-7, atol=6e-4)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 10])
def test_one_cosmic_ray_is_rejected_whatever_the_number_of_frames(n):
    frames = frames_of(n)
    frames[1][10, 10] += 800
    result = c.combine(frames, "clipped_mean", sigma_model=NOISE, rejection=c.Rejection())
    others = np.mean([f[10, 10] for i, f in enumerate(frames) if i != 1])
    assert result.count[10, 10] == n - 1
    assert result.rejected[1] >= 1
    assert result.data[10, 10] == pytest.approx(others, rel=1e-6)
    assert result.uncertainty[10, 10] == pytest.approx(SIGMA / np.sqrt(n - 1), rel=0.1)


@pytest.mark.parametrize("n", [3, 5, 10, 40])
def test_good_pixels_are_hardly_ever_rejected(n):
    frames = frames_of(n, (200, 200))
    result = c.combine(frames, "clipped_mean", sigma_model=NOISE, rejection=c.Rejection())
    assert result.rejected.sum() < 1e-3 * n * result.data.size


def test_values_that_are_all_doubtful_leave_something():
    """Two frames that disagree keep the fainter value: what is added to a frame is a cosmic ray or a star."""
    frames = [np.full((2, 2), 100, np.float32), np.full((2, 2), 5000, np.float32)]
    result = c.combine(frames, "clipped_mean", sigma_model=c.NoiseModel(5.0), rejection=c.Rejection())
    np.testing.assert_array_equal(result.data, 100)
    np.testing.assert_array_equal(result.count, 1)


def test_scatter_of_many_frames_can_replace_the_noise_model():
    frames = frames_of(25)
    for i in range(10):
        frames[i][i, :] += 20 * SIGMA
    result = c.combine(frames, "clipped_mean", rejection=c.Rejection(scatter=True, low=5, high=5))
    np.testing.assert_array_less(np.abs(result.data - LEVEL), 6 * SIGMA / 5)
    np.testing.assert_array_equal(result.rejected[:10] >= 49, True)
    assert result.rejected[10:].mean() < 0.01 * result.data.size


@pytest.mark.parametrize("method", c.METHODS)
def test_invalid_pixels_are_left_out(method):
    frames = frames_of(4)
    frames[0][3, 3] = np.nan
    for frame in frames:
        frame[5, 5] = np.nan
    result = c.combine(frames, method, sigma_model=NOISE, rejection=c.Rejection())
    assert result.count[3, 3] == 3
    assert result.count[5, 5] == 0
    assert np.isnan(result.data[5, 5]) and np.isnan(result.uncertainty[5, 5])
    good = [f[3, 3] for f in frames[1:]]
    assert result.data[3, 3] == pytest.approx(np.median(good) if method == "median" else np.mean(good), rel=1e-6)
    assert np.isfinite(np.delete(result.data.ravel(), 5 * 50 + 5)).all()


@pytest.mark.parametrize(
    ("n", "factor"),
    [(1, 1.0), (2, 1.0), (3, 1.35), (4, 1.19), (5, 1.43), (8, 1.34), (10, 1.38), (11, 1.51), (1001, np.pi / 2)],
)
def test_variance_of_the_median_has_its_known_values(n, factor):
    assert c.median_variance_factor(n) == pytest.approx(factor, abs=0.006)


def test_variance_of_the_median_of_three_is_exact():
    """Var = (1 - sqrt(3)/pi) for the median of three normal values (Godwin 1949)."""
    assert c.median_variance_factor(3) == pytest.approx(3 * (1 - np.sqrt(3) / np.pi), rel=1e-7)


@pytest.mark.parametrize("n", [4, 5, 6, 10, 11, 24, 60])
def test_variance_of_the_median_agrees_with_experiment(n):
    sample = np.median(np.random.default_rng(n).normal(size=(200_000, n)), axis=1)
    assert c.median_variance_factor(n) == pytest.approx(n * np.mean(sample**2), rel=0.015)


@pytest.mark.accuracy
@pytest.mark.parametrize("method", c.METHODS)
@pytest.mark.parametrize("n", [3, 5, 11, 25])
def test_stated_sigma_is_the_true_scatter(n, method):
    """Within 5 % over five seeds, read and photon noise."""
    ratios = []
    for seed in range(5):
        result = c.combine(frames_of(n, (150, 200), seed), method, sigma_model=NOISE, rejection=c.Rejection())
        ratios.append(result.uncertainty.mean() / (result.data - LEVEL).std())
    print(
        f"{method} N={n}: stated/true sigma {np.mean(ratios):.4f} (worst {max(ratios, key=lambda r: abs(r - 1)):.4f})"
    )
    assert max(abs(r - 1) for r in ratios) < 0.05


@pytest.mark.accuracy
@pytest.mark.parametrize("method", ["mean", "median"])
@pytest.mark.parametrize("levels", [(10000.0, 20000.0), (12000.0, 17000.0, 24000.0), tuple(np.linspace(1e4, 4e4, 12))])
def test_frames_of_unequal_scale_state_their_sigma(method, levels):
    """Flats divided by their levels: the variance of each follows its own level."""
    levels = np.array(levels)
    rng = np.random.default_rng(1)
    frames = [(rng.normal(x, np.sqrt(x / GAIN + 8.0**2), (300, 300)) / x).astype(np.float32) for x in levels]
    model = c.NoiseModel(read_noise=8.0, gain=GAIN, scales=1 / levels)
    result = c.combine(frames, method, sigma_model=model)
    ratio = result.uncertainty.mean() / (result.data - 1).std()
    print(f"{method} N={len(levels)}: stated/true {ratio:.4f}")
    assert ratio == pytest.approx(1, abs=0.02)


@pytest.mark.accuracy
@pytest.mark.parametrize("n", [3, 10, 11, 24, 25, 101])
@pytest.mark.parametrize("sigma", [2.0, 6.0])
def test_median_of_whole_numbers_states_its_rounding(n, sigma):
    rng = np.random.default_rng(n)
    level = rng.uniform(300, 301, (120, 120))
    frames = [np.round(rng.normal(level, sigma)).astype(np.float32) for _ in range(n)]
    model = c.NoiseModel(read_noise=np.sqrt(sigma**2 + 1 / 12), step=1.0)
    result = c.combine(frames, "median", sigma_model=model)
    ratio = result.uncertainty.mean() / (result.data - level).std()
    print(f"sigma {sigma} N={n}: stated/true {ratio:.4f}")
    assert ratio == pytest.approx(1, abs=0.04)


def test_uncertainty_without_a_noise_model_is_the_scatter():
    result = c.combine(frames_of(20, (100, 100)), "mean")
    assert np.sqrt(np.mean(result.uncertainty**2)) == pytest.approx(SIGMA / np.sqrt(20), rel=0.02)


def test_noise_may_differ_from_pixel_to_pixel():
    read_noise = np.full((40, 50), 4.0, np.float32)
    read_noise[:, 25:] = 12.0
    result = c.combine(frames_of(4), "mean", sigma_model=c.NoiseModel(read_noise=read_noise))
    np.testing.assert_allclose(result.uncertainty, read_noise / 2, rtol=1e-6)


@dataclass
class Counted:
    """Source of noise that notes which rows were asked for."""

    shape: tuple[int, int]
    seed: int
    reads: list

    def rows(self, start, stop):
        self.reads += list(range(start, stop))
        rows = [np.random.default_rng((self.seed, y)).normal(LEVEL, SIGMA, self.shape[1]) for y in range(start, stop)]
        return np.array(rows, np.float32)


@pytest.mark.parametrize("method", c.METHODS)
def test_result_does_not_depend_on_the_memory(method):
    results = []
    for memory_mb in (0.01, 0.05, 300):
        sources = [Counted((30, 500), seed, []) for seed in range(6)]
        settings = {"sigma_model": NOISE, "rejection": c.Rejection(low=2, high=2)}
        results.append(c.combine(sources, method, memory_mb=memory_mb, **settings))
        assert all(source.reads == list(range(30)) for source in sources), "each row is read once, in order"
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].data, other.data)
        np.testing.assert_array_equal(results[0].uncertainty, other.uncertainty)
        np.testing.assert_array_equal(results[0].rejected, other.rejected)


@pytest.mark.parametrize("n", [5, 50])
def test_memory_stays_within_its_bound(n):
    base = np.full((1000, 1000), 5, np.float32)
    sources = [c.ArrayRows(base)] * n
    c.combine([c.ArrayRows(base[:10])] * n)  # networks are made once
    tracemalloc.start()
    c.combine(sources, "clipped_mean", sigma_model=NOISE, rejection=c.Rejection(), memory_mb=8)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert peak < 10 * base.size / 2**20 + 8, "result (10 bytes a pixel) and 8 MB"


def test_a_fraction_of_the_level_softens_the_limit():
    frames = [np.full((3, 3), v, np.float32) for v in (10000, 10000, 10200)]
    strict = c.combine(frames, "clipped_mean", sigma_model=c.NoiseModel(10.0), rejection=c.Rejection())
    soft = c.combine(frames, "clipped_mean", sigma_model=c.NoiseModel(10.0), rejection=c.Rejection(fraction=0.01))
    assert strict.count.max() == 2
    assert soft.count.min() == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([], "median"), "no frames"),
        ((frames_of(2), "average"), "expected one of median, mean, clipped_mean"),
        (([np.zeros((2, 2), np.float32), np.zeros((2, 3), np.float32)],), "shape"),
        ((frames_of(3), "clipped_mean"), "needs a rejection"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        c.combine(*arguments)


def test_rejection_needs_a_yardstick():
    with pytest.raises(ValueError, match="noise model"):
        c.combine(frames_of(3), "median", rejection=c.Rejection())
    with pytest.raises(ValueError, match="needs 15 frames, there are 14"):
        c.combine(frames_of(14), "median", rejection=c.Rejection(scatter=True))
