"""Stars and galaxies: the mask that hides them from the sky, and their positions, fluxes and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from nightflow import sky
from nightflow.labelling import connected_regions, places
from nightflow.medians import median_of_many
from nightflow.neighbours import close_pairs
from nightflow.products import UNUSABLE, Columns, Image, MaskBit

if TYPE_CHECKING:
    from astropy.table import QTable

MASK_DEFAULTS = {
    "threshold": 2.0,
    "peak": 5.0,
    "npixels": 5,
    "dilation": 9,
    "maxiters": 5,
    "mesh": 128,
}
DETECTION_DEFAULTS = {"detection_threshold": 5.0, "aperture": 1.5, "max_sources": 20000}
# Sides (px) of the blocks in which light too faint for single pixels is sought; the largest bounds what a source can
# be told from the background by.
BLOCKS = (4, 16)
# Blocks must exceed the thresholds by this: there are so many beside sources that the brightest of blank ones, left
# out of the sky, would lower it.
_BLOCK_THRESHOLD = 1.5
# Standard deviation of white unit noise after the (1, 2, 1)/4 smoothing in x and y.
_SMOOTHED_NOISE = 3 / 8
_AT_A_TIME = 32768  # pixels that are smoothed together
FWHM_OF_SIGMA = 2 * np.sqrt(2 * np.log(2))
# Standard deviation (px) below which light is that of a hot pixel or a ray, which all look the same: without this limit
# they would win over the stars as the most common width.
SHARPEST = 0.5


def source_mask(data, mask=None, options: Mapping | None = None):
    """Pixels that sources of any size brighten.

    Regions above `threshold` standard deviations of the sky that reach `peak` somewhere are sources; they are sought
    in the lightly smoothed image, then, for the wings of bright stars and galaxies, in means of ever larger blocks
    of the pixels left. What is found is left out of the clipped local sky, and the search repeats until the mask
    settles. A gradient of the sky is followed by that local sky.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        Pixels with the sky in them.
    mask : ndarray of bool or int, shape (ny, nx), optional
        Pixels not to be looked at (not zero: bad, cosmic ray); they are no part of the result.
    options : mapping, optional
        ``threshold`` and ``peak`` (standard deviations of the smoothed image), ``npixels`` (smallest source, px),
        ``dilation`` (diameter of the disc that grows the mask, px), ``maxiters``, ``mesh`` of the local sky (px).

    Returns
    -------
    found : ndarray of bool, shape (ny, nx)

    References
    ----------
    Regions that reach a high and extend to a low threshold: Canny (1986), IEEE PAMI 8, 679, section VIII.
    """
    options = {**MASK_DEFAULTS, **(options or {})}
    ny, nx = np.shape(data)
    usable = np.isfinite(data) if mask is None else np.isfinite(data) & (np.asarray(mask) == 0)
    found, change = np.zeros((ny, nx), dtype=bool), 0
    if not usable.any():
        return found
    pixels = np.where(usable, data, np.float32(0)).astype(np.float32, copy=False)
    for first in [True] + [False] * (int(options["maxiters"]) - 1):
        around = sky.LocalSky(pixels, usable & ~found, int(options["mesh"]), smooth_only=first)
        if not around.widths.max() > 0:
            return np.zeros((ny, nx), dtype=bool)
        previous, found = found, _detect(around.significance(pixels), usable, options)
        earlier, change = change, np.count_nonzero(previous ^ found)
        # a round changes the same share of what the one before it did: whether the next would change a thousandth
        if change**2 <= 1e-3 * np.count_nonzero(found) * max(earlier, change):
            break
    return dilate(found, float(options["dilation"]) / 2) & usable


def _detect(significance, usable, options):
    """Source pixels of an image in units of the sky's standard deviation, which is used up."""
    significance *= usable
    smooth = _smooth(significance)
    smooth /= np.float32(_SMOOTHED_NOISE)
    found = _hysteresis(smooth, None, options, int(options["npixels"]))
    for block in BLOCKS:
        significance *= ~found
        found |= _detect_in_blocks(significance, usable, found, block, options)
    return found


def _smooth(image):
    """`image` smoothed with (1, 2, 1)/4 in both directions, zero beyond its edges."""
    return _convolved(image, np.array([0.5, 0.25], image.dtype))


def _hysteresis(significance, seeds, options, npixels: int):
    """Connected regions above the threshold that are large and reach the peak limit, or that touch `seeds`."""
    above = significance > options["threshold"]
    if seeds is not None:
        above |= seeds
    at, region, count = connected_regions(above)
    keep = np.zeros(count + 1, dtype=bool)
    keep[region[significance.ravel()[at] > max(options["peak"], options["threshold"])]] = True
    if npixels > 1:
        keep &= np.bincount(region, minlength=count + 1) >= npixels
    if seeds is not None:
        keep[region[seeds.ravel()[at]]] = True
    found = np.zeros(above.shape, dtype=bool)
    found.ravel()[at[keep[region]]] = True
    return found


def _detect_in_blocks(significance, usable, found, block: int, options):
    """Pixels of the blocks whose mean is significant, without what is found already and has none any more."""
    ny, nx = significance.shape
    number, total = _block_sum(usable & ~found, block), _block_sum(significance, block)
    enough = number >= block**2 / 4
    mean = np.where(enough, total / np.sqrt(np.maximum(number, 1)), 0)
    # neighbouring pixels of resampled images and residual structure make blocks scatter more than white noise does
    quiet = mean[enough & (np.abs(mean) < 5)]
    excess = max(1.0, 1.4826 * float(median_of_many(np.abs(quiet)))) if quiet.size > 50 else 1.0
    mean /= excess * _BLOCK_THRESHOLD
    touching = _block_sum(found, block) > 0
    least = -(-int(options["npixels"]) // block**2)
    blocks = _hysteresis(mean, touching, options, least) & enough & (mean > options["threshold"])
    return np.repeat(np.repeat(blocks, block, axis=0), block, axis=1)[:ny, :nx] & usable


def _block_sum(image, block: int):
    """Sums of `image` over squares of `block` pixels, the last ones filled up with zeros."""
    ny, nx = image.shape
    if ny % block or nx % block:
        image = np.pad(image, ((0, -ny % block), (0, -nx % block)))
    if image.dtype == bool:  # counts of up to 16 are summed faster as bytes
        rows = sum(image[i::block].view(np.uint8) for i in range(block)).astype(np.float32)
    else:
        rows = sum(image[i::block] for i in range(block))
    return sum(rows[:, i::block] for i in range(block))


def dilate(mask, radius: float):
    """`mask` grown by a disc.

    The disc is drawn row by row: rows at distance dy are grown along x by sqrt(radius^2 - dy^2), which takes a few
    shifts of the whole plane instead of one comparison a pixel of the disc.

    Parameters
    ----------
    mask : ndarray of bool, shape (ny, nx)
    radius : float
        In px; below 1 nothing grows.

    Returns
    -------
    grown : ndarray of bool, shape (ny, nx)
    """
    grown, wide = mask.copy(), mask.copy()
    ny = mask.shape[0]
    reach = int(radius)
    half_width = 0
    for dy in range(reach, -1, -1):
        while half_width < int(np.sqrt(radius**2 - dy**2)):
            half_width += 1
            wide[:, half_width:] |= mask[:, :-half_width]
            wide[:, :-half_width] |= mask[:, half_width:]
        if dy == 0:
            grown |= wide
        elif dy < ny:
            grown[dy:] |= wide[:-dy]
            grown[:-dy] |= wide[dy:]
    return grown


def detect_sources(image: Image, options: Mapping | None = None) -> QTable:
    """Find compact sources on a sky-subtracted image and measure them, as `find_sources` does.

    Returns
    -------
    sources : `~astropy.table.QTable`
    """
    return find_sources(image, options).table()


def find_sources(image: Image, options: Mapping | None = None) -> Columns:
    """Find compact sources on a sky-subtracted image and measure them.

    Peaks of the image filtered with a difference of Gaussians (so that the smooth light of a galaxy or a nebula is
    no source) above `detection_threshold` times their own uncertainty are measured with Gaussian weights of the
    frame's seeing.

    Parameters
    ----------
    image : `~nightflow.products.Image`
        Sky-subtracted pixels with uncertainty and mask.
    options : mapping, optional
        ``detection_threshold`` (standard deviations), ``aperture`` (radius in FWHM), ``max_sources`` (the brightest
        are kept).

    Returns
    -------
    sources : `~nightflow.products.Columns`
        Brightest first: ``x y`` (px, the centre of the first pixel is 0), ``flux flux_err peak`` (unit of the
        image), ``fwhm`` (px), ``ellipticity`` = 1 - minor / major axis, ``theta`` (of the major axis, radians from x
        towards y), ``snr``, ``flags`` (all `MaskBit` s within one FWHM), ``npix`` (pixels above two standard
        deviations in the aperture). Without any source the columns are empty.

    References
    ----------
    Windowed positions and second moments: Bertin & Arnouts (1996), A&AS 117, 393; SExtractor's XWIN_IMAGE.
    """
    options = {**DETECTION_DEFAULTS, **(options or {})}
    bad = (image.mask & int(UNUSABLE)) != 0
    bad |= ~np.isfinite(image.data) | ~np.isfinite(image.uncertainty)
    pixels = np.where(bad, np.float32(0), image.data)
    sigma = 1.27  # of a star of FWHM 3 px; refined below where the frame is worse
    for _ in range(3):
        x, y = _find_peaks(pixels, bad, image, sigma, options)
        width = _typical_width(pixels, x, y, sigma)
        if not width > 1.5 * sigma:
            break
        sigma = width
    shapes = _measure(pixels, bad, image, x, y, width if np.isfinite(width) else sigma, options)
    return _true_sources(shapes, image.header.get("BUNIT", "electron"))


def measure_at(image: Image, x, y, fwhm: float, options: Mapping | None = None) -> dict:
    """Positions, fluxes and shapes of sources that something else has found.

    Parameters
    ----------
    image : `~nightflow.products.Image`
        Sky-subtracted pixels with uncertainty and mask.
    x, y : ndarray, shape (n,)
        px, brightest source first.
    fwhm : float
        Of the stars, px: width of the windows.
    options : mapping, optional
        ``aperture`` (radius in FWHM).

    Returns
    -------
    dict of str to ndarray, shape (n,)
        Columns as `find_sources` has them, and ``moved``, the distance of the centre from (x, y).
    """
    bad = ((image.mask & int(UNUSABLE)) != 0) | ~np.isfinite(image.data) | ~np.isfinite(image.uncertainty)
    pixels = np.where(bad, np.float32(0), image.data)
    measured = _measure(pixels, bad, image, x, y, fwhm / FWHM_OF_SIGMA, {**DETECTION_DEFAULTS, **(options or {})})
    return {name: column for name, column in measured.items() if name != "sigma"}


def _find_peaks(pixels, bad, image, sigma, options):
    """Positions (px) of the local maxima of the filtered image, brightest first, one for each saturated star."""
    filtered = _difference_of_gaussians(pixels, sigma)
    filtered /= np.float32(_filter_noise(sigma))
    bright = filtered > options["detection_threshold"] * image.uncertainty
    bright &= ~bad
    y, x = places(bright)
    highest = local_maxima(filtered, y, x, reach=2)
    y, x, value = y[highest], x[highest], filtered[y, x][highest]
    order = np.lexsort((x, y, -value))[: int(options["max_sources"])]
    y, x = y[order], x[order]
    saturated = (image.mask & int(MaskBit.SATURATED)) != 0
    if saturated.any() and y.size:
        y, x = _one_for_each_blob(y, x, saturated, 2 * sigma)
    return x.astype(float), y.astype(float)


def local_maxima(image, y, x, reach: int):
    """Which of some pixels none within `reach` rows and columns outshines; of equal ones the first in reading order.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
    y, x : ndarray of int, shape (n,)
    reach : int

    Returns
    -------
    highest : ndarray of bool, shape (n,)
    """
    left, steps = np.arange(y.size), range(-reach, reach + 1)
    for dy, dx in ((dy, dx) for dy in steps for dx in steps if (dy, dx) != (0, 0)):
        value, neighbour = image[y[left], x[left]], _values_at(image, y[left] + dy, x[left] + dx, -np.inf)
        left = left[(value > neighbour) if (dy, dx) < (0, 0) else (value >= neighbour)]
    highest = np.zeros(y.size, dtype=bool)
    highest[left] = True
    return highest


def _one_for_each_blob(y, x, saturated, reach):
    """The positions, but for those near saturated pixels only one at the middle of each group of such pixels."""
    at, region, count = connected_regions(dilate(saturated, reach))
    blobs = np.zeros(saturated.shape, np.int32)
    blobs.ravel()[at] = region
    blob = blobs[y, x]
    number, first = np.unique(blob, return_index=True)
    first, number = first[number > 0], number[number > 0]
    keep = blob == 0
    keep[first] = True
    positions = places(saturated)
    of_blob = blobs[positions]
    size = np.bincount(of_blob, minlength=count + 1)[number]
    y, x = y.astype(float), x.astype(float)
    for values, position in zip((y, x), positions, strict=True):
        values[first] = np.bincount(of_blob, position, count + 1)[number] / size
    return y[keep], x[keep]


def _difference_of_gaussians(pixels, sigma):
    """`pixels` smoothed with a Gaussian, less those smoothed with one twice as wide."""
    return _convolved(pixels, _gaussian(sigma, pixels.dtype), _gaussian(2 * sigma, pixels.dtype))


def gaussian_smoothed(image, sigma: float):
    """`image` convolved with a Gaussian that ends at three standard deviations; beyond the edges it is zero.

    Strips of rows that stay in the processor's cache are smoothed along the columns, then along the rows.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
    sigma : float
        Standard deviation, px.

    Returns
    -------
    smooth : ndarray, shape (ny, nx)
        Of the type of `image`.
    """
    return _convolved(image, _gaussian(sigma, image.dtype))


def _gaussian(sigma: float, dtype):
    """Weights of the middle and of its neighbours at either side."""
    weight = np.exp(-0.5 * (np.arange(int(3 * sigma + 0.5) + 1) / sigma) ** 2)
    return (weight / (2 * weight.sum() - weight[0])).astype(dtype)


def _convolved(image, weight, wider=None):
    """`image` times these weights of the middle and of its neighbours, along both axes, less that with `wider` ones."""
    (ny, nx), reach = image.shape, len(weight if wider is None else wider) - 1
    smooth, height = np.empty_like(image), max(_AT_A_TIME // nx, 1)
    for first in range(0, ny, height):
        rows = min(height, ny - first)
        strip = np.zeros((rows + 2 * reach, nx + 2 * reach), image.dtype)
        low, high = max(first - reach, 0), min(first + rows + reach, ny)
        strip[low - first + reach : high - first + reach, reach : reach + nx] = image[low:high]
        part = smooth[first : first + rows]
        part[:] = _strip_convolved(strip, weight, reach, part.shape)
        if wider is not None:
            part -= _strip_convolved(strip, wider, reach, part.shape)
    return smooth


def _strip_convolved(strip, weight, margin: int, shape):
    """The inner part, of `shape`, of a strip that has a margin, convolved."""
    near = range(margin + 1 - len(weight), margin + len(weight))
    columns = _symmetric_sum([strip[i : i + shape[0]] for i in near], weight)
    return _symmetric_sum([columns[:, i : i + shape[1]] for i in near], weight)


def _symmetric_sum(parts, weight):
    """Sum of the parts, the middle one times the first weight, its neighbours times the second, and so on."""
    middle = len(parts) // 2
    total = weight[0] * parts[middle]
    for distance in range(1, middle + 1):
        pair = parts[middle - distance] + parts[middle + distance]
        pair *= weight[distance]
        total += pair
    return total


def _filter_noise(sigma):
    """Standard deviation of unit white noise after `_difference_of_gaussians`."""
    impulse = np.zeros((2 * int(6 * sigma) + 3,) * 2)
    impulse[impulse.shape[0] // 2, impulse.shape[0] // 2] = 1
    return np.sqrt(np.sum(_difference_of_gaussians(impulse, sigma) ** 2))


def stamps(plane, x, y, half: int, fill=0):
    """Squares of `plane` about the pixels nearest to the positions, shape (n, 2 half + 1, 2 half + 1)."""
    size = 2 * half + 1
    top, left = (np.clip(np.rint(c).astype(int), 0, n - 1) - half for c, n in zip((y, x), plane.shape, strict=True))
    inside = (top >= 0) & (left >= 0) & (top + size <= plane.shape[0]) & (left + size <= plane.shape[1])
    squares = np.empty((top.size, size, size), plane.dtype)
    if inside.any():
        squares[inside] = np.lib.stride_tricks.sliding_window_view(plane, (size, size))[top[inside], left[inside]]
    rows, columns = (first[~inside, None] + np.arange(size) for first in (top, left))
    squares[~inside] = _values_at(plane, rows[:, :, None], columns[:, None, :], fill)
    return squares


def _values_at(plane, rows, columns, fill):
    """Pixels of `plane` at `rows` and `columns`, and `fill` beyond its edges."""
    inner_rows, inner_columns = (np.clip(at, 0, n - 1) for at, n in zip((rows, columns), plane.shape, strict=True))
    values = plane[inner_rows, inner_columns]
    values[(inner_rows != rows) | (inner_columns != columns)] = fill
    return values


def _offsets(anchor, centre, half: int):
    """Distances along one axis of the pixels of stamps at `anchor` from `centre`, shape (n, 2 half + 1)."""
    return (np.rint(anchor) - centre)[:, None] + np.arange(-half, half + 1)


def _weighted(light, dx, dy, window):
    return np.exp(-0.5 * (dy[:, :, None] ** 2 + dx[:, None, :] ** 2) / window**2) * light


def _centre(light, x, y, half, window, rounds: int = 10):
    """Windowed centroids: each round moves a centre by twice the windowed mean offset."""
    centre_x, centre_y = x.copy(), y.copy()
    active = np.arange(x.size)
    for _ in range(rounds):
        dx = _offsets(x[active], centre_x[active], half)
        dy = _offsets(y[active], centre_y[active], half)
        weighted = _weighted(light[active], dx, dy, window)
        total = np.maximum(weighted.sum(axis=(1, 2)), 1e-12)
        step_x = np.clip(2 * (weighted.sum(axis=1) * dx).sum(axis=1) / total, -1, 1)
        step_y = np.clip(2 * (weighted.sum(axis=2) * dy).sum(axis=1) / total, -1, 1)
        centre_x[active] += step_x
        centre_y[active] += step_y
        active = active[np.hypot(step_x, step_y) > 1e-3]
        if not active.size:
            break
    return centre_x, centre_y


def _second_moments(light, dx, dy, window):
    """Second moments (xx, yy, xy) of Gaussians that look as the stamps do through a Gaussian window; NaN if none."""
    weighted = _weighted(light, dx, dy, window)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = weighted.sum(axis=(1, 2))
        columns, rows = weighted.sum(axis=1) / total[:, None], weighted.sum(axis=2) / total[:, None]
        xx, yy = (columns * dx**2).sum(axis=1), (rows * dy**2).sum(axis=1)
        xy = np.einsum("nij,ni,nj->n", weighted, dy, dx) / total
        determinant = xx * yy - xy**2
        # inverse covariances add where Gaussians multiply
        a, b, c = yy / determinant - window**-2, xx / determinant - window**-2, -xy / determinant
        inverse = a * b - c**2
        valid = (total > 0) & (determinant > 0) & (inverse > 0) & (a > 0)
        return tuple(np.where(valid, moment / inverse, np.nan) for moment in (b, a, -c))


def _width(xx, yy):
    return np.sqrt(0.5 * (xx + yy))


def _typical_width(pixels, x, y, sigma: float) -> float:
    """Standard deviation (px) of the core of the typical bright source; NaN without one."""
    x, y = x[:400], y[:400]
    for _ in range(6):
        half = int(np.ceil(4 * sigma))
        light = stamps(pixels, x, y, half)
        centre_x, centre_y = _centre(light, x, y, half, sigma, rounds=5)
        xx, yy, _ = _second_moments(light, _offsets(x, centre_x, half), _offsets(y, centre_y, half), sigma)
        widths = _width(xx, yy)
        widths = widths[widths > SHARPEST]
        if not widths.size:
            return np.nan
        previous, sigma = sigma, float(np.clip(typical(widths), 0.4, 15.0))
        if abs(sigma - previous) < 0.02 * previous:
            break
    return sigma


def bright_shapes(image: Image, n: int = 400):
    """Second moments of the brightest unsaturated peaks of a sky-subtracted image.

    Parameters
    ----------
    image : `~nightflow.products.Image`
    n : int
        Largest number of peaks.

    Returns
    -------
    xx, yy, xy : ndarray, shape (up to n,)
        Second moments freed of a window of the typical width, px^2.
    wide : ndarray, shape (up to n,)
        Width (px) in a window twice as wide.
    x, y : ndarray, shape (up to n,)
        Centres, 0-based px.
    """
    bad = (image.mask != 0) | ~np.isfinite(image.data)
    pixels = np.where(bad, np.float32(0), image.data)
    x, y = _find_peaks(pixels, bad, image, 1.27, {"detection_threshold": 15.0, "max_sources": n})
    empty = np.zeros(0)
    if not x.size:
        return (empty,) * 6
    sigma = _typical_width(pixels, x, y, 1.27)
    sigma = max(sigma, 0.7) if np.isfinite(sigma) else 1.27
    half = int(np.ceil(4 * sigma))
    light = stamps(pixels, x, y, half)
    whole = ~stamps(bad, x, y, 2, fill=True).any(axis=(1, 2))
    centre_x, centre_y = _centre(light, x, y, half, sigma)
    dx, dy = _offsets(x, centre_x, half), _offsets(y, centre_y, half)
    xx, yy, xy = _second_moments(light, dx, dy, sigma)
    wide = _width(*_second_moments(light, dx, dy, 2 * sigma)[:2])
    good = whole & np.isfinite(xx) & np.isfinite(wide)
    return tuple(column[good] for column in (xx, yy, xy, wide, centre_x, centre_y))


def flux_radius(options: Mapping, fwhm: float) -> float:
    """Radius (px) within which a source's own flux is summed: of the main aperture, where that goes with the seeing."""
    with_seeing = options.get("aperture_unit", "fwhm") == "fwhm"
    return max((options["aperture"] if with_seeing else DETECTION_DEFAULTS["aperture"]) * fwhm, 1.5)


def _measure(pixels, bad, image, x, y, sigma, options):
    """Columns of the source table, as a dictionary of arrays."""
    radius = flux_radius(options, FWHM_OF_SIGMA * sigma)
    half = int(np.ceil(max(4 * sigma, radius + 1)))
    light = stamps(pixels, x, y, half)
    centre_x, centre_y = _centre(light, x, y, half, sigma)
    dx, dy = _offsets(x, centre_x, half), _offsets(y, centre_y, half)
    xx, yy, xy = _second_moments(light, dx, dy, sigma)
    bright = slice(0, 100)
    wide = _width(*_second_moments(light[bright], dx[bright], dy[bright], 2 * sigma)[:2])
    ratio = (_width(xx, yy)[bright] / wide)[np.isfinite(wide) & np.isfinite(xx[bright])]
    core = core_factor(np.median(ratio)) if ratio.size else 1.0
    distance = np.sqrt(dy[:, :, None] ** 2 + dx[:, None, :] ** 2)
    aperture = np.clip(radius + 0.5 - distance, 0, 1)
    noise = np.where(stamps(bad, x, y, half), np.float32(0), stamps(image.uncertainty, x, y, half))
    flags = stamps(image.mask, x, y, half, fill=int(MaskBit.NO_DATA))
    near = distance <= max(FWHM_OF_SIGMA * sigma, 1.5)
    flux, flux_err = (aperture * light).sum(axis=(1, 2)), np.sqrt(((aperture * noise) ** 2).sum(axis=(1, 2)))
    root = np.sqrt(0.25 * (xx - yy) ** 2 + xy**2)
    major, minor = np.sqrt(0.5 * (xx + yy) + root), np.sqrt(np.maximum(0.5 * (xx + yy) - root, 0))
    return {
        "x": centre_x,
        "y": centre_y,
        "flux": flux,
        "flux_err": flux_err,
        "peak": np.where(near, light, -np.inf).max(axis=(1, 2), initial=-np.inf).astype(float),
        "fwhm": FWHM_OF_SIGMA * core * _width(xx, yy),
        "ellipticity": 1 - minor / major,
        "theta": 0.5 * np.arctan2(2 * xy, xx - yy),
        "snr": flux / np.where(flux_err > 0, flux_err, np.inf),
        "flags": np.bitwise_or.reduce(np.where(near, flags, 0), axis=(1, 2)).astype(np.int32),
        "npix": ((aperture > 0) & (light > 2 * noise) & (noise > 0)).sum(axis=(1, 2)),
        "moved": np.hypot(centre_x - x, centre_y - y),
        "sigma": np.full(x.size, sigma),
    }


def core_factor(ratio):
    """Width at half maximum over width in a window, for stars whose width grows by 1 / `ratio` in one twice as wide.

    A window that weighs the wings more makes a Moffat profile wider and leaves a Gaussian as it is, so that the ratio
    tells the profile. The line holds to 1.2 % for Moffat profiles from beta = 2.2 on and FWHM from 2 px on.
    """
    return 1.0 / (1.0 + 1.235 * (1.0 - np.clip(ratio, 0.8, 1.0)))


def moffat_exponent(ratio):
    """Moffat exponent beta that `core_factor`'s `ratio` belongs to, within 4 %."""
    return 1.0 / (3.07 * (1.0 - np.clip(ratio, 0.8, 0.99)))


def _true_sources(columns: dict, unit: str) -> Columns:
    """The measured sources that are neither doubles of a brighter one nor sharper than a star can be."""
    sigma, moved = columns.pop("sigma"), columns.pop("moved")
    width = columns["fwhm"] / FWHM_OF_SIGMA
    good = np.isfinite(columns["fwhm"]) & (moved < 2 * sigma + 1) & (columns["flux"] > 0) & (width > 0.5 * sigma)
    order = np.flatnonzero(good)
    order = order[np.lexsort((columns["x"][order], columns["y"][order], -columns["flux"][order]))]
    order = order[_unique_positions(columns["x"][order], columns["y"][order], sigma[order])]
    units = {"x": "pix", "y": "pix", "fwhm": "pix", "theta": "rad"}
    fluxes = ("flux", "flux_err", "peak", "aperture_flux", "aperture_flux_err", "local_sky")
    units.update(dict.fromkeys(fluxes, "electron" if unit == "electron" else "adu"))
    return Columns({name: values[order] for name, values in columns.items()}, units)


def _unique_positions(x, y, distance):
    """True for each source without a brighter (earlier) one nearer than `distance`."""
    keep = np.ones(x.size, dtype=bool)
    if x.size > 1:
        keep[close_pairs(x, y, float(distance[0]))[1]] = False
    return keep


def seeing(table) -> tuple[float, float, int]:
    """FWHM and ellipticity of the stars in a source table.

    Parameters
    ----------
    table : `~astropy.table.Table` or `~nightflow.products.Columns`
        Sources as `detect_sources` or `find_sources` gives them.

    Returns
    -------
    fwhm : float
        In px; NaN without a star.
    ellipticity : float
        Median of the stars' own; NaN without a star.
    n : int
        Number of stars used: unflagged, of S/N above 20 where at least five are, within 25 % of the common FWHM.
    """
    fwhm = np.asarray(getattr(table["fwhm"], "value", table["fwhm"]), dtype=float)
    if not fwhm.size:
        return np.nan, np.nan, 0
    usable = np.isfinite(fwhm) & ((np.asarray(table["flags"]) & ~int(MaskBit.SOURCE)) == 0)
    bright = usable & (np.asarray(table["snr"]) > 20)
    chosen = bright if np.count_nonzero(bright) >= 5 else usable
    if not chosen.any():
        return np.nan, np.nan, 0
    mode = typical(fwhm[chosen])
    stars = chosen & (np.abs(fwhm - mode) < 0.25 * mode)
    return float(np.median(fwhm[stars])), float(np.median(np.asarray(table["ellipticity"])[stars])), int(stars.sum())


def typical(values) -> float:
    """Median of the values about the most common one, which is found as the densest half of the densest half.

    Stars share one width and galaxies, blends and spikes do not, so that the stars win even as a minority.

    References
    ----------
    Half-sample mode: Bickel & Fruehwirth (2006), Computational Statistics & Data Analysis 50, 3500.
    """
    values = dense = np.sort(values)
    while dense.size > 9:
        half = (dense.size + 1) // 2
        start = int(np.argmin(dense[half - 1 :] - dense[: dense.size - half + 1]))
        dense = dense[start : start + half]
    mode = float(dense[dense.size // 2])
    return float(np.median(values[np.abs(values - mode) <= 0.2 * abs(mode)]))
