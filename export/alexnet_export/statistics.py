"""The formulas behind the gate's figures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Z_95 = 1.959963984540054  # the normal distribution's 97.5% point
EQUAL_DB = 200.0  # stands for an exact match, whose ratio has no finite logarithm


def signal_to_noise_db(reference: npt.NDArray[Any], values: npt.NDArray[Any]) -> float:
    """Return 10 log10(sum reference^2 / sum (reference - values)^2) in decibels, computed in float64.

    Args:
        reference: Values of any shape.
        values: Values of the same shape.

    Returns:
        -200 to 200; 200 if they are equal, -200 if one of them is not finite.
    """
    wide = reference.astype(np.float64)
    noise = float(np.sum((wide - values.astype(np.float64)) ** 2))
    signal = float(np.sum(wide**2))
    if not math.isfinite(noise) or signal == 0.0 < noise:
        return -EQUAL_DB
    if noise == 0.0:
        return EQUAL_DB
    return float(np.clip(10 * math.log10(signal / noise), -EQUAL_DB, EQUAL_DB))


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the softmax over the last axis, in float64."""
    powers: npt.NDArray[np.float64] = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    shares: npt.NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """Return the 95% interval of the share `hits / total` (Wilson, 1927), within 0 to 1."""
    share = hits / total
    centre = share + Z_95**2 / (2 * total)
    half = Z_95 * math.sqrt(share * (1 - share) / total + Z_95**2 / (4 * total**2))
    scale = 1 + Z_95**2 / total
    return (max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))


def paired_drop_interval(to_wrong: int, to_right: int, total: int) -> tuple[float, float]:
    """Return the 95% interval of a fall in accuracy on the same images, as a share.

    Agresti and Min (2005): the Wald interval for matched pairs with half an image added to each of the four
    cells, which holds its level when few or no images flip.

    Args:
        to_wrong: Images that were right before and are wrong now.
        to_right: Images that were wrong before and are right now.
        total: All images.
    """
    wrong, right, n = to_wrong + 0.5, to_right + 0.5, total + 2
    drop = (wrong - right) / n
    half = Z_95 * math.sqrt((wrong + right) - (wrong - right) ** 2 / n) / n
    return (drop - half, drop + half)
