"""Colour pictures from the stacks of three filters."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

import numpy as np

from nightflow import crossmatch
from nightflow.products import Image, replacing

_LEAST_STARS = 5


def make(channels: Sequence[tuple], options: Mapping, registration_options: Mapping) -> np.ndarray:
    """Colour picture.

    Parameters
    ----------
    channels : sequence of tuple
        (image, catalogue, header of the catalogue) of red, green and blue.
    options, registration_options : mapping
        Sections ``composite`` and ``registration`` of the configuration.

    Returns
    -------
    ndarray of uint8, shape (ny, nx, 3)
        On the grid of the middle channel, first row at the bottom of the sky image; black where a channel has no light.

    Raises
    ------
    RejectedFrame
        If the stacks cannot be brought onto one grid.

    References
    ----------
    Lupton et al. (2004), PASP 116, 133.
    """
    from astropy.visualization import make_lupton_rgb

    pairs = [(catalogue, header) for _, catalogue, header in channels]
    matrices = [
        np.eye(3) if n == 1 else crossmatch.matrix_to(pairs[1], pair, registration_options)
        for n, pair in enumerate(pairs)
    ]
    shape = channels[1][0].shape
    planes = [_on_grid(image, matrix, shape) for (image, _, _), matrix in zip(channels, matrices, strict=True)]
    scales = _white_stars(pairs, matrices, max(1.5, pairs[1][1].get("FWHM", 3.0)))
    planes = np.array([plane * scale for plane, scale in zip(planes, scales, strict=True)])
    known = np.isfinite(planes).all(axis=0)
    noise = _noise(planes[:, known].mean(axis=0))
    planes = np.where(known, planes, 0)
    picture = make_lupton_rgb(*planes, minimum=-noise, stretch=options["stretch"] * noise, Q=options["q"])
    return np.where(known[..., None], picture, np.uint8(0))


def _on_grid(image: Image, matrix: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The stack on the common grid, without its sky; NaN where there is none."""
    from scipy import ndimage

    inverse = np.linalg.inv(matrix)
    # ndimage counts rows first
    moved = ndimage.affine_transform(
        image.data, inverse[:2, :2][::-1, ::-1], inverse[:2, 2][::-1], output_shape=shape, order=1, cval=np.nan
    )
    inside = moved[np.isfinite(moved)]
    return moved - (np.median(inside) if inside.size else 0)


def _white_stars(pairs, matrices, radius: float) -> list[float]:
    """Factors on the channels that make the typical star white; by the noise alone where too few stars are shared."""
    from scipy.spatial import KDTree

    places = [
        np.column_stack([np.asarray(table[c], dtype=float) for c in ("x", "y")]) @ m[:2, :2].T + m[:2, 2]
        for (table, _), m in zip(pairs, matrices, strict=True)
    ]
    rates = [np.asarray(table["rate"], dtype=float) * (header.get("EXPTIME") or 1.0) for table, header in pairs]
    good = np.asarray(pairs[1][0]["snr"], dtype=float) > 20
    matched = []
    for place in (places[0], places[2]):
        distance, row = (
            KDTree(place).query(places[1]) if len(place) and len(places[1]) else (np.full(len(good), np.inf), None)
        )
        good &= distance <= radius
        matched.append(row)
    if good.sum() < _LEAST_STARS:
        logging.warning("%d stars are in all three filters: the colours are not balanced", int(good.sum()))
        return [1.0, 1.0, 1.0]
    own = rates[1][good]
    ratios = [float(np.median(own / rates[n][row[good]])) for n, row in zip((0, 2), matched, strict=True)]
    return [ratios[0], 1.0, ratios[1]]


def _noise(values: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if values.size else 1.0


def write_png(path: str | os.PathLike, picture: np.ndarray) -> None:
    """Write a colour picture, first row at the bottom."""
    from PIL import Image as Picture

    with replacing(path) as scratch:
        Picture.fromarray(picture[::-1]).save(scratch, format="PNG", optimize=True)


def blank() -> np.ndarray:
    """Picture of nothing, so that a step whose stacks were rejected has its product."""
    return np.zeros((1, 1, 3), np.uint8)
