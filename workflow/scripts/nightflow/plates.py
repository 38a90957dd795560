"""The plate solution: a polynomial from pixels to the tangent plane, as SIP and as TPV header cards.

Pixels are 0-based here (the centre of the first pixel is 0, 0); FITS cards are 1-based.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.io import fits

# Powers (xi, eta) of the terms PV1_k; those that are missing belong to odd powers of the radius. In PV2_k xi and eta
# change places. Calabretta et al. (2004), "Representations of distortions in FITS world coordinate systems", draft.
_FIRST_OF_DEGREE = {0: 0, 1: 1, 2: 4, 3: 7, 4: 12, 5: 17}
MAX_ORDER = max(_FIRST_OF_DEGREE)


def powers(order: int) -> list[tuple[int, int]]:
    """Exponents (p, q) of a polynomial of total degree `order` in two variables, lowest degrees first."""
    return [(degree - q, q) for degree in range(order + 1) for q in range(degree + 1)]


def design(u, v, order: int) -> np.ndarray:
    """Terms u^p v^q, shape (n, number of terms)."""
    return np.column_stack([np.asarray(u) ** p * np.asarray(v) ** q for p, q in powers(order)])


def project(ra, dec, ra0: float, dec0: float) -> tuple[np.ndarray, np.ndarray]:
    """Gnomonic projection onto the plane tangent at (`ra0`, `dec0`).

    Parameters
    ----------
    ra, dec : ndarray
        Degrees. ra0, dec0 : float, degrees.

    Returns
    -------
    xi, eta : ndarray
        Degrees, to the east and to the north; NaN on the far hemisphere.

    References
    ----------
    Calabretta & Greisen (2002), A&A 395, 1077, section 5.1.3.
    """
    ra, dec, ra0, dec0 = (np.radians(angle) for angle in (ra, dec, ra0, dec0))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(ra - ra0)
        cosine = np.where(cosine > 0.01, cosine, np.nan)
        xi = np.cos(dec) * np.sin(ra - ra0) / cosine
        eta = (np.cos(dec0) * np.sin(dec) - np.sin(dec0) * np.cos(dec) * np.cos(ra - ra0)) / cosine
    return np.degrees(xi), np.degrees(eta)


def deproject(xi, eta, ra0: float, dec0: float) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of `project`: right ascension (0 to 360) and declination in degrees."""
    xi, eta, dec0 = np.radians(xi), np.radians(eta), np.radians(dec0)
    down = np.cos(dec0) - eta * np.sin(dec0)
    ra = ra0 + np.degrees(np.arctan2(xi, down))
    dec = np.arctan2(np.sin(dec0) + eta * np.cos(dec0), np.hypot(xi, down))
    return ra % 360, np.degrees(dec)


@dataclass(frozen=True)
class Plate:
    """Where the pixels of a frame lie on the sky.

    Attributes
    ----------
    ra, dec : float
        Tangent point, degrees.
    x0, y0 : float
        Its pixel, 0-based.
    order : int
        Degree of the polynomial.
    coefficients : ndarray, shape (terms, 2)
        Of u^p v^q (`powers`) in xi and eta (degrees), with u = (x - x0) / `unit`; the constant terms are zero.
    unit : float
        Pixels; keeps the powers of u and v near 1.
    """

    ra: float
    dec: float
    x0: float
    y0: float
    order: int
    coefficients: np.ndarray
    unit: float

    def plane(self, x, y) -> np.ndarray:
        """Tangent-plane coordinates (degrees) of pixels, shape (n, 2)."""
        u, v = (np.asarray(x, dtype=float) - self.x0) / self.unit, (np.asarray(y, dtype=float) - self.y0) / self.unit
        return design(u.ravel(), v.ravel(), self.order) @ self.coefficients

    def to_sky(self, x, y) -> tuple[np.ndarray, np.ndarray]:
        """Right ascension and declination (degrees) of pixels."""
        return deproject(*self.plane(x, y).T, self.ra, self.dec)

    def to_pixel(self, ra, dec) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of positions (degrees): the linear solution, corrected until the distortion is met to 1e-7 px."""
        goal = np.column_stack(project(np.atleast_1d(ra), np.atleast_1d(dec), self.ra, self.dec))
        inverse = np.linalg.inv(self.matrix).T
        with np.errstate(over="ignore", invalid="ignore"):  # far outside the frame the polynomial may run away
            position = goal @ inverse + (self.x0, self.y0)
            for _ in range(30):
                step = (goal - self.plane(*position.T)) @ inverse
                position = position + step
                if np.nanmax(np.abs(step), initial=0) < 1e-7:
                    break
        return position[:, 0], position[:, 1]

    @property
    def matrix(self) -> np.ndarray:
        """The CD matrix, degrees per pixel."""
        return self.coefficients[1:3].T / self.unit

    @property
    def pixel_scale(self) -> float:
        """Arcseconds per pixel, geometric mean of the axes."""
        return float(3600 * np.sqrt(abs(np.linalg.det(self.matrix))))


def fit(x, y, ra, dec, order: int, shape: tuple[int, int], near: tuple[float, float], weight=None, aspect=1.0):
    """Least-squares plate solution.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        Pixels, 0-based.
    ra, dec : ndarray, shape (n,)
        Degrees.
    order : int
        Degree of the polynomial; 1 has no distortion, 0 is a similarity (shift, rotation and one scale; parity as
        fits better).
    shape : tuple of int
        (ny, nx) of the frame; its middle becomes the tangent point.
    near : tuple of float
        Right ascension and declination (degrees) somewhere on the frame.
    weight : ndarray, shape (n,), optional
        Inverse squares of the position errors.
    aspect : float
        Height of a pixel in units of its width, which a similarity cannot find out.

    Returns
    -------
    `Plate`

    Raises
    ------
    numpy.linalg.LinAlgError
        If the stars do not determine the polynomial.
    """
    ny, nx = shape
    x0, y0, unit = (nx - 1) / 2, (ny - 1) / 2, max(nx, ny) / 2
    u, v = (np.asarray(x) - x0) / unit, (np.asarray(y) - y0) / unit
    weight = np.ones(len(u)) if weight is None else np.asarray(weight)
    ra0, dec0 = near
    for _ in range(6):  # the tangent point moves to where the polynomial has no constant term
        plane = np.column_stack(project(ra, dec, ra0, dec0))
        coefficients = (
            _similarity(u, v, plane, weight, aspect) if order == 0 else _polynomial(u, v, plane, weight, order)
        )
        shift = coefficients[0]
        ra0, dec0 = (float(angle) for angle in deproject(*shift, ra0, dec0))
        if np.abs(shift).max() < 1e-11:
            break
    coefficients[0] = 0
    return Plate(ra0, dec0, x0, y0, max(order, 1), coefficients, unit)


def _polynomial(u, v, plane, weight, order) -> np.ndarray:
    root = np.sqrt(weight)[:, None]
    coefficients, _, rank, _ = np.linalg.lstsq(design(u, v, order) * root, plane * root, rcond=1e-9)
    if rank < len(coefficients) or abs(np.linalg.det(coefficients[1:3])) < 1e-16:
        raise np.linalg.LinAlgError("the stars do not determine the plate solution")
    return coefficients


def _similarity(u, v, plane, weight, aspect) -> np.ndarray:
    best = None
    v = v * aspect
    one, zero = np.ones_like(u), np.zeros_like(u)
    for sign in (1.0, -1.0):  # xi = c + a u - b sign v, eta = d + b u + a sign v; one sign mirrors the image
        terms = np.vstack([np.column_stack((one, zero, u, -sign * v)), np.column_stack((zero, one, sign * v, u))])
        root = np.sqrt(np.tile(weight, 2))
        solution, _, rank, _ = np.linalg.lstsq(terms * root[:, None], plane.T.ravel() * root, rcond=1e-9)
        if rank < 4:
            raise np.linalg.LinAlgError("the stars do not determine the plate solution")
        chi2 = np.sum((terms @ solution - plane.T.ravel()) ** 2 * root**2)
        if best is None or chi2 < best[0]:
            c, d, a, b = solution
            best = (chi2, np.array([[c, d], [a, b], [-sign * b * aspect, sign * a * aspect]]))
    return best[1]


def sip_header(plate: Plate, shape: tuple[int, int]) -> fits.Header:
    """The solution as CD matrix and SIP polynomials (Shupe et al. 2005, ASP Conf. Ser. 347, 491)."""
    suffix = "-SIP" if plate.order > 1 else ""
    header = _linear_header(plate, f"RA---TAN{suffix}", f"DEC--TAN{suffix}")
    if plate.order < 2:
        return header
    inverse = np.linalg.inv(plate.matrix).T
    for first, terms in zip("AB", (plate.coefficients @ inverse).T, strict=True):
        header[f"{first}_ORDER"] = plate.order
        for (p, q), value in zip(powers(plate.order), terms, strict=True):
            if p + q > 1:
                header[f"{first}_{p}_{q}"] = float(value / plate.unit ** (p + q))
    order = plate.order + 2  # more than forward, since the inverse of a polynomial is none
    x, y = _grid(shape)
    linear = (plate.plane(x, y) @ inverse) / plate.unit
    back = np.column_stack(((x - plate.x0) / plate.unit, (y - plate.y0) / plate.unit)) - linear
    solution = np.linalg.lstsq(design(*linear.T, order), back, rcond=None)[0]
    for first, terms in zip(("AP", "BP"), solution.T, strict=True):
        header[f"{first}_ORDER"] = order
        for (p, q), value in zip(powers(order), terms, strict=True):
            header[f"{first}_{p}_{q}"] = float(value * plate.unit ** (1 - p - q))
    return header


def tpv_header(plate: Plate, shape: tuple[int, int]) -> fits.Header:
    """The same solution as TPV polynomials, which SCAMP and SWarp use.

    A polynomial in pixels is one of the same degree in the linear coordinates of the CD matrix, so that the fit on a
    grid of points is exact but for rounding.
    """
    header = _linear_header(plate, "RA---TPV", "DEC--TPV")
    x, y = _grid(shape)
    linear = np.column_stack((x - plate.x0, y - plate.y0)) @ plate.matrix.T
    unit = np.abs(linear).max()
    solution = np.linalg.lstsq(design(*(linear / unit).T, plate.order), plate.plane(x, y), rcond=None)[0]
    for axis, terms in enumerate(solution.T, start=1):
        for (p, q), value in zip(powers(plate.order), terms, strict=True):
            along = q if axis == 1 else p  # PV2_k has its powers the other way round
            header[f"PV{axis}_{_FIRST_OF_DEGREE[p + q] + along}"] = float(value / unit ** (p + q))
    return header


def _grid(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Points that cover a frame and a little more."""
    ny, nx = shape
    x, y = np.meshgrid(np.linspace(-0.02, 1.02, 25) * (nx - 1), np.linspace(-0.02, 1.02, 25) * (ny - 1))
    return x.ravel(), y.ravel()


def _linear_header(plate: Plate, *ctypes: str) -> fits.Header:
    header = fits.Header()
    header["WCSAXES"] = 2
    header["RADESYS"] = "ICRS"
    header["EQUINOX"] = 2000.0
    values = (plate.ra, plate.dec), (plate.x0 + 1, plate.y0 + 1)
    for axis, ctype in enumerate(ctypes, start=1):
        header[f"CTYPE{axis}"] = ctype
        header[f"CUNIT{axis}"] = "deg"
        header[f"CRVAL{axis}"] = float(values[0][axis - 1])
        header[f"CRPIX{axis}"] = float(values[1][axis - 1])
        for other in (1, 2):
            header[f"CD{axis}_{other}"] = float(plate.matrix[axis - 1, other - 1])
    return header


def from_wcs(wcs, shape: tuple[int, int], order: int) -> Plate:
    """Plate that follows an astropy WCS over a frame, whatever its projection, to the given degree.

    Raises
    ------
    ValueError
        If the WCS gives no positions on the frame.
    """
    x, y = _grid(shape)
    ra, dec = wcs.all_pix2world(x, y, 0)
    good = np.isfinite(ra) & np.isfinite(dec)
    if good.sum() < len(ra) / 2:
        raise ValueError("the header's WCS gives no positions on the frame")
    ny, nx = shape
    near = tuple(float(angle) for angle in wcs.all_pix2world((nx - 1) / 2, (ny - 1) / 2, 0))
    try:
        return fit(x[good], y[good], ra[good], dec[good], order, shape, near)
    except np.linalg.LinAlgError as error:
        raise ValueError("the header's WCS is singular") from error


def like_wcs(wcs, shape: tuple[int, int], order: int) -> Plate:
    """`from_wcs` of at least the degree `order`, higher where the WCS is not met to 0.001 px over the frame.

    A polynomial of some degree about another tangent point is not quite one of the same degree about the middle.

    Raises
    ------
    ValueError
        If the WCS gives no positions on the frame.
    """
    x, y = _grid(shape)
    ra, dec = wcs.all_pix2world(x, y, 0)
    for degree in range(max(order, 1), MAX_ORDER + 1):
        plate = from_wcs(wcs, shape, degree)
        found = plate.to_pixel(ra, dec)
        if np.nanmax(np.hypot(found[0] - x, found[1] - y)) < 1e-3:
            break
    return plate
