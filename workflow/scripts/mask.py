"""Find cosmic rays, trails and sources in a calibrated frame, record them as mask planes, and draw it."""

from nightflow import cosmicrays, previews, products, sources, steps, trails
from nightflow.products import MaskBit


def main(calibrated, output, pictures, ray_options, trail_options, source_options, compression, configuration):
    try:
        image = products.read_image(calibrated)
        rays = cosmicrays.find_cosmic_rays(image, ray_options)
        image.flag(rays, MaskBit.COSMIC_RAY)
        image.flag(trails.find_trails(image, trail_options), MaskBit.TRAIL)
        image.flag(sources.source_mask(image.data, image.mask, source_options), MaskBit.SOURCE)
        previews.write_frame(pictures, image)
        if ray_options["replace"]:
            cosmicrays.replace(image, rays)
        image.header["CRNUM"] = (int(rays.sum()), "pixels flagged as cosmic rays")
        image.header["NFCONF"] = (configuration, "digest of the options behind this product")
        products.write_image(output, image, compression)
    except products.RejectedFrame as verdict:
        products.write_rejected(output, verdict)
        previews.write_frame(pictures, None)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.input[0],
            snakemake.output.masked,
            snakemake.output.pictures,
            snakemake.params.cosmic_rays,
            snakemake.params.trails,
            snakemake.params.sources,
            snakemake.params.compression,
            snakemake.params.configuration,
        )
