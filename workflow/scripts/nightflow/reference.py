"""The reference of all options, ``config/README.md``, made from the schema and the defaults.

``python -m nightflow.reference config/README.md`` writes it; a test holds the file against `page`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from nightflow.configuration import accepted

_INTRODUCTION = """\
# Options

Every option has a default in [config.yaml](config.yaml); give what differs in a file of your own,
`snakemake --cores all --configfile my.yaml`, or in the command, `--config raw_dir=DIR 'sky={sigma: 3}'`.
An unknown key or a value of the wrong type ends the run at once with a sentence that says what is allowed.

This page is made from [the schema](../workflow/schemas/config.schema.yaml) by `make docs`.
"""

_TABLES = """
## Tables that nightflow writes

All are tab-separated text with one header line; an empty cell means unknown.

`frames.tsv`, one row for each raw image:

| column | meaning |
|---|---|
| frame | id, from the path within the raw folder |
| path, hdu | file, and HDU of the image |
| kind | bias, dark, flat or light |
| target, filter | from the header, in letters that a file name can hold |
| exptime | s |
| binning, shape, window | `2x2`; size in pixels `1092x736`; origin within the detector |
| gain_setting, offset, readout_mode, chip | settings of the camera |
| temperature | degrees Celsius |
| ra, dec | degrees |
| airmass | at mid-exposure |
| date_obs, mjd_mid | start of the exposure, UTC; MJD of its middle, UTC |
| night | local date of the evening, from noon to noon |
| instrument | camera |
| status, reason | ok, rejected or ignored, and why; for lights remarks on their calibration |
| bias, dark, flat | masters in use |

`sky.tsv`, one row for each light: frame, target, filter, date_obs, then in the unit of the pixels (electron, or ADU
where the gain is unknown) mean, median, mode = 3 median - 2 mean and stddev of the clipped sky; npix, the pixels
used; masked_fraction of the image; mesh_rms, the median clipped standard deviation in the meshes.

`detector.tsv`, one row for each amplifier of each camera, setting and night: camera, amplifier, the numbers of bias
frames and flats that it was measured on (n_bias, n_flat); then gain (electron/ADU) and read_noise (electron) as in the
header, as measured on pairs of frames, and as used; saturation (ADU) in the header, as found in the pixels where the
header is silent, and as used; warning, where header and measurement differ by more than 20 %.

`quality.tsv`, one row for each light: the sky table's columns, then whether the frame was stacked (used), why not
(reason), remarks on its calibration, weight, n_stars, fwhm (px), ellipticity, and its transform to the reference frame
(reference x = xx x + xy y + x0, y = yx x + yy y + y0 in 0-based pixels), rms (px), flux_scale, n_matched; depth_loss,
how much less deep it is than the median of the lights of its target, filter and exposure time (mag, from seeing, noise
of the sky and transparency), and weakness, the same in words where it is notable.

`zeropoints.tsv` and `extinction.tsv`, where a reference catalogue is configured: [photometry](../docs/photometry.md).
"""


def page(root: Path) -> str:
    """The page as Markdown, for the checkout in `root`."""
    schema = yaml.safe_load((root / "workflow" / "schemas" / "config.schema.yaml").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((root / "config" / "config.yaml").read_text(encoding="utf-8"))
    top = [
        _row(name, entry, defaults[name]) for name, entry in schema["properties"].items() if "properties" not in entry
    ]
    parts = [_INTRODUCTION, _table(top)]
    for name, entry in schema["properties"].items():
        if "properties" in entry:
            parts.append(
                f"\n## `{name}`\n\n{_sentence(entry['description'])}\n\n{_table(_rows(name, entry, defaults[name]))}"
            )
    return "\n".join(parts) + _TABLES


def _rows(prefix: str, section: dict, defaults: dict) -> list[str]:
    rows = []
    for name, entry in section["properties"].items():
        key = f"{prefix}.{name}"
        rows += _rows(key, entry, defaults[name]) if "properties" in entry else [_row(key, entry, defaults[name])]
    return rows


def _row(key: str, entry: dict, default) -> str:
    shown = yaml.safe_dump(default, default_flow_style=True, width=1000).strip().removesuffix("\n...").strip()
    cells = (f"`{key}`", f"`{shown}`", accepted(entry), entry["description"])
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _table(rows: list[str]) -> str:
    return "\n".join(["| option | default | accepted | meaning |", "|---|---|---|---|", *rows])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(Path(sys.argv[1]).resolve().parents[1]), encoding="utf-8")
