"""A raw light on its way into calibration: its pixels, its header in standard terms, and the masters it uses."""

from __future__ import annotations

import logging

import numpy as np
from astropy.io import fits

from nightflow.products import RejectedFrame, StoredImage, clean_header
from nightflow.rawfiles import JoinedRawFile, RawFile, open_raw
from nightflow.steps import UserError

log = logging.getLogger(__name__)

_COMMENTS = {
    "NFFRAME": "frame id",
    "OBJECT": "target",
    "FILTER": "filter",
    "EXPTIME": "[s] exposure time",
    "DATE-OBS": "start of the exposure, UTC",
    "MJD-OBS": "[d] start of the exposure, UTC",
    "AIRMASS": "airmass at mid-exposure",
    "NFNIGHT": "night, from local noon to noon",
}


def read_light(path: str, hdu: int | str | None, cards: dict) -> tuple[np.ndarray, fits.Header]:
    """Pixels of a raw light, and its header with standard cards.

    Parameters
    ----------
    path : str
    hdu : int or None
        Extension; None for the only image of the file.
    cards : dict
        Standard cards as `nightflow.frames.Frame.cards` gives them; they replace the camera's, only a target that
        the observer named stays as it was written.

    Returns
    -------
    pixels : ndarray of float32, shape (ny, nx)
        In ADU.
    header : `~astropy.io.fits.Header`

    Raises
    ------
    RejectedFrame
        If the file is unreadable or truncated.
    """
    header = fits.Header()
    _set_cards(header, cards)
    try:
        raw = open_raw(path, hdu)
        header = _merged_header(path, raw)
        _set_cards(header, cards)
        return raw.read(), header
    except RejectedFrame as verdict:
        raise RejectedFrame(verdict.reason, header) from verdict


def shape_of(path: str, hdu: int | str) -> tuple[int, int]:
    """Rows and columns of a raw frame."""
    return open_raw(path, hdu).shape


def _merged_header(path: str, raw: RawFile | JoinedRawFile) -> fits.Header:
    """The image's own cards, and those of the primary header that it lacks."""
    header = clean_header(raw.header)
    if "SIMPLE" not in raw.header:
        header.extend(clean_header(fits.getheader(path, 0)), unique=True, end=True)
    return header


def _set_cards(header: fits.Header, cards: dict) -> None:
    for keyword, value in cards.items():
        named_by_observer = keyword == "OBJECT" and str(header.get("OBJECT", "")).strip()
        if value is not None and not named_by_observer:
            header[keyword] = (value, _COMMENTS[keyword])


def read_masters(paths: dict[str, str | None], missing: str) -> dict[str, StoredImage | None]:
    """Masters by kind; None where a light has none.

    Parameters
    ----------
    paths : dict of str to str or None
    missing : {'error', 'skip', 'warn'}
        What to do about a master that was rejected (``calibration.missing``).

    Raises
    ------
    UserError
        If a master was rejected and `missing` is ``error``.
    RejectedFrame
        If a master was rejected and `missing` is ``skip``.
    """
    masters = {}
    for kind, path in paths.items():
        masters[kind] = None
        if path is None:
            continue
        try:
            masters[kind] = StoredImage(path)
        except RejectedFrame as verdict:
            sentence = f"the master {kind.replace('_', ' ')} {path} was rejected: {verdict.reason}"
            if missing == "error":
                raise UserError(
                    f"{sentence}. Replace its raw frames, or set calibration.missing to skip (leave these lights out) "
                    "or warn (go on without it)"
                ) from verdict
            if missing == "skip":
                raise RejectedFrame(sentence) from verdict
            log.warning("%s; going on without it", sentence)
    return masters
