"""Reference catalogues: every file format gives the same stars, and what is wrong with a file is said."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from nightflow import reference_catalogues
from nightflow.steps import UserError

SECTION = {
    "columns": {"ra": "RAJ", "dec": "DEJ", "pm_ra": "pmRA", "pm_dec": "pmDE", "brightness": None},
    "epoch": 2000.0,
    "magnitudes": {"V": {"magnitude": "Vmag", "error": "e_V", "colour": ["Bmag", "Vmag"]}},
}


@pytest.fixture
def stars():
    rng = np.random.default_rng(1)
    table = Table({"RAJ": rng.uniform(0, 360, 500), "DEJ": np.degrees(np.arcsin(rng.uniform(-1, 1, 500)))})
    table["pmRA"], table["pmDE"] = rng.normal(0, 100, (2, 500))
    table["Vmag"], table["Bmag"] = rng.uniform(8, 15, (2, 500))
    table["e_V"] = 0.02
    return table


def write(table, path):
    if path.suffix == ".npz":
        np.savez(path, **{name: np.asarray(table[name]) for name in table.colnames})
    elif path.suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        table.to_pandas().to_parquet(path)
    else:
        table.write(path, format={".ecsv": "ascii.ecsv", ".csv": "ascii.csv"}.get(path.suffix, "fits"))
    return path


@pytest.mark.parametrize("ending", ["fits", "ecsv", "csv", "npz", "parquet"])
def test_every_format_gives_the_same_stars(stars, tmp_path, ending):
    read = reference_catalogues.read(write(stars, tmp_path / f"stars.{ending}"), SECTION, "V")
    np.testing.assert_allclose(read.ra, stars["RAJ"])
    np.testing.assert_allclose(read.magnitude, stars["Vmag"])
    np.testing.assert_allclose(read.colour, stars["Bmag"] - stars["Vmag"])
    np.testing.assert_allclose(read.error, 0.02)
    np.testing.assert_allclose(read.brightness, stars["Vmag"])


def test_without_a_known_filter_there_are_no_magnitudes(stars, tmp_path):
    section = {**SECTION, "columns": {**SECTION["columns"], "brightness": "Bmag"}}
    read = reference_catalogues.read(write(stars, tmp_path / "stars.npz"), section, "R")
    assert np.isnan(read.magnitude).all()
    np.testing.assert_allclose(read.brightness, stars["Bmag"])


def test_proper_motion_agrees_with_astropy(stars, tmp_path):
    from astropy import units as u
    from astropy.coordinates import SkyCoord
    from astropy.time import Time

    read = reference_catalogues.read(write(stars, tmp_path / "stars.npz"), SECTION, "V", 2024.5)
    motion = {"pm_ra_cosdec": stars["pmRA"] * u.mas / u.yr, "pm_dec": stars["pmDE"] * u.mas / u.yr}
    start = SkyCoord(
        stars["RAJ"] * u.deg, stars["DEJ"] * u.deg, distance=1 * u.kpc, obstime=Time(2000.0, format="jyear"), **motion
    )
    moved = start.apply_space_motion(Time(2024.5, format="jyear"))
    apart = reference_catalogues.separation(read.ra, read.dec, moved.ra.deg, moved.dec.deg) * 3.6e6
    assert np.quantile(apart, 0.99) < 1  # mas; the worst is a star next to the pole


def test_a_field_has_the_right_stars_brightest_first(stars, tmp_path):
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    read = reference_catalogues.read(write(stars, tmp_path / "stars.npz"), SECTION, "V")
    for ra, dec in ((0.5, 10.0), (120.0, 89.0), (200.0, -60.0)):
        field = read.within(ra, dec, 20.0)
        apart = SkyCoord(stars["RAJ"] * u.deg, stars["DEJ"] * u.deg).separation(SkyCoord(ra * u.deg, dec * u.deg))
        assert len(field) == (apart.deg <= 20).sum() > 0
        assert (np.diff(field.brightness) >= 0).all()


def test_sexagesimal_text_is_read(tmp_path):
    (tmp_path / "s.csv").write_text("ra,dec,V\n01:00:00,-00:30:00,7.1\n23:59:59.9,+10:00:00,8.2\n")
    columns = {"ra": "ra", "dec": "dec", "pm_ra": None, "pm_dec": None, "brightness": "V"}
    read = reference_catalogues.read(tmp_path / "s.csv", {"columns": columns, "epoch": None, "magnitudes": {}})
    np.testing.assert_allclose(read.ra, [15.0, 359.99958333], atol=1e-8)
    np.testing.assert_allclose(read.dec, [-0.5, 10.0])


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("s.fits", b"SIMPLE = no", "cannot be read"),
        ("s.npz", b"not a zip", "cannot be read"),
        ("s.csv", b"a,b\n1,2\n", "has no column DEJ, RAJ"),
        ("s.txt", b"", "unknown ending"),
        ("none.csv", None, "not found"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence) as error:
        reference_catalogues.read(tmp_path / name, SECTION)
    assert "\n" not in str(error.value) and name in str(error.value)


def test_two_million_stars_are_cut_quickly(shared_data):
    import time

    columns = {"ra": "ra", "dec": "dec", "pm_ra": None, "pm_dec": None, "brightness": "vt"}
    path = shared_data / "catalogs" / "tycho2_from_index07.npz"
    stars = reference_catalogues.read(path, {"columns": columns, "epoch": None, "magnitudes": {}})
    start = time.perf_counter()
    field = stars.within(31.3, 46.77, 1.0)
    elapsed = time.perf_counter() - start
    print(f"{len(field)} of {len(stars)} stars in {elapsed:.3f} s")
    assert len(field) > 50 and elapsed < 1
