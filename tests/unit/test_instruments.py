"""Header dialects: the same facts come out, whatever the keywords are called."""

from __future__ import annotations

import pytest
import yaml

from nightflow import instruments


@pytest.fixture(scope="module")
def dialects(root):
    files = sorted((root / "config" / "instruments").glob("*.yaml"))
    definitions = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files}
    assert all(definition["name"] == name for name, definition in definitions.items())
    return instruments.resolve(definitions)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        *(("BIAS", "bias"), ("Bias Frame", "bias"), ("zero", "bias"), ("Dark Frame", "dark"), ("DARK", "dark")),
        *(("Flat Field", "flat"), ("skyflat", "flat"), ("FLAT", "flat"), ("Dark Flat", "dark"), ("FLATDARK", "dark")),
        *(("Light Frame", "light"), ("LIGHT", "light"), ("object", "light"), ("science", "light")),
        *(("focus", "other"), ("Master Dark", "master"), ("nonsense", None)),
    ],
)
def test_kind_of_a_frame_from_its_type_card(dialects, text, kind):
    values, origins = instruments.translate({"IMAGETYP": text, "EXPTIME": 1.0}, dialects["generic"])
    assert values["kind"] == kind
    assert ("kind" in origins) == (kind is not None)


@pytest.mark.parametrize(
    ("cards", "path", "kind"),
    [
        ({"EXPTIME": 1.0}, "Flats/a.fits", "flat"),
        ({"EXPTIME": 1.0}, "dark_001.fits", "dark"),
        ({"EXPTIME": 0.0}, "a.fits", "bias"),
        ({"EXPTIME": 9.0, "OBJECT": "M1"}, "a.fits", "light"),
        ({"EXPTIME": 9.0}, "a.fits", None),
        ({"EXPTIME": 9.0, "IMAGETYP": "LIGHT"}, "dark nebula/a.fits", "light"),
    ],
)
def test_without_a_type_card_the_path_and_exposure_decide(dialects, cards, path, kind):
    assert instruments.translate(cards, dialects["generic"], path)[0]["kind"] == kind


def test_maxim_headers_are_recognised_and_their_gain_card_is_a_setting(dialects):
    cards = {"SWCREATE": "MaxIm DL Version 5.08", "EGAIN": 2.4, "GAIN": 120, "OFFSET": 10}
    dialect = instruments.choose(cards, dialects)
    values, _ = instruments.translate(cards, dialect)
    assert dialect.name == "maxim"
    assert (values["gain"], values["gain_setting"], values["offset"]) == (2.4, "120", "10")


@pytest.mark.parametrize(
    ("cards", "gain", "setting"),
    [({"GAIN": 1.5}, 1.5, None), ({"GAIN": 120}, None, "120"), ({"EGAIN": 0.8, "GAIN": 2}, 0.8, "2"), ({}, None, None)],
)
def test_generic_gain_is_the_plausible_one(dialects, cards, gain, setting):
    values, _ = instruments.translate(cards, dialects["generic"])
    assert (values["gain"], values["gain_setting"]) == (gain, setting)


def test_first_keyword_with_a_value_wins_and_is_named(dialects):
    values, origins = instruments.translate({"FILTER": "  ", "FILTER1": "V"}, dialects["generic"])
    assert values["filter"] == "V" and origins["filter"] == "FILTER1"


@pytest.mark.parametrize(
    ("value", "angle"),
    [
        *(("-01 29 07", (-1.4852777777777778, True)), ("12:30:00", (12.5, True)), ("+31 39 39.6", (31.661, True))),
        *((31.3, (31.3, False)), ("31.3", (31.3, False)), ("-00:30:00", (-0.5, True)), ("12h30m", (12.5, True))),
        *(("34 10 20 S", (-34.17222222222222, True)), ("text", None), (None, None), ("nan", None), (True, None)),
    ],
)
def test_angles(value, angle):
    found = instruments.as_angle(value)
    assert found == (pytest.approx(angle[0]), angle[1]) if angle else found is None


def test_right_ascension_text_is_hours_and_a_number_is_degrees(dialects):
    assert instruments.translate({"RA": "12 30 00"}, dialects["generic"])[0]["ra"] == 187.5
    assert instruments.translate({"RA": 187.5}, dialects["generic"])[0]["ra"] == 187.5


@pytest.mark.parametrize(
    ("cards", "mjd"),
    [
        ({"DATE-OBS": "2012-02-19T01:54:56"}, 55976.0798148),
        ({"DATE-OBS": "2012-02-19", "UT": "01:54:56"}, 55976.0798148),
        ({"DATE-OBS": "19/02/98", "UT": "00:00:00"}, 50863.0),
        ({"DATE-OBS": "2017-12-20T00:15:12.190-0700"}, 58107.3022244),
        ({"DATE-OBS": "2018-08-23T08:49:30.123456789"}, 58353.3677097),
        ({"MJD-OBS": 55976.5}, 55976.5),
        ({"DATE-OBS": "yesterday"}, None),
        ({"DATE-OBS": "1899-13-45"}, None),
    ],
)
def test_start_of_the_exposure(dialects, cards, mjd):
    found = instruments.translate(cards, dialects["generic"])[0]["mjd_start"]
    assert found == pytest.approx(mjd, abs=1e-6) if mjd is not None else found is None


@pytest.mark.parametrize(
    ("cards", "binning"),
    [({}, "1x1"), ({"XBINNING": 2, "YBINNING": 3}, "2x3"), ({"CCDSUM": "2 4"}, "2x4"), ({"BINNING": "3x3"}, "3x3")],
)
def test_binning(dialects, cards, binning):
    assert instruments.translate(cards, dialects["generic"])[0]["binning"] == binning


def test_a_comma_is_a_decimal_point(dialects):
    assert instruments.translate({"EXPTIME": "3,2E-05"}, dialects["generic"])[0]["exptime"] == pytest.approx(3.2e-5)


def test_a_file_can_extend_another():
    parent = {"name": "p", "match": [], "keywords": {"target": ["A"], "filter": ["F"]}, "kinds": []}
    child = {"name": "c", "extends": "p", "match": [{"INSTRUME": "x*"}], "keywords": {"target": ["B"]}}
    resolved = instruments.resolve({"p": parent, "c": child})["c"]
    assert resolved.keywords == {"target": ["B"], "filter": ["F"]} and resolved.match == [{"INSTRUME": "x*"}]


@pytest.mark.parametrize("definitions", [{"a": {"name": "a", "extends": "b"}}, {"a": {"name": "a", "extends": "a"}}])
def test_wrong_extends_is_named(definitions):
    with pytest.raises(instruments.InstrumentError, match="extend"):
        instruments.resolve(definitions)


def test_west_longitudes_can_be_positive(dialects):
    import dataclasses

    west = dataclasses.replace(dialects["generic"], longitude_sign="west")
    assert instruments.translate({"LONGITUD": 110.88}, west)[0]["site_longitude"] == pytest.approx(-110.88)
