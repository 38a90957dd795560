"""A planet before its star: the model that light curves are compared with."""

from __future__ import annotations

import numpy as np
from scipy.optimize import least_squares


def transit(time, middle, ratio, *, period, distance, inclination, limb):
    """Relative flux of a star with quadratic limb darkening behind a planet on a circular orbit.

    The star is a set of rings; of each, the planet covers the part of its circumference that lies within `ratio`
    (radius of the planet) of the planet's centre. `distance` is that of the planet, in radii of the star.
    """
    radius = (np.arange(400) + 0.5) / 400
    cosine = np.sqrt(1 - radius**2)
    light = (1 - limb[0] * (1 - cosine) - limb[1] * (1 - cosine) ** 2) * radius
    phase = 2 * np.pi * (np.asarray(time) - middle) / period
    apart = distance * np.hypot(np.sin(phase), np.cos(np.radians(inclination)) * np.cos(phase))
    apart = np.maximum(apart[:, None], 1e-9)
    covered = np.arccos(np.clip((radius**2 + apart**2 - ratio**2) / (2 * radius * apart), -1, 1)) / np.pi
    return 1 - (covered * light).sum(axis=1) / light.sum()


def fit(time, flux, error, first, **orbit):
    """Middle of the transit and ratio of the radii, with a level and a trend in time, outliers damped.

    The best of several starts, since a few points a quarter of an hour apart make local minima.
    """
    trend = (time - time.mean()) / np.ptp(time)

    def residual(p):
        return (flux - (p[2] + p[3] * trend) * transit(time, p[0], p[1], **orbit)) / error

    scale = [0.01, 0.01, 0.01, 0.01]
    starts = [[first + shift, 0.14, 1.0, 0.0] for shift in (-0.01, 0.0, 0.01)]
    solutions = [least_squares(residual, start, loss="soft_l1", x_scale=scale) for start in starts]
    best = min(solutions, key=lambda solution: solution.cost)
    return float(best.x[0]), float(best.x[1])
