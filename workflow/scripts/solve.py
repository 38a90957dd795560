"""Find a frame's place on the sky and its zero point, and put its sources into sky coordinates and magnitudes."""

from nightflow import astrometry, joint_astrometry, products, solving, steps


def main(sources, catalogue, joint, output, row, sections, configuration):
    try:
        table, header = products.read_table(sources)
        header["NFCONF"] = (configuration, "digest of the options behind this product")
        stars = solving.read_catalogue(catalogue, sections["reference_catalogue"], row)
        answer = joint_astrometry.read_answer(joint, row["frame"]) if joint else None
        solution, values = solving.solve_frame(table, header, row, stars, sections, answer)
        solving.say_how_to_try_again(values, joint or output["wcs"])
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
            snakemake.input.get("joint"),
            dict(snakemake.output.items()),
            snakemake.params.row,
            snakemake.params.sections,
            snakemake.params.configuration,
        )
