"""Combine raw darks of one exposure time into a master dark."""

from nightflow import masters, products, steps


def main(frames, hdu, exptimes, bias, output, detector, options, configuration):
    try:
        bias = products.StoredImage(bias) if bias else None
        image = masters.make_dark(frames, bias, detector, options, hdu=hdu, exptimes=exptimes)
        image.header["NFCONF"] = (configuration, "digest of the options behind this product")
        products.write_image(output, image)
    except products.RejectedFrame as verdict:
        products.write_rejected(output, verdict)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], [*snakemake.input, *snakemake.params.frames]):
        main(
            snakemake.params.frames,
            snakemake.params.hdu,
            snakemake.params.exptimes,
            snakemake.input.get("bias"),
            snakemake.output[0],
            snakemake.params.detector,
            snakemake.params.options,
            snakemake.params.configuration,
        )
