"""Make a night of raw frames with known truth."""

from pathlib import Path

from nightflow import simulate, steps


def main(raw, truth, done, options, threads):
    try:
        simulate.simulate_night({"cores": threads, **options}, raw, truth)
    except ValueError as error:
        raise steps.UserError(str(error)) from error
    Path(done).write_text("raw frames with known truth, made by the rule simulate\n", encoding="utf-8")


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.params.raw,
            snakemake.params.truth,
            snakemake.output[0],
            snakemake.params.options,
            snakemake.threads,
        )
