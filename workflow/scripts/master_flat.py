"""Combine raw flats of one filter, minus their bias and dark, into a master flat of mean 1."""

from nightflow import characterisation, lights, masters, products, steps


def main(frames, hdu, exptimes, paths, corners, measured, levels, output, detector, options, missing, configuration):
    if measured:
        detector = characterisation.with_measurements(detector, characterisation.read_table(measured))
    try:
        used = masters.cut_outs(lights.read_masters(paths, missing), corners, lights.shape_of(frames[0], hdu[0]))
        common = masters.common_levels(levels, frames) if levels else {}
        image = masters.make_flat(
            frames, used["bias"], used["dark"], detector, options, hdu=hdu, exptimes=exptimes, **common
        )
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
            {kind: snakemake.input.get(kind) for kind in ("bias", "dark")},
            snakemake.params.corners,
            snakemake.input.get("detector"),
            snakemake.input.get("levels"),
            snakemake.output[0],
            snakemake.params.detector,
            snakemake.params.options,
            snakemake.config["calibration"]["missing"],
            snakemake.params.configuration,
        )
