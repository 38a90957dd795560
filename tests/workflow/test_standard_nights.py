"""A night whose zero points come from standard stars on frames of their own, high and low in the sky."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from nightflow import simulate, simulate_sky, standards
from nights import SMALL_NIGHT, Workspace

pytestmark = pytest.mark.workflow

FIELDS = {"STD-A": (150.0, 20.0, 2), "STD-B": (115.0, 35.0, 2), "M67": (132.846, 11.814, 2)}
NIGHT = {
    **SMALL_NIGHT,
    "shape": [300, 320],
    "flat_level": 30000.0,
    "targets": [
        {"name": name, "ra": ra, "dec": dec, "filters": ["V"], "frames": frames, "exptime": 60.0}
        for name, (ra, dec, frames) in FIELDS.items()
    ],
    "effects": {"stars": {"density": 2000.0}, "galaxies": {"enabled": False}},
}
STANDARDS = {"file": "truth/standards.csv", "targets": ["STD-A", "STD-B"], "system": "Vega"}
OPTIONS = {
    "reference_catalogue": {"file": "truth/catalogue.fits", "columns": {"brightness": "V"}},
    "astrometry": {"pixel_scale": 1.0},
    "zero_points": {"colour_term": 0.03},
    "standards": STANDARDS,
}


def rows(path):
    with open(path, encoding="utf-8") as file:
        return {row.get("frame", row.get("star")): row for row in csv.DictReader(file, delimiter="\t")}


def write_standards(truth):
    """The brighter stars of the two fields, as an observer lists them, with errors of 5 mmag."""
    stars = Table.read(truth / "catalogue.fits")
    rng = np.random.default_rng(1)
    away = np.min([np.hypot(stars["ra"] - FIELDS[f][0], stars["dec"] - FIELDS[f][1]) for f in STANDARDS["targets"]], 0)
    stars = stars[(away < 0.1) & (stars["V"] < 15)]
    table = Table({"name": [f"S{i}" for i in range(len(stars))], "ra": stars["ra"], "dec": stars["dec"]})
    table["band"], table["error"], table["colour"] = "V", 0.005, stars["V"] - stars["R"]
    table["magnitude"] = stars["V"] + 0.005 * rng.standard_normal(len(stars))
    table.write(truth / "standards.csv", format="ascii.csv")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("standards"))
    simulate.simulate_night(NIGHT, workspace.raw, workspace.folder / "truth")
    write_standards(workspace.folder / "truth")
    workspace.run(**OPTIONS)
    return workspace


def test_zero_points_are_those_of_the_simulation(measured):
    """Within 5 mmag and the stated error, on frames that show no standard too."""
    truth = Table.read(measured.folder / "truth" / "frames.tsv", format="ascii.tab")
    found = rows(measured.results / "zeropoints.tsv")
    assert len(found) == 6
    for frame, row in found.items():
        difference = float(row["zero_point"]) - float(truth["zero_point"][truth["frame"] == frame][0])
        print(f"{frame}: {1e3 * difference:+.1f} mmag, error {1e3 * float(row['error']):.1f}, airmass {row['airmass']}")
        assert abs(difference) < 0.005 + float(row["error"]) and float(row["error"]) < 0.02
        assert row["source"] == "standards" and row["system"] == "Vega" and row["remark"] == ""
        assert 17 < float(row["sky_brightness"]) < 23 and 15 < float(row["limiting_magnitude"]) < 21


def test_the_extinction_of_the_night_is_found(measured):
    with open(measured.results / "extinction.tsv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file, delimiter="\t")
    print({name: row[name] for name in ("extinction", "extinction_error", "airmass_min", "airmass_max")})
    assert row["source"] == "standards" and float(row["airmass_max"]) - float(row["airmass_min"]) > 0.2
    assert abs(float(row["extinction"]) - 0.14) < 3 * float(row["extinction_error"]) < 0.1


def test_selection_and_stack_have_it(measured):
    table = rows(measured.results / "zeropoints.tsv")
    selection = rows(measured.results / "selection" / "M67" / "V.tsv")
    (reference,) = (frame for frame, row in selection.items() if row["reference"] == "true")
    header = fits.getheader(measured.results / "stacks" / "M67" / "V.fits")
    assert header["MAGZPSRC"] == "standards" and header["MAGSYS"] == "Vega" and header["COLTERM"] == 0.03
    assert header["MAGZP"] == pytest.approx(float(table[reference]["zero_point"]), abs=1e-6)
    assert float(selection[reference]["zero_point"]) == pytest.approx(header["MAGZP"], abs=1e-6)


def test_one_more_light_redoes_its_own_group_alone(measured, tmp_path):
    """The night's zero point rests on the fields of standards, and other targets wait for nothing."""
    workspace = measured.copy(tmp_path / "more")
    frame = max(path for path in workspace.raw.iterdir() if path.name.startswith("M67"))
    with fits.open(frame) as hdus:
        hdus[0].header["DATE-OBS"] = hdus[0].header["DATE-OBS"][:-1] + "9"
        hdus.writeto(workspace.raw / f"M67-more{frame.suffix}")
    planned = workspace.planned(**OPTIONS)
    assert planned["calibrate"] == planned["solve"] == planned["select_frames"] == planned["stack"] == 1
    assert not {"measure_standards", "night_zero_point"} & set(planned)


def test_standards_by_frame_and_pixel_need_no_place_on_the_sky(measured, tmp_path):
    """As in the guide: one star on one frame, the extinction from elsewhere."""
    workspace = measured.copy(tmp_path / "pixels")
    with open(measured.results / "standards" / "STD-A_V_001.tsv", encoding="utf-8") as file:
        star = max(csv.DictReader(file, delimiter="\t"), key=lambda row: float(row["snr"]))
    text = f"name,magnitude,frame,x,y\n{star['star']},{star['magnitude']},{star['frame']},{star['x']},{star['y']}\n"
    (workspace.folder / "own.csv").write_text(text)
    options = {"astrometry": {"engine": "none", "pixel_scale": 1.0}}
    standards = {"file": "own.csv", "targets": ["STD-A"], "extinction": {"V": [0.14, 0.01]}}
    workspace.run(**options, standards=standards)
    truth = Table.read(workspace.folder / "truth" / "frames.tsv", format="ascii.tab")
    for name, row in rows(workspace.results / "zeropoints.tsv").items():
        colour = 0.03 * float(star["colour"])  # no colour term: the zero point holds for the star's colour
        expected = float(truth["zero_point"][truth["frame"] == name][0]) - colour
        assert abs(float(row["zero_point"]) - expected) < 3 * float(row["error"]) < 0.1
        assert row["wcs_status"] == "NOT SOLVED" and row["source"] == "standards" and row["sky_brightness"]


def with_standards(make_field, stars):
    """A field of the simulation with standard stars added, off their listed places by what rounding hides there."""
    rng = np.random.default_rng(1)

    def make(centre, *arguments):
        table = make_field(centre, *arguments)
        for i in np.flatnonzero(np.hypot(stars.ra - centre[0], stars.dec - centre[1]) < 0.2):
            ra, dec = stars.ra[i] + rng.uniform(-0.5, 0.5) / 240, stars.dec[i] + rng.uniform(-0.5, 0.5) / 3600
            light = {"m1": stars.magnitude[i], "m2": stars.magnitude[i] - stars.colour[i]}
            table.add_row(dict.fromkeys(table.colnames, 0) | {"id": len(table) + 1, "ra": ra, "dec": dec} | light)
        return table

    return make


def test_landolts_table_as_it_comes(shared_data, tmp_path, monkeypatch):
    """His field PG 0918+029 among other stars: one that is brighter and nearby is taken for a standard and left out."""
    path = shared_data / "catalogs" / "landolt_iraf" / "nlandolt.dat"
    stars = standards.read(path, {"bands": {}, "equinox": 2000.0}, "V")
    monkeypatch.setattr(simulate_sky, "make_field", with_standards(simulate_sky.make_field, stars))
    target = {**NIGHT["targets"][0], "name": "PG0918", "ra": 140.39, "dec": 2.783, "frames": 1}
    workspace = Workspace(tmp_path)
    simulate.simulate_night({**NIGHT, "targets": [target]}, workspace.raw, workspace.folder / "truth")
    section = {**STANDARDS, "file": str(path), "targets": ["PG0918"], "match_radius": 15, "extinction": {"V": 0.14}}
    workspace.run("--until", "night_zero_point", **{**OPTIONS, "standards": section})
    measured = Table.read(workspace.results / "standards" / "PG0918_V_001.tsv", format="ascii.tab")
    assert len(measured) >= 3 and all("0918+029" in name for name in measured["star"])
    (path,) = (workspace.results / "nights").glob("*.tsv")
    (night,) = Table.read(path, format="ascii.tab")
    truth = Table.read(workspace.folder / "truth" / "frames.tsv", format="ascii.tab")
    (light,) = truth[truth["kind"] == "light"]
    difference = night["zero_point"] - night["extinction"] * night["airmass_max"] - light["zero_point"]
    print(f"{1e3 * difference:+.1f} mmag from {night['n']} of {len(measured)} stars")
    assert night["n"] >= 3 and abs(difference) < 0.01


@pytest.mark.parametrize(
    "change, words",
    [({"file": "nowhere.csv"}, "standards.file 'nowhere.csv' not found"), ({"targets": ["SA92"]}, "names SA92; the")],
)
def test_mistakes_are_said(measured, change, words):
    finished = measured.snakemake("--dry-run", **{**OPTIONS, "standards": {**STANDARDS, **change}})
    assert finished.returncode != 0 and words in finished.stdout + finished.stderr
