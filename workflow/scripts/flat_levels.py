"""Find one level for each flat exposure of a camera with several chips, so that all chips share one normalisation."""

import logging

from nightflow import characterisation, lights, masters, products, steps
from nightflow.atomic import write_if_changed


def main(chips, output, options, missing):
    levels = {}
    try:
        levels = masters.exposure_levels([opened(chip, missing) for chip in chips], options)
    except products.RejectedFrame as verdict:
        logging.warning("no common level: %s", verdict.reason)
    rows = "".join(f"{path}\t{level!r}\n" for path, level in sorted(levels.items()))
    write_if_changed(output, f"path\tlevel\n{rows}")


def opened(chip, missing):
    """A chip with its masters read and its detector as measured."""
    found = lights.read_masters({kind: chip[kind] for kind in ("bias", "dark")}, missing)
    if chip["measured"]:
        rows = characterisation.read_table(chip["measured"])
        found["detector"] = characterisation.with_measurements(chip["detector"], rows)
    return chip | found


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        missing = snakemake.config["calibration"]["missing"]
        main(snakemake.params.chips, snakemake.output[0], snakemake.params.options, missing)
