"""The engines of the step solve on one simulated night with distortion, and catalogues that come from a service."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from nightflow import astrometry, plates, simulate
from nights import SMALL_NIGHT, Workspace

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from services import astrometry_net, serving, vizier  # noqa: E402

pytestmark = [pytest.mark.workflow, pytest.mark.engine]

NIGHT = {
    **SMALL_NIGHT,
    "shape": [500, 600],
    "flat_level": 30000.0,
    "targets": [{**SMALL_NIGHT["targets"][0], "frames": 4}],
    "catalogue": {"magnitude_error": 0.01, "position_error": 0.02},
    "effects": {
        "distortion": {"enabled": True},
        "rotation": {"enabled": True},
        "pointing_error": {"enabled": True},
        "stars": {"density": 1200.0},
        "galaxies": {"enabled": False},
    },
}
CATALOGUE = {
    "file": "truth/catalogue.fits",
    "columns": {"brightness": "V"},
    "magnitudes": {"V": {"magnitude": "V", "error": "V_error", "colour": ["V", "R"]}},
}


def options(engine, catalogue=CATALOGUE, **more):
    return {"astrometry": {"engine": engine, "pixel_scale": 1.0, **more}, "reference_catalogue": catalogue}


def need(program):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (make engines)")


@pytest.fixture(scope="module")
def night(tmp_path_factory) -> Workspace:
    """Three of four frames, their sources found and nothing solved; not to be written to."""
    workspace = Workspace(tmp_path_factory.mktemp("engines"))
    simulate.simulate_night(NIGHT, workspace.raw, workspace.folder / "truth")
    last = max(path for path in workspace.raw.rglob("*.fits") if "M67" in path.name)
    last.rename(workspace.folder / last.name)
    workspace.run("--until", "sky", **options("catalogue"))
    return workspace


def rows(workspace) -> dict:
    found = {}
    for path in sorted((workspace.results / "zeropoints").glob("*.tsv")):
        with open(path, encoding="utf-8") as file:
            found |= {row["frame"]: row for row in csv.DictReader(file, delimiter="\t")}
    return found


def true_wcs(workspace, frame):
    with fits.open(workspace.folder / "truth" / f"{frame}.fits") as hdus:
        return WCS(hdus["COSMIC_RAYS"].header)


def check_solutions(workspace, engine):
    """Every frame lies where it was taken, over all of it and at each corner."""
    x, y = (c.ravel() for c in np.meshgrid(np.linspace(0, 599, 9), np.linspace(0, 499, 9)))
    found = rows(workspace)
    assert len(found) >= 3
    for frame, row in found.items():
        assert row["wcs_status"] == "SOLVED", row["remark"]
        head = WCS(astrometry.read_head(workspace.results / "wcs" / f"{frame}.head"))
        error = np.hypot(
            *(np.array(head.all_world2pix(*true_wcs(workspace, frame).all_pix2world(x, y, 0), 0)) - (x, y))
        )
        corners = error[[0, 8, -9, -1]]
        rms, of_corners = (np.sqrt(np.mean(values**2)) for values in (error, corners))
        print(f"{engine} {frame}: {rms:.3f} px rms; corners {of_corners:.3f} px rms, {corners.max():.3f} at worst")
        assert rms < 0.1 and of_corners < 0.1


def test_scamp_solves_a_target_at_once_and_a_new_frame_does_it_again(night, tmp_path):
    need("scamp")
    workspace = night.copy(tmp_path / "scamp")
    workspace.run("--until", "solve", **options("scamp"))
    check_solutions(workspace, "scamp")
    last = next(workspace.folder.glob("*.fits"))
    last.rename(workspace.raw / last.name)
    planned = workspace.planned("--until", "solve", **options("scamp"))
    assert {rule: planned[rule] for rule in ("sky", "solve_target", "solve")} == {
        "sky": 1,
        "solve_target": 1,
        "solve": 4,
    }


def test_astrometry_net_with_an_index_of_the_field(night, tmp_path):
    need("solve-field")
    need("build-astrometry-index")
    workspace = night.copy(tmp_path / "net")
    stars = Table.read(workspace.folder / "truth" / "catalogue.fits")
    stars.sort("V")
    table = fits.BinTableHDU.from_columns(
        [fits.Column(name, "D", array=np.asarray(stars[name.lower()], float)) for name in ("RA", "DEC")]
    )
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(workspace.folder / "stars.fits")
    (workspace.folder / "index").mkdir()
    for scale in (0, 2):
        command = ["build-astrometry-index", "-i", "stars.fits", "-o", f"index/index-{scale}.fits", "-P", str(scale)]
        subprocess.run([*command, "-E", "-I", str(scale + 1)], cwd=workspace.folder, check=True, capture_output=True)
    workspace.run("--until", "solve", **options("astrometry.net", index_dir="index"))
    check_solutions(workspace, "astrometry.net")


def test_nova_through_a_stand_in_and_no_record_of_the_key(night, tmp_path):
    workspace = night.copy(tmp_path / "nova")
    frames = sorted(path.stem for path in (workspace.results / "sources").glob("*.fits"))
    tables = {name: fits.getdata(workspace.results / "sources" / f"{name}.fits", 1) for name in frames}

    def linear_solution(submission):
        """Of the frame whose sources were submitted."""
        x = np.round(submission["x"], 4)
        shared = {name: np.isin(x, np.round(table["x"] + 1, 4)).sum() for name, table in tables.items()}
        wcs = true_wcs(workspace, max(shared, key=shared.get))
        return plates.sip_header(plates.from_wcs(wcs, (500, 600), 1), (500, 600))

    asked = []
    with serving(astrometry_net(linear_solution, asked, key="a-secret-key")) as address:
        workspace.run("--until", "solve", **options("nova", server=address, api_key="a-secret-key"))
    assert len(asked) == 3
    check_solutions(workspace, "nova")
    told = [path for path in workspace.folder.rglob("*") if path.is_file() and b"a-secret-key" in path.read_bytes()]
    assert [path.name for path in told] == ["config.yaml"], told


def test_a_catalogue_from_vizier_is_fetched_once_and_reused_without_a_network(night, tmp_path):
    workspace = night.copy(tmp_path / "online")
    stars = Table.read(workspace.folder / "truth" / "catalogue.fits")
    columns = {name: np.asarray(stars[name], float) for name in ("ra", "dec", "V", "R", "V_error")}
    section = {**CATALOGUE, "file": None, "online": "J/nightflow/truth", "attempts": 1}
    asked = []
    with serving(vizier({"J/nightflow/truth": (columns, "ra", "dec")}, asked)) as address:
        chosen = options("auto", {**section, "vizier": address})
        workspace.run("--until", "solve", **chosen)
    assert len(asked) == 1
    check_solutions(workspace, "online catalogue")
    assert all(row["zero_point"] for row in rows(workspace).values())
    assert workspace.planned("--until", "solve", **chosen) == {}
    (fetched,) = (workspace.results / "reference").rglob("*.fits")
    before = fetched.read_bytes()
    (workspace.results / "photometry" / "M67_V_001.fits").unlink()
    workspace.run("--until", "solve", **options("auto", {**section, "vizier": "http://127.0.0.1:9"}))
    assert fetched.read_bytes() == before
    check_solutions(workspace, "offline")


def test_a_service_that_is_away_is_a_status_with_the_command_to_try_again(night, tmp_path):
    workspace = night.copy(tmp_path / "away")
    section = {"online": "gaia_dr3", "vizier": "http://127.0.0.1:9", "attempts": 1}
    workspace.run("results/zeropoints/M67_V_001.tsv", **options("auto", section))
    for row in rows(workspace).values():
        assert row["wcs_status"] == "NO ANSWER"
        assert "VizieR at http://127.0.0.1:9 did not answer" in row["remark"]
        assert "snakemake --forcerun results/reference/gaia_dr3/" in row["remark"]


@pytest.mark.parametrize(
    "change, words",
    [
        (options("scamp", {}), "astrometry.engine is scamp, but reference_catalogue.file is not set, nor is online"),
        (options("nova", {}), "set the variable AN_API_KEY or astrometry.api_key"),
        (options("auto", {**CATALOGUE, "online": "gaia_dr3"}), "file and online are both set: choose one"),
        (options("auto", {"vizier": "vizier.org"}), "reference_catalogue.vizier is 'vizier.org'"),
    ],
)
def test_mistakes_are_said(night, monkeypatch, change, words):
    monkeypatch.delenv("AN_API_KEY", raising=False)
    finished = night.snakemake("--dry-run", **change)
    assert finished.returncode != 0 and words in finished.stdout + finished.stderr
