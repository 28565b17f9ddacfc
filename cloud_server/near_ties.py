"""Positions whose token could be another one if the logits were rounded in another way. Pure: no model, no network."""

import math

import numpy as np

from common.coupling import contenders
from common.sampling import Warp

# Beyond this e^x is no float64.
COLD = 700.0


def near_tie(logits: np.ndarray, probs: np.ndarray, warp: Warp, difference: float, integers: np.ndarray | None) -> bool:
    """Whether the runner-up of a position is within `difference`, in logits, of the winner.

    At temperature 0 by the raw `logits` [V]; else by the coupled draw from `probs` [V], which is W(logits), with its noise, the
    `integers` [V]. A token that top-k or top-p keeps or drops by less than that counts too. Without noise there is no winner:
    False.
    """
    # So cold that the runner-up's probability may be less than a number can be.
    if warp.greedy or difference / warp.temperature > COLD:
        return int(np.count_nonzero(logits >= logits.max() - difference)) > 1
    if integers is None:
        return False
    factor = math.exp(difference / warp.temperature)
    kept = probs > 0
    if not warp.cuts or kept.all():
        return len(contenders(probs, integers, factor)) > 1
    lowest, highest = logits[kept].min(), logits[~kept].max()
    doubtful = np.where(kept, logits <= highest + difference, logits >= lowest - difference)
    if warp.min_p > 0:
        bound = logits.max() + warp.temperature * math.log(warp.min_p)
        doubtful |= np.abs(logits - bound) <= 2 * difference
    top = int(probs.argmax())
    with np.errstate(under="ignore"):
        dropped = probs[top] * np.exp((logits.astype(np.float64) - logits[top]) / warp.temperature)
    near = contenders(np.where(~kept & doubtful, dropped, probs), integers, factor)
    return len(near) > 1 or bool(doubtful[near[0]])
