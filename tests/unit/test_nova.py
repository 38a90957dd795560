"""Engine nova against a stand-in for the web service: what is sent, what comes back, what is said if nothing does."""

from __future__ import annotations

import numpy as np
import pytest
from services import astrometry_net, serving
from skies import OPTIONS, make_sky

from nightflow import astrometry, nova, plates, solving
from nightflow.steps import UserError

OPTIONS = {**OPTIONS, "engine": "nova", "time_limit": 10}


@pytest.fixture
def sky():
    return make_sky(n=250, off=0.1)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(nova.KEY_VARIABLE, "secret")


def solve(sky, address, catalogue=None, **options):
    return astrometry.solve(sky.sources, sky.header, sky.row, catalogue, {**OPTIONS, "server": address, **options})


def solution_of(sky):
    """What the service finds: the frame's place, without its distortion."""
    plate = sky.plate
    linear = plates.Plate(plate.ra, plate.dec, plate.x0, plate.y0, 1, plate.coefficients[:3], plate.unit)
    return lambda submission: plates.sip_header(linear, sky.shape)


def test_a_field_is_solved_and_refined(sky):
    asked = []
    with serving(astrometry_net(solution_of(sky), asked, polls=1)) as address:
        rough = solve(sky, f"{address}/")
        fine = solve(sky, address, sky.catalogue)
    assert rough.status == fine.status == astrometry.SOLVED and len(fine.stars) > 60
    assert 3 < sky.error(rough.plate) < 5 and sky.error(fine.plate) < 0.15
    sent = asked[0]
    # FITS counts pixels from one
    assert set(np.round(sent["x"], 6)) <= set(np.round(np.asarray(sky.sources["x"]) + 1, 6)) and len(sent["x"]) == 200
    assert (sent["image_width"], sent["image_height"]) == (1200, 1000) and sent["publicly_visible"] == "n"
    assert sent["scale_lower"] < 1.0 < sent["scale_upper"] and abs(sent["center_ra"] - sky.row["ra"]) < 1e-9
    assert "secret" not in str(sent)


def test_without_hints_none_are_sent(sky):
    asked = []
    sky.header.remove("PIXSCAL1")
    sky.row = {"ra": None, "dec": None}
    with serving(astrometry_net(solution_of(sky), asked)) as address:
        assert solve(sky, address).status == astrometry.SOLVED
    assert not {"scale_lower", "center_ra", "radius"} & set(asked[0])


def test_no_match_is_an_honest_no(sky):
    with serving(astrometry_net(solution_of(sky), [], verdict="failure")) as address:
        solution = solve(sky, address)
    assert (solution.status, solution.reason) == (astrometry.NOT_SOLVED, f"not solved: {address} found no match")


def test_a_wrong_solution_does_not_pass_the_catalogue(sky):
    wrong = make_sky(seed=2, n=120)
    wrong.plate = plates.Plate(150.1, 40.1, *(getattr(sky.plate, n) for n in "x0 y0 order coefficients unit".split()))
    with serving(astrometry_net(solution_of(wrong), [])) as address:
        solution = solve(sky, address, sky.catalogue)
    assert solution.status == astrometry.NOT_SOLVED and "does not fit the catalogue" in solution.reason


def test_a_service_that_takes_too_long_is_a_status_with_a_command(sky):
    with serving(astrometry_net(solution_of(sky), [], polls=99)) as address:
        solution = solve(sky, address, time_limit=1)
    assert solution.status == astrometry.NO_ANSWER and "did not solve it within 1 s" in solution.reason
    values = {"wcs_status": solution.status, "remark": solution.reason}
    solving.say_how_to_try_again(values, "results/wcs/a.head")
    assert "snakemake --forcerun results/wcs/a.head" in values["remark"]


def test_no_service_is_a_status(sky):
    solution = solve(sky, "http://127.0.0.1:9")
    assert solution.status == astrometry.NO_ANSWER
    assert solution.reason == "not solved: http://127.0.0.1:9 cannot be reached"


def test_another_service_at_the_address_is_a_status(sky):
    from services import vizier

    with serving(vizier({}, [], instead="<html>")) as address:
        solution = solve(sky, address)
    assert solution.status == astrometry.NO_ANSWER and "cannot be understood" in solution.reason


def test_a_key_that_is_refused_ends_the_step(sky, monkeypatch):
    monkeypatch.setenv(nova.KEY_VARIABLE, "wrong")
    with (
        serving(astrometry_net(solution_of(sky), [])) as address,
        pytest.raises(UserError, match="refuses the key in AN_API_KEY or astrometry.api_key"),
    ):
        solve(sky, address)


def test_a_missing_key_is_said(sky, monkeypatch):
    monkeypatch.delenv(nova.KEY_VARIABLE)
    with pytest.raises(UserError, match="set the variable AN_API_KEY or astrometry.api_key"):
        solve(sky, "http://127.0.0.1:9")
