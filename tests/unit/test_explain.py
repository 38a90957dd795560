"""What `explain` says of frames from cameras of all kinds; nothing that it is given makes it fail."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from nightflow import explain
from nightflow.inventory import RawFile


def write(path, **cards):
    header = fits.Header()
    for keyword, value in cards.items():
        header[keyword.replace("_", " ") if keyword.startswith("ESO") else keyword] = value
    fits.PrimaryHDU(np.zeros((6, 8), np.uint16), header).writeto(path)
    return path


@pytest.fixture
def folder(tmp_path):
    light = {"IMAGETYP": "Light Frame", "FILTER": "R", "EXPTIME": 60.0, "DATE-OBS": "2024-03-08T22:00:00"}
    write(tmp_path / "a.fits", **light, SWCREATE="MaxIm DL Version 6", EGAIN=1.3)
    write(tmp_path / "b.fits", **light, SWCREATE="MaxIm DL Version 6", EGAIN=1.3)
    write(tmp_path / "odd.fits", EXPTIME=5.0)
    (tmp_path / "text.fits").write_text("no image")
    return tmp_path


def test_says_what_decided_and_what_is_missing(folder, capsys):
    assert explain.main([str(folder)]) == 0
    text = capsys.readouterr().out
    assert "2 x light (dialect maxim)" in text
    assert "from rule kind='Light Frame'" in text and "from EGAIN" in text and "1.3" in text
    assert "target         missing: all such lights are one target, 'unknown'" in text
    assert "read_noise     missing: measured on the bias frames" in text
    assert "kind of frame unknown (no rule of 'generic' fits" in text
    assert "not a FITS file" in text
    assert text.splitlines()[-1] == "4 images: 2 light; 2 not usable"


def test_a_dialect_can_be_forced_or_be_ones_own(folder, tmp_path, capsys):
    own = tmp_path / "mine.yaml"
    own.write_text("name: mine\nextends: generic\nkinds: [{EXPTIME: 5, is: dark}]\ndefaults: {read_noise: 7.5}\n")
    assert explain.main([str(folder / "odd.fits"), "--instrument", str(own)]) == 0
    text = capsys.readouterr().out
    assert "1 x dark (dialect mine)" in text and "7.5" in text and "from default" in text
    assert explain.main([str(folder / "a.fits"), "--instrument", "generic"]) == 0
    assert "(dialect generic)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nowhere"], 2, "'nowhere' is neither a folder nor a file"),
        (["{folder}", "--instrument", "nikon"], 2, "instrument 'nikon' is unknown; known are auto, andor, cfht"),
        (["{folder}", "--instrument", "gone.yaml"], 2, "instrument file 'gone.yaml' not found"),
        (["{folder}", "--instrument", "{folder}/bad.yaml"], 2, "unknown key 'keyword' (did you mean 'keywords'?)"),
        (["{folder}", "--instrument", "{folder}/broken.yaml"], 2, "is no YAML"),
        (["{folder}/empty"], 1, "no file ends in .fits"),
    ],
)
def test_mistakes_are_told_in_a_sentence(folder, capsys, arguments, status, words):
    (folder / "empty").mkdir()
    (folder / "bad.yaml").write_text("name: bad\nkeyword: {}\n")
    (folder / "broken.yaml").write_text("name: [\n")
    assert explain.main([a.format(folder=folder) for a in arguments]) == status
    assert words in capsys.readouterr().err


def test_help_is_there(capsys):
    with pytest.raises(SystemExit) as end:
        explain.main(["--help"])
    assert end.value.code == 0 and "understood" in capsys.readouterr().out


def files_of(shared_data):
    sets = [shared_data / name / "raw" for name in ("m51_qsi532", "hatp32_microobs", "stargate_iraf")]
    return sorted((shared_data / "singles").rglob("*.f*t*")) + [min(folder.iterdir()) for folder in sets]


REAL = {  # file: dialect, kind, target, filter, exposure time, and a value that only this dialect gets right
    "aspen_trimmed.fit": ("maxim", "flat", None, "R", 1.0, {"temperature": -7.9147035}),
    "celestron_nightscape_10100_astro_fx_v106.fit": ("maxim", "light", "Mette", "nofilter", 60.0, {}),
    "maximdl_5_21_header.fit": ("maxim", "light", "ey-uma", "R", 90.0, {"site_longitude": -97.20333}),
    "maximdl_5_23_header.fit": ("maxim", "light", "ngc-6946", "B", 90.0, {"airmass": 1.44964}),
    "maximdl_6_16_header.fit": ("maxim", "light", "ngc-6946", "B", 90.0, {"ra": 308.73333}),
    "maximdl_6_18_header.fit": ("maxim", "light", "kelt-16-b", "r", 90.0, {"mjd_start": 58353.36771}),
    "uint16.fit": ("maxim", "light", "unknown", "R", 90.0, {}),
    "a8280271.fits": ("generic", "light", "rf0420", "48", 150.04, {"temperature": -92.95, "gain": 1.9}),
    "M51.fits": ("noirlab", "light", "m51_B_600s", "2", 600.0, {"mjd_start": 46890.39406}),
    "M6707HH.fits": ("generic", "light", "M67", "nofilter", 50.0, {"mjd_start": 33979.50486}),
    "solved.fits": ("generic", "light", "KIC_8462852", "RGGB", 120.4, {"site_longitude": -155.58}),
    "image.fits": ("eso", "light", "NA36Rc50_sum_of_3_frames", "R", 1200.0, {"gain": 2.1, "temperature": -135.55}),
    "M51_I_001.fit": ("maxim", "light", "unknown", "I", 200.0, {"gain": 2.4}),
    "HATP-32171220013343.FITS": (
        "microobservatory", "light", "HATP-32", "Clear", 60.0,
        {"temperature": -2.15, "site_longitude": -110.88, "mjd_start": 58107.06508, "ra": 31.312099},
    ),
    "StarGateCluster_030_sec_1x1_0001.fit": ("maxim", "light", "unknown", "nofilter", 30.0, {}),
}  # fmt: skip


def test_real_frames_of_every_kind_are_understood(shared_data):
    dialects = explain.load_dialects()
    files = [RawFile(str(path), path.name, path.stat().st_size, 1) for path in files_of(shared_data)]
    found = {one.frame.path.rsplit("/", 1)[-1]: one for one in explain.explain(files, dialects, "auto")}
    assert set(REAL) <= set(found) and len(found) == len(files)
    assert all(one.frame.status == "ok" for one in found.values())
    for name, (dialect, kind, target, filter_name, exptime, values) in REAL.items():
        one = found[name]
        facts = (one.dialect, one.frame.kind, one.frame.target, one.frame.filter, one.frame.exptime)
        assert facts == (dialect, kind, target, filter_name, exptime), name
        assert {key: one.values[key] for key in values} == pytest.approx(values, abs=1e-4), name
    assert list(explain.lines(list(found.values())))[-1].startswith("18 images: 1 flat, 17 light")


def test_hatp32_night_is_the_local_one(shared_data):
    """Taken at 18:33 local time, the evening of the 19th, though the date in UT is the 20th."""
    path = min((shared_data / "hatp32_microobs" / "raw").iterdir())
    (one,) = explain.explain([RawFile(str(path), path.name, path.stat().st_size, 1)], explain.load_dialects(), "auto")
    assert one.frame.night == "2017-12-19" and one.frame.date_obs == "2017-12-20T01:33:43.317"
    assert one.origins["date_obs"] == "UT-OBS" and one.frame.airmass == pytest.approx(1.126, abs=0.01)
