"""Header dialects: the same facts come out, whatever the keywords are called."""

from __future__ import annotations

import pytest
import yaml

from nightflow import headervalues, instruments


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
        *(("OFFSET", "bias"), ("dome", "flat"), ("TWILIGHT", "flat"), ("sci", "light")),
        *(("focus", "other"), ("SNAPSHOT", "other"), ("Master Dark", "master"), ("nonsense", None)),
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
        ({"EXPTIME": 9.0}, "M51/Lights/a.fits", "light"),
        ({"EXPTIME": 0.01}, "Offset/a.fits", "bias"),
        ({"EXPTIME": 9.0}, "M51_gain100_offset50.fits", None),
        *(({"EXPTIME": 9.0, "FRAME": word}, "flat1.fits", "flat") for word in (12, "2011-05-05T20:12:32", "FK5")),
        *(({"EXPTIME": 9.0, "PICTTYPE": n}, "a.fits", k) for n, k in enumerate(("light", "bias", "dark", "flat"), 1)),
        ({"EXPTIME": 9.0, "IMAGETYP": "LIGHT"}, "dark nebula/a.fits", "light"),
    ],
)
def test_without_a_type_card_the_path_and_exposure_decide(dialects, cards, path, kind):
    assert instruments.translate(cards, dialects["generic"], path)[0]["kind"] == kind


@pytest.mark.parametrize(
    ("cards", "kind"),
    [
        ({"IMAGETYP": "dark", "EXPTIME": 0.0}, "bias"),
        ({"IMAGETYP": "object", "OBJECT": "bias", "EXPTIME": 0.0}, "bias"),
        ({"IMAGETYP": "object", "OBJECT": "bias", "EXPTIME": 30.0}, "light"),
        ({"IMAGETYP": "object", "OBJECT": "Dome flat V", "EXPTIME": 3.0}, "flat"),
        ({"IMAGETYP": "Light Frame", "OBJECT": "darks", "EXPTIME": 30.0}, "dark"),
        ({"IMAGETYP": "Light Frame", "OBJECT": "Dark Nebula", "EXPTIME": 30.0}, "light"),
    ],
)
def test_calibration_frames_that_the_camera_calls_something_else(dialects, cards, kind):
    """A dark without exposure is a bias, and an object called bias or flat is none: not lights of a new target."""
    assert instruments.translate(cards, dialects["generic"])[0]["kind"] == kind


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({"FILTER1": "Clear", "FILTER2": "V"}, "V"),
        ({"FILTER1": "R", "FILTER2": "open", "FILTER3": " "}, "R"),
        ({"FILTER1": "V", "FILTER2": "ND1"}, "V+ND1"),
        ({"FILTER1": "Clear", "FILTER2": "Empty"}, "Clear"),
        ({"FILTER1": "V", "FILTER2": "V"}, "V"),
        ({"FILTER1": "n/a", "FILTER2": "B"}, "B"),
        ({"FILTER": "Clear", "FILTER2": "V"}, "Clear"),
        ({"FILTERA": "none", "FILTERB": 3}, "3"),
        ({"FILTER1": "n/a"}, None),
    ],
)
def test_open_filter_wheels_do_not_hide_the_filter(dialects, cards, expected):
    """Of wheels in one beam the one with a filter names it; one card of its own for the filter comes first."""
    assert instruments.translate(cards, dialects["generic"])[0]["filter"] == expected


@pytest.mark.parametrize(
    ("cards", "filter_name"),
    [
        ({"DATA-TYP": "OBJECT", "FILTER01": "V", "EXPTIME": 30, "DATE-OBS": "2010-01-01", "UT": "10:00:00.5"}, "V"),
        ({"OBSTYPE": "TARGET", "WFFBAND": "r", "EXPTIME": 60, "DATE-OBS": "2010-01-01", "UTSTART": "10:00:00.5"}, "r"),
        ({"IMGTYP": "object", "FILTER": "R", "AEXPTIME": 60.0, "UTC-OBS": "2010-01-01T10:00:00.5"}, "R"),
        ({"FLAVOR": "science", "FILTER": "i", "EXPTIME": 54.0, "MJD-OBS": 55197.41667246}, "i"),
    ],
)  # fmt: skip
def test_observatories_without_a_file_of_their_own(dialects, cards, filter_name):
    """Subaru, INT, Palomar and SDSS: kind, filter, exposure and time come out of their headers."""
    values, _ = instruments.translate(cards, instruments.choose(cards, dialects))
    assert (values["kind"], values["filter"]) == ("light", filter_name) and values["exptime"] >= 30
    assert values["date_obs"].startswith("2010-01-01T10:00:00.5")


def test_maxim_headers_are_recognised_and_their_gain_card_is_a_setting(dialects):
    cards = {"SWCREATE": "MaxIm DL Version 5.08", "EGAIN": 2.4, "GAIN": 120, "OFFSET": 10}
    dialect = instruments.choose(cards, dialects)
    values, _ = instruments.translate(cards, dialect)
    assert dialect.name == "maxim"
    assert (values["gain"], values["gain_setting"], values["offset"]) == (2.4, "120", "10")


@pytest.mark.parametrize(
    "cards",
    [
        {"FRAME": "Light", "GAIN": 26.0, "INSTRUME": "Some Camera"},
        {"GAIN": 26.0, "INSTRUME": "QHY CCD QHY268M-1234"},
        {"GAIN": 26.0, "CREATOR": "ZWO Seestar S50"},
        {"GAIN": 26.0, "OFFSET": 10, "XPIXSZ": 3.76},
    ],
)
def test_small_gain_settings_are_not_taken_for_electrons(dialects, cards):
    """QHY's cameras have settings such as 26, which as electron/ADU would be wrong by a factor of a hundred."""
    values, _ = instruments.translate(cards, instruments.choose(cards, dialects))
    assert (values["gain"], values["gain_setting"]) == (None, "26.0")


_DAY = {"DATE-OBS": "2010-01-01", "EXPTIME": 60.0}
_HEADERS = {
    "Gemini": (
        _DAY | {"INSTRUME": "GMOS-N", "OBSTYPE": "OBJECT", "FILTER1": "r_G0303", "FILTER2": "open2-8"},
        {"TIME-OBS": "10:00:00.5", "DATASEC": "[1:512,1:2112]", "CCDNAME": "BI13-20-4k-1", "OBSCLASS": "science"},
        {"dialect": "gemini", "filter": "r_G0303", "trim": (slice(0, 2112), slice(0, 512)), "chip": "BI13-20-4k-1"},
    ),
    "Subaru": (
        _DAY | {"DATA-TYP": "OBJECT", "FILTER01": "W-C-RC", "UT": "10:00:00.5", "DET-ID": 5, "DET-TMP": 173.15},
        {"BIN-FCT1": 2, "BIN-FCT2": 2},
        {"dialect": "generic", "filter": "W-C-RC", "chip": "5", "temperature": -100.0, "binning": "2x2"},
    ),
    "Las Campanas": (
        _DAY | {"ORIGIN": "LCO/OCIW", "EXPTYPE": "Object", "FILTER": "B", "EGAIN": 1.05, "ENOISE": 3.4, "OPAMP": 2},
        {"UT-TIME": "10:00:00.5", "DATASEC": "[1:2048,1:2048]"},
        {"dialect": "generic", "filter": "B", "gain": 1.05, "read_noise": 3.4, "chip": "2"},
    ),
    "CFHT": (
        _DAY | {"ORIGIN": "CFHT", "OBSTYPE": "OBJECT", "FILTER": "r.MP9601", "UTC-OBS": "10:00:00.5", "GAINA": 1.6},
        {"GAINB": 1.7, "DSECA": "[33:1056,1:4612]", "DSECB": "[1057:2080,1:4612]", "CHIPID": 3},
        {"dialect": "cfht", "filter": "r.MP9601", "chip": "3"},
    ),
    "Andor Solis": (
        {"HEAD": "DU934P", "ACQMODE": "Single", "HBIN": 2, "VBIN": 2, "EXPOSURE": 60.0, "TEMP": -70.0, "PREAMP": "4x"},
        {"FRAME": "2010-01-01T10:00:00.500", "OBJECT": "M 1"},
        {"dialect": "andor", "temperature": -70.0, "binning": "2x2", "gain_setting": "4x"},
    ),
    "Isaac Newton": (
        _DAY | {"TELESCOP": "INT", "OBSTYPE": "TARGET", "WFFBAND": "r", "UTSTART": "10:00:00.5", "CCDSPEED": "FAST"},
        {"GAIN": 2.8, "READNOIS": 6.4},
        {"dialect": "ing", "filter": "r", "gain": 2.8, "read_noise": 6.4, "readout_mode": "FAST"},
    ),
    "Calar Alto": (
        {"IMAGETYP": "science", "EXPTIME": 60.0, "INSFLNAM": "Cous R", "DATE-OBS": "2010-01-01T10:00:00.5"},
        {"CCDSENS": 2.3, "CCDRON": 5.1, "CCDBINX": 2, "CCDBINY": 2},
        {"dialect": "generic", "filter": "Cous R", "gain": 2.3, "read_noise": 5.1, "binning": "2x2"},
    ),
    "Nordic": (
        {"IMAGETYP": "OBJECT", "EXPTIME": 60.0, "DATE-OBS": "2010-01-01T10:00:00.5", "ALFLTNM": "Open"},
        {"FAFLTNM": "Open", "FBFLTNM": "R_Bes 650_130", "DETXBIN": 2, "DETYBIN": 2},
        {"dialect": "generic", "filter": "R_Bes 650_130", "binning": "2x2"},
    ),
}


@pytest.mark.parametrize("observatory", _HEADERS)
def test_headers_of_large_observatories(dialects, observatory):
    first, second, expected = _HEADERS[observatory]
    cards = first | second
    dialect = instruments.choose(cards, dialects)
    values, _ = instruments.translate(cards, dialect, shape=(5000, 3000))
    assert values["kind"] == "light" and values["date_obs"].startswith("2010-01-01T10:00:00.5")
    assert {"dialect": dialect.name, **{name: values[name] for name in expected if name != "dialect"}} == expected


@pytest.mark.parametrize(
    ("overscan", "trim"),
    [
        ("[385:400,1:300]", (slice(0, 300), slice(0, 384))),
        ("[1:16,3:300]", (slice(0, 300), slice(16, 400))),
        ("[1:400,291:300]", (slice(0, 290), slice(0, 400))),
        ("[1:400,1:10]", (slice(10, 300), slice(0, 400))),
        *(("[190:210,1:300]", None), ("[1:16,1:20]", None), ("[1:300,1:300]", None)),
    ],
)
def test_an_overscan_strip_alone_tells_what_sees_light(dialects, overscan, trim):
    values, _ = instruments.translate({"BIASSEC": overscan}, dialects["generic"], shape=(300, 400))
    assert values["trim"] == trim


def test_a_data_section_of_the_untrimmed_frame_is_passed_over(dialects):
    """DATASEC is left behind by programs that trim; a TRIMSEC that does not fit is left for the user to see."""
    for keyword, known in (("DATASEC", False), ("TRIMSEC", True)):
        values, _ = instruments.translate({keyword: "[51:450,1:300]"}, dialects["generic"], shape=(300, 400))
        assert (values["trim"] is not None) == known


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
    found = headervalues.as_angle(value)
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
        ({"DATE-OBS": "2012/02/19", "UTC": "01:54:56"}, 55976.0798148),
        ({"DATE-OBS": "2012-02-19", "UT": 1.9155556}, 55976.0798148),
        ({"DATE-BEG": "2012-02-19T01:54:56"}, 55976.0798148),
        ({"MJD-OBS": 55976.5}, 55976.5),
        ({"JD": 2455977.0}, 55976.5),
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


# --- every part of an instrument file -----------------------------------------------------------------------------


def own(dialects, **parts):
    """The generic dialect with parts of one's own."""
    parent = {name: getattr(dialects["generic"], name) for name in dialects["generic"].__dataclass_fields__}
    return instruments.resolve({"generic": parent, "mine": {"name": "mine", "extends": "generic", **parts}})["mine"]


def test_the_example_of_the_documentation_is_true(dialects, root):
    """The header that docs/new-instrument.md shows, through the file that it writes."""
    from nightflow import configuration

    text = (root / "docs" / "new-instrument.md").read_text(encoding="utf-8")
    header, example, detector = (
        text.split("```\n")[3],
        *(block.split("```")[0] for block in text.split("```yaml\n")[1:3]),
    )
    cards = {}
    for line in header.splitlines():
        value = line[10:].split(" / ")[0].strip()
        cards[line[:8].strip()] = value.strip("' ") if value.startswith("'") else float(value)
    schema = yaml.safe_load((root / "workflow" / "schemas" / "instrument.schema.yaml").read_text(encoding="utf-8"))
    definition = yaml.safe_load(example)
    configuration.check(definition, schema)
    configuration.check({"name": "x", **yaml.safe_load(detector)}, schema)
    values, _ = instruments.translate(cards, own(dialects, **{k: v for k, v in definition.items() if k != "name"}))
    assert (values["kind"], values["target"], values["filter"], values["exptime"]) == ("light", "NGC 7331", "r", 120.0)
    assert (values["date_obs"], values["temperature"]) == ("2024-03-08T19:15:30.000", -80.0)
    assert (values["gain"], values["read_noise"], values["saturation"]) == (2.1, 9.5, 60000)


@pytest.mark.parametrize(
    ("cards", "kind"),
    [
        ({"ESO DPR CATG": "SCIENCE", "ESO DPR TYPE": "OBJECT"}, "light"),
        ({"ESO DPR CATG": "CALIB", "ESO DPR TYPE": "FLAT,SKY"}, "flat"),
        ({"ESO DPR CATG": "CALIB", "ESO DPR TYPE": "BIAS"}, "bias"),
        ({"ESO DPR CATG": "CALIB", "ESO DPR TYPE": "STD"}, "light"),
        ({"ESO DPR CATG": "SCIENCE", "ESO DPR TYPE": "OBJECT", "ESO DPR TECH": "SPECTRUM"}, "other"),
        ({"ESO DPR CATG": "ACQUISITION", "ESO DPR TYPE": "OBJECT"}, "other"),
        ({"ESO DPR CATG": "CALIB", "ESO DPR TYPE": "FOCUS"}, "other"),
    ],
)
def test_eso_kinds_test_several_cards(dialects, cards, kind):
    cards = {"EXPTIME": 10.0, **cards}
    chosen = instruments.choose(cards, dialects)
    assert chosen.name == "eso" and instruments.translate(cards, chosen)[0]["kind"] == kind


@pytest.mark.parametrize(
    ("cards", "name", "kind"),
    [
        ({"ORIGIN": "LCOGT", "OBSTYPE": "SKYFLAT"}, "lco", "flat"),
        ({"SITEID": "lsc", "OBSTYPE": "EXPOSE"}, "lco", "light"),
        ({"ORIGIN": "LCOGT", "OBSTYPE": "EXPOSE", "RLEVEL": 91}, "lco", "other"),
        ({"OBSERVAT": "CTIO", "OBSTYPE": "dome flat"}, "noirlab", "flat"),
        ({"OBSERVAT": "KPNO", "OBSTYPE": "zero"}, "noirlab", "bias"),
        ({"OBSERVAT": "CTIO", "OBSTYPE": "object", "PROCTYPE": "InstCal"}, "noirlab", "other"),
        ({"CREATOR": "MicroObservatory2014", "OBJECT": "Dark"}, "microobservatory", "dark"),
        ({"CREATOR": "MicroObservatory2014", "OBJECT": "M51", "FILTER": "Opaque"}, "microobservatory", "dark"),
        ({"CREATOR": "MicroObservatory2014", "OBJECT": "Dark Nebula"}, "microobservatory", "light"),
        ({"SWCREATE": "N.I.N.A. 2.0.1.8 (x64)", "IMAGETYP": "DARKFLAT"}, "maxim", "dark"),
        ({"CREATOR": "ZWO ASIAIR Plus", "IMAGETYP": "Flat"}, "maxim", "flat"),
        ({"CREATOR": "Sequence Generator Pro v3.1", "IMAGETYP": "LIGHT"}, "maxim", "light"),
        ({"CREATOR": "KStars", "FRAME": "Bias"}, "maxim", "bias"),
        ({"ORIGIN": "LCO/OCIW", "EXPTYPE": "Dflat", "OBJECT": "dome V"}, "generic", "flat"),
        ({"INSTRUME": "GMOS-S", "OBSTYPE": "OBJECT", "OBJECT": "Twilight"}, "gemini", "flat"),
        ({"INSTRUME": "GMOS-S", "OBSTYPE": "OBJECT", "OBSCLASS": "acq"}, "gemini", "other"),
        ({"TELESCOP": "INT", "OBSTYPE": "SKY"}, "ing", "flat"),
        ({"INSTRUME": "EMMI", "ORIGIN": "NOAO-IRAF FITS Image Kernel July 2003"}, "generic", None),
    ],
)
def test_observatories_are_told_apart(dialects, cards, name, kind):
    cards = {"EXPTIME": 10.0, **cards}
    chosen = instruments.choose(cards, dialects)
    assert (chosen.name, instruments.translate(cards, chosen)[0]["kind"]) == (name, kind)


def test_words_that_say_nothing_are_passed_over(dialects):
    cards = {"ORIGIN": "LCOGT", "BIASSEC": "UNKNOWN", "OBJECT": "N/A", "CAT-NAME": "M 51"}
    values, origins = instruments.translate(cards, dialects["lco"])
    assert values["overscan"] is None and (values["target"], origins["target"]) == ("M 51", "CAT-NAME")


@pytest.mark.parametrize(
    ("unit", "value", "celsius"),
    [("auto", 271.0, -2.15), ("auto", -20.0, -20.0), ("auto", 99.0, None), ("celsius", 13, 13.0), ("kelvin", 50, None),
     ("auto", "13 C", 13.0), ("auto", "253.15 K", -20.0), ("kelvin", -1, None)],
)  # fmt: skip
def test_temperatures(dialects, unit, value, celsius):
    found = instruments.translate({"CCD-TEMP": value}, own(dialects, units={"temperature": unit}))[0]["temperature"]
    assert found == (None if celsius is None else pytest.approx(celsius))


@pytest.mark.parametrize(("moment", "clock"), [("start", "22:00:00"), ("middle", "21:59:30"), ("end", "21:59:00")])
def test_the_date_may_be_of_any_moment_of_the_exposure(dialects, moment, clock):
    cards = {"DATE-OBS": "2024-03-08T23:00:00", "EXPTIME": 60.0}
    values, _ = instruments.translate(cards, own(dialects, time={"zone": 1, "moment": moment}))
    assert values["date_obs"] == f"2024-03-08T{clock}.000"


def test_a_date_that_names_its_zone_needs_none(dialects):
    values, _ = instruments.translate({"DATE-OBS": "2024-03-08T23:00:00-0700"}, own(dialects, time={"zone": 5}))
    assert values["date_obs"] == "2024-03-09T06:00:00.000"


def test_mjd_tells_the_time_of_a_date_without_one(dialects):
    values, _ = instruments.translate({"DATE-OBS": "1992-10-26", "MJD-OBS": 48921.25}, dialects["generic"])
    assert values["date_obs"] == "1992-10-26T06:00:00.000"


@pytest.mark.parametrize("date", ["2012-02-19", "2012/02/19", "19/02/98"])
def test_without_a_time_of_day_the_day_alone_is_known(dialects, date):
    """Midnight would be wrong by up to a day, and the airmass with it."""
    values, _ = instruments.translate({"DATE-OBS": date}, dialects["generic"])
    assert values["date_obs"].endswith("-02-19") and values["mjd_start"] is None


def test_settings_come_before_defaults_and_after_the_header(dialects):
    mine = own(
        dialects,
        settings=[{"when": {"READOUTM": "fast*"}, "then": {"gain": 2.0, "read_noise": 9.0}}],
        defaults={"gain": 1.0, "read_noise": 5.0},
    )
    values, origins = instruments.translate({"READOUTM": "Fast 1"}, mine)
    assert (values["gain"], values["read_noise"], origins["gain"]) == (2.0, 9.0, "settings")
    values, origins = instruments.translate({"READOUTM": "slow"}, mine)
    assert (values["gain"], origins["gain"]) == (1.0, "default")
    assert instruments.translate({"READOUTM": "fast", "EGAIN": 0.7}, mine)[0]["gain"] == 0.7


def test_sections_from_defaults_and_from_margins(dialects):
    values, _ = instruments.translate({}, own(dialects, defaults={"trim": "[17:528,1:520]"}))
    assert values["trim"] == (slice(0, 520), slice(16, 528))
    cards = {"ESO DPR CATG": "CALIB", "ESO DET OUT1 PRSCX": 10, "ESO DET OUT1 OVSCX": 20, "ESO DET OUT1 PRSCY": 2}
    values, _ = instruments.translate(cards, dialects["eso"], shape=(100, 200))
    assert values["trim"] == (slice(2, 100), slice(10, 180)) and values["overscan"] == (slice(2, 100), slice(180, 200))
    values, _ = instruments.translate({**cards, "ESO DET OUT1 OVSCX": 500}, dialects["eso"], shape=(100, 200))
    assert values["trim"] is None


def test_amplifiers_from_keywords_where_the_header_has_them(dialects):
    cards = {"OBSERVAT": "CTIO", "GAINA": 4.1, "GAINB": 4.3, "RDNOISEA": 6.0, "RDNOISEB": 7.0}
    sections = {
        "DATASECA": "[1:10,1:8]",
        "DATASECB": "[11:20,1:8]",
        "BIASSECA": "[21:22,1:8]",
        "BIASSECB": "[23:24,1:8]",
    }
    values, _ = instruments.translate({**cards, **sections}, dialects["noirlab"])
    assert [amp["gain"] for amp in values["amplifiers"]] == [4.1, 4.3]
    assert values["amplifiers"][1]["data"] == (slice(0, 8), slice(10, 20))
    assert instruments.translate(cards, dialects["noirlab"])[0]["amplifiers"] is None


def test_extensions_are_chosen_by_name_or_number_else_masks_are_ignored(dialects):
    hdus = [{"hdu": n, "name": name} for n, name in enumerate((None, "SCI", "BPM", "ERR"))]

    def chosen(dialect):
        return [hdu["hdu"] for hdu in instruments.chosen_extensions(hdus, dialect)]

    assert chosen(dialects["lco"]) == [1]
    assert chosen(own(dialects, extensions={"use": [2, "err"]})) == [2, 3]
    assert chosen(dialects["generic"]) == [0, 1]
    assert chosen(own(dialects, extensions={"use": ["gone"]})) == [0, 1]


def test_rules_of_a_child_come_before_its_parents(dialects):
    mine = own(dialects, kinds=[{"IMAGETYP": "light*", "exptime": {"max": 0.5}, "is": "flat"}])
    assert instruments.translate({"IMAGETYP": "Light", "EXPTIME": 0.1}, mine)[0]["kind"] == "flat"
    assert instruments.translate({"IMAGETYP": "Light", "EXPTIME": 9.0}, mine)[0]["kind"] == "light"
