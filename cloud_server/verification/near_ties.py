"""Positions whose token could be another one if the logits were rounded in another way. Pure: no
model, no network.
"""

import math

import numpy as np

from hedge.common.coupling import contenders
from hedge.common.sampling import Warp, sort_descending

# Beyond this e^x is no float64.
COLD = 700.0


def is_near_tie(
    logits: np.ndarray,
    probs: np.ndarray,
    warp: Warp,
    difference: float,
    integers: np.ndarray | None,
    rest: float = 0.0,
) -> bool:
    """Whether the runner-up of a position is within `difference`, in logits, of the winner.

    At temperature 0 by the raw `logits` [V]; else by the coupled draw from `probs` [V], which is
    W(logits), with its noise, the `integers` [V]. A token that top-k, top-p or min-p keeps or drops
    by less than that counts too. Without noise there is no winner: False. `rest` bounds the weight
    of tokens that are not known, on the scale of exp((logits - max) / temperature).
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
    lowest = logits[kept].min()
    highest = logits[~kept].max()
    doubtful = np.where(kept, logits <= highest + difference, logits >= lowest - difference)
    if warp.min_p > 0:
        bound = logits.max() + warp.temperature * math.log(warp.min_p)
        doubtful |= np.abs(logits - bound) <= 2 * difference
    if warp.top_p < 1:
        doubtful |= _at_top_p(logits, warp, difference, rest)
    top = int(probs.argmax())
    with np.errstate(under="ignore"):
        dropped = probs[top] * np.exp((logits.astype(np.float64) - logits[top]) / warp.temperature)
    near = contenders(np.where(~kept & doubtful, dropped, probs), integers, factor)
    return len(near) > 1 or bool(doubtful[near[0]])


def _at_top_p(logits: np.ndarray, warp: Warp, difference: float, rest: float) -> np.ndarray:
    """bool [V]: what top-p could both keep and drop, where no two logits come nearer by more than
    `difference`.
    """
    order = sort_descending(logits)
    order = order[: warp.top_k] if warp.top_k else order
    falling = logits[order].astype(np.float64)
    weights = np.exp((falling - float(logits.max())) / warp.temperature)
    sums = np.append(0.0, np.cumsum(weights))
    factor = math.exp(difference / warp.temperature)
    # What comes before a token for certain, and what may; and what of all is then behind it.
    before = sums[np.searchsorted(-falling, -falling - difference, side="left")]
    possible = sums[np.searchsorted(-falling, -falling + difference, side="right")] - weights
    behind = sums[-1] - before + (0.0 if warp.top_k else rest)
    least = before / (before + behind * factor)
    most = possible * factor / (possible * factor + sums[-1] - possible)
    doubtful = np.zeros(len(logits), bool)
    doubtful[order] = (least < warp.top_p) & (warp.top_p <= most)
    return doubtful
