"""Show a calibrated frame as a picture, and its masked pixels in colours on another."""

import numpy as np

from nightflow import previews, products, steps


def main(calibrated, masked, output, longest):
    try:
        frame, marks = products.read_image(calibrated), products.read_image(masked).mask
    except products.RejectedFrame:
        for path in output:
            previews.write_picture(path, np.zeros((1, 1), np.uint8))
        return
    grey = previews.zscale(previews.shrink(frame.data, longest))
    previews.write_picture(output[0], grey)
    previews.write_picture(output[1], previews.marked(grey, previews.shrink_mask(marks, longest)))


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.input.calibrated,
            snakemake.input.masked,
            [snakemake.output.calibrated, snakemake.output.masked],
            snakemake.params.longest,
        )
