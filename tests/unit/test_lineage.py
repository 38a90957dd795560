"""Products name their inputs with the sum of their data; `verify` and the PROV document read that."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from astropy.io import fits

from nightflow import lineage, products, prov, verify
from nightflow.products import Image, RejectedFrame

LIGHTS = "frame\tkind\tstatus\nM67_001\tlight\tok\nlost\tlight\trejected\n"


def image(value=1.0, **cards):
    header = fits.Header({"BUNIT": "electron", "NFCONF": "aa", **cards})
    return Image(np.full((4, 5), value), np.zeros((4, 5)), np.ones((4, 5)), header)


@pytest.fixture
def run(tmp_path):
    """Results folder with one calibrated and one masked frame, as two steps would write them."""
    results, raw = tmp_path / "results", tmp_path / "raw" / "a.fits"
    raw.parent.mkdir()
    fits.PrimaryHDU(np.arange(20, dtype=np.int16).reshape(4, 5)).writeto(raw)
    with lineage.inputs_of_step([str(raw)], results / "logs" / "calibrate" / "M67_001.log"):
        products.write_image(results / "calibrated" / "M67_001.fits", image())
    with lineage.inputs_of_step([results / "calibrated" / "M67_001.fits"], results / "logs" / "mask" / "M67_001.log"):
        calibrated = products.read_image(results / "calibrated" / "M67_001.fits")
        products.write_image(results / "masked" / "M67_001.fits", calibrated)
    (results / "frames.tsv").write_text(LIGHTS)
    record_configuration(results)
    return results


def record_configuration(results, digest="aa"):
    path = results / verify.RECORD
    path.parent.mkdir(exist_ok=True)
    path.write_text(verify.record({"mask": digest}, [], {}))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("compress", [False, True])
def test_datasum_of_a_file_with_one_hdu_is_its_datasum_card(tmp_path, dtype, compress):
    """astropy's own sum is the truth."""
    data = np.random.default_rng(3).integers(0, 255, (37, 41)).astype(dtype)
    hdu = fits.PrimaryHDU(data)
    hdu.add_checksum()
    path = tmp_path / "a.fits"
    hdu.writeto(path)
    if compress:
        path = tmp_path / "a.fits.gz"
        path.write_bytes(gzip.compress((tmp_path / "a.fits").read_bytes()))
    assert lineage.datasum(path) == hdu.header["DATASUM"]


def test_datasum_sees_every_hdu_and_no_header(tmp_path):
    def write(name, second, **cards):
        hdus = [fits.PrimaryHDU(np.ones((3, 3))), fits.ImageHDU(np.full((3, 3), second))]
        hdus[0].header.update(cards)
        fits.HDUList(hdus).writeto(tmp_path / name)
        return lineage.datasum(tmp_path / name)

    assert write("a.fits", 1.0) == write("b.fits", 1.0, OBSERVER="me") != write("c.fits", 2.0)


@pytest.mark.parametrize("compression", ["none", "rice"])
def test_datasum_of_a_product_is_the_sum_of_what_its_hdus_state(tmp_path, compression):
    made = image()
    made.data = np.random.default_rng(3).normal(100, 3, (40, 50))
    made.mask, made.uncertainty = np.zeros((40, 50), np.uint16), np.full((40, 50), 3.0)
    products.write_image(tmp_path / "a.fits", made, compression)
    with fits.open(tmp_path / "a.fits", disable_image_compression=True) as hdus:
        total = sum(int(hdu.header["DATASUM"]) for hdu in hdus)
    assert lineage.datasum(tmp_path / "a.fits") == str(total % (2**32 - 1))


@pytest.mark.parametrize("content", [b"", b"SIMPLE  = nonsense", b"\x1f\x8bno gzip"])
def test_damaged_files_have_a_word_instead_of_a_sum(tmp_path, content):
    (tmp_path / "a.fits").write_bytes(content)
    assert lineage.datasum(tmp_path / "a.fits") == lineage.UNREADABLE


def test_truncated_files_have_a_word_instead_of_a_sum(run, tmp_path):
    whole = (run / "calibrated" / "M67_001.fits").read_bytes()
    fits.PrimaryHDU(np.ones((100, 100))).writeto(tmp_path / "b.fits")
    (tmp_path / "b.fits").write_bytes((tmp_path / "b.fits").read_bytes()[:8000])
    assert lineage.datasum(tmp_path / "b.fits") == lineage.UNREADABLE and whole


def test_products_name_their_own_inputs_only(run):
    header = fits.getheader(run / "masked" / "M67_001.fits")
    calibrated = run / "calibrated" / "M67_001.fits"
    assert lineage.inputs(header) == [("calibrated/M67_001.fits", lineage.datasum(calibrated))]
    raw = lineage.inputs(fits.getheader(calibrated))
    assert raw == [("a.fits", lineage.datasum(run.parent / "raw" / "a.fits"))]


def test_long_names_and_rejected_products(tmp_path):
    name = f"{'x' * 90}.fits"
    fits.PrimaryHDU(np.ones(4)).writeto(tmp_path / name)
    with lineage.inputs_of_step([tmp_path / name], tmp_path / "logs" / "a.log"):
        products.write_rejected(tmp_path / "calibrated" / "a.fits", RejectedFrame("truncated"))
    assert lineage.inputs(fits.getheader(tmp_path / "calibrated" / "a.fits"))[0][0] == name


def test_outside_a_step_nothing_is_said(tmp_path):
    products.write_image(tmp_path / "a.fits", image(NFIN0001="old 1", NFINPUTS=1))
    assert lineage.inputs(fits.getheader(tmp_path / "a.fits")) == []


def test_verify_finds_nothing_in_a_sound_run(run, capsys):
    assert verify.main([str(run)]) == 0 and "2 products checked, all sound" in capsys.readouterr().out


def flip_a_pixel(run):
    path = run / "masked" / "M67_001.fits"
    content = bytearray(path.read_bytes())
    content[-2880 * 2] ^= 1
    path.write_bytes(content)


def cut_off(run):
    path = run / "masked" / "M67_001.fits"
    path.write_bytes(path.read_bytes()[:9000])


def change_options(run):
    record_configuration(run, "bb")


def replace_the_input(run):
    products.write_image(run / "calibrated" / "M67_001.fits", image(2.0))


def forget_the_frame(run):
    (run / "frames.tsv").write_text(LIGHTS.replace("M67_001", "M67_002"))


def leave_a_master(run):
    """A product whose inputs are not what they were, and which nobody wants any more."""
    (run / "masters").mkdir()
    (run / "masked" / "M67_001.fits").rename(run / "masters" / "old.fits")
    replace_the_input(run)


def write_as_another_version(run):
    with fits.open(run / "masked" / "M67_001.fits", mode="update", checksum=True) as hdus:
        hdus[0].header["NFVERS"] = "0.0.1"


@pytest.mark.parametrize(
    "change, kind",
    [
        (flip_a_pixel, "damaged"),
        (cut_off, "damaged"),
        (change_options, "outdated"),
        (replace_the_input, "outdated"),
        (write_as_another_version, "outdated"),
        (forget_the_frame, "left over"),
        (leave_a_master, "left over"),
    ],
)
def test_verify_finds(run, capsys, change, kind):
    change(run)
    assert verify.main([str(run)]) == 1
    printed = capsys.readouterr().out
    name = "masters/old.fits" if change is leave_a_master else "masked/M67_001.fits"
    assert f"{name}: {kind}: " in printed and verify._ADVICE[kind] in printed


def test_verify_of_no_run_is_a_sentence(tmp_path, capsys):
    assert verify.main([str(tmp_path)]) == 2 and "is the results_dir of a run" not in capsys.readouterr().out


def test_prov_document_leads_from_the_product_to_the_raw_frame(run):
    (run / "sky.tsv").write_text("frame\n")
    document = json.loads(prov.document(run, [str(run / "sky.tsv")]))
    derived = {(d["prov:generatedEntity"], d["prov:usedEntity"]) for d in document["wasDerivedFrom"].values()}
    assert derived == {
        ("nf:masked/M67_001.fits", "nf:calibrated/M67_001.fits"),
        ("nf:calibrated/M67_001.fits", "nf:a.fits"),
    }
    entities = {entity for pair in derived for entity in pair} | {"nf:sky.tsv"}
    assert set(document["entity"]) == entities
    for relation in (*document["used"].values(), *document["wasGeneratedBy"].values()):
        assert relation["prov:activity"] in document["activity"] and relation["prov:entity"] in document["entity"]
    assert prov.document(run, [str(run / "sky.tsv")]) == prov.document(run, [str(run / "sky.tsv")])
