"""Make a colour picture of a target from its stacks in three filters."""

import logging

from nightflow import composites, products, steps


def main(stacks, catalogues, output, options, registration_options):
    try:
        tables = [products.read_table(path) for path in catalogues]
        channels = [(products.read_image(path), *table) for path, table in zip(stacks, tables, strict=True)]
        picture = composites.make(channels, options, registration_options)
    except products.RejectedFrame as verdict:
        logging.warning("no colour picture: %s", verdict.reason)
        picture = composites.blank()
    composites.write_png(output, picture)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.input.stacks,
            snakemake.input.catalogues,
            snakemake.output[0],
            snakemake.params.options,
            snakemake.params.registration,
        )
