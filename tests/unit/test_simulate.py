"""The simulated night: its truth is true, and every effect does what it says and nothing else."""

from __future__ import annotations

import filecmp
import math
import time

import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from scipy import stats

from nightflow import instruments, simulate
from nightflow.simulate_effects import NAMES, only
from nightflow.simulate_headers import hdus_of, header_of
from nightflow.simulate_noise import poisson, stream
from nightflow.simulate_sources import PSF, render_galaxies, render_stars, sersic_flux

SHAPE = (160, 200)


def night(effects: dict | None = None, **config) -> simulate.Night:
    """A small night of one target in one filter."""
    target = {"name": "T", "ra": 210.8, "dec": 54.3, "filters": ["V"], "frames": 3, **config.pop("target", {})}
    return simulate.Night({"shape": list(SHAPE), "targets": [target], "effects": effects or {}, **config})


def light(effects: dict | None = None, number: int = 0, **config) -> simulate.Frame:
    one = night(effects, **config)
    return one.expose(one.lights()[number])


# --- random numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.0, 0.05, 3.0, 9.99, 10.0, 40.0, 1e4])
def test_poisson_is_the_inverse_of_the_distribution(mean):
    """Mean and variance are the Poisson distribution's, and nearly every count is the exact quantile."""

    class Even:
        def random(self, shape):
            return ((np.arange(math.prod(shape)) + 0.5) / math.prod(shape)).reshape(shape)

    counts = poisson(np.full((300, 400), mean), Even())
    exact = stats.poisson.ppf(Even().random((300, 400)), mean)
    assert np.mean(counts != exact) < 1e-3
    assert np.abs(counts - exact).max() <= 1
    assert counts.mean(dtype=float) == pytest.approx(mean, rel=1e-6, abs=1e-5)
    assert counts.var(dtype=float) == pytest.approx(mean, rel=2e-3, abs=1e-9)


def test_poisson_counts_follow_their_mean():
    """A pixel whose mean rises never gets fewer counts, and the other pixels do not change."""
    mean = np.full((50, 50), 30.0)
    more = mean.copy()
    more[10, 10] += 5
    before, after = poisson(mean, stream(1, "a")), poisson(more, stream(1, "a"))
    assert after[10, 10] >= before[10, 10]
    assert np.count_nonzero(after != before) <= 1


def test_streams_differ_by_name_and_seed():
    draws = {stream(*key).integers(2**60) for key in [(1, "a"), (2, "a"), (1, "b"), (1, "a", "b"), (1, "ab")]}
    assert len(draws) == 5
    assert stream(1, "a").integers(2**60) == stream(1, "a").integers(2**60)


# --- images of sources --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fwhm", [1.3, 2.0, 3.0, 4.5])
@pytest.mark.parametrize("ellipticity", [0.0, 0.4])
def test_stars_are_integrated_over_pixels(fwhm, ellipticity):
    """Each pixel holds the integral of the profile to 0.1 %, here found on a 41 x 41 grid within the pixel."""
    psf = PSF(fwhm, 3.0, ellipticity, 0.6)
    image = np.zeros((21, 21))
    render_stars(image, [10.3], [9.8], [1000.0], psf, lost=1e-5)
    sub = (np.arange(21 * 41) - 20) / 41
    dx, dy = np.meshgrid(sub - 10.3, sub - 9.8)
    along, across = dx * np.cos(0.6) + dy * np.sin(0.6), -dx * np.sin(0.6) + dy * np.cos(0.6)
    radius2 = along**2 * (1 - ellipticity) + across**2 / (1 - ellipticity)
    profile = 1000 * 2 / np.pi / psf.alpha**2 * (1 + radius2 / psf.alpha**2) ** -3.0 / 41**2
    truth = profile.reshape(21, 41, 21, 41).sum(axis=(1, 3))
    np.testing.assert_allclose(image, truth, rtol=1e-3)


@pytest.mark.parametrize("flux", [100.0, 1e4, 1e6])
@pytest.mark.parametrize("streak", [(0.0, 0.0), (12.0, 0.7)])
def test_stars_conserve_flux_and_place(flux, streak):
    """All but the stated fraction of the flux is on the image, about the asked place, streaked or not."""
    image = np.zeros((401, 401))
    render_stars(image, [200.3], [199.6], [flux], PSF(3.0, 3.5, streak=streak))
    assert image.sum() == pytest.approx(flux, rel=3.1e-4)
    y, x = np.indices(image.shape)
    assert (image * x).sum() / image.sum() == pytest.approx(200.3, abs=0.01)
    assert (image * y).sum() / image.sum() == pytest.approx(199.6, abs=0.01)


def test_a_star_off_the_frame_lights_its_edge():
    image = np.zeros((50, 50), np.float32)
    render_stars(image, [-4.0, 500.0], [25.0, 25.0], [1e5, 1e5], PSF(3.0))
    assert image[:, 0].max() == image.max() > 1
    assert image[:, 40:].max() < 1


@pytest.mark.parametrize("index", [0.7, 1.0, 2.5, 4.0])
@pytest.mark.parametrize("radius", [1.0, 6.0])
def test_galaxies_conserve_flux_and_place(index, radius):
    image = np.zeros((301, 301))
    render_galaxies(image, [150.3], [149.8], [1e5], [radius], [index], [0.6], [0.5], PSF(3.0))
    assert image.sum() == pytest.approx(1e5, rel=1e-4)
    y, x = np.indices(image.shape)
    assert (image * x).sum() / 1e5 == pytest.approx(150.3, abs=0.01)
    assert (image * y).sum() / 1e5 == pytest.approx(149.8, abs=0.01)


def test_galaxy_has_its_surface_brightness():
    """An n = 1 galaxy drawn from I_e shows I_e at R_e, where the seeing changes little."""
    image = np.zeros((401, 401))
    flux = sersic_flux(10.0, 25.0, 1.0)
    render_galaxies(image, [200.0], [200.0], [flux], [25.0], [1.0], [1.0], [0.0], PSF(2.5))
    assert image[200, 225] == pytest.approx(10.0, rel=0.01)
    assert image[225, 200] == pytest.approx(10.0, rel=0.01)


def test_galaxy_is_elongated_along_its_angle():
    image = np.zeros((201, 201))
    render_galaxies(image, [100.0], [100.0], [1e5], [8.0], [1.0], [0.4], [math.radians(30)], PSF(2.5))
    y, x = np.indices(image.shape) - 100
    angle = 0.5 * math.atan2(2 * (image * x * y).sum(), (image * (x * x - y * y)).sum())
    assert math.degrees(angle) == pytest.approx(30, abs=0.5)


def test_galaxy_is_convolved_with_the_seeing():
    """A tiny galaxy is a star."""
    star, galaxy = np.zeros((2, 61, 61))
    render_stars(star, [30.2], [30.4], [1e5], PSF(3.0))
    render_galaxies(galaxy, [30.2], [30.4], [1e5], [0.05], [1.0], [1.0], [0.0], PSF(3.0))
    assert np.abs(galaxy - star).max() < 0.01 * star.max()


# --- every effect alone -------------------------------------------------------------------------------------------

QUIET = dict.fromkeys(NAMES, False) | {"gain": True}


def difference(name: str, parameters: dict | bool = True, kind: str = "light", base: dict | None = None):
    """Raw frames with and without an effect, all else equal, as float64, and the night with it."""
    base = {**QUIET, "sky": True, "stars": True, "dark_current": {"rate": 1.0}, **(base or {})}
    with_it, without = night({**base, name: parameters}), night({**base, name: False})
    frames = [one.expose(next(e for e in one.plan if e.kind == kind)).raw.astype(float) for one in (with_it, without)]
    return *frames, with_it


def test_without_effects_a_frame_is_its_bias_level():
    raw = light(QUIET).raw
    assert (raw == 500).all()


def test_bias_structure_alone():
    on, off, one = difference("bias_structure", kind="bias")
    np.testing.assert_allclose(on - off, one.camera.bias - 500, atol=0.51)
    assert (on - off).std() > 2


def test_bias_drift_alone():
    """The level of a frame moves as a whole, and differently from frame to frame."""
    on, off, one = difference("bias_drift", {"stddev": 20.0}, kind="bias")
    assert np.ptp(on - off) <= 1
    levels = {float(one.expose(e).raw.mean()) for e in one.plan if e.kind == "bias"}
    assert len(levels) == 5


def test_read_noise_alone():
    on, off, _ = difference("read_noise", {"noise": 9.0}, kind="bias")
    assert (on - off).std() == pytest.approx(math.hypot(9.0 / 1.5, 12**-0.5), rel=0.03)
    assert (on - off).mean() == pytest.approx(0, abs=0.1)


def test_gain_alone():
    on, off, _ = difference("gain", {"gain": 2.5})
    np.testing.assert_allclose(2.5 * (on - 500), off - 500, atol=2)


def test_dark_current_alone():
    on, off, one = difference("dark_current", {"rate": 0.7}, kind="dark")
    np.testing.assert_allclose(on - off, one.camera.dark_rate * 120 / 1.5, atol=0.51)


def test_hot_pixels_alone():
    on, off, one = difference("hot_pixels", {"columns": 1}, kind="dark")
    changed = on != off
    assert changed.sum() >= round(1e-3 * on.size) + SHAPE[0] - 3
    assert one.camera.bad_pixels[changed].all()


@pytest.mark.parametrize("name", ["dead_pixels", "bad_columns"])
def test_blind_pixels_alone(name):
    parameters = {"dead_pixels": {"fraction": 1e-3}, "bad_columns": {"number": 2}}[name]
    on, off, one = difference(name, parameters, kind="flat")
    changed = on != off
    assert changed.any()
    np.testing.assert_array_equal(changed, one.camera.blind < 1)
    assert ((on - 500)[changed] < 0.51 * (off - 500)[changed]).all()


@pytest.mark.parametrize("name", ["vignetting", "dust", "pixel_response"])
def test_response_alone(name):
    """The flat's light is multiplied by the true master flat, whose mean is 1."""
    on, off, one = difference(name, kind="flat", base={"dark_current": False})
    response = one.camera.response("V")
    np.testing.assert_allclose(on - 500, (off - 500) * response, atol=1.1)
    assert response.mean() == pytest.approx(1, abs=1e-6)
    assert response.std() > 2e-3


def test_nonlinearity_alone():
    on, off, _ = difference("nonlinearity", {"coefficient": 0.05}, kind="flat")
    electrons = (off - 500) * 1.5
    np.testing.assert_allclose((on - 500) * 1.5, electrons * (1 - 0.05 * electrons / 90000), atol=3)


def test_saturation_and_bleeding_alone():
    """Charge stops at the full well; with bleeding what is above it goes along the column and is not lost."""
    base = {"stars": {"density": 2000.0, "magnitudes": [8.0, 9.0]}, "sky": False, "dark_current": False}
    on, off, one = difference("saturation", {"full_well": 60000.0}, base=base)
    np.testing.assert_allclose(on, np.minimum(off, 500 + 40000), atol=1)
    assert (on >= one.camera.saturation).sum() == (off >= 500 + 40000).sum() > 0
    base = {**base, "saturation": {"full_well": 60000.0}, "stars": {"density": 60.0, "magnitudes": [9.5, 10.0]}}
    bled, clipped, one = difference("bleeding", base=base)
    expected = one.expose(one.lights()[0]).expected
    changed = (bled != clipped).any(axis=0)
    assert changed.any()
    assert (expected[:, changed] > 60000).any(axis=0).all()
    inside = changed & (bled[[0, -1]] < 500 + 39000).all(axis=0)
    assert ((bled - 500) * 1.5)[:, inside].sum() == pytest.approx(expected[:, inside].sum(dtype=float), rel=1e-3)


def test_amplifiers_alone():
    on, off, one = difference("amplifiers", {"gains": [0.9, 1.2], "pedestals": [0.0, 50.0]})
    left, right = np.s_[:, : SHAPE[1] // 2], np.s_[:, SHAPE[1] // 2 :]
    np.testing.assert_allclose((on - 500)[left] * 0.9, (off - 500)[left], atol=1.6)
    np.testing.assert_allclose((on - 550)[right] * 1.2, (off - 500)[right], atol=1.6)


def test_overscan_alone():
    """The pixels that see light stay, and columns of bias follow them; the header says where."""
    on, off, one = difference("overscan", {"columns": 20})
    assert on.shape == (SHAPE[0], SHAPE[1] + 20)
    np.testing.assert_array_equal(on[:, : SHAPE[1]], off)
    assert (on[:, SHAPE[1] :] == 500).all()
    facts = one.expose(one.plan[0]).facts
    assert facts["bias_section"] == "[201:220,1:160]" and facts["trim_section"] == "[1:200,1:160]"


def test_cosmic_rays_alone():
    """Only the pixels of the truth change, by the electrons of the truth."""
    on, off, one = difference("cosmic_rays", {"rate": 5.0})
    rays = one.expose(one.lights()[0]).cosmic_rays
    np.testing.assert_allclose(on - off, np.minimum(rays / 1.5, 65535 - off), atol=1)
    assert 10 < np.count_nonzero(rays) < 3000


def test_cosmic_rays_come_with_time():
    """None in a bias; their number follows the exposure time."""
    one = night(only("gain", cosmic_rays={"rate": 5.0}), dark_exptime=600.0)
    pixels = {e.kind: np.count_nonzero(one.expose(e).cosmic_rays) for e in one.plan}
    assert pixels["bias"] == 0
    assert pixels["dark"] > pixels["light"] > pixels["flat"]


def test_trails_alone():
    """A band of the stated crest, only in the frame asked for."""
    on, off, one = difference("trails", {"frames": [1], "peak": [10.0, 10.0]}, base={"stars": False})
    frame = one.expose(one.lights()[0])
    np.testing.assert_allclose(on - off, frame.trail / 1.5, atol=1.01)
    assert frame.trail.max() == pytest.approx(10 * math.sqrt(frame.conditions.sky), rel=0.02)
    assert one.expose(one.lights()[1]).trail.max() == 0


def test_sky_gradient_alone():
    on, off, one = difference("sky_gradient", {"amplitude": 0.5}, base={"stars": False, "dark_current": False})
    relative = (on - 500) / (off - 500) - 1
    gradient = one.conditions(one.lights()[0]).gradient
    assert math.hypot(*gradient) == pytest.approx(0.5)
    assert relative[:, -1].mean() - relative[:, 0].mean() == pytest.approx(gradient[0], abs=0.01)
    assert relative[-1].mean() - relative[0].mean() == pytest.approx(gradient[1], abs=0.01)


def test_fringes_alone():
    """On the sky of a filter that has them; not in its flats, not in another filter."""
    parameters = {"amplitude": 0.1, "filters": ["V"]}
    on, off, _ = difference("fringes", parameters, base={"stars": False, "dark_current": False})
    assert ((on - 500) / (off - 500)).max() == pytest.approx(1.1, abs=0.01)
    assert ((on - 500) / (off - 500)).min() == pytest.approx(0.9, abs=0.01)
    on, off, _ = difference("fringes", parameters, kind="flat")
    np.testing.assert_array_equal(on, off)
    on, off, _ = difference("fringes", {"filters": ["R"]})
    np.testing.assert_array_equal(on, off)


def test_stars_and_galaxies_alone():
    """What is on the frame is what the table of sources says."""
    for name in ("stars", "galaxies"):
        frame = light(only("gain", **{name: {"density": 2000.0, "magnitudes": [14.0, 16.0]}}))
        inside = frame.sources[frame.sources["inside"]]
        assert len(inside) == pytest.approx(2000 * 0.032, rel=0.3)
        edges = sum(frame.sources["flux"][~frame.sources["inside"]])
        assert abs(frame.expected.sum(dtype=float) - inside["flux"].sum()) < 0.1 * inside["flux"].sum() + edges
        x, y, flux = (np.asarray(inside[c]) for c in ("x", "y", "flux"))
        brightest = np.argmax(flux)
        peak = frame.expected[round(y[brightest]), round(x[brightest])]
        assert peak > 0.5 * frame.expected.max()


def test_flat_stars_alone():
    on, off, one = difference("flat_stars", {"density": 300.0}, kind="flat")
    other = one.expose([e for e in one.plan if e.kind == "flat"][1]).raw
    assert 0.005 < np.mean(on > 1.01 * off) < 0.5
    assert np.argmax(other) != np.argmax(on)


@pytest.mark.parametrize(
    ("name", "parameters", "changed"),
    [
        ("extinction", True, "zero_point"),
        ("zero_point_drift", True, "zero_point"),
        ("clouds", {"frames": [1]}, "zero_point"),
        ("dithers", True, "dither"),
        ("rotation", True, "rotation"),
        ("meridian_flip", {"after": 0.0}, "flipped"),
        ("scale", {"frames": [1]}, "scale"),
        ("seeing", True, "psf"),
        ("elongation", True, "psf"),
        ("guiding_failure", {"frames": [1]}, "psf"),
        ("trails", {"frames": [1]}, "trail"),
        ("sky_gradient", True, "gradient"),
    ],
)
def test_a_condition_changes_alone(name, parameters, changed):
    """Switching an effect on changes its own part of a frame's conditions and no other."""
    with_it, without = night({**QUIET, "sky": True, name: parameters}), night({**QUIET, "sky": True})
    on, off = (one.conditions(one.lights()[0]) for one in (with_it, without))
    differing = {k for k in vars(on) if vars(on)[k] != vars(off)[k]}
    assert differing == {changed} | ({"cloud"} if name == "clouds" else set())


def test_each_effect_leaves_all_other_random_numbers_alone():
    """With everything on, taking one local effect away changes only the pixels that it touched."""
    everything = {**dict.fromkeys(NAMES, True), "bleeding": False, "trails": {"frames": [1]}}
    for name in ("cosmic_rays", "trails", "hot_pixels", "dead_pixels", "galaxies"):
        with_it, without = (light({**everything, **change}) for change in ({}, {name: False}))
        touched = {
            "cosmic_rays": with_it.cosmic_rays > 0,
            "trails": with_it.trail > 0,
            "hot_pixels": night(everything).camera.bad_pixels,
            "dead_pixels": night(everything).camera.bad_pixels,
            "galaxies": with_it.expected != without.expected,
        }[name]
        changed = (with_it.raw != without.raw)[:, : SHAPE[1]]
        assert changed.any(), name
        assert not (changed & ~touched).any(), name


def test_noise_seed_changes_noise_only():
    """A second night with another noise seed has the same truth and independent noise."""
    first, second = light(), light(noise_seed=7)
    np.testing.assert_array_equal(first.expected, second.expected)
    np.testing.assert_array_equal(first.cosmic_rays, second.cosmic_rays)
    good = ~night().camera.bad_pixels & (first.cosmic_rays == 0) & (first.expected < 5e4)
    z = (first.raw.astype(float) - second.raw)[good] * 1.5 / (first.sigma * night().camera.response("V"))[good]
    assert z.std() == pytest.approx(math.sqrt(2), rel=0.02)
    assert z.mean() == pytest.approx(0, abs=0.03)


@pytest.mark.accuracy
def test_true_sigma_is_the_scatter_of_calibrated_pixels(capsys):
    """(calibrated with the true masters - expected) / true sigma has mean 0 and stddev 1, over five seeds."""
    means, deviations = [], []
    for seed in range(5):
        one = night({"bleeding": False, "trails": False}, seed=seed, shape=[400, 400])
        frame = one.expose(one.lights()[0])
        camera = one.camera
        electrons = (frame.raw - camera.dark(120.0)) * camera.column_gain / camera.response("V")
        good = ~camera.bad_pixels & (frame.cosmic_rays == 0) & (frame.expected < 5e4)
        z = ((electrons - frame.expected) / frame.sigma)[good]
        means.append(float(z.mean(dtype=float)))
        deviations.append(float(z.std(dtype=float)))
    with capsys.disabled():
        print(f"\n  true sigma: mean z {np.round(means, 4)}, stddev {np.round(deviations, 4)}")
    assert np.abs(means).max() < 0.02
    assert np.abs(np.array(deviations) - 1).max() < 0.01


# --- the sky and its coordinates ----------------------------------------------------------------------------------

GEOMETRY = [
    {},
    {"distortion": {"corner": 8.0, "tilt": 2.0}},
    {"meridian_flip": {"after": 0.0}, "rotation": {"stddev": 5.0}},
    {"mirror": True, "distortion": True, "scale": {"frames": [1], "factor": 1.2}},
]


@pytest.mark.parametrize("effects", GEOMETRY)
def test_wcs_of_the_truth_file_puts_sources_where_they_are(effects, tmp_path):
    """astropy reads the truth's header and finds the table's pixel positions from its sky positions."""
    target = {"name": "T", "ra": 210.8, "dec": 54.3, "filters": ["V"], "frames": 1}
    simulate.simulate_night(
        {"shape": list(SHAPE), "targets": [target], "effects": effects, "bias_frames": 0, "dark_frames": 0,
         "flat_frames": 0}, tmp_path / "raw",
    )  # fmt: skip
    path = tmp_path / "truth" / "T_V_001.fits"
    wcs, sources = WCS(fits.getheader(path, "TRAILS")), Table.read(path, hdu="SOURCES")
    sources = sources[sources["inside"]]
    sky = wcs.all_pix2world(sources["x"], sources["y"], 0)
    separation = np.hypot((sky[0] - sources["ra"]) * np.cos(np.radians(54.3)), sky[1] - sources["dec"]) * 3600
    assert len(sources) > 10
    assert separation.max() < 1e-4


@pytest.mark.parametrize("effects", GEOMETRY)
def test_stars_are_drawn_at_their_positions(effects):
    """The centroid of each isolated star on the noiseless image is its position in the table."""
    stars = {"density": 250.0, "magnitudes": [15.0, 15.5]}
    frame = light(only("gain", stars=stars, dithers={"radius": 15.0}, **effects))
    y, x = np.indices(SHAPE)
    measured = 0
    for row in frame.sources:
        distance = np.hypot(frame.sources["x"] - row["x"], frame.sources["y"] - row["y"])
        aperture = np.hypot(x - row["x"], y - row["y"]) < 12
        if np.sort(distance)[1] > 40 and min(row["x"], row["y"], 199 - row["x"], 159 - row["y"]) > 15:
            weight = frame.expected * aperture
            assert (weight * x).sum() / weight.sum() == pytest.approx(row["x"], abs=0.03)
            assert (weight * y).sum() / weight.sum() == pytest.approx(row["y"], abs=0.03)
            measured += 1
    assert measured >= 1


@pytest.mark.parametrize("effects", GEOMETRY)
def test_galaxies_keep_their_position_angle_on_the_sky(effects):
    """A step along the position angle on the sky is a step along the drawn major axis."""
    one = night({"galaxies": {"density": 500.0}, **effects})
    frame = one.expose(one.lights()[0])
    field = one.field(one.settings.targets[0])
    galaxies = frame.sources[(frame.sources["type"] == 1) & frame.sources["inside"]]
    angle = np.radians(field["angle"][galaxies["id"] - 1])
    ra = galaxies["ra"] + np.sin(angle) / 3600 / np.cos(np.radians(galaxies["dec"]))
    x, y = frame.wcs.all_world2pix(ra, galaxies["dec"] + np.cos(angle) / 3600, 0, tolerance=1e-6)
    drawn = np.exp(2j * np.asarray(galaxies["theta"]))
    stepped = np.exp(2j * np.arctan2(y - galaxies["y"], x - galaxies["x"]))
    assert len(galaxies) > 5
    np.testing.assert_allclose(drawn, stepped, atol=0.12)  # the distortion shears by up to 0.1, which is not drawn


def test_dithers_move_the_field():
    """Frames of one target see the same stars at places shifted by the difference of their dithers."""
    one = night(only("gain", "stars", dithers={"radius": 20.0}))
    first, second = (one.expose(e) for e in one.lights()[:2])
    joined = {row["id"]: row for row in second.sources}
    shifts = [
        (joined[r["id"]]["x"] - r["x"], joined[r["id"]]["y"] - r["y"]) for r in first.sources if r["id"] in joined
    ]
    stated = np.subtract(second.conditions.dither, first.conditions.dither)
    assert np.hypot(*stated) > 1
    np.testing.assert_allclose(np.median(shifts, axis=0), stated, atol=0.02)


def test_pointings_make_a_mosaic_of_one_sky():
    one = night(target={"pointings": [[0, 0], [120, 0]]})
    first, second = (one.conditions(e) for e in one.lights()[:2])
    assert second.dither[0] - first.dither[0] == pytest.approx(120, abs=25)
    assert len(one.field(one.settings.targets[0])) > len(night().field(night().settings.targets[0]))


def test_magnitudes_become_electrons_as_stated():
    """flux = exptime 10^(0.4 (zero_point - m)) with the filter's magnitude and colour term."""
    filters = {"V": {"zero_point": 23.0, "colour_term": 0.1, "colour_weight": 0.3, "extinction": 0.2}}
    one = night(filters=filters, target={"exptime": 30.0})
    frame = one.expose(one.lights()[0])
    field = one.field(one.settings.targets[0])[frame.sources["id"] - 1]
    colour = field["m1"] - field["m2"]
    magnitude = field["m1"] - 0.3 * colour + 0.1 * colour
    assert frame.conditions.zero_point == pytest.approx(23.0 - 0.2 * frame.conditions.airmass)
    np.testing.assert_allclose(frame.sources["flux"], 30 * 10 ** (0.4 * (frame.conditions.zero_point - magnitude)))


def test_variable_stars_vary_and_others_do_not():
    one = night({"extinction": False, "variables": {"number": 2, "amplitude": 0.2, "period": 0.01}})
    frames = [one.expose(e) for e in one.lights()]
    field = one.field(one.settings.targets[0])
    flux = [dict(zip(f.sources["id"], f.sources["flux"], strict=True)) for f in frames]
    variable = set(field["id"][field["amplitude"] > 0])
    common = set.intersection(*(set(f) for f in flux))
    assert len(variable) == 2
    for identity in common:
        changes = not np.isclose(flux[0][identity], flux[1][identity], rtol=1e-9)
        assert changes == (identity in variable)


def test_star_counts_rise_with_magnitude():
    one = night({"stars": {"density": 2e5, "slope": 0.4}, "galaxies": False})
    m1 = np.asarray(one.field(one.settings.targets[0])["m1"])
    ratio = np.sum((m1 > 17) & (m1 < 18)) / np.sum((m1 > 16) & (m1 < 17))
    assert ratio == pytest.approx(10**0.4, rel=0.1)


def test_airmass_agrees_with_astropy():
    from astropy import units as u
    from astropy.coordinates import AltAz, EarthLocation, SkyCoord
    from astropy.time import Time
    from astropy.utils import iers

    frame = light()
    site = night().settings.site
    place = EarthLocation(lat=site.latitude * u.deg, lon=site.longitude * u.deg, height=site.height * u.m)
    with iers.conf.set_temp("auto_download", False), iers.conf.set_temp("iers_degraded_accuracy", "ignore"):
        when = Time(frame.mjd_mid, format="mjd", scale="utc", location=place)
        altaz = SkyCoord(210.8 * u.deg, 54.3 * u.deg).transform_to(AltAz(obstime=when, location=place))
        altitude = altaz.alt.deg
    expected = 1 / (math.sin(math.radians(altitude)) + 0.50572 * (altitude + 6.07995) ** -1.6364)
    assert frame.conditions.airmass == pytest.approx(expected, abs=0.01)


def test_catalogue_lists_the_stars_with_the_errors_asked_for():
    clean = simulate.reference_catalogue(night({"stars": {"density": 30000.0}}))
    errors = {"position_error": 0.2, "magnitude_error": 0.05}
    noisy = simulate.reference_catalogue(night({"stars": {"density": 30000.0}}, catalogue=errors))
    other = simulate.reference_catalogue(night({"stars": {"density": 30000.0}}, catalogue={**errors, "seed": 5}))
    assert clean.colnames == ["ra", "dec", "V", "V_error", "R", "R_error"]
    assert clean["V"].max() < 18
    for one in (noisy, other):
        assert np.std(one["V"] - clean["V"]) == pytest.approx(0.05, rel=0.1)
        assert np.std(one["dec"] - clean["dec"]) * 3600 == pytest.approx(0.2, rel=0.1)
        assert np.std((one["ra"] - clean["ra"]) * np.cos(np.radians(54.3))) * 3600 == pytest.approx(0.2, rel=0.1)
    assert abs(np.corrcoef(noisy["V"] - clean["V"], other["V"] - clean["V"])[0, 1]) < 0.2
    assert abs(np.corrcoef(noisy["V"] - clean["V"], noisy["R"] - clean["R"])[0, 1]) < 0.2


# --- files --------------------------------------------------------------------------------------------------------

SMALL = {
    "shape": [64, 80],
    "bias_frames": 2,
    "dark_frames": 2,
    "flat_frames": 2,
    "targets": [
        {"name": "M 101", "ra": 210.8, "dec": 54.3, "kind": "galaxy", "frames": 2},
        {"name": "M67", "ra": 132.8, "dec": 11.8, "kind": "cluster", "filters": ["R"], "frames": 2, "exptime": 60.0},
    ],
}


def test_night_does_not_depend_on_the_number_of_cores(tmp_path):
    """One and three threads write the same bytes, truth included."""
    for cores in (1, 3):
        simulate.simulate_night({**SMALL, "cores": cores}, tmp_path / str(cores) / "raw")
    for folder in ("raw", "truth"):
        names = sorted(p.name for p in (tmp_path / "1" / folder).iterdir())
        _, differing, missing = filecmp.cmpfiles(tmp_path / "1" / folder, tmp_path / "3" / folder, names, shallow=False)
        assert names and not differing and not missing


def test_a_frame_does_not_depend_on_the_others():
    """A night with more frames has the same first ones, but for the clock."""
    fewer, more = night(target={"frames": 2}), night(target={"frames": 5}, flat_frames=5)
    np.testing.assert_array_equal(fewer.expose(fewer.lights()[1]).raw, more.expose(more.lights()[1]).raw)


def test_folder_of_raw_frames_and_folder_of_truth(tmp_path):
    """File names, 16-bit unsigned pixels, and no truth among the raw frames."""
    simulate.simulate_night(SMALL, tmp_path / "raw")
    names = sorted(p.stem for p in (tmp_path / "raw").iterdir())
    assert names == [
        "M-101_R_001", "M-101_R_002", "M-101_V_001", "M-101_V_002", "M67_R_001", "M67_R_002", "bias_001", "bias_002",
        "dark_120s_001", "dark_120s_002", "dark_60s_001", "dark_60s_002", "flat_R_001", "flat_R_002", "flat_V_001",
        "flat_V_002",
    ]  # fmt: skip
    with fits.open(tmp_path / "raw" / "M67_R_001.fits") as hdus:
        assert hdus[0].header["BITPIX"] == 16 and hdus[0].header["BZERO"] == 32768
        assert hdus[0].data.dtype == np.uint16 and hdus[0].data.shape == (64, 80)
    truth = {p.name for p in (tmp_path / "truth").iterdir()}
    assert {"frames.tsv", "catalogue.fits", "sources_M67.fits", "master_bias.fits", "master_dark_60s.fits",
            "master_flat_R.fits", "master_bad_pixels.fits", "M67_R_001.fits"} <= truth  # fmt: skip
    frames = Table.read(tmp_path / "truth" / "frames.tsv", format="ascii.tab")
    assert sorted(frames["frame"]) == names
    assert np.isfinite(frames["zero_point"][frames["kind"] == "light"]).all()


def test_truth_of_a_frame_reads_back(tmp_path):
    config = {**SMALL, "truth": {"expected": True, "masters": False}, "effects": {"trails": {"frames": [1]}}}
    simulate.simulate_night(config, tmp_path / "raw", tmp_path / "elsewhere")
    one = simulate.Night(config)
    frame = one.expose(one.lights("M67")[0])
    with fits.open(tmp_path / "elsewhere" / "M67_R_001.fits") as hdus:
        np.testing.assert_array_equal(hdus["COSMIC_RAYS"].data, frame.cosmic_rays)
        np.testing.assert_array_equal(hdus["TRAILS"].data, np.rint(frame.trail))
        np.testing.assert_array_equal(hdus["EXPECTED"].data, frame.expected)
        np.testing.assert_array_equal(hdus["SIGMA"].data, frame.sigma)
        assert hdus[0].header["MAGZP"] == pytest.approx(frame.conditions.zero_point)
        assert len(hdus["SOURCES"].data) == len(frame.sources)
    assert not (tmp_path / "truth").exists()
    assert not list((tmp_path / "elsewhere").glob("master_*"))


@pytest.mark.parametrize("dialect", ["generic", "maxim"])
def test_dialects_are_understood(dialect, root):
    """The instrument files read back what the simulator wrote."""
    definitions = {
        path.stem: yaml.safe_load(path.read_text()) for path in (root / "config" / "instruments").glob("*.yaml")
    }
    known = instruments.resolve({d.get("name", stem): d for stem, d in definitions.items()})
    one = night(dialect=dialect)
    from nightflow.simulate_headers import DIALECTS

    for exposure in one.plan:
        frame = one.expose(exposure)
        cards = dict(header_of(frame.facts, DIALECTS[dialect]))
        chosen = instruments.choose(cards, known)
        values, _ = instruments.translate(cards, chosen)
        assert chosen.name == dialect
        assert values["kind"] == exposure.kind
        assert values["exptime"] == exposure.exptime and values["filter"] == exposure.filter
        assert values["gain"] == 1.5 and values["read_noise"] == 6.0
        assert values["mjd_start"] == pytest.approx(frame.mjd_mid - exposure.exptime / 2 / 86400, abs=1e-8)
        assert values["site_longitude"] == pytest.approx(120.8736, abs=2e-4)
        if exposure.kind == "light":
            assert values["target"] == "T"
            np.testing.assert_allclose([values["ra"], values["dec"]], frame.wcs.wcs.crval, atol=1e-4)


def test_a_dialect_of_ones_own():
    """A dictionary serves as dialect: other keywords, hierarchical ones, an extension, other spellings."""
    definition = {
        "kinds": {"bias": "ZERO", "dark": "DARK", "flat": "SKY FLAT", "light": "OBJECT"},
        "cards": [("HIERARCH ESO DPR TYPE", "kind", ""), ("DETTEMP", "temperature_kelvin", ""), ("DATE", "date", "")],
        "constants": [("TELESCOP", "ESO-VLT", "")],
        "extension": 1,
    }
    one = night(dialect=definition)
    frame = one.expose(one.plan[0])
    hdus = hdus_of(frame.raw, header_of(frame.facts, definition), definition)
    assert hdus[0].data is None and hdus[1].data.shape == SHAPE
    assert hdus[0].header["ESO DPR TYPE"] == "ZERO"
    assert hdus[0].header["DETTEMP"] == pytest.approx(253.15)
    assert hdus[0].header["DATE"] == "2018-05-12"


def test_header_coordinates_can_be_wrong():
    right, wrong = light(), light({"pointing_error": {"offset": 30.0}})
    dec = wrong.facts["dec"] - right.facts["dec"]
    ra = (wrong.facts["ra"] - right.facts["ra"]) * math.cos(math.radians(54.3))
    assert math.hypot(ra, dec) == pytest.approx(0.5, rel=0.02)
    np.testing.assert_array_equal(wrong.raw, right.raw)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"sede": 1}, "simulate: unknown option 'sede'"),
        ({"shape": [10]}, "simulate.shape: expected tuple"),
        ({"seed": -1}, "simulate.seed"),
        ({"start": "yesterday"}, "simulate.start: expected a time in UT"),
        ({"dialect": "klingon"}, "known are generic, maxim"),
        ({"effects": {"gravity": True}}, "simulate.effects: unknown option 'gravity'"),
        ({"effects": {"vignetting": {"corner": "dark"}}}, "simulate.effects.vignetting.corner: expected float"),
        ({"effects": {"vignetting": {"edge": 1}}}, "simulate.effects.vignetting: unknown option 'edge'"),
        ({"effects": {"vignetting": 3}}, "simulate.effects.vignetting: expected a mapping"),
        ({"filters": {"V": {"sky": "bright"}}}, "simulate.filters.V.sky: expected float"),
        ({"targets": [{"name": "A", "kind": "planet"}]}, "expected field, cluster or galaxy, got 'planet'"),
        ({"targets": [{"name": "A", "filters": ["Q"]}]}, "'Q' is not among simulate.filters"),
        ({"targets": [{"name": "A b"}, {"name": "A-b"}]}, "two targets would write the same files"),
    ],
)
def test_wrong_configurations_are_named(config, sentence):
    with pytest.raises(ValueError) as error:
        simulate.Night(config)
    assert sentence in str(error.value)


def test_only_refuses_unknown_effects():
    with pytest.raises(ValueError, match="unknown option 'gravity'"):
        only("gravity")


def test_default_night_is_the_demo():
    """Five bias, dark and flats per filter, 24 lights of two targets in two filters."""
    kinds = [e.kind for e in simulate.Night({}).plan]
    assert {kind: kinds.count(kind) for kind in kinds} == {"bias": 5, "dark": 5, "flat": 10, "light": 24}
    lights = simulate.Night({}).lights()
    assert {(e.target.name, e.filter) for e in lights} == {(t, f) for t in ("M101", "M67") for f in "VR"}


def test_lights_are_fast_enough():
    """A megapixel of a light frame takes less than the 6 s of one core that 20 Mpix a minute on two cores allow."""
    one = simulate.Night({"shape": [1000, 1000]})
    exposure = one.lights()[0]
    start = time.process_time()
    one.expose(exposure)
    assert time.process_time() - start < 6
