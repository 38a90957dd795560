"""The commands for people that work on one file: ``scene``, ``mask`` and ``sky``.

They are the three programs of session 15 of D. Kinoshita's course (Advanced Astronomical Observations 2022), with
their options, on the functions that the workflow uses. What the user can put right ends as one sentence.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from astropy.io import fits

from nightflow import scenes, sky, sources
from nightflow.products import MaskBit, RejectedFrame, clean_header, raise_if_rejected, write_fits
from nightflow.rawfiles import RawFile


@dataclass
class Plane:
    """An image as a command reads it: a raw frame, a scene or a product.

    Attributes
    ----------
    data : ndarray of float32, shape (ny, nx)
    mask : ndarray of uint16, shape (ny, nx)
        `~nightflow.products.MaskBit` planes of the file, and NO_DATA where a pixel is not finite.
    uncertainty : ndarray of float32, shape (ny, nx), or None
    header : `~astropy.io.fits.Header`
    """

    data: np.ndarray
    mask: np.ndarray
    uncertainty: np.ndarray | None
    header: fits.Header


def read_plane(path: str | Path) -> Plane:
    """Read the image of a FITS file, with the mask and the uncertainty that products have.

    Raises
    ------
    RejectedFrame
        If there is no image, or no pixel of it has a value.
    OSError
        If the file cannot be opened.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd cards do not matter here
        raise_if_rejected(_first_header(path))
        raw = RawFile(path)
        data = raw.read()
        mask, uncertainty = (_extension(path, name, data.shape) for name in ("MASK", "UNCERT"))
    if not np.isfinite(data).any():
        raise RejectedFrame(f"no pixel of {path} has a value")
    mask = np.zeros(data.shape, np.uint16) if mask is None else mask.astype(np.uint16)
    mask[~np.isfinite(data)] |= np.uint16(MaskBit.NO_DATA)
    return Plane(data, mask, uncertainty, raw.header)


def _first_header(path) -> fits.Header:
    """Primary header; empty for a file that is no FITS file, about which `RawFile` knows what to say."""
    try:
        return fits.getheader(path, 0)
    except OSError as error:
        if error.errno is not None:
            raise
        return fits.Header()


def _extension(path, name: str, shape: tuple[int, int]) -> np.ndarray | None:
    """Pixels of the extension called `name`, None if there is no such one."""
    with fits.open(path, memmap=False) as hdus:
        pixels = hdus[name].data if name in hdus else None
    if pixels is not None and pixels.shape != shape:
        raise RejectedFrame(f"the extension {name} of {path} has the shape {pixels.shape}, its image {shape}")
    return pixels


def read_mask(path: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """Pixels to leave out, from the ``MASK`` extension of a file, or from its image where there is none.

    Raises
    ------
    RejectedFrame
        If the mask has not the `shape` of the image.
    OSError
        If the file cannot be opened.
    """
    raw = RawFile(path)
    mask = _extension(path, "MASK", raw.shape)
    mask = raw.read() if mask is None else mask
    if mask.shape != shape:
        raise RejectedFrame(f"the mask {path} has the shape {mask.shape}, the image {shape}")
    return mask != 0


def check_outputs(image: Path, *others: Path | None) -> None:
    """Raise `ValueError`, `FileExistsError` or `FileNotFoundError` where a command cannot write without doing harm."""
    if image.suffix.lower() not in (".fits", ".fit", ".fts"):
        raise ValueError(f"the name of the output must end in .fits, not as in '{image}'")
    for path in (image, *(other for other in others if other is not None)):
        if path.exists():
            raise FileExistsError(f"'{path}' exists and is not overwritten; choose another name or remove it")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"the folder '{path.parent}' does not exist")


def main_scene(argv: list[str] | None = None) -> None:
    """Command ``scene``: write one synthetic image and its truth table."""
    options = vars(_scene_parser().parse_args(argv))
    output = options.pop("output")
    with sentences("scene"):
        check_outputs(output, scenes.truth_path(output))
        scenes.write_scene(output, **options)
    print(f"{output}: {options['stars']} stars, {options['galaxies']} galaxies; sources in {scenes.truth_path(output)}")


def main_mask(argv: list[str] | None = None) -> None:
    """Command ``mask``: find the sources of one image and write it with a mask of them."""
    arguments = _mask_parser().parse_args(argv)
    with sentences("mask"):
        check_outputs(arguments.output, arguments.picture)
        plane = read_plane(arguments.input)
        found = find_sources(plane, arguments)
        _write_masked(arguments.output, plane)
        if arguments.picture is not None:
            _write_picture(arguments.picture, plane)
    share = 100 * np.count_nonzero(found) / found.size
    print(f"{arguments.output}: {np.count_nonzero(found)} of {found.size} pixels masked as sources, {share:.2f} %")


def find_sources(plane: Plane, arguments: argparse.Namespace) -> np.ndarray:
    """Source pixels of `plane`, which are flagged there too; shape (ny, nx)."""
    options = {name: getattr(arguments, name) for name in ("threshold", "npixels", "dilation", "maxiters")}
    flags = plane.mask & ~np.uint16(MaskBit.SOURCE)
    found = sources.source_mask(plane.data, flags, options)
    plane.mask = np.where(found, flags | np.uint16(MaskBit.SOURCE), flags)
    return found


def _write_masked(path: Path, plane: Plane) -> None:
    header = clean_header(plane.header)
    mask_hdu = fits.ImageHDU(plane.mask, name="MASK")
    for bit in MaskBit:
        mask_hdu.header[f"BIT{bit.value.bit_length() - 1:02d}"] = (bit.name, f"value {bit.value}")
    hdus = [fits.PrimaryHDU(plane.data, header), mask_hdu]
    if plane.uncertainty is not None:
        hdus.append(fits.ImageHDU(plane.uncertainty, name="UNCERT"))
        hdus[-1].header["UTYPE"] = ("StdDevUncertainty", "1 sigma")
    write_fits(path, hdus)


def _write_picture(path: Path, plane: Plane) -> None:
    """The image with masked pixels black."""
    from nightflow.previews import write_png

    write_png(path, np.where(plane.mask != 0, np.float32(np.nan), plane.data))


def main_sky(argv: list[str] | None = None) -> None:
    """Command ``sky``: print mean, median, mode and standard deviation of the sky of one image."""
    arguments = _sky_parser().parse_args(argv)
    with sentences("sky"):
        plane = read_plane(arguments.input)
        left_out, how = _pixels_left_out(plane, arguments)
        options = {"sigma": arguments.sigma_clipping, "maxiters": arguments.clipping_maxiters}
        statistics = sky.sky_statistics(plane.data, left_out, **options)
        if not statistics.npix:
            raise RejectedFrame(f"no pixel of {arguments.input} shows the sky: all are masked")
        lines = _report(statistics, str(plane.header.get("BUNIT", "adu")))
        if arguments.method == "mesh":
            lines += _report_mesh(plane, left_out, options)
    print(f"# {arguments.input}: {how}", *lines, sep="\n")


def _pixels_left_out(plane: Plane, arguments: argparse.Namespace) -> tuple[np.ndarray, str]:
    """Pixels that do not show the sky, and in words how that is known."""
    if arguments.as_published:
        return ~np.isfinite(plane.data), "nothing masked, as published"
    if arguments.mask is not None:
        return read_mask(arguments.mask, plane.data.shape), f"mask from {arguments.mask}"
    if (plane.mask & np.uint16(MaskBit.SOURCE)).any():
        return plane.mask != 0, "mask from the file"
    find_sources(plane, arguments)
    return plane.mask != 0, "sources found and masked"


def _report(statistics: sky.SkyStatistics, unit: str) -> list[str]:
    values = [(name, getattr(statistics, name)) for name in ("mean", "median", "mode", "stddev")]
    width = max(len(f"{value:.2f}") for _, value in values)
    lines = [f"{name:6} = {value:{width}.2f} {unit}" for name, value in values]
    return [*lines, f"npix   = {statistics.npix}", f"masked = {100 * statistics.masked_fraction:.2f} %"]


def _report_mesh(plane: Plane, left_out: np.ndarray, options: dict) -> list[str]:
    background, rms = sky.sky_model(plane.data, left_out, {**options, "method": "mesh"})
    return [f"mesh   = {background.min():.2f} to {background.max():.2f}, rms {rms:.2f}"]


@contextmanager
def sentences(command: str) -> Iterator[None]:
    """End a command with one sentence, and status 1, where the user can help."""
    try:
        yield
    except RejectedFrame as verdict:
        sys.exit(f"{command}: {verdict.reason}")
    except MemoryError:
        sys.exit(f"{command}: an image of this size does not fit into memory")
    except OSError as error:
        sys.exit(f"{command}: {error if error.errno is None else f'{error.filename}: {error.strerror}'}")
    except ValueError as error:
        sys.exit(f"{command}: {error}")


def _scene_parser() -> argparse.ArgumentParser:
    parser = _parser("scene", "Make a synthetic image of stars and galaxies on a sky of known level and noise.")
    add = parser.add_argument
    _add_output(parser, "image to write, .fits; the table of its sources goes beside it")
    add("-x", "--size-x", type=int, metavar="N", help="columns, pixel")
    add("-y", "--size-y", type=int, metavar="N", help="rows, pixel")
    add("-n", "--nstars", type=int, dest="stars", metavar="N", help="number of stars")
    add("-g", "--ngalaxies", type=int, dest="galaxies", metavar="N", help="number of galaxies")
    add("-f", "--flux-min", type=float, metavar="ADU", help="least central brightness of a star")
    add("-p", "--fwhm-psf", type=float, dest="fwhm", metavar="PIXEL", help="FWHM of stars")
    add("-d", "--fwhm-stddev", type=float, metavar="PIXEL", help="spread of the stars' FWHM")
    add("-q", "--fwhm-psf-gal", type=float, dest="galaxy_fwhm", metavar="PIXEL", help="FWHM of galaxies")
    help_of_r = "spread of the galaxies' FWHM"
    add("-r", "--fwhm-psf-gal-stddev", type=float, dest="galaxy_fwhm_stddev", metavar="PIXEL", help=help_of_r)
    add("-s", "--sky", type=float, metavar="ADU", help="level of the sky")
    add("-e", "--sky-stddev", type=float, metavar="ADU", help="noise of the sky")
    add("--star-profile", choices=("gaussian", "moffat"), help="profile of stars")
    add("--galaxy-profile", choices=("gaussian", "sersic"), help="profile of galaxies")
    add("--seed", type=int, default=argparse.SUPPRESS, metavar="N", help="of the random numbers (default: random)")
    add("--as-published", action="store_true", help="with the course's slips: FWHM as stddev, axes swapped")
    parser.set_defaults(**{f.name: f.default for f in fields(scenes.Scene) if f.name != "seed"})
    return parser


def _mask_parser() -> argparse.ArgumentParser:
    parser = _parser("mask", "Find the stars and galaxies of an image, and write it with a mask of their pixels.")
    _add_input(parser)
    _add_output(parser, "image to write, .fits, with the extension MASK")
    _add_detection(parser)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="picture of the image, masked pixels black, .png")
    return parser


def _sky_parser() -> argparse.ArgumentParser:
    parser = _parser("sky", "Measure the sky of an image: clipped mean, median, mode (3 median - 2 mean) and stddev.")
    add = parser.add_argument
    _add_input(parser)
    help_of_mask = "file whose MASK extension, or image, is not zero where pixels are left out"
    add("--mask", type=Path, metavar="FILE", help=f"{help_of_mask} (default: the input's, else it is made)")
    _add_detection(parser)
    add("-r", "--sigma-clipping", type=_positive, default=4.0, metavar="SIGMA", help="clipping limit")
    add("--clipping-maxiters", type=_count, default=10, metavar="N", help="largest number of rounds of clipping")
    add("--method", choices=("scalar", "mesh"), default="scalar", help="mesh: fit the 2-D model of the sky too")
    add("--as-published", action="store_true", help="with the course's slip: the mask is not used")
    return parser


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """States each default but "None" and "False", which say nothing."""

    def _get_help_string(self, action):
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=name, description=description, formatter_class=_HelpFormatter)


def _number(kind: type, least: float, inclusive: bool):
    """Type of a command's argument: a finite number from, or above, `least`."""

    def number(text: str):
        value = kind(text)
        if not (least <= value if inclusive else least < value) or abs(value) == float("inf"):
            raise argparse.ArgumentTypeError(
                f"expected a number {'from' if inclusive else 'above'} {least}, got {text}"
            )
        return value

    return number


_positive = _number(float, 0, inclusive=False)
_count, _size = _number(int, 1, inclusive=True), _number(int, 0, inclusive=True)


def _add_input(parser: argparse.ArgumentParser) -> None:
    text = "image to read: a scene, a raw frame or a product"
    parser.add_argument("-i", "--input-file", dest="input", type=Path, required=True, metavar="FILE",
                        default=argparse.SUPPRESS, help=text)  # fmt: skip


def _add_output(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("-o", "--output-file", dest="output", type=Path, required=True, metavar="FILE",
                        default=argparse.SUPPRESS, help=text)  # fmt: skip


def _add_detection(parser: argparse.ArgumentParser) -> None:
    defaults, add = sources.MASK_DEFAULTS, parser.add_argument
    add("-t", "--threshold", type=_positive, metavar="SIGMA", help="lower limit of a source region")
    add("-n", "--npixels", type=_count, metavar="N", help="smallest source, pixel")
    add("-s", "--dilate-size", type=_size, dest="dilation", metavar="N", help="diameter by which the mask grows, pixel")
    add("-m", "--maxiters", type=_count, metavar="N", help="largest number of rounds of masking")
    parser.set_defaults(**{name: defaults[name] for name in ("threshold", "npixels", "dilation", "maxiters")})
