"""Judge the frames of one target and filter, choose the reference, and find the way of each onto one grid."""

from nightflow import alignment, astrometry, products, quality, solving, steps, transfer


def main(frames, inputs, output, night_of, selection_options, registration_options, moving):
    rows, found, nights = [], {}, transfer.nights_of_frames(inputs["nights"], night_of)
    columns = [inputs[name] or [None] * len(frames) for name in ("sources", "zero_points", "heads", "images")]
    for frame, path, table, head, image in zip(frames, *columns, strict=True):
        try:
            stars, header = products.read_columns(path)
            found[frame] = alignment.Frame(stars, header, head, image)
            zero_point = solving.zero_point_of(table, nights.get(frame))
            rows.append(quality.measures(frame, header, header["NSTARS"], zero_point))
        except products.RejectedFrame as verdict:
            rows.append({"frame": frame, "reason": verdict.reason})
    selection, grid = alignment.select_and_align(rows, found, selection_options, registration_options, moving)
    quality.write_selection(output["table"], selection)
    astrometry.write_head(output["grid"], grid)


if "snakemake" in globals():
    with steps.logged(snakemake.log[0], snakemake.input):
        main(
            snakemake.params.frames,
            dict(snakemake.input.items()),
            dict(snakemake.output.items()),
            snakemake.params.night_of,
            snakemake.params.selection,
            snakemake.params.registration,
            snakemake.params.moving,
        )
