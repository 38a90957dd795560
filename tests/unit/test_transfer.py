"""Zero points carried over from standard stars: unbiased, with errors that are true."""

from __future__ import annotations

import numpy as np
import pytest

from nightflow import transfer
from nightflow.zero_points import NoZeroPoint

ZERO_POINT, EXTINCTION = 22.3, 0.14


def observe(seed, frames=8, stars=5, airmass=(1.0, 2.0), scatter=0.008, star_scatter=0.004, listed=0.01, total=0.003,
            colour_term=0.0):  # fmt: skip
    """Standards of a night: `stars` in each of two fields, seen in turn at rising airmass."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(11, 14, (2, stars))
    catalogue, colour = truth + listed * rng.standard_normal(truth.shape), rng.normal(0.5, 0.3, truth.shape)
    rows = []
    for frame, x in enumerate(np.linspace(*airmass, frames)):
        shift = scatter * rng.standard_normal() + total * rng.standard_normal()
        for star in range(stars):
            m, c = truth[frame % 2, star], colour[frame % 2, star]
            magnitude = m + colour_term * c - ZERO_POINT + EXTINCTION * x + shift
            rate = 10 ** (-0.4 * (magnitude + star_scatter * rng.standard_normal()))
            error = np.sqrt(rate / 60)
            rate += error * rng.standard_normal()
            rows.append({
                "frame": str(frame), "star": f"{frame % 2}-{star}", "airmass": float(x), "colour": float(c),
                "magnitude": float(catalogue[frame % 2, star]), "magnitude_error": listed, "rate": float(rate),
                "rate_error": float(error), "total_error": total / transfer._MAGNITUDE, "snr": float(rate / error),
            })  # fmt: skip
    return rows


def predicted(seed, at, frame_scatter=0.008, **options):
    """Difference from the true zero point of a frame that no standard was seen on, its error, and the night."""
    night = transfer.fit_night(observe(seed, scatter=frame_scatter, **options))
    value, error, _ = transfer.zero_point_at(night, at)
    true = ZERO_POINT - EXTINCTION * at + frame_scatter * np.random.default_rng(10_000 + seed).standard_normal()
    return value - true, error, night


@pytest.mark.accuracy
@pytest.mark.parametrize(
    "frames, stars, airmass, at",
    [(8, 5, (1.0, 2.0), 1.5), (8, 5, (1.0, 2.0), 2.3), (12, 1, (1.0, 1.8), 1.2), (6, 20, (1.1, 1.6), 1.3)],
)
def test_errors_are_true_over_200_nights(frames, stars, airmass, at):
    """Difference from the truth in units of the stated error has standard deviation 1."""
    found = [predicted(seed, at, frames=frames, stars=stars, airmass=airmass) for seed in range(200)]
    difference, error = (np.array([row[k] for row in found]) for k in (0, 1))
    pull = difference / error
    slope = np.array([(row[2]["extinction"] - EXTINCTION) / row[2]["extinction_error"] for row in found])
    print(
        f"pull {pull.mean():+.2f} +- {pull.std():.2f}, rms {1e3 * np.sqrt((difference**2).mean()):.1f} mmag, "
        f"stated {1e3 * np.median(error):.1f}; extinction's pull {slope.std():.2f}"
    )
    assert 0.85 < pull.std() < 1.15 and abs(pull.mean()) < 0.25
    assert 0.8 < slope.std() < 1.2


def test_a_calm_night_gives_the_zero_point_within_5_mmag():
    difference, error, night = predicted(1, 1.4, frame_scatter=0.0, frames=8, stars=30)
    assert abs(difference) < 0.005 and error < 0.01
    assert night["n"] == 240 and night["frames"] == 8 and night["stars"] == 60


def test_one_standard_on_one_frame_is_enough_and_its_error_says_how_far_it_reaches():
    """The extinction is then what the observer says, or, without that, anything usual."""
    (row,) = observe(3, frames=1, stars=1, airmass=(1.2, 1.2))
    near, far = (transfer.zero_point_at(transfer.fit_night([row]), x)[1] for x in (1.2, 2.0))
    assert near < 0.02 and far == pytest.approx(0.8 * 0.25, rel=0.1)
    known = transfer.fit_night([row], extinction=(EXTINCTION, 0.01))
    assert known["extinction"] == pytest.approx(EXTINCTION, abs=1e-6)
    value, error, systematic = transfer.zero_point_at(known, 2.0)
    assert error < 0.025 and systematic < error
    assert abs(value - (ZERO_POINT - 2.0 * EXTINCTION)) < 0.04


def test_wrong_stars_and_clouds_do_not_matter():
    rows = observe(5, frames=10, stars=6)
    for row in rows[::9]:
        row["rate"] *= 1.7
    clouded = [row | {"rate": row["rate"] * 0.5} if row["frame"] == "4" else row for row in rows]
    night = transfer.fit_night(clouded)
    value, error, _ = transfer.zero_point_at(night, 1.5)
    assert abs(value - (ZERO_POINT - 1.5 * EXTINCTION)) < 3 * error < 0.05


def test_the_colour_term_is_found_or_taken():
    rows = observe(2, frames=8, stars=20, colour_term=0.1)
    fitted = transfer.fit_night(rows, colour_term="fit")
    given = transfer.fit_night(rows, colour_term=0.1)
    assert fitted["colour_term"] == pytest.approx(0.1, abs=4 * fitted["colour_term_error"])
    assert fitted["zero_point"] == pytest.approx(given["zero_point"], abs=0.02) and given["colour_term"] == 0.1


def test_rows_with_a_zero_point_of_their_own_stay():
    night = {name: str(value) for name, value in transfer.fit_night(observe(1)).items()}
    night |= {"system": "Vega", "source": transfer.SOURCE}
    empty = dict.fromkeys("zero_point sky_rate limiting_rate sky_brightness limiting_magnitude airmass".split(), "")
    empty |= {"remark": "no zero point: no reference catalogue"}
    row = transfer.completed(empty | {"airmass": "1.5", "sky_rate": "10.0"}, night)
    assert row["source"] == "standards" and row["system"] == "Vega" and row["remark"] == ""
    assert (
        float(row["sky_brightness"]) == pytest.approx(float(row["zero_point"]) - 2.5) and not row["limiting_magnitude"]
    )
    own = empty | {"zero_point": "23.1", "remark": ""}
    assert transfer.completed(own, night) == own and transfer.completed(empty, None) == empty
    assert "airmass is unknown" in transfer.completed(empty, night)["remark"]


def test_the_table_is_read_as_it_was_written(tmp_path):
    night = transfer.fit_night(observe(1))
    transfer.write(tmp_path / "night.tsv", night)
    assert transfer.zero_point_at(transfer.read(tmp_path / "night.tsv"), 1.3) == pytest.approx(
        transfer.zero_point_at(night, 1.3), abs=1e-9
    )


@pytest.mark.parametrize(
    "change, options, sentence",
    [
        (lambda rows: rows.clear(), {}, "no frame of the night shows a standard"),
        (lambda rows: [row.update(airmass=np.nan) for row in rows], {}, "airmass of the standards is unknown"),
        (lambda rows: [row.update(colour=np.nan) for row in rows], {"colour_term": "fit"}, "have no colour"),
    ],
)
def test_no_zero_point_says_why(change, options, sentence):
    rows = observe(1)
    change(rows)
    with pytest.raises(NoZeroPoint, match=sentence):
        transfer.fit_night(rows, **options)


@pytest.mark.parametrize("given, prior", [({}, None), ({"V": 0.2}, (0.2, 0.02)), ({"V": [0.2, 0.05]}, (0.2, 0.05))])
def test_what_is_known_of_the_extinction(given, prior):
    assert transfer.prior_of(given, "V") == prior
