"""Combine bias frames with nightflow and with ccdproc, in turn, and compare what they took.

    python benchmarks/combining.py --frames 10 40 --rounds 3

Run it with a Python that has the packages of benchmarks/requirements.txt. All read the same files. Reading them and
sorting their pixels once, with numpy, is what an exact median costs at least.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import ccdproc
import numpy as np
from astropy.io import fits
from astropy.stats import mad_std

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow" / "scripts"))
from nightflow import masters

DETECTOR = {"gain": 1.5, "read_noise": 6.0}
OPTIONS = {"clip_low": 5.0, "clip_high": 5.0, "clip_fraction": 0.0, "memory_mb": 256}


def bias_frames(folder: Path, number: int, pixels: int) -> list[str]:
    """Files of bias frames, of which a pixel in ten thousand has a ray."""
    rng = np.random.default_rng(number)
    paths = []
    for n in range(number):
        frame = rng.normal(1000, 4, (pixels, pixels))
        frame.flat[rng.integers(0, frame.size, frame.size // 10_000)] += 3000
        paths.append(str(folder / f"bias_{n:03d}.fits"))
        fits.writeto(paths[-1], np.rint(frame).astype(np.uint16))
    return paths


def with_nightflow(paths: list[str], method: str) -> np.ndarray:
    return masters.make_bias(paths, DETECTOR, {**OPTIONS, "method": method}).data


def with_ccdproc(paths: list[str], method: str) -> np.ndarray:
    if method == "median":
        return ccdproc.combine(paths, method="median", unit="adu", mem_limit=2e9).data
    return ccdproc.combine(
        paths, method="average", unit="adu", mem_limit=2e9, sigma_clip=True, sigma_clip_low_thresh=5,
        sigma_clip_high_thresh=5, sigma_clip_func=np.ma.median, sigma_clip_dev_func=mad_std,
    ).data  # fmt: skip


def read_and_sorted(paths: list[str], _method: str) -> np.ndarray:
    planes = np.stack([fits.getdata(path).astype(np.float32) for path in paths])
    planes.sort(axis=0)
    return planes[len(planes) // 2]


def timed(combine, paths: list[str], method: str) -> float:
    start = time.process_time()
    combine(paths, method)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[10, 40])
    parser.add_argument("--pixels", type=int, default=2048, help="side of the frames")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| frames | method | nightflow CPU s | ccdproc to it | reading and sorting to it |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for number in chosen.frames:
            paths = bias_frames(Path(folder), number, chosen.pixels)
            for method in ("median", "clipped_mean"):
                ways = (with_nightflow, with_ccdproc, read_and_sorted)
                rounds = [[timed(way, paths, method) for way in ways] for _ in range(chosen.rounds)]
                own = statistics.median(r[0] for r in rounds)
                ratios = [statistics.median(r[k] / r[0] for r in rounds) for k in (1, 2)]
                print(f"| {number} | {method} | {own:.2f} | {ratios[0]:.1f} | {ratios[1]:.1f} |", flush=True)
            for path in paths:
                Path(path).unlink()


if __name__ == "__main__":
    main()
