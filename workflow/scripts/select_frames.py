"""Judge the frames of one target and filter, choose the reference, and register the others on it."""

from nightflow import products, quality, steps


def main(frames, sources, output, selection_options, registration_options):
    rows, tables = [], {}
    for frame, path in zip(frames, sources, strict=True):
        try:
            tables[frame], header = products.read_table(path)
            rows.append(quality.measures(frame, header, header["NSTARS"]))
        except products.RejectedFrame as verdict:
            rows.append({"frame": frame, "reason": verdict.reason})
    selection = quality.select_and_register(quality.make_table(rows), tables, selection_options, registration_options)
    quality.write_selection(output, selection)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0]):
        main(
            snakemake.params.frames,
            snakemake.input.sources,
            snakemake.output[0],
            snakemake.params.selection,
            snakemake.params.registration,
        )
