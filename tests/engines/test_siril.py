"""Our stack against Siril's of the same frames: as deep, at least."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "accuracy"))

from mosaics import Mosaic  # noqa: E402

from nightflow import products, programs, registration, sky, sources  # noqa: E402
from nightflow.products import Image  # noqa: E402
from simulated import OPTIONS  # noqa: E402

pytestmark = pytest.mark.engine

NIGHT = {
    "seed": 11,
    "shape": [420, 440],
    "filters": {"V": {}},
    "flat_level": 40000.0,
    "targets": [{"name": "field", "ra": 150.0, "dec": 20.0, "filters": ["V"], "frames": 8, "exptime": 120.0}],
    "effects": {
        "galaxies": {"enabled": False},
        "stars": {"density": 500.0, "magnitudes": [12.0, 18.0], "slope": 0.2},
        "zero_point_drift": {"enabled": True, "stddev": 0.1},
    },
}
PEDESTAL = 2000.0  # Siril reads unsigned integers
SCRIPT = """requires 1.0.0
set32bits
setext fit
convert light
register light
stack r_light_ rej 3 3 -norm=addscale -weighted -out=stacked
close
"""


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    if shutil.which("siril-cli") is None:
        pytest.skip("Siril is not installed (Debian's package siril)")
    return Mosaic(NIGHT, tmp_path_factory.mktemp("siril") / "night")


def siril(night, folder):
    """Siril's stack of the sky-subtracted frames, masked pixels as they are."""
    for path in night.paths("subtracted"):
        image = products.read_image(path)
        data = np.nan_to_num(image.data, nan=0.0) + PEDESTAL
        fits.writeto(folder / path.name, np.clip(np.rint(data), 0, 65535).astype(np.uint16))
    (folder / "stack.ssf").write_text(SCRIPT)
    programs.run("siril-cli", ["-d", str(folder), "-s", str(folder / "stack.ssf")], folder, 300)
    return fits.getdata(folder / "stacked.fit").astype(np.float32)


def depth(data, truth):
    """Magnitude of 1 electron's star less that of a 5-sigma star, in the aperture that is best for it."""
    data = np.ascontiguousarray(data, dtype=np.float32)
    mask = np.where(np.isfinite(data) & (data != data.min()), 0, 16).astype(np.uint16)
    clean = np.where(mask == 0, data, np.nan)
    around = sky.LocalSky(clean, (mask == 0) & ~sources.source_mask(clean, mask, {}), 64)
    image = Image(around.subtracted_from(clean), mask, np.full(data.shape, np.median(around.widths), np.float32))
    found = sources.detect_sources(image, {})
    stars = Table({"x": np.asarray(truth["x"]), "y": np.asarray(truth["y"]), "flux": np.asarray(truth["flux"])})
    way = registration.find_transform(stars, found, OPTIONS["registration"])
    x, y = way(stars["x"], stars["y"])
    ny, nx = data.shape
    yy, xx = np.mgrid[:ny, :nx]
    flux = np.asarray(stars["flux"])
    apart = np.hypot(x[:, None] - x, y[:, None] - y) + np.diag(np.full(len(x), np.inf))
    lonely = ~((apart < 22) & (flux[None] > 0.01 * flux[:, None])).any(axis=1)
    inside = (x > 40) & (x < nx - 40) & (y > 40) & (y < ny - 40)
    places = np.random.default_rng(0).uniform((50, 50), (nx - 50, ny - 50), (6000, 2))  # the same on the sky for both
    apart = np.hypot(places[:, :1] - np.asarray(stars["x"]), places[:, 1:] - np.asarray(stars["y"]))
    blank = np.column_stack(way(*places[apart.min(axis=1) > 12].T))
    best = -np.inf
    for radius in (1.5, 2.0, 2.5, 3.0, 3.5):
        near = [np.hypot(xx - p, yy - q) < radius for p, q in zip(x[lonely & inside], y[lonely & inside], strict=True)]
        bright = np.argsort(-flux[lonely & inside])[2:14]
        share = np.median([image.data[near[k]].sum() / flux[lonely & inside][k] for k in bright])
        sums = []
        for p, q in blank:
            box = np.s_[int(q) - 5 : int(q) + 7, int(p) - 5 : int(p) + 7]
            sums.append(image.data[box][np.hypot(xx[box] - p, yy[box] - q) < radius].sum())
        sums = np.array(sums)[np.isfinite(sums)]
        noise = 1.4826 * np.median(np.abs(sums - np.median(sums)))
        best = max(best, -2.5 * np.log10(5 * noise / share))
    return best, len(blank)


def test_our_stack_is_as_deep_as_sirils(night, tmp_path):
    """5-sigma point sources, noise from blank apertures and throughput from stars, both in the best aperture."""
    ours = night.stack()
    truth = night.truth[night.frames[0]].sources
    truth = truth[truth["inside"]]
    mine, n = depth(ours.data, truth)
    theirs, m = depth(siril(night, tmp_path), truth)
    print(f"nightflow {mine:.3f} mag, Siril {theirs:.3f} mag ({n} and {m} blank places), {mine - theirs:+.3f}")
    assert min(n, m) > 200
    assert mine - theirs > -0.02  # the scatter of the noise's measurement
