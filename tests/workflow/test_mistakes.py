"""Bad data are reported and left out; a user's mistakes end in one clear sentence."""

from __future__ import annotations

import csv
import shutil
from functools import partial

import numpy as np
import pytest
from astropy.io import fits

pytestmark = pytest.mark.workflow


def frames(workspace):
    with open(workspace.results / "frames.tsv", encoding="utf-8") as file:
        return {row["path"].rsplit("/", 1)[-1]: row for row in csv.DictReader(file, delimiter="\t")}


def edit(path, target, change):
    with fits.open(path) as hdus:
        data, header = hdus[0].data.copy(), hdus[0].header.copy()
    fits.writeto(target, change(data), header)


def test_bad_data_never_end_a_night(fresh):
    raw, light = fresh.raw, fresh.raw / "M67_V_001.fits"
    (raw / "M67_V_truncated.fits").write_bytes(light.read_bytes()[:30_000])
    (raw / "M67_V_empty.fits").write_bytes(b"")
    (raw / "M67_V_text.fits").write_text("not an image\n" * 500)
    edit(light, raw / "M67_V_shape.fits", lambda data: data[:120, :100])
    edit(light, raw / "M67_V_saturated.fits", lambda data: np.full_like(data, 65535))
    edit(light, raw / "M67_V_constant.fits", lambda data: np.full_like(data, 1000))
    spaced = raw / "a folder with spaces"
    spaced.mkdir()
    shutil.move(raw / "M67_V_003.fits", spaced / "M67 V 003.fits")
    fresh.run()

    table = frames(fresh)
    for name, words in (
        ("truncated", "truncated"),
        ("empty", "empty"),
        ("text", "not a FITS file"),
        ("shape", "shape"),
    ):
        row = table[f"M67_V_{name}.fits"]
        assert row["status"] == "rejected" and words in row["reason"], row
    with open(fresh.results / "quality.tsv", encoding="utf-8") as file:
        quality = {row["frame"]: row for row in csv.DictReader(file, delimiter="\t")}
    assert "saturated" in quality["M67_V_saturated"]["reason"] and quality["M67_V_saturated"]["used"] == "False"
    for stage in ("calibrated", "masked", "subtracted", "sources"):
        header = fits.getheader(fresh.results / stage / "M67_V_saturated.fits")
        assert header["NFSTAT"] == "REJECTED" and "saturated" in header["NFREASON"] and header["OBJECT"] == "M67"
    assert quality["M67_V_constant"]["used"] == "False" and quality["M67_V_constant"]["reason"]
    stack = fits.open(fresh.results / "stacks" / "M67" / "V.fits")
    with stack:
        assert stack[0].header["NCOMBINE"] == 3
    page = (fresh.results / "report" / "index.html").read_text()
    for name in ("truncated", "empty", "text", "shape", "saturated"):
        assert f"M67_V_{name}" in page
    assert not fresh.planned()


def test_a_stack_and_a_master_of_nothing_are_rejected_and_no_error(fresh):
    """Lights are saturated and darks are zero: the report says so, and the flats go on without their dark."""
    for pattern, value in (("M67*", 65535), ("dark*", 0)):
        for path in fresh.raw.glob(pattern):
            edit(path, fresh.folder / "new.fits", partial(np.full_like, fill_value=value))
            shutil.move(fresh.folder / "new.fits", path)
    fresh.run(calibration={"missing": "warn"})
    (dark,), (flat,) = fresh.results.glob("masters/dark_*.fits"), fresh.results.glob("masters/flat_*.fits")
    for path in (dark, fresh.results / "stacks" / "M67" / "V.fits"):
        assert fits.getheader(path)["NFSTAT"] == "REJECTED"
    cards = fits.getheader(flat)
    assert (cards.get("NFSTAT"), cards["CALBIAS"], cards["CALDARK"]) == (None, "applied", "none")
    page = (fresh.results / "report" / "index.html").read_text()
    assert "no frame can be used: all pixels of dark" in page


def sentence(finished):
    """The one line that tells the user what is wrong."""
    text = finished.stdout + finished.stderr
    assert finished.returncode != 0 and "Traceback" not in text and 'File "' not in text, text
    (line,) = [line for line in text.splitlines() if line.startswith("nightflow: ")]
    return line


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"raw_dir": "unset"}, ["raw_dir is not set", "--config raw_dir="]),
        ({"raw_dir": "nowhere"}, ["raw_dir 'nowhere' is not a folder"]),
        ({"raw_dir": "results"}, ["holds no raw frames"]),
        ({"raw_dir": 20180512}, ["raw_dir is 20180512", "./20180512"]),
        ({"sky": {"sgima": 3}}, ["unknown key 'sky.sgima'", "did you mean 'sigma'"]),
        ({"sky": {"sigma": "four"}}, ["sky.sigma is 'four' (text)", "a number above 0"]),
        ({"stack": {"method": "average"}}, ["stack.method is 'average'", "mean, median"]),
        ({"instrument": "hubble"}, ["instrument 'hubble' is unknown", "generic"]),
        ({"instrument": "my.yaml"}, ["instrument file 'my.yaml' not found"]),
        ({"overrides": "mine.tsv"}, ["overrides table 'mine.tsv' cannot be read"]),
        ({"overrides": [{"path": "*", "colour": "red"}]}, ["unknown colour"]),
        ({"results_dir": "a{b}"}, ["results_dir 'a{b}' holds one of"]),
    ],
)
def test_configuration_mistakes(fresh, config, words):
    fresh.results.mkdir()
    line = sentence(fresh.snakemake(**config))
    assert all(word in line for word in words), line


def test_no_lights(fresh):
    for path in fresh.raw.glob("M67*"):
        path.unlink()
    assert "no lights among the raw frames of 'raw': 3 bias, 3 dark, 3 flat" in sentence(fresh.snakemake())


def test_no_flat_for_a_filter(fresh):
    for path in fresh.raw.glob("flat*"):
        path.unlink()
    line = sentence(fresh.snakemake())
    assert "no flat for filter V: there are no flat frames" in line and "calibration.missing" in line
    assert frames(fresh)["M67_V_001.fits"]["kind"] == "light"  # the table is there to look at


def test_missing_flats_can_be_gone_without(fresh):
    for path in fresh.raw.glob("flat*"):
        path.unlink()
    fresh.run(calibration={"missing": "warn"})
    header = fits.getheader(fresh.results / "calibrated" / "M67_V_001.fits")
    assert header["CALFLAT"] == "none" and header["CALBIAS"].startswith("bias_")


def test_an_unknown_product_is_explained(fresh):
    line = sentence(fresh.snakemake("results/calibrated/foo.fits"))
    assert "no light 'foo'" in line and "frames.tsv" in line
