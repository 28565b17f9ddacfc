"""Ours: a transmitter that knows its receiver plays it before it decides what to leave out."""

import math

import numpy as np
from numpy.typing import NDArray

from research.wireless.masked import MaskedLM
from research.wireless.packet import detect, send
from research.wireless.qam import Fade, Qam, transmit

TRIALS = 3
DRAWS = 2
# Counts of tokens left out that are compared: multiples of this, or of less where there are few to
# choose from.
STEP = 4


def space_out(order: NDArray[np.int64]) -> list[int]:
    """The greedy choice, in this order, without neighbours: they say most about each other."""
    chosen: set[int] = set()
    for at in map(int, order):
        if at - 1 not in chosen and at + 1 not in chosen:
            chosen.add(at)
    return [at for at in map(int, order) if at in chosen]


def rehearse_mask(
    lm: MaskedLM, qam: Qam, fade: Fade, ids: NDArray[np.int64], rng: np.random.Generator
) -> list[int]:
    """The positions that are left out, in the order in which the receiver would know them best.

    The packet is received whole in `TRIALS` trials on noise drawn from `rng`; what the masked model
    then expects at each position is what the receiver would know of it unheard. As many are
    proposed as give most tokens right in expectation: those left out by that prior alone, the
    others by it and by what is heard at the power that they then have (`DRAWS` noises). Each round
    of a receiver builds on the last, which the expectation does not see: of the proposal, its first
    half and nothing the one is taken with which most arrives in the same trials.
    """
    here = np.arange(len(ids))
    seeds = rng.integers(1 << 32, size=TRIALS)

    def received(masked: list[int]) -> list[NDArray[np.int64]]:
        return [
            detect(lm, send(qam, fade, ids, masked, np.random.default_rng(seed))) for seed in seeds
        ]

    def right(trials: list[NDArray[np.int64]]) -> int:
        return sum(int((found == ids).sum()) for found in trials)

    whole = received([])
    chosen = list[int]()
    most = right(whole)
    if most == TRIALS * len(ids):
        return []
    priors = [lm.log_priors(found, here) for found in whole]
    true = np.mean([np.exp(prior[here, ids]) for prior in priors], axis=0)
    order = space_out(np.argsort(-true, kind="stable"))
    proposal = order[: count_best(qam, fade, ids, order, priors, rng)]
    for masked in (proposal[: len(proposal) // 2], proposal):
        if masked and (arrived := right(received(masked))) > most:
            chosen = masked
            most = arrived
    return chosen


def count_best(
    qam: Qam,
    fade: Fade,
    ids: NDArray[np.int64],
    order: list[int],
    priors: list[NDArray[np.float64]],
    rng: np.random.Generator,
) -> int:
    """How many of `order` to leave out for most tokens right in expectation, else the fewest."""
    here = np.arange(len(ids))
    guessed = np.mean([prior.argmax(axis=1) == ids for prior in priors], axis=0)
    symbols = qam.modulate(ids)
    silence = np.zeros_like(symbols)
    noises = [transmit(silence, fade, 0.0, rng)[0] for _ in range(DRAWS)]

    def expected(count: int) -> float:
        sent = np.setdiff1d(here, order[:count])
        if not len(sent):
            return float(guessed.sum())
        amplitude = fade.h * math.sqrt(fade.power * len(ids) / len(sent))
        heard = 0
        for noise in noises:
            evidence = qam.log_likelihood(
                amplitude * symbols[sent] + noise[sent], amplitude, fade.noise
            )
            heard += sum(
                int(((evidence + prior[sent]).argmax(axis=1) == ids[sent]).sum())
                for prior in priors
            )
        return float(guessed[order[:count]].sum()) + heard / (len(priors) * DRAWS)

    return max(range(0, len(order) + 1, max(1, min(STEP, len(order) // 8))), key=expected)
