"""A real night without any calibration frame: headers of their own, local time, kelvin, degrees west, twelve bits."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from nightflow import products, quality
from nights import Workspace

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def hatp32(shared_data, tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("hatp32"))
    workspace.run(raw_dir=str(shared_data / "hatp32_microobs" / "raw"), calibration={"missing": "warn"})
    return workspace


@pytest.fixture(scope="module")
def selection(hatp32):
    return quality.read_selection(hatp32.results / "selection" / "HATP-32" / "Clear.tsv")


def test_every_light_is_in_the_stack(hatp32, selection):
    assert len(selection) == 24 and all(selection["used"]), list(selection["reason"])
    stack = products.read_image(hatp32.results / "stacks" / "HATP-32" / "Clear.fits")
    assert stack.header["NCOMBINE"] == 24 and stack.header["BUNIT"] == "adu"


def test_transforms_agree_with_the_plate_solutions(selection, shared_data):
    """The middle of the field of the first frame, followed through the night by the sky and by the stars."""
    table = shared_data / "hatp32_microobs" / "truth" / "tycho2_plate_solutions.csv"
    rows = [line for line in table.read_text().splitlines() if not line.startswith("#")]
    plates = {row["file"].split(".")[0]: row for row in csv.DictReader(rows)}
    matrices = {str(row["frame"]): quality.matrix_of(row) for row in selection}
    reference = next(str(row["frame"]) for row in selection if row["reference"])
    corners = np.array([[0, 0, 1], [649, 0, 1], [649, 499, 1], [0, 499, 1]], float)
    errors = []
    for frame, matrix in matrices.items():
        if frame not in plates:
            continue
        onto = to_sky(plates[reference]) @ corners_to_unit(corners @ matrix.T)
        errors.append(np.abs(onto - to_sky(plates[frame]) @ corners_to_unit(corners)).max() * 3600 / 5.165)
    print(f"corners agree with the plate solutions to {np.median(errors):.2f} px, {len(errors)} frames")
    assert len(errors) >= 8 and np.median(errors) < 1.0


def corners_to_unit(points):
    return np.vstack(
        [points[:, 0] / 649, points[:, 1] / 499, np.prod(points[:, :2] / [649, 499], axis=1), points[:, 2]]
    )


def to_sky(plate):
    """Bilinear map from the corners of a frame to the plane of the sky about the field's middle, degrees."""
    ra, dec = ([float(plate[f"{axis}_{corner}"]) for corner in ("bl", "br", "tl", "tr")] for axis in ("ra", "dec"))
    ra, dec = (np.array(ra) - 31.25) * np.cos(np.radians(dec)), np.array(dec) - 46.73
    return np.array([[v[1] - v[0], v[2] - v[0], v[3] - v[2] - v[1] + v[0], v[0]] for v in (ra, dec)])


def test_saturation_is_the_twelve_bit_one_and_the_report_has_it(hatp32):
    header, row = (line.split("\t") for line in (hatp32.results / "detector.tsv").read_text().splitlines())
    found = dict(zip(header, row, strict=True))
    assert found["saturation_used"] == "4095" and found["gain_used"] == ""
    frame = next((hatp32.results / "calibrated").glob("*.fits"))
    assert products.read_header(frame)["SATURATE"] == 4095
