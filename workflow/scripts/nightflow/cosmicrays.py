"""Cosmic rays: L.A.Cosmic's candidates, and a test of each against the point-spread function of the frame.

L.A.Cosmic finds what is sharper than its surroundings, which the cores of well-focused stars are too, and misses faint
tracks. Here its candidates, and faint sharp pixels besides, are kept only where a star of the frame's own seeing
explains the pixels worse than a ray does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from nightflow import lacosmic, sky, sources
from nightflow.labelling import connected_regions, places
from nightflow.medians import median_of_many, separable_median, separable_median_at
from nightflow.products import UNUSABLE, Image, MaskBit

DEFAULTS = {
    "engine": "lacosmic",
    "sigclip": 4.5,
    "sigfrac": 0.3,
    "objlim": 5.0,
    "niter": 4,
    "sepmed": True,
    "cleantype": "meanmask",
    "fsmode": "median",
    "psfmodel": "gauss",
    "psffwhm": 2.5,
    "psfsize": 7,
    "psfk": None,
    "psfbeta": 4.765,
    "test_psf": True,
}
_LACOSMIC_OPTIONS = tuple(name for name in DEFAULTS if name not in ("engine", "test_psf"))
# Side (px) of the smallest image; astroscrappy writes outside its arrays on images narrower than its filters.
_SMALLEST = 16
# Fewest stars from which the frame's own PSF is measured.
_FEWEST_STARS = 5
# A pixel that a hypothesis does not explain costs no more than this many units of chi squared.
_CAP = 9.0
# How much worse than a star a ray may explain the pixels and still be taken: sharp things are mostly rays. Below two
# pixels of FWHM, stars look like rays too often for such a preference.
_RAY_PREFERENCE = 10.0
_UNDERSAMPLED = 2.0
# Errors of the PSF model: as a share of its value, and as a share of the highest within a pixel, which is what a star
# that lies between the positions tried differs by.
_PSF_ERROR, _SHIFT_ERROR = 0.1, 0.02
# Noise alone makes a few pixels in a million above this.
_LEAST_SIGNIFICANCE = 4.5
# Share of the light above the sky that may change over a pixel without being a ray.
_STRUCTURE = 0.02
_PIXEL = 1 / 12  # variance of the light over a pixel, px^2
_STAMP = 2  # half side, px
_SOME = 4  # px between those that tell the level of an image
_NEAR = 8.0  # px; most pixels have their peak within this: a look, where a tree would have to be imported
_OFFSETS = np.arange(-1.0, 1.01, 0.25)  # of a star from the middle of its brightest pixel, px
# Stars that are taken as examples of what stars look like, and how much one may differ from the others, as a share of
# the peak: stars do so because they lie otherwise on the pixels, rays because each is unlike any other.
_MOST_EXAMPLES, _LIKENESS, _FEWEST_ALIKE = 100, 0.05, 2


@dataclass(frozen=True)
class PointSpread:
    """Moffat profile of the stars of a frame.

    Attributes
    ----------
    covariance : tuple of float
        xx, yy, xy (px^2) of the Gaussian of the same width at half maximum.
    beta : float
        Moffat exponent.
    n_stars : int
        Stars it was measured from; 0 for an assumed one.
    examples : ndarray, shape (k, 25)
        Stars as they are, of which several look alike: trailed or lopsided ones fit no profile. Peak of one.
    """

    covariance: tuple[float, float, float]
    beta: float
    n_stars: int = 0
    examples: np.ndarray = field(default_factory=lambda: np.zeros((0, (2 * _STAMP + 1) ** 2)))

    @property
    def fwhm(self) -> float:
        xx, yy, _ = self.covariance
        return float(sources.FWHM_OF_SIGMA * np.sqrt(0.5 * (xx + yy)))


def find_cosmic_rays(image: Image, options: Mapping | None = None):
    """Pixels that cosmic rays hit.

    Parameters
    ----------
    image : `~nightflow.products.Image`
        Calibrated frame in electrons with the sky in it. Bad and saturated pixels are never flagged, nor is anything
        in an image narrower than 16 px.
    options : mapping, optional
        L.A.Cosmic's parameters under astroscrappy's names; ``engine`` (``lacosmic`` or ``astroscrappy``, whose masks
        are the same); ``test_psf`` (False gives L.A.Cosmic's own mask).

    Returns
    -------
    rays : ndarray of bool, shape (ny, nx)

    Raises
    ------
    ValueError
        If `nightflow.lacosmic.refused` has an objection to the options.

    References
    ----------
    L.A.Cosmic: van Dokkum (2001), PASP 113, 1420.
    """
    options = {**DEFAULTS, **(options or {})}
    if sentence := lacosmic.refused(options):
        raise ValueError(sentence)
    unusable = (image.mask & int(UNUSABLE | MaskBit.SATURATED)) != 0
    unusable |= ~np.isfinite(image.data) | ~(image.uncertainty > 0)
    if unusable.all() or min(image.shape) < _SMALLEST:
        return np.zeros(image.shape, dtype=bool)
    pixels, sigma = _filled(image.data, unusable), _filled(image.uncertainty, unusable)
    candidates = _DETECT[options["engine"]](pixels, sigma**2, unusable, options)
    if not options["test_psf"]:
        return candidates & ~unusable
    return _test_candidates(pixels, sigma, unusable, candidates, options)


def _filled(values, unusable):
    """`values` with unusable ones replaced by the median of their surroundings, that of the image at first."""
    y, x = places(unusable)
    some = np.s_[::_SOME, ::_SOME] if not unusable[::_SOME, ::_SOME].all() else np.s_[:]
    filled = values.copy()
    filled[y, x] = median_of_many(values[some][~unusable[some]])
    filled[y, x] = separable_median_at(filled, y, x)
    return filled


def replace(image: Image, rays) -> None:
    """Write the local median over cosmic rays, in place: the guide's cleaned image.

    The median is of the usable pixels of the 5 x 5 around each, or of the 9 x 9 where there are none; a pixel without
    any keeps its value. Those replaced get the bit INTERPOLATED.

    Parameters
    ----------
    image : `~nightflow.products.Image`
        Its mask holds the rays.
    rays : ndarray of bool, shape (ny, nx)
    """
    usable = ~rays & ((image.mask & int(UNUSABLE | MaskBit.SATURATED)) == 0) & np.isfinite(image.data)
    pixels = np.where(usable, image.data, np.float32(np.nan))
    y, x = places(rays)
    medians = np.full(len(y), np.nan, np.float32)
    for half in (2, 4):
        empty = np.flatnonzero(np.isnan(medians))
        around = np.lib.stride_tricks.sliding_window_view(
            np.pad(pixels, half, constant_values=np.nan), (2 * half + 1, 2 * half + 1)
        )[y[empty], x[empty]].reshape(len(empty), (2 * half + 1) ** 2)
        known = np.isfinite(around).any(axis=1)
        medians[empty[known]] = np.nanmedian(around[known], axis=1)
    found = np.isfinite(medians)
    image.data[y[found], x[found]] = medians[found]
    image.mask[y[found], x[found]] |= np.uint16(MaskBit.INTERPOLATED)


def _astroscrappy(pixels, variance, unusable, options):
    import astroscrappy

    rays, _ = astroscrappy.detect_cosmics(
        pixels,
        inmask=unusable,
        # filtered by astroscrappy itself, so that a ray's own Poisson noise does not hide it
        invar=variance,
        gain=1.0,
        satlevel=np.inf,  # saturated pixels are in the mask
        verbose=False,
        **{name: options[name] for name in _LACOSMIC_OPTIONS if name != "psfk"},
        psfk=None if options["psfk"] is None else np.asarray(options["psfk"], dtype=np.float32),
    )
    return rays


_DETECT = {"lacosmic": lacosmic.detect, "astroscrappy": _astroscrappy}


def _test_candidates(pixels, sigma, unusable, candidates, options):
    """The candidates, and faint sharp pixels, that a ray explains better than a star."""
    psf = provisional_psf(pixels, sigma, unusable, options)
    smooth = separable_median(pixels)
    excess = pixels - smooth
    # what varies from pixel to pixel in the cores of galaxies counts as noise
    structure = np.maximum(np.subtract(smooth, median_of_many(smooth), out=smooth), 0, out=smooth)
    structure *= np.float32(_STRUCTURE)
    place = separable_median(sigma)
    np.sqrt(np.add(np.square(place, out=place), np.square(structure), out=place), out=place)
    excess /= place
    tested = (candidates | (excess > options["sigclip"])) & ~unusable
    y, x = _peaks(pixels, tested)
    if not y.size:
        return np.zeros(pixels.shape, dtype=bool)
    rows, columns, nearest = _nearest_peak(pixels, tested, y, x)
    preference = _RAY_PREFERENCE if psf.fwhm >= _UNDERSAMPLED else 0.0
    is_ray = star_cost(pixels, sigma, structure, place, unusable, y, x, psf) > -preference
    is_ray &= _significance(excess[rows, columns], nearest, y.size) > _LEAST_SIGNIFICANCE
    rays, stars = np.zeros(pixels.shape, dtype=bool), np.zeros(pixels.shape, dtype=bool)
    rays[rows, columns], stars[rows, columns] = is_ray[nearest], ~is_ray[nearest]
    for _ in range(2):
        rays |= sources.dilate(rays, 1.5) & (excess > 3) & ~stars & ~unusable
    return rays


def provisional_psf(pixels, sigma, unusable, options) -> PointSpread:
    """PSF of the bright, round sources of a frame on which rays are not flagged yet.

    Parameters
    ----------
    pixels, sigma : ndarray, shape (ny, nx)
        Science pixels with the sky in them and their standard deviation, finite everywhere.
    unusable : ndarray of bool, shape (ny, nx)
        Bad and saturated pixels.
    options : mapping
        ``psffwhm`` (px) and ``psfbeta`` of the profile assumed where there are too few stars.

    Returns
    -------
    psf : PointSpread
    """
    above = sky.LocalSky(pixels, ~unusable, 64).subtracted_from(pixels)
    above[unusable] = 0
    flat = Image(above, unusable * np.uint16(MaskBit.SATURATED), sigma)
    xx, yy, xy, wide, x, y = sources.bright_shapes(flat)
    width = np.sqrt(0.5 * (xx + yy))
    stars = _alike(xx, yy, xy)
    if np.count_nonzero(stars) < _FEWEST_STARS:
        variance = (options["psffwhm"] / sources.FWHM_OF_SIGMA) ** 2
        return PointSpread((variance, variance, 0.0), float(options["psfbeta"]))
    moments = [float(np.median(m[stars])) for m in (xx, yy, xy)]
    ratio = np.median(width[stars] / wide[stars])
    factor = float(sources.core_factor(ratio)) ** 2
    return PointSpread(
        tuple(m * factor for m in moments),
        float(sources.moffat_exponent(ratio)),
        int(stars.sum()),
        _examples(flat.data, unusable, x[stars][:_MOST_EXAMPLES], y[stars][:_MOST_EXAMPLES]),
    )


def _examples(pixels, unusable, x, y):
    """Pixels about the stars at `x`, `y` that look like others of them, as `PointSpread.examples`."""
    peak = sources.stamps(pixels, x, y, 1).reshape(x.size, 9).argmax(axis=1)
    x, y = np.rint(x) + peak % 3 - 1, np.rint(y) + peak // 3 - 1
    light = sources.stamps(pixels, x, y, _STAMP).reshape(x.size, -1).astype(np.float64)
    middle = light.shape[1] // 2
    whole = ~sources.stamps(unusable, x, y, _STAMP, fill=True).any(axis=(1, 2)) & (light.argmax(axis=1) == middle)
    light = light[whole] / light[whole][:, [middle]]
    difference = np.sqrt(np.mean((light[:, None] - light) ** 2, axis=2))
    return light[np.sum(difference < _LIKENESS, axis=1) > _FEWEST_ALIKE]


def _alike(xx, yy, xy):
    """Which of some second moments are those of the stars: they share one shape, round or trailed, and rays do not."""
    width = np.sqrt(0.5 * (xx + yy))
    stars = width > sources.SHARPEST
    if not stars.any():
        return stars
    common = sources.typical(width[stars])
    stars &= np.abs(width - common) < 0.15 * common
    elongation = np.array([xx - yy, 2 * xy]) / (xx + yy)
    for limit in (0.5, 0.25):
        middle = np.median(elongation[:, stars], axis=1, keepdims=True) if stars.any() else 0.0
        stars &= np.hypot(*(elongation - middle)) < limit
    return stars


def _peaks(pixels, tested):
    """Pixels of `tested` brighter than all their neighbours, and the brightest of each region without such."""
    at, region, count = connected_regions(tested)
    y, x = np.divmod(at, tested.shape[1])
    highest = sources.local_maxima(pixels, y, x, reach=1)
    has_peak = np.zeros(count + 1, dtype=bool)
    has_peak[region[highest]] = True
    order = np.lexsort((-pixels[y, x], region))
    first = order[np.searchsorted(region[order], np.flatnonzero(~has_peak[1:]) + 1)]
    highest[first] = True
    return y[highest], x[highest]


def _nearest_peak(pixels, tested, y, x):
    """Rows and columns of the pixels of `tested`, and the nearest peak of each, of equally near ones the brightest."""
    rows, columns = places(tested)
    reach = int(_NEAR)
    order = np.argsort(pixels[y, x], kind="stable")
    rank_at = np.full((tested.shape[0] + 2 * reach, tested.shape[1] + 2 * reach), -1, np.int32)
    rank_at[y[order] + reach, x[order] + reach] = np.arange(y.size)
    span = np.arange(-reach, reach + 1)
    dy, dx = (d.ravel() for d in np.meshgrid(span, span, indexing="ij"))
    away2 = dy**2 + dx**2
    nearest, left = np.empty(rows.size, np.intp), np.arange(rows.size)
    for distance2 in np.unique(away2[away2 <= _NEAR**2]):
        step = np.flatnonzero(away2 == distance2)[:, None]
        brightest = rank_at[rows[left] + reach + dy[step], columns[left] + reach + dx[step]].max(axis=0)
        nearest[left] = order[brightest]
        left = left[brightest < 0]
    if left.size:  # in the middle of something large
        from scipy.spatial import KDTree

        nearest[left] = KDTree(np.column_stack([y, x])).query(np.column_stack([rows[left], columns[left]]))[1]
    return rows, columns, nearest


def _significance(excess, group, n: int):
    """Significance of each of `n` groups of pixels: of its brightest pixel, or of all above 2 sigma together."""
    highest = np.full(n, -np.inf)
    np.maximum.at(highest, group, excess)
    bright = excess > 2
    total = np.bincount(group[bright], excess[bright], n)
    return np.maximum(highest, total / np.sqrt(np.maximum(np.bincount(group[bright], minlength=n), 1)))


def star_cost(pixels, sigma, structure, place, unusable, y, x, psf: PointSpread):
    """How much worse a star explains the pixels about each peak than a ray does, in units of chi squared.

    A star is the PSF at the best of 81 positions with the best flux above the local background; a ray may fill any
    pixel. Pixels brighter than the hypothesis cost at most `_CAP`, since neighbours may light them; the peak itself
    must be explained.

    Parameters
    ----------
    pixels, sigma, structure, place : ndarray, shape (ny, nx)
        Science pixels, their standard deviation, what varies besides from pixel to pixel, and both together as they
        are in the surroundings.
    unusable : ndarray of bool, shape (ny, nx)
    y, x : ndarray of int, shape (n,)
        The peaks.
    psf : PointSpread

    Returns
    -------
    cost : ndarray, shape (n,)
        Positive for a ray.
    """
    ring = max(4, round(1.5 * psf.fwhm))
    wide = sources.stamps(pixels, x, y, ring, fill=np.nan).astype(np.float64)
    wide[sources.stamps(unusable, x, y, ring)] = np.nan
    middle = slice(ring - _STAMP, ring + _STAMP + 1)
    light = wide[:, middle, middle].reshape(y.size, -1)
    noise, varying, quiet = (sources.stamps(p, x, y, _STAMP).reshape(y.size, -1) for p in (sigma, structure, place))
    noise, quiet = np.hypot(noise, varying).astype(np.float64), quiet.astype(np.float64)
    templates = np.concatenate([_templates(psf), psf.examples])
    level, slope = _surroundings(wide)
    # the star may sit on a slope, of a galaxy or of a brighter neighbour, or not
    return np.minimum(
        _compare(light - level, noise, quiet, templates), _compare(light - level - slope, noise, quiet, templates)
    )


def _surroundings(wide):
    """Median of each stamp's border, shape (n, 1), and the slope of the border over the inner pixels, (n, 25)."""
    ring = wide.shape[1] // 2
    border = np.ones(wide.shape[1:], dtype=bool)
    border[2:-2, 2:-2] = False
    values = wide[:, border]
    values = np.where(np.isfinite(values), values, np.nanmedian(wide))
    level = np.median(values, axis=1, keepdims=True)
    offset = np.arange(-ring, ring + 1.0)
    dy, dx = (d[border] for d in np.meshgrid(offset, offset, indexing="ij"))
    inner = np.arange(-_STAMP, _STAMP + 1.0)
    slope = ((values - level) @ dy / (dy @ dy))[:, None, None] * inner[:, None]
    slope = slope + ((values - level) @ dx / (dx @ dx))[:, None, None] * inner
    return level, slope.reshape(len(wide), -1)


def _compare(light, noise, quiet, templates):
    """Cost of a star less that of a ray for background-subtracted stamps, shape (n,)."""
    known = np.isfinite(light)
    light = np.where(known, light, 0)
    variance = np.where(known, noise**2, np.inf)
    # best flux of the star at each position, then the best position
    over, under = (light / variance) @ templates.T, (1 / variance) @ templates.T**2
    flux = np.maximum(over, 0) / np.maximum(under, 1e-30)
    best = np.argmax(flux * over, axis=1)
    flux = flux[np.arange(len(light)), best][:, None]
    model, around = flux * templates[best], flux * _highest_around(templates)[best]
    chi2 = (light - model) ** 2 / (variance + (_PSF_ERROR * model) ** 2 + (_SHIFT_ERROR * around) ** 2)
    free = light > model
    free[:, light.shape[1] // 2] = False
    star = np.where(free, np.minimum(chi2, _CAP), chi2).sum(axis=1)
    chi2 = np.where(known, light**2 / np.where(known, quiet, 1) ** 2, 0)
    return star - np.where(light > 0, np.minimum(chi2, _CAP), chi2).sum(axis=1)


def _highest_around(templates):
    """Of each pixel of the templates and its eight neighbours the highest value."""
    side = 2 * _STAMP + 1
    padded = np.pad(templates.reshape(-1, side, side), ((0, 0), (1, 1), (1, 1)))
    shifted = [padded[:, i : i + side, j : j + side] for i in range(3) for j in range(3)]
    return np.max(shifted, axis=0).reshape(templates.shape)


def _templates(psf: PointSpread):
    """The PSF over a stamp, integrated over the pixels, at each of the positions; peak of one, shape (81, 25)."""
    # the stars were seen through pixels, and are integrated over them again
    xx, yy, xy = np.array(psf.covariance) - np.array([1, 1, 0]) * _PIXEL
    fine = (np.arange(-5 * _STAMP - 2, 5 * _STAMP + 3)) / 5
    shift_y, shift_x = (s.ravel()[:, None, None] for s in np.meshgrid(_OFFSETS, _OFFSETS, indexing="ij"))
    dy, dx = fine[:, None] - shift_y, fine[None, :] - shift_x
    determinant = xx * yy - xy**2
    # squared radius in units of the Gaussian's sigma; half maximum at 2 ln 2
    r2 = (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / determinant
    profile = (1 + r2 * (2 ** (1 / psf.beta) - 1) / (2 * np.log(2))) ** -psf.beta
    side = 2 * _STAMP + 1
    return profile.reshape(-1, side, 5, side, 5).mean(axis=(2, 4)).reshape(shift_y.size, side * side)
