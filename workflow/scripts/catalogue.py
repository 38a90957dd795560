"""Find and measure the sources of a stack, and write them as a table and as marks for DS9 and Ginga."""

from nightflow import catalogues, products, regions, steps


def main(stack, output, options, sections, configuration):
    try:
        image = products.StoredImage(stack).loaded()
        table = catalogues.make(image, options, sections)
        image.header["NFCONF"] = (configuration, "digest of the options behind this product")
        products.write_table(output["table"], table, image.header, "CATALOGUE")
        regions.write(output, table, image.header)
    except products.RejectedFrame as verdict:
        products.write_rejected(output["table"], verdict)
        regions.write_empty(output)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.input[0],
            dict(snakemake.output.items()),
            snakemake.params.options,
            snakemake.params.sections,
            snakemake.params.configuration,
        )
