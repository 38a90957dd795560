"""The sky stage: what it subtracts, what it writes down, and what it does with frames that show no sky."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from nightflow import measurement
from nightflow.products import Image, MaskBit, RejectedFrame

OPTIONS = {
    **{"method": "mesh", "estimator": "median", "sigma": 4.0, "maxiters": 10},
    **{"mesh": 64, "filter_size": 3, "max_masked": 0.8},
}


@pytest.fixture
def masked():
    rng = np.random.default_rng(3)
    data = rng.normal(500, 20, (256, 256)).astype(np.float32)
    mask = np.zeros(data.shape, np.uint16)
    data[100:120, 100:120] += 5000
    mask[95:125, 95:125] |= np.uint16(MaskBit.SOURCE)
    data[10, 10], mask[10, 10] = 9e4, MaskBit.COSMIC_RAY
    return Image(data, mask, np.full(data.shape, 20, np.float32), fits.Header({"BUNIT": "electron"}))


@pytest.mark.parametrize("method", ["scalar", "mesh"])
def test_sky_is_gone_and_its_numbers_are_kept(masked, method):
    subtracted, row = measurement.subtract_sky(masked, {**OPTIONS, "method": method})
    blank = masked.mask == 0
    assert abs(np.median(subtracted.data[blank])) < 0.5
    assert row["median"] == pytest.approx(500, abs=0.5) and row["stddev"] == pytest.approx(20, rel=0.02)
    assert row["npix"] <= blank.sum() and row["masked_fraction"] == pytest.approx(1 - blank.mean(), abs=1e-4)
    assert subtracted.header["SKYMED"] == row["median"] and subtracted.header["SKYMETH"] == f"{method} median"


def test_noise_is_what_the_subtraction_leaves(masked):
    """A gradient widens the sky's distribution, but no star is measured the worse for it."""
    masked.data[:] += np.linspace(-100, 100, 256, dtype=np.float32)
    subtracted, row = measurement.subtract_sky(masked, OPTIONS)
    assert row["stddev"] > 55 and subtracted.header["SKYNOISE"] == pytest.approx(20, rel=0.03)


def test_the_source_bit_does_not_leave_the_masked_frame(masked):
    subtracted, _ = measurement.subtract_sky(masked, OPTIONS)
    assert not (subtracted.mask & MaskBit.SOURCE).any() and subtracted.mask[10, 10] == MaskBit.COSMIC_RAY
    assert (masked.mask & MaskBit.SOURCE).any()


def test_pixels_and_uncertainty_only_lose_the_sky(masked):
    subtracted, _ = measurement.subtract_sky(masked, {**OPTIONS, "method": "scalar"})
    difference = masked.data.astype(float) - subtracted.data
    assert np.ptp(difference) < 0.01 and subtracted.uncertainty is masked.uncertainty


def test_a_frame_without_sky_is_rejected(masked):
    masked.mask[:] = MaskBit.SOURCE
    with pytest.raises(RejectedFrame, match="no pixel shows the sky"):
        measurement.subtract_sky(masked, OPTIONS)


def test_sky_table_has_empty_cells_for_what_is_unknown(tmp_path):
    rejected = {"frame": "a", "target": "M51", "filter": "V", "date_obs": None}
    measurement.write_sky_table(tmp_path / "sky.tsv", [{**rejected, "mean": 1.5, "median": float("nan"), "npix": 3}])
    header, row = (line.split("\t") for line in (tmp_path / "sky.tsv").read_text().splitlines())
    assert dict(zip(header, row, strict=True)) == {
        **{"frame": "a", "target": "M51", "filter": "V", "date_obs": "", "mean": "1.5", "median": "", "mode": ""},
        **{"stddev": "", "npix": "3", "masked_fraction": "", "mesh_rms": ""},
    }
