"""Whatever a file holds, the inventory answers with rows and the calibration with a product, soon and in its place."""

from __future__ import annotations

import gzip
import io
import os
import re
import subprocess
import sys
import warnings
import zlib

import hostile
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightflow import frames, inventory, matching, planning, products

SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,239}")


@pytest.fixture
def fuzzer(root, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(root / "benchmarks"), str(root / "workflow" / "scripts"), *sys.path])
    from fuzz import Fuzzer

    return Fuzzer(tmp_path)


def card(text):
    return text.ljust(80).encode("latin-1")


def header(*cards, end=True):
    text = b"".join(map(card, cards)) + (card("END") if end else b"")
    return text.ljust(-(-len(text) // 2880) * 2880)


LIGHT = ("IMAGETYP= 'LIGHT'", "OBJECT  = 'M 51'", "FILTER  = 'V'", "EXPTIME =                 60.0")


def image(*cards, nx=8, ny=6, bitpix=16):
    layout = ("SIMPLE  =                    T", f"BITPIX  = {bitpix:20d}", "NAXIS   =                    2")
    layout += (f"NAXIS1  = {nx:20d}", f"NAXIS2  = {ny:20d}")
    return header(*layout, *cards)


PIXELS = b"\3\3" * 48 + b"\0" * (2880 - 96)


def test_mutated_files(fuzzer):
    """A seeded sample; benchmarks/fuzz.py does the same with tens of thousands."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, (name, content) in enumerate(hostile.mutants(250, seed=7)):
            lights = fuzzer.inventory(name, content)
            if number < 60:
                fuzzer.calibrate(name, lights)
            fuzzer.clean(name)
    assert not fuzzer.failures, fuzzer.failures[0]


def rows_of(fuzzer, content, name="x.fits"):
    plan_lights = fuzzer.inventory(name, content)
    assert not fuzzer.failures, fuzzer.failures[0]
    return plan_lights, fuzzer.rows


@pytest.mark.parametrize("zipped", [False, True])
def test_an_image_that_its_file_cannot_hold_is_rejected(fuzzer, zipped):
    content = image(*LIGHT, nx=10**9, ny=7) + PIXELS
    name, content = ("x.fits.gz", gzip.compress(content)) if zipped else ("x.fits", content)
    lights, (row,) = rows_of(fuzzer, content, name)
    assert not lights and row.status == "rejected" and re.search("truncated|pixels", row.reason)


def test_a_tiled_image_that_its_file_cannot_hold_is_rejected(fuzzer):
    content = hostile.good_files()["rice_1.fits.fz"]
    content = re.sub(rb"(ZNAXIS1 = *)   30", rb"\g<1>19999", content).replace(
        b"ZNAXIS2 =                   24", card("ZNAXIS2 =                14444")[:30]
    )
    lights, (row,) = rows_of(fuzzer, content, "x.fits.fz")
    assert not lights and "cannot hold" in row.reason


def bomb(head: bytes, gigabytes: int) -> bytes:
    """A gzip file of a few MB that unpacks to `head` and gigabytes of zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    member = packer.compress(bytes(1 << 28)) + packer.flush()
    return gzip.compress(head) + member * (4 * gigabytes)


def test_a_gzip_bomb_is_not_unpacked(fuzzer):
    """Neither behind an empty primary header nor as the pixels of an image."""
    table = header(
        "SIMPLE  =                    T",
        "BITPIX  =                    8",
        "NAXIS   =                    1",
        "NAXIS1  =           3000000000",
        "EXTEND  =                    T",
    )
    with hostile.time_limit(10):
        rows_of(fuzzer, bomb(table, 3), "table.fits.gz")
        fuzzer.clean("table.fits.gz")
        lights, (row,) = rows_of(fuzzer, bomb(image(*LIGHT, nx=40_000, ny=40_000), 3), "image.fits.gz")
    assert not lights and "more than any detector has" in row.reason


def test_thousands_of_history_cards(fuzzer):
    content = image(*LIGHT, *["HISTORY what the camera did"] * 5000, *["CONTINUE  'and on&'"] * 5000) + PIXELS
    lights, _ = rows_of(fuzzer, content)
    assert fuzzer.calibrate("x.fits", lights) == 1 and not fuzzer.failures, fuzzer.failures[0][2]
    product = fits.getheader(fuzzer.results / "calibrated" / f"{lights[0].frame}.fits")
    assert len(product["HISTORY"]) == 5000


@pytest.mark.parametrize(
    ("date", "night"),
    [
        ("1899-12-31T23:00:00", "1899-12-31"),
        ("0001-01-01T00:00:00", None),
        ("9999-12-31T23:59:59", "9999-12-31"),
        ("yesterday", None),
        ("2024-02-30", None),
    ],
)
def test_odd_dates(fuzzer, date, night):
    _, (row,) = rows_of(fuzzer, image(*LIGHT, f"DATE-OBS= '{date}'") + PIXELS)
    assert row.status == "ok" and row.night == night


def test_decimal_commas(fuzzer):
    _, (row,) = rows_of(fuzzer, image(*LIGHT[:-1], "EXPTIME = 3,2E-05") + PIXELS)
    assert row.exptime == 3.2e-5


def test_a_header_without_end_is_rejected(fuzzer):
    content = header("SIMPLE  =                    T", *LIGHT, end=False) + PIXELS
    lights, (row,) = rows_of(fuzzer, content)
    assert not lights and "END" in row.reason


@pytest.mark.parametrize("section", ["[1:999999999999,1:2]", "[0:5,0:5]", "[3:4,1:2]", "[1:2000,1:2000]"])
def test_sections_off_the_frame(fuzzer, section):
    lights, _ = rows_of(fuzzer, image(*LIGHT, f"TRIMSEC = '{section}'", f"BIASSEC = '{section}'") + PIXELS)
    assert fuzzer.calibrate("x.fits", lights) == 1 and not fuzzer.failures, fuzzer.failures[0][2]


@pytest.mark.parametrize("text", hostile.TEXTS)
@pytest.mark.parametrize("keyword", ["OBJECT", "FILTER", "INSTRUME", "EXTNAME", "READOUTM"])
def test_texts_that_no_path_may_hold(fuzzer, keyword, text):
    quoted = text.replace("'", "''")[:66]
    lights, (row,) = rows_of(
        fuzzer, image(*(c for c in LIGHT if not c.startswith(keyword)), f"{keyword:8s}= '{quoted}'") + PIXELS
    )
    (light,) = lights
    fuzzer.calibrate("x.fits", lights)
    assert not fuzzer.failures, fuzzer.failures[0]
    assert all(SAFE.fullmatch(name) for name in (light.frame, light.target, light.filter, light.instrument))
    assert products.read_image(fuzzer.results / "calibrated" / f"{light.frame}.fits").shape == (6, 8)


PICTURES = {
    "nan": np.full((24, 30), np.nan, np.float32),
    "inf": np.full((24, 30), np.inf, np.float32),
    "some": np.where(np.arange(720).reshape(24, 30) % 7, 100.0, -np.inf).astype(np.float32),
    "equal": np.full((24, 30), 1000, np.uint16),
    "zero": np.zeros((24, 30), np.uint16),
    "huge": np.full((24, 30), 3e38, np.float32),
    "one pixel": np.full((1, 1), 7, np.uint16),
    "one row": np.arange(50, dtype=np.uint16)[np.newaxis],
}


@pytest.mark.parametrize("name", PICTURES)
def test_degenerate_pictures_go_through_every_step_of_a_frame(fuzzer, name):
    stream = io.BytesIO()
    fits.PrimaryHDU(PICTURES[name], fits.Header({"IMAGETYP": "LIGHT", "EXPTIME": 60.0, "GAIN": 2.0})).writeto(stream)
    lights, _ = rows_of(fuzzer, stream.getvalue())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fuzzer.calibrate("x.fits", lights)
        fuzzer.reduce("x.fits", lights)
    assert len(lights) == 1 and not fuzzer.failures, fuzzer.failures[0]


def test_folders_nested_by_the_thousand(tmp_path):
    before = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        with open("x.fits", "wb") as file:
            file.write(image(*LIGHT) + PIXELS)
        assert len(inventory.find_files([str(tmp_path)])) == 1
    finally:
        os.chdir(before)
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # Python's own way recurses


def test_links_in_circles_and_to_nowhere(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.fits").write_bytes(b"")
    os.symlink("b", tmp_path / "c")
    os.symlink("c", tmp_path / "b")
    os.symlink("nowhere", tmp_path / "gone.fits")
    os.symlink("circle.fits", tmp_path / "circle.fits")
    os.symlink(tmp_path, tmp_path / "a" / "up")
    os.mkfifo(tmp_path / "pipe.fits")
    assert [file.name for file in inventory.find_files([str(tmp_path)])] == ["a/x.fits"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 3}', '{"format": 3, "files": {"x": 1}}', "[" * 5000])
def test_a_damaged_cache_is_as_good_as_none(tmp_path, content):
    (tmp_path / "cache.json").write_text(content)
    assert inventory.HeaderCache(tmp_path / "cache.json").headers([]) == []


TEXT = st.text(max_size=70) | st.sampled_from(hostile.TEXTS)


@given(TEXT, TEXT)
def test_slugs_are_safe_and_tell_texts_apart(first, second):
    slugs = [frames.slug(text, "none") for text in (first, second)]
    assert all(SAFE.fullmatch(slug) and len(slug) < 100 for slug in slugs)
    words = [re.sub(r"\s+", "_", text.strip()) or "none" for text in (first, second)]
    assert (slugs[0] == slugs[1]) == (words[0] == words[1]) or slugs[0] != slugs[1]


def test_names_do_not_repeat_themselves_until_snakemake_refuses_them():
    for text in ("x" * 68, "ab" * 40, "M51" * 30):
        for name in (frames.slug(text, "none"), frames.frame_id(f"{text}.fits")):
            assert not re.search(r"(.+?)\1{15,}", name) and len(name) < 40
    assert frames.slug("x" * 67, "none") != frames.slug("x" * 68, "none")


@given(st.lists(TEXT.filter(lambda text: "\0" not in text), min_size=2, max_size=4))
def test_frame_ids_are_safe_and_unique(parts):
    name = "/".join(part.replace("/", "") or "x" for part in parts)
    other = f"{name} "
    ids = [frames.frame_id(f"{n}.fits") for n in (name, other)]
    assert all(SAFE.fullmatch(i) and len(i) < 100 for i in ids) and ids[0] != ids[1]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "x" * 400]), st.integers()), unique=True, max_size=6))
def test_names_of_products_tell_their_keys_apart(named):
    names = frames.distinct(named)
    assert len(set(names)) == len(names) and all(len(name) < 200 for name in names)


VALUE = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(10**18), 10**18), TEXT, st.floats(allow_nan=False)),
    st.sampled_from(["BIAS", "DARK", "FLAT", "LIGHT", "[1:4,1:4]", "RGGB", "2024-03-08T22:00:00", "0001-01-01"]),
)
CARDS = st.fixed_dictionaries(
    {"IMAGETYP": st.sampled_from(["BIAS", "DARK", "FLAT", "LIGHT"]), "EXPTIME": st.floats(0, 1e300)},
    optional=dict.fromkeys(hostile.KEYWORDS[35:], VALUE),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=10_000)
@given(st.lists(CARDS, min_size=1, max_size=6))
def test_any_headers_give_a_plan(fuzzer, headers):
    """Frames of any headers in one night: a table of one line each, and names that a file system can hold."""
    files = [inventory.RawFile(f"raw/{i}.fits", f"{i}.fits", 1, 1) for i in range(len(headers))]
    contents = [
        {"error": None, "hdus": [{"hdu": 0, "name": None, "shape": [6, 8], "cards": cards, "error": None}]}
        for cards in headers
    ]
    rows = frames.build(files, contents, fuzzer.known)
    try:
        plan = planning.assemble(rows, fuzzer.config)
    except planning.NothingToReduce:
        return
    text = frames.to_tsv(rows)
    assert len(text.splitlines()) == len(rows) + 1
    names = [*plan.lights, *plan.masters, *plan.bad_pixels, *plan.cameras, *plan.mosaics]
    names += [part for pair in plan.stacks for part in pair]
    assert all(SAFE.fullmatch(name) for name in names)
    assert sum(map(len, plan.stacks.values())) == len(plan.lights)


def test_masters_of_filters_with_colliding_names_stay_apart(fuzzer):
    cards = {"IMAGETYP": "FLAT", "EXPTIME": 1.0}
    headers = [{**cards, "FILTER": name} for name in ("H a", "H-a")]
    files = [inventory.RawFile(f"raw/{i}.fits", f"{i}.fits", 1, 1) for i in range(2)]
    contents = [{"error": None, "hdus": [{"hdu": 0, "shape": [6, 8], "cards": c, "error": None}]} for c in headers]
    masters = matching.find_masters(frames.build(files, contents, fuzzer.known), fuzzer.config["calibration"]["match"])
    assert sorted(len(master.frames) for master in masters.values()) == [1, 1]


def test_a_dark_of_no_time_is_a_bias(fuzzer):
    kinds = [("BIAS", 0.0), ("DARK", 0.0), ("LIGHT", 60.0)]
    files = [inventory.RawFile(f"raw/{i}.fits", f"{i}.fits", 1, 1) for i in range(3)]
    contents = [
        {"error": None, "hdus": [{"hdu": 0, "shape": [6, 8], "cards": {"IMAGETYP": k, "EXPTIME": t}, "error": None}]}
        for k, t in kinds
    ]
    plan = planning.assemble(frames.build(files, contents, fuzzer.known), fuzzer.config)
    (light,) = plan.lights.values()
    assert light.dark is None and len(plan.masters[light.bias].frames) == 2
