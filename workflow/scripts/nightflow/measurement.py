"""The sky stage of a frame: its sky level in numbers, the frame without sky, and its sources.

It joins `nightflow.sky` and `nightflow.sources` and writes what they found into tables and headers.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from nightflow import photometry, sky, sources
from nightflow.products import Columns, Image, MaskBit, RejectedFrame, replacing

#: Columns of the sky table.
COLUMNS = ["frame", "target", "filter", "date_obs"]
COLUMNS += ["mean", "median", "mode", "stddev", "npix", "masked_fraction", "mesh_rms"]


def subtract_sky(masked: Image, options: dict) -> tuple[Image, dict]:
    """A frame without its sky, and the sky's statistics.

    Parameters
    ----------
    masked : Image
        Calibrated frame with all mask planes; pixels with any bit set do not count as sky.
    options : dict
        Section ``sky`` of the configuration.

    Returns
    -------
    subtracted : Image
        Without the ``SOURCE`` bit; the sky's statistics and the noise that is left are in its header.
    row : dict
        ``mean median mode stddev npix masked_fraction mesh_rms``, in the unit of the pixels.

    Raises
    ------
    RejectedFrame
        If no pixel shows the sky.
    """
    statistics = sky.sky_statistics(masked.data, masked.mask, sigma=options["sigma"], maxiters=options["maxiters"])
    if not statistics.npix:
        raise RejectedFrame("no pixel shows the sky: all are masked", masked.header)
    background, mesh_rms = sky.sky_model(masked.data, masked.mask, options, statistics=statistics)
    data = np.subtract(masked.data, background, dtype=np.float32)
    mask = masked.mask & ~np.uint16(MaskBit.SOURCE)
    header = masked.header.copy()
    unit = header.get("BUNIT", "")
    for card, name in (("SKYMEAN", "mean"), ("SKYMED", "median"), ("SKYMODE", "mode"), ("SKYSTD", "stddev")):
        header[card] = (getattr(statistics, name), f"[{unit}] sky {name}")
    header["SKYMETH"] = (f"{options['method']} {options['estimator']}", "what was subtracted")
    left = sky.sky_statistics(data[::2, ::2], masked.mask[::2, ::2])  # a gradient of the sky is no noise
    header["SKYNOISE"] = (left.stddev if left.npix else statistics.stddev, f"[{unit}] noise of a sky pixel")
    return Image(data, mask, masked.uncertainty, header), {**dataclasses.asdict(statistics), "mesh_rms": mesh_rms}


def measure_sources(subtracted: Image, options: dict) -> Columns:
    """Sources of a sky-subtracted frame; seeing, elongation and aperture correction go into its header.

    Those of `sources.find_sources`, with fluxes in apertures.
    """
    found = sources.find_sources(subtracted, options)
    fwhm, ellipticity, stars = sources.seeing(found)
    if np.isfinite(fwhm):
        subtracted.header["FWHM"] = (float(fwhm), "[pix] median of the stars")
        subtracted.header["ELLIPT"] = (float(ellipticity), "median ellipticity of the stars")
    subtracted.header["NSTARS"] = (int(stars), "stars that FWHM was measured on")
    subtracted.header["NSOURCES"] = (len(found["x"]), "sources found")
    for card, size in zip(("NFYSIZE", "NFXSIZE"), subtracted.shape, strict=True):
        subtracted.header[card] = (size, "[pix] size of the image")
    photometry.measure_apertures(subtracted, found, options)
    return found


def write_sky_table(path: str | os.PathLike, rows: list[dict]) -> None:
    """Write rows of the sky table as tab-separated text; a value that is unknown is an empty cell."""
    with replacing(path) as scratch, open(scratch, "w", encoding="utf-8") as file:
        for cells in (COLUMNS, *([_cell(row.get(name)) for name in COLUMNS] for row in rows)):
            file.write("\t".join(cells) + "\n")


def _cell(value) -> str:
    if value is None or value != value:  # NaN
        return ""
    return f"{value:.8g}" if isinstance(value, float) else str(value)
