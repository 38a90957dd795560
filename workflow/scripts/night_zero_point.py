"""Fit the zero point and the extinction of a night to its standard stars."""

from nightflow import standards, steps, transfer, zero_points


def main(measured, output, night, options, colour_term):
    night = {**night, "system": options["system"] or "unknown", "source": transfer.SOURCE}
    try:
        known = transfer.prior_of(options["extinction"], night["filter"])
        transfer.write(output, {**night, **transfer.fit_night(standards.read_measured(measured), known, colour_term)})
    except zero_points.NoZeroPoint as reason:
        transfer.write(output, {**night, "n": 0, "remark": str(reason)})


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.input,
            snakemake.output[0],
            snakemake.params.night,
            snakemake.params.options,
            snakemake.params.colour_term,
        )
