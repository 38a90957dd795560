"""Measure the standard stars that a frame shows."""

from nightflow import products, standards, steps


def main(sources, table, output, row, options):
    stars = standards.read(table, options, row["filter"])
    try:
        found, header = products.read_table(sources)
        plate = standards.plate_of(header)
        standards.write(output, standards.measure(stars, found, header, row, plate, options["match_radius"]))
    except products.RejectedFrame:
        standards.write(output, [])


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.input.sources,
            snakemake.input.table,
            snakemake.output[0],
            snakemake.params.row,
            snakemake.params.options,
        )
