"""Gather the tables of a run and write its report."""

from concurrent.futures import ThreadPoolExecutor

from nightflow import charts, page, prov, report, steps
from nightflow.atomic import write_if_changed


def main(inputs, output, templates, folders, results, night_of, threads):
    frames, sky = report.read_tables([inputs["frames"]]), report.read_tables(inputs["sky"])
    quality = report.quality_table(frames, sky, report.read_tables(inputs["selections"]))
    detector = report.gather_rows(inputs["detectors"])
    zero_points, extinction = report.zero_point_tables(inputs["zero_points"], inputs["nights"], night_of)
    tables = {"sky": sky, "quality": quality, "detector": detector}
    if inputs["zero_points"]:
        tables |= {"zero_points": zero_points, "extinction": extinction}
    for name, table in tables.items():
        report.write_table(output[name], table)
    stacks = report.describe_stacks(inputs["stacks"])
    lights = report.lights_of(quality, frames, zero_points)
    with ThreadPoolExecutor(threads) as pool:
        report.write_previews(stacks, output["previews"], pool.map)
        night = {
            **{"frames": frames, "lights": lights, "detector": detector, "stacks": stacks},
            "masters": report.describe_masters(inputs["masters"], frames, results, pool.map),
            "previews": report.describe_previews(inputs["previews"], results, pool.map),
            "composites": report.describe_composites(inputs["composites"], results),
            "made": {*inputs["catalogues"], *inputs["light_curves"]},
            "folders": folders,
        }
    write_if_changed(output["page"], page.render(templates, night, results))
    drawn = page.draw_charts(lights, "electron")
    write_if_changed(output["charts"], charts.sheet([(chart["title"], chart["svg"]) for chart in drawn]))
    write_if_changed(output["summary"], report.summary(frames, quality, stacks, results))
    write_if_changed(output["provenance"], prov.document(results, [output[name] for name in tables]))


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            dict(snakemake.input.items()),
            dict(snakemake.output.items()),
            snakemake.params.templates,
            snakemake.params.folders,
            snakemake.params.results,
            snakemake.params.night_of,
            snakemake.threads,
        )
