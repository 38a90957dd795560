"""Resample the selected frames of one target and filter once, onto the reference frame, and combine them."""

from nightflow import products, quality, stacking, steps


def main(frames, selection, output, options, configuration, threads):
    try:
        image = stacking.stack_selection(frames, quality.read_selection(selection), options, threads)
        image.header["NFCONF"] = (configuration, "digest of the options behind this product")
        products.write_image(output, image)
    except products.RejectedFrame as verdict:
        products.write_rejected(output, verdict)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0]):
        main(
            snakemake.input.frames,
            snakemake.input.selection,
            snakemake.output[0],
            snakemake.params.options,
            snakemake.params.configuration,
            snakemake.threads,
        )
