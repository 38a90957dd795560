"""Find cosmic rays, trails and sources in a calibrated frame and record them as mask planes."""

from nightflow import cosmicrays, products, sources, steps, trails
from nightflow.products import MaskBit


def main(calibrated, output, ray_options, trail_options, source_options, compression, configuration):
    try:
        image = products.read_image(calibrated)
        rays = cosmicrays.find_cosmic_rays(image, ray_options)
        image.flag(rays, MaskBit.COSMIC_RAY)
        image.flag(trails.find_trails(image, trail_options), MaskBit.TRAIL)
        image.flag(sources.source_mask(image.data, image.mask, source_options), MaskBit.SOURCE)
        if ray_options["replace"]:
            cosmicrays.replace(image, rays)
        image.header["CRNUM"] = (int(rays.sum()), "pixels flagged as cosmic rays")
        image.header["NFCONF"] = (configuration, "digest of the options behind this product")
        products.write_image(output, image, compression)
    except products.RejectedFrame as verdict:
        products.write_rejected(output, verdict)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.input[0],
            snakemake.output[0],
            snakemake.params.cosmic_rays,
            snakemake.params.trails,
            snakemake.params.sources,
            snakemake.params.compression,
            snakemake.params.configuration,
        )
