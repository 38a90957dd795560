"""Who makes a stack: our own resampling and combination, drizzle, or SWarp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from astropy.io import fits

from nightflow import alignment, drizzling, products, stacking, swarp
from nightflow.products import Image
from nightflow.stacking import StackInput


def inputs_of(selected: Sequence, paths: Mapping, heads: Mapping, engine: str, grid: fits.Header) -> list[StackInput]:
    """Frames of a selection with their way to the grid of the stack.

    Parameters
    ----------
    selected : sequence
        Rows of the frames in use.
    paths, heads : mapping of str to path
        Image and plate solution by frame; the latter where there are any.
    engine : str
        ``registration.engine``.
    grid : `~astropy.io.fits.Header`
        From `nightflow.alignment.select_and_align`.
    """
    inputs = []
    for row in selected:
        path = paths[row["frame"]]
        way = alignment.transform_of(row, engine, grid, heads.get(row["frame"]), products.read_shape(path))
        inputs.append(StackInput(path, way, row["flux_scale"], row["weight"]))
    return inputs


def stack(
    frames: Sequence[StackInput], header: fits.Header, options: Mapping, registration: Mapping, threads: int
) -> Image:
    """Stack by the engine that the sections ``registration`` and ``stack`` (`options`) of the configuration name."""
    if registration["engine"] == "swarp":
        return swarp.stack(frames, header, options, threads, registration["time_limit"])
    if options["kernel"] == "drizzle":
        return drizzling.stack(frames, header, options, threads)
    return stacking.stack(frames, header, options, threads)
