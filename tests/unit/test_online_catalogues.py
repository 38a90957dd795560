"""Catalogues from VizieR: what is asked, what is kept, and what is said when the service is out of order."""

from __future__ import annotations

import numpy as np
import pytest
from services import serving, vizier

from nightflow import online_catalogues, reference_catalogues, solving
from nightflow.astrometry import NoAnswer, NotSolved
from nightflow.online_catalogues import Field, NoService
from nightflow.steps import UserError

SECTION = {
    "online": "gaia_dr3", "columns": {"ra": "ra", "dec": "dec", "pm_ra": None, "pm_dec": None, "brightness": None},
    "epoch": None, "magnitudes": {}, "system": None, "faintest": None,
}  # fmt: skip
FIELD = Field(150.0, 40.0, 1.0)
LIMITS = {"attempts": 1, "timeout": 5}


@pytest.fixture
def sky():
    """Stars around (150, 40) as Gaia DR3 and APASS have them at VizieR; one star in ten has no proper motion."""
    rng = np.random.default_rng(1)
    ra, dec = 150 + rng.uniform(-3, 3, 4000), 40 + rng.uniform(-3, 3, 4000)
    gaia = {"RA_ICRS": ra, "DE_ICRS": dec, "pmRA": rng.normal(0, 20, 4000), "pmDE": rng.normal(0, 20, 4000)}
    gaia["pmRA"][::10] = gaia["pmDE"][::10] = np.nan
    for band in ("G", "BP", "RP"):
        gaia |= {f"{band}mag": rng.uniform(8, 18, 4000), f"e_{band}mag": np.full(4000, 0.003)}
    apass = {"RAJ2000": ra, "DEJ2000": dec}
    for band in ("B", "V", "g'", "r'", "i'"):
        apass |= {f"{band}mag": rng.uniform(8, 16, 4000), f"e_{band}mag": np.full(4000, 0.03)}
    return {"I/355/gaiadr3": (gaia, "RA_ICRS", "DE_ICRS"), "II/336/apass9": (apass, "RAJ2000", "DEJ2000")}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(online_catalogues, "_PAUSE", 0.0)


def fetched(address, tmp_path, section=SECTION, limits=LIMITS):
    """What a frame gets of a field that is fetched from `address`."""
    query = online_catalogues.query_of(section)
    table = online_catalogues.fetch(FIELD, query, address, **limits)
    online_catalogues.write(tmp_path / "field.fits", table, FIELD, query)
    return tmp_path / "field.fits"


def test_a_fetched_field_is_a_reference_catalogue(sky, tmp_path):
    asked = []
    with serving(vizier(sky, asked)) as address:
        path = fetched(address, tmp_path)
    assert [question["path"] for question in asked] == ["/viz-bin/votable"] and asked[0]["Gmag"] == "<16"
    stars = reference_catalogues.read(path, online_catalogues.resolved(SECTION), "G", 2016.0)
    gaia = sky["I/355/gaiadr3"][0]
    near = reference_catalogues.separation(gaia["RA_ICRS"], gaia["DE_ICRS"], 150.0, 40.0) <= 1.0
    expected = near & (gaia["Gmag"] < 16)
    assert len(stars) == expected.sum() > 200
    np.testing.assert_allclose(np.sort(stars.ra), np.sort(gaia["RA_ICRS"][expected]), atol=1e-8)
    np.testing.assert_allclose(stars.colour, (gaia["BPmag"] - gaia["RPmag"])[expected], atol=1e-8)
    moved = reference_catalogues.read(path, online_catalogues.resolved(SECTION), "G", 2026.0)
    assert np.isfinite(moved.ra).all() and 0 < np.abs(moved.dec - stars.dec).max() < 0.001


def test_columns_with_odd_names_and_a_system_of_each_filter(sky, tmp_path):
    section = {**SECTION, "online": "apass_dr9", "faintest": 12.0}
    with serving(vizier(sky, [])) as address:
        path = fetched(address, tmp_path, section)
    whole = online_catalogues.resolved(section)
    stars = reference_catalogues.read(path, whole, "g")
    assert len(stars) > 50 and np.isfinite(stars.magnitude).all() and stars.brightness.max() < 12
    assert [whole["magnitudes"][band]["system"] for band in ("V", "g")] == ["Vega", "AB"]


def test_any_table_of_vizier_can_be_named(sky, tmp_path):
    columns = {"ra": "RAJ2000", "dec": "DEJ2000", "pm_ra": None, "pm_dec": None, "brightness": "Bmag"}
    section = {**SECTION, "online": "II/336/apass9", "columns": columns}
    with serving(vizier(sky, [])) as address:
        stars = reference_catalogues.read(fetched(address, tmp_path, section), section)
    assert len(stars) > 100


def test_a_busy_service_is_asked_again(sky, tmp_path):
    asked = []
    with serving(vizier(sky, asked, fails=2)) as address:
        fetched(address, tmp_path, limits={"attempts": 3, "timeout": 5})
    assert len(asked) == 3


@pytest.mark.parametrize(
    "fails, instead, words",
    [
        (9, None, r"did not answer \(HTTP 503\), after 2 attempts"),
        (0, "<html>please log in</html>", "gave an answer that is no table"),
        (0, '<?xml version="1.0"?><VOTABLE><RESOURCE><TABLE>', "gave an answer that cannot be read"),
    ],
)
def test_a_service_out_of_order_is_one_sentence(sky, fails, instead, words):
    with (
        serving(vizier(sky, [], fails, instead)) as address,
        pytest.raises(NoService, match=words) as error,
    ):
        online_catalogues.fetch(FIELD, online_catalogues.query_of(SECTION), address, attempts=2, timeout=5)
    assert address in str(error.value) and "\n" not in str(error.value)


def test_no_service_is_one_sentence():
    with pytest.raises(
        NoService, match=r"VizieR at http://127.0.0.1:9 did not answer \(no connection\), after 1 attempt"
    ):
        online_catalogues.fetch(FIELD, online_catalogues.query_of(SECTION), "http://127.0.0.1:9", **LIMITS)


def test_a_service_that_hangs_is_given_up():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(NoService, match="time-out"):
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        online_catalogues.fetch(FIELD, online_catalogues.query_of(SECTION), address, attempts=1, timeout=0.3)


def test_a_column_that_is_not_there_is_named(sky):
    section = {**SECTION, "online": "II/336/apass9", "columns": {**SECTION["columns"], "ra": "RAJ2000", "dec": "DEX"}}
    with (
        serving(vizier(sky, [])) as address,
        pytest.raises(UserError, match="II/336/apass9 has no column DEX; it gave"),
    ):
        online_catalogues.fetch(FIELD, online_catalogues.query_of(section), address, **LIMITS)


def test_too_many_stars_are_not_cut_off_silently(sky, monkeypatch):
    monkeypatch.setattr(online_catalogues, "MOST_ROWS", 50)
    with serving(vizier(sky, [])) as address, pytest.raises(UserError, match="lower reference_catalogue.faintest"):
        online_catalogues.fetch(FIELD, online_catalogues.query_of(SECTION), address, **LIMITS)


def test_what_was_not_fetched_is_a_reason_later(sky, tmp_path):
    query, row = online_catalogues.query_of(SECTION), {"filter": "G", "mjd_mid": None}
    online_catalogues.write(tmp_path / "a.fits", None, FIELD, query, "VizieR slept")
    online_catalogues.write(tmp_path / "b.fits", None, FIELD, query)
    whole = online_catalogues.resolved(SECTION)
    slept, empty = (solving.read_catalogue([str(tmp_path / name)], whole, row) for name in ("a.fits", "b.fits"))
    assert isinstance(slept, NoAnswer) and str(slept) == "VizieR slept"
    assert type(empty) is NotSolved and str(empty) == f"VizieR has no star of I/355/gaiadr3 in the field {FIELD.name}"


def test_overlapping_fields_are_one_catalogue(sky, tmp_path):
    query = online_catalogues.query_of(SECTION)
    with serving(vizier(sky, [])) as address:
        for n, ra in enumerate((149.5, 150.5)):
            field = Field(ra, 40.0, 1.0)
            online_catalogues.write(
                tmp_path / f"{n}.fits", online_catalogues.fetch(field, query, address, **LIMITS), field, query
            )
    paths = [str(tmp_path / "0.fits"), str(tmp_path / "1.fits")]
    stars = solving.read_catalogue(paths, online_catalogues.resolved(SECTION), {"filter": "G"})
    assert len(stars) == len(set(zip(stars.ra, stars.dec, strict=True)))
    single = [len(solving.read_catalogue(path, online_catalogues.resolved(SECTION), {})) for path in paths]
    assert max(single) < len(stars) < sum(single)


def test_several_frames_rank_their_stars_in_a_filter_that_has_magnitudes():
    rows = [{"filter": "Ha", "mjd_mid": 60000.0}, {"filter": "G", "mjd_mid": 60002.0}, {"filter": None}]
    assert solving.middle(rows, online_catalogues.resolved(SECTION)) == {"mjd_mid": 60001.0, "filter": "G"}


@pytest.mark.parametrize("reach", [0.4, 2.0, 12.0])
def test_a_field_holds_all_around_its_pointings_and_neighbours_share_it(reach):
    rng = np.random.default_rng(2)
    for ra, dec in zip(rng.uniform(0, 360, 300), np.degrees(np.arcsin(rng.uniform(-1, 1, 300))), strict=True):
        field = online_catalogues.field_around(ra, dec, reach)
        apart = reference_catalogues.separation(ra, dec, field.ra, field.dec)
        assert apart + reach <= field.radius < 1.5 * reach, (ra, dec)
        assert Field.named(field.name) == field
    assert online_catalogues.field_around(359.999, 10, reach) == online_catalogues.field_around(0.001, 10, reach)


@pytest.mark.parametrize("name", sorted(online_catalogues.KNOWN))
def test_known_catalogues_ask_for_all_they_need(name):
    query = online_catalogues.query_of({**SECTION, "online": name})
    known = online_catalogues.KNOWN[name]
    needed = {column for column in known["columns"].values() if column}
    for entry in known["magnitudes"].values():
        needed |= {entry["magnitude"], entry["error"], *entry["colour"]}
    assert set(query["columns"]) == needed and query["table"] == known["table"]
