"""Full disks, files that come and go, little memory: what is on disk is whole, and the user reads a sentence."""

from __future__ import annotations

import copy
import errno
import gzip
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.nddata import CCDData

from nightflow import atomic, instruments, planning, products, rawfiles, steps


@pytest.fixture
def image():
    rng = np.random.default_rng(3)
    data = rng.normal(500, 22, (120, 150)).astype(np.float32)
    data[3, 4] = np.nan
    data[7], data[8], data[9, 2] = np.nan, 60_000.0, 1e7
    mask = np.where(rng.random(data.shape) < 0.02, np.uint16(8), np.uint16(0))
    header = fits.Header({"BUNIT": "electron", "OBJECT": "M 51", "CRPIX1": 3.0})
    return products.Image(data, mask, np.full(data.shape, 22.0, np.float32), header)


def limited(path, size):
    """Write to `path` where no file may become longer than `size` bytes, in a process of its own."""
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from astropy.io import fits\n"
        "from nightflow import products, steps\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "data = np.ones((300, 300), np.float32)\n"
        "image = products.Image(data, data.astype(np.uint16), data, fits.Header({'BUNIT': 'adu'}))\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        f"products.write_image({str(path)!r}, image)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )


def test_a_product_that_cannot_be_finished_leaves_the_old_one_and_no_rest(tmp_path, image):
    path = tmp_path / "x.fits"
    products.write_image(path, image)
    before = path.read_bytes()
    finished = limited(path, 200_000)
    assert finished.returncode != 0 and "File too large" in finished.stderr
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["x.fits"]


def test_the_rest_of_a_killed_job_is_removed_when_the_next_run_starts(tmp_path):
    (tmp_path / "masked").mkdir()
    rest = tmp_path / "masked" / f".x.fits.host-123{atomic.SCRATCH}"
    rest.write_bytes(b"half")
    (tmp_path / "masked" / "x.fits").write_bytes(b"whole")
    atomic.remove_scratch(tmp_path)
    assert os.listdir(tmp_path / "masked") == ["x.fits"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left", "a.fits"), "the disk is full: a.fits"),
        (OSError(errno.EROFS, "Read-only", "a.fits"), "the file system is read-only"),
        (FileNotFoundError(errno.ENOENT, "No such file", "raw/a.fits"), "is gone; run again: raw/a.fits"),
        (MemoryError("Unable to allocate 3 TiB"), "not enough memory; run fewer jobs at a time"),
    ],
)
def test_errors_of_disk_and_memory_are_sentences(tmp_path, error, words):
    with pytest.raises(SystemExit, match=words), steps.logged(tmp_path / "step.log"):
        raise error
    assert words in (tmp_path / "step.log").read_text()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_log_on_a_full_disk_does_not_hide_the_reason(capfd):
    with pytest.raises(SystemExit, match="the disk is full: out.fits"), steps.logged("/dev/full"):
        raise OSError(errno.ENOSPC, "No space left on device", "out.fits")
    assert "the log cannot be written" in capfd.readouterr().err


def test_too_little_memory_is_a_sentence(tmp_path):
    code = (
        "import resource, numpy as np\n"
        "from nightflow import steps\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        f"with steps.logged({str(tmp_path / 'x.log')!r}):\n"
        "    np.ones((1 << 30,))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 1 and finished.stderr.startswith("nightflow: there is not enough memory")


def write(path, shape=(8, 10), level=1, **cards):
    header = fits.Header({"IMAGETYP": "LIGHT", "EXPTIME": 1.0, **cards})
    fits.PrimaryHDU(np.full(shape, level, np.uint16), header).writeto(path)


@pytest.fixture
def survey(tmp_path, root):
    """A folder with a frame, and what scans it."""
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw" / "a.fits")
    config = yaml.safe_load((root / "config" / "config.yaml").read_text(encoding="utf-8"))
    config["raw_dir"] = str(tmp_path / "raw")
    files = (root / "config" / "instruments").glob("*.yaml")
    known = instruments.resolve({path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files})

    def scan(fresh=True, **options):
        return planning.scan(copy.deepcopy(config) | options, known, str(tmp_path / "results"), fresh)

    return scan


def test_a_job_elsewhere_plans_from_the_scan_of_its_run(survey, tmp_path):
    """Frames that come, change or go while a run is on its way must not change the inputs of its jobs."""
    first = survey()
    write(tmp_path / "raw" / "b.fits")
    assert survey(fresh=False) == first
    (tmp_path / "raw" / "a.fits").unlink()
    assert survey(fresh=False) == first
    assert [frame.frame for frame in survey()] == ["b"]


def test_a_job_with_other_options_scans_for_itself(survey):
    survey()
    (frame,) = survey(fresh=False, overrides=[{"path": "*", "target": "M 51"}])
    assert frame.target == "M_51"


def test_a_file_that_changed_a_moment_ago_is_left_for_the_next_run(survey, tmp_path):
    """Unless its time lies in the future: then a clock is wrong."""
    now = time.time()
    for name, age in (("a", 3600), ("new", 1), ("ahead", -3600)):
        (tmp_path / "raw" / f"{name}.fits").unlink(missing_ok=True)
        write(tmp_path / "raw" / f"{name}.fits", level=age % 7)
        os.utime(tmp_path / "raw" / f"{name}.fits", (now - age, now - age))
    status = {frame.frame: frame.status for frame in survey(settle=20)}
    assert status == {"a": "ok", "ahead": "ok", "new": "ignored"}
    assert {frame.status for frame in survey()} == {"ok"}


def test_pixels_are_counted_whatever_the_compression(survey, tmp_path):
    """Jobs ask for memory by the pixels that their frame has."""
    plain = tmp_path / "raw" / "a.fits"
    (tmp_path / "raw" / "b.fits.gz").write_bytes(gzip.compress(plain.read_bytes()))
    fits.CompImageHDU(fits.getdata(plain), fits.getheader(plain)).writeto(tmp_path / "raw" / "c.fits.fz")
    assert [frame.n_pixels for frame in survey()] == [80, 80, 80]


def test_a_changed_frame_has_another_state(survey, tmp_path):
    """An old file in the place of a newer one counts as a change too, though its time is earlier."""
    (before,) = survey()
    os.utime(tmp_path / "raw" / "a.fits", (1e9, 1e9))
    (after,) = survey()
    assert before.state != after.state and before.state[0] == after.state[0]


def test_a_frame_that_is_gone_is_no_verdict_on_it(tmp_path):
    with pytest.raises(FileNotFoundError):
        rawfiles.RawFile(tmp_path / "gone.fits")


def test_compressed_products_are_small_true_and_the_same_each_time(tmp_path, image):
    paths = [tmp_path / name for name in ("plain.fits", "rice.fits", "again.fits")]
    for path, compression in zip(paths, ("none", "rice", "rice"), strict=True):
        time.sleep(0.6)  # into another second: no tile tells it
        products.write_image(path, image, compression)
    assert paths[1].read_bytes() == paths[2].read_bytes()
    assert paths[1].stat().st_size < 0.6 * paths[0].stat().st_size
    read = products.read_image(paths[1])
    np.testing.assert_array_equal(read.mask, image.mask)
    np.testing.assert_array_equal(np.isnan(read.data), np.isnan(image.data))
    assert np.nanmax(np.abs(read.data - image.data)) <= 22 / 16 and abs(np.nanmean(read.data - image.data)) < 0.1
    np.testing.assert_allclose(read.uncertainty, image.uncertainty, atol=22 / 64)
    assert products.read_header(paths[1])["OBJECT"] == "M 51" and not read.extensions
    for raw_tables in (True, False):
        with fits.open(paths[1], checksum=True, disable_image_compression=raw_tables) as hdus:
            assert len(hdus) == 4 and (not raw_tables or all({"CHECKSUM", "DATASUM"} <= set(h.header) for h in hdus))
    ccd = CCDData.read(paths[1], hdu="SCI")
    assert ccd.unit == "electron" and (ccd.mask != 0).sum() == (image.mask != 0).sum() and ccd.uncertainty is not None
