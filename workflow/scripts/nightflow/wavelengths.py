"""Wavelengths of filters by their names, and which of them make red, green and blue."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Effective wavelengths of common filters, nm (Bessell 2005, ARA&A 43, 293, and the lines' own).
WAVELENGTHS = {
    "u": 355, "g": 477, "r": 623, "i": 763, "z": 913, "y": 1004, "U": 366, "B": 436, "V": 545, "R": 641, "I": 798,
    "G": 530, "J": 1220, "H": 1630, "K": 2190, "Ks": 2150,
    "blue": 450, "green": 530, "red": 640, "ha": 656, "halpha": 656, "hb": 486, "hbeta": 486, "oiii": 501, "o3": 501,
    "sii": 672, "s2": 672, "nii": 658, "n2": 658, "oii": 373,
}  # fmt: skip


def wavelength_of(name: str) -> float | None:
    """Effective wavelength (nm) of a filter by its name, None where it tells nothing.

    The last part of the name counts: ``SDSS_g``, ``Bessell-V``, ``R``. Case matters for single letters.
    """
    for part in reversed(re.findall(r"[A-Za-z0-9]+", name)):
        for key in (part, part.rstrip("p"), part.lower() if len(part) > 1 else part):
            if key in WAVELENGTHS:
                return float(WAVELENGTHS[key])
    return None


def choose(filters: Sequence[str], configured) -> tuple[str, str, str] | None:
    """Filters for red, green and blue.

    Parameters
    ----------
    filters : sequence of str
        Filters of a target.
    configured : str or sequence of str
        ``none``, ``auto`` (the longest and the shortest wavelength, and the one nearest their geometric mean), or
        three filters from red to blue.

    Returns
    -------
    tuple of str or None
        None where the target has no such three.
    """
    if configured == "none":
        return None
    if configured != "auto":
        return tuple(configured) if set(configured) <= set(filters) else None
    known = sorted((w, name) for name in filters if (w := wavelength_of(name)) is not None)
    if len({w for w, _ in known}) < 3:
        return None
    blue, red = known[0], known[-1]
    between = [entry for entry in known if blue[0] < entry[0] < red[0]]
    green = min(between, key=lambda entry: (abs(entry[0] - (blue[0] * red[0]) ** 0.5), entry[1]))
    return red[1], green[1], blue[1]
