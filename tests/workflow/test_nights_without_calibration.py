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
    """The middle of each frame lies where the sky says on the reference frame."""
    table = shared_data / "hatp32_microobs" / "truth" / "tycho2_plate_solutions.csv"
    rows = [line for line in table.read_text().splitlines() if not line.startswith("#")]
    plates = {row["file"].split(".")[0]: corners(row) for row in csv.DictReader(rows)}
    matrices = {str(row["frame"]): quality.matrix_of(row) for row in selection}
    reference = plates[next(str(row["frame"]) for row in selection if row["reference"])]
    middle = np.array([324.5, 249.5, 1.0])
    errors = []
    for frame, matrix in matrices.items():
        predicted = on_sky(reference, matrix @ middle)
        errors.append(float(np.hypot(*(predicted - on_sky(plates[frame], middle)))) * 3600 / 5.165)
    print(f"middles agree with the plate solutions to {np.median(errors):.2f} px, at most {max(errors):.2f} px")
    assert len(errors) == 24 and np.median(errors) < 0.5


def corners(row):
    """Offsets of a frame's corners on the sky from a point near its middle, degrees: shape (2, 4)."""
    ra, dec = (np.array([float(row[f"{axis}_{c}"]) for c in ("bl", "br", "tr", "tl")]) for axis in ("ra", "dec"))
    return np.array([(ra - 31.25) * np.cos(np.radians(46.73)), dec - 46.73])


def on_sky(plate, point):
    """Place on the sky of a pixel, between the corners."""
    x, y = point[0] / 649, point[1] / 499
    return plate @ np.array([(1 - x) * (1 - y), x * (1 - y), x * y, (1 - x) * y])


def test_saturation_is_the_twelve_bit_one_and_the_report_has_it(hatp32):
    header, row = (line.split("\t") for line in (hatp32.results / "detector.tsv").read_text().splitlines())
    found = dict(zip(header, row, strict=True))
    assert found["saturation_used"] == "4095" and found["gain_used"] == ""
    frame = next((hatp32.results / "calibrated").glob("*.fits"))
    assert products.read_header(frame)["SATURATE"] == 4095
