"""Frame ids, slugs, overrides and the verdicts of the inventory."""

from __future__ import annotations

import re

import pytest
import yaml

from nightflow import frames, instruments
from nightflow.inventory import RawFile

SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@pytest.fixture(scope="module")
def dialects(root):
    files = (root / "config" / "instruments").glob("*.yaml")
    return instruments.resolve({path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files})


def build(dialects, cards, name="M51_001.fits", shape=(30, 40), error=None, **options):
    hdus = [{"hdu": 0, "shape": list(shape), "cards": cards, "error": error}]
    files = [RawFile(f"raw/{name}", name, 1, 1)]
    (frame,) = frames.build(files, [{"error": None, "hdus": hdus}], dialects, **options)
    return frame


LIGHT = {"IMAGETYP": "LIGHT", "OBJECT": "M 51", "FILTER": "V", "EXPTIME": 60.0, "DATE-OBS": "2024-03-08T22:00:00"}


@pytest.mark.parametrize(
    ("name", "identity"),
    [("M51_I_001.fit", "M51_I_001"), ("night1/a.FITS", "night1.a"), ("a.fits.gz", "a"), ("n/m/a.fts", "n.m.a")],
)
def test_plain_names_stay_readable(name, identity):
    assert frames.frame_id(name) == identity


@pytest.mark.parametrize(
    "pair",
    [
        ("a/b.fits", "a.b.fits"),
        ("a b.fits", "a_b.fits"),
        ("ä.fits", "ö.fits"),
        ("-a.fits", "a.fits"),
        ("$(x).fits", "x.fits"),
    ],
)
def test_different_files_have_different_safe_ids(pair):
    first, second = map(frames.frame_id, pair)
    assert first != second and SAFE.fullmatch(first) and SAFE.fullmatch(second)


def test_several_images_in_a_file_have_their_hdu_in_the_id():
    assert frames.frame_id("a.fits", 3, several=True) == "a.hdu3"


@pytest.mark.parametrize(("text", "expected"), [("M 51", "M_51"), ("  NGC  1 ", "NGC_1"), ("", "none"), (None, "none")])
def test_slugs_of_plain_text(text, expected):
    assert frames.slug(text, "none") == expected


@pytest.mark.parametrize(
    "text", ["../../etc/passwd", "$(rm -rf x)", "a\nb\0c", "'; DROP", "ngc/1", "★", "." * 5, "-rf", "x" * 500]
)
def test_slugs_of_hostile_text_are_safe(text):
    assert SAFE.fullmatch(frames.slug(text, "none")) and len(frames.slug(text, "none")) < 100


def test_names_that_differ_in_lost_characters_stay_apart():
    assert len({frames.slug(text, "none") for text in ("α Cen", "β Cen", "_Cen", "Cen")}) == 4


def test_a_light_is_described(dialects):
    frame = build(dialects, {**LIGHT, "GAIN": 1.5, "XBINNING": 2, "CCD-TEMP": -10.0})
    assert (frame.status, frame.kind, frame.target, frame.filter) == ("ok", "light", "M_51", "V")
    assert (frame.shape, frame.binning, frame.temperature, frame.exptime) == ("40x30", "2x2", -10.0, 60.0)
    assert frame.detector["gain"] == 1.5 and frame.night == "2024-03-08"
    assert frame.mjd_mid == pytest.approx(60377.9166667 + 30 / 86400, abs=1e-6)


@pytest.mark.parametrize(
    ("date", "longitude", "night"),
    [
        ("2024-03-09T03:00:00", None, "2024-03-08"),
        ("2024-03-08T13:00:00", None, "2024-03-08"),
        ("2024-03-09T03:00:00", -155.5, "2024-03-08"),
        ("2024-03-09T12:30:00", 150.0, "2024-03-09"),
        ("2024-03-09T01:00:00", 150.0, "2024-03-08"),
        ("2024-03-08", 150.0, "2024-03-08"),
    ],
)
def test_night_runs_from_local_noon_to_noon(dialects, date, longitude, night):
    assert build(dialects, {**LIGHT, "DATE-OBS": date}, site={"longitude": longitude}).night == night


def test_airmass_agrees_with_a_full_computation():
    from astropy import units as u
    from astropy.coordinates import AltAz, EarthLocation, SkyCoord
    from astropy.time import Time

    place = EarthLocation(lon=-17.88 * u.deg, lat=28.76 * u.deg, height=2300 * u.m)
    moment = Time(60377.95, format="mjd")
    star = SkyCoord(150 * u.deg, 20 * u.deg).transform_to(AltAz(obstime=moment, location=place))
    found = frames.airmass(150.0, 20.0, 60377.95, {"latitude": 28.76, "longitude": -17.88})
    assert found == pytest.approx(float(star.secz), abs=0.003)


@pytest.mark.parametrize(
    ("cards", "error", "words"),
    [
        ({"EXPTIME": 5.0}, None, "kind of frame unknown"),
        ({"IMAGETYP": "LIGHT"}, None, "no exposure time"),
        ({"IMAGETYP": "LIGHT", "EXPTIME": 0.0}, None, "an exposure time of 0 s"),
        (LIGHT, "truncated: 5 of 9 bytes", "truncated"),
    ],
)
def test_what_cannot_be_used_is_rejected_with_its_reason(dialects, cards, error, words):
    frame = build(dialects, cards, name="x.fits", error=error)
    assert frame.status == "rejected" and words in frame.reason


def test_focus_frames_are_ignored_not_rejected(dialects):
    assert build(dialects, {"IMAGETYP": "focus", "EXPTIME": 1.0}).status == "ignored"


def test_unreadable_files_are_rows(dialects):
    (frame,) = frames.build([RawFile("raw/x.fits", "x.fits", 0, 1)], [{"error": "empty file", "hdus": []}], dialects)
    assert (frame.status, frame.reason, frame.path) == ("rejected", "empty file", "raw/x.fits")


@pytest.mark.parametrize("name", ["a{b}.fits", "a\nb.fits", "a\udcff.fits"])
def test_names_that_snakemake_cannot_hold_are_rejected_rows(dialects, name):
    frame = build(dialects, LIGHT, name=name)
    assert frame.status == "rejected" and "rename" in frame.reason
    assert len(frames.to_tsv([frame]).splitlines()) == 2


def test_same_stem_with_another_ending_gets_its_own_id(dialects):
    hdu = {"error": None, "hdus": [{"hdu": 0, "shape": [3, 4], "cards": LIGHT, "error": None}]}
    files = [RawFile(f"raw/{name}", name, 1, 1) for name in ("a.fit", "a.fits")]
    rows = frames.build(files, [hdu, hdu], dialects)
    assert len({row.frame for row in rows}) == 2


def test_overrides_set_and_exclude(dialects):
    rows = frames.check_overrides(
        [
            {"path": "M51*", "target": "Whirlpool", "exptime": "30"},
            {"path": "*_002*", "exclude": "true", "reason": "dome"},
        ]
    )
    first = build(dialects, LIGHT, overrides=rows)
    assert (first.target, first.exptime, first.status) == ("Whirlpool", 30.0, "ok")
    second = build(dialects, LIGHT, name="M51_002.fits", overrides=rows)
    assert (second.status, second.reason) == ("rejected", "excluded by overrides: dome")


def test_overridden_dates_move_the_night(dialects):
    frame = build(dialects, LIGHT, overrides=[{"path": "*", "date_obs": "2020-01-01T20:00:00"}])
    assert frame.night == "2020-01-01"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"target": "x"}, "row 1 has no path"),
        ({"path": "*", "colour": "red"}, "unknown colour"),
        ({"path": "*", "kind": "lite"}, "kind 'lite' is none of bias, dark, flat, light, other"),
        ({"path": "*", "exptime": "long"}, "exptime 'long' is not a number"),
    ],
)
def test_wrong_overrides_are_explained(row, words):
    with pytest.raises(frames.OverridesError, match=words):
        frames.check_overrides([row])


def test_overrides_table_with_tabs_or_commas(tmp_path):
    for delimiter in "\t,":
        table = tmp_path / "overrides"
        table.write_text(f"# mine\npath{delimiter}target\nM51*{delimiter}M51\n")
        assert frames.read_overrides(table) == [{"path": "M51*", "target": "M51"}]


def test_missing_overrides_table_is_named(tmp_path):
    with pytest.raises(frames.OverridesError, match="gone.tsv"):
        frames.read_overrides(tmp_path / "gone.tsv")


def test_table_has_the_documented_columns(dialects):
    header = frames.to_tsv([build(dialects, LIGHT)]).splitlines()[0].split("\t")
    assert header == [
        "frame",
        "path",
        "hdu",
        "kind",
        "target",
        "filter",
        "exptime",
        "binning",
        "shape",
        "window",
        "gain_setting",
        "offset",
        "readout_mode",
        "chip",
        "temperature",
        "ra",
        "dec",
        "airmass",
        "date_obs",
        "mjd_mid",
        "night",
        "instrument",
        "status",
        "reason",
        "bias",
        "dark",
        "flat",
    ]


def test_a_gain_of_ones_own_holds_for_every_amplifier(dialects):
    cards = {"OBSERVAT": "CTIO", "OBSTYPE": "object", "EXPTIME": 9.0, "GAINA": 4.1, "GAINB": 4.3, "RDNOISEA": 6.0}
    cards |= {"RDNOISEB": 7.0, "DATASECA": "[1:20,1:30]", "DATASECB": "[21:40,1:30]"}
    cards |= {"BIASSECA": "[1:2,1:30]", "BIASSECB": "[39:40,1:30]"}
    amplifiers = build(dialects, cards).detector["amplifiers"]
    assert [amp["gain"] for amp in amplifiers] == [4.1, 4.3] and amplifiers[1]["data"] == [[0, 30], [20, 40]]
    frame = build(dialects, cards, overrides=[{"path": "*", "gain": 2.0}])
    assert frame.detector["gain"] == 2.0 and all("gain" not in amp for amp in frame.detector["amplifiers"])
    assert [amp["read_noise"] for amp in frame.detector["amplifiers"]] == [6.0, 7.0]


def test_the_frames_of_a_scan_can_be_kept_and_read_back(dialects):
    import json

    rows = [build(dialects, {**LIGHT, "TRIMSEC": "[1:20,1:30]", "BAYERPAT": "RGGB"}, split_colours=False)]
    assert frames.from_records(json.loads(json.dumps(frames.to_records(rows)))) == rows
    assert rows[0].trimmed_shape == "20x30"
