"""The coupled draw from a position's likeliest tokens alone, where it can be shown that no other
token matters.

The noise of every token is known (`hedge.common.coupling`), so that a token outside of them can win
only if its own noise beats the winner even at the probability of the least likely known one.
Likewise top-k and top-p: either the kept tokens are among the known ones for certain, or more of
them are needed. Pure: no model, no network.
"""

import math
from dataclasses import dataclass

import numpy as np

from hedge.cloud_server.verification.base import Drawn
from hedge.cloud_server.verification.near_ties import COLD, is_near_tie
from hedge.common.coupling import race_times
from hedge.common.sampling import Warp, largest

# Of sums of float32 logprobs, and of times.
_SLACK = 1e-5
_COLDEST = 1e-300


@dataclass(frozen=True, slots=True)
class Top:
    """The likeliest tokens of a position, or all: `ids` ascending, their raw `logprobs` float32,
    both [K].

    No other token has more than `least`, which is -inf where there is no other.
    """

    ids: np.ndarray
    logprobs: np.ndarray
    least: float = -math.inf


def certify(top: Top, warp: Warp, integers: np.ndarray, difference: float = 0.0) -> Drawn | None:
    """The token that `integers` [V], the position's noise, draw from the warped distribution; None
    where more must be known.

    `difference`: by how much rounding moves a logit. A near tie that only an unknown token might be
    is counted as one.
    """
    logprobs = top.logprobs.astype(np.float64)
    if warp.greedy:
        return _greedy(top, difference)
    probs = (
        warp(top.logprobs)
        if top.least == -math.inf
        else _warped(logprobs, warp, top.least, len(integers))
    )
    if probs is None:
        return None
    own = integers[top.ids]
    times = race_times(probs, own)
    best = int(times.argmin())
    if warp.cuts or top.least == -math.inf:
        near = difference > 0 and _is_near_cut(
            top, logprobs, probs, warp, own, len(integers), difference
        )
        return Drawn(int(top.ids[best]), near)
    earliest = _earliest_unknown(top, logprobs, probs, warp, integers)
    if not times[best] * (1 + _SLACK) < earliest:
        return None
    near = difference > 0 and (
        is_near_tie(top.logprobs, probs, warp, difference, own)
        or bool(earliest <= times[best] * math.exp(min(COLD, difference / warp.temperature)))
    )
    return Drawn(int(top.ids[best]), near)


def _is_near_cut(
    top: Top,
    logprobs: np.ndarray,
    probs: np.ndarray,
    warp: Warp,
    integers: np.ndarray,
    vocab_size: int,
    difference: float,
) -> bool:
    """Whether rounding could decide the draw, or let a token in that is not known."""
    unknown = warp.top_p < 1 and top.least > -math.inf
    rest = _rest(logprobs, top.least, warp, vocab_size) if unknown else 0.0
    if is_near_tie(top.logprobs, probs, warp, difference, integers, rest):
        return True
    if not warp.cuts:
        return False
    if _edge(logprobs, probs, warp, difference) <= top.least:
        return True
    return rest > 0 and _may_come_in(logprobs, top.least, warp, difference, rest)


def _earliest_unknown(
    top: Top, logprobs: np.ndarray, probs: np.ndarray, warp: Warp, integers: np.ndarray
) -> float:
    """The earliest time of an unknown token: the largest noise at the least known probability."""
    others = integers.copy()
    others[top.ids] = 0
    likeliest = float(probs.max()) * _cooled_weight(top.least - float(logprobs.max()), warp)
    if likeliest == 0:
        return math.inf
    return -math.log((int(others.max()) + 0.5) * 2.0**-52) / likeliest


def _edge(logprobs: np.ndarray, probs: np.ndarray, warp: Warp, difference: float) -> float:
    """The logprob from which on a token that is not kept could be, if it were rounded in another
    way.
    """
    edge = float(logprobs[probs > 0].min()) - difference
    if warp.min_p > 0:
        edge = min(
            edge, float(logprobs.max()) + warp.temperature * math.log(warp.min_p) - 2 * difference
        )
    return edge


def _may_come_in(
    logprobs: np.ndarray, least: float, warp: Warp, difference: float, rest: float
) -> bool:
    """Whether top-p could keep an unknown token, which has at most `least`."""
    if warp.top_k:
        return False
    before = float(
        np.exp(_cooled(logprobs[logprobs > least + difference] - logprobs.max(), warp)).sum()
    )
    behind = (
        float(
            np.exp(_cooled(logprobs[logprobs <= least + difference] - logprobs.max(), warp)).sum()
        )
        + rest
    )
    return before < warp.top_p * (
        before + behind * math.exp(min(COLD, difference / max(warp.temperature, _COLDEST)))
    )


def _warped(logprobs: np.ndarray, warp: Warp, least: float, vocab_size: int) -> np.ndarray | None:
    """The warped distribution over the known tokens, [K]; None where top-k or top-p depend on the
    others.
    """
    weights = np.exp(_cooled(logprobs - logprobs.max(), warp))
    kept = _kept(logprobs, weights, warp, least, vocab_size)
    if kept is None or (warp.cuts and logprobs[kept].min() <= least):
        return None
    probs = np.where(kept, weights, 0.0)
    return np.asarray(probs / probs.sum())


def _cooled(logprobs: np.ndarray, warp: Warp) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(logprobs / max(warp.temperature, _COLDEST))


def _cooled_weight(logprob: float, warp: Warp) -> float:
    return math.exp(max(-COLD, logprob / max(warp.temperature, _COLDEST)))


def _greedy(top: Top, difference: float) -> Drawn | None:
    best = top.logprobs.max()
    if best <= top.least:
        return None
    near = difference > 0 and int(np.count_nonzero(top.logprobs >= best - difference)) > 1
    return Drawn(
        int(top.ids[top.logprobs.argmax()]),
        near or (difference > 0 and top.least >= best - difference),
    )


def _kept(
    logprobs: np.ndarray, weights: np.ndarray, warp: Warp, least: float, vocab_size: int
) -> np.ndarray | None:
    """bool [K]: what top-k and then top-p keep; None where that depends on the others. Ties go to
    the lowest id.
    """
    count = len(weights)
    kept = np.ones(count, dtype=bool)
    if warp.top_k:
        if warp.top_k > count:
            return None
        kept = np.zeros(count, dtype=bool)
        kept[largest(logprobs, warp.top_k)] = True
    if warp.top_p == 1:
        return _min_p(weights, kept, warp)
    order = np.flatnonzero(kept)[np.argsort(-logprobs[kept], kind="stable")]
    sums = np.cumsum(weights[order])
    most = 0.0 if warp.top_k else _rest(logprobs, least, warp, vocab_size)
    # The sums of all tokens are rounded in another order.
    bounds = warp.top_p * sums[-1] * (1 - _SLACK), warp.top_p * (sums[-1] + most) * (1 + _SLACK)
    needed = {int(np.searchsorted(sums, bound)) + 1 for bound in bounds}
    if len(needed) > 1:
        return None
    kept[:] = False
    kept[order[: max(needed)]] = True
    return _min_p(weights, kept, warp)


def _min_p(weights: np.ndarray, kept: np.ndarray, warp: Warp) -> np.ndarray | None:
    """What min-p leaves of what is `kept`; None where rounding decides."""
    shares = weights[kept] / weights[kept].max()
    if warp.min_p and (np.abs(shares - warp.min_p) <= _SLACK * warp.min_p).any():
        return None
    return np.asarray(kept & (weights >= warp.min_p * weights[kept].max()))


def _rest(logprobs: np.ndarray, least: float, warp: Warp, vocab_size: int) -> float:
    """The most that the weights of all other tokens can sum up to, on the scale of exp((logprobs -
    max) / temperature).

    Their probabilities p sum up to at most what is left of 1, none is above the least known one,
    and p^(1/T) is p p^(1/T - 1), which grows with p where T is below 1.
    """
    each = _cooled_weight(least - float(logprobs.max()), warp)
    most = (vocab_size - len(logprobs)) * each
    if warp.temperature > 1:
        return most
    left = max(0.0, 1 - float(np.exp(logprobs).sum())) + _SLACK
    return min(most, left * each / math.exp(least))
