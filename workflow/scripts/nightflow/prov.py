"""The provenance of a run as a W3C PROV document: which product was made of which files, by which version.

The document is PROV-JSON (W3C member submission, 2013), so that the tools for that format draw and query it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from nightflow import __version__, lineage
from nightflow.headercards import BLOCK, read_cards

_NAMESPACE = "urn:nightflow:"
_AGENT = "nf:nightflow"


def products_in(results: str | os.PathLike) -> Iterator[tuple[Path, dict]]:
    """FITS products in a results folder, all that carry ``NFVERS``, in order, with the cards of their primary HDU."""
    for folder, subfolders, names in os.walk(results):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if name.endswith((".fits", ".fits.fz")) and not name.startswith("."):
                header = header_of(path)
                if "NFVERS" in header:
                    yield path, header


def header_of(path: str | os.PathLike) -> dict:
    """Cards of the primary header of a FITS file; empty if there is none."""
    try:
        with open(path, "rb") as file:
            return read_cards(file, file.read(BLOCK))[0]
    except (OSError, ValueError):
        return {}


def document(results: str | os.PathLike, tables: list[str]) -> str:
    """PROV-JSON of all FITS products of a run and of the tables that sum it up.

    Parameters
    ----------
    results : path-like
        Folder of the products.
    tables : list of str
        Files in it that were made of everything else.

    Returns
    -------
    str
        The document; it holds no times, so that equal runs give equal documents.
    """
    prov = {
        "prefix": {"nf": _NAMESPACE, "prov": "http://www.w3.org/ns/prov#"},
        "agent": {_AGENT: {"prov:type": "prov:SoftwareAgent", "nf:version": __version__}},
        **{kind: {} for kind in ("entity", "activity", "used", "wasGeneratedBy", "wasDerivedFrom")},
        "wasAssociatedWith": {},
    }
    for path, header in products_in(results):
        _add(prov, path.relative_to(results).as_posix(), header, lineage.datasum(path))
    for path in sorted(tables):
        entity = _entity(prov, Path(path).relative_to(results).as_posix(), lineage.datasum(path))
        prov["entity"][entity]["nf:version"] = __version__
    return json.dumps(prov, indent=1, sort_keys=True) + "\n"


def _entity(prov: dict, name: str, total: str) -> str:
    identifier = f"nf:{name}"
    prov["entity"].setdefault(identifier, {"prov:location": name})["nf:datasum"] = total
    return identifier


def _add(prov: dict, name: str, header, total: str) -> None:
    """One product, the activity that made it, and what that used."""
    product = _entity(prov, name, total)
    cards = {"nf:version": "NFVERS", "nf:configuration": "NFCONF", "nf:rejected": "NFREASON"}
    prov["entity"][product] |= {key: header[card] for key, card in cards.items() if card in header}
    activity = f"nf:making/{name}"
    prov["activity"][activity] = {"prov:type": f"nf:{name.split('/')[0]}"}
    prov["wasGeneratedBy"][f"_:g/{name}"] = {"prov:entity": product, "prov:activity": activity}
    prov["wasAssociatedWith"][f"_:a/{name}"] = {"prov:activity": activity, "prov:agent": _AGENT}
    for used, used_total in lineage.inputs(header):
        known = f"nf:{used}" in prov["entity"]
        source = f"nf:{used}" if known else _entity(prov, used, used_total)
        prov["used"][f"_:u/{name}/{used}"] = {"prov:activity": activity, "prov:entity": source}
        prov["wasDerivedFrom"][f"_:d/{name}/{used}"] = {"prov:generatedEntity": product, "prov:usedEntity": source}
