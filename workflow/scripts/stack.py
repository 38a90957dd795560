"""Resample the selected frames of one target and filter once, onto the reference frame, and combine them."""

from pathlib import Path

from nightflow import astrometry, products, quality, solving, stacking, steps


def main(frames, solved, selection, output, options, configuration, threads):
    try:
        selected = [row for row in quality.read_selection(selection) if row["used"]]
        if not selected:
            raise products.RejectedFrame("no frame of this target and filter can be used")
        paths = {Path(path).stem: path for path in frames}
        inputs = [(paths[row["frame"]], quality.matrix_of(row), row["flux_scale"], row["weight"]) for row in selected]
        reference = next(row["frame"] for row in selected if row["reference"])
        header = products.read_header(paths[reference])
        for path in (path for path in solved if Path(path).stem == reference):
            astrometry.set_wcs(header, solving.stack_cards(path))
        image = stacking.stack(inputs, header, options, threads)
        scales = [flux_scale for _, _, flux_scale, _ in inputs]
        solving.adapt_zero_point(image.header, options["method"], scales, header.get("EXPTIME"))
        image.header["NFCONF"] = (configuration, "digest of the options behind this product")
        products.write_image(output, image)
    except products.RejectedFrame as verdict:
        products.write_rejected(output, verdict)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.input.frames,
            snakemake.input.solved,
            snakemake.input.selection,
            snakemake.output[0],
            snakemake.params.options,
            snakemake.params.configuration,
            snakemake.threads,
        )
