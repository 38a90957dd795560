"""Pictures of light curves: one star against time, and the scatter of all stars against their brightness."""

from __future__ import annotations

import os

import numpy as np
from astropy.io import fits

from nightflow import forced
from nightflow.products import replacing

_COMPARED = 2  # stars of the ensemble that are shown with the star


def choose_star(tables: dict, header: fits.Header) -> int | None:
    """Id of the star to show: that of the configuration, else the one that varies most beyond its errors."""
    if "STARID" in header:
        return int(header["STARID"])
    stars = tables["STARS"]
    chi2 = np.where(np.asarray(stars["n"]) >= 5, np.nan_to_num(np.asarray(stars["chi2"], dtype=float)), 0.0)
    return int(stars["id"][np.argmax(chi2)]) if len(stars) and chi2.max() > 0 else None


def plot(path: str | os.PathLike, tables: dict, header: fits.Header, title: str) -> None:
    """Write a PNG with the light curve of a star, two stars of the ensemble, and the scatter of all.

    Parameters
    ----------
    path : path-like
    tables : dict of str to `~astropy.table.Table`
        As `nightflow.lightcurves.make` gives them.
    header : `~astropy.io.fits.Header`
    title : str
    """
    star = choose_star(tables, header)
    figure, (curve, scatter) = _figure()
    if star is None:
        figure.suptitle(f"{title}: no star has a light curve")
    else:
        told = "" if "STARID" in header else ", the most variable"
        lost = "; the star of the configuration was not found" if header.get("STARFND") is False else ""
        figure.suptitle(f"{title}: star {star}{told}{lost}", fontsize=11)
        _draw_curves(curve, tables, star)
    _draw_scatter(scatter, tables["STARS"], star)
    _save(figure, path)


def blank(path: str | os.PathLike, reason: str) -> None:
    """Write a picture that says why there is no light curve."""
    figure, axes = _figure()
    for axis in axes:
        axis.set_axis_off()
    figure.text(0.5, 0.5, reason, ha="center", wrap=True)
    _save(figure, path)


def _figure():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 8), layout="constrained", dpi=100)
    return figure, figure.subplots(2, 1, height_ratios=(3, 2))


def _save(figure, path) -> None:
    with replacing(path) as scratch:
        figure.savefig(scratch, format="png", metadata={"Software": None})


def _draw_curves(axis, tables: dict, star: int) -> None:
    measured, stars = tables["LIGHTCURVES"], tables["STARS"]
    times = np.asarray(measured["bjd_tdb"], dtype=float)
    label = "BJD (TDB)"
    if not np.isfinite(times).any():
        times, label = np.asarray(tables["FRAMES"]["jd_utc"])[measured["frame"]], "JD (UTC)"
    day = np.floor(np.nanmin(times)) if np.isfinite(times).any() else 0.0
    good = ((np.asarray(measured["flags"]) & forced.SPOILT) == 0) & np.isfinite(
        np.asarray(measured["mag"], dtype=float)
    )
    step = 0.0
    for number, shown in enumerate([star, *_compared(stars, star)]):
        own = good & (np.asarray(measured["id"]) == shown)
        flux, error = (np.asarray(measured[name], dtype=float)[own] for name in ("flux", "flux_err"))
        if not len(flux):
            continue
        step = step or max(6 * float(np.median(error)), 1.2 * float(np.ptp(flux)))
        name = f"star {shown}" if number == 0 else f"star {shown} of the ensemble, {number * step:.3f} lower"
        axis.errorbar(times[own] - day, flux - number * step, error, fmt="o", ms=4, lw=1, label=name,
                      color=("C0", "0.45", "0.65")[number])  # fmt: skip
    axis.set_xlabel(f"{label} - {day:.0f}")
    axis.set_ylabel("relative flux")
    axis.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.15), frameon=False)


def _compared(stars, star: int) -> list[int]:
    """Stars of the ensemble that are nearest in brightness."""
    members = np.asarray(stars["in_ensemble"], dtype=bool) & (np.asarray(stars["id"]) != star)
    own = float(stars["mag"][np.asarray(stars["id"]) == star][0])
    away = np.where(members, np.abs(np.asarray(stars["mag"], dtype=float) - own), np.inf)
    return [int(stars["id"][i]) for i in np.argsort(away, kind="stable")[:_COMPARED] if np.isfinite(away[i])]


def _draw_scatter(axis, stars, star: int | None) -> None:
    mag, scatter, error = (np.asarray(stars[name], dtype=float) for name in ("mag", "scatter", "error"))
    members, own = np.asarray(stars["in_ensemble"], dtype=bool), np.asarray(stars["id"]) == star
    order = np.argsort(mag)
    axis.plot(mag[order], error[order], ".", ms=2, color="C1", label="stated error")
    axis.plot(mag, scatter, ".", ms=3, color="0.5", label="scatter")
    axis.plot(mag[members], scatter[members], "o", ms=4, color="C2", label="ensemble")
    axis.plot(mag[own], scatter[own], "s", ms=6, color="C0", label="the star")
    axis.set_yscale("log")
    axis.set_xlabel("magnitude")
    axis.set_ylabel("standard deviation (mag)")
    axis.legend(fontsize=8, loc="lower right")
