"""Amplifiers that are read into extensions of their own become one frame of their detector."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from dialects import LCO, write_night
from reduction import reduce

from nightflow import explain, inventory, rawfiles, simulate
from nightflow.products import RejectedFrame

NIGHT = {
    "shape": [40, 48],
    "bias_frames": 3,
    "dark_frames": 3,
    "flat_frames": 3,
    "filters": {"V": {}},
    "targets": [{"name": "M67", "ra": 132.846, "dec": 11.814, "filters": ["V"], "frames": 1, "exptime": 60.0}],
}
LEVELS = (11, 23, 37, 5)  # overscan level of each amplifier, ADU
GAINS = (1.3, 1.4, 1.5, 1.6)
SECTIONS = ("[1:24,1:20]", "[48:25,1:20]", "[48:25,40:21]", "[1:24,40:21]")
CORNERS = ((0, 0), (0, 1), (1, 1), (1, 0))  # row and column of quadrants


@pytest.fixture(scope="module")
def known():
    return explain.load_dialects()


def quadrant(image, corner):
    """Pixels of a quadrant in the order in which its amplifier, at the outer corner, reads them."""
    ny, nx = image.shape[0] // 2, image.shape[1] // 2
    part = image[corner[0] * ny : (corner[0] + 1) * ny, corner[1] * nx : (corner[1] + 1) * nx]
    return part[:: -1 if corner[0] else 1, :: -1 if corner[1] else 1]


def with_overscan(pixels, level):
    return np.hstack([pixels, np.full((len(pixels), 6), level)]).astype(np.uint16)


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """One night as simulated, and with an extension for each of four amplifiers."""
    folder = tmp_path_factory.mktemp("joining")
    write_night(simulate.Night(NIGHT), folder / "simulated", LCO)
    (folder / "split").mkdir()
    for path in sorted((folder / "simulated").iterdir()):
        with fits.open(path) as hdus:
            image, primary, cards = hdus[1].data, hdus[0].header.copy(), hdus[1].header.copy()
        shared = {k: cards[k] for k in cards if k not in ("TRIMSEC", "BIASSEC", "GAIN") and k[:5] != "NAXIS"}
        split = [fits.PrimaryHDU(header=primary)]
        for corner, level, gain, section in zip(CORNERS, LEVELS, GAINS, SECTIONS, strict=True):
            hdu = fits.ImageHDU(with_overscan(quadrant(image, corner), level), name="SCI")
            for key in ("OBSTYPE", "OBJECT", "FILTER", "EXPTIME", "DATE-OBS", "CCDSUM", "INSTRUME", "SATURATE"):
                if key in shared:
                    hdu.header[key] = shared[key]
            hdu.header.update(TRIMSEC="[1:24,1:20]", BIASSEC="[25:30,1:20]", GAIN=gain, RDNOISE=8.0, DETSEC=section)
            split.append(hdu)
        fits.HDUList(split).writeto(folder / "split" / path.name)
    return folder


def test_four_amplifiers_are_one_frame(nights, known):
    rows, images = reduce(nights / "split", known)
    assert all(row.status == "ok" for row in rows) and all(row.chip is None for row in rows)
    assert {row.trimmed_shape for row in rows} == {"48x40"} and {row.hdu for row in rows} == {"1+2+4+3"}
    (image,) = images.values()
    assert image.shape == (40, 48) and image.header["BUNIT"] == "electron" and image.header["OVERSCAN"] == "median"


def test_pixels_lie_where_the_detector_has_them(nights, known):
    """Each pixel is that of the simulated frame, less the level of its amplifier, times its gain."""
    from nightflow.combine import ArrayRows
    from nightflow.detector import SignalRows, by_amplifier

    rows, _ = reduce(nights / "split", known)
    row = next(row for row in rows if row.kind == "light")
    with fits.open(nights / "simulated" / row.path.rsplit("/", 1)[-1]) as hdus:
        truth = hdus[1].data.astype(np.float32)
    for corner, level in zip(CORNERS, LEVELS, strict=True):
        truth[corner[0] * 20 : corner[0] * 20 + 20, corner[1] * 24 : corner[1] * 24 + 24] -= level
    raw = rawfiles.open_raw(row.path, row.hdu)
    signal = SignalRows(raw, row.detector, {})
    np.testing.assert_array_equal(signal.rows(0, 40), truth)
    np.testing.assert_array_equal(np.concatenate([signal.rows(y, min(y + 7, 40)) for y in range(0, 40, 7)]), truth)
    whole = SignalRows(ArrayRows(raw.read()), row.detector, {})
    np.testing.assert_array_equal(whole.rows(13, 31), truth[13:31])
    gain = by_amplifier(signal.amplifiers, lambda amp: amp.gain)
    assert [gain[y, x] for y, x in ((0, 0), (0, 47), (39, 47), (39, 0))] == pytest.approx(GAINS)


def test_masks_are_joined_like_pixels(nights, known):
    from nightflow.detector import SignalRows

    rows, _ = reduce(nights / "split", known)
    row = next(row for row in rows if row.kind == "light")
    signal = SignalRows(rawfiles.open_raw(row.path, row.hdu), row.detector, {"overscan_method": "median"})
    raw = signal.raw.read()
    levels = np.array(LEVELS, np.float32)
    image = signal.trim(raw)
    assert image[0, 0] - signal.rows(0, 1)[0, 0] == levels[0]
    assert image[39, 47] - signal.rows(39, 40)[0, 47] == levels[2]


@pytest.mark.parametrize("sections", [("[1:24,1:20]", "[20:44,1:20]"), ("[1:24,1:20]", ""), ("[1:24,1:20]", "all")])
def test_without_places_of_their_own_extensions_stay_apart(sections, known, tmp_path):
    split = [fits.PrimaryHDU()]
    split[0].header.update(ORIGIN="LCOGT", SITEID="lsc", OBSTYPE="EXPOSE", EXPTIME=1.0, FILTER="V", OBJECT="M67")
    for section in sections:
        split.append(fits.ImageHDU(np.ones((20, 24), np.uint16), name="SCI"))
        split[-1].header["DETSEC"] = section
    fits.HDUList(split).writeto(tmp_path / "two.fits")
    from nightflow import frames

    files = inventory.find_files([str(tmp_path)])
    rows = frames.build(files, [inventory.read_headers(file.path) for file in files], known)
    assert [row.hdu for row in rows] == [1, 2] and [row.chip for row in rows] == ["hdu1", "hdu2"]


def test_binned_places():
    """Places are told in the detector's own pixels, whatever the binning."""
    from nightflow.joining import join_amplifiers

    hdus = [
        {"hdu": n, "shape": (10, 12), "error": None, "cards": {"DETSEC": section}} for n, section in enumerate(SECTIONS)
    ]
    ((hdu, values),) = join_amplifiers([(hdu, {"chip": None}) for hdu in hdus], "DETSEC")
    assert hdu["hdu"] == "0+1+3+2" and hdu["shape"] == (40, 12)
    assert [amp["place"] for amp in values["amplifiers"]] == [
        (slice(y, y + 10), slice(x, x + 12)) for y, x in ((0, 0), (0, 12), (10, 0), (10, 12))
    ]


def test_chips_stay_apart():
    from nightflow.joining import join_amplifiers

    hdus = [
        {"hdu": n, "shape": (20, 24), "error": None, "cards": {"DETSEC": section}} for n, section in enumerate(SECTIONS)
    ]
    images = join_amplifiers([(hdu, {"chip": f"c{hdu['hdu'] // 2}"}) for hdu in hdus], "DETSEC")
    assert [hdu["hdu"] for hdu, _ in images] == ["0+1", "3+2"]


def test_amplifiers_of_different_shapes_are_rejected(tmp_path):
    shapes = ((4, 5), (4, 6))
    images = [fits.ImageHDU(np.ones(shape, np.int16)) for shape in shapes]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(tmp_path / "a.fits")
    with pytest.raises(RejectedFrame, match="different shapes"):
        rawfiles.open_raw(tmp_path / "a.fits", "1+2")
