"""Measure the sky of a masked frame, subtract it, and find and measure the sources."""

from nightflow import fringes, measurement, products, steps


def main(
    masked, fringe, table, subtracted, sources, row, sky_options, source_options, detection_options, configuration
):
    try:
        image = products.read_image(masked)
        if fringe:
            image = fringes.without_fringe(image, fringe, sky_options, source_options)
        image, statistics = measurement.subtract_sky(image, sky_options)
        image.header["NFCONF"] = (configuration, "digest of the options behind this product")
        found = measurement.measure_sources(image, detection_options)
        products.write_table(sources, found, image.header, "SOURCES")
        products.write_image(subtracted, image)
        measurement.write_sky_table(table, [{**row, **statistics}])
    except products.RejectedFrame as verdict:
        products.write_rejected(sources, verdict)
        products.write_rejected(subtracted, verdict)
        measurement.write_sky_table(table, [row])


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.input.masked,
            snakemake.input.get("fringe"),
            snakemake.output.table,
            snakemake.output.subtracted,
            snakemake.output.sources,
            snakemake.params.row,
            snakemake.params.sky,
            snakemake.params.sources,
            snakemake.params.detection,
            snakemake.params.configuration,
        )
