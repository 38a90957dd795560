"""Fields of real stars, as a frame would see them, for the programs that know only the real sky."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

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
