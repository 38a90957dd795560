"""Stacks of frames with known content."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from astropy.io import fits

from nightflow import combination, products, stackheader, stacking
from nightflow.products import Image, MaskBit, RejectedFrame
from nightflow.rejection import REJECTIONS

OPTIONS = {
    "method": "mean",
    "rejection": "noise",
    "kernel": "lanczos3",
    "clamp": True,
    "match_sky": "none",
    "clip_low": 4.0,
    "clip_high": 4.0,
    "clip_fraction": 0.05,
    "clip_gradient": 0.3,
    "kappa": 2.0,
    "iterations": 5,
    "percentile_low": 0.2,
    "percentile_high": 0.1,
    "esd_significance": 0.05,
    "esd_outliers": 0.3,
    "memory_mb": 1000,
}
SHAPE = (120, 130)
SKY_SIGMA = 10.0


def header(**cards):
    made = fits.Header()
    made.update({"BUNIT": "electron", "EXPTIME": 60.0, "GAIN": 1.0, "RDNOISE": 5.0, "SATURATE": 60000.0})
    made.update({"DATE-OBS": "2024-03-01T22:00:00", "SKYNOISE": SKY_SIGMA} | cards)
    return made


def write(path, data, *, sigma=SKY_SIGMA, mask=None, **cards):
    data = np.asarray(data, np.float32)
    mask = np.zeros(data.shape, np.uint16) if mask is None else mask
    uncertainty = np.sqrt(np.maximum(data, 0) + sigma**2).astype(np.float32)
    products.write_image(path, Image(data, mask, uncertainty, header(**cards)))
    return path


def shift(dx, dy):
    return np.array([[1.0, 0.0, dx], [0.0, 1.0, dy], [0.0, 0.0, 1.0]])


def stars(shape, places, fluxes, fwhm, offset=(0.0, 0.0)):
    """Gaussian stars integrated over pixels; the frame shows the sky at reference position minus `offset`."""
    from scipy.special import erf

    image, s = np.zeros(shape), fwhm / 2.3548 * np.sqrt(2)
    for (x0, y0), flux in zip(places, fluxes, strict=True):
        edges = [np.arange(n + 1) - 0.5 - c + d for n, c, d in zip(shape, (y0, x0), offset[::-1], strict=True)]
        along_y, along_x = (np.diff(0.5 * erf(e / s)) for e in edges)
        image += flux * np.outer(along_y, along_x)
    return image


PLACES = [(25.3, 30.8), (60.0, 30.5), (95.6, 33.1), (30.9, 80.2), (64.2, 84.7), (99.5, 90.5)]
FLUXES = np.array([3e5, 1e5, 2e5, 5e4, 4e5, 1.5e5])


def night(folder, offsets, *, seed=1, fwhm=2.5, scales=None, noise=True, shape=SHAPE, changes=None):
    """Dithered frames of the same stars; `changes` maps a frame's number to a function on (image, mask)."""
    rng = np.random.default_rng(seed)
    inputs = []
    fwhms = np.broadcast_to(fwhm, len(offsets))
    scales = np.ones(len(offsets)) if scales is None else scales
    for k, (offset, width, scale) in enumerate(zip(offsets, fwhms, scales, strict=True)):
        image, mask = stars(shape, PLACES, FLUXES / scale, width, offset), np.zeros(shape, np.uint16)
        if noise:
            image += rng.normal(0, 1, shape) * np.sqrt(image + SKY_SIGMA**2)
        if changes and k in changes:
            changes[k](image, mask)
        path = write(folder / f"f{k:02d}.fits", image, mask=mask, FWHM=float(width))
        inputs.append((path, shift(*offset), scale, 1.0))
    return inputs


def reference_header(shape=SHAPE, **cards):
    made = header(**cards)
    made["NAXIS1"], made["NAXIS2"] = shape[1], shape[0]
    return made


def make(inputs, threads=1, shape=SHAPE, **options):
    return stacking.stack(inputs, reference_header(shape), OPTIONS | options, threads)


def dithers(n, size, seed=0):
    return np.random.default_rng(seed).uniform(-size, size, (n, 2)) if size else np.zeros((n, 2))


def aperture_magnitudes(image, radius=9.0):
    """Magnitude of each star relative to truth, in an aperture that holds it whole."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    fluxes = [image[np.hypot(x - x0, y - y0) < radius].sum() for x0, y0 in PLACES]
    return -2.5 * np.log10(np.array(fluxes) / FLUXES)


def spoil(image, mask):
    """A satellite trail of 60 sigma, and cosmic rays that no mask caught."""
    x = np.arange(SHAPE[1])
    image[55 + x // 10, x] += 600
    image[56 + x // 10, x] += 300
    rng = np.random.default_rng(9)
    image[rng.integers(0, SHAPE[0], 60), rng.integers(0, SHAPE[1], 60)] += rng.uniform(200, 20000, 60)


# ---------------------------------------------------------------------------------------------- combination


def test_mean_equals_numpy(tmp_path):
    """Undithered frames: weighted mean, its sigma, coverage and weight are what numpy gives."""
    rng = np.random.default_rng(0)
    data = rng.normal(100, 10, (5, 20, 24)).astype(np.float32)
    masks = np.where(rng.random(data.shape) < 0.2, np.uint16(MaskBit.COSMIC_RAY), 0).astype(np.uint16)
    masks[:, 3, 4] = MaskBit.BAD
    weights, scales = np.array([1, 2, 0.5, 1, 3.0]), np.array([1, 1.1, 0.9, 1, 2.0])
    inputs = [
        (write(tmp_path / f"{k}.fits", data[k], mask=masks[k]), np.eye(3), scales[k], weights[k]) for k in range(5)
    ]
    image = make(inputs, shape=(20, 24), rejection="none")
    good = masks == 0
    w = good * weights[:, None, None]
    with np.errstate(invalid="ignore"):
        mean = (w * data * scales[:, None, None]).sum(0) / w.sum(0)
        variance = (w**2 * (data + 100) * scales[:, None, None] ** 2).sum(0) / w.sum(0) ** 2
    np.testing.assert_allclose(image.data, mean, rtol=1e-5)
    np.testing.assert_allclose(image.uncertainty, np.sqrt(variance), rtol=1e-4)
    np.testing.assert_array_equal(image.extensions["COVERAGE"], good.sum(0))
    np.testing.assert_allclose(image.extensions["WEIGHT"], w.sum(0), rtol=1e-6)
    assert np.isnan(image.data[3, 4])
    assert image.mask[3, 4] == MaskBit.BAD | MaskBit.NO_DATA


@pytest.mark.parametrize(("method", "function"), [("median", np.median), ("min", np.min), ("max", np.max)])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 17])
def test_order_statistics_equal_numpy(tmp_path, method, function, n):
    """Median, minimum and maximum of undithered frames are what numpy gives, with and without gaps."""
    data = np.random.default_rng(n).normal(100, 10, (n, 16, 18)).astype(np.float32)
    mask = np.zeros((16, 18), np.uint16)
    mask[5, 5] = MaskBit.TRAIL
    inputs = [(write(tmp_path / f"{k}.fits", data[k], mask=mask if k == 0 else None), np.eye(3)) for k in range(n)]
    image = make(inputs, shape=(16, 18), method=method, rejection="none")
    expected = function(data, axis=0)
    expected[5, 5] = function(data[1:, 5, 5]) if n > 1 else np.nan
    np.testing.assert_allclose(image.data, expected, rtol=1e-5)


def test_sum_keeps_electrons(tmp_path):
    """A sum is the electrons of all frames; where one frame has a hole, the others are scaled up to the total."""
    scales = np.array([1.0, 2.0, 0.5])  # the second frame has half of the reference's throughput
    mask = np.zeros((20, 24), np.uint16)
    mask[8, 9] = MaskBit.BAD
    inputs = []
    for k, scale in enumerate(scales):
        path = write(tmp_path / f"{k}.fits", np.full((20, 24), 1000 / scale), mask=mask if k == 1 else None)
        inputs.append((path, np.eye(3), scale, 1.0))
    image = make(inputs, shape=(20, 24), method="sum")
    np.testing.assert_allclose(image.data, 1000 * (1 / scales).sum(), rtol=1e-5)
    expected = np.sqrt((1000 / scales + SKY_SIGMA**2).sum())
    assert image.uncertainty[2, 2] == pytest.approx(expected, rel=1e-4)
    assert image.header["EXPTIME"] == 180


COMBINED = [(method, "noise") for method in stacking.METHODS]
COMBINED += [("mean", name) for name in REJECTIONS if name != "noise"] + [("sum", "median_sigma")]


@pytest.mark.parametrize(("method", "rejection"), COMBINED)
def test_threads_and_strips_change_no_bit(tmp_path, method, rejection):
    """Any number of threads and strips gives the same bits in every plane."""
    offsets = dithers(6, 5.0)
    inputs = night(tmp_path, offsets, scales=np.linspace(0.9, 1.2, 6), changes={1: spoil})
    how = {"method": method, "rejection": rejection, "match_sky": "local"}
    whole = make(inputs, **how)
    for threads, memory in ((2, 1000), (3, 0.2), (1, 0.05)):
        other = make(inputs, threads, **how, memory_mb=memory)
        for name in ("data", "uncertainty", "mask"):
            assert getattr(other, name).tobytes() == getattr(whole, name).tobytes()
        for name in set(whole.extensions) - {"INPUTS"}:
            assert other.extensions[name].tobytes() == whole.extensions[name].tobytes()
        for name in whole.extensions["INPUTS"].colnames:
            assert other.extensions["INPUTS"][name].tobytes() == whole.extensions["INPUTS"][name].tobytes()
        assert other.header.tostring() == whole.header.tostring()


def test_order_of_inputs_changes_no_bit(tmp_path):
    inputs = night(tmp_path, dithers(5, 3.0))
    one, other = make(inputs), make(inputs[::-1])
    assert one.data.tobytes() == other.data.tobytes()


# ---------------------------------------------------------------------------------------------- stars


KEEP_FLUX = [(m, r) for m, r in COMBINED if m not in ("min", "max", "maximum", "entropy")] + [("mean", "none")]


@pytest.mark.accuracy
@pytest.mark.parametrize(("method", "rejection"), KEEP_FLUX)
def test_star_fluxes(tmp_path, method, rejection):
    """Star fluxes are within 5 mmag of truth under dithers, clouds and changes of seeing.

    The median keeps fluxes where seeing varies by less than 30 % and stars are sampled (3 px; 20 mmag off at 2 px).
    """
    worst, clipped = [], []
    mean_fwhm, spread = (3.0, 0.15) if method == "median" else (2.4, 0.25)
    for seed in range(5):
        fwhm = mean_fwhm * (1 + spread * np.random.default_rng(seed).uniform(-1, 1, 8))
        inputs = night(tmp_path, dithers(8, 6.0, seed), fwhm=fwhm, scales=np.linspace(1.0, 1.5, 8), noise=False)
        image = make(inputs, method=method, rejection=rejection)
        total = sum(1 / scale for _, _, scale, _ in inputs) if method == "sum" else 1.0
        worst.append(np.abs(aperture_magnitudes(image.data / total)).max())
        clipped.append((image.extensions["COVERAGE"][15:-15, 15:-15] < 8).mean())
    print(f"{method}, {rejection}: worst star {np.round(np.multiply(worst, 1000), 2)} mmag, "
          f"clipped {np.round(clipped, 5)}")  # fmt: skip
    assert max(worst) < 0.005
    assert max(clipped) < (0.01 if "kappa" in method else 0.005)  # at two standard deviations, not four


def test_median_of_skewed_seeing_has_the_mean_profile(tmp_path):
    """Four sharp frames of six: the median's stars have the peaks and, noise in their wings, the fluxes of the mean."""
    fwhm = [2.7, 2.75, 3.3, 2.8, 2.7, 3.4]
    how = {"offsets": dithers(6, 3.0), "fwhm": fwhm}
    clean, noisy = (night(tmp_path / str(noise), noise=noise, **how) for noise in (False, True))
    mean, median = (make(clean, method=method).data for method in ("mean", "median"))
    peaks = [median[round(y), round(x)] / mean[round(y), round(x)] for x, y in PLACES]
    errors = 1000 * aperture_magnitudes(make(noisy, method="median").data)
    print(f"peaks {np.round(peaks, 3)}, noisy {errors.round(1)} mmag")
    assert peaks == pytest.approx(np.ones(6), abs=0.02)
    assert abs(errors.mean()) < 3


@pytest.mark.parametrize("fwhm", [1.6, 2.2, 4.0])
def test_star_cores_are_not_clipped(tmp_path, fwhm):
    """Cores of noisy, undersampled stars under changing seeing and registration errors lose no more than the sky."""
    rng = np.random.default_rng(2)
    offsets = dithers(9, 4.0)
    inputs = night(tmp_path, offsets, fwhm=fwhm * rng.uniform(0.9, 1.15, 9), seed=3)
    errors = rng.normal(0, 0.05, (9, 2))
    inputs = [(path, shift(*error) @ matrix) for (path, matrix, _, _), error in zip(inputs, errors, strict=True)]
    coverage = make(inputs).extensions["COVERAGE"]
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for x0, y0 in PLACES:
        core = np.hypot(x - x0, y - y0) < 1.5 * fwhm
        assert (9 - coverage[core]).mean() < 0.02 * 9


@pytest.mark.parametrize(("method", "rejection"), [(m, r) for m, r in KEEP_FLUX if m not in ("sum", "median")])
def test_variable_star_keeps_its_mean(tmp_path, method, rejection):
    """A star that varies by 0.1 mag is averaged, not clipped."""
    offsets = dithers(8, 4.0)
    factors = 1 + 0.046 * np.cos(np.arange(8) * 2 * np.pi / 8)
    inputs = [
        (write(tmp_path / f"{k}.fits", stars(SHAPE, PLACES, FLUXES * factors[k], 3.0, offsets[k])), shift(*offsets[k]))
        for k in range(8)
    ]
    image = make(inputs, method=method, rejection=rejection)
    assert np.abs(aperture_magnitudes(image.data)).max() < 0.005


# ---------------------------------------------------------------------------------------------- rejection


REJECTING = [(m, r) for m, r in COMBINED if r != "none" and m not in ("sum", "min", "max", "maximum", "entropy")]


def traces(folder, n, **how):
    """What a satellite and cosmic rays leave in the sky and anywhere, in units of the stated sigma."""
    offsets = dithers(n, 5.0)
    clean = make(night(folder / "clean", offsets, noise=False), **how)
    spoilt = make(night(folder / "spoilt", offsets, noise=False, changes={1: spoil}), **how)
    inner = slice(10, -10), slice(10, -10)
    trace = np.abs((spoilt.data - clean.data) / clean.uncertainty)[inner]
    return trace[(stars(SHAPE, PLACES, FLUXES, 2.5) < 1)[inner]], trace


@pytest.mark.parametrize("n", [3, 5, 8, 20])
def test_satellite_and_cosmic_rays_leave_no_trace(tmp_path, n):
    """A satellite in one frame and unmasked cosmic rays leave less than one sigma (of eight frames), stars aside."""
    assert traces(tmp_path, n, rejection="none")[0].max() > 10
    sky, everywhere = traces(tmp_path, n)
    print(f"n = {n}: largest trace {sky.max():.2f} sigma in the sky, {everywhere.max():.1f} in stars")
    assert sky.max() < max(1.0, 2.4 / np.sqrt(n))
    assert (everywhere > 1.0).mean() < 0.005


@pytest.mark.parametrize(("method", "rejection"), REJECTING)
def test_no_trace_by_any_rejection(tmp_path, method, rejection):
    """Every rejection takes the satellite out of one of eight frames, and cosmic rays."""
    sky, everywhere = traces(tmp_path, 8, method=method, rejection=rejection)
    print(f"{method}, {rejection}: largest trace {sky.max():.2f} sigma in the sky")
    assert sky.max() < 1.0
    assert (everywhere > 1.0).mean() < 0.005


def test_entropy_leaves_no_trace(tmp_path):
    """Nor does the mean weighted by entropy, which is that of noise: in the mean of six realisations."""
    differences = []
    for seed in range(6):
        how = {"offsets": dithers(8, 5.0), "seed": seed}
        clean, spoilt = (
            make(night(tmp_path / name, changes=changes, **how), method="entropy")
            for name, changes in (("clean", {}), ("spoilt", {1: spoil}))
        )
        differences.append((spoilt.data - clean.data) / clean.uncertainty)
    trace = np.abs(np.mean(differences, axis=0))[10:-10, 10:-10]
    sky = (stars(SHAPE, PLACES, FLUXES, 2.5) < 1)[10:-10, 10:-10]
    print(f"entropy: largest trace {trace[sky].max():.2f} sigma in the sky")
    assert trace[sky].max() < 1.0 and (trace > 1.0).mean() < 0.005


@pytest.mark.parametrize(("method", "n"), [("mean", 3), ("mean", 8), ("entropy", 8), ("auto_adaptive", 8)])
def test_noisy_trail_leaves_no_bias(tmp_path, method, n):
    """Along the trail of a satellite the stack's residuals are the noise's."""
    image = make(night(tmp_path, dithers(n, 5.0), changes={1: spoil}), method=method)
    z = (image.data - stars(SHAPE, PLACES, FLUXES, 2.5)) / image.uncertainty
    trail = z[48:62, 10:-10]
    assert abs(trail.mean()) < 0.1
    assert trail.std() < 1.1


def test_two_frames_keep_the_lower(tmp_path):
    """Of two values that contradict each other the lower stays: outliers are mostly cosmic rays."""
    data = np.random.default_rng(0).normal(0, SKY_SIGMA, (2, 30, 30))
    clean = data.copy()
    data[1, 15, 15] += 1000
    inputs = [(write(tmp_path / f"{k}.fits", data[k], sigma=SKY_SIGMA), np.eye(3)) for k in range(2)]
    image = make(inputs, shape=(30, 30))
    assert image.data[15, 15] == pytest.approx(clean[0, 15, 15], abs=1e-3)
    coverage = image.extensions["COVERAGE"]
    assert coverage[15, 15] == 1 and coverage.min() == 1
    coverage[12:19, 12:19] = 2  # around strong outliers limits are narrower
    assert (coverage == 2).all()


@pytest.mark.parametrize("n", [3, 6, 15, 30])
def test_clipping_spares_good_data(tmp_path, n):
    """Of Gaussian noise about as much is clipped as four sigma ask for, also where few frames are combined."""
    inputs = night(tmp_path, dithers(n, 3.0))
    coverage = make(inputs).extensions["COVERAGE"][8:-8, 8:-8]
    assert (n - coverage).mean() / n < 5e-4


@pytest.mark.parametrize("speed", [2.5, 5.0])
def test_moving_object_leaves_no_trace(tmp_path, speed):
    """An asteroid that moves by its FWHM between exposures leaves the stack; the maximum shows its way."""
    offsets = dithers(10, 3.0)

    def asteroid(k):
        place = [(35 + speed * k, 58)]
        return lambda image, mask: np.add(image, stars(SHAPE, place, [3000], 2.5, offsets[k]), out=image)

    clean = make(night(tmp_path / "clean", offsets, noise=False))
    inputs = night(tmp_path / "moving", offsets, noise=False, changes={k: asteroid(k) for k in range(10)})
    trace = np.abs((make(inputs).data - clean.data) / clean.uncertainty)[50:66, 25:90]
    print(f"largest trace of an asteroid of {3000 / 7.1 / SKY_SIGMA:.0f} sigma: {trace.max():.2f} sigma")
    assert trace.max() < 1.0
    largest = make(inputs, method="maximum")
    assert "REJHIGH" not in largest.extensions
    assert largest.data[58, round(35 + 8 * speed)] > 300


def test_rejection_map(tmp_path):
    """REJLOW and REJHIGH count what was rejected below and above; INPUTS says of which frames."""
    rng = np.random.default_rng(3)
    data = rng.normal(0, SKY_SIGMA, (9, 40, 40))
    data[2, 10, 10] += 1000
    data[3, 10, 10] += 150
    data[4, 30, 30] -= 1000
    inputs = [(write(tmp_path / f"{k}.fits", data[k], sigma=SKY_SIGMA), np.eye(3)) for k in range(9)]
    image = make(inputs, shape=(40, 40), clip_low=6.0, clip_high=6.0, clip_gradient=0.0)
    low, high = image.extensions["REJLOW"], image.extensions["REJHIGH"]
    assert (low[30, 30], high[10, 10]) == (1, 2)
    assert low.sum() + high.sum() == 9 * 1600 - image.extensions["COVERAGE"].sum()
    rejected = image.extensions["INPUTS"]["rejected"]
    assert list(np.flatnonzero(rejected)) == [2, 3, 4]
    assert (rejected[2:5] < 0.5 * 49 / 1600).all()  # around strong outliers limits are narrower


@pytest.mark.parametrize("method", ["mean", "sum", "median", "min", "max"])
def test_rejection_goes_with_every_combination(tmp_path, method):
    """What is rejected is in none of the combinations."""
    data = np.random.default_rng(4).normal(100, SKY_SIGMA, (6, 30, 30)).astype(np.float32)
    spoilt = data.copy()
    spoilt[1, 12, 13] += 5000
    inputs = [(write(tmp_path / f"{k}.fits", spoilt[k]), np.eye(3)) for k in range(6)]
    image = make(inputs, shape=(30, 30), method=method, clip_gradient=0.0)
    left = np.delete(data[:, 12, 13], 1)
    expected = left.mean() * 6 if method == "sum" else getattr(np, method)(left)
    assert image.data[12, 13] == pytest.approx(expected, rel=1e-5)


def test_median_sigma_replaces_by_the_median(tmp_path):
    data = np.random.default_rng(5).normal(0, SKY_SIGMA, (7, 30, 30)).astype(np.float32)
    data[0, 12, 13] += 5000
    inputs = [(write(tmp_path / f"{k}.fits", data[k], sigma=SKY_SIGMA), np.eye(3), 1.0, 1 + k) for k in range(7)]
    image = make(inputs, shape=(30, 30), rejection="median_sigma", clip_gradient=0.0)
    values = data[:, 12, 13].copy()
    values[0] = np.median(values)
    assert image.data[12, 13] == pytest.approx(np.average(values, weights=np.arange(1, 8)), rel=1e-4)
    assert image.extensions["COVERAGE"][12, 13] == 6


def test_entropy_keeps_what_is_burnt_out_elsewhere(tmp_path):
    """Of a long and a short exposure of a nebula, the short one fills in the core that is saturated in the long one."""
    y, x = np.mgrid[:60, :60]
    nebula = 4000.0 * np.exp(-((x - 30) ** 2 + (y - 30) ** 2) / 200)
    rng = np.random.default_rng(6)
    long = np.minimum(rng.poisson(20 * nebula) + rng.normal(0, SKY_SIGMA, nebula.shape), 40000)
    short = rng.poisson(nebula) + rng.normal(0, SKY_SIGMA, nebula.shape)
    flags = np.where(long >= 40000, np.uint16(MaskBit.SATURATED), np.uint16(0))
    inputs = [
        (write(tmp_path / "long.fits", long, mask=flags), np.eye(3)),
        (write(tmp_path / "short.fits", short), np.eye(3), 20.0),
    ]
    errors = {}
    for method in ("mean", "entropy"):
        image = make(inputs, shape=(60, 60), method=method, rejection="none")
        errors[method] = np.abs(image.data - 20 * nebula)[26:35, 26:35].mean() / (20 * nebula.max())
    print(f"error of a burnt-out core: {errors}")
    assert errors["mean"] > 0.2
    assert errors["entropy"] < 0.02


def test_entropy_is_that_of_the_neighbourhood():
    """Weights are the entropy of 9 x 9 pixels in steps of the noise, gaps and edges left out; a flat one has none."""
    values = np.random.default_rng(7).normal(0, 20, (1, 25, 30)).astype(np.float32)
    values[0, 4, 5], values[0, 12:, 15:] = np.nan, 3.0
    data, variance, weight = (np.empty((25, 30), np.float32) for _ in range(3))
    ones = np.ones(1, np.float32)
    combination.entropy_average(
        values, np.ones_like(values), 0, ones, 10 * ones, data, variance, np.empty((25, 30), np.int16), weight
    )
    for y, x in ((0, 0), (5, 6), (10, 20), (24, 3), (20, 25)):
        around = values[0, max(0, y - 4) : y + 5, max(0, x - 4) : x + 5]
        _, counts = np.unique(np.floor(around[np.isfinite(around)] / 10), return_counts=True)
        p = counts / counts.sum()
        assert weight[y, x] == pytest.approx(1e-3 - (p * np.log(p)).sum(), abs=1e-5)


# ---------------------------------------------------------------------------------------------- masks


def test_mask_rules(tmp_path):
    """Defects count where every frame has them; saturation where any has it, and all frames are kept there."""
    bad, ray, saturated = (np.uint16(bit) for bit in (MaskBit.BAD, MaskBit.COSMIC_RAY, MaskBit.SATURATED))
    inputs = []
    for k in range(4):
        data, mask = np.full((30, 30), 100.0), np.zeros((30, 30), np.uint16)
        mask[5, 5] = bad
        mask[10, 10] = ray if k == 0 else 0
        mask[15, 15] = bad if k < 2 else ray
        data[20, 20], mask[20, 20] = (60000, saturated) if k == 1 else (40000, 0)
        inputs.append((write(tmp_path / f"{k}.fits", data, mask=mask), np.eye(3)))
    image = make(inputs, shape=(30, 30))
    coverage = image.extensions["COVERAGE"]
    assert image.mask[5, 5] == MaskBit.BAD | MaskBit.NO_DATA and np.isnan(image.data[5, 5])
    assert image.mask[10, 10] == 0 and coverage[10, 10] == 3
    assert image.mask[15, 15] == MaskBit.NO_DATA
    assert image.mask[20, 20] == MaskBit.SATURATED and coverage[20, 20] == 4
    assert image.data[20, 20] == pytest.approx(45000, rel=1e-4)
    assert np.isnan(image.uncertainty[5, 5]) and image.extensions["WEIGHT"][5, 5] == 0


def test_dithers_fill_bad_pixels(tmp_path):
    """A pixel bad on every frame has no hole in a dithered stack."""

    def spoil(image, mask):
        image[60, 60], mask[60, 60] = 60000, MaskBit.BAD

    image = make(night(tmp_path, dithers(5, 5.0), changes=dict.fromkeys(range(5), spoil)))
    assert np.isfinite(image.data[20:-20, 20:-20]).all()
    assert not image.mask[20:-20, 20:-20].any()


def test_outside_all_frames(tmp_path):
    """What no frame covers is NaN and NO_DATA, and raises no alarm."""
    inputs = [(path, matrix @ shift(70, 0), s, w) for path, matrix, s, w in night(tmp_path, dithers(3, 1.0))]
    image = make(inputs)
    assert np.isnan(image.data[:, :68]).all()
    assert (image.mask[:, :68] == MaskBit.NO_DATA).all()
    assert np.isfinite(image.data[5:-5, 75:]).all()


# ---------------------------------------------------------------------------------------------- noise


def noise_frames(folder, offsets, seed, common=0.0, shape=(200, 200)):
    """Pure noise of SKY_SIGMA in each frame, of which `common` is one pattern on the detector."""
    rng = np.random.default_rng(seed)
    pattern = rng.normal(0, common, shape)
    own = np.sqrt(SKY_SIGMA**2 - common**2)
    inputs = []
    for k, offset in enumerate(offsets):
        data = (pattern + rng.normal(0, own, shape)).astype(np.float32)
        image = Image(data, np.zeros(shape, np.uint16), np.full(shape, SKY_SIGMA, np.float32), header(CALNOISE=common))
        products.write_image(folder / f"f{k}.fits", image)
        inputs.append((folder / f"f{k}.fits", shift(*offset)))
    return inputs


@pytest.mark.accuracy
@pytest.mark.parametrize("common", [0.0, 4.0])
@pytest.mark.parametrize(
    ("method", "size"), [*itertools.product(("mean", "median"), (0.0, 0.3, 3.0, 20.0)), ("auto_adaptive", 3.0)]
)
def test_stated_sigma_is_the_scatter(tmp_path, method, size, common):
    """UNCERT is within 10 % of the scatter of pixels, and with NOISECOR of that of boxes, masters' noise included."""
    of_pixels, of_boxes = [], []
    for seed in range(5):
        inputs = noise_frames(tmp_path, dithers(8, size, seed), seed, common)
        image = make(inputs, method=method, shape=(200, 200))
        box = image.header["NOISEBOX"]
        inner = image.data[24:176, 24:176].astype(float)
        sigma = np.sqrt((image.uncertainty[24:176, 24:176].astype(float) ** 2).mean())
        boxes = inner.reshape(152 // box, box, 152 // box, box).sum(axis=(1, 3))
        of_pixels.append((inner / sigma).std())
        of_boxes.append(boxes.std() / (sigma * box * image.header["NOISECOR"]))
    print(f"{method}, dithers of {size} px, common {common}: scatter/stated {np.mean(of_pixels):.3f} of pixels, "
          f"{np.mean(of_boxes):.3f} of boxes (NOISECOR {image.header['NOISECOR']})")  # fmt: skip
    assert 0.9 < np.mean(of_pixels) < 1.1
    assert 0.9 < np.mean(of_boxes) < 1.1


def test_mosaic_states_the_masters_noise_where_pointings_overlap_and_where_not(tmp_path):
    """Of two pointings of undithered frames: a master's noise averages down where they overlap, and nowhere else."""
    inputs = noise_frames(tmp_path, [(0, 0)] * 5 + [(100, 0)] * 5, 1, common=7.0)
    image = make(inputs, shape=(200, 300), rejection="none")
    ratios = {}
    for name, columns in (("left", (8, 92)), ("both", (108, 192)), ("right", (208, 292))):
        part = np.s_[:, slice(*columns)]
        ratios[name] = (image.data[part] / image.uncertainty[part]).std()
    print({name: round(float(ratio), 3) for name, ratio in ratios.items()})
    assert list(ratios.values()) == pytest.approx([1, 1, 1], abs=0.05)


@pytest.mark.accuracy
def test_rotated_frames_state_their_noise(tmp_path):
    """The same for frames turned by half a turn, by a few degrees and of another scale."""
    ratios = []
    for seed in range(5):
        inputs = noise_frames(tmp_path, dithers(6, 3.0, seed), seed)
        turned = []
        for k, (path, matrix) in enumerate(inputs):
            angle, scale = np.radians((0, 180, 3, 90, -2, 180.1)[k]), (1, 1, 1, 1, 0.9, 1.1)[k]
            linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            centre = np.array([99.5, 99.5])
            turn = np.vstack((np.column_stack((linear, centre - linear @ centre)), (0, 0, 1)))
            turned.append((path, matrix @ turn))
        image = make(turned, shape=(200, 200))
        inner, sigma = image.data[40:160, 40:160], image.uncertainty[40:160, 40:160]
        boxes = inner.reshape(15, 8, 15, 8).sum(axis=(1, 3)).std() / (8 * np.sqrt((sigma**2).mean()))
        ratios.append(((inner / sigma).std(), boxes / image.header["NOISECOR"]))
    print(f"turned frames: scatter/stated {np.mean(ratios, axis=0).round(3)} of pixels and boxes")
    assert np.abs(np.mean(ratios, axis=0) - 1).max() < 0.1


# ---------------------------------------------------------------------------------------------- header, inputs


def test_header(tmp_path):
    """Exposure, times, gain, read noise and inputs of the stack."""
    inputs = []
    for k, (exposure, scale) in enumerate(((60.0, 1.0), (120.0, 0.5), (60.0, 1.0))):
        path = tmp_path / f"f{k}.fits"
        write(path, np.full((20, 20), 100.0), EXPTIME=exposure, **{"DATE-OBS": f"2024-03-01T22:{10 * k:02d}:00"})
        inputs.append((path, shift(k, -k), scale, 1.0))
    image = stacking.stack(inputs, reference_header((20, 20), CRNUM=5), OPTIONS | {"rejection": "none"})
    assert image.header["NCOMBINE"] == 3
    assert image.header["EXPTIME"] == 60
    assert image.header["TOTEXP"] == 240
    assert image.header["DATE-OBS"].startswith("2024-03-01T22:00:00")
    # (0.5 x 60 + 11 x 120 + 20.5 x 60) / 240 minutes after 22:00
    assert image.header["DATE-AVG"].startswith("2024-03-01T22:10:45")
    assert image.header["MJD-AVG"] == pytest.approx(60370.916667 + 10.75 / 1440, abs=1e-6)
    assert "CRNUM" not in image.header
    # variance of the mean of 100 on the reference's scale: (100 + 0.25 x 200 + 100) / 9
    gain = image.header["GAIN"]
    assert 100 / gain == pytest.approx(250 / 9)
    assert (image.header["RDNOISE"] / gain) ** 2 == pytest.approx((25 + 0.25 * 25 + 25) / 9, rel=1e-4)
    assert image.header["EFFEXP"] == pytest.approx(60 * gain)
    assert image.header["SATURATE"] == 30000
    assert (image.header["STACKMET"], image.header["STACKREJ"]) == ("mean", "none")
    table = image.extensions["INPUTS"]
    assert list(table["frame"]) == ["f0", "f1", "f2"]
    assert list(table["x_0"]) == [0, 1, 2]
    assert list(table["flux_scale"]) == [1.0, 0.5, 1.0]


@pytest.mark.parametrize("method", ["mean", "sum", "median"])
def test_gain_and_read_noise_give_the_scatter(tmp_path, method):
    """A stack's variance is signal / GAIN + (RDNOISE / GAIN)^2, also of a median and a sum."""
    rng = np.random.default_rng(8)
    shape, read_noise = (150, 150), 5.0
    inputs = []
    for k in range(6):
        data = rng.poisson(400, shape) + rng.normal(0, read_noise, shape)
        inputs.append((write(tmp_path / f"{k}.fits", data, sigma=read_noise, RDNOISE=read_noise), np.eye(3)))
    image = make(inputs, shape=shape, method=method, rejection="none")
    gain, noise = image.header["GAIN"], image.header["RDNOISE"]
    expected = image.data.mean(dtype=float) / gain + (noise / gain) ** 2
    assert image.data.var(dtype=float) == pytest.approx(expected, rel=0.05)


def test_skies_are_matched_where_frames_overlap(tmp_path):
    """Frames with skies of their own leave no seam, and INPUTS says what was subtracted."""
    shape, skies = (300, 500), (0.0, 40.0, -25.0)
    rng = np.random.default_rng(9)
    inputs = [
        (write(tmp_path / f"{k}.fits", rng.normal(sky, SKY_SIGMA, (300, 260)), sigma=SKY_SIGMA), shift(120 * k, 0))
        for k, sky in enumerate(skies)
    ]
    steps = {}
    for mode in ("none", "constant"):
        image = make(inputs, shape=shape, match_sky=mode)
        columns = image.data[10:-10, 10:-10].mean(axis=0).reshape(-1, 20).mean(axis=1)
        steps[mode] = np.abs(np.diff(columns)).max()
    print(f"largest step along the mosaic: {steps}")
    assert steps["none"] > 10
    assert steps["constant"] < 1.5
    offsets = image.extensions["INPUTS"]["sky_offset"]
    np.testing.assert_allclose(offsets, np.array(skies) - np.mean(skies), atol=0.8)


def test_product_is_readable(tmp_path):
    """The stack is an image product like any other; CCDData opens it."""
    from astropy.nddata import CCDData

    image = make(night(tmp_path, dithers(3, 2.0)))
    products.write_image(tmp_path / "stack.fits", image)
    again = products.read_image(tmp_path / "stack.fits")
    assert np.array_equal(again.data, image.data, equal_nan=True)
    assert set(again.extensions) == {"COVERAGE", "WEIGHT", "REJLOW", "REJHIGH", "INPUTS"}
    ccd = CCDData.read(tmp_path / "stack.fits")
    assert ccd.uncertainty is not None and ccd.mask is not None


def test_rejected_frames_are_left_out(tmp_path):
    inputs = night(tmp_path, dithers(3, 2.0))
    products.write_rejected(tmp_path / "f01.fits", RejectedFrame("clouds"))
    assert make(inputs).header["NCOMBINE"] == 2


def test_nothing_to_stack(tmp_path):
    products.write_rejected(tmp_path / "f.fits", RejectedFrame("clouds"))
    with pytest.raises(RejectedFrame, match="no frame to stack"):
        make([(tmp_path / "f.fits", np.eye(3))])
    with pytest.raises(RejectedFrame, match="no frame to stack"):
        make([])


def test_bad_arguments(tmp_path):
    inputs = night(tmp_path, dithers(2, 1.0))
    with pytest.raises(ValueError, match="stack.method is 'average'.*kappa_sigma"):
        make(inputs, method="average")
    with pytest.raises(ValueError, match="stack.rejection is 'kappa_sigma'.*winsorised"):
        make(inputs, rejection="kappa_sigma")
    with pytest.raises(ValueError, match="stack.match_sky is 'plane'"):
        make(inputs, match_sky="plane")
    with pytest.raises(ValueError, match="stack.kernel"):
        make(inputs, kernel="spline")
    with pytest.raises(ValueError, match="flux scale nan"):
        make([(inputs[0][0], np.eye(3), np.nan, 1.0)])


# ---------------------------------------------------------------------------------------------- real frames


def iraf_shifts(path):
    """Shifts of IRAF's xregister by file name."""
    shifts, name = {}, None
    for line in path.read_text().splitlines():
        words = line.split()
        if words[:1] == ["begin"]:
            name = words[1]
            shifts[name] = [0.0, 0.0]
        elif words[:1] in (["xshift"], ["yshift"]):
            shifts[name]["xy".index(words[0][0])] = float(words[1])
    return shifts


def test_equals_iraf_imcombine(shared_data, tmp_path):
    """With IRAF's shifts, the bilinear mean is its average of linearly shifted frames to 0.15 ADU rms."""
    folder = shared_data / "stargate_iraf"
    shifts = iraf_shifts(folder / "truth" / "input_output_shifts.txt")
    inputs = []
    for path in sorted((folder / "raw").glob("*.fit")):
        data = fits.getdata(path).astype(np.float32)
        inputs.append((write(tmp_path / f"{path.stem}.fits", data), shift(*shifts.get(path.name, (0.0, 0.0)))))
    assert len(inputs) == 10
    image = make(inputs, rejection="none", kernel="bilinear", shape=data.shape)
    published = fits.getdata(folder / "truth" / "registeredImage.fit").astype(float)
    difference = (image.data - published)[12:-12, 12:-12]
    constant = np.median(difference)
    rms = np.sqrt(np.mean((difference - constant) ** 2))
    print(f"stargate: constant {constant:.3f} ADU, rms {rms:.3f} ADU")
    assert rms < 0.15
    assert constant == pytest.approx(0.45, abs=0.1)


def test_times_are_written_as_astropy_does():
    from astropy.time import Time

    rng = np.random.default_rng(5)
    days = [*rng.uniform(57800, 60000, 300), 59999.9999999999, 60000.0]  # none with a leap second
    assert [stackheader._isot(day) for day in days] == list(Time(days, format="mjd").isot)


@pytest.mark.parametrize("cards", [{"MJD-OBS": 1e9}, {"MJD-OBS": 60000.0, "EXPTIME": 1e15}, {"MJD-OBS": -1e300}])
def test_a_time_that_no_calendar_has_is_left_out(tmp_path, cards):
    path = write(tmp_path / "f.fits", np.ones((30, 30)), **cards)
    assert "DATE-AVG" not in make([(path, np.eye(3))], shape=(30, 30)).header
