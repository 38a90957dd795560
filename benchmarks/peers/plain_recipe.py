"""The guide's recipe as one plain script: what an observer would write with numpy, astropy, photutils and astroalign.

    python plain_recipe.py RAW_FOLDER RESULTS_FOLDER

Dark and flat, cosmic rays (astroscrappy), mask of the sources and background (photutils), table of the sky, alignment
(astroalign), mean. It propagates no uncertainty and keeps no masks.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import astroalign
import astroscrappy
import numpy as np
from astropy.io import fits
from astropy.stats import SigmaClip, sigma_clipped_stats
from photutils.background import Background2D, MedianBackground
from photutils.segmentation import detect_sources, detect_threshold
from photutils.utils import circular_footprint


def frames_by_kind(folder: Path) -> dict:
    """Paths by kind of frame and filter."""
    found = defaultdict(list)
    for path in sorted(folder.glob("*.fits")):
        header = fits.getheader(path)
        found[header["IMAGETYP"].strip(), header.get("FILTER", "").strip()].append(path)
    return found


def pixels_of(path: Path) -> np.ndarray:
    return fits.getdata(path).astype(np.float32)


def of_kind(found: dict, kind: str) -> list:
    return [path for (k, _), paths in found.items() if k == kind for path in paths]


def master_flat(paths: list, bias: np.ndarray) -> np.ndarray:
    flats = [pixels_of(path) - bias for path in paths]
    flat = np.median([flat / np.median(flat) for flat in flats], axis=0)
    return flat / np.mean(flat)


def without_sky(pixels: np.ndarray, row: list) -> np.ndarray:
    """The image less its background; the sky's mean, median, mode and standard deviation go into the row."""
    threshold = detect_threshold(pixels, n_sigma=2.0, sigma_clip=SigmaClip(sigma=3.0, maxiters=10))
    segments = detect_sources(pixels, threshold, n_pixels=10)
    mask = segments.make_source_mask(footprint=circular_footprint(10)) if segments is not None else None
    mean, median, stddev = sigma_clipped_stats(pixels, sigma=4.0, mask=mask)
    row += [mean, median, 3 * median - 2 * mean, stddev]
    background = Background2D(
        pixels, 128, mask=mask, filter_size=3, exclude_percentile=80, bkg_estimator=MedianBackground()
    )
    return pixels - background.background


def reduce_light(path: Path, dark: np.ndarray, flat: np.ndarray, table: list) -> np.ndarray:
    pixels, header = fits.getdata(path, header=True)
    science = ((pixels - dark) / flat * header["GAIN"]).astype(np.float32)
    row = [path.stem]
    _, clean = astroscrappy.detect_cosmics(science, gain=1.0, readnoise=header["RDNOISE"])
    subtracted = without_sky(clean, row).astype(np.float32)
    table.append(row)
    return subtracted


def main(raw: str, results: str) -> None:
    found, results, table = frames_by_kind(Path(raw)), Path(results), []
    results.mkdir(parents=True, exist_ok=True)
    bias = np.median([pixels_of(path) for path in of_kind(found, "bias")], axis=0)
    dark = np.median([pixels_of(path) for path in of_kind(found, "dark")], axis=0)
    for name in sorted(name for kind, name in found if kind == "light"):
        flat = master_flat(found["flat", name], bias)
        reference, total = None, 0
        for path in found["light", name]:
            subtracted = reduce_light(path, dark, flat, table)
            fits.writeto(results / f"{path.stem}_reduced.fits", subtracted, overwrite=True)
            reference = subtracted if reference is None else reference
            aligned, _ = astroalign.register(subtracted, reference) if reference is not subtracted else (subtracted, 0)
            total = total + aligned
        stack = (total / len(found["light", name])).astype(np.float32)
        fits.writeto(results / f"stack_{name}.fits", stack, overwrite=True)
    lines = ["frame\tmean\tmedian\tmode\tstddev", *("\t".join(map(str, row)) for row in table)]
    (results / "sky.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
