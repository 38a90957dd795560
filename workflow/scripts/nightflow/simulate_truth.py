"""The truth behind a simulated night, as tables and FITS files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from astropy.table import Table

from nightflow.products import MaskBit, write_fits
from nightflow.simulate_noise import stream
from nightflow.simulate_settings import slug
from nightflow.simulate_sky import STAR, Conditions

if TYPE_CHECKING:
    from nightflow.simulate import Frame, Night


def write_frame_truth(path: str | Path, frame: Frame, *, expected: bool) -> None:
    """Write the truth of a light frame.

    ``COSMIC_RAYS`` and ``TRAILS`` hold the whole electrons that each left in a pixel, and the WCS; ``SOURCES`` holds
    the table of `~nightflow.simulate_sky.sources_on_frame` (flux in electrons).

    Parameters
    ----------
    path : path-like
    frame : `~nightflow.simulate.Frame`
    expected : bool
        Add the images ``EXPECTED`` (electrons without noise) and ``SIGMA`` (true standard deviation).
    """
    tile = (min(64, frame.trail.shape[0]), frame.trail.shape[1])
    # Whole electrons, since the compression of floating-point images writes the time into the file.
    images = {"COSMIC_RAYS": frame.cosmic_rays, "TRAILS": np.rint(frame.trail).astype(np.int32)}
    hdus = [
        fits.PrimaryHDU(header=_header(frame)),
        *(fits.CompImageHDU(pixels, name=name, tile_shape=tile) for name, pixels in images.items()),
        _table_hdu(frame.sources, "SOURCES"),
    ]
    if expected:
        hdus += [fits.ImageHDU(frame.expected, name="EXPECTED"), fits.ImageHDU(frame.sigma, name="SIGMA")]
    wcs = frame.wcs.to_header(relax=True)
    for hdu in hdus[1:]:
        if hdu.is_image:
            hdu.header["BUNIT"] = "electron"
            hdu.header.update(wcs)
    write_fits(path, hdus)


def _header(frame: Frame) -> fits.Header:
    header = fits.Header()
    header["FRAME"] = frame.exposure.name
    header["EXPTIME"] = (frame.exposure.exptime, "[s]")
    header["MAGZP"] = (frame.conditions.zero_point, "magnitude of 1 electron/s, colour 0")
    header["FWHM"] = (frame.conditions.psf.fwhm, "[pix] geometric mean of the axes")
    header["SKY"] = (frame.conditions.sky, "[electron] in the middle of the frame")
    return header


def _table_hdu(table: Table, name: str) -> fits.BinTableHDU:
    hdu = fits.table_to_hdu(table)
    hdu.name = name
    return hdu


#: Columns of the table of frames that only lights have, and how they follow from the conditions.
_CONDITIONS = {
    "airmass": lambda c: c.airmass,
    "zero_point": lambda c: c.zero_point,
    "cloud": lambda c: c.cloud,
    "fwhm": lambda c: c.psf.fwhm,
    "beta": lambda c: c.psf.beta,
    "ellipticity": lambda c: c.psf.ellipticity,
    "theta": lambda c: math.degrees(c.psf.theta),
    "dither_x": lambda c: c.dither[0],
    "dither_y": lambda c: c.dither[1],
    "rotation": lambda c: c.rotation,
    "flipped": lambda c: float(c.flipped),
    "scale": lambda c: c.scale,
    "streak_length": lambda c: c.psf.streak[0],
    "streak_angle": lambda c: math.degrees(c.psf.streak[1]),
    "sky": lambda c: c.sky,
    "gradient_x": lambda c: c.gradient[0],
    "gradient_y": lambda c: c.gradient[1],
    "trail": lambda c: float(c.trail is not None),
}


def frame_row(frame: Frame) -> dict:
    """Row of the table of frames; what a frame that is no light lacks is NaN."""
    exposure = frame.exposure
    return {
        "frame": exposure.name,
        "kind": exposure.kind,
        "target": exposure.target.name if exposure.target else "",
        "filter": exposure.filter or "",
        "exptime": exposure.exptime,
        "date_obs": frame.facts["date_obs"],
        "mjd_mid": frame.mjd_mid,
        "cosmic_ray_pixels": int((frame.cosmic_rays > 0).sum()),
        **{name: _condition(frame.conditions, value) for name, value in _CONDITIONS.items()},
    }


def _condition(conditions: Conditions | None, value) -> float:
    return math.nan if conditions is None else value(conditions)


def write_tables(directory: Path, night: Night, rows: list[dict]) -> None:
    """Write ``frames.tsv``, the sources of each field and the reference catalogue."""
    table = Table(rows)
    formats = {name: "%.12g" for name in table.colnames if table[name].dtype.kind == "f"}
    table.write(directory / "frames.tsv", format="ascii.tab", formats=formats, overwrite=True)
    for target in night.settings.targets:
        path = directory / f"sources_{slug(target.name)}.fits"
        write_fits(path, [fits.PrimaryHDU(), _table_hdu(night.field(target), "SOURCES")])
    hdu = _table_hdu(reference_catalogue(night), "CATALOGUE")
    write_fits(directory / "catalogue.fits", [fits.PrimaryHDU(), hdu])


def reference_catalogue(night: Night) -> Table:
    """Stars of all fields as a catalogue would list them.

    Returns
    -------
    catalogue : `~astropy.table.Table`
        ra, dec (degree, ICRS), one magnitude column for each band, named for it, and its error; with the errors
        that ``simulate.catalogue`` asks for.
    """
    s = night.settings
    fields = [night.field(target) for target in s.targets]
    parts = {name: np.concatenate([np.asarray(f[name]) for f in fields]) for name in ("type", "ra", "dec", "m1", "m2")}
    keep = (parts["type"] == STAR) & (parts["m1"] < s.catalogue.faintest)
    rng = stream(s.seed if s.catalogue.seed is None else s.catalogue.seed, "catalogue")
    noise = rng.standard_normal((4, len(keep)))[:, keep]
    ra, dec, *magnitudes = (parts[name][keep] for name in ("ra", "dec", "m1", "m2"))
    error = s.catalogue.position_error / 3600
    table = Table({"ra": ra + error * noise[0] / np.cos(np.radians(dec)), "dec": dec + error * noise[1]})
    table["ra"].unit = table["dec"].unit = "deg"
    for band, magnitude, deviation in zip(s.catalogue.bands, magnitudes, noise[2:], strict=True):
        table[band] = magnitude + s.catalogue.magnitude_error * deviation
        table[f"{band}_error"] = np.full(len(ra), s.catalogue.magnitude_error)
        table[band].unit = table[f"{band}_error"].unit = "mag"
    return table


def write_masters(directory: Path, night: Night) -> None:
    """Write the masters that infinitely many calibration frames would give."""
    camera, s = night.camera, night.settings
    masters = {
        "bias": (camera.bias, "adu"),
        "dark_rate": (camera.dark_rate, "electron / s"),
        "bad_pixels": (camera.bad_pixels.astype(np.uint8) * np.uint8(MaskBit.BAD), ""),
    }
    for exptime in sorted({e.exptime for e in night.plan if e.kind == "dark"}):
        masters[f"dark_{exptime:g}s"] = (camera.dark(exptime), "adu")
    for name in dict.fromkeys(name for target in s.targets for name in target.filters):
        masters[f"flat_{slug(name)}"] = (camera.response(name), "")
    for name, (pixels, unit) in masters.items():
        hdu = fits.PrimaryHDU(pixels)
        if unit:
            hdu.header["BUNIT"] = unit
        write_fits(directory / f"master_{name}.fits", [hdu])
