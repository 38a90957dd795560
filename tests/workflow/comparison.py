"""What two runs made, compared product by product."""

from __future__ import annotations

from pathlib import Path

from astropy.io import fits

#: Not products: logs and times of jobs, caches, Snakemake's own, and what tells of the machine or of folders.
_ASIDE = ("logs", "benchmarks", ".nightflow", "provenance.json", "report")


def products(results: Path) -> dict[str, Path]:
    """Products below `results` by their path there."""
    paths = {str(path.relative_to(results)): path for path in sorted(results.rglob("*")) if path.is_file()}
    return {name: path for name, path in paths.items() if name.split("/")[0] not in _ASIDE and path.suffix != ".json"}


def content(path: Path) -> list | bytes:
    """Cards and DATASUMs of a FITS product, bytes of any other; checksums are those of the file itself."""
    if path.suffix != ".fits":
        return path.read_bytes()
    with fits.open(path, checksum=True, disable_image_compression=True) as hdus:  # a wrong sum warns: an error in tests
        return [[tuple(card)[:2] for card in hdu.header.cards if card.keyword != "CHECKSUM"] for hdu in hdus]


def differences(first: Path, second: Path, aside: tuple[str, ...] = ()) -> list[str]:
    """Products that differ between two result folders, with the first difference, or that only one of them has."""
    one, other = products(first), products(second)
    found = [f"{name}: only in one" for name in sorted(one.keys() ^ other.keys())]
    for name in sorted((one.keys() & other.keys()) - set(aside)):
        here, there = content(one[name]), content(other[name])
        if here != there:
            found.append(f"{name}: {_first_difference(here, there)}")
    return found


def _first_difference(here, there) -> str:
    if isinstance(here, bytes):
        here, there = here.splitlines(), there.splitlines()
    else:
        here, there = ([card for cards in hdus for card in cards] for hdus in (here, there))
    pairs = [f"{a!r} and {b!r}" for a, b in zip(here, there, strict=False) if a != b]
    return pairs[0] if pairs else f"{len(here)} and {len(there)} entries"
