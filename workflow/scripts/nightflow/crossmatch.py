"""Catalogues of one target in several filters, brought onto one grid and into one table."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from astropy.io import fits

from nightflow.neighbours import mutual_nearest
from nightflow.pointing import celestial_wcs
from nightflow.products import Columns, RejectedFrame

_LEAST_RADIUS = 1.5  # px
#: Columns of a filter's catalogue that the table of the target has, with the filter in front.
_COLUMNS = (
    "id rate rate_err mag mag_err kron_rate kron_rate_err kron_mag psf_rate psf_rate_err psf_mag fwhm flags".split()
)


def star_list(catalogue) -> Columns:
    """A catalogue as the registration takes it: ``x y flux flux_err fwhm flags``."""
    names = {"x": "x", "y": "y", "flux": "rate", "flux_err": "rate_err", "fwhm": "fwhm", "flags": "flags"}
    return Columns({name: catalogue[column] for name, column in names.items()})


def reference_of(catalogues: Mapping) -> str:
    """Filter on whose grid the others are brought: the one with most sources."""
    return max(catalogues, key=lambda name: (len(catalogues[name][0]), name))


def matrix_to(reference: tuple, other: tuple, options: Mapping) -> np.ndarray:
    """Transform from one stack's pixels to another's.

    Parameters
    ----------
    reference, other : tuple
        (catalogue, header) of the two stacks. Where both have a WCS it is taken from those, else from their stars.
    options : mapping
        Section ``registration`` of the configuration.

    Returns
    -------
    ndarray, shape (3, 3)
        Homogeneous matrix, 0-based px.

    Raises
    ------
    RejectedFrame
        If they have too few stars in common.
    """
    wcs = [celestial_wcs(header) for _, header in (reference, other)]
    if None not in wcs:
        return _matrix_of_wcs(*wcs, other[0])
    from nightflow import registration

    return registration.find_transform(star_list(other[0]), star_list(reference[0]), options).matrix


def _matrix_of_wcs(reference, other, catalogue) -> np.ndarray:
    """Affine transform that comes nearest to the way over the sky, where the sources are."""
    corners = np.array([[0.0, 0.0], [1000.0, 0.0], [0.0, 1000.0], [1000.0, 1000.0]])
    enough = len(catalogue) >= 6
    places = np.column_stack([np.asarray(catalogue[c], dtype=float) for c in ("x", "y")]) if enough else corners
    moved = np.column_stack(reference.all_world2pix(*other.all_pix2world(*places.T, 0), 0, quiet=True))
    design = np.column_stack((places, np.ones(len(places))))
    rows = np.linalg.lstsq(design, moved, rcond=None)[0].T
    return np.vstack((rows, [0.0, 0.0, 1.0]))


def merge(catalogues: Mapping, options: Mapping, registration_options: Mapping):
    """One table of the sources of all filters.

    Parameters
    ----------
    catalogues : mapping of str to tuple
        (catalogue, header) by filter, catalogues as `~nightflow.products.Columns`.
    options, registration_options : mapping
        Sections ``catalogue`` and ``registration`` of the configuration.

    Returns
    -------
    table : `~nightflow.products.Columns`
        ``id x y ra dec n_filters`` and, for each filter, the filter's name and the columns of its catalogue; NaN and
        id 0 where a source was not found. ``x y`` are px of the reference stack.
    header : `~astropy.io.fits.Header`
        That of the reference stack; ``FILTER1``, ``FILTER2``, ... name the filters, ``GRID`` the reference.
    """
    reference = reference_of(catalogues)
    names = [reference, *(name for name in catalogues if name != reference)]
    table, header = catalogues[reference]
    header = header.copy()
    radius = max(options["match_radius"] * header.get("FWHM", 3.0), _LEAST_RADIUS)
    place = np.column_stack([np.asarray(table[name], dtype=float) for name in ("x", "y")])
    rows = {reference: np.arange(len(table))}
    for name in names[1:]:
        try:
            matrix = matrix_to(catalogues[reference], catalogues[name], registration_options)
        except RejectedFrame as verdict:
            logging.warning("the sources in %s are not matched with those in %s: %s", name, reference, verdict.reason)
            rows[name] = np.full(len(place), -1)
            continue
        place, rows = _joined(place, rows, name, catalogues[name][0], matrix, radius)
    return _table_of(place, rows, names, catalogues, header), _described(header, names, reference, rows)


def _joined(place, rows: dict, name: str, other, matrix, radius: float) -> tuple[np.ndarray, dict]:
    """Places and rows with those of one more filter: matched where each is the other's nearest, else appended."""
    moved = np.column_stack([np.asarray(other[c], dtype=float) for c in ("x", "y")]) @ matrix[:2, :2].T + matrix[:2, 2]
    own = np.full(len(place), -1)
    alone = np.ones(len(moved), dtype=bool)
    j, i = mutual_nearest(moved, place, radius)
    own[i], alone[j] = j, False
    added = np.flatnonzero(alone)
    rows = {filter_: np.concatenate((r, np.full(len(added), -1))) for filter_, r in rows.items()}
    return np.vstack((place, moved[added])), {**rows, name: np.concatenate((own, added))}


def _table_of(place, rows: dict, names: list, catalogues: Mapping, header: fits.Header) -> Columns:
    wcs = celestial_wcs(header)
    unknown = np.full(len(place), np.nan)
    ra, dec = (unknown, unknown) if wcs is None or not len(place) else wcs.all_pix2world(*place.T, 0)
    columns = {"id": np.arange(1, len(place) + 1, dtype=np.int32), "x": place[:, 0], "y": place[:, 1]}
    columns |= {"ra": ra, "dec": dec, "n_filters": sum((rows[name] >= 0).astype(np.int32) for name in names)}
    table = Columns(columns, {"x": "pix", "y": "pix", "ra": "deg", "dec": "deg"})
    for name in sorted(names):
        catalogue, found = catalogues[name][0], rows[name] >= 0
        for column in (c for c in _COLUMNS if c in catalogue.colnames):
            values = catalogue[column]
            filled = np.full(len(place), np.nan if values.dtype.kind == "f" else 0, dtype=values.dtype)
            filled[found] = values[rows[name][found]]
            table[f"{name}_{column}"] = filled
            if column in catalogue.units:
                table.units[f"{name}_{column}"] = catalogue.units[column]
    return table


def _described(header: fits.Header, names: list, reference: str, rows: dict) -> fits.Header:
    header["GRID"] = (reference, "filter of the stack whose pixels x and y count")
    for number, name in enumerate(sorted(names), start=1):
        header[f"FILTER{number}"] = (name, f"{int((rows[name] >= 0).sum())} sources")
    return header
