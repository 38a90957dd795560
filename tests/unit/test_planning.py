"""The plan: which camera a frame belongs to, what is remembered between runs, and what a library adds."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest
import yaml
from astropy.io import fits

from nightflow import explain, inventory, planning


@pytest.fixture
def config(root, tmp_path):
    defaults = yaml.safe_load((root / "config" / "config.yaml").read_text(encoding="utf-8"))
    return {**defaults, "raw_dir": str(tmp_path / "raw")}


@pytest.fixture(scope="module")
def dialects():
    return explain.load_dialects()


def write(folder, name, **cards):
    folder.mkdir(parents=True, exist_ok=True)
    header = fits.Header({"DATE-OBS": "2024-03-08T22:00:00", "INSTRUME": "cam", "GAIN": 1.5, **cards})
    pixels = np.full((8, 10), len(list(folder.iterdir())), np.uint16)  # no two files are alike
    fits.PrimaryHDU(pixels, header).writeto(folder / name)


def night(folder, date="2024-03-08T22:00:00", kinds=("bias", "dark", "flat", "light"), **cards):
    exptimes = {"bias": 0.0, "dark": 60.0, "flat": 2.0, "light": 60.0}
    for kind in kinds:
        for number in range(8 if kind == "light" else 2):
            card = {"IMAGETYP": kind, "EXPTIME": exptimes[kind], "FILTER": "V", "DATE-OBS": date, **cards}
            write(folder, f"{kind}{number}.fits", **card)


def plan_of(config, dialects, tmp_path):
    rows = planning.scan(config, dialects, str(tmp_path / "results"))
    library = planning.scan_library(config, dialects, str(tmp_path / "results"))
    return planning.assemble(rows, config, library)


def test_a_camera_of_a_night_has_frames_to_measure_it_on(config, dialects, tmp_path):
    night(tmp_path / "raw")
    plan = plan_of(config, dialects, tmp_path)
    ((name, camera),) = plan.cameras.items()
    assert name == "2024-03-08_cam_1x1" and set(plan.camera_of.values()) == {name}
    assert (len(camera.bias), [len(flats) for flats in camera.flats], len(camera.lights)) == (2, [2], 6)


def test_a_further_light_does_not_change_what_the_camera_is_measured_on(config, dialects, tmp_path):
    night(tmp_path / "raw")
    before = plan_of(config, dialects, tmp_path).cameras
    write(tmp_path / "raw", "z.fits", IMAGETYP="light", EXPTIME=60.0, FILTER="V", **{"DATE-OBS": "2024-03-08T23:00:00"})
    after = plan_of(config, dialects, tmp_path).cameras
    assert [[f.path for f in c.lights] for c in before.values()] == [[f.path for f in c.lights] for c in after.values()]


def test_lights_belong_to_the_night_of_their_flats(config, dialects, tmp_path):
    night(tmp_path / "raw" / "a")
    night(tmp_path / "raw" / "b", "2024-03-10T22:00:00", kinds=("light",))
    plan = plan_of(config, dialects, tmp_path)
    assert set(plan.camera_of.values()) == {"2024-03-08_cam_1x1"}


def test_settings_are_cameras_of_their_own(config, dialects, tmp_path):
    night(tmp_path / "raw" / "a", READOUTM="fast")
    night(tmp_path / "raw" / "b", READOUTM="slow")
    assert len(plan_of(config, dialects, tmp_path).cameras) == 2


def test_nothing_is_opened_when_nothing_changed(config, dialects, tmp_path, monkeypatch):
    night(tmp_path / "raw")
    first = planning.scan(config, dialects, str(tmp_path / "results"))
    monkeypatch.setattr(inventory, "read_headers", lambda path: pytest.fail(f"opened {path}"))
    again = planning.scan(config, dialects, str(tmp_path / "results"))
    assert again == first and again is not first


@pytest.mark.parametrize("change", [{"site": {"latitude": 1.0, "longitude": 2.0, "height": 3.0}}, {"overrides": []}])
def test_another_configuration_is_understood_anew(config, dialects, tmp_path, change):
    night(tmp_path / "raw")
    config["overrides"] = [{"path": "*", "target": "M51", "ra": "10", "dec": "10"}]
    planning.scan(config, dialects, str(tmp_path / "results"))
    changed = copy.deepcopy(config) | change
    rows = planning.scan(changed, dialects, str(tmp_path / "results"))
    fresh = planning.scan(changed, dialects, str(tmp_path / "other"))
    assert rows == fresh


@pytest.mark.parametrize("damage", ["", "[]", '{"key": 1}'])
def test_a_damaged_memory_is_as_good_as_none(config, dialects, tmp_path, damage):
    night(tmp_path / "raw")
    rows = planning.scan(config, dialects, str(tmp_path / "results"))
    (tmp_path / "results" / ".nightflow" / "frames.json").write_text(damage)
    assert planning.scan(config, dialects, str(tmp_path / "results")) == rows


def test_a_library_fills_in_what_the_night_lacks(config, dialects, tmp_path):
    night(tmp_path / "raw", kinds=("light", "bias"))
    library = tmp_path / "library"
    write(library, "MasterDark_60s.fits", IMAGETYP="Master Dark", EXPTIME=60.0)
    write(library, "flat_V.fits", FILTER="V")
    write(library, "odd.fits")
    config["calibration"]["library"] = str(library)
    plan = plan_of(config, dialects, tmp_path)
    (light, *_) = plan.lights.values()
    assert light.bias.startswith("bias_") and (light.dark, light.flat) == ("library_MasterDark_60s", "library_flat_V")
    assert plan.masters[light.flat].ready and plan.masters[light.flat].bias is None


def test_a_library_that_is_not_there_is_named(config, dialects, tmp_path):
    config["calibration"]["library"] = str(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="calibration.library .*gone.* is not a folder"):
        planning.scan_library(config, dialects, str(tmp_path / "results"))


def test_flats_of_all_chips_are_one_mosaic(config, dialects, tmp_path):
    (tmp_path / "raw").mkdir()
    for kind, exptime, count in (("bias", 0.0, 2), ("dark", 60.0, 2), ("flat", 2.0, 3), ("light", 60.0, 1)):
        for number in range(count):
            cards = {"IMAGETYP": kind, "EXPTIME": exptime, "FILTER": "V", "DATE-OBS": "2024-03-08T22:00:00"}
            chips = [fits.ImageHDU(np.zeros((8, 10), np.uint16), name=f"CCD{i}") for i in (1, 2)]
            path = tmp_path / "raw" / f"{kind}{number}.fits"
            fits.HDUList([fits.PrimaryHDU(header=fits.Header(cards)), *chips]).writeto(path)
    plan = plan_of(config, dialects, tmp_path)
    ((name, members),) = plan.mosaics.items()
    assert name.startswith("levels_") and [m.like.chip for m in members] == ["CCD1", "CCD2"]
    assert len(plan.lights) == 2 and len(plan.stacks) == 2


def test_a_copy_of_a_frame_is_no_further_exposure(config, dialects, tmp_path):
    """A backup does not take the place of what it was made of; equal headers over other pixels are no copies."""
    raw = tmp_path / "raw"
    night(raw, kinds=("light",))
    (raw / "backup").mkdir()
    shutil.copy(raw / "light3.fits", raw / "backup" / "light3.fits")
    (raw / "z.fits").symlink_to(raw / "light5.fits")
    rows = planning.scan(config, dialects, str(tmp_path / "results"))
    ignored = {row.frame: row.reason for row in rows if row.status == "ignored"}
    assert ignored == {"backup.light3": "the same bytes as light3.fits", "z": "the same bytes as light5.fits"}
    assert sum(row.status == "ok" for row in rows) == 8


def test_a_file_that_cannot_be_read_is_no_copy(tmp_path):
    night(tmp_path / "raw", kinds=("light",))
    files = inventory.find_files([str(tmp_path / "raw")])
    headers = [inventory.read_headers(file.path) for file in files]
    (tmp_path / "raw" / "light0.fits").unlink()
    assert inventory.find_copies(files, headers) == {}
