"""A simulated mosaic, reduced to solved frames and stacked as the workflow's scripts do it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nightflow import alignment, astrometry, measurement, products, quality, simulate, solving, sources, stackengines
from nightflow.products import MaskBit
from nightflow.simulate_truth import reference_catalogue
from simulated import OPTIONS, Reduction

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


@dataclass
class Mosaic:
    """Frames of one target, sky-subtracted and solved in `folder`, with the truth of each."""

    config: dict
    folder: Path
    truth: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)
    selection: object = None

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
        suffix = {"wcs": ".head"}.get(kind, ".fits")
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
        stars, header = products.read_table(self.path("sources", name))
        catalogue = solving.read_catalogue(str(self.folder / "catalogue.fits"), CATALOGUE, row)
        solution, self.values[name] = solving.solve_frame(stars, header, row, catalogue, SECTIONS)
        astrometry.write_head(self.path("wcs", name), astrometry.head_cards(solution))

    def select(self, moving=None, **registration):
        """Selection and grid."""
        rows, frames = [], {}
        for name in self.frames:
            stars, header = products.read_table(self.path("sources", name))
            frames[name] = alignment.Frame(stars, header, self.path("wcs", name))
            zero_point = self.values[name].get("zero_point", float("nan"))
            rows.append(quality.measures(name, header, header["NSTARS"], zero_point))
        options = {**OPTIONS["registration"], **registration}
        return alignment.select_and_align(rows, frames, OPTIONS["selection"], options, moving)

    def stack(self, moving=None, stack=None, **registration) -> products.Image:
        """A stack; its selection stays in `selection`."""
        options = {**OPTIONS["registration"], **registration}
        self.selection, grid = self.select(moving, **registration)
        selected = [row for row in self.selection if row["used"]]
        paths, heads = ({name: self.path(kind, name) for name in self.frames} for kind in ("subtracted", "wcs"))
        header = products.read_header(paths[self.reference])
        astrometry.set_wcs(header, grid)
        inputs = stackengines.inputs_of(selected, paths, heads, options["engine"], grid)
        return stackengines.stack(inputs, header, {**OPTIONS["stack"], **(stack or {})}, options, 2)

    @property
    def reference(self) -> str:
        return str(self.selection["frame"][self.selection["reference"]][0])
