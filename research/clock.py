"""The simulator's virtual clock: tau_SLM + payload / C + tau_LLM (docs/algorithms.md, section 2),
over recorded rounds.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hedge.common.codec import paper_bits
from hedge.common.errors import BadInput
from hedge.edge_client.engine.statistics import Round
from research.channel import Uplink

ACCOUNTS = ("paper", "payload")


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of an SLM step, and of an LLM pass: base + per_position x positions."""

    slm: float
    llm: float
    llm_position: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not 0 <= getattr(self, name) < math.inf:
                raise BadInput(
                    f"tau {name} {getattr(self, name):g} s is not a number of at least 0"
                )


def fit_times(slm_seconds: Sequence[float], log: Iterable[Round]) -> Times:
    """The times of recorded runs: the median SLM step, and a line through the median LLM passes of
    each length.

    What no run did takes no time.
    """
    passes = [(round_.positions, round_.forward_s) for round_ in log if round_.positions]
    if not passes and not slm_seconds:
        raise BadInput("nothing was measured: give --tau-slm and --tau-llm")
    slm = float(np.median(slm_seconds)) if slm_seconds else 0.0
    if not passes:
        return Times(slm, 0.0)
    positions, seconds = np.array(passes).T
    levels = [
        (p, float(np.median(seconds[positions == p])))
        for p in np.unique(positions)
        if (positions == p).sum() >= 20
    ]
    if len(levels) < 2:
        return Times(slm, float(np.median(seconds)))
    counts = np.array([(positions == p).sum() for p, _ in levels])
    sizes, medians = np.array(levels).T
    slope, base = np.polyfit(sizes, medians, 1, w=np.sqrt(counts))
    return Times(slm, max(0.0, float(base)), max(0.0, float(slope)))


def bits_of(round_: Round, account: str, vocab_size: int, accounted: int) -> float:
    """Uplink bits: the paper's k (b_prob + b_index) as if |V| were `accounted`, or the bytes of the
    message.
    """
    if account == "payload":
        return 8.0 * round_.uplink_bytes
    entries = accounted if round_.entries >= vocab_size else round_.entries
    return float(paper_bits(accounted, entries))


@dataclass(slots=True)
class Clock:
    """Seconds since the first token; the downlink is free, as in the papers."""

    times: Times
    uplink: Uplink
    now: float = 0.0

    def draft(self, tokens: int) -> None:
        self.now += tokens * self.times.slm

    def ask(self, bits: float, positions: int) -> None:
        if bits:
            self.now += self.uplink.send(bits, self.now)
        self.now += self.times.llm + positions * self.times.llm_position


def replay(clock: Clock, log: Sequence[Round], bits: Sequence[float], steps: int) -> float:
    """Seconds of one answer of `steps` SLM steps from its rounds; the steps after the last round
    are drafted alone.
    """
    started = clock.now
    for round_, size in zip(log, bits, strict=True):
        clock.draft(round_.drafted)
        clock.ask(size, round_.positions)
    clock.draft(steps - sum(round_.drafted for round_ in log))
    return clock.now - started
