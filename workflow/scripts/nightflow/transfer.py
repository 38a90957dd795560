"""The zero point of a night from its standard stars, carried over to frames that show none.

zero point of a frame = (that outside the atmosphere) - extinction * airmass, fitted to all standards that were measured
through one filter in one night.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nightflow.products import replacing
from nightflow.zero_points import NoZeroPoint

#: Columns of the table of a night's zero point.
COLUMNS = "night filter n frames stars airmass_min airmass_max extinction extinction_error".split()
COLUMNS += "zero_point zero_point_error covariance star_scatter scatter colour_term colour_term_error".split()
COLUMNS += "system source remark".split()
SOURCE = "standards"
_MAGNITUDE = 2.5 / np.log(10)
_OUTLIER_SIGMA = 4.0
_ROUNDS = 20
_MOST = 1500  # observations in the fit, whose covariance has the square of that
# Extinction where neither the night nor the observer tells: what it is at optical wavelengths, mag per airmass.
_USUAL_EXTINCTION = (0.25, 0.25)
# Range in airmass from which two observations tell the extinction.
_LEAST_RANGE = 0.2
# Scatter of the transparency from frame to frame, mag, on a clear night, and how many frames that is worth knowing.
_USUAL_SCATTER, _WORTH = 0.007, 4
_LEAST_COLOURS = 5


def fit_night(observations: Sequence[Mapping], extinction=None, colour_term=None) -> dict:
    """Zero point outside the atmosphere, and extinction, from the standards of a night.

    Parameters
    ----------
    observations : sequence of mapping
        `~nightflow.standards.COLUMNS` of each standard on each frame.
    extinction : (float, float) or None
        What is known of it, mag per airmass, and its standard error; None for what is usual.
    colour_term : float, 'fit' or None

    Returns
    -------
    dict
        Numbers of `COLUMNS`.

    Raises
    ------
    NoZeroPoint
        If there are no standards, or what they need is unknown.

    Notes
    -----
    A generalised least-squares fit. The covariance of two observations has the photon error of each and the scatter
    from star to star; what two stars of one frame share, the error of its aperture correction and the scatter of the
    transparency; and what two observations of one star share, the error of its listed magnitude. Each scatter is
    the one with which chi^2 is as large as the number of degrees of freedom (Paule & Mandel 1982, J. Res. NBS 87, 377):
    that of the stars about their frame's own mean, then that of the frames about the line, where what is usual on a
    clear night counts as a few frames.
    """
    y, design, data = _equations(observations, colour_term)
    prior = np.array(_USUAL_EXTINCTION if extinction is None else extinction, dtype=float)
    kept = _without_strays(y, data["airmass"], prior[0])
    for _ in range(_ROUNDS):
        fit = _fit(y[kept], design[kept], {name: values[kept] for name, values in data.items()}, prior)
        deviation = np.abs(y - design @ fit["coefficients"])
        spread = np.sqrt(data["variance"] + data["star_error"] ** 2 + data["total_error"] ** 2)
        inside = deviation <= _OUTLIER_SIGMA * np.sqrt(spread**2 + fit["star_scatter"] ** 2 + fit["scatter"] ** 2)
        if np.array_equal(inside, kept) or inside.sum() < min(3, len(y)):
            break
        kept = inside
    return _summary(fit, {name: values[kept] for name, values in data.items()}, colour_term)


def _equations(observations, colour_term) -> tuple[np.ndarray, np.ndarray, dict]:
    """Zero point of each observation, the terms that it depends on, and its errors and groups."""
    if not observations:
        raise NoZeroPoint("no frame of the night shows a standard star through this filter")
    observations = sorted(observations, key=lambda row: -row["snr"])[:_MOST]
    column = {name: np.array([row[name] for row in observations]) for name in observations[0]}
    if not np.isfinite(column["airmass"]).any():
        raise NoZeroPoint("the airmass of the standards is unknown (site.latitude and site.longitude are not set)")
    usable = np.isfinite(column["airmass"])
    if colour_term is not None:
        usable &= np.isfinite(column["colour"])
        if not usable.any():
            raise NoZeroPoint("zero_points.colour_term is set, and the standards have no colour")
    column = {name: values[usable] for name, values in column.items()}
    y = column["magnitude"] + 2.5 * np.log10(column["rate"])
    terms = [np.ones(len(y)), -column["airmass"]]
    if colour_term == "fit" and len(y) >= _LEAST_COLOURS:
        terms.append(-column["colour"])
    elif colour_term not in (None, "fit"):
        y = y + float(colour_term) * column["colour"]
    data = {
        "variance": (_MAGNITUDE * column["rate_error"] / column["rate"]) ** 2,
        "star_error": column["magnitude_error"],
        "total_error": _MAGNITUDE * column["total_error"],
        "airmass": column["airmass"],
        "frame": column["frame"],
        "star": column["star"],
    }
    return y, np.column_stack(terms), data


def _without_strays(y, airmass, extinction: float) -> np.ndarray:
    """Observations that a star of another name or a cloud does not spoil: those near the line of median slope.

    References
    ----------
    Theil (1950), Proc. K. Ned. Akad. Wet. 53, 386; Sen (1968), J. Am. Stat. Assoc. 63, 1379.
    """
    i, j = np.triu_indices(len(y), 1)
    apart = np.abs(airmass[i] - airmass[j]) > _LEAST_RANGE
    i, j = i[apart], j[apart]
    if len(i) >= len(y):
        extinction = float(np.median((y[j] - y[i]) / (airmass[i] - airmass[j])))
    residual = y + extinction * airmass
    residual = residual - np.median(residual)
    kept = np.abs(residual) <= 5 * max(1.4826 * float(np.median(np.abs(residual))), 0.01)
    return kept if kept.sum() >= min(3, len(y)) else np.ones(len(y), dtype=bool)


def _fit(y, design, data: Mapping, prior) -> dict:
    same_frame = (data["frame"][:, None] == data["frame"]).astype(float)
    same_star = (data["star"][:, None] == data["star"]).astype(float)
    covariance = np.diag(data["variance"])
    covariance = covariance + same_frame * np.multiply.outer(data["total_error"], data["total_error"])
    covariance = covariance + same_star * np.multiply.outer(data["star_error"], data["star_error"])
    _, own = np.unique(data["frame"], return_inverse=True)
    own_mean = np.eye(own.max() + 1)[own]
    star_scatter, chi2_within = _excess(own_mean, y, covariance, np.eye(len(y)), len(y) - own_mean.shape[1])
    covariance = covariance + star_scatter**2 * np.eye(len(y))
    # what is known of the extinction is one observation more
    design, y = np.vstack([design, np.eye(design.shape[1])[1]]), np.append(y, prior[0])
    covariance, structure = (np.pad(matrix, (0, 1)) for matrix in (covariance, same_frame))
    covariance[-1, -1] = prior[1] ** 2
    freedom = own_mean.shape[1] + 1 - design.shape[1]
    scatter, _ = _excess(design, y, covariance, structure, freedom, chi2_within, (_USUAL_SCATTER, _WORTH))
    # a scatter that few frames tell is uncertain itself: Student's t has this standard deviation
    known = freedom + _WORTH
    scatter *= float(np.sqrt(known / (known - 2)))
    coefficients, error, _ = _solve(design, y, covariance + scatter**2 * structure)
    return {"coefficients": coefficients, "covariance": error, "star_scatter": star_scatter, "scatter": scatter}


def _solve(design, y, covariance) -> tuple[np.ndarray, np.ndarray, float]:
    """Coefficients, their covariance, and chi^2."""
    from scipy.linalg import cho_factor, cho_solve

    factor = cho_factor(covariance)
    weighted = cho_solve(factor, design)
    error = np.linalg.pinv(design.T @ weighted)
    coefficients = error @ weighted.T @ y
    residual = y - design @ coefficients
    return coefficients, error, float(residual @ cho_solve(factor, residual))


def _excess(design, y, covariance, structure, freedom: int, less=0.0, usual=(0.0, 0)) -> tuple[float, float]:
    """Standard deviation s for which covariance + s^2 * structure explains the residuals, and chi^2 with it.

    It makes chi^2 - `less` equal to the degrees of freedom; a `usual` value of s counts as so many of them.
    """
    from scipy.optimize import brentq

    scatter, worth = usual
    smallest, largest = 1e-10, 1e-4

    def chi2(excess):
        return _solve(design, y, covariance + excess * structure)[2]

    def too_much(excess):
        return chi2(excess) - less - freedom + worth * (scatter**2 / excess - 1)

    if freedom + worth < 1 or too_much(smallest) <= 0:
        return 0.0, chi2(smallest)
    while too_much(largest) > 0 and largest < 1e4:
        largest *= 4
    excess = brentq(too_much, smallest, largest, xtol=1e-10)
    return float(np.sqrt(excess)), chi2(excess)


def _summary(fit: dict, data: Mapping, colour_term) -> dict:
    coefficients, covariance = fit["coefficients"], fit["covariance"]
    fitted = len(coefficients) == 3
    given = np.nan if colour_term in (None, "fit") else float(colour_term)
    return {
        "n": len(data["star"]),
        "frames": len(np.unique(data["frame"])),
        "stars": len(np.unique(data["star"])),
        "airmass_min": float(data["airmass"].min()),
        "airmass_max": float(data["airmass"].max()),
        "extinction": float(coefficients[1]),
        "extinction_error": float(np.sqrt(covariance[1, 1])),
        "zero_point": float(coefficients[0]),
        "zero_point_error": float(np.sqrt(covariance[0, 0])),
        "covariance": float(covariance[0, 1]),
        "star_scatter": fit["star_scatter"],
        "scatter": fit["scatter"],
        "colour_term": float(coefficients[2]) if fitted else given,
        "colour_term_error": float(np.sqrt(covariance[2, 2])) if fitted else np.nan,
        "remark": "",
    }


def prior_of(extinction: Mapping, band: str | None) -> tuple[float, float] | None:
    """What the observer says of the extinction in a filter: a number, good to 0.02, or a number and its error."""
    given = extinction.get(band)
    if given is None:
        return None
    return (float(given[0]), float(given[1])) if isinstance(given, Sequence) else (float(given), 0.02)


def zero_point_at(night: Mapping, airmass: float | None) -> tuple[float, float, float]:
    """Zero point of a frame of a night.

    Parameters
    ----------
    night : mapping
        Row of the night's table, numbers or text.
    airmass : float or None

    Returns
    -------
    value, error, systematic : float
        mag; ``systematic`` is what frames of the night have in common. The error has the scatter of the transparency in
        it, which each frame meets anew.

    Raises
    ------
    NoZeroPoint
        If the night has none, or the airmass is unknown.
    """
    if night["remark"]:
        raise NoZeroPoint(night["remark"])
    if airmass is None or not np.isfinite(airmass):
        raise NoZeroPoint("the airmass is unknown (site.latitude and site.longitude are not set)")
    number = {name: float(night[name]) for name in ("zero_point", "extinction", "covariance", "scatter")}
    variance = float(night["zero_point_error"]) ** 2 + (airmass * float(night["extinction_error"])) ** 2
    common = np.sqrt(max(variance - 2 * airmass * number["covariance"], 0.0))
    value = number["zero_point"] - number["extinction"] * airmass
    return float(value), float(np.hypot(common, number["scatter"])), float(common)


def completed(row: Mapping, night: Mapping | None) -> dict:
    """A frame's row of the table of zero points with that of the night, where the frame has none of its own.

    Parameters
    ----------
    row : mapping
        `~nightflow.solving.COLUMNS`, as text.
    night : mapping or None
    """
    row = dict(row)
    if night is None or row["zero_point"]:
        return row
    remarks = [part for part in row["remark"].split("; ") if part and not part.startswith("no zero point")]
    try:
        value, error, systematic = zero_point_at(night, float(row["airmass"]) if row["airmass"] else None)
    except NoZeroPoint as reason:
        return row | {"remark": "; ".join([*remarks, f"no zero point: {reason}"])}
    row |= {
        "zero_point": f"{value:.9g}", "error": f"{error:.9g}", "systematic": f"{systematic:.9g}",
        "scatter": night["scatter"], "n": night["n"], "colour_term": night["colour_term"],
        "colour_term_error": night["colour_term_error"], "system": night["system"], "source": night["source"],
        "remark": "; ".join(remarks),
    }  # fmt: skip
    for magnitude, rate in (("sky_brightness", "sky_rate"), ("limiting_magnitude", "limiting_rate")):
        if row[rate]:
            row[magnitude] = f"{value - 2.5 * np.log10(float(row[rate])):.9g}"
    return row


def write(path: str | os.PathLike, night: Mapping) -> None:
    """Write the zero point of a night as tab-separated text with one row."""
    cells = [_cell(night.get(name)) for name in COLUMNS]
    with replacing(path) as scratch, open(scratch, "w", encoding="utf-8") as file:
        file.write("\t".join(COLUMNS) + "\n" + "\t".join(cells) + "\n")


def _cell(value) -> str:
    if value is None or value != value:  # NaN
        return ""
    return f"{value:.12g}" if isinstance(value, float) else " ".join(str(value).split())


def read(path: str | os.PathLike) -> dict:
    """The row that `write` wrote, as text."""
    with open(path, encoding="utf-8", newline="") as file:
        return next(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def nights_of_frames(paths: Sequence[str], night_of: Mapping[str, str]) -> dict[str, dict]:
    """The night's row for each frame, from the tables' paths and the name of each frame's night."""
    nights = {Path(path).stem: read(path) for path in paths}
    return {frame: nights[name] for frame, name in night_of.items() if name in nights}
