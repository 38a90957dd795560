"""Combine raw flats of one filter, each minus its own bias and dark, into a normalised master flat."""

from nightflow import masters, products, steps


def main(frames, hdu, exptimes, bias, dark, output, detector, options, configuration):
    try:
        bias = products.read_image(bias) if bias else None
        dark = products.read_image(dark) if dark else None
        image = masters.make_flat(frames, bias, dark, detector, options, hdu=hdu, exptimes=exptimes)
        image.header["NFCONF"] = (configuration, "digest of the options behind this product")
        products.write_image(output, image)
    except products.RejectedFrame as verdict:
        products.write_rejected(output, verdict)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0]):
        main(
            snakemake.input.frames,
            snakemake.params.hdu,
            snakemake.params.exptimes,
            snakemake.input.get("bias"),
            snakemake.input.get("dark"),
            snakemake.output[0],
            snakemake.params.detector,
            snakemake.params.options,
            snakemake.params.configuration,
        )
