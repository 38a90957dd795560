"""Combine a night's masked frames in one filter into the fringe pattern of the detector."""

from nightflow import fringes, products, steps


def main(masked, output, sky_options, source_options, fringe_options, memory_mb, configuration):
    try:
        image = fringes.make_fringe(
            masked, sky_options, source_options, least=fringe_options["min_frames"], memory_mb=memory_mb
        )
        image.header["NFCONF"] = (configuration, "digest of the options behind this product")
        products.write_image(output, image)
    except products.RejectedFrame as verdict:
        products.write_rejected(output, verdict)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.input,
            snakemake.output[0],
            snakemake.params.sky,
            snakemake.params.sources,
            snakemake.params.fringes,
            snakemake.params.memory_mb,
            snakemake.params.configuration,
        )
