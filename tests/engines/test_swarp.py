"""SWarp reads our .head files as we mean them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from skies import OPTIONS

from nightflow import astrometry, programs

pytestmark = pytest.mark.engine


def test_stars_at_distorted_corners_land_where_they_belong(real_sky, tycho, tmp_path):
    """SWarp resamples stars drawn at catalogue positions onto a plain grid; they lie there within 0.05 px."""
    if shutil.which("SWarp") is None:
        pytest.skip("SWarp is not installed (make engines)")
    sky = real_sky
    solution = astrometry.solve(sky.sources, sky.header, sky.row, tycho, OPTIONS)
    places = [(x, y) for x in (25.3, 600.7, 1174.6) for y in (25.4, 500.2, 974.5)]
    yy, xx = np.mgrid[: sky.shape[0], : sky.shape[1]]
    image = sum(1e4 * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * 2.0**2)) for x, y in places)
    fits.writeto(tmp_path / "frame.fits", image.astype(np.float32))
    astrometry.write_head(tmp_path / "frame.head", astrometry.head_cards(solution))
    settings = {"CENTER_TYPE": "MANUAL", "CENTER": "31.3,46.8", "PIXELSCALE_TYPE": "MANUAL", "PIXEL_SCALE": 5.0}
    settings |= {"IMAGE_SIZE": "1700,1700", "SUBTRACT_BACK": "N", "RESAMPLING_TYPE": "LANCZOS3", "WRITE_XML": "N"}
    settings |= {"PROJECTION_ERR": 0.0, "NTHREADS": 1, "VERBOSE_TYPE": "QUIET"}
    arguments = [word for name, value in settings.items() for word in (f"-{name}", str(value))]
    programs.run("SWarp", ["frame.fits", "-c", "/dev/null", *arguments], tmp_path, 120)
    with fits.open(tmp_path / "coadd.fits") as hdus:
        coadd, wcs = hdus[0].data, WCS(hdus[0].header)
    expected = np.column_stack(wcs.all_world2pix(*solution.plate.to_sky(*np.array(places).T), 0))
    for x, y in expected:
        box = np.s_[int(y) - 12 : int(y) + 14, int(x) - 12 : int(x) + 14]
        light = np.clip(coadd[box], 50, None) - 50
        rows, columns = np.mgrid[box]
        found = np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()
        print(f"{x:8.2f} {y:8.2f}: {found[0] - x:+.3f} {found[1] - y:+.3f} px")
        assert np.hypot(*(found - (x, y))) < 0.05
