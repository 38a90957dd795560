"""Resample the selected frames of one target and filter once, onto one grid, and combine them."""

from pathlib import Path

from nightflow import astrometry, products, quality, solving, stackengines, stackheader, steps, transfer


def main(inputs, output, options, detection, registration, night_of, configuration, threads):
    try:
        selected = [row for row in quality.read_selection(inputs["selection"]) if row["used"]]
        if not selected:
            raise products.RejectedFrame("no frame of this target and filter can be used")
        paths, heads, solved = ({Path(path).stem: path for path in inputs[n]} for n in ("frames", "heads", "solved"))
        reference = next(row["frame"] for row in selected if row["reference"])
        header = products.read_header(paths[reference])
        if reference in solved:
            night = transfer.nights_of_frames(inputs["nights"], night_of).get(reference)
            astrometry.set_wcs(header, solving.stack_cards(solved[reference], night))
        grid = astrometry.read_head(inputs["grid"])
        astrometry.set_wcs(header, grid)
        frames = stackengines.inputs_of(selected, paths, heads, registration["engine"], grid)
        image = stackengines.stack(frames, header, options, registration, threads)
        scales = [frame.flux_scale for frame in frames]
        solving.adapt_zero_point(image.header, options["method"], scales, header.get("EXPTIME"))
        stackheader.add_measures(image, detection)
        image.header["NFCONF"] = (configuration, "digest of the options behind this product")
        products.write_image(output, image)
    except products.RejectedFrame as verdict:
        products.write_rejected(output, verdict)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            dict(snakemake.input.items()),
            snakemake.output[0],
            snakemake.params.options,
            snakemake.params.detection,
            snakemake.params.registration,
            snakemake.params.night_of,
            snakemake.params.configuration,
            snakemake.threads,
        )
