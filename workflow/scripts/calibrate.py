"""Calibrate one raw light with its masters: the guide's equation, in electrons, with mask planes and uncertainty."""

from pathlib import Path

from nightflow import badpixels, bayer, calibration, characterisation, lights, masters, products, steps


def main(light, paths, measured, own_map, output, options, missing, compression, configuration):
    header, detector = None, light["detector"]
    if measured:
        detector = characterisation.with_measurements(detector, characterisation.read_table(measured))
    try:
        pixels, header = lights.read_light(light["path"], light["hdu"], light["cards"])
        used = masters.cut_outs(lights.read_masters(paths, missing), light["corners"], pixels.shape)
        bad_pixels = used["bad_pixels"].mask if used["bad_pixels"] is not None else None
        image = calibration.calibrate(
            pixels, header, detector, used["bias"], used["dark"], used["flat"], bad_pixels, options
        )
        if own_map:
            image.mask |= badpixels.read_map(own_map, image.shape)
        if detector.get("channel"):
            image = bayer.channel_of(image, bayer.trimmed_pattern(detector), detector["channel"])
        for card, kind in (("CALBIAS", "bias"), ("CALDARK", "dark"), ("CALFLAT", "flat"), ("CALBPM", "bad_pixels")):
            image.header[card] = (Path(paths[kind]).stem if used[kind] is not None else "none", "")
        image.header["NFCONF"] = (configuration, "digest of the options behind this product")
        products.write_image(output, image, compression)
    except products.RejectedFrame as verdict:
        products.write_rejected(output, verdict.about(header))


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], [*snakemake.input, snakemake.params.light["path"]]):
        main(
            snakemake.params.light,
            {kind: snakemake.input.get(kind) for kind in ("bias", "dark", "flat", "bad_pixels")},
            snakemake.input.get("detector"),
            snakemake.input.get("bad_pixel_map"),
            snakemake.output[0],
            snakemake.params.options,
            snakemake.config["calibration"]["missing"],
            snakemake.params.compression,
            snakemake.params.configuration,
        )
