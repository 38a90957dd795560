"""Where a frame should point and how large its pixels should be: hints for astrometry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astropy.io import fits

# Keywords of the pixel scale in arcsec/px, in order of preference.
_SCALE_CARDS = ("PIXSCALE", "SECPIX", "SECPIX1", "PIXSCAL1", "IM_SCALE", "SCALE", "PSCALE")


@dataclass(frozen=True)
class Pointing:
    """Hints; None where unknown.

    Attributes
    ----------
    ra, dec : float or None
        Of the middle of the frame, degrees.
    scale : tuple of float or None
        Arcseconds per pixel along x and y.
    """

    ra: float | None
    dec: float | None
    scale: tuple[float, float] | None


def pointing_of(header: fits.Header, row: Mapping, options: Mapping) -> Pointing:
    """Hints for a frame.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        Of the frame.
    row : mapping
        ``ra`` and ``dec`` (degrees) as the frame's header dialect gives them, or None.
    options : mapping
        Section ``astrometry``: ``ra``, ``dec`` and ``pixel_scale`` go before the header.
    """
    own = options["ra"] is not None and options["dec"] is not None
    ra, dec = (options["ra"], options["dec"]) if own else (row.get("ra"), row.get("dec"))
    scale = options["pixel_scale"]
    if scale is None:
        scale = _scale_of(header)
    elif isinstance(scale, (int, float)):
        scale = (float(scale), float(scale))
    return Pointing(ra, dec, tuple(scale) if scale is not None else None)


def _scale_of(header: fits.Header) -> tuple[float, float] | None:
    """Pixel scale from a WCS, from a card that gives it, or from the size of the pixels and the focal length."""
    wcs = celestial_wcs(header)
    if wcs is not None:
        from astropy.wcs.utils import proj_plane_pixel_scales

        return tuple(float(3600 * scale) for scale in proj_plane_pixel_scales(wcs))
    for card in _SCALE_CARDS:
        if (scale := _positive(header, card)) is not None:
            other = _positive(header, {"SECPIX1": "SECPIX2", "PIXSCAL1": "PIXSCAL2"}.get(card, card))
            return scale, other or scale
    focal_length = _positive(header, "FOCALLEN")
    size = [_positive(header, card) for card in ("XPIXSZ", "YPIXSZ")]
    if focal_length and all(size):  # mm and micrometres
        return tuple(206.265 * side / focal_length for side in size)
    return None


def _positive(header: fits.Header, card: str) -> float | None:
    value = header.get(card)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and value > 0 else None


def celestial_wcs(header: fits.Header):
    """The header's celestial WCS, None where it has none that can be used.

    Returns
    -------
    `~astropy.wcs.WCS` or None
    """
    if "CRVAL1" not in header or not str(header.get("CTYPE1", "")).startswith(("RA", "DEC")):
        return None
    import warnings

    from astropy.wcs import WCS

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cards that it mends
            wcs = WCS(header).celestial
    except Exception:  # wcslib has an error class for each way in which a header can be wrong
        return None
    return wcs if wcs.has_celestial else None
