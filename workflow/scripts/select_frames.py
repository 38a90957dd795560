"""Judge the frames of one target and filter, choose the reference, and register the others on it."""

from nightflow import products, quality, solving, steps


def main(frames, sources, zero_points, output, selection_options, registration_options):
    rows, tables = [], {}
    for frame, path, table in zip(frames, sources, zero_points or [None] * len(frames), strict=True):
        try:
            tables[frame], header = products.read_table(path)
            rows.append(quality.measures(frame, header, header["NSTARS"], solving.zero_point_of(table)))
        except products.RejectedFrame as verdict:
            rows.append({"frame": frame, "reason": verdict.reason})
    selection = quality.select_and_register(quality.make_table(rows), tables, selection_options, registration_options)
    quality.write_selection(output, selection)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.params.frames,
            snakemake.input.sources,
            snakemake.input.zero_points,
            snakemake.output[0],
            snakemake.params.selection,
            snakemake.params.registration,
        )
