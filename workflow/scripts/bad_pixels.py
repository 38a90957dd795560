"""Map the pixels that are hot in the master dark, or dead or deviant in the master flat."""

import numpy as np

from nightflow import masters, products, steps


def main(dark, flat, output, options, configuration):
    try:
        dark = products.read_image(dark) if dark else None
        flat = products.read_image(flat) if flat else None
        mask = masters.find_bad_pixels(dark, flat, options)
        header = (flat or dark).header.copy()
        header["IMAGETYP"], header["BUNIT"] = "BADPIXEL", ""
        header["NBAD"] = (int(np.count_nonzero(mask)), "bad pixels")
        header["NFCONF"] = (configuration, "digest of the options behind this product")
        image = products.Image((mask > 0).astype(np.float32), mask, np.zeros(mask.shape, np.float32), header)
        products.write_image(output, image)
    except products.RejectedFrame as verdict:
        products.write_rejected(output, verdict)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.input.get("dark"),
            snakemake.input.get("flat"),
            snakemake.output[0],
            snakemake.params.options,
            snakemake.params.configuration,
        )
