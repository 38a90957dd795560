"""Extinction by the atmosphere: how the zero points of a night fall with airmass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from nightflow.zero_points import weighted_fit

COLUMNS = "night filter n airmass_min airmass_max extinction extinction_error zero_point zero_point_error".split()
COLUMNS += ["scatter", "source", "remark"]
_LEAST_FRAMES, _LEAST_RANGE = 4, 0.2
_OUTLIER_SIGMA = 3.0


def fit_extinction(airmass, zero_point, error) -> dict:
    """Straight line through zero points: zero point = (that outside the atmosphere) - extinction * airmass.

    Parameters
    ----------
    airmass, zero_point, error : ndarray, shape (n,)
        One value a frame; errors without the part that all frames share.

    Returns
    -------
    dict
        ``n airmass_min airmass_max extinction extinction_error zero_point zero_point_error scatter``, mag per airmass
        and mag; just ``remark`` and the first three where the airmass hardly varies. Frames through clouds, which lie
        below the line, are left out beyond 3 sigma.
    """
    values = {"n": len(airmass), "airmass_min": float(np.min(airmass)), "airmass_max": float(np.max(airmass))}
    if len(airmass) < _LEAST_FRAMES or np.ptp(airmass) < _LEAST_RANGE:
        needed = f"{_LEAST_FRAMES} frames over {_LEAST_RANGE} in airmass are needed"
        return {**values, "remark": f"no extinction: {needed}"}
    design = np.column_stack((np.ones(len(airmass)), -np.asarray(airmass, dtype=float)))
    kept = _without_clouds(airmass, zero_point)
    for _ in range(10):
        scatter, (top, slope), covariance = weighted_fit(design[kept], zero_point[kept], error[kept] ** 2)
        residual = zero_point - design @ (top, slope)
        inside = np.abs(residual) <= _OUTLIER_SIGMA * np.sqrt(error**2 + max(scatter, 0.002) ** 2)
        if inside.sum() < _LEAST_FRAMES or np.array_equal(inside, kept):
            break
        kept = inside
    return {
        **values,
        "n": int(kept.sum()),
        "extinction": float(slope),
        "extinction_error": float(np.sqrt(covariance[1, 1])),
        "zero_point": float(top),
        "zero_point_error": float(np.sqrt(covariance[0, 0])),
        "scatter": scatter,
        "remark": "",
    }


def _without_clouds(airmass, zero_point) -> np.ndarray:
    """Frames near the line of median slope (Theil 1950, Sen 1968), which a quarter of clouded frames does not move."""
    i, j = np.triu_indices(len(airmass), 1)
    apart = np.abs(airmass[i] - airmass[j]) > 0.02
    slope = np.median((zero_point[i] - zero_point[j])[apart] / (airmass[i] - airmass[j])[apart])
    residual = zero_point - slope * airmass
    residual = residual - np.median(residual)
    near = np.abs(residual) <= 5 * max(1.4826 * float(np.median(np.abs(residual))), 0.003)
    return near if near.sum() >= _LEAST_FRAMES else np.ones(len(airmass), dtype=bool)


def table(rows: Sequence[dict], nights: Sequence[dict] = ()):
    """`nightly_extinction` as a table with all columns, and what the standard stars of the nights say.

    Parameters
    ----------
    rows : sequence of dict
        Of ``zeropoints.tsv``, as text.
    nights : sequence of dict
        Rows of `nightflow.transfer`, as text.

    Returns
    -------
    `~pandas.DataFrame`
    """
    import pandas as pd

    return pd.DataFrame([*nightly_extinction(rows), *nights], columns=COLUMNS)


def nightly_extinction(rows: Sequence[dict]) -> list[dict]:
    """Extinction by night and filter from the rows of ``zeropoints.tsv`` (as text)."""
    groups = defaultdict(list)
    for row in rows:
        if row["zero_point"] and row["airmass"]:
            independent = float(row["error"]) ** 2 - float(row["systematic"]) ** 2
            values = float(row["airmass"]), float(row["zero_point"]), float(np.sqrt(max(independent, 1e-8)))
            groups[row["night"], row["filter"]].append(values)
    found = []
    for (night, band), values in sorted(groups.items()):
        fit = fit_extinction(*np.array(values).T)
        found.append({"night": night, "filter": band, **fit, "source": "catalogue"})
    return found
