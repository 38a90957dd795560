"""How much less deep a light is than the others of its kind, and what makes it so.

A star of given magnitude has the signal S = transparency x exposure and, where the sky dominates, the noise
N = noise of a sky pixel x FWHM (the square root of the pixels under it). The magnitude at which S / N reaches a limit
thus changes by 2.5 log10 of each of these factors (King 1983, PASP 95, 163), and the changes add up.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

NOTABLE = 0.1  # mag; smaller losses are nobody's concern
_ELONGATED = 0.1  # ellipticity above the group's median

# measure of the quality table -> words, unit, and whether more of it makes a frame deeper
_FACTORS = {
    "fwhm": ("seeing", " px"),
    "sky_std": ("noise of the sky", ""),
    "flux_scale": ("transparency", ""),
}


def depth_losses(quality: pd.DataFrame) -> pd.DataFrame:
    """Loss of depth of each light against the median of the lights of its target, filter and exposure time.

    Parameters
    ----------
    quality : DataFrame
        With ``target``, ``filter``, and where they are known ``exptime``, ``fwhm`` (px), ``sky_std`` (of a pixel) and
        ``flux_scale`` (by which a frame's fluxes are multiplied to be on the reference's scale).

    Returns
    -------
    DataFrame
        Indexed as `quality`: ``depth_loss`` (mag, positive is less deep; NaN where nothing is known) and ``weakness``,
        a sentence, empty where nothing is notable.
    """
    keys = [name for name in ("target", "filter", "exptime") if name in quality]
    table = quality.reindex(columns=[*keys, *_FACTORS, "ellipticity"])
    numbers = table[[*_FACTORS, "ellipticity"]].apply(pd.to_numeric, errors="coerce")
    numbers = numbers.where(numbers > 0)
    groups = [table[name].astype(str) for name in keys]
    medians = numbers.groupby(groups, dropna=False).transform("median")
    losses = 2.5 * np.log10(numbers[list(_FACTORS)] / medians[list(_FACTORS)])
    total = losses[["fwhm", "sky_std"]].sum(axis=1, min_count=2) + losses["flux_scale"].fillna(0)
    rows = zip(losses.to_dict("records"), numbers.to_dict("records"), medians.to_dict("records"), total, strict=True)
    sentences = [_sentence(*row) for row in rows]
    return pd.DataFrame({"depth_loss": total, "weakness": sentences}, index=quality.index)


def _sentence(losses: dict, values: dict, medians: dict, total: float) -> str:
    """What a light is worse in than its group, the largest part first."""
    parts = []
    if total >= NOTABLE:
        causes = sorted((name for name in _FACTORS if losses[name] >= NOTABLE / 3), key=lambda name: -losses[name])
        parts = [_cause(name, losses[name], values[name], medians[name]) for name in causes]
        parts = [f"{total:.2f} mag less deep than the group: " + ", ".join(parts)]
    if values["ellipticity"] - medians["ellipticity"] > _ELONGATED:
        parts.append(
            f"stars are elongated: ellipticity {values['ellipticity']:.2f}, median {medians['ellipticity']:.2f}"
        )
    return "; ".join(parts)


def _cause(name: str, loss: float, value: float, median: float) -> str:
    words, unit = _FACTORS[name]
    if name == "flux_scale":
        return f"{words} {100 * median / value:.0f} % of the median ({loss:.2f} mag)"
    return f"{words} {value:.3g}{unit}, median {median:.3g}{unit} ({loss:.2f} mag)"


def worst_first(quality: pd.DataFrame) -> pd.DataFrame:
    """The lights, worst first: those that could not be stacked, then by the loss of depth."""
    unusable = quality["status"].ne("ok")
    left_out = ~quality["used"].astype(bool)
    loss = pd.to_numeric(quality["depth_loss"], errors="coerce").fillna(-np.inf)
    order = pd.DataFrame({"unusable": unusable, "left_out": left_out, "loss": loss, "frame": quality["frame"]})
    return quality.loc[order.sort_values(list(order), ascending=[False, False, False, True]).index]
