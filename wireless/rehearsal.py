"""Ours: a transmitter that knows its receiver plays it before it decides what to leave out."""

import math

import numpy as np
from numpy.typing import NDArray

from wireless.masked import MaskedLM
from wireless.packet import detect, send
from wireless.qam import Fade, Qam, transmit

REHEARSED = "rehearsed"
TRIALS, DRAWS = 3, 2
# Counts of tokens left out that are compared: multiples of this.
STEP = 4


def spaced(order: NDArray[np.int64]) -> list[int]:
    """The greedy choice, in this order, of positions no two of which are neighbours: they say most about each other."""
    chosen: set[int] = set()
    for at in map(int, order):
        if at - 1 not in chosen and at + 1 not in chosen:
            chosen.add(at)
    return [at for at in map(int, order) if at in chosen]


def rehearsed_mask(lm: MaskedLM, qam: Qam, fade: Fade, ids: NDArray[np.int64], rng: np.random.Generator) -> list[int]:
    """The positions that are left out, in the order in which the receiver would know them best.

    The packet is received whole in `TRIALS` trials on noise drawn from `rng`; what the masked model then expects at each
    position is what the receiver would know of it unheard. As many are left out as give most tokens right in expectation: those
    left out by that prior alone, the others by it and by what is heard at the power that they then have (`DRAWS` noises).
    """
    here = np.arange(len(ids))
    priors = [lm.log_priors(detect(lm, send(qam, fade, ids, [], rng)), here) for _ in range(TRIALS)]
    true = np.mean([np.exp(prior[here, ids]) for prior in priors], axis=0)
    guessed = np.mean([prior.argmax(axis=1) == ids for prior in priors], axis=0)
    order = spaced(np.argsort(-true, kind="stable"))
    symbols = qam.modulate(ids)
    silence = np.zeros_like(symbols)
    noises = [transmit(silence, fade, 0.0, rng)[0] for _ in range(DRAWS)]

    def right(count: int) -> float:
        sent = np.setdiff1d(here, order[:count])
        if not len(sent):
            return float(guessed.sum())
        amplitude = fade.h * math.sqrt(fade.power * len(ids) / len(sent))
        heard = 0
        for noise in noises:
            evidence = qam.log_likelihood(amplitude * symbols[sent] + noise[sent], amplitude, fade.noise)
            heard += sum(int(((evidence + prior[sent]).argmax(axis=1) == ids[sent]).sum()) for prior in priors)
        return float(guessed[order[:count]].sum()) + heard / (TRIALS * DRAWS)

    # Of equal ones the first, which leaves out least.
    return order[: max(range(0, len(order) + 1, STEP), key=right)]
