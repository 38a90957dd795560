"""Find the places of all frames of a target on the sky in one solution."""

from nightflow import joint_astrometry, products, solving, steps


def main(sources, catalogues, output, rows, sections):
    frames = {}
    for path, row in zip(sources, rows, strict=True):
        try:
            frames[row["frame"]] = (*products.read_table(path), row)
        except products.RejectedFrame:
            continue  # `solve` says why
    section = sections["reference_catalogue"]
    stars = solving.read_catalogue(catalogues, section, solving.middle(rows, section))
    answers = joint_astrometry.solve_target(frames, stars, sections["astrometry"])
    joint_astrometry.write_answers(output, answers)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.input.sources,
            snakemake.input.get("catalogue"),
            snakemake.output[0],
            snakemake.params.rows,
            snakemake.params.sections,
        )
