"""A target in three filters: its sources matched over them, its colour picture, and the report with it."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image
from scipy.spatial import KDTree
from scipy.stats import spearmanr

from nightflow import products, quality, simulate
from nights import Workspace

pytestmark = pytest.mark.workflow

NIGHT = {
    "seed": 8,
    "shape": [200, 220],
    "bias_frames": 2,
    "dark_frames": 2,
    "flat_frames": 2,
    "filters": {"B": {"colour_weight": -1.0}, "V": {}, "R": {"colour_weight": 1.0}},
    "effects": {"stars": {"density": 900.0, "magnitudes": [12.5, 17.0]}},
    "targets": [{"name": "field", "ra": 150.0, "dec": 20.0, "filters": ["B", "V", "R"], "frames": 1, "exptime": 120.0}],
}


@pytest.fixture(scope="module")
def reduced(tmp_path_factory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("filters"))
    simulate.simulate_night(NIGHT, workspace.raw)
    workspace.run()
    return workspace


def true_sources(reduced, frame):
    """Sources of a frame by their numbers."""
    return {int(row["id"]): row for row in fits.getdata(reduced.folder / "truth" / f"{frame}.fits", "SOURCES")}


@pytest.fixture(scope="module")
def stars(reduced):
    """Of stars that stand alone: x and y on the picture, ln(B / R) as measured and as simulated."""
    selection = quality.read_selection(reduced.results / "selection" / "field" / "V.tsv")
    truth = true_sources(reduced, next(row["frame"] for row in selection if row["reference"]))
    blue, red = (true_sources(reduced, f"field_{band}_001") for band in "BR")
    tree = KDTree([(row["x"], row["y"]) for row in truth.values()])
    on_picture, _ = products.read_table(reduced.results / "catalogues" / "field" / "V.fits")
    places = {int(row["id"]): (row["x"], row["y"]) for row in on_picture}
    matched, _ = products.read_table(reduced.results / "catalogues" / "field.fits")
    rows = []
    flags = matched["B_flags"] | matched["V_flags"] | matched["R_flags"]
    for row in matched[(matched["n_filters"] == 3) & (flags == 0) & (matched["B_rate"] > 40 * matched["B_rate_err"])]:
        (distance, next_one), (nearest, _) = tree.query(places[int(row["V_id"])], 2)
        number = list(truth)[nearest]
        if distance < 0.5 and next_one > 9 and truth[number]["type"] == 0:
            colours = np.log(row["B_rate"] / row["R_rate"]), np.log(blue[number]["flux"] / red[number]["flux"])
            rows.append((*places[int(row["V_id"])], *colours))
    return np.array(rows).T


def test_sources_are_matched_over_the_filters(stars):
    """Colours of the catalogue of the target are those of the simulated stars, the frames' zero points aside."""
    _, _, found, true = stars
    difference = found - true - np.median(found - true)
    scatter = 1.4826 * np.median(np.abs(difference))
    print(f"{len(true)} stars, colours over {np.ptp(true):.2f}, scatter {scatter:.4f}")
    assert len(true) > 12 and np.ptp(true) > 0.5
    assert scatter < 0.03 and np.abs(difference).max() < 0.1


def test_the_picture_shows_the_colours(reduced, stars):
    """Blue stars are blue on it, red ones red, and what a filter lacks is black."""
    x, y, _, true = stars
    with Image.open(reduced.results / "composites" / "field.png") as opened:
        picture = np.asarray(opened)[::-1].astype(float)
    assert picture.shape == (200, 220, 3)
    boxes = [
        picture[max(0, round(b) - 3) : round(b) + 4, max(0, round(a) - 3) : round(a) + 4]
        for a, b in zip(x, y, strict=True)
    ]
    balance = [(box[..., 2].sum() - box[..., 0].sum()) / box.sum() for box in boxes]
    correlation = spearmanr(true, balance).statistic
    print(f"blue - red on the picture and in truth: rank correlation {correlation:.2f}")
    assert correlation > 0.8
    assert abs(np.median(balance)) < 0.1


def test_the_report_shows_the_picture_and_links_the_catalogue(reduced):
    page = (reduced.results / "report" / "index.html").read_text(encoding="utf-8")
    assert 'alt="field in colours"' in page
    for file in ("composites/field.png", "catalogues/field.fits"):
        assert f'href="../{file}"' in page and (reduced.results / file).is_file()
