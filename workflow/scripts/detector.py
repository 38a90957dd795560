"""Measure gain, read noise and saturation of a camera on a night's own frames, beside what the header says."""

from nightflow import characterisation, steps


def main(camera, bias, flats, lights, output, detector, options):
    rows = characterisation.characterise(camera, bias, flats, lights, detector, options)
    characterisation.write_table(output, rows)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], [*snakemake.input, *snakemake.params.frames]):
        main(
            snakemake.wildcards.camera,
            snakemake.params.bias,
            snakemake.params.flats,
            snakemake.params.lights,
            snakemake.output[0],
            snakemake.params.detector,
            snakemake.params.options,
        )
