"""Light curves of all stars of a stack's catalogue, from forced photometry on the frames behind it.

The steps: positions on each frame, aperture sums, differential magnitudes against the ensemble, errors that agree with
the scatter, times at the barycentre; three tables, STARS, FRAMES and LIGHTCURVES, are what is left.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.io import fits

from nightflow import barycentre, ensemble, forced, photometry, products, quality
from nightflow.products import MaskBit, RejectedFrame
from nightflow.steps import UserError

_MAGNITUDE = 2.5 / np.log(10)
# of a neighbour's flux, within which a star of the ensemble counts as alone: seeing moves some hundredths of that flux
# in and out, less than other noise does
_SHARES = (0.05, 0.2)
_ENOUGH_STARS = 15
_AS_GOOD = 1.05  # scatter, in units of the least, within which an aperture is as good as the best
_LEAST_SNR = 5.0  # of the stars that tell how errors compare with scatter
_LEAST_POINTS = 5
_RAY = 5.0  # sigma above the star's median from which a flagged cosmic ray is believed
_REACH = 10.0  # arcsec, or px where there is no plate solution, within which a named star is sought


@dataclass(frozen=True)
class FrameInput:
    """What is known of a frame.

    Attributes
    ----------
    row : mapping
        ``frame``, ``mjd_mid`` (UTC, d), ``exptime`` (s), ``airmass``, ``ra`` and ``dec`` of the pointing (degrees) and
        ``site``; None where unknown.
    subtracted, sources : str
        Paths of the frame without sky, and of its source table.
    solved : str or None
        Path of its source table with a WCS.
    matrix : ndarray, shape (3, 3), or None
        Transform to the stack's grid, from the selection.
    """

    row: Mapping
    subtracted: str
    sources: str
    solved: str | None = None
    matrix: np.ndarray | None = None


@dataclass
class Observations:
    """Measurements of s stars on f frames in a apertures; NaN where there is none.

    Attributes
    ----------
    radii : ndarray, shape (a,)
        px.
    x, y, sky : ndarray, shape (s, f)
    rate, error : ndarray, shape (s, f, a)
        Per second.
    flags : ndarray of int, shape (s, f, a)
    fwhm, rms, placed : ndarray, shape (f,)
        Seeing and rms of the positions (px), sources behind them.
    reasons : list of str
        Why a frame has no measurement.
    """

    radii: np.ndarray
    x: np.ndarray
    y: np.ndarray
    sky: np.ndarray
    rate: np.ndarray
    error: np.ndarray
    flags: np.ndarray
    fwhm: np.ndarray
    rms: np.ndarray
    placed: np.ndarray
    reasons: list


def make(catalogue, header: fits.Header, frames: Sequence[FrameInput], star: Mapping | None, options: Mapping,
         registration_options: Mapping) -> tuple[dict, fits.Header]:  # fmt: skip
    """Light curves of the stars of a catalogue.

    Parameters
    ----------
    catalogue : `~astropy.table.Table`
        From `nightflow.catalogues`, brightest first.
    header : `~astropy.io.fits.Header`
        Of the catalogue.
    frames : sequence of `FrameInput`
    star : mapping or None
        Where the star of interest is: ``ra`` and ``dec`` (degrees), or ``x`` and ``y`` (0-based px of the stack). It
        is kept out of the ensemble.
    options, registration_options : mapping
        Sections ``lightcurves`` and ``registration`` of the configuration.

    Returns
    -------
    tables : dict of str to `~astropy.table.Table`
        ``STARS`` (a row a star), ``FRAMES`` (a row a frame) and ``LIGHTCURVES`` (a row a measurement).
    header : `~astropy.io.fits.Header`

    Raises
    ------
    RejectedFrame
        If no frame shows the stars, or there are no stars to compare with.
    UserError
        If ``aperture`` is none of ``apertures``.
    """
    frames = sorted(frames, key=lambda frame: (frame.row["mjd_mid"] or np.inf, frame.row["frame"]))
    seen = observe(catalogue, frames, options, registration_options)
    target = find_star(catalogue, star)
    eligible = _eligible(catalogue, seen.radii[-1], target)
    found, chosen = _solve(catalogue, seen, eligible, options)
    curves = _Curves(catalogue, seen, found, chosen, frames, options, eligible)
    header = header.copy()
    curves.describe(header, target, star)
    return curves.tables(header), header


def observe(catalogue, frames: Sequence[FrameInput], options: Mapping, registration_options: Mapping) -> Observations:
    """Forced photometry of a catalogue on all frames."""
    tables, fwhm, reasons = [], np.full(len(frames), np.nan), []
    for number, frame in enumerate(frames):
        try:
            table, own = products.read_table(frame.sources)
            fwhm[number] = own.get("FWHM", np.nan)
            reasons.append("")
        except RejectedFrame as verdict:
            table = None
            reasons.append(verdict.reason)
        tables.append(table)
    if not np.isfinite(fwhm).any():
        raise RejectedFrame("no frame shows a star")
    typical = float(np.nanmedian(fwhm))
    radii = np.array([max(factor * typical, 1.5) for factor in sorted(options["apertures"])])
    annulus = tuple(max(factor * typical, radii[-1] + 1 + k) for k, factor in enumerate(sorted(options["annulus"])))
    n, f, a = len(catalogue), len(frames), len(radii)
    seen = Observations(
        radii, *(np.full((n, f), np.nan) for _ in range(3)), *(np.full((n, f, a), np.nan) for _ in range(2)),
        np.zeros((n, f, a), np.int32), fwhm, np.full(f, np.nan), np.zeros(f, int), reasons,
    )  # fmt: skip
    for number, (frame, table) in enumerate(zip(frames, tables, strict=True)):
        if table is not None:
            try:
                _observe_frame(seen, number, frame, table, catalogue, annulus, registration_options)
            except RejectedFrame as verdict:
                seen.reasons[number] = verdict.reason
    return seen


def _observe_frame(seen: Observations, number: int, frame: FrameInput, table, catalogue, annulus, options) -> None:
    x, y = (np.asarray(catalogue[name], dtype=float) for name in ("x", "y"))
    guesses = []
    if frame.matrix is not None:
        guesses.append(forced.from_matrix(frame.matrix))
    if frame.solved is not None and np.isfinite(catalogue["ra"]).all():
        solved = fits.getheader(frame.solved, 0)
        guesses.append(forced.from_sky(np.asarray(catalogue["ra"]), np.asarray(catalogue["dec"]), solved))
    guesses.append(forced.from_stars(table, catalogue, options))
    x, y, seen.rms[number], seen.placed[number] = forced.place(x, y, table, guesses)
    found = forced.measure(frame.subtracted, x, y, seen.radii, annulus)
    exptime = frame.row["exptime"] or 1.0
    seen.x[:, number], seen.y[:, number], seen.sky[:, number] = found.x, found.y, found.sky
    seen.rate[:, number], seen.error[:, number] = found.flux / exptime, found.error / exptime
    seen.flags[:, number] = found.flags


def find_star(catalogue, star: Mapping | None) -> int | None:
    """Row of the star nearest to a position, None where none is near."""
    if not star or not len(catalogue):
        return None
    if "x" in star:
        names, stretch, reach = ("x", "y"), 1.0, max(_REACH / 2, 1.0)
    else:
        names, stretch, reach = ("ra", "dec"), np.cos(np.radians(star["dec"])), _REACH / 3600
    first, second = (np.asarray(catalogue[name], dtype=float) - star[name] for name in names)
    if names[0] == "ra":
        first = (first + 180) % 360 - 180
    distance = np.nan_to_num(np.hypot(first * stretch, second), nan=np.inf)
    nearest = int(np.argmin(distance))
    return nearest if distance[nearest] <= reach else None


def _eligible(catalogue, radius: float, target: int | None) -> np.ndarray:
    """Stars that may be compared with: alone, neither saturated nor spoilt, and not the star of interest."""
    x, y, rate = (np.asarray(catalogue[name], dtype=float) for name in ("x", "y", "rate"))
    spoilt = int(MaskBit.SATURATED | MaskBit.NONLINEAR | MaskBit.NO_DATA)
    good = ((np.asarray(catalogue["flags"]) & spoilt) == 0) & (rate > 0)
    if target is not None:
        good[target] = False
    for share in _SHARES:
        alone = good & photometry.isolated(x, y, np.nan_to_num(rate), 2 * radius, share)
        if alone.sum() >= _ENOUGH_STARS:
            return alone
    return good if alone.sum() < 3 else alone


def _solve(catalogue, seen: Observations, eligible, options: Mapping) -> tuple[ensemble.Ensemble, int]:
    """Ensemble and number of the aperture in which its stars scatter least."""
    reference = np.asarray(catalogue["mag"], dtype=float)
    if not np.isfinite(reference[eligible]).any():
        reference = np.asarray(catalogue["mag_inst"], dtype=float)
    position = np.column_stack([np.asarray(catalogue[name], dtype=float) for name in ("x", "y")])
    position = (position - position.mean(axis=0)) / max(float(np.ptp(position, axis=0).max()) / 2, 1.0)
    fixed = options["aperture"]
    apertures = range(len(seen.radii))
    if fixed != "auto":
        if fixed not in options["apertures"]:
            raise UserError(f"lightcurves.aperture is {fixed}, must be auto or one of {options['apertures']}")
        apertures = [sorted(options["apertures"]).index(fixed)]
    model = None if options["zero_point"] == "auto" else options["zero_point"]
    solutions, reason = [], ""
    for k in apertures:
        magnitude, error = _magnitudes(seen, k, whole=True)
        try:
            found = ensemble.solve(magnitude, error, position, reference, eligible,
                                   size=options["ensemble_size"], model=model)  # fmt: skip
            solutions.append((found.scatter, k, found))
        except ensemble.NoEnsemble as verdict:
            reason = str(verdict)
    if not solutions:
        raise RejectedFrame(f"no light curves: {reason}")
    # of apertures as good as each other the largest, which seeing and centring matter least in
    least = min(scatter for scatter, _, _ in solutions)
    _, chosen, found = max((s for s in solutions if s[0] <= _AS_GOOD * least), key=lambda solution: solution[1])
    return found, chosen


def _magnitudes(seen: Observations, aperture: int, whole: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Instrumental magnitudes and their photon errors; with `whole`, without those that the mask flags."""
    rate, error = seen.rate[:, :, aperture], seen.error[:, :, aperture]
    good = rate > 0
    if whole:
        good &= (seen.flags[:, :, aperture] & forced.SPOILT) == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        magnitude = np.where(good, -2.5 * np.log10(rate), np.nan)
        return magnitude, np.where(good, _MAGNITUDE * error / rate, np.nan)


def error_model(scatter, photon) -> tuple[float, float]:
    """How the scatter of the stars compares with their stated errors: scatter^2 = (scale * stated)^2 + floor^2.

    The floor stands for what photons do not explain: scintillation, flat fields, seeing. Both minimise the sum of
    absolute logarithms, so that variable stars, a minority, do not count.

    Parameters
    ----------
    scatter, photon : ndarray, shape (s,)
        Robust standard deviations of steady and other stars, and their mean stated errors, mag.

    Returns
    -------
    scale, floor : float
        The scale is 1 where fewer than ten stars tell it; the floor is in mag.
    """
    from scipy.optimize import minimize

    good = np.isfinite(scatter) & np.isfinite(photon) & (scatter > 0) & (photon > 0)
    scatter, photon = np.log(scatter[good]), photon[good]
    if not good.any():
        return 1.0, 0.0
    free_scale = good.sum() >= 10

    def misfit(parameters):
        scale = np.exp(np.clip(parameters[1], -0.7, 2.3)) if free_scale else 1.0
        return float(np.abs(scatter - 0.5 * np.log((scale * photon) ** 2 + np.exp(2 * parameters[0]))).mean())

    starts = [(start, 0.0) for start in np.log([3e-4, 1e-3, 3e-3, 1e-2, 3e-2])]
    best = min((minimize(misfit, s, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-6}) for s in starts),
               key=lambda result: result.fun)  # fmt: skip
    floor = float(np.exp(best.x[0]))
    return (float(np.exp(np.clip(best.x[1], -0.7, 2.3))) if free_scale else 1.0), floor if floor > 1e-5 else 0.0


def scintillation(diameter: float | None, height: float | None, mjd_mid, exptime, airmass) -> np.ndarray:
    """Standard deviation of a star's magnitude by scintillation, shape (f,); 0 where the telescope is not known.

    Parameters
    ----------
    diameter : float or None
        Of the telescope, m.
    height : float or None
        Of the site, m.
    mjd_mid, exptime, airmass : ndarray, shape (f,)
        The exposure time in s.

    References
    ----------
    Osborn et al. (2015), MNRAS 452, 1707, equation 7, with C_Y = 1.56, the median of their sites, and a scale height
    of 8000 m.
    """
    if diameter is None:
        return np.zeros(len(mjd_mid))
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = 1e-5 * 1.56**2 * diameter ** (-4 / 3) * np.exp(-2 * (height or 0.0) / 8000) / exptime
        variance = variance * np.nan_to_num(airmass, nan=1.0) ** 3
    return _MAGNITUDE * np.sqrt(np.where(np.isfinite(variance), variance, 0.0))


def _numbers(frames: Sequence[FrameInput], name: str) -> np.ndarray:
    """A value of all frames, NaN where unknown."""
    return np.array([np.nan if frame.row[name] is None else frame.row[name] for frame in frames], dtype=float)


class _Curves:
    """Differential magnitudes with their errors and times, and the tables made of them."""

    def __init__(
        self, catalogue, seen: Observations, found: ensemble.Ensemble, aperture: int, frames, options, eligible
    ):
        self.catalogue, self.seen, self.found, self.aperture, self.frames = catalogue, seen, found, aperture, frames
        magnitude, self.photon = _magnitudes(seen, aperture)
        self.magnitude = magnitude - found.zero_points
        self.flags = seen.flags[:, :, aperture]
        self.good = np.isfinite(self.magnitude) & ((self.flags & forced.SPOILT) == 0)
        self.good &= ~self._rays()
        with np.errstate(invalid="ignore"):
            told = self.good & (self.photon < _MAGNITUDE / _LEAST_SNR)
        if (told[eligible].sum(axis=1) >= _LEAST_POINTS).sum() >= 10:
            told[~eligible] = False  # stars in each other's wings scatter for reasons of their own
        self.per_frame = {name: _numbers(frames, name) for name in ("mjd_mid", "exptime", "airmass")}
        site = frames[0].row["site"] or {}
        self.scintillation = scintillation(options["telescope_diameter"], site.get("height"), **self.per_frame)
        common = found.zero_errors**2 + found.frame_excess**2 + self.scintillation**2
        self.scale, self.floor = error_model(*self._scatters(told, common))
        self.error = np.sqrt((self.scale * self.photon) ** 2 + self.floor**2 + common)
        with np.errstate(invalid="ignore", divide="ignore"):
            weight = np.where(self.good, 1 / self.error**2, 0.0)
            self.mean = (weight * np.where(self.good, self.magnitude, 0.0)).sum(axis=1) / weight.sum(axis=1)
            self.mean_error = 1 / np.sqrt(weight.sum(axis=1))
        self.times = self._times()

    def _rays(self) -> np.ndarray:
        """Measurements with a cosmic ray in the aperture that are brighter than the star's others by far."""
        hit = self.good & ((self.flags & int(MaskBit.COSMIC_RAY)) != 0)
        rays = np.zeros_like(hit)
        for row in np.flatnonzero(hit.any(axis=1)):
            own = self.magnitude[row, self.good[row]]
            spread = np.sqrt(ensemble.robust_variance(own) + self.photon[row] ** 2)
            rays[row] = hit[row] & (self.magnitude[row] < np.median(own) - _RAY * spread)
        return rays

    def _scatters(self, told, common) -> tuple[np.ndarray, np.ndarray]:
        """Robust scatter of each star without the part that comes with the zero points, and its mean photon error."""
        scatter, photon = np.full(len(told), np.nan), np.full(len(told), np.nan)
        for row in np.flatnonzero(told.sum(axis=1) >= _LEAST_POINTS):
            own = told[row]
            variance = ensemble.robust_variance(self.magnitude[row, own]) - float(np.mean(common[row, own]))
            photon[row] = np.sqrt(np.mean(self.photon[row, own] ** 2))
            scatter[row] = np.sqrt(max(variance, 1e-10))
        return scatter, photon

    def _times(self) -> np.ndarray:
        """BJD in TDB of each measurement, shape (s, f): to each star's place, else to where the frames point."""
        mjd = self.per_frame["mjd_mid"]
        ra, dec = (np.asarray(self.catalogue[name], dtype=float) for name in ("ra", "dec"))
        if np.isfinite(ra).all():
            self.direction = "star"
        else:
            pointings = [(f.row["ra"], f.row["dec"]) for f in self.frames if None not in (f.row["ra"], f.row["dec"])]
            self.direction = "pointing" if pointings else "none"
            middle = np.median(pointings, axis=0) if pointings else (np.nan, np.nan)
            ra, dec = np.full(1, middle[0]), np.full(1, middle[1])
        times = barycentre.bjd_tdb(mjd, ra, dec, self.frames[0].row["site"])
        return np.broadcast_to(times, self.magnitude.shape)

    def _robust(self) -> np.ndarray:
        """Scatter of each star, shape (s,); NaN where too few measurements tell it."""
        return np.sqrt(ensemble.robust_variance(np.where(self.good, self.magnitude, np.nan)))

    def describe(self, header: fits.Header, target: int | None, star: Mapping | None) -> None:
        """Cards of the product."""
        header["NENSEMB"] = (int(self.found.members.sum()), "stars of the ensemble")
        scatter = float(np.nanmedian(self._robust()[self.found.members]))
        header["ENSRMS"] = (scatter, "[mag] median scatter of its stars")
        header["ZPMODEL"] = (self.found.model, "zero point over the field of a frame")
        header["LCAPRAD"] = (float(self.seen.radii[self.aperture]), "[pix] radius of the aperture")
        header["ERRSCALE"] = (self.scale, "factor on the photon errors")
        header["ERRFLOOR"] = (self.floor, "[mag] added to them in quadrature")
        header["BJDPOS"] = (self.direction, "place that the times hold for")
        site = self.frames[0].row["site"] or {}
        header["BJDSITE"] = (site.get("latitude") is not None and site.get("longitude") is not None, "F: geocentre")
        if star:
            header["STARFND"] = (target is not None, "the configured star is in the catalogue")
        if target is not None:
            header["STARID"] = (int(self.catalogue["id"][target]), "id of the configured star")
        elif star:
            logging.warning("lightcurves.stars: no star of the catalogue is near %s", dict(star))

    def tables(self, header: fits.Header) -> dict:
        return {"STARS": self._stars(), "FRAMES": self._frames(), "LIGHTCURVES": self._measurements(header)}

    def _stars(self):
        from astropy.table import Table

        table = Table()
        for name in ("id", "x", "y", "ra", "dec"):
            table[name] = self.catalogue[name]
        table["mag"], table["mag_err"] = self.mean, self.mean_error
        rows = list(zip(self.magnitude, self.error, self.good, self.mean, strict=True))
        table["scatter"] = self._robust()
        table["error"] = [np.sqrt(np.mean(e[g] ** 2)) if g.any() else np.nan for _, e, g, _ in rows]
        chi2 = [
            ((m[g] - mean) ** 2 / e[g] ** 2).sum() / (g.sum() - 1) if g.sum() > 1 else np.nan for m, e, g, mean in rows
        ]
        table["chi2"] = chi2
        table["n"] = self.good.sum(axis=1).astype(np.int32)
        table["in_ensemble"] = self.found.members
        for name, unit in (("x", "pix"), ("y", "pix"), ("ra", "deg"), ("dec", "deg")):
            table[name].unit = unit
        for name in ("mag", "mag_err", "scatter", "error"):
            table[name].unit = "mag"
        return table

    def _frames(self):
        from astropy.table import Table

        number, seen = self.per_frame, self.seen
        table = Table()
        table["frame"] = [str(frame.row["frame"]) for frame in self.frames]
        table["jd_utc"] = number["mjd_mid"] + 2400000.5
        table["bjd_tdb"] = np.median(self.times, axis=0)
        table["exptime"], table["airmass"], table["fwhm"] = number["exptime"], number["airmass"], seen.fwhm
        table["zero_point"], table["excess"] = self.found.frame_zero_points, self.found.frame_excess
        table["n_ensemble"] = self.found.n.astype(np.int32)
        table["position_rms"], table["n_placed"] = seen.rms, seen.placed.astype(np.int32)
        table["reason"] = [products.printable(reason) or " " for reason in seen.reasons]
        units = {"jd_utc": "d", "bjd_tdb": "d", "exptime": "s", "fwhm": "pix", "zero_point": "mag", "excess": "mag"}
        for name, unit in {**units, "position_rms": "pix"}.items():
            table[name].unit = unit
        return table

    def _measurements(self, header: fits.Header):
        from astropy.table import Table

        star, frame = np.nonzero(np.isfinite(self.seen.rate[:, :, self.aperture]))
        with np.errstate(over="ignore"):
            relative = 10 ** (-0.4 * (self.magnitude - self.mean[:, None]))
        unit = f"{header.get('BUNIT', 'electron')} / s"
        of_both = {
            "bjd_tdb": (self.times, "d", float),
            "mag": (self.magnitude, "mag", np.float32), "mag_err": (self.error, "mag", np.float32),
            "flux": (relative, "", np.float32), "flux_err": (relative * self.error / _MAGNITUDE, "", np.float32),
            "rate": (self.seen.rate[:, :, self.aperture], unit, np.float32),
            "rate_err": (self.seen.error[:, :, self.aperture], unit, np.float32),
            "flags": (self.flags, "", np.int32),
            "x": (self.seen.x, "pix", np.float32), "y": (self.seen.y, "pix", np.float32),
            "sky": (self.seen.sky, header.get("BUNIT", "electron"), np.float32),
        }  # fmt: skip
        of_frame = {"airmass": (self.per_frame["airmass"], ""), "fwhm": (self.seen.fwhm, "pix"),
                    "exptime": (self.per_frame["exptime"], "s")}  # fmt: skip
        table = Table()
        table["id"] = np.asarray(self.catalogue["id"])[star]
        table["frame"] = frame.astype(np.int32)
        for name, (values, column_unit, kind) in of_both.items():
            table[name] = values[star, frame].astype(kind)
            table[name].unit = column_unit or None
        for name, (values, column_unit) in of_frame.items():
            table[name] = values[frame].astype(np.float32)
            table[name].unit = column_unit or None
        return table


def inputs_of(rows, subtracted, tables, solved, selection) -> list[FrameInput]:
    """Frames of a group as `make` takes them, with the transforms of the selection."""
    matrices = {
        str(row["frame"]): quality.matrix_of(row) for row in quality.read_selection(selection) if np.isfinite(row["xx"])
    }
    return [
        FrameInput(row, path, table, plate, matrices.get(row["frame"]))
        for row, path, table, plate in zip(rows, subtracted, tables, solved or [None] * len(rows), strict=True)
    ]
