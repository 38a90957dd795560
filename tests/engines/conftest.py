"""Fields of real stars, as a frame would see them, for the programs that know only the real sky."""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

import skies  # noqa: E402

from nightflow import reference_catalogues  # noqa: E402


@pytest.fixture(scope="session")
def tycho(shared_data):
    """The Tycho-2 catalogue."""
    columns = {"ra": "ra", "dec": "dec", "pm_ra": None, "pm_dec": None, "brightness": "vt"}
    section = {"columns": columns, "epoch": None, "magnitudes": {}}
    return reference_catalogues.read(shared_data / "catalogs" / "tycho2_from_index07.npz", section)


@pytest.fixture(scope="session")
def real_sky(tycho):
    """A frame of 1.7 x 1.4 degrees with distortion, its stars those of Tycho-2."""
    shape = (1000, 1200)
    plate = skies.distorted_plate(shape, (5.0, 5.0), 40.0, False, 4.0, ra=31.3, dec=46.8)
    field = tycho.within(31.3, 46.8, 1.3)
    x, y = plate.to_pixel(field.ra, field.dec)
    on = (x > 0) & (x < shape[1] - 1) & (y > 0) & (y < shape[0] - 1)
    rng = np.random.default_rng(1)
    sources = {"x": x[on] + 0.05 * rng.standard_normal(on.sum()), "y": y[on] + 0.05 * rng.standard_normal(on.sum())}
    flux = 10 ** (-0.4 * (field.brightness[on] - 22))
    sources |= {"flux": flux, "flux_err": np.sqrt(flux + 100), "fwhm": np.full(on.sum(), 3.0)}
    sources["flags"] = np.zeros(on.sum(), dtype=int)
    header = skies.fits.Header({"NFXSIZE": shape[1], "NFYSIZE": shape[0], "PIXSCALE": 5.0})
    return skies.Sky(sources, header, {"ra": 31.5, "dec": 46.6}, tycho, plate, shape)


@dataclass
class RealFrame:
    """Sources of a raw frame, and where an independent solution has its corners (degrees)."""

    name: str
    sources: object
    header: fits.Header
    row: dict
    corners: tuple[list[float], list[float]]

    def off(self, plate) -> float:
        """Distance in px between the middles of the frame by a plate and by the independent solution."""
        ny, nx = self.header["NFYSIZE"], self.header["NFXSIZE"]
        x, y = plate.to_pixel(*self.corners)
        return float(np.hypot(x.mean() - (nx - 1) / 2, y.mean() - (ny - 1) / 2))

    def corners_off(self, plate, other=None) -> float:
        """Largest distance in px between the corners by a plate and by another one, or the independent solution."""
        ny, nx = self.header["NFYSIZE"], self.header["NFXSIZE"]
        x, y = np.array([0, nx - 1, nx - 1, 0]), np.array([0, 0, ny - 1, ny - 1])
        found = plate.to_pixel(*(self.corners if other is None else other.to_sky(x, y)))
        return float(np.hypot(found[0] - x, found[1] - y).max())


@pytest.fixture(scope="session")
def hatp32(shared_data) -> list[RealFrame]:
    """The 24 frames of HAT-P-32, not calibrated."""
    folder = shared_data / "hatp32_microobs"
    lines = (folder / "truth" / "tycho2_plate_solutions.csv").read_text().splitlines()
    truth = {row["file"]: row for row in csv.DictReader(line for line in lines if not line.startswith("#"))}
    return [_real_frame(path, truth[path.name]) for path in sorted((folder / "raw").glob("*.FITS"))]


def _real_frame(path, truth) -> RealFrame:
    from nightflow import sky, sources
    from nightflow.products import Image

    data, header = fits.getdata(path).astype(np.float32), fits.getheader(path)
    mask = np.zeros(data.shape, np.uint16)
    around = sky.LocalSky(data, ~sources.source_mask(data, mask, {}), 128)
    image = Image(around.subtracted_from(data), mask, np.full(data.shape, np.median(around.widths), np.float32))
    table = sources.detect_sources(image, {})
    header["NFYSIZE"], header["NFXSIZE"] = data.shape
    row = {"frame": path.stem, "ra": header["RA"], "dec": header["DEC"], "mjd_mid": None}
    corners = tuple([float(truth[f"{axis}_{corner}"]) for corner in ("bl", "br", "tr", "tl")] for axis in ("ra", "dec"))
    return RealFrame(path.name, table, header, row, corners)
