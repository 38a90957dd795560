"""Measure the stars of a stack's catalogue on each of its frames, and make light curves of them."""

from nightflow import lightcurve_plots, lightcurves, products, steps


def main(inputs, output, rows, star, options, registration_options, configuration, title):
    try:
        catalogue, header = products.read_table(inputs["catalogue"])
        frames = lightcurves.inputs_of(
            rows, inputs["frames"], inputs["sources"], inputs.get("solved"), inputs["selection"]
        )
        tables, header = lightcurves.make(catalogue, header, frames, star, options, registration_options)
        header["NFCONF"] = (configuration, "digest of the options behind this product")
        products.write_tables(output["table"], tables, header)
        lightcurve_plots.plot(output["plot"], tables, header, title)
    except products.RejectedFrame as verdict:
        products.write_rejected(output["table"], verdict)
        lightcurve_plots.blank(output["plot"], verdict.reason)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            {name: snakemake.input.get(name) for name in ("catalogue", "frames", "sources", "solved", "selection")},
            dict(snakemake.output.items()),
            snakemake.params.rows,
            snakemake.params.star,
            snakemake.params.options,
            snakemake.params.registration,
            snakemake.params.configuration,
            f"{snakemake.wildcards.target}, {snakemake.wildcards.filter}",
        )
