"""Feed mutated FITS files to the inventory and to the calibration, and report what crashes, hangs or strays.

    python benchmarks/fuzz.py --inventory 20000 --calibrate 500 --reduce 100 --seed 1

Every file goes through finding, header reading, the table of frames and the plan; some of those that the plan takes
for lights then through the script ``calibrate``, which must leave a product, rejected or not, and some of these through
``mask`` and ``sky``.
"""

from __future__ import annotations

import argparse
import collections
import os
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "workflow" / "scripts"), str(ROOT / "tests" / "unit")]

import hostile  # noqa: E402

LIMIT = 10.0  # seconds for one file


def configuration() -> dict:
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    config["calibration"]["missing"] = "warn"
    return config


def dialects() -> dict:
    from nightflow import instruments

    files = (ROOT / "config" / "instruments").glob("*.yaml")
    return instruments.resolve({path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files})


def planned(raw: Path, results: Path, config: dict, known: dict) -> tuple[list, dict]:
    """The frames in `raw`, and those that the plan takes for lights, as a start of the workflow finds them."""
    from nightflow import frames, planning

    config = {**config, "raw_dir": str(raw)}
    rows = planning.scan(config, known, str(results))
    try:
        lights = planning.assemble(rows, config).lights
    except planning.NothingToReduce:
        lights = {}
    table = frames.to_tsv(rows)
    assert len(table.splitlines()) == len(rows) + 1, "a value broke the table's lines"
    return rows, lights


def calibrated(light, results: Path, config: dict) -> str:
    """Run the script on one light; its verdict."""
    import calibrate

    from nightflow import lineage, products

    output = results / "calibrated" / f"{light.frame}.fits"
    paths = dict.fromkeys(("bias", "dark", "flat", "bad_pixels"))
    with lineage.inputs_of_step([light.path], results / "logs"):
        raw = {"path": light.path, "hdu": light.hdu, "cards": light.cards(), "detector": light.detector}
        calibrate.main(
            *({**raw, "corners": paths}, paths, None, None, output),
            *(config["calibration"], "warn", "none", "digest"),
        )
    reason = str(products.read_header(output).get("NFREASON", "calibrated"))
    return reason.replace(Path(light.path).name, "it")[:40]


def reduced(light, results: Path, config: dict) -> str:
    """Run the scripts that follow on a calibrated light; the verdict of the last."""
    import mask
    import sky

    from nightflow import products

    calibrated, masked, subtracted, sources = (
        results / stage / f"{light.frame}.fits" for stage in ("calibrated", "masked", "subtracted", "sources")
    )
    pictures = [results / "previews" / f"{light.frame}.{stage}.png" for stage in ("calibrated", "masked")]
    sections = ("cosmic_rays", "trails", "sources", "sky", "photometry")
    rays, trails, found, level, photometry = (config[section] for section in sections)
    mask.main(calibrated, masked, pictures, rays, trails, found, "rice", "digest")
    table = results / "sky" / f"{light.frame}.tsv"
    sky.main(masked, None, table, subtracted, sources, light.identity(), level, found, photometry, "digest")
    return "reduced: " + str(products.read_header(subtracted).get("NFREASON", "to the end")).split(" is ")[-1][:31]


class Fuzzer:
    """Counts verdicts and failures."""

    def __init__(self, folder: Path):
        self.folder, self.results = folder, folder / "results"
        self.config, self.known = configuration(), dialects()
        self.verdicts, self.failures, self.slowest = collections.Counter(), [], 0.0
        self.rows = []  # of the last file

    def inventory(self, name: str, content: bytes) -> list:
        """Put a file through the plan; the lights that it holds."""
        raw = self.folder / "raw"
        raw.mkdir(exist_ok=True)
        path = raw / name
        path.write_bytes(content)
        self.rows, lights = self._watched(name, planned, raw, self.results, self.config, self.known) or ([], {})
        for frame in self.rows:
            self.verdicts[frame.reason.split(":")[0][:40] or frame.status] += 1
        return list(lights.values())

    def calibrate(self, name: str, lights: list) -> int:
        for light in lights:
            self.verdicts[self._watched(name, calibrated, light, self.results, self.config)] += 1
        return len(lights)

    def reduce(self, name: str, lights: list) -> int:
        for light in lights:
            self.verdicts[self._watched(name, reduced, light, self.results, self.config)] += 1
        return len(lights)

    def clean(self, name: str) -> None:
        (self.folder / "raw" / name).unlink(missing_ok=True)

    def _watched(self, name: str, function, *arguments):
        start, inside = time.monotonic(), str(self.results.resolve())
        try:
            with hostile.time_limit(LIMIT), hostile.writes_noted() as written:
                result = function(*arguments)
        except (Exception, hostile.Hang):
            self.failures.append((name, function.__name__, traceback.format_exc()))
            return None
        self.slowest = max(self.slowest, time.monotonic() - start)
        scratch = os.path.realpath(tempfile.gettempdir())
        strayed = [
            p for p in written if not p.startswith(inside) and "__pycache__" not in p and os.path.dirname(p) != scratch
        ]
        if strayed:
            self.failures.append((name, function.__name__, f"wrote {strayed}"))
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inventory", type=int, default=20_000)
    parser.add_argument("--calibrate", type=int, default=500)
    parser.add_argument("--reduce", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the files that failed")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    with tempfile.TemporaryDirectory() as folder:
        fuzzer, calibrated_lights, reduced_lights = Fuzzer(Path(folder)), 0, 0
        for name, content in hostile.mutants(options.inventory, options.seed):
            failed = len(fuzzer.failures)
            lights = fuzzer.inventory(name, content)
            if calibrated_lights < options.calibrate:
                calibrated_lights += fuzzer.calibrate(name, lights)
                if reduced_lights < options.reduce and len(fuzzer.failures) == failed:
                    reduced_lights += fuzzer.reduce(name, lights)
            if options.keep and len(fuzzer.failures) > failed:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / name).write_bytes(content)
            fuzzer.clean(name)
    for verdict, number in fuzzer.verdicts.most_common(40):
        print(f"{number:7d}  {verdict}")
    print(f"{options.inventory} files, {calibrated_lights} lights calibrated, {reduced_lights} to the end")
    print(f"slowest step {fuzzer.slowest:.2f} s")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    for name, step, words in fuzzer.failures:
        print(f"FAILED {step} {name}\n{words}")
    sys.exit(len(fuzzer.failures) > 0)


if __name__ == "__main__":
    main()
