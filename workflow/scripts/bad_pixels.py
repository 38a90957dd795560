"""Map the pixels that are hot in the master dark, or dead or deviant in the master flat."""

import numpy as np

from nightflow import lights, masters, products, steps


def main(paths, output, options, missing, configuration):
    try:
        dark, flat = lights.read_masters(paths, missing).values()
        if dark is None and flat is None:
            raise products.RejectedFrame("neither dark nor flat can be used")
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
            {kind: snakemake.input.get(kind) for kind in ("dark", "flat")},
            snakemake.output[0],
            snakemake.params.options,
            snakemake.config["calibration"]["missing"],
            snakemake.params.configuration,
        )
