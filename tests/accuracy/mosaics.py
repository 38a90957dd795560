"""A simulated mosaic, reduced to solved frames and stacked as the workflow's scripts do it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

from nightflow import measurement, products, simulate, sources
from nightflow.products import MaskBit
from nightflow.simulate_truth import reference_catalogue
from simulated import OPTIONS, ROOT, Reduction

CATALOGUE = {
    **OPTIONS["reference_catalogue"],
    "columns": {"ra": "ra", "dec": "dec", "pm_ra": None, "pm_dec": None, "brightness": "V"},
    "magnitudes": {"V": {"magnitude": "V", "error": "V_error", "colour": ["V", "R"]}},
    "system": "Vega",
}
SECTIONS = {
    "astrometry": {**OPTIONS["astrometry"], "engine": "catalogue", "pixel_scale": 1.0, "scale_tolerance": 0.3},
    "reference_catalogue": CATALOGUE,
    "zero_points": {**OPTIONS["zero_points"], "colour_term": 0.03},
}


def script(name: str):
    """A script of the workflow as a module."""
    path = ROOT / "workflow" / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"script_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Mosaic:
    """Frames of one target, sky-subtracted and solved in `folder`, with the truth of each."""

    config: dict
    folder: Path
    truth: dict = field(default_factory=dict)

    def __post_init__(self):
        self.folder.mkdir(parents=True)
        night = simulate.Night(self.config)
        table = reference_catalogue(night)
        table.write(self.folder / "catalogue.fits")
        for frame, image in Reduction(night, self.folder).lights():
            name = frame.exposure.name
            self.truth[name] = frame
            image.header["NFFRAME"] = name
            image.header["MJD-OBS"] = 58250.5 + len(self.truth) * 180 / 86400
            image.flag(frame.cosmic_rays > 0, MaskBit.COSMIC_RAY)  # finding them has tests of its own
            image.flag(sources.source_mask(image.data, image.mask, OPTIONS["sources"]), MaskBit.SOURCE)
            subtracted, _ = measurement.subtract_sky(image, OPTIONS["sky"])
            stars = measurement.measure_sources(subtracted, OPTIONS["photometry"])
            products.write_table(self.path("sources", name), stars, subtracted.header, "SOURCES")
            products.write_image(self.path("subtracted", name), subtracted)
            self.solve(name, frame)

    @property
    def frames(self) -> list[str]:
        return sorted(self.truth)

    def path(self, kind: str, name: str) -> Path:
        suffix = {"wcs": ".head", "zeropoints": ".tsv", "selection": ".tsv"}.get(kind, ".fits")
        path = self.folder / kind / f"{name}{suffix}"
        path.parent.mkdir(exist_ok=True)
        return path

    def paths(self, kind: str) -> list[Path]:
        return [self.path(kind, name) for name in self.frames]

    def solve(self, name: str, frame) -> None:
        target = self.config["targets"][0]
        ny, nx = frame.raw.shape
        ra, dec = frame.wcs.all_pix2world((nx - 1) / 2, (ny - 1) / 2, 0)
        row = {
            "ra": float(ra),
            "dec": float(dec),
            "filter": "V",
            "mjd_mid": None,
            "frame": name,
            "target": target["name"],
        }
        outputs = {"wcs": self.path("wcs", name), "zero_point": self.path("zeropoints", name)}
        outputs["sources"] = self.path("photometry", name)
        catalogue = str(self.folder / "catalogue.fits")
        script("solve").main(self.path("sources", name), catalogue, outputs, row, SECTIONS, "0")

    def select(self, moving=None, **registration) -> dict:
        """Run the script select_frames; its outputs."""
        outputs = {"table": self.path("selection", "V"), "grid": self.folder / "selection" / "V.head"}
        options = {**OPTIONS["registration"], **registration}
        inputs = {"sources": self.paths("sources"), "zero_points": self.paths("zeropoints")}
        inputs |= {"heads": self.paths("wcs"), "images": [], "nights": []}
        script("select_frames").main(self.frames, inputs, outputs, {}, OPTIONS["selection"], options, moving)
        return outputs

    def stack(self, moving=None, stack=None, **registration) -> products.Image:
        """Run the scripts select_frames and stack; the stack."""
        outputs = self.select(moving, **registration)
        inputs = {"frames": self.paths("subtracted"), "heads": self.paths("wcs"), "solved": self.paths("photometry")}
        inputs |= {"selection": outputs["table"], "grid": outputs["grid"], "nights": []}
        made = self.folder / "stack.fits"
        options = {**OPTIONS["registration"], **registration}
        script("stack").main(
            inputs, made, {**OPTIONS["stack"], **(stack or {})}, OPTIONS["photometry"], options, {}, "0", 2
        )  # fmt: skip
        return products.read_image(made)
