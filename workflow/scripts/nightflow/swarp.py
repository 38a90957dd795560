"""Engine ``swarp``: SWarp resamples and combines our frames, and its image becomes a stack of our form.

SWarp gets the sky-subtracted frames, weight maps that are zero where a pixel has no true value, and ``.head`` files
with each frame's place on the grid and flux scale. Its coadded image, and what it used of each frame, replace the
pixels, COVERAGE and WEIGHT of our own stack of the same frames, whose UNCERT, MASK and header hold for both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from nightflow import astrometry, plates, products, programs, resampling, skygrid, stacking
from nightflow.products import UNUSABLE, Image, MaskBit, RejectedFrame
from nightflow.steps import UserError

#: What of the section ``stack`` SWarp can do, by our names.
KERNELS = {"nearest": "NEAREST", "bilinear": "BILINEAR", "lanczos3": "LANCZOS3"}
METHODS = {"mean": "WEIGHTED", "sum": "WEIGHTED", "median": "MEDIAN", "min": "MIN", "max": "MAX"}
REJECTIONS = ("none", "noise")  # SWarp has a rejection of its own, of means
SKIES = ("none", "constant")


def check(options: Mapping) -> None:
    """Raise `UserError` where SWarp cannot do what the section ``stack`` asks for."""
    known = {"kernel": KERNELS, "method": METHODS, "rejection": REJECTIONS, "match_sky": SKIES}
    for option, choices in known.items():
        if options[option] not in choices:
            raise UserError(f"stack.{option} is {options[option]!r}; with SWarp it is one of {', '.join(choices)}")
    programs.find("SWarp")


def _combine_type(options: Mapping) -> str:
    clipped = options["method"] in ("mean", "sum") and options["rejection"] != "none"
    return "CLIPPED" if clipped else METHODS[options["method"]]


def stack(
    frames: Sequence[stacking.StackInput], header: fits.Header, options: Mapping, threads: int, time_limit: float
) -> Image:
    """Combine frames with SWarp.

    Parameters
    ----------
    frames : sequence of `~nightflow.stacking.StackInput`
    header : `~astropy.io.fits.Header`
        Of the stack, with the cards of `nightflow.skygrid.SkyGrid.header`.
    options : mapping
        Section ``stack`` of the configuration.
    threads : int
    time_limit : float
        s.

    Returns
    -------
    `~nightflow.products.Image`

    Raises
    ------
    UserError
        If SWarp is not installed, has no such method or kernel, or ends with an error.
    RejectedFrame
        If SWarp does not end in time, or there is no frame to combine.
    """
    check(options)
    image = stacking.stack(frames, header, {**options, "rejection": "none"}, threads)
    skies = {str(row["frame"]): float(row["sky_offset"]) for row in image.extensions["INPUTS"]}
    frames = [frame for frame in frames if Path(frame.path).stem in skies]
    with tempfile.TemporaryDirectory(prefix="nightflow-") as name:
        folder = Path(name)
        grid = skygrid.read_grid(header)
        astrometry.write_head(folder / "coadd.head", grid.header())
        names = [
            _write_frame(folder / f"frame{number:04d}.fits", frame, grid, skies[Path(frame.path).stem], options)
            for number, frame in enumerate(frames)
        ]
        try:
            programs.run("SWarp", [*names, *_settings(options, threads)], folder, time_limit)
        except programs.TimeLimit as error:
            raise RejectedFrame(f"{error} (registration.time_limit); again with: snakemake -R stack") from error
        except programs.ProgramFailed as error:
            raise UserError(str(error)) from error
        return _adopt(image, frames, names, folder, options)


def _write_frame(path: Path, frame: stacking.StackInput, grid: skygrid.SkyGrid, sky: float, options: Mapping) -> str:
    """Image, weight map and ``.head`` of a frame; the name of the image."""
    image = products.read_image(frame.path)
    good = ((image.mask & UNUSABLE) == 0) & np.isfinite(image.data)
    factor = frame.flux_scale * resampling.make_grid(frame.transform, image.shape).pixel_area
    data = image.data - np.float32(sky / factor)
    # SWarp divides weights by the square of the factor on the flux, as those of variances
    weight = _weight(frame, options) * factor**2
    fits.writeto(path, np.where(good, data, 0).astype(np.float32))
    fits.writeto(path.with_suffix(".weight.fits"), np.where(good, weight, 0).astype(np.float32))
    head = plates.tpv_header(_plate(frame.transform, image.shape, grid), image.shape)
    head["FLXSCALE"] = float(frame.flux_scale)
    astrometry.write_head(path.with_suffix(".head"), head)
    return path.name


def _weight(frame: stacking.StackInput, options: Mapping) -> float:
    """A sum of electrons is weighted by the throughput."""
    return 1 / frame.flux_scale if options["method"] == "sum" else frame.weight


def _plate(transform, shape: tuple[int, int], grid: skygrid.SkyGrid) -> plates.Plate:
    """Plate solution that puts a frame where its transform does."""
    ny, nx = shape
    y, x = (c.ravel() for c in np.mgrid[0 : ny - 1 : 25j, 0 : nx - 1 : 25j])
    ra, dec = grid.to_sky(*transform(x, y))
    return plates.fit(x, y, ra, dec, plates.MAX_ORDER, shape, (float(ra[0]), float(dec[0])))


def _settings(options: Mapping, threads: int) -> list[str]:
    settings = {
        "IMAGEOUT_NAME": "coadd.fits", "WEIGHTOUT_NAME": "coadd.weight.fits", "WEIGHT_TYPE": "MAP_WEIGHT",
        "RESCALE_WEIGHTS": "N", "COMBINE_TYPE": _combine_type(options), "CLIP_SIGMA": options["clip_high"],
        "RESAMPLING_TYPE": KERNELS[options["kernel"]],
        "FSCALASTRO_TYPE": "VARIABLE", "SUBTRACT_BACK": "N", "DELETE_TMPFILES": "N", "WRITE_XML": "N",
        "NTHREADS": threads, "VERBOSE_TYPE": "QUIET",
    }  # fmt: skip
    return ["-c", "/dev/null", *(word for name, value in settings.items() for word in (f"-{name}", str(value)))]


def _adopt(image: Image, frames, names: list[str], folder: Path, options: Mapping) -> Image:
    """Put SWarp's pixels, and how many frames and what weight it used where, into our stack."""
    data, total = fits.getdata(folder / "coadd.fits"), fits.getdata(folder / "coadd.weight.fits")
    coverage, weight = np.zeros(image.shape, np.int16), np.zeros(image.shape, np.float32)
    for frame, name in zip(frames, names, strict=True):
        window, used = _used(folder, name, image.header)
        coverage[window] += used
        weight[window] += np.float32(_weight(frame, options)) * used
    throughput = sum(1 / frame.flux_scale for frame in frames) if options["method"] == "sum" else 1.0
    empty = (total <= 0) | (coverage == 0) | ~np.isfinite(image.uncertainty)
    image.data[:] = np.where(empty, np.nan, data * np.float32(throughput))
    image.uncertainty[empty] = np.nan
    image.mask[empty] |= np.uint16(MaskBit.NO_DATA)
    coverage[empty], weight[empty] = 0, 0
    image.extensions |= {"COVERAGE": coverage, "WEIGHT": weight}
    image.header["STACKENG"] = ("SWarp", "program that resampled and combined")
    return image


def _used(folder: Path, name: str, header: fits.Header):
    """Window of the stack that SWarp resampled a frame onto, and where the frame has weight in it."""
    with fits.open(folder / name.replace(".fits", ".resamp.weight.fits")) as hdus:
        card, used = hdus[0].header, hdus[0].data > 0
    x, y = (round(header[f"CRPIX{axis}"] - card[f"CRPIX{axis}"]) for axis in (1, 2))
    return np.s_[y : y + used.shape[0], x : x + used.shape[1]], used
