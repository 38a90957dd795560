"""Combine raw bias frames into a master bias."""

from nightflow import masters, products, steps


def main(frames, hdu, output, detector, options, configuration):
    try:
        image = masters.make_bias(frames, detector, options, hdu=hdu)
        image.header["NFCONF"] = (configuration, "digest of the options behind this product")
        products.write_image(output, image)
    except products.RejectedFrame as verdict:
        products.write_rejected(output, verdict)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], [*snakemake.input, *snakemake.params.frames]):
        main(
            snakemake.params.frames,
            snakemake.params.hdu,
            snakemake.output[0],
            snakemake.params.detector,
            snakemake.params.options,
            snakemake.params.configuration,
        )
