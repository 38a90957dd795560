"""How frames come onto one grid: by their stars, by the sky, as given, and following an object."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from skies import distorted_plate
from test_quality import OPTIONS, row

from nightflow import alignment, astrometry, plates, products, quality, resampling, sharedstars, skygrid, tying
from nightflow.astrometry import Solution
from nightflow.products import Image, RejectedFrame
from nightflow.steps import UserError

REGISTRATION = {
    "engine": "astroalign",
    "model": "similarity",
    "max_sources": 50,
    "min_matches": 6,
    "match_radius": 3.0,
    "max_rms": 0.5,
    "allow_mirrored": True,
    "tie": True,
    "flux_scale": "auto",
    "transforms": None,
    "grid": {"center": None, "pixel_scale": None, "position_angle": 0.0, "size": None, "max_size": 20000},
}


def header(shape=(1000, 1000), **cards):
    made = fits.Header({"NFXSIZE": shape[1], "NFYSIZE": shape[0], "EXPTIME": 60.0, "DATE-OBS": "2024-03-01T22:00:00"})
    made.update(cards)
    return made


def star_table(dx, dy, ratio=1.0, seed=0):
    rng = np.random.default_rng(seed)
    table = Table({"x": rng.uniform(50, 950, 60) - dx, "y": rng.uniform(50, 950, 60) - dy})
    table["flux"] = 1000 * (1 + rng.pareto(1.5, 60)) * ratio
    table["flux_err"], table["fwhm"] = 0.01 * table["flux"], 3.0
    return table


def frames_of(tables, **cards):
    return {name: alignment.Frame(table, header(**cards)) for name, table in tables.items()}


# ------------------------------------------------------------------------------------------------ by stars


def selection():
    """Five frames: c the best, b through clouds, d of another field, e rejected."""
    rows = [row("a"), row("b"), row("c", fwhm=2.5), row("d"), {"frame": "e", "reason": "all pixels are saturated"}]
    sources = {
        "a": star_table(3.5, -2.0),
        "b": star_table(-1.0, 8.0, 0.5),
        "c": star_table(0.0, 0.0),
        "d": star_table(0.0, 0.0, seed=9),
    }
    return alignment.select_and_align(rows, frames_of(sources), OPTIONS, REGISTRATION)


def test_select_and_align():
    """The selection names the reference and carries each frame's transform, flux scale, weight and verdict."""
    table, grid = selection()
    assert list(table["used"]) == [True, True, True, False, False]
    assert list(table["frame"][table["reference"]]) == ["c"]
    assert "cannot be registered" in table["reason"][3]
    assert table["reason"][4] == "all pixels are saturated"
    np.testing.assert_allclose(quality.matrix_of(table[0]), [[1, 0, 3.5], [0, 1, -2], [0, 0, 1]], atol=1e-6)
    np.testing.assert_array_equal(quality.matrix_of(table[2]), np.eye(3))
    assert table["flux_scale"][1] == pytest.approx(2.0)
    assert table["weight"][0] / table["weight"][1] == pytest.approx(4.0, rel=1e-6)
    assert (grid["NAXIS1"], grid["NAXIS2"]) == (1000, 1000) and "CRVAL1" not in grid


def test_zero_points_can_tie_frames_registered_by_stars():
    """Flux factors from zero points where asked for; a frame without one is left out."""
    rows = [row("a"), row("b"), row("c", fwhm=2.5)]
    for measured, zero_point in zip(rows, (24.5, np.nan, 25.0), strict=True):
        measured["zero_point"] = zero_point
    frames = frames_of({"a": star_table(3.5, -2.0), "b": star_table(-1.0, 8.0), "c": star_table(0.0, 0.0)})
    options = REGISTRATION | {"flux_scale": "zero_points"}
    table, _ = alignment.select_and_align(rows, frames, OPTIONS, options)
    assert list(table["used"]) == [True, False, True] and "no zero point" in table["reason"][1]
    assert table["flux_scale"][0] == pytest.approx(10**0.2)
    rows[2]["zero_point"] = np.nan
    assert not alignment.select_and_align(rows, frames, OPTIONS, options)[0]["used"].any()


def test_selection_survives_the_file(tmp_path):
    """Numbers come back to the last bit, sentences and unknown values too."""
    table, _ = selection()
    quality.write_selection(tmp_path / "selection.tsv", table)
    again = quality.read_selection(tmp_path / "selection.tsv")
    assert again.colnames == table.colnames
    for name in table.colnames:
        if table[name].dtype.kind == "f":
            np.testing.assert_array_equal(again[name], table[name])
        else:
            assert list(again[name]) == list(table[name])
    first = (tmp_path / "selection.tsv").read_text().splitlines()[0]
    assert first.startswith("frame\tused\treason\tweight")


@pytest.mark.parametrize("engine", alignment.ENGINES)
def test_nothing_to_select(tmp_path, engine):
    """A group of rejected frames makes a selection that uses none, and an empty grid."""
    rows = [{"frame": "a", "reason": "truncated"}]
    table, grid = alignment.select_and_align(rows, {}, OPTIONS, REGISTRATION | {"engine": engine})
    quality.write_selection(tmp_path / "s.tsv", table)
    assert not quality.read_selection(tmp_path / "s.tsv")["used"].any() and len(grid) == 0


# ------------------------------------------------------------------------------------------------ by the sky

SHAPE = (500, 600)
# pixel scale (arcsec, along x and y), angle (degrees), mirrored, offset of the pointing (degrees)
POINTINGS = {
    "a": ((1.0, 1.0), 3.0, False, (0.0, 0.0)),
    "b": ((1.0, 1.0), 183.0, False, (0.11, 0.0)),
    "c": ((1.3, 1.1), 40.0, False, (0.0, 0.1)),
    "d": ((1.0, 1.0), -80.0, True, (0.11, 0.1)),
}


def sky_frames(folder, errors=0.0, transparency=(1.0, 1.0, 1.0, 1.0), zero_points=True, noise=0.0, unsolved=()):
    """Frames of one field, distorted by 4 px in the corners; each solution is wrong by up to `errors` px."""
    rng = np.random.default_rng(4)
    n = 3000
    xi, eta = rng.uniform(-0.2, 0.35, (2, n))
    ra, dec = plates.deproject(xi, eta, 359.95, 60.0)
    flux = 2000 * (1 + rng.pareto(1.2, n))
    rows, frames, true = [], {}, {}
    for (name, (scale, angle, mirrored, offset)), through in zip(POINTINGS.items(), transparency, strict=True):
        centre = (float(c) for c in plates.deproject(*offset, 359.95, 60.0))
        plate = distorted_plate(SHAPE, scale, angle, mirrored, 4.0, *centre)
        x, y = plate.to_pixel(ra, dec)
        on = (x > 5) & (x < SHAPE[1] - 6) & (y > 5) & (y < SHAPE[0] - 6)
        measured = flux * through * np.exp(noise * rng.standard_normal(n))
        table = Table({"x": x[on], "y": y[on], "flux": measured[on], "flux_err": 0.01 * measured[on]})
        table["fwhm"], table["flags"] = 3.0, 0
        shift = rng.uniform(-errors, errors, 2)
        wrong = plates.fit(*_grid(shift), *plate.to_sky(*_grid((0, 0))), 3, SHAPE, (plate.ra, plate.dec))
        solution = Solution("SOLVED", "", wrong, SHAPE, max(errors, 0.05))
        if name in unsolved:
            solution = Solution("NOT SOLVED", "not solved: no stars", None, SHAPE)
        path = folder / f"{name}.head"
        astrometry.write_head(path, astrometry.head_cards(solution))
        zero_point = 24.0 + 2.5 * np.log10(through) if zero_points else np.nan
        rows.append(row(name, zero_point=zero_point))
        frames[name], true[name] = alignment.Frame(table, header(SHAPE), path), plate
    return rows, frames, true


def _grid(shift):
    y, x = np.mgrid[0 : SHAPE[0] : 25j, 0 : SHAPE[1] : 25j]
    return x.ravel() + shift[0], y.ravel() + shift[1]


def aligned(rows, frames, moving=None, **options):
    table, grid = alignment.select_and_align(rows, frames, OPTIONS, REGISTRATION | {"engine": "wcs"} | options, moving)
    ways = {
        str(r["frame"]): alignment.transform_of(r, "wcs", grid, frames[str(r["frame"])].head, SHAPE)
        for r in table
        if r["used"]
    }
    return table, grid, ways


def test_flips_scales_pixels_and_pointings_meet_on_the_sky(tmp_path):
    """Every frame goes where the grid's own coordinates say, to 0.01 px, over right ascension 0; all is covered."""
    rows, frames, true = sky_frames(tmp_path)
    table, grid, ways = aligned(rows, frames)
    assert table["used"].all()
    from astropy.wcs import WCS

    wcs = WCS(grid)
    for name, plate in true.items():
        x, y = _grid((0, 0))
        found, expected = np.array(ways[name](x, y)), np.array(wcs.all_world2pix(*plate.to_sky(x, y), 0))
        assert np.hypot(*(found - expected)).max() < 0.01
        assert found.min() > -1 and (found.max(axis=1) < (grid["NAXIS1"], grid["NAXIS2"])).all()
        followed = resampling.make_grid(ways[name], SHAPE)
        assert followed.pixel_area == pytest.approx(1 / plate.pixel_scale**2, rel=0.02)
    assert grid["CD1_1"] < 0 < grid["CD2_2"] and abs(grid["CD1_2"]) < 1e-12  # north up, east to the left
    assert 3600 * grid["CD2_2"] == pytest.approx(1.0, rel=0.01)  # the finest


def test_solutions_that_disagree_are_tied(tmp_path):
    """Errors of half a pixel in each solution: the frames agree to 0.03 px rms, and stay where they were."""
    rows, frames, true = sky_frames(tmp_path, errors=0.5)
    rng = np.random.default_rng(1)
    ra, dec = plates.deproject(*rng.uniform(-0.1, 0.25, (2, 4000)), 359.95, 60.0)
    for tie, low, high in ((False, 0.2, 2.0), (True, 0.0, 0.03)):
        _, grid, ways = aligned(rows, frames, tie=tie)
        places = []
        for name, plate in true.items():
            x, y = plate.to_pixel(ra, dec)
            on = (x > 0) & (x < SHAPE[1] - 1) & (y > 0) & (y < SHAPE[0] - 1)
            places.append(np.where(on, ways[name](x, y), np.nan) - skygrid.read_grid(grid).to_pixel(ra, dec))
        places = np.array(places)[:, :, np.isfinite(places).all(axis=1).sum(axis=0) > 1]
        middle = np.nanmean(places, axis=0)
        apart = np.sqrt(np.nanmean((places - middle) ** 2 * 2))
        print(f"tied {tie}: frames {apart:.3f} px from their mean, which is off by {middle.mean(axis=1)}")
        assert low <= apart < high
        assert np.abs(middle.mean(axis=1)).max() < 0.5


@pytest.mark.parametrize("zero_points", [True, False])
@pytest.mark.parametrize("flux_scale", ["auto", "stars"])
def test_fluxes_are_tied(tmp_path, zero_points, flux_scale):
    """Clouds of up to 0.7 mag over some frames: factors right to 3 mmag, from stars and zero points or either."""
    through = (1.0, 0.8, 0.52, 0.9)
    rows, frames, _ = sky_frames(tmp_path, transparency=through, zero_points=zero_points, noise=0.01)
    table, _, _ = aligned(rows, frames, flux_scale=flux_scale)
    reference = through[int(np.flatnonzero(table["reference"])[0])]
    factors = np.asarray(table["flux_scale"]) * np.array(through) / reference
    print(np.round(1085.7 * np.log(factors), 2), "mmag")
    assert np.abs(factors - 1).max() < 0.003


def test_zero_points_alone_tie_frames_without_common_stars(tmp_path):
    """With zero points only, a frame without one is left out, and says why; exposures count."""
    rows, frames, _ = sky_frames(tmp_path, transparency=(1.0, 0.5, 1.0, 0.25))
    rows[2]["zero_point"] = np.nan
    rows[3] |= {"exptime": 120.0}
    table, _, _ = aligned(rows, frames, flux_scale="zero_points")
    assert list(table["used"]) == [True, True, False, True] and "no zero point" in table["reason"][2]
    factors = np.asarray(table["flux_scale"])[[0, 1, 3]]
    np.testing.assert_allclose(factors / factors[0], [1, 2, 2], rtol=1e-6)


def test_a_frame_without_a_solution_is_left_out_with_the_reason(tmp_path):
    rows, frames, _ = sky_frames(tmp_path, unsolved=("c",))
    table, _, ways = aligned(rows, frames)
    assert list(table["used"]) == [True, True, False, True] and set(ways) == {"a", "b", "d"}
    assert table["reason"][2] == "no place on the sky: not solved: no stars"


def test_no_frame_with_a_solution_is_no_crash(tmp_path):
    rows, frames, _ = sky_frames(tmp_path, unsolved=tuple(POINTINGS))
    table, grid, _ = aligned(rows, frames)
    assert not table["used"].any() and len(grid) == 0


def test_the_grid_of_the_configuration(tmp_path):
    """Centre, scale, orientation and size are kept to."""
    rows, frames, _ = sky_frames(tmp_path)
    chosen = {"center": [0.02, 60.05], "pixel_scale": 1.25, "position_angle": 30.0, "size": [400, 300]}
    _, grid, _ = aligned(rows, frames, grid=REGISTRATION["grid"] | chosen)
    from astropy.wcs import WCS

    wcs = WCS(grid)
    assert (grid["NAXIS1"], grid["NAXIS2"]) == (400, 300)
    np.testing.assert_allclose(wcs.all_pix2world(199.5, 149.5, 0), (0.02, 60.05), atol=0.6 * 1.25 / 3600)
    assert wcs.proj_plane_pixel_scales()[0].value * 3600 == pytest.approx(1.25)
    up = np.array(wcs.all_pix2world([199.5, 199.5], [149.5, 159.5], 0))
    east = (up[0, 1] - up[0, 0]) * np.cos(np.radians(60.05))
    assert np.degrees(np.arctan2(east, up[1, 1] - up[1, 0])) == pytest.approx(30.0, abs=0.05)


def test_a_frame_of_another_place_makes_no_giant_grid(tmp_path):
    rows, frames, _ = sky_frames(tmp_path)
    table, grid, _ = aligned(rows, frames, grid=REGISTRATION["grid"] | {"max_size": 900})
    assert not table["used"].any() and len(grid) == 0
    assert "registration.grid.max_size is 900" in table["reason"][0] and "farthest" in table["reason"][0]


def test_a_few_shared_stars_do_not_turn_a_frame():
    """Three stars in one corner, one of them astray, move the far side of a frame by less than its solution's error."""
    tables, places = {}, {}
    where = np.array([(10.0, 10.0), (20.0, 14.0), (12.0, 30.0)])
    for k in range(2):
        tables[k] = Table({"flux": np.full(3, 100.0), "flux_err": np.ones(3), "fwhm": np.full(3, 3.0)})
        tables[k]["flags"] = 0
        places[k] = (where[:, 0] + (0.5 * k, 0, 0), where[:, 1])
    stars = sharedstars.find([0, 1], tables, places, 2.0)
    assert stars.n_stars == 3
    frames = [tying.Place(np.array([0.0, 0.0]), 700.0, 0.1), tying.Place(np.array([500.0, 500.0]), 700.0, 0.1)]
    for matrix in tying.corrections(stars, frames):
        corners = np.array([(x, y, 1) for x in (0, 1000) for y in (0, 1000)]).T
        assert np.abs((matrix @ corners - corners)[:2]).max() < 0.3


# ------------------------------------------------------------------------------------------- by correlation


def nebula(folder, name, dx, dy, ratio=1.0, shape=(200, 220), noise=1.0):
    """A frame of smooth light and no star, and what is known of it."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    light = 40 * np.exp(-((x - 110 + dx) ** 2 / 800 + (y - 90 + dy) ** 2 / 300))
    light += 25 * np.exp(-((x - 70 + dx) ** 2 / 90 + (y - 120 + dy) ** 2 / 250))
    data = ratio * light + np.random.default_rng(ord(name)).normal(0, noise, shape)
    image = Image(data.astype(np.float32), np.zeros(shape, np.uint16), np.ones(shape, np.float32), fits.Header())
    products.write_image(folder / f"{name}.fits", image)
    return alignment.Frame(star_table(dx, dy, ratio), header(shape), None, folder / f"{name}.fits")


def test_images_without_stars_are_shifted(tmp_path):
    """A nebula, nothing else: shifts to 0.1 px, also of a frame through clouds; too far or none are verdicts."""
    frames = {
        "a": nebula(tmp_path, "a", 0.0, 0.0),
        "b": nebula(tmp_path, "b", 7.3, -12.6, ratio=0.5),
        "c": nebula(tmp_path, "c", 28.0, 3.0),
        "d": nebula(tmp_path, "d", 0.0, 0.0, ratio=0.0),
        "e": nebula(tmp_path, "e", 0.0, 0.0, shape=(200, 210)),
    }
    rows = [row(name, fwhm=2.5 if name == "a" else 3.0) for name in frames]
    options = REGISTRATION | {"engine": "correlation", "search": 20, "region": None}
    table, grid = alignment.select_and_align(rows, frames, OPTIONS, options)
    assert list(table["used"]) == [True, True, False, False, False] and grid["NAXIS1"] == 220
    np.testing.assert_allclose(quality.matrix_of(table[1])[:2, 2], [7.3, -12.6], atol=0.1)
    assert table["flux_scale"][1] == pytest.approx(2.0, rel=1e-6)
    words = ["more than registration.search, 20 px", "its correlation with the reference is", "frames of one size"]
    assert all(word in reason for word, reason in zip(words, table["reason"][2:], strict=True))


def test_a_region_that_does_not_fit_is_said(tmp_path):
    frames = {name: nebula(tmp_path, name, 0.0, 0.0) for name in "ab"}
    options = REGISTRATION | {"engine": "correlation", "search": 20, "region": [5, 100, 30, 100]}
    table, _ = alignment.select_and_align([row("a"), row("b")], frames, OPTIONS, options)
    assert "columns 5 to 100" in table["reason"][1] and "do not fit into 220 x 200 px" in table["reason"][1]


# ------------------------------------------------------------------------------------------------ as given


def test_given_transforms(tmp_path):
    """Shifts by themselves, a whole matrix, a selection as it was written; a frame that is not there is left out."""
    (tmp_path / "t.csv").write_text("frame,x0,y0,xx,xy,yx,yy,flux_scale\na,3.5,-2,,,,,\nb,1,2,0,-1,1,0,2.5\n")
    tables = {name: star_table(0.0, 0.0) for name in "abc"}
    options = REGISTRATION | {"engine": "given", "transforms": str(tmp_path / "t.csv")}
    table, grid = alignment.select_and_align(
        [row("a", fwhm=2.5), row("b"), row("c")], frames_of(tables), OPTIONS, options
    )
    assert list(table["used"]) == [True, True, False] and "has no row for it" in table["reason"][2]
    np.testing.assert_array_equal(quality.matrix_of(table[0]), [[1, 0, 3.5], [0, 1, -2], [0, 0, 1]])
    np.testing.assert_array_equal(quality.matrix_of(table[1]), [[0, -1, 1], [1, 0, 2], [0, 0, 1]])
    assert list(table["flux_scale"][:2]) == [1.0, 2.5] and grid["NAXIS1"] == 1000
    quality.write_selection(tmp_path / "s.tsv", selection()[0])
    again = alignment.read_transforms(tmp_path / "s.tsv")
    assert sorted(again) == ["a", "b", "c"] and again["a"].matrix[0, 2] == pytest.approx(3.5, abs=1e-6)


@pytest.mark.parametrize("text", ["", "frame\tx\ty\na\t1\t2\n", "frame,x0,y0\na,one,2\n"])
def test_a_table_of_transforms_that_is_none(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match="registration.transforms"):
        alignment.read_transforms(tmp_path / "t.csv")


# ------------------------------------------------------------------------------------------- moving objects

MOVING = {"rate": 30.0, "unit": "arcsec/h", "position_angle": 90.0}


def test_a_moving_object_stays_in_place(tmp_path):
    """An object moving to the east at 30 arcsec/h lands on one pixel in frames of any orientation."""
    rows, frames, true = sky_frames(tmp_path)
    hours = {"a": 0.0, "b": 1.0, "c": 2.0, "d": 3.5}
    frames = {
        name: alignment.Frame(f.sources, header(SHAPE, **{"MJD-OBS": 60000 + hours[name] / 24}), f.head)
        for name, f in frames.items()
    }
    table, grid, ways = aligned(rows, frames, MOVING)
    assert table["used"].all() and products.clean_header(grid)["MOVRATE"] == 30.0
    places = []
    for name, plate in true.items():
        ra, dec = plates.deproject(30.0 * hours[name] / 3600, 0.0, *_position(0.03, 0.02))
        x, y = plate.to_pixel(ra, dec)
        places.append([float(c[0]) for c in ways[name](x, y)])
    print(np.round(places, 3))
    assert np.ptp(places, axis=0).max() < 0.1


def _position(xi, eta):
    return tuple(float(c) for c in plates.deproject(xi, eta, 359.95, 60.0))


def test_rates_in_pixels_need_no_sky():
    """Position angle 90 in pixels is to the left: with north up and east to the left the same as on the sky."""
    tables = {name: star_table(0.0, 0.0) for name in "ab"}
    frames = {
        name: alignment.Frame(table, header(**{"MJD-OBS": 60000 + k / 24}))
        for k, (name, table) in enumerate(tables.items())
    }
    moving = {"rate": 5.0, "unit": "px/h", "position_angle": 90.0}
    table, _ = alignment.select_and_align([row("a"), row("b")], frames, OPTIONS, REGISTRATION, moving)
    np.testing.assert_allclose(quality.matrix_of(table[1])[:2, 2], [5.0, 0.0], atol=1e-3)


@pytest.mark.parametrize(
    "cards, moving, words",
    [
        ({"MJD-OBS": 60000.0}, MOVING, "no plate solution: give it in px/h"),
        ({"DATE-OBS": "yesterday"}, MOVING | {"unit": "px/h"}, "time of the reference frame is unknown"),
    ],
)
def test_what_a_moving_object_needs_is_said(cards, moving, words):
    frames = {name: alignment.Frame(star_table(0.0, 0.0), header(**cards)) for name in "ab"}
    table, _ = alignment.select_and_align([row("a"), row("b")], frames, OPTIONS, REGISTRATION, moving)
    assert not table["used"].any() and words in table["reason"][0]


def test_a_missing_head_is_a_verdict():
    with pytest.raises(RejectedFrame, match="no place on the sky"):
        alignment.Frame(star_table(0, 0), header()).solution()
