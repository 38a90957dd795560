"""A night with a reference catalogue: every frame on the sky and with a zero point, and no more jobs than needed."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from nightflow import astrometry, simulate
from nights import SMALL_NIGHT, Workspace

pytestmark = pytest.mark.workflow

CATALOGUE = {
    "file": "truth/catalogue.fits",
    "columns": {"brightness": "V"},
    "magnitudes": {"V": {"magnitude": "V", "error": "V_error", "colour": ["V", "R"]}},
    "system": "Vega",
}
NIGHT = {
    **SMALL_NIGHT,
    "shape": [500, 600],
    "flat_level": 30000.0,
    "catalogue": {"magnitude_error": 0.01, "position_error": 0.02},
    "effects": {
        "distortion": {"enabled": True},
        "rotation": {"enabled": True},
        "pointing_error": {"enabled": True},
        "stars": {"density": 1200.0},
        "galaxies": {"enabled": False},
    },
}
OPTIONS = {
    "reference_catalogue": CATALOGUE,
    "astrometry": {"pixel_scale": 1.0},
    "zero_points": {"colour_term": 0.03},
}


def rows(path):
    with open(path, encoding="utf-8") as file:
        return {row["frame"]: row for row in csv.DictReader(file, delimiter="\t")}


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("solved"))
    simulate.simulate_night(NIGHT, workspace.raw, workspace.folder / "truth")
    workspace.run(**OPTIONS)
    return workspace


def true_wcs(workspace, frame):
    with fits.open(workspace.folder / "truth" / f"{frame}.fits") as hdus:
        return WCS(hdus["COSMIC_RAYS"].header)


def test_every_frame_lies_where_it_was_taken(solved):
    """Positions over the whole frame, corners included, within 0.1 px rms; SIP and TPV agree within 0.01 px."""
    x, y = (c.ravel() for c in np.meshgrid(np.linspace(0, 599, 9), np.linspace(0, 499, 9)))
    for frame in rows(solved.results / "zeropoints.tsv"):
        plate = WCS(astrometry.wcs_of(fits.getheader(solved.results / "photometry" / f"{frame}.fits")))
        found = plate.all_world2pix(*true_wcs(solved, frame).all_pix2world(x, y, 0), 0)
        error = np.hypot(found[0] - x, found[1] - y)
        rms, of_corners = (np.sqrt(np.mean(values**2)) for values in (error, error[[0, 8, -9, -1]]))
        print(f"{frame}: {rms:.3f} px rms, corners {of_corners:.3f} px")
        assert rms < 0.1 and of_corners < 0.1
        head = WCS(astrometry.read_head(solved.results / "wcs" / f"{frame}.head"))
        apart = np.array(head.all_pix2world(x, y, 0)) - plate.all_pix2world(x, y, 0)
        assert np.hypot(*apart).max() * 3600 < 0.01


def test_zero_points_are_those_of_the_simulation(solved):
    truth = Table.read(solved.folder / "truth" / "frames.tsv", format="ascii.tab")
    for frame, row in rows(solved.results / "zeropoints.tsv").items():
        difference = float(row["zero_point"]) - float(truth["zero_point"][truth["frame"] == frame][0])
        print(f"{frame}: {1e3 * difference:+.1f} mmag, error {1e3 * float(row['error']):.1f}, {row['n']} stars")
        assert abs(difference) < 4 * float(row["error"]) + 0.002 and row["wcs_status"] == "SOLVED"


def test_the_extinction_table_says_that_the_night_was_too_short(solved):
    with open(solved.results / "extinction.tsv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file, delimiter="\t")
    assert row["filter"] == "V" and row["n"] == "3" and "no extinction" in row["remark"]


def test_the_selection_knows_the_zero_points_and_the_stack_its_wcs(solved):
    selection = rows(solved.results / "selection" / "M67" / "V.tsv")
    zero_points = rows(solved.results / "zeropoints.tsv")
    for frame, row in selection.items():
        assert float(row["zero_point"]) == pytest.approx(float(zero_points[frame]["zero_point"]), abs=1e-6)
    (reference,) = (frame for frame, row in selection.items() if row["reference"] == "true")
    stack = fits.getheader(solved.results / "stacks" / "M67" / "V.fits")
    assert stack["CTYPE1"] == "RA---TAN-SIP" and stack["WCSSTAT"] == "SOLVED"
    position = WCS(astrometry.wcs_of(stack)).all_pix2world(0, 499, 0)
    assert np.allclose(position, true_wcs(solved, reference).all_pix2world(0, 499, 0), atol=0.2 / 3600)
    assert stack["MAGZP"] == pytest.approx(float(zero_points[reference]["zero_point"]), abs=1e-6)


def test_a_changed_colour_term_reruns_solve_and_what_follows(solved):
    planned = solved.planned(**{**OPTIONS, "zero_points": {"colour_term": 0.0}})
    assert {"calibrate", "mask", "sky"} & set(planned) == set() and planned["solve"] == 3


def test_without_astrometry_there_are_no_jobs_for_it(reduced):
    assert not (reduced.results / "photometry").exists() and not (reduced.results / "zeropoints.tsv").exists()


def test_a_catalogue_of_another_field_ends_in_a_reason_and_a_stack_all_the_same(solved, tmp_path):
    workspace = solved.copy(tmp_path / "elsewhere")
    shutil.rmtree(workspace.results / "photometry")
    workspace.run(**{**OPTIONS, "astrometry": {"pixel_scale": 1.0, "ra": 10.0, "dec": 10.0, "search_radius": 0.5}})
    for row in rows(workspace.results / "zeropoints.tsv").values():
        assert row["wcs_status"] == "NOT SOLVED" and "no reference stars around the pointing" in row["remark"]
    assert (workspace.results / "stacks" / "M67" / "V.fits").is_file()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"reference_catalogue": {"file": "nowhere.fits"}}, "reference_catalogue.file 'nowhere.fits' not found"),
        ({"astrometry": {"engine": "catalogue"}}, "reference_catalogue.file is not set"),
        ({"astrometry": {"engine": "magic"}}, "astrometry.engine is 'magic'"),
    ],
)
def test_mistakes_are_said(reduced, change, words):
    finished = reduced.snakemake("--dry-run", **change)
    assert finished.returncode != 0 and words in finished.stdout + finished.stderr


def test_a_stack_on_the_sky(solved, tmp_path):
    """Engine wcs: select and stack alone are redone; north is up, and stars lie where the catalogue has them."""
    workspace = solved.copy(tmp_path / "sky")
    options = {**OPTIONS, "registration": {"engine": "wcs"}}
    assert set(workspace.planned(**options)) == {
        "select_frames",
        "stack",
        "catalogue",
        "match_catalogues",
        "report",
        "all",
    }
    workspace.run(**options)
    with fits.open(workspace.results / "stacks" / "M67" / "V.fits") as hdus:
        stack, data, coverage = hdus[0].header, hdus[0].data, hdus["COVERAGE"].data
    wcs = WCS(astrometry.wcs_of(stack))
    assert stack["CTYPE1"] == "RA---TAN" and stack["CD1_1"] < 0 < stack["CD2_2"] and coverage.max() == 3
    stars = Table.read(workspace.folder / "truth" / "catalogue.fits")
    x, y = wcs.all_world2pix(stars["ra"], stars["dec"], 0)
    yy, xx = np.mgrid[: data.shape[0], : data.shape[1]]
    off = []
    for k in np.argsort(stars["V"])[:12]:
        near = np.hypot(xx - x[k], yy - y[k]) < 4
        if near.sum() > 40 and np.isfinite(data[near]).all():
            light = np.clip(data[near], 0, None).astype(float)
            off.append([(light * xx[near]).sum() / light.sum() - x[k], (light * yy[near]).sum() / light.sum() - y[k]])
    assert len(off) > 4 and np.hypot(*np.median(off, axis=0)) < 0.1


def test_an_engine_on_the_sky_needs_astrometry(reduced):
    finished = reduced.snakemake("--dry-run", registration={"engine": "wcs"})
    assert finished.returncode != 0 and "needs the frames' places on the sky" in finished.stdout + finished.stderr


@pytest.mark.parametrize(
    "registration, words",
    [
        ({"engine": "given"}, "registration.transforms is not set"),
        ({"engine": "given", "transforms": "nowhere.tsv"}, "registration.transforms 'nowhere.tsv' not found"),
        (
            {"moving_targets": {"Ceres": {"rate": 30.0, "unit": "arcsec/h", "position_angle": 90.0}}},
            "registration.moving_targets names 'Ceres'; the targets are M67",
        ),
        ({"moving_targets": {"M67": {"rate": 30.0, "unit": "deg/h", "position_angle": 9}}}, "one of arcsec/h, px/h"),
    ],
)
def test_mistakes_of_registration_are_said(reduced, registration, words):
    finished = reduced.snakemake("--dry-run", registration=registration)
    assert finished.returncode != 0 and words in finished.stdout + finished.stderr
