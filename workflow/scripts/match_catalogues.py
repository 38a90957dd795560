"""Bring the catalogues of a target in all filters into one table."""

from nightflow import crossmatch, products, regions, steps


def main(catalogues, output, filters, options, registration_options, configuration):
    found, verdict = {}, None
    for name, path in zip(filters, catalogues, strict=True):
        try:
            found[name] = products.read_columns(path)
        except products.RejectedFrame as rejected:
            verdict = verdict or rejected
    if not found:
        products.write_rejected(output["table"], verdict)
        regions.write_empty(output)
        return
    table, header = crossmatch.merge(found, options, registration_options)
    header["NFCONF"] = (configuration, "digest of the options behind this product")
    products.write_table(output["table"], table, header, "CATALOGUE")
    regions.write(output, table, header)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            list(snakemake.input),
            dict(snakemake.output.items()),
            snakemake.params.filters,
            snakemake.params.options,
            snakemake.params.registration,
            snakemake.params.configuration,
        )
