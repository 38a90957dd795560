"""A night from raw frames to stacks: what is made, what is true of it, and what reruns when something changes."""

from __future__ import annotations

import csv
import os
import warnings

import comparison
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData

from nights import another_exposure

pytestmark = pytest.mark.workflow

LIGHTS = ["M67_V_001", "M67_V_002", "M67_V_003"]


def rows(path):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def products(workspace):
    return [p for p in sorted(workspace.results.rglob("*.fits")) if not {"sources", "catalogues"} & set(p.parts)]


def test_everything_that_is_documented_is_made(reduced):
    made = {str(path.relative_to(reduced.results)) for path in reduced.results.rglob("*") if path.is_file()}
    expected = {"frames.tsv", "sky.tsv", "quality.tsv", "report/index.html", "report/summary.txt"}
    expected |= {"selection/M67/V.tsv", "stacks/M67/V.fits", "report/stacks/M67/V.png"}
    for light in LIGHTS:
        expected |= {f"{stage}/{light}.fits" for stage in ("calibrated", "masked", "subtracted", "sources")}
        expected.add(f"sky/{light}.tsv")
    assert expected <= made
    assert {path.split("_")[0] for path in made if path.startswith("masters/")} == {
        *("masters/bias", "masters/dark", "masters/flat", "masters/badpixels")
    }


def test_a_good_run_logs_nothing(reduced):
    """Warnings and errors in a log mean something; a plain night has none."""
    logs = {path.name: path.read_text() for path in (reduced.results / "logs").rglob("*.log")}
    assert len(logs) >= 4 and {name: text for name, text in logs.items() if text} == {}


def test_the_last_lines_say_what_was_made_and_where(reduced):
    summary = (reduced.results / "report" / "summary.txt").read_text().splitlines()
    assert len(summary) == 3 and "3 of 3 lights stacked" in summary[0] and "M67/V (3 frames, 180 s" in summary[1]
    assert summary[2] in reduced.finished.stdout


def test_ccddata_opens_every_image_product(reduced):
    paths = products(reduced)
    assert len(paths) == 4 + 9 + 1
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # astropy remarks on the WCS
            ccd = CCDData.read(path, unit=None if fits.getheader(path).get("BUNIT") else "adu")
        assert ccd.mask is not None and ccd.uncertainty is not None and ccd.data.shape == (200, 220), path.name


def test_checksums_are_right_and_products_name_their_version_and_options(reduced):
    for path in products(reduced):
        with fits.open(path, checksum=True) as hdus:  # a wrong checksum warns, and a warning is an error
            header = hdus[0].header
            assert {"CHECKSUM", "DATASUM", "NFVERS", "NFCONF"} <= set(header), path.name
            assert "DATE" not in header


def test_calibrated_pixels_are_the_guides_equation(reduced):
    """Ten lines of numpy on the raw frames give the same pixels, to the rounding of float32."""
    (row,) = [r for r in rows(reduced.results / "frames.tsv") if r["frame"] == "M67_V_001"]
    raw = fits.getdata(reduced.folder / row["path"]).astype(float)
    bias, dark, flat = (fits.getdata(reduced.results / "masters" / f"{row[k]}.fits") for k in ("bias", "dark", "flat"))
    with fits.open(reduced.results / "calibrated" / "M67_V_001.fits") as hdus:
        header, pixels, mask = hdus[0].header, hdus[0].data, hdus["MASK"].data
    dark_exptime = fits.getheader(reduced.results / "masters" / f"{row['dark']}.fits")["EXPTIME"]
    k = float(row["exptime"]) / dark_exptime
    science = header["CAMGAIN"] * (raw - (1 - k) * bias - k * dark) / flat
    good = mask == 0
    assert good.mean() > 0.9
    np.testing.assert_allclose(
        pixels[good], science[good], rtol=3e-7, atol=3e-7 * np.abs(raw).max() * header["CAMGAIN"]
    )


def test_sky_tables_have_the_documented_columns_and_numbers(reduced):
    table = rows(reduced.results / "sky.tsv")
    columns = "frame target filter date_obs mean median mode stddev npix masked_fraction mesh_rms"
    assert list(table[0]) == columns.split() and [row["frame"] for row in table] == LIGHTS
    for row in table:
        mean, median, mode = (float(row[name]) for name in ("mean", "median", "mode"))
        assert mode == pytest.approx(3 * median - 2 * mean, abs=0.01) and int(row["npix"]) > 10_000
        header = fits.getheader(reduced.results / "subtracted" / f"{row['frame']}.fits")
        assert header["SKYMED"] == pytest.approx(median, rel=1e-6) and header["SKYMETH"] == "mesh median"


#: Jobs that one changed frame brings to its target.
GROUP = {name: 1 for name in ("select_frames", "stack", "catalogue", "match_catalogues", "report", "all")}


def test_a_second_run_does_nothing(reduced):
    assert not reduced.planned()


def test_a_sky_option_reruns_sky_and_later_only(reduced):
    jobs = reduced.planned(sky={"sigma": 3.0})
    assert jobs == {"sky": 3, **GROUP}


def test_what_is_missing_policy_does_not_rerun_anything(reduced):
    assert not reduced.planned(calibration={"missing": "skip"})


def test_one_more_light_runs_its_chain_and_its_stack(workspace):
    another_exposure(workspace.raw / "M67_V_001.fits", workspace.raw / "M67_V_004.fits")
    jobs = workspace.planned()
    assert jobs == {"calibrate": 1, "mask": 1, "sky": 1, **GROUP}
    workspace.run()
    assert fits.getheader(workspace.results / "stacks" / "M67" / "V.fits")["NCOMBINE"] == 4
    assert not workspace.planned()


def test_spelling_of_folders_neither_reruns_nor_hides(reduced):
    for raw_dir, results_dir in (
        ("./raw", "results/"),
        (str(reduced.raw), str(reduced.results)),
        ("raw/../raw", "./results"),
    ):
        assert not reduced.planned(raw_dir=raw_dir, results_dir=results_dir)


def test_touched_scripts_rerun_nothing(own_checkout):
    scripts = list((own_checkout.checkout / "workflow" / "scripts").rglob("*.py"))
    assert len(scripts) > 20
    for script in scripts:
        os.utime(script)
    assert not own_checkout.planned()


def test_an_edited_library_function_reruns_what_uses_it(own_checkout):
    module = own_checkout.checkout / "workflow" / "scripts" / "nightflow" / "measurement.py"
    module.write_text(module.read_text() + "\n# a remark\n")
    assert not own_checkout.planned()
    module.write_text(module.read_text() + "\nNEW = 1\n")
    jobs = own_checkout.planned()
    assert jobs == {"sky": 3, **GROUP}


@pytest.mark.parametrize("way", ["workflow/Snakefile", "directory", "module"])
def test_other_ways_to_start_it(reduced, tmp_path, root, way):
    if way == "workflow/Snakefile":
        assert not reduced.planned(snakefile="workflow/Snakefile")
    elif way == "directory":
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        finished = reduced.run(
            "--dry-run", "--directory", str(folder), raw_dir=str(reduced.raw), results_dir="there", directory=root
        )
        assert "stack" in finished.stdout and "there/stacks/M67/V.fits" in finished.stdout
    else:
        (tmp_path / "Snakefile").write_text(
            f'module nightflow:\n    snakefile: "{root}/workflow/Snakefile"\n    config: config\n\n'
            "use rule * from nightflow as nightflow_*\n\n"
            "rule mine:\n    default_target: True\n    input: rules.nightflow_reduce.input\n"
        )
        reduced.checkout, checkout = tmp_path, reduced.checkout
        try:
            jobs = reduced.planned(profile=False, raw_dir=str(reduced.raw), results_dir="module")
        finally:
            reduced.checkout = checkout
        assert jobs["nightflow_calibrate"] == 3 and jobs["nightflow_stack"] == 1


def test_forks_of_the_server_make_what_processes_of_their_own_make(fresh, root, tmp_path):
    """Bit for bit, with as many processes; where a folder's name is too long for a socket there is no server."""
    accounts, long = tmp_path / "accounts.tsv", tmp_path / ("a" * 100)
    long.mkdir()
    alone = fresh.copy(tmp_path / "alone")
    servers = []
    for workspace, variables in ((fresh, []), (alone, [f"TMPDIR={long}"])):
        accounts.unlink(missing_ok=True)
        accounting = [f"PYTHONPATH={root / 'benchmarks' / 'accounting'}", f"NIGHTFLOW_ACCOUNTS={accounts}"]
        finished = workspace.snakemake(within=["env", *accounting, *variables])
        assert finished.returncode == 0, finished.stderr
        names = [line.split("\t")[0] for line in accounts.read_text().splitlines()]
        servers.append(names.count("forkserver.py"))
    assert servers == [1, 0] and not list(long.iterdir())
    assert comparison.differences(fresh.results, alone.results) == []
