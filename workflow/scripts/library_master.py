"""Take a ready-made master from a library folder."""

from nightflow import masters, products, steps


def main(path, hdu, kind, output, options, configuration):
    try:
        image = masters.read_library_master(path, hdu, kind, options)
        image.header["NFCONF"] = (configuration, "digest of the options behind this product")
        products.write_image(output, image)
    except products.RejectedFrame as verdict:
        products.write_rejected(output, verdict)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], [*snakemake.input, *snakemake.params.frames]):
        main(
            snakemake.params.frames[0],
            snakemake.params.hdu,
            snakemake.params.kind,
            snakemake.output[0],
            snakemake.params.options,
            snakemake.params.configuration,
        )
