"""Real nights, from the camera's files to a stack, held against numbers that were published or derived elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from scipy import ndimage

from nightflow import products, quality, sky, sources
from nights import Workspace

pytestmark = pytest.mark.workflow

M51 = """\
overrides:
  - {path: "M51*", target: M51}
calibration: {gain: 1.345, method: clipped_mean}
stack: {method: mean}
"""


@pytest.fixture(scope="module")
def m51(shared_data, tmp_path_factory):
    import yaml

    workspace = Workspace(tmp_path_factory.mktemp("m51"))
    workspace.run(raw_dir=str(shared_data / "m51_qsi532" / "raw"), **yaml.safe_load(M51))
    return workspace


@pytest.fixture(scope="module")
def selection(m51):
    return quality.read_selection(m51.results / "selection" / "M51" / "I.tsv")


@pytest.fixture(scope="module")
def stack(m51):
    return products.read_image(m51.results / "stacks" / "M51" / "I.fits")


def test_m51_every_light_is_registered(selection):
    assert len(selection) == 18 and all(selection["used"]), list(selection["reason"])


def test_m51_shifts_are_those_derived_elsewhere(selection, shared_data):
    """Shifts of the frame's origin onto the first frame, within 0.1 px."""
    lines = (shared_data / "m51_qsi532" / "truth" / "derived_shifts.csv").read_text().splitlines()[2:]
    truth = {line.split(".")[0]: [float(x) for x in line.split(",")[1:3]] for line in lines}
    matrices = {str(row["frame"]): quality.matrix_of(row) for row in selection}
    to_first = np.linalg.inv(matrices["M51_I_001"])
    differences = [(to_first @ matrices[frame])[:2, 2] - shift for frame, shift in truth.items()]
    print(f"largest difference {np.abs(differences).max():.3f} px over {len(differences)} frames")
    assert len(differences) == 18 and np.abs(differences).max() < 0.1


def test_m51_stack_is_as_sharp_as_its_frames(selection, stack):
    fwhm, _, stars = sources.seeing(sources.detect_sources(stack))
    frame = np.median(selection["fwhm"])
    print(f"FWHM of the stack {fwhm:.3f} px from {stars} stars, of the median frame {frame:.3f} px")
    assert fwhm <= 1.08 * frame


def block_means(image, n=4):
    ny, nx = (size // n for size in image.shape)
    return image[: ny * n, : nx * n].reshape(ny, n, nx, n).mean(axis=(1, 3))


def block_noise(image, blank):
    """Standard deviation of the means of 4 x 4 pixels in blank sky, as they are and against their surroundings.

    The second leaves out what is no noise: the faint halo of the galaxy and the flat field's large-scale error.
    """
    inner = np.zeros_like(blank)
    inner[20:-20, 20:-20] = True
    good = block_means((blank & inner).astype(float)) == 1
    blocks = np.where(good, block_means(image), 0.0)
    share = ndimage.uniform_filter(good.astype(float), 15)
    local = ndimage.uniform_filter(blocks, 15) / np.maximum(share, 1e-3)
    surrounded = good & (share > 0.3)
    return (
        sky.sky_statistics(blocks, ~good).stddev,
        sky.sky_statistics(blocks - local, ~surrounded).stddev,
    )


def test_m51_stack_is_as_deep_as_its_frames_allow(m51, stack):
    blank = ~sources.source_mask(stack.data, stack.mask) & (stack.mask == 0)
    deep = block_noise(stack.data, blank)
    singles = []
    for path in sorted((m51.results / "subtracted").glob("*.fits")):
        frame, masked = products.read_image(path), products.read_image(m51.results / "masked" / path.name)
        singles.append(block_noise(frame.data, masked.mask == 0))
    raw, ratio = np.array(deep) / (np.median(singles, axis=0) / np.sqrt(18))
    print(f"block noise over a single frame's / sqrt(18): {ratio:.3f} against the surroundings, {raw:.3f} as it is")
    assert ratio <= 1.25 and raw <= 1.25


def test_m51_master_flat_and_read_noise(m51):
    """Read noise from the bias frames is what was measured elsewhere, 12.3 ADU."""
    (bias,) = (m51.results / "masters").glob("bias_*.fits")
    (flat,) = (m51.results / "masters").glob("flat_*.fits")
    assert fits.getheader(bias)["RNMEAS"] == pytest.approx(12.3, abs=0.2)
    image = products.read_image(flat)
    assert image.data[image.mask == 0].mean() == pytest.approx(1, abs=1e-3)


def test_m51_a_second_run_does_nothing(m51, shared_data):
    import yaml

    assert not m51.planned(raw_dir=str(shared_data / "m51_qsi532" / "raw"), **yaml.safe_load(M51))
