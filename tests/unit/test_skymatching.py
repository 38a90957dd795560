"""Matching of the skies of frames that overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from nightflow import resampling, skymatching

SHAPE = (600, 640)


@dataclass
class Frame:
    """A frame in memory."""

    pixels: np.ndarray
    matrix: np.ndarray
    flux_scale: float = 1.0

    def __post_init__(self):
        self.grid = resampling.make_grid(self.matrix, self.pixels.shape)

    def good_values(self, windows):
        for window in windows:
            values = self.grid.turn(self.pixels[resampling.raw_window(self.grid, window)])
            yield values[np.isfinite(values)]


def shift(dx, dy):
    return np.array([[1.0, 0, dx], [0, 1, dy], [0, 0, 1]])


def view(sky, dx, dy, shape=SHAPE, seed=0):
    """Frame whose pixel (0, 0) lies at the output position (dx, dy), of the sky given as a function of x and y."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return Frame(sky(x + dx, y + dy) + np.random.default_rng(seed).normal(0, 5, shape), shift(dx, dy))


def nebula(x, y):
    return 300 * np.exp(-((x - 320) ** 2 + (y - 300) ** 2) / 2e4)


def test_constants_are_found_and_their_sum_is_zero():
    """Offsets of the sky are found to 0.3 (noise 5 a pixel); a nebula that all frames share is left alone."""
    offsets = np.array([0.0, 12.0, -7.0, 30.0])
    frames = [view(lambda x, y, o=o: nebula(x, y) + o, 3 * k, -2 * k, seed=k) for k, o in enumerate(offsets)]
    found = skymatching.match_skies(frames, SHAPE, "constant")
    assert not found[:, 1:].any()
    np.testing.assert_allclose(found[:, 0], offsets - offsets.mean(), atol=0.3)
    assert abs(found[:, 0].sum()) < 1e-9


def test_local_surfaces_are_found():
    """Gradients that differ from frame to frame leave with the local option, and with it alone."""
    slopes = (0.05, -0.03, 0.0, 0.02)
    frames = [
        view(lambda x, y, s=s: nebula(x, y) + s * x + 1e-4 * s * x * y, 0, 0, seed=k) for k, s in enumerate(slopes)
    ]
    rest = {}
    for mode in ("constant", "local"):
        found = skymatching.match_skies(frames, SHAPE, mode)
        matched = [
            frame.pixels - skymatching.surface(row, (0, SHAPE[0]), SHAPE)
            for frame, row in zip(frames, found, strict=True)
        ]
        boxes = [m[:600, :640].reshape(12, 50, 16, 40).mean(axis=(1, 3)) for m in matched]
        rest[mode] = max(np.abs(box - np.mean(boxes, axis=0)).max() for box in boxes)
    print(f"largest difference of the skies: {rest}")
    assert rest["constant"] > 5
    assert rest["local"] < 1.5


def test_a_chain_of_overlaps_is_matched():
    """Frames of a mosaic without common overlap are matched along the chain; the reference needs no part in it."""
    frames = [
        view(lambda x, y, o=o: o + 0 * x, dx, 0, (600, 240), seed=dx) for dx, o in ((0, 0), (200, 25), (400, -10))
    ]
    found = skymatching.match_skies(frames, SHAPE, "constant")[:, 0]
    np.testing.assert_allclose(np.diff(found), [25, -35], atol=0.6)


def test_flux_scale_and_turned_frames():
    """Levels are on the common scale, whatever way the frame is turned."""
    first = view(lambda x, y: 0 * x, 0, 0)
    turned = Frame((view(lambda x, y: 10 + 0 * x, 0, 0, seed=1).pixels / 2)[::-1, ::-1], np.diag([-1.0, -1, 1]), 2.0)
    turned.matrix[:2, 2] = SHAPE[1] - 1, SHAPE[0] - 1
    turned.__post_init__()
    found = skymatching.match_skies([first, turned], SHAPE, "constant")[:, 0]
    np.testing.assert_allclose(found, [-5, 5], atol=0.3)


def test_nothing_to_match():
    """One frame, frames apart, or frames without pixels get no correction."""
    frame = view(lambda x, y: 50 + 0 * x, 0, 0)
    apart = [view(lambda x, y: 50 + 0 * x, 0, 0, (100, 100)), view(lambda x, y: 0 * x, 400, 400, (100, 100))]
    empty = Frame(np.full(SHAPE, np.nan), np.eye(3))
    for frames in ([frame], apart, [frame, empty]):
        for mode in skymatching.MODES:
            assert not skymatching.match_skies(frames, SHAPE, mode).any()
    with pytest.raises(ValueError, match="match_sky is 'plane'"):
        skymatching.match_skies([frame, frame], SHAPE, "plane")


def test_frames_that_agree_but_for_rounding_are_left_alone():
    """What conjugate gradients then go along is the sky common to all frames, which nothing determines."""
    found = skymatching._conjugate_gradients(np.zeros_like, np.full((3, 1), 1e-17))
    np.testing.assert_array_equal(found, np.zeros((3, 1)))
