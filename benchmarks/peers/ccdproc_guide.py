"""The same night the way of the ccdproc guide: CCDData with uncertainty, ``ccd_process``, ``Combiner``.

    python ccdproc_guide.py RAW_FOLDER RESULTS_FOLDER

Needs the packages of benchmarks/requirements.txt.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import astroalign
import ccdproc
import numpy as np
from astropy import units as u
from astropy.nddata import CCDData
from astropy.stats import mad_std
from photutils.background import Background2D, MedianBackground
from photutils.segmentation import detect_sources, detect_threshold
from photutils.utils import circular_footprint


def combined(frames: list, scale=None) -> CCDData:
    """The frames combined as the guide does: mean after clipping at 5 sigma about the median."""
    return ccdproc.combine(
        frames, method="average", scale=scale, sigma_clip=True, sigma_clip_low_thresh=5, sigma_clip_high_thresh=5,
        sigma_clip_func=np.ma.median, sigma_clip_dev_func=mad_std, mem_limit=2e9,
    )  # fmt: skip


def without_sky(pixels: np.ndarray) -> np.ndarray:
    segments = detect_sources(pixels, detect_threshold(pixels, n_sigma=2.0), n_pixels=10)
    mask = segments.make_source_mask(footprint=circular_footprint(10)) if segments is not None else None
    background = Background2D(
        pixels, 128, mask=mask, filter_size=3, exclude_percentile=80, bkg_estimator=MedianBackground()
    )
    return pixels - background.background


def main(raw: str, results: str) -> None:
    warnings.simplefilter("ignore")
    files, results = ccdproc.ImageFileCollection(raw), Path(results)
    results.mkdir(parents=True, exist_ok=True)
    of = lambda **what: list(files.ccds(ccd_kwargs={"unit": "adu"}, **what))  # noqa: E731
    bias = combined(of(imagetyp="bias"))
    dark = combined([ccdproc.subtract_bias(frame, bias) for frame in of(imagetyp="dark")])
    dark.header["EXPTIME"] = of(imagetyp="dark")[0].header["EXPTIME"]
    for name in sorted({row["filter"] for row in files.summary if row["imagetyp"] == "light"}):
        flats = [ccdproc.subtract_bias(frame, bias) for frame in of(imagetyp="flat", filter=name)]
        flat = combined(flats, scale=lambda pixels: 1 / np.ma.median(pixels))
        reference, aligned = None, []
        for path in files.files_filtered(imagetyp="light", filter=name, include_path=True):
            light = CCDData.read(path, unit="adu")
            gain, noise = light.header["GAIN"], light.header["RDNOISE"]
            light = ccdproc.create_deviation(light, gain=gain * u.electron / u.adu, readnoise=noise * u.electron)
            light = ccdproc.subtract_bias(light, bias)
            light = ccdproc.subtract_dark(light, dark, exposure_time="EXPTIME", exposure_unit=u.second)
            light = ccdproc.gain_correct(ccdproc.flat_correct(light, flat), gain * u.electron / u.adu)
            light = ccdproc.cosmicray_lacosmic(light, readnoise=noise, sigclip=4.5)
            light.data = without_sky(light.data.astype(np.float32))
            light.write(results / f"{Path(path).stem}_reduced.fits", overwrite=True)
            reference = light.data if reference is None else reference
            data = light.data if reference is light.data else astroalign.register(light.data, reference)[0]
            aligned.append(CCDData(data, unit="electron"))
        combined(aligned).write(results / f"stack_{name}.fits", overwrite=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
