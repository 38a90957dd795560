"""Gather the tables of a run and write its report."""

from nightflow import extinction, prov, report, steps
from nightflow.configuration import write_if_changed


def main(frames, sky, detectors, zero_points, selections, stacks, output, template, results, preview_size):
    frames = report.read_tables([frames])
    sky = report.read_tables(sky)
    quality = report.quality_table(frames, sky, report.read_tables(selections))
    report.write_table(output["sky"], sky)
    report.write_table(output["quality"], quality)
    if zero_points:
        rows = report.gather_rows(zero_points)
        report.write_table(output["zero_points"], rows)
        report.write_table(output["extinction"], extinction.table(rows.to_dict("records")))
    detector = report.gather_rows(detectors)
    report.write_table(output["detector"], detector)
    described = report.describe_stacks(stacks)
    report.write_previews(described, output["previews"], preview_size)
    write_if_changed(output["page"], report.page(template, frames, quality, detector, described, results))
    write_if_changed(output["summary"], report.summary(frames, quality, described, results))
    tables = [output[name] for name in ("sky", "quality", "detector", "zero_points", "extinction") if output.get(name)]
    write_if_changed(output["provenance"], prov.document(results, tables))


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.input.frames,
            snakemake.input.sky,
            snakemake.input.detectors,
            snakemake.input.zero_points,
            snakemake.input.selections,
            snakemake.input.stacks,
            dict(snakemake.output.items()),
            snakemake.params.template,
            snakemake.params.results,
            snakemake.params.preview_size,
        )
