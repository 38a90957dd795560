"""Find a frame's place on the sky and its zero point, and put its sources into sky coordinates and magnitudes."""

from nightflow import astrometry, products, solving, steps


def main(sources, catalogue, output, row, sections, configuration):
    try:
        table, header = products.read_table(sources)
        header["NFCONF"] = (configuration, "digest of the options behind this product")
        stars = solving.read_catalogue(catalogue, sections["reference_catalogue"], row)
        solution, values = solving.solve_frame(table, header, row, stars, sections)
        astrometry.write_head(output["wcs"], astrometry.head_cards(solution))
        products.write_table(output["sources"], table, header, "SOURCES")
        solving.write_zero_points(output["zero_point"], [values])
    except products.RejectedFrame as verdict:
        astrometry.write_head(output["wcs"], verdict.header[:0])
        products.write_rejected(output["sources"], verdict)
        solving.write_zero_points(output["zero_point"], [{**row, "remark": verdict.reason}])


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.input.sources,
            snakemake.input.get("catalogue"),
            dict(snakemake.output.items()),
            snakemake.params.row,
            snakemake.params.sections,
            snakemake.params.configuration,
        )
