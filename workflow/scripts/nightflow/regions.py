"""Catalogues as marks to put on an image: DS9 region files, and tables that Ginga reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import numpy as np
from astropy.io import fits

from nightflow.products import replacing


def write_ds9(path: str | os.PathLike, catalogue, radius: float, scale: float | None = None) -> None:
    """Write circles around the sources as a DS9 region file, with their ids as labels.

    Parameters
    ----------
    path : path-like
    catalogue : mapping or table
        Columns ``id x y`` (0-based px) and ``ra dec`` (degrees, NaN where unknown).
    radius : float
        px.
    scale : float, optional
        Arcsec per px. With it, and with sky coordinates for all sources, the regions are on the sky (ICRS) and fit any
        image of the field; else they are in pixels of the stack, which DS9 counts from 1.
    """
    on_sky = scale is not None and len(catalogue["ra"]) and np.isfinite(catalogue["ra"]).all()
    lines = [
        "# Region file format: DS9 version 4.1",
        "global color=green width=1 select=1 edit=1",
        "icrs" if on_sky else "image",
    ]
    size = f'{radius * scale:.3f}"' if on_sky else f"{radius:.3f}"
    for number, ra, dec, x, y in _marks(catalogue):
        place = f"{ra:.7f},{dec:.7f}" if on_sky else f"{x:.3f},{y:.3f}"
        lines.append(f"circle({place},{size}) # text={{{number}}}")
    _write(path, lines)


def write_ginga(path: str | os.PathLike, catalogue) -> None:
    """Write positions as a table that Ginga's plugin TVMark reads with its own default settings.

    The columns are ``ra dec`` (degrees), ``x y`` (px, counted from 1 as TVMark does) and ``id``.
    """
    lines = ["id ra dec x y"]
    lines.extend(f"{number} {ra:.7f} {dec:.7f} {x:.3f} {y:.3f}" for number, ra, dec, x, y in _marks(catalogue))
    _write(path, lines)


def _marks(catalogue) -> Iterator[tuple]:
    """Id, place on the sky and pixel counted from 1 of each source."""
    names = ("id", "ra", "dec", "x", "y")
    number, ra, dec, x, y = (np.asarray(catalogue[name]) for name in names)
    return zip(*(column.tolist() for column in (number, ra, dec, x + 1, y + 1)), strict=True)


def write(paths: Mapping, catalogue, header: fits.Header) -> None:
    """Write both files of a stack's catalogue, ``ds9`` and ``ginga``; the circles are two FWHM wide."""
    from nightflow.pointing import celestial_wcs

    wcs, scale = celestial_wcs(header), None
    if wcs is not None:
        from astropy.wcs.utils import proj_plane_pixel_scales

        scale = float(np.sqrt(np.prod(proj_plane_pixel_scales(wcs)))) * 3600
    write_ds9(paths["ds9"], catalogue, 2 * header.get("FWHM", 3.0), scale)
    write_ginga(paths["ginga"], catalogue)


def write_empty(paths: Mapping) -> None:
    """Write both files without a source, for a rejected stack."""
    nothing = dict.fromkeys(("id", "ra", "dec", "x", "y"), np.zeros(0))
    write_ds9(paths["ds9"], nothing, 1.0)
    write_ginga(paths["ginga"], nothing)


def _write(path: str | os.PathLike, lines: list[str]) -> None:
    with replacing(path) as scratch, open(scratch, "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")
