"""Ours: a transmitter that knows its receiver tries the reception out before it decides what to leave out."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wireless.masked import MaskedLM
from wireless.packet import MaskOrder, adaptive_mask, detect, send
from wireless.qam import Fade, Qam

REHEARSED = "rehearsed"
SHARES = (0.25, 0.5, 0.75, 1.0)
TRIALS = 2


def rehearsed_mask(
    lm: MaskedLM, qam: Qam, fade: Fade, orders: Sequence[MaskOrder], ids: NDArray[np.int64], rng: np.random.Generator
) -> list[int]:
    """Of nothing, and of quarters of what each of `orders` leaves out by the published rule, the one after which most tokens
    arrive in trials on noise of the transmitter's own; of equal ones the shortest.
    """
    masks: list[list[int]] = [[]]
    for order in orders:
        published = adaptive_mask(qam, fade, order, len(ids))
        masks += [published[: round(share * len(published))] for share in SHARES if published]
    seeds = rng.integers(1 << 32, size=TRIALS)

    def right(masked: list[int]) -> int:
        noises = (np.random.default_rng(seed) for seed in seeds)
        return sum(int((detect(lm, send(qam, fade, ids, masked, noise)) == ids).sum()) for noise in noises)

    return max(masks, key=lambda masked: (right(masked), -len(masked)))
