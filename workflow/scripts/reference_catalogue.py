"""Fetch the reference stars of a field of the sky, once; a service that does not answer is said in the product."""

from nightflow import online_catalogues, solving, steps


def main(output, field, query, section):
    field, reason, table = online_catalogues.Field.named(field), "", None
    limits = {name: section[name] for name in ("attempts", "timeout")}
    try:
        table = online_catalogues.fetch(field, query, section["vizier"], **limits)
    except online_catalogues.NoService as error:
        reason = f"{error}; {solving.again(output)}"
    online_catalogues.write(output, table, field, query, reason)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.output[0],
            snakemake.wildcards.field,
            snakemake.params.query,
            snakemake.config["reference_catalogue"],
        )
