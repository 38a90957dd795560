"""A folder of raw frames through the library, from headers to calibrated lights, without the workflow around it."""

from __future__ import annotations

from nightflow import calibration, frames, inventory, lights, masters, matching

SAME = ["instrument", "chip", "binning", "shape", "window", "gain_setting", "offset", "readout_mode"]
POLICY = {
    "missing": "error",
    "exposure_tolerance": 0.01,
    "match": {
        "bias": {"same": SAME},
        "dark": {"same": SAME, "temperature": 2.0},
        "flat": {"same": [*SAME, "filter"]},
    },
}


def reduce(folder, dialects, detector=None, options=None, policy=POLICY):
    """Frames of a folder, and its calibrated lights by target and name; `detector` replaces what the headers say."""
    files = inventory.find_files([str(folder)])
    rows = frames.build(files, [inventory.read_headers(file.path) for file in files], dialects, detector=detector)
    found = matching.find_masters(rows, policy["match"])
    matching.assign(rows, found, policy)
    made = {None: None}
    for kind in ("bias", "dark", "flat"):
        for name, master in found.items():
            if master.kind == kind:
                made[name] = make(master, made, options or {})
    return rows, {row.target + row.frame: calibrated(row, made, options or {}) for row in rows if row.kind == "light"}


def make(master, made, options):
    paths, detector = [frame.path for frame in master.frames], master.like.detector
    hdu, exptimes = master.like.hdu, [frame.exptime for frame in master.frames]
    if master.kind == "bias":
        return masters.make_bias(paths, detector, options, hdu=hdu)
    if master.kind == "dark":
        return masters.make_dark(paths, made[master.bias], detector, options, hdu=hdu, exptimes=exptimes)
    return masters.make_flat(paths, made[master.bias], made[master.dark], detector, options, hdu=hdu, exptimes=exptimes)


def calibrated(row, made, options):
    pixels, header = lights.read_light(row.path, row.hdu, row.cards())
    detector = row.detector
    return calibration.calibrate(
        pixels, header, detector, made[row.bias], made[row.dark], made[row.flat], None, options
    )
