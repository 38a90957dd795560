"""PSF photometry of a stack, with an effective PSF built from its own stars."""

from __future__ import annotations

import warnings

import numpy as np

from nightflow import packages, photometry
from nightflow.products import UNUSABLE, Image, RejectedFrame

#: Columns that `measure` returns.
COLUMNS = ("psf_flux", "psf_flux_err", "psf_x", "psf_y", "psf_chi2")
_LEAST_SNR, _MOST_STARS, _LEAST_STARS = 50.0, 60, 5
_OVERSAMPLING = 2


def measure(image: Image, table, fwhm: float) -> dict:
    """Fluxes of sources from fits of the PSF to all of them, neighbours together.

    Parameters
    ----------
    image : `~nightflow.products.Image`
        Without sky.
    table : `~astropy.table.Table`
        ``x y snr flags flux blended`` and the aperture photometry. Bright stars that stand alone make the PSF, and tie
        its fluxes to the aperture-corrected ones.
    fwhm : float
        px.

    Returns
    -------
    dict of str to ndarray, shape (n,)
        ``psf_flux psf_flux_err psf_x psf_y`` and ``psf_chi2``, the reduced chi squared; NaN where a fit failed.

    Raises
    ------
    RejectedFrame
        If there are fewer than five such stars.

    References
    ----------
    Anderson & King (2000), PASP 112, 1360; photutils' EPSFBuilder and PSFPhotometry.
    """
    from astropy.table import Table

    with packages.quick_photutils():
        from photutils.psf import PSFPhotometry, SourceGrouper

    chosen = _psf_stars(table, fwhm)
    bad = ((image.mask & int(UNUSABLE)) != 0) | ~np.isfinite(image.data) | ~np.isfinite(image.uncertainty)
    data = np.where(bad, 0, image.data).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # single stars that cannot be centred or fitted are told by their flags
        psf = _effective_psf(data, table, chosen, fwhm)
        side = 2 * int(np.ceil(fwhm)) + 1
        start = Table({"x": np.asarray(table["x"]), "y": np.asarray(table["y"]), "flux": np.asarray(table["flux"])})
        fit = PSFPhotometry(psf, (side, side), grouper=SourceGrouper(1.5 * fwhm), aperture_radius=fwhm,
                            xy_bounds=fwhm / 2)  # fmt: skip
        result = fit(data, mask=bad, error=np.where(bad, 1.0, image.uncertainty).astype(float), init_params=start)
    result.sort("id")
    columns = ("flux_fit", "flux_err", "x_fit", "y_fit", "reduced_chi2")
    found = {name: np.asarray(result[c], dtype=float) for name, c in zip(COLUMNS, columns, strict=True)}
    return _tied(found, table, image.header, chosen)


def _psf_stars(table, fwhm: float) -> np.ndarray:
    """Rows of bright, whole stars without a neighbour, brightest first."""
    x, y, flux = (np.asarray(table[name], dtype=float) for name in ("x", "y", "flux"))
    good = ((np.asarray(table["flags"]) & photometry.SPOILT) == 0) & (np.asarray(table["snr"]) > _LEAST_SNR)
    good &= np.abs(np.asarray(table["fwhm"], dtype=float) / fwhm - 1) < 0.25
    for share in (0.01, 0.05, 0.2):
        alone = np.flatnonzero(good & photometry.isolated(x, y, flux, 5 * fwhm, share))
        if len(alone) >= 3 * _LEAST_STARS:
            break
    if len(alone) < _LEAST_STARS:
        raise RejectedFrame(f"{len(alone)} stars stand alone, at least {_LEAST_STARS} are needed")
    return alone[:_MOST_STARS]


def _effective_psf(data, table, chosen, fwhm: float):
    from astropy.nddata import NDData
    from astropy.table import Table
    from photutils.psf import EPSFBuilder, extract_stars

    size = 2 * int(np.ceil(2.5 * fwhm)) + 1
    stars = extract_stars(NDData(data), Table({n: np.asarray(table[n])[chosen] for n in ("x", "y")}), size=size)
    builder = EPSFBuilder(oversampling=_OVERSAMPLING, maxiters=5, progress_bar=False)
    return builder(stars)[0]


def _tied(found: dict, table, header, chosen) -> dict:
    """Fluxes on the scale of the aperture-corrected ones."""
    if "APRADIUS" not in header:
        return found
    total, _ = photometry.total_rates(table, header)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = total[chosen] * (header.get("EXPTIME") or 1.0) / found["psf_flux"][chosen]
    factor = float(np.nanmedian(ratio))
    header["PSFCOR"] = (factor, "total flux / flux of the PSF fit")
    return {name: v * factor if name.startswith("psf_flux") else v for name, v in found.items()}
