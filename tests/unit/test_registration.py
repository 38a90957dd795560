"""Registration against known transforms."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from nightflow import registration
from nightflow.products import MaskBit, RejectedFrame

OPTIONS = {
    "model": "similarity",
    "max_sources": 50,
    "min_matches": 6,
    "match_radius": 3.0,
    "max_rms": 0.5,
    "allow_mirrored": True,
}
SHAPE = (1000, 1200)


def matrix_of(angle=0.0, scale=1.0, shift=(0.0, 0.0), mirrored=False):
    """Frame -> reference about the middle of the frame."""
    a = np.radians(angle)
    linear = scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    if mirrored:
        linear = linear @ np.diag((-1.0, 1.0))
    middle = np.array([SHAPE[1] / 2, SHAPE[0] / 2])
    return np.vstack((np.column_stack((linear, middle - linear @ middle + shift)), (0, 0, 1)))


def star_lists(seed, matrix, *, n=80, noise=0.03, missing=0.1, spurious=5, flux_ratio=1.0):
    """Source tables of a frame and the reference: own noise, own omissions, own spurious sources."""
    rng = np.random.default_rng(seed)
    reference = rng.uniform((0, 0), SHAPE[::-1], (n, 2))
    flux = 1000 * rng.pareto(1.2, n) + 500
    tables = []
    for positions, ratio in ((_move(np.linalg.inv(matrix), reference), flux_ratio), (reference, 1.0)):
        kept = rng.random(n) > missing
        # photon-limited centroids: fwhm / 2.35 / (S/N), never better than `noise`
        error = np.hypot(noise, 3.0 / 2.35 * 30 / flux[kept])
        xy = np.vstack(
            (
                positions[kept] + rng.normal(0, 1, (kept.sum(), 2)) * error[:, None],
                rng.uniform((0, 0), SHAPE[::-1], (spurious, 2)),
            )
        )
        total = np.concatenate(
            (flux[kept] * ratio * (1 + rng.normal(0, 0.01, kept.sum())), rng.uniform(500, 5000, spurious))
        )
        tables.append(_table(xy, total))
    return tables


def _table(xy, flux):
    inside = ((xy >= 0) & (xy < SHAPE[::-1])).all(axis=1)
    xy, flux = xy[inside], flux[inside]
    table = Table({"x": xy[:, 0], "y": xy[:, 1], "flux": flux, "flux_err": np.hypot(30, 0.01 * flux)})
    table["fwhm"] = 3.0
    table["flags"] = np.zeros(len(table), dtype=int)
    return table[np.argsort(-table["flux"])]


def _move(matrix, xy):
    return xy @ matrix[:2, :2].T + matrix[:2, 2]


def distance_from_truth(transform, matrix):
    """Root mean square distance of the transforms over the frame, in reference pixels."""
    y, x = np.mgrid[0 : SHAPE[0] : 50, 0 : SHAPE[1] : 50]
    xy = np.column_stack((x.ravel(), y.ravel()))
    return np.sqrt(((_move(transform.matrix, xy) - _move(matrix, xy)) ** 2).sum(axis=1).mean())


TRANSFORMS = {
    "same": {},
    "dither": {"shift": (12.3, -20.7)},
    "a third of a frame": {"shift": (400.0, 0.0)},
    "field rotation": {"angle": 0.7, "shift": (3.0, 1.0)},
    "meridian flip": {"angle": 180.3, "shift": (25.0, -14.0)},
    "quarter turn": {"angle": 90.0},
    "another camera": {"angle": -33.0, "scale": 0.73, "shift": (40.0, 30.0)},
    "mirror": {"angle": 12.0, "mirrored": True},
}


@pytest.mark.accuracy
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_within_three_hundredths_of_a_pixel(name):
    """Transforms from centroids of 0.03 px and more are within 0.03 px rms of truth, whatever the geometry."""
    matrix = matrix_of(**TRANSFORMS[name])
    distances = []
    for seed in range(5):
        frame, reference = star_lists(seed, matrix)
        distances.append(distance_from_truth(registration.find_transform(frame, reference, OPTIONS), matrix))
    print(f"{name}: rms distance from truth {np.round(distances, 4)} px")
    assert max(distances) < 0.03


@pytest.mark.parametrize("n", [3, 4, 5, 8])
def test_few_stars(n):
    """Three stars are enough where nothing contradicts them."""
    matrix = matrix_of(0.5, shift=(10.0, 4.0))
    frame, reference = star_lists(3, matrix, n=n, missing=0, spurious=0)
    transform = registration.find_transform(frame, reference, OPTIONS)
    assert transform.n_matched == min(len(frame), len(reference))
    assert distance_from_truth(transform, matrix) < 0.25


@pytest.mark.accuracy
@pytest.mark.parametrize(
    "lists",
    [
        {"missing": 0.3, "spurious": 20},
        {"n": 12, "missing": 0.15, "spurious": 2},
        {"n": 6, "missing": 0.0, "spurious": 2},
        {"n": 160, "matrix": matrix_of(shift=(600.0, 0.0))},
        {"n": 1500, "missing": 0.2, "matrix": matrix_of(37.0, shift=(50.0, 0.0))},
    ],
    ids=["a third missing", "twelve stars", "six stars", "half a frame", "crowded"],
)
def test_difficult_lists(lists):
    """Short lists, lists with many stars missing and half-overlapping frames are registered, each of ten."""
    matrix = lists.get("matrix", matrix_of(3.0, shift=(7.0, 9.0)))
    for seed in range(10):
        frame, reference = star_lists(seed, **{"matrix": matrix} | lists)
        assert distance_from_truth(registration.find_transform(frame, reference, OPTIONS), matrix) < 0.5


# what astroalign alone does not find
_MISSED = {"a third of a frame", "another camera", "mirror"}


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name not in _MISSED])
def test_same_transform_as_from_astroalign(name, monkeypatch):
    """Whether voting triangles or astroalign find the asterisms, all stars in common give the same transform."""
    frame, reference = star_lists(1, matrix_of(**TRANSFORMS[name]))
    voted = registration.find_transform(frame, reference, OPTIONS)
    monkeypatch.setattr(registration.asterisms, "match", lambda *_: None)
    found = registration.find_transform(frame, reference, OPTIONS)
    np.testing.assert_allclose(voted.matrix, found.matrix, rtol=0, atol=1e-9)
    assert (voted.n_matched, voted.rms) == pytest.approx((found.n_matched, found.rms))


def test_same_stars_same_bits():
    """The transform is the same to the last bit in each call, and the global random state is left alone."""
    frame, reference = star_lists(1, matrix_of(2.0), missing=0.3, spurious=20)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    matrices = [registration.find_transform(frame, reference, OPTIONS).matrix.tobytes() for _ in range(5)]
    assert len(set(matrices)) == 1
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_order_of_rows_does_not_matter():
    frame, reference = star_lists(1, matrix_of(2.0))
    shuffled = frame[np.random.default_rng(0).permutation(len(frame))]
    first, second = (registration.find_transform(table, reference, OPTIONS) for table in (frame, shuffled))
    np.testing.assert_allclose(first.matrix, second.matrix, rtol=0, atol=1e-9)


@pytest.mark.parametrize("model", ["similarity", "affine"])
def test_outliers_do_not_pull(model):
    """A tenth of the stars displaced by a pixel (blends, cosmic rays) changes the transform by less than 0.03 px."""
    matrix = matrix_of(1.0, shift=(5.0, 5.0))
    frame, reference = star_lists(4, matrix, n=120, missing=0, spurious=0)
    frame["x"][::10] += 1.0
    transform = registration.find_transform(frame, reference, OPTIONS | {"model": model})
    assert distance_from_truth(transform, matrix) < 0.03
    assert transform.n_matched <= len(frame) - 8


def test_affine_follows_unequal_axes():
    """The affine model takes up a difference in the scale of the axes; the similarity cannot."""
    matrix = matrix_of(0.2, shift=(4.0, 2.0)) @ np.diag((1.001, 1.0, 1.0))
    frame, reference = star_lists(2, matrix)
    affine = registration.find_transform(frame, reference, OPTIONS | {"model": "affine"})
    similarity = registration.find_transform(frame, reference, OPTIONS)
    assert distance_from_truth(affine, matrix) < 0.03
    assert distance_from_truth(similarity, matrix) > 0.1


def test_saturated_stars_are_used_last():
    """Saturated stars with poor centroids neither mislead the asterisms nor pull the fit."""
    matrix = matrix_of(0.1, shift=(8.0, 3.0))
    frame, reference = star_lists(5, matrix, missing=0, spurious=0)
    rng = np.random.default_rng(0)
    for table in (frame, reference):
        table["flags"][:8] = int(MaskBit.SATURATED)
        table["x"][:8] += rng.normal(0, 0.5, 8)
    transform = registration.find_transform(frame, reference, OPTIONS)
    assert distance_from_truth(transform, matrix) < 0.03


@pytest.mark.parametrize("ratio", [1.0, 0.4, 3.0])
def test_flux_scale(ratio):
    """The flux scale brings the frame's fluxes to the reference's, within three of its own errors and 1 %."""
    frame, reference = star_lists(6, matrix_of(0.5), flux_ratio=ratio)
    transform = registration.find_transform(frame, reference, OPTIONS)
    assert transform.flux_scale == pytest.approx(1 / ratio, rel=0.01)
    assert abs(transform.flux_scale * ratio - 1) < 3.5 * transform.flux_scale_error * ratio


@pytest.mark.accuracy
def test_flux_scale_error_is_honest():
    """The stated error of the flux scale is the scatter over seeds, a few variable stars notwithstanding."""
    pulls = []
    for seed in range(30):
        frame, reference = star_lists(seed, matrix_of())
        frame["flux"][5:15:5] *= 1.3
        transform = registration.find_transform(frame, reference, OPTIONS)
        pulls.append((transform.flux_scale - 1) / transform.flux_scale_error)
    print(f"pull of the flux scale: mean {np.mean(pulls):.2f}, stddev {np.std(pulls):.2f}")
    assert abs(np.mean(pulls)) < 0.5
    assert 0.7 < np.std(pulls) < 1.4


def test_properties_of_a_transform():
    matrix = matrix_of(30.0, 1.5, (10.0, 0.0), mirrored=True)
    transform = registration.Transform(matrix, 0.1, 10)
    assert transform.scale == pytest.approx(1.5)
    assert transform.mirrored
    assert registration.Transform(matrix_of(30.0), 0.1, 10).rotation == pytest.approx(30.0)
    x, y = transform([1.0, 2.0], [3.0, 4.0])
    np.testing.assert_allclose(np.column_stack((x, y)), _move(matrix, np.array([[1.0, 3.0], [2.0, 4.0]])))


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_stars(n):
    frame, reference = star_lists(1, matrix_of())
    with pytest.raises(RejectedFrame, match=f"{n} stars, at least 3"):
        registration.find_transform(frame[:n], reference, OPTIONS)


@pytest.mark.parametrize("n", [4, 8, 15, 40, 1000])
def test_another_field_is_rejected(n):
    """Unrelated star lists never pass for a match, however short or long."""
    for seed in range(4):
        frame, _ = star_lists(seed, matrix_of(), n=n)
        _, reference = star_lists(seed + 100, matrix_of(), n=n)
        with pytest.raises(RejectedFrame, match="cannot be registered"):
            registration.find_transform(frame, reference, OPTIONS)


def test_mirrored_frames_can_be_forbidden():
    frame, reference = star_lists(1, matrix_of(mirrored=True))
    with pytest.raises(RejectedFrame):
        registration.find_transform(frame, reference, OPTIONS | {"allow_mirrored": False})


def test_sources_without_a_position_are_ignored():
    frame, reference = star_lists(1, matrix_of(shift=(3.0, 0.0)))
    frame["x"][0], frame["flux"][1] = np.nan, np.nan
    assert (
        distance_from_truth(registration.find_transform(frame, reference, OPTIONS), matrix_of(shift=(3.0, 0.0))) < 0.03
    )


def test_unknown_model():
    frame, reference = star_lists(1, matrix_of())
    with pytest.raises(ValueError, match="registration.model is 'spline'.*similarity, affine"):
        registration.find_transform(frame, reference, OPTIONS | {"model": "spline"})


def test_a_drifting_field_is_followed_from_frame_to_frame():
    """Frames that share a third of the reference's field are led there by their neighbours; a stranger is not."""
    rng = np.random.default_rng(8)
    x, y = rng.uniform(0, 2400, 4000), rng.uniform(0, 500, 4000)
    flux = 1e5 * rng.pareto(1.2, 4000) + 500
    frames = {}
    for number in range(9):
        left = 100.0 * number
        seen = (x > left) & (x < left + 1000)
        frames[f"f{number}"] = Table({"x": x[seen] - left, "y": y[seen], "flux": flux[seen]})
    frames["stranger"] = Table({"x": rng.uniform(0, 1000, 900), "y": rng.uniform(0, 500, 900), "flux": np.ones(900)})
    found = registration.register_group(frames, "f0", {**OPTIONS, "max_sources": 15})
    for number in range(9):
        assert found[f"f{number}"].matrix[0, 2] == pytest.approx(100.0 * number, abs=0.01)
    assert isinstance(found["stranger"], RejectedFrame)


def test_neighbours_do_not_get_into_the_ratio_of_fluxes():
    """Worse seeing lets more of a neighbour's light in: where most stars have one, the others tell."""
    rng = np.random.default_rng(12)
    x, y = (c.ravel() for c in np.meshgrid(np.arange(30.0, 600, 60), np.arange(30.0, 600, 60)))
    x, y = x + rng.uniform(-9, 9, x.size), y + rng.uniform(-9, 9, y.size)
    flux, double, let_in = 10 ** rng.uniform(4, 5, x.size), rng.random(x.size) < 0.7, rng.uniform(0, 0.04, x.size)

    def frame(fwhm, light):
        own = np.where(double, 1 + light * let_in, 1.0) * flux
        places = np.append(x, x[double] + 6.0), np.append(y, y[double])
        fluxes = np.append(own, 0.1 * flux[double])
        columns = {"x": places[0], "y": places[1], "flux": fluxes, "flux_err": np.sqrt(fluxes)}
        return Table({**columns, "fwhm": np.full(len(fluxes), fwhm)})

    found = registration.find_transform(frame(3.4, 1.0), frame(2.6, 0.1), OPTIONS)
    assert found.flux_scale == pytest.approx(1, abs=1e-3)
