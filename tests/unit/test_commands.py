"""The commands scene, mask and sky: what they write and print, and what they refuse with one sentence."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import Table

from nightflow import commands, products, scenes, sky, sources
from nightflow.products import Image, MaskBit

COMMANDS = {"scene": commands.main_scene, "mask": commands.main_mask, "sky": commands.main_sky}
SCENE = {"size_x": 300, "size_y": 200, "stars": 20, "galaxies": 3, "seed": 5}
NUMBER = re.compile(r"-?\d+\.\d+|\d+")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a small scene in it."""
    monkeypatch.chdir(tmp_path)
    scenes.write_scene("scene.fits", **SCENE)
    return tmp_path


def run(line: str) -> None:
    """Run a command line."""
    name, *arguments = shlex.split(line)
    COMMANDS[name](arguments)


def numbers_of(text: str) -> dict:
    """The numbers that ``sky`` printed, by name."""
    return {m[1]: float(m[2]) for m in re.finditer(r"^(\w+) += +(-?[\d.]+)", text, re.MULTILINE)}


# ---------------------------------------------------------------------------------------------- documentation


def sessions(text: str):
    """Command lines of the fenced consoles, each with what the page says that it prints."""
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, printed = part.partition("\n")
            yield line, printed


def test_commands_of_the_page_print_what_it_says(root, tmp_path, monkeypatch, capsys):
    """All commands of docs/scenes.md run in one folder, in order; words agree, and numbers to 0.05 or 1 %."""
    monkeypatch.chdir(tmp_path)
    text = (root / "docs" / "scenes.md").read_text(encoding="utf-8")
    lines = list(sessions(text))
    assert len(lines) >= 10
    for line, printed in lines:
        run(line)
        found = capsys.readouterr().out
        assert NUMBER.sub("", found).split() == NUMBER.sub("", printed).split(), line
        pairs = zip(NUMBER.findall(found), NUMBER.findall(printed), strict=True)
        for value, said in pairs:
            tolerance = 0.05 if "." in said else 0.01 * float(said)
            assert float(value) == pytest.approx(float(said), abs=tolerance), f"{line}: {value}, the page says {said}"


def test_results_of_the_course_stand_on_the_page(root):
    text = (root / "docs" / "scenes.md").read_text(encoding="utf-8")
    for row in ("1000.42 | 1000.29 | 1000.05 | 30.34", "1000.78 | 1000.49 | 999.91 | 30.67"):
        assert f"| course | {row} |" in text


# ---------------------------------------------------------------------------------------------- scene


def test_scene_writes_image_and_table(folder, capsys):
    """The command makes the same image as the function, and the truth table beside it."""
    run("scene -o new.fits -x 300 -y 200 -n 20 -g 3 --seed 5")
    data, header, truth = scenes.make_scene(**SCENE)
    with fits.open("new.fits", checksum=True) as hdus:
        np.testing.assert_array_equal(hdus[0].data, data)
        assert hdus[0].header["SEED"] == header["SEED"]
    table = Table.read("new_truth.tsv", format="ascii.tab")
    np.testing.assert_allclose(table["x"], truth["x"])
    assert list(table["type"]) == ["star"] * 20 + ["galaxy"] * 3
    assert "20 stars, 3 galaxies" in capsys.readouterr().out


def test_scene_takes_the_options_of_the_course(folder):
    """Its long names too."""
    run(
        "scene --output-file new.fits --size-x 90 --size-y 80 --nstars 4 --ngalaxies 2 --flux-min 500 --fwhm-psf 4 "
        "--fwhm-stddev 0.2 --fwhm-psf-gal 9 --fwhm-psf-gal-stddev 3 --sky 700 --sky-stddev 20"
    )
    header = fits.getheader("new.fits")
    assert [header[k] for k in ("NAXIS1", "NAXIS2", "NSTARS", "NGALAXY")] == [90, 80, 4, 2]
    cards = ("FLUXMIN", "FWHMPSF", "FWHMPSFS", "FWHMGAL", "FWHMGALS", "SKYLEVEL", "SKYSIGMA")
    assert [header[k] for k in cards] == [500, 4, 0.2, 9, 3, 700, 20]


# ---------------------------------------------------------------------------------------------- mask


def test_mask_is_that_of_the_workflow(folder):
    """The SOURCE plane is what the library finds, the pixels and cards are the scene's."""
    run("mask -i scene.fits -o masked.fits -t 3 -n 8 -s 11 -m 4")
    data = fits.getdata("scene.fits")
    options = {"threshold": 3.0, "npixels": 8, "dilation": 11, "maxiters": 4}
    with fits.open("masked.fits", checksum=True) as hdus:
        np.testing.assert_array_equal(hdus[0].data, data)
        np.testing.assert_array_equal(hdus["MASK"].data == MaskBit.SOURCE, sources.source_mask(data, None, options))
        assert hdus[0].header["SEED"] == SCENE["seed"] and hdus["MASK"].header["BIT07"] == "SOURCE"
    assert CCDData.read("masked.fits").mask.any()


def test_mask_of_a_product_keeps_its_planes(folder):
    """Flags and uncertainty of a product stay; flagged pixels are no sources."""
    data = fits.getdata("scene.fits")
    mask = np.zeros(data.shape, np.uint16)
    mask[50:60] = MaskBit.BAD
    mask[0, 0] = MaskBit.SOURCE  # of an earlier mask
    header = fits.Header([("BUNIT", "electron")])
    products.write_image("product.fits", Image(data, mask, np.full_like(data, 30.0), header))
    run("mask -i product.fits -o masked.fits")
    image = products.read_image("masked.fits")
    assert (image.mask[50:60] == MaskBit.BAD).all() and image.mask[0, 0] == 0
    assert (image.mask & MaskBit.SOURCE).any() and (image.uncertainty == 30).all()


def test_picture_shows_masked_pixels_black(folder):
    from PIL import Image as Picture

    run("mask -i scene.fits -o masked.fits --picture masked.png")
    with Picture.open("masked.png") as picture:
        pixels = np.asarray(picture)[::-1]
    masked = fits.getdata("masked.fits", "MASK") != 0
    assert (pixels[masked] == 0).all() and pixels[~masked].mean() > 20


# ---------------------------------------------------------------------------------------------- sky


def test_sky_prints_the_librarys_numbers(folder, capsys):
    run("sky -i scene.fits -r 3 --clipping-maxiters 5")
    printed = capsys.readouterr().out
    data = fits.getdata("scene.fits")
    expected = sky.sky_statistics(data, sources.source_mask(data), sigma=3.0, maxiters=5)
    found = numbers_of(printed)
    for name in ("mean", "median", "mode", "stddev", "npix"):
        assert found[name] == pytest.approx(getattr(expected, name), abs=0.006), name
    assert found["masked"] == pytest.approx(100 * expected.masked_fraction, abs=0.006)
    assert found["mean"] == pytest.approx(1000, abs=0.5)
    assert "sources found and masked" in printed and "adu" in printed


def test_three_ways_to_the_mask_agree(folder, capsys):
    """Made on the way, in the file, and in a file of its own."""
    run("mask -i scene.fits -o masked.fits")
    fits.PrimaryHDU((fits.getdata("masked.fits", "MASK") != 0).astype(np.uint8)).writeto("plain.fits")
    capsys.readouterr()
    printed = []
    for line in (
        "-i scene.fits",
        "-i masked.fits",
        "-i scene.fits --mask masked.fits",
        "-i scene.fits --mask plain.fits",
    ):
        run(f"sky {line}")
        printed.append(numbers_of(capsys.readouterr().out))
    assert printed[0] == printed[1] == printed[2] == printed[3]


def test_as_published_masks_nothing(folder, capsys):
    """Also where the file has a mask."""
    run("mask -i scene.fits -o masked.fits")
    capsys.readouterr()
    run("sky -i masked.fits --as-published")
    found = numbers_of(capsys.readouterr().out)
    expected = sky.sky_statistics(fits.getdata("scene.fits"), None, sigma=4.0, maxiters=10)
    assert found["mean"] == pytest.approx(expected.mean, abs=0.006) and found["masked"] == 0


def test_mesh_tells_the_range_of_the_model(folder, capsys):
    run("sky -i scene.fits --method mesh")
    assert re.search(r"mesh   = \d+\.\d+ to \d+\.\d+, rms \d+\.\d+", capsys.readouterr().out)


def test_pixels_without_a_value_do_not_count(folder, capsys):
    data = fits.getdata("scene.fits")
    data[:100] = np.nan
    fits.PrimaryHDU(data).writeto("half.fits")
    run("sky -i half.fits")
    assert numbers_of(capsys.readouterr().out)["masked"] >= 50


# ---------------------------------------------------------------------------------------------- refusals


def make_odd_files():
    good = fits.PrimaryHDU(np.zeros((40, 50), np.float32))
    Path("text.fits").write_text("hello " * 1000)
    fits.PrimaryHDU().writeto("empty.fits")
    fits.PrimaryHDU(np.full((40, 50), np.nan, np.float32)).writeto("nan.fits")
    good.writeto("other.fits")
    fits.HDUList([good, fits.ImageHDU(np.zeros((4, 5), np.int16), name="MASK")]).writeto("mismatch.fits")
    with open("other.fits", "rb") as whole, open("short.fits", "wb") as part:
        part.write(whole.read(6000))
    verdict = products.RejectedFrame("all pixels are saturated")
    products.write_rejected("rejected.fits", verdict)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sky -i none.fits", "sky: none.fits: No such file or directory"),
        ("sky -i .", "sky: .: Is a directory"),
        ("sky -i text.fits", "text.fits is unreadable: it is no FITS file (one begins with SIMPLE)"),
        ("sky -i empty.fits", "empty.fits is unreadable: it has no image"),
        ("sky -i short.fits", "short.fits is truncated"),
        ("sky -i nan.fits", "no pixel of nan.fits has a value"),
        ("sky -i rejected.fits", "all pixels are saturated"),
        ("sky -i mismatch.fits", "the extension MASK of mismatch.fits has the shape (4, 5), its image (40, 50)"),
        ("sky -i scene.fits --mask other.fits", "the mask other.fits has the shape (40, 50), the image (200, 300)"),
        ("sky -i scene.fits --mask none.fits", "none.fits: No such file"),
        ("sky -i scene.fits --mask scene.fits", "no pixel of scene.fits shows the sky: all are masked"),
        ("mask -i nan.fits -o new.fits", "no pixel of nan.fits has a value"),
        ("mask -i scene.fits -o scene.fits", "'scene.fits' exists and is not overwritten"),
        ("mask -i scene.fits -o new.fits --picture text.fits", "'text.fits' exists and is not overwritten"),
        ("mask -i scene.fits -o none/new.fits", "the folder 'none' does not exist"),
        ("mask -i scene.fits -o new.png", "the name of the output must end in .fits, not as in 'new.png'"),
        ("mask -i scene.fits -o new.fits -n 0", "argument -n/--npixels: expected a number from 1, got 0"),
        ("sky -i scene.fits -r 0", "argument -r/--sigma-clipping: expected a number above 0, got 0"),
        ("sky -i scene.fits -t nan", "argument -t/--threshold: expected a number above 0, got nan"),
        ("sky -i scene.fits -m few", "argument -m/--maxiters"),
        ("sky", "the following arguments are required: -i"),
        ("scene -o scene.fits", "'scene.fits' exists and is not overwritten"),
        ("scene -o none/new.fits", "the folder 'none' does not exist"),
        ("scene -o new.png", "the name of the output must end in .fits"),
        ("scene -o new.fits -x 0", "size_x: expected a number above 0, got 0"),
        ("scene -o new.fits --as-published --star-profile moffat", "the published images are Gaussian"),
    ],
)
def test_refusals_are_one_sentence(folder, capsys, line, words):
    """A sentence that names the file or the option, status not 0, and nothing written."""
    make_odd_files()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(SystemExit) as stop:
        run(line)
    message = f"{stop.value.code}\n{capsys.readouterr().err}"
    assert stop.value.code not in (0, None) and words in message and "Traceback" not in message
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_table_of_another_scene_is_not_overwritten(folder):
    with open("new_truth.tsv", "w") as file:
        file.write("precious")
    with pytest.raises(SystemExit, match="new_truth.tsv' exists and is not overwritten"):
        run("scene -o new.fits")


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("scene", "-x -y -n -g -f -p -d -q -r -s -e -o --size-x --nstars --ngalaxies --fwhm-psf --seed --as-published"),
        ("mask", "-i -o -t -n -s -m --threshold --npixels --dilate-size --maxiters --picture"),
        ("sky", "-i -t -n -s -m -r --mask --sigma-clipping --clipping-maxiters --method --as-published"),
    ],
)
def test_help_names_every_option_with_its_default(command, names, capsys):
    with pytest.raises(SystemExit) as stop:
        COMMANDS[command](["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0 and all(f"{name} " in text or f"{name}," in text for name in names.split())
    assert "default: 4.0" in text or command == "mask"
    assert "default: None" not in text and "default: False" not in text


def test_commands_are_installed(root):
    """pyproject.toml names the functions."""
    import tomllib

    scripts = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    for name, function in COMMANDS.items():
        assert scripts[name] == f"nightflow.commands:{function.__name__}"
