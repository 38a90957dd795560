"""The ten frames that IRAF registered and combined: our shifts, and our stack with IRAF's shifts given."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from test_alignment import REGISTRATION
from test_quality import OPTIONS as SELECTION
from test_quality import row
from test_stacking import OPTIONS, iraf_shifts

from nightflow import alignment, crosscorrelation, products, stacking
from nightflow.products import Image

REFERENCE = "StarGateCluster_030_sec_1x1_0005"


@pytest.fixture(scope="module")
def stargate(shared_data):
    """Raw pixels by frame, and IRAF's shifts."""
    folder = shared_data / "stargate_iraf"
    shifts = iraf_shifts(folder / "truth" / "input_output_shifts.txt")
    frames = {path.stem: fits.getdata(path).astype(np.float32) for path in sorted((folder / "raw").glob("*.fit"))}
    assert len(frames) == 10
    return frames, {name: shifts.get(f"{name}.fit", (0.0, 0.0)) for name in frames}, folder


def test_our_shifts_are_those_of_xregister(stargate):
    """The same part of the images, and shifts of up to 5 px as in IRAF's search: within 0.1 px for all ten frames."""
    frames, shifts, _ = stargate
    apart = {}
    for name, data in frames.items():
        shift = crosscorrelation.find_shift(data, frames[REFERENCE], 5, (10, 700, 10, 500))
        apart[name] = np.abs(np.subtract((shift.x, shift.y), shifts[name])).max()
    print(f"at worst {max(apart.values()):.4f} px from IRAF's shifts")
    assert max(apart.values()) < 0.1


def test_a_wider_search_finds_what_irafs_window_cut_off(stargate):
    """Two shifts lie beyond 5 px, where IRAF's search ended; the others are as published, and the engine takes all."""
    frames, shifts, _ = stargate
    cut = {name for name, (x, y) in shifts.items() if max(abs(x), abs(y)) > 4.7}
    assert len(cut) == 2
    for name, data in frames.items():
        shift = crosscorrelation.find_shift(data, frames[REFERENCE], 20)
        apart = np.abs(np.subtract((shift.x, shift.y), shifts[name])).max()
        assert not shift.at_edge and (apart > 0.1 if name in cut else apart < 0.1), (name, apart)


def test_given_shifts_make_irafs_image(stargate, tmp_path):
    """Shifts given in a table: the bilinear mean is the published average to 0.15 ADU rms, but for a constant."""
    frames, shifts, folder = stargate
    lines = ["frame,x0,y0", *(f"{name},{x},{y}" for name, (x, y) in shifts.items())]
    (tmp_path / "shifts.csv").write_text("\n".join(lines) + "\n")
    found = {}
    for name, data in frames.items():
        header = fits.Header({"BUNIT": "adu", "EXPTIME": 30.0, "NFXSIZE": data.shape[1], "NFYSIZE": data.shape[0]})
        found[name] = alignment.Frame(None, header)
        noise = np.full(data.shape, 10.0, np.float32)
        products.write_image(tmp_path / f"{name}.fits", Image(data, np.zeros(data.shape, np.uint16), noise, header))
    options = REGISTRATION | {"engine": "given", "transforms": str(tmp_path / "shifts.csv")}
    table, grid = alignment.select_and_align([row(n) for n in frames], found, SELECTION | {"weights": "none"}, options)
    assert table["used"].all()
    inputs = [
        stacking.StackInput(
            tmp_path / f"{r['frame']}.fits",
            alignment.transform_of(r, "given", grid, None, data.shape),
            r["flux_scale"],
            r["weight"],
        )
        for r in table
    ]
    header = products.read_header(inputs[0].path)
    header.update(grid)
    choice = {"method": "mean", "rejection": "none", "match_sky": "none", "kernel": "bilinear"}
    image = stacking.stack(inputs, header, OPTIONS | choice)
    difference = (image.data - fits.getdata(folder / "truth" / "registeredImage.fit").astype(float))[12:-12, 12:-12]
    constant = np.median(difference)
    rms = np.sqrt(np.mean((difference - constant) ** 2))
    print(f"constant {constant:.3f} ADU, rms {rms:.3f} ADU")
    assert rms < 0.15 and constant == pytest.approx(0.45, abs=0.05)
