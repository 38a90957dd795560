"""Resampling against a direct evaluation of its definition, and against truth."""

from __future__ import annotations

import numpy as np
import pytest

from nightflow import resampling
from nightflow.products import MaskBit

KERNELS = sorted(resampling.KERNELS)
BAD, SATURATED, NO_DATA = (np.uint16(bit) for bit in (MaskBit.BAD, MaskBit.SATURATED, MaskBit.NO_DATA))


def similarity(angle=0.0, scale=1.0, shift=(0.0, 0.0), mirrored=False):
    """Matrix frame -> reference; angle in degrees."""
    a = np.radians(angle)
    rotation = scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    if mirrored:
        rotation = rotation @ np.diag((-1.0, 1.0))
    return np.vstack((np.column_stack((rotation, shift)), (0, 0, 1)))


def about_centre(matrix, shape):
    """The same transform about the centre of the image."""
    centre = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    moved = matrix.copy()
    moved[:2, 2] += centre - matrix[:2, :2] @ centre
    return moved


def resample(data, matrix, kernel="lanczos3", *, mask=None, variance=None, rows=None, shape=None, **options):
    """Value, variance and bits of the whole output, or of some rows; `columns` cuts them into blocks."""
    shape = shape or data.shape
    rows = rows or (0, shape[0])
    mask = np.zeros(data.shape, np.uint16) if mask is None else mask
    variance = np.ones(data.shape, np.float32) if variance is None else variance
    grid = resampling.make_grid(matrix, data.shape)
    out = tuple(np.full((rows[1] - rows[0], shape[1]), fill, dtype) for fill, dtype in
                ((np.nan, np.float32), (np.nan, np.float32), (NO_DATA, np.uint16)))  # fmt: skip
    for columns in options.pop("blocks", [(0, shape[1])]):
        window = resampling.input_window(grid, rows, columns)
        if window is not None:
            planes = (grid.turn(plane[resampling.raw_window(grid, window)]) for plane in (data, variance, mask))
            polynomials = resampling.kernel_polynomials(kernel)
            resampling.resample(*planes, grid, window, rows, columns, polynomials, out, **options)
    return out


def weights_1d(kernel, offsets):
    """Weights of six taps at `offsets` from the place wanted: sum one, centroid zero, else nearest to the kernel."""
    weights = resampling.KERNELS[kernel](offsets)
    weights = weights / weights.sum()
    if kernel == "nearest":
        return weights
    constraints = np.stack((np.ones(6), offsets))
    return weights + np.linalg.pinv(constraints) @ ((1.0, 0.0) - constraints @ weights)


def direct(data, variance, matrix, kernel, shape):
    """Definition of resampling in float64, pixel by pixel: NaN where the footprint leaves the frame."""
    inverse = np.linalg.inv(matrix)
    area = abs(np.linalg.det(inverse[:2, :2]))
    value, var = np.full(shape, np.nan), np.full(shape, np.nan)
    for yo in range(shape[0]):
        for xo in range(shape[1]):
            x, y, _ = inverse @ (xo, yo, 1)
            if kernel == "nearest":
                x, y = np.floor(x + 0.5), np.floor(y + 0.5)
            i, j = int(np.floor(x)) + np.arange(-2, 4), int(np.floor(y)) + np.arange(-2, 4)
            wx, wy = weights_1d(kernel, i - x), weights_1d(kernel, j - y)
            if i[0] < 0 or j[0] < 0 or i[-1] >= data.shape[1] or j[-1] >= data.shape[0]:
                continue
            weights = np.outer(wy, wx)
            footprint = np.ix_(j, i)
            value[yo, xo] = area * (weights * data[footprint]).sum()
            var[yo, xo] = area**2 * (weights**2 * variance[footprint]).sum()
    return value, var


def gaussian_stars(shape, places, fwhm, flux=1e5):
    y, x = np.mgrid[: shape[0], : shape[1]]
    sigma = fwhm / 2.3548
    image = np.zeros(shape)
    for x0, y0 in places:
        image += flux / (2 * np.pi * sigma**2) * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma**2))
    return image.astype(np.float32)


TRANSFORMS = {
    "shift": similarity(shift=(3.31, -2.72)),
    "integer shift": similarity(shift=(-4.0, 7.0)),
    "small rotation": similarity(0.05, shift=(0.4, 0.2)),
    "rotation": similarity(31.0, shift=(10.0, -9.0)),
    "right angle": similarity(90.0, shift=(36.4, 0.25)),
    "flip": similarity(180.2, shift=(39.0, 38.3)),
    "mirror": similarity(2.0, shift=(39.0, 0.0), mirrored=True),
    "scale": similarity(-5.0, 1.3, shift=(-4.0, -3.0)),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_equals_its_definition(name, kernel):
    """Value and variance equal the kernel sums evaluated pixel by pixel in float64."""
    rng = np.random.default_rng(5)
    data = rng.normal(1000, 100, (41, 38)).astype(np.float32)
    variance = rng.uniform(50, 200, data.shape).astype(np.float32)
    value, var, _ = resample(data, TRANSFORMS[name], kernel, variance=variance, shape=(40, 36))
    expected, expected_variance = direct(data, variance, TRANSFORMS[name], kernel, (40, 36))
    known = np.isfinite(expected)
    assert known.sum() > 200
    np.testing.assert_allclose(value[known], expected[known], rtol=3e-6)
    np.testing.assert_allclose(var[known], expected_variance[known], rtol=2e-5)


def test_bilinear_equals_scipy():
    """An independent implementation agrees."""
    from scipy.ndimage import map_coordinates

    data = np.random.default_rng(1).normal(0, 1, (50, 50)).astype(np.float32)
    value, _, _ = resample(data, similarity(7.0, shift=(2.2, -1.4)), "bilinear")
    inverse = np.linalg.inv(similarity(7.0, shift=(2.2, -1.4)))
    y, x = np.mgrid[:50, :50]
    places = inverse[1::-1] @ (x.ravel(), y.ravel(), np.ones(2500))
    expected = map_coordinates(data.astype(float), places, order=1, cval=np.nan).reshape(50, 50)
    known = np.isfinite(expected) & np.isfinite(value)
    np.testing.assert_allclose(value[known], expected[known], atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_identity_returns_the_frame(kernel):
    """The reference frame passes through unchanged."""
    data = np.random.default_rng(2).normal(500, 100, (32, 30)).astype(np.float32)
    value, variance, bits = resample(data, np.eye(3), kernel)
    np.testing.assert_allclose(value, data, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(variance, 1, rtol=1e-5)
    assert not bits.any()


@pytest.mark.parametrize("kernel", KERNELS)
def test_flat_sky_stays_flat(kernel):
    """A constant stays constant at every phase: the weights sum to one."""
    data = np.full((40, 40), 1234.5, np.float32)
    value, _, _ = resample(data, about_centre(similarity(17.0), data.shape), kernel)
    np.testing.assert_allclose(value[np.isfinite(value)], 1234.5, rtol=1e-6)


@pytest.mark.parametrize("name", [*TRANSFORMS, "far away"])
@pytest.mark.parametrize(("height", "width"), [(1, 42), (7, 13), (16, 42), (45, 5)])
def test_blocks_do_not_matter(name, height, width):
    """Pixels come out bit-identical whatever block they are made in, flagged ones included."""
    rng = np.random.default_rng(3)
    data = rng.normal(0, 10, (45, 42)).astype(np.float32)
    mask = np.where(rng.random(data.shape) < 0.05, BAD, 0).astype(np.uint16)
    mask |= np.where(rng.random(data.shape) < 0.02, SATURATED, 0).astype(np.uint16)
    data[rng.random(data.shape) < 0.01] = np.nan
    matrix = TRANSFORMS.get(name, similarity(shift=(1.5, 30.0)))
    whole = resample(data, matrix, mask=mask)
    blocks = [(start, min(start + width, 42)) for start in range(0, 42, width)]
    for start in range(0, 45, height):
        rows = (start, min(start + height, 45))
        strip = resample(data, matrix, mask=mask, rows=rows, blocks=blocks)
        for part, all_rows in zip(strip, whole, strict=True):
            assert part.tobytes() == all_rows[slice(*rows)].tobytes()


@pytest.mark.parametrize("angle", [0.0, 0.01, 3.0, 45.0, 88.0, 180.0])
def test_column_blocks_cover_the_strip(angle):
    """Blocks cover each column once and keep the input within a few times the output, whatever the rotation."""
    grid = resampling.make_grid(about_centre(similarity(angle), (3000, 4000)), (3000, 4000))
    blocks = resampling.column_blocks(grid, 64, 4000)
    assert [b[0] for b in blocks[1:]] == [b[1] for b in blocks[:-1]]
    assert blocks[0][0] == 0 and blocks[-1][1] == 4000
    windows = [resampling.input_window(grid, (1500, 1564), block) for block in blocks]
    n_pixels = sum((r.stop - r.start) * (c.stop - c.start) for r, c in filter(None, windows))
    assert n_pixels < 6 * 64 * 4000


@pytest.mark.parametrize("matrix", [similarity(shift=(200.0, 0.0)), similarity(shift=(0.0, -300.0))])
def test_no_overlap(matrix):
    """A frame beside the stack contributes nothing and raises nothing."""
    value, _, bits = resample(np.ones((40, 40), np.float32), matrix)
    assert np.isnan(value).all() and (bits == NO_DATA).all()


@pytest.mark.parametrize(("kernel", "fwhm"), [("lanczos3", 2.0), ("lanczos3", 3.5), ("cubic", 3.5), ("bilinear", 3.5)])
def test_flux_of_stars(kernel, fwhm):
    """Star fluxes are kept to 5 mmag, with Lanczos-3 (1 mmag seen) down to two pixels and under changes of scale."""
    places = [(40.3, 42.8), (60.0, 41.5), (50.6, 59.1)]
    data = gaussian_stars((100, 100), places, fwhm)
    transforms = [similarity(shift=(0.5, 0.5)), similarity(1.0), similarity(33.0), similarity(180.0)]
    if kernel == "lanczos3":  # narrower kernels leave aliases of stars on a grid of another step
        transforms += [similarity(-3.0, 1.25), similarity(10.0, 0.95), similarity(4.0, mirrored=True)]
    y, x = np.mgrid[:100, :100]
    for matrix in transforms:
        matrix = about_centre(matrix, data.shape)
        value, _, _ = resample(data, matrix, kernel)
        for place in places:
            x0, y0, _ = matrix @ (*place, 1)
            flux = value[np.hypot(x - x0, y - y0) < 12].sum()
            assert abs(2.5 * np.log10(flux / 1e5)) < 0.005


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("kernel", ["bilinear", "cubic", "lanczos3"])
def test_positions_of_stars(kernel, shift):
    """A star lands where the matrix sends it, to a thousandth of a pixel (a bare Lanczos-3 moves it by 0.02)."""
    data = gaussian_stars((61, 61), [(30.37, 29.81)], 3.0)
    y, x = np.mgrid[:61, :61]
    for matrix in (similarity(), similarity(0.01), similarity(180.0), similarity(90.0), similarity(mirrored=True)):
        matrix = about_centre(matrix, data.shape)
        matrix[:2, 2] += shift, -shift
        value = resample(data, matrix, kernel)[0]
        x0, y0, _ = matrix @ (30.37, 29.81, 1)
        near = np.hypot(x - x0, y - y0) < 12
        assert (value * x)[near].sum() / value[near].sum() == pytest.approx(x0, abs=0.001)
        assert (value * y)[near].sum() / value[near].sum() == pytest.approx(y0, abs=0.001)


@pytest.mark.parametrize("kernel", ["bilinear", "cubic", "lanczos3"])
def test_gradient_stays_straight(kernel):
    """A sloping sky is reproduced at every phase: the weights' centroid is the place."""
    y, x = np.mgrid[:40, :40]
    matrix = about_centre(similarity(11.0), (40, 40))
    value, _, _ = resample((5.0 * x - 2.0 * y).astype(np.float32), matrix, kernel)
    xi, yi = np.einsum("ij,jkl->ikl", np.linalg.inv(matrix)[:2], np.stack((x, y, np.ones_like(x))))
    inside = np.isfinite(value) & (np.hypot(x - 19.5, y - 19.5) < 15)
    np.testing.assert_allclose(value[inside], (5 * xi - 2 * yi)[inside], atol=2e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_variance_is_the_scatter(kernel):
    """The stated variance equals the scatter of resampled white noise."""
    rng = np.random.default_rng(8)
    data = rng.normal(0, 7, (400, 400)).astype(np.float32)
    matrix = about_centre(similarity(0.3, 1.1, (0.21, 0.4)), data.shape)
    value, variance, _ = resample(data, matrix, kernel, variance=np.full(data.shape, 49, np.float32))
    known = np.isfinite(value)
    assert value[known].std() == pytest.approx(np.sqrt(variance[known].mean()), rel=0.02)


def test_flux_scale_applies_to_value_and_variance():
    data = np.full((20, 20), 100, np.float32)
    value, variance, _ = resample(data, np.eye(3), flux_scale=2.5)
    assert value[10, 10] == pytest.approx(250)
    assert variance[10, 10] == pytest.approx(6.25, rel=1e-5)


@pytest.mark.parametrize("kernel", ["bilinear", "cubic", "lanczos3"])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, 0.5), (0.3, -0.2)])
def test_hot_pixel_leaves_no_trace(kernel, shift):
    """Output pixels that a hot pixel dominates are left out with its flag, the others show nothing of it."""
    rng = np.random.default_rng(4)
    clean = rng.normal(0, 1, (41, 41)).astype(np.float32)
    data, mask = clean.copy(), np.zeros(clean.shape, np.uint16)
    data[20, 20], mask[20, 20] = 1e6, BAD
    value, variance, bits = resample(data, similarity(shift=shift), kernel, mask=mask)
    expected, _, _ = resample(clean, similarity(shift=shift), kernel)
    lost = np.isnan(value) & np.isfinite(expected)
    assert 1 <= lost.sum() <= 4
    assert (bits[lost] == BAD).all()
    assert np.array_equal(np.isnan(value), np.isnan(variance))
    kept = np.isfinite(value)
    assert np.abs(value - expected)[kept].max() < 1.0  # sigma
    assert not bits[kept].any()


def test_bad_pixel_under_a_star():
    """A bad pixel beside a star's peak changes the pixels that remain by less than a percent of the peak."""
    clean = gaussian_stars((41, 41), [(20.2, 20.4)], 2.5)
    data, mask = clean.copy(), np.zeros(clean.shape, np.uint16)
    data[21, 21], mask[21, 21] = np.nan, BAD
    matrix = similarity(shift=(0.5, 0.3))
    value, expected = resample(data, matrix, mask=mask)[0], resample(clean, matrix)[0]
    assert np.nanmax(np.abs(value - expected)) < 0.01 * clean.max()


def test_wide_hole_is_not_bridged():
    """The middle of a large hole is left out: no value is made up from afar."""
    data, mask = np.ones((41, 41), np.float32), np.zeros((41, 41), np.uint16)
    mask[15:26, 15:26] = BAD
    value, _, bits = resample(data, similarity(shift=(0.4, 0.4)), mask=mask)
    assert np.isnan(value[16:26, 16:26]).all()
    assert (bits[17:25, 17:25] == BAD).all()


def test_edges_of_the_frame():
    """Outside the frame nothing is made up; inside, at most one pixel is lost."""
    value, _, bits = resample(np.ones((40, 40), np.float32), similarity(shift=(5.4, -3.7)))
    covered = np.isfinite(value)
    assert not covered[:, :5].any() and not covered[37:].any()
    assert covered[:35, 7:].all()
    assert (bits[~covered] == NO_DATA).all()


def test_nan_without_a_flag():
    """A NaN that no flag announces does not spread."""
    data = np.ones((30, 30), np.float32)
    data[12, 14] = np.nan
    value, _, bits = resample(data, similarity(shift=(0.5, 0.5)))
    hole = np.isnan(value[5:25, 5:25])
    assert 1 <= hole.sum() <= 4
    assert (bits[5:25, 5:25][hole] == NO_DATA).all()


def test_saturated_star_does_not_ring():
    """With clamping no dark ring surrounds a saturated core or its bleeding; both keep their flag and level."""
    y, x = np.mgrid[:61, :61]
    core = (np.hypot(x - 30, y - 30) < 6) | (np.abs(x - 30) < 2)
    data = np.where(core, 60000, gaussian_stars((61, 61), [(30, 30)], 8.0, 1e6)).astype(np.float32)
    mask = np.where(core, SATURATED, 0).astype(np.uint16)
    ringing, _, _ = resample(data, similarity(shift=(0.5, 0.4)), mask=mask, clamp=False)
    value, _, bits = resample(data, similarity(shift=(0.5, 0.4)), mask=mask)
    inner = slice(5, 55), slice(5, 55)
    assert ringing[inner].min() < -3000
    assert value[inner].min() >= 0
    assert value[inner].max() <= 60000
    assert (bits[inner][core[inner]] == SATURATED).all()
    assert (bits[inner] > 0).sum() < 1.6 * core[inner].sum()


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.diag((1.0, 0.0, 1.0))])
def test_singular_matrix(matrix):
    with pytest.raises(ValueError, match="no inverse"):
        resampling.make_grid(matrix, (10, 10))


def test_unknown_kernel():
    with pytest.raises(ValueError, match="stack.kernel is 'sinc'.*lanczos3"):
        resampling.kernel_polynomials("sinc")


@pytest.mark.parametrize("kernel", KERNELS)
def test_polynomials_are_the_kernel(kernel):
    """The polynomials reproduce the normalised kernel to the rounding of float32."""
    fraction = np.linspace(0, 1, 500, endpoint=False)
    polynomials = resampling.kernel_polynomials(kernel)
    place = np.zeros(500) if kernel == "nearest" else fraction
    weights = np.array([weights_1d(kernel, np.arange(-2, 4) - p) for p in place]).T
    np.testing.assert_allclose(resampling.kernel_weights(polynomials, fraction), weights, atol=2e-7)


# ---------------------------------------------------------------------------------------------- distortion


def bent(matrix, shape, corner):
    """Transform frame -> output: a cubic radial distortion of `corner` px in the corner, then a matrix."""
    ny, nx = shape

    def transform(x, y):
        dx, dy = x - (nx - 1) / 2, y - (ny - 1) / 2
        stretch = 1 + corner / np.hypot(nx / 2, ny / 2) ** 3 * (dx**2 + dy**2)
        x, y = (nx - 1) / 2 + dx * stretch, (ny - 1) / 2 + dy * stretch
        return matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2], matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]

    return transform


TURNS = {
    "upright": similarity(3.0, 1.1),
    "flipped": similarity(181.0),
    "on its side": similarity(88.0),
    "mirrored": similarity(-20.0, mirrored=True),
    "diagonal": similarity(45.0),
}


@pytest.mark.parametrize("turn", TURNS)
def test_stars_of_a_distorted_frame_land_where_they_belong_with_their_flux(turn):
    """Positions within 0.01 px, fluxes within 1 mmag although the pixel area varies by 12 %, whatever the blocks."""
    shape, places = (300, 340), [(40.2, 35.1), (300.4, 38.9), (170.3, 149.6), (36.0, 262.3), (305.8, 258.7)]
    data = gaussian_stars(shape, places, 4.0)
    transform = bent(about_centre(TURNS[turn], shape), shape, 9.0)
    moved = np.column_stack(transform(*np.array(places).T))
    low = np.floor(moved.min(axis=0)) - 25
    size = tuple((np.ceil(moved.max(axis=0)) - low + 25).astype(int)[::-1])
    value, _, _ = resample(
        data, lambda x, y: tuple(c - o for c, o in zip(transform(x, y), low, strict=True)), shape=size
    )
    blocks = [(0, 100), (100, 101), (101, size[1])]
    again, _, _ = resample(data, lambda x, y: tuple(c - o for c, o in zip(transform(x, y), low, strict=True)),
                           shape=size, blocks=blocks)  # fmt: skip
    np.testing.assert_array_equal(value, again)
    yy, xx = np.mgrid[: size[0], : size[1]]
    for x, y in moved - low:
        near = np.hypot(xx - x, yy - y) < 15
        light = value[near].astype(float)
        assert np.isfinite(light).all()
        found = (light * xx[near]).sum() / light.sum(), (light * yy[near]).sum() / light.sum()
        assert np.hypot(found[0] - x, found[1] - y) < 0.01
        assert light.sum() == pytest.approx(1e5, rel=1e-3)


def test_a_distortion_says_nothing_far_off_the_frame():
    """Where the polynomials have no meaning the output is empty: no second image of the frame."""
    data = np.ones((100, 120), np.float32)
    matrix = similarity(30.0, shift=(400.0, 300.0))
    value, _, bits = resample(data, bent(matrix, data.shape, 6.0), shape=(800, 900))
    covered = np.isfinite(value)
    corners = np.array(bent(matrix, data.shape, 6.0)(np.array([0, 119, 0, 119]), np.array([0, 0, 99, 99])))
    y, x = np.nonzero(covered)
    assert covered.sum() == pytest.approx(100 * 120 * 1.06, rel=0.08)
    assert x.min() > corners[0].min() - 2 and x.max() < corners[0].max() + 2
    assert y.min() > corners[1].min() - 2 and y.max() < corners[1].max() + 2
    assert (bits[~covered] == NO_DATA).all()


def test_a_wild_distortion_is_refused():
    with pytest.raises(ValueError, match="no smooth polynomial"):
        resampling.make_grid(lambda x, y: (x + 3 * np.sin(x / 3), y), (200, 200))
