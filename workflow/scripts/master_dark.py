"""Combine raw darks of one exposure time into a master dark."""

from nightflow import masters, products, steps


def main(frames, hdu, exptimes, output, detector, options, configuration):
    try:
        image = masters.make_dark(frames, None, detector, options, hdu=hdu, exptimes=exptimes)
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
            snakemake.output[0],
            snakemake.params.detector,
            snakemake.params.options,
            snakemake.params.configuration,
        )
