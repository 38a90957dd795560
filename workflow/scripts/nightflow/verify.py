"""Checking the products of a run: whole, of the present configuration and version, made of what lies there now.

The command ``verify RESULTS`` for people. What the present configuration is, each run leaves in
``RESULTS/.nightflow/configuration.json`` when it is planned.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nightflow import __version__, lineage, prov

RECORD = ".nightflow/configuration.json"
_PER_FRAME = ("calibrated", "masked", "subtracted", "sources", "photometry")
_ADVICE = {
    "damaged": "delete these files and run snakemake again",
    "outdated": "run snakemake again with the configuration that you want",
    "left over": "these are of an earlier run with other frames; delete them if you do not need them",
}


@dataclass(frozen=True)
class Finding:
    """What is wrong with a product: its name, a word for the kind of fault, and a sentence."""

    product: str
    kind: str
    sentence: str


def record(digests: dict[str, str], masters: Iterable[str], options: dict) -> str:
    """What a run leaves for `check`: version, digests of the options by stage, its masters, and the options."""
    known = {"version": __version__, "digests": digests, "masters": sorted(masters), "options": options}
    return json.dumps(known, indent=1, sort_keys=True, default=str) + "\n"


def check(results: Path) -> Iterator[Finding]:
    """Findings about the products in `results`, product by product.

    Raises
    ------
    FileNotFoundError
        If no run has left its configuration there.
    """
    present = json.loads((results / RECORD).read_text(encoding="utf-8"))
    wanted = dict.fromkeys(_PER_FRAME, _lights(results / "frames.tsv")) | {"masters": set(present["masters"])}
    sums = {}
    for path, header in prov.products_in(results):
        name = path.relative_to(results).as_posix()
        yield from (Finding(name, *found) for found in _integrity(path))
        if path.parent.name in wanted and _stem(path) not in wanted[path.parent.name]:
            yield Finding(name, "left over", "the last run had no use for it")
            continue
        for found in (*_belonging(header, present), *_inputs(header, results, sums)):
            yield Finding(name, *found)


def _lights(table: Path) -> set[str]:
    with table.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["frame"] for row in rows if row["kind"] == "light" and row["status"] == "ok"}


def _integrity(path: Path) -> Iterator[tuple[str, str]]:
    """CHECKSUM and DATASUM of every HDU."""
    from astropy.io import fits

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with fits.open(path, checksum=True, memmap=False, disable_image_compression=True) as hdus:
                for hdu in hdus:
                    if "CHECKSUM" not in hdu.header or "DATASUM" not in hdu.header:
                        yield "damaged", f"HDU {hdu.name or 'PRIMARY'} has no CHECKSUM"
        for warning in caught:
            yield "damaged", " ".join(str(warning.message).split())
    except (OSError, ValueError, TypeError, EOFError) as error:
        yield "damaged", f"cannot be read: {error}"


def _belonging(header, present: dict) -> Iterator[tuple[str, str]]:
    if header["NFVERS"] != present["version"]:
        yield "outdated", f"made by version {header['NFVERS']}; the present one is {present['version']}"
    if header.get("NFCONF", "") and header["NFCONF"] not in present["digests"].values():
        yield "outdated", f"made with other options (NFCONF {header['NFCONF']})"


def _inputs(header, results: Path, sums: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Products among the inputs that are not what they were; those that are gone tell nothing (`temp`)."""
    for name, total in lineage.inputs(header):
        path = results / name
        if "/" not in name or not path.is_file():
            continue
        if name not in sums:
            sums[name] = lineage.datasum(path)
        if sums[name] != total:
            yield "outdated", f"made of another {name} (sum {total}, now {sums[name]})"


def _stem(path: Path) -> str:
    return path.name.removesuffix(".fz").removesuffix(".fits")


def main(argv: list[str] | None = None) -> int:
    """The command ``verify``: 0 if all is sound, 1 if something was found, 2 if there is nothing to check."""
    parser = argparse.ArgumentParser(
        prog="verify",
        description="Check that products are whole (CHECKSUM) and belong to the configuration of the last run.",
    )
    parser.add_argument("results", metavar="RESULTS", help="folder of the products (results_dir)")
    results = Path(parser.parse_args(argv).results)
    try:
        findings = list(check(results))
        number = sum(1 for _ in prov.products_in(results))
    except FileNotFoundError as error:
        print(f"verify: {error.filename} not found: is {results} the results_dir of a run?", file=sys.stderr)
        return 2
    for finding in findings:
        print(f"{finding.product}: {finding.kind}: {finding.sentence}")
    for kind in _ADVICE:
        if any(finding.kind == kind for finding in findings):
            print(f"{kind}: {_ADVICE[kind]}")
    bad = len({finding.product for finding in findings})
    print(f"{number} products checked, " + (f"{bad} with findings" if bad else "all sound"))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
