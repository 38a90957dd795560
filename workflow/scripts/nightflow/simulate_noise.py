"""Random numbers of the simulated night: streams by name, and Poisson counts that follow their mean smoothly."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np


def stream(seed: int, *names: str) -> np.random.Generator:
    """Random generator that depends on `seed` and `names` and on nothing else.

    Each effect of each frame draws from its own stream, so that neither the order of the work, nor the number of
    cores, nor another effect changes its numbers.

    Parameters
    ----------
    seed : int
    *names : str
        For example the effect and the frame.
    """
    digest = blake2b("\0".join(names).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int.from_bytes(digest)])))


def poisson(expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Poisson counts by inversion: one uniform number a pixel, whatever the mean.

    Inversion makes the counts of two frames with the same stream and slightly different means differ slightly. It
    uses the asymptotic inverse of Giles (2016, ACM Trans. Math. Softw. 42, 7, section 2.2, Q_N2 with the next term)
    above a mean of 10 and the summed probabilities below it.

    Parameters
    ----------
    expected : ndarray, shape (ny, nx)
        Mean counts; negative values count as zero.
    rng : `~numpy.random.Generator`

    Returns
    -------
    counts : ndarray of float32, shape (ny, nx)
    """
    from scipy.special import ndtri

    mean = np.maximum(expected, 0).astype(np.float64)
    uniform = rng.random(mean.shape)
    np.clip(uniform, 1e-16, None, out=uniform)
    counts = np.empty(mean.shape, np.float32)
    low = mean < 10
    counts[low] = _summed_inverse(mean[low], uniform[low])
    high = ~low
    counts[high] = _asymptotic_inverse(mean[high], ndtri(uniform[high]))
    return counts


def _asymptotic_inverse(mean: np.ndarray, w: np.ndarray) -> np.ndarray:
    root = np.sqrt(mean)
    w2 = w * w
    inverse = mean + root * w + (1 / 3 + w2 / 6) - w * (1 / 36 + w2 / 72) / root
    inverse += (-8 / 405 + w2 * (7 / 810 + w2 / 270)) / mean
    return np.maximum(np.floor(inverse), 0)


def _summed_inverse(mean: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    counts = np.zeros(mean.shape, np.float32)
    probability = np.exp(-mean)
    cumulative = probability.copy()
    for k in range(1, 60):  # a mean of 10 exceeds 60 with a probability below 1e-25
        above = uniform > cumulative
        if not above.any():
            break
        counts += above
        probability *= mean / k
        cumulative += probability
    return counts
