"""Joint token masking and detection (docs/algorithms.md, section 5)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from research.wireless.masked import MaskedLM, entropy
from research.wireless.qam import Fade, Qam, transmit
from research.wireless.rules import Rule

ROUNDS = 5
FROZEN_BITS = 2e-3
# Nats between the two likeliest tokens that no prior of these models makes up for: such a token is
# frozen from the start.
BEYOND_DOUBT = 40.0
# Stale priors that are refreshed at once.
_REFRESH = 6


class MaskOrder:
    """The greedy order of masking, each position with ln prior(true token) when it was chosen.

    `entropy`: the lowest prior entropy of those not masked; `true-token`: the highest prior of the
    true token. A prior is computed again only when it comes to the front: a context with more masks
    is taken to make none of them better.
    """

    def __init__(
        self,
        lm: MaskedLM,
        ids: NDArray[np.int64],
        rule: Rule,
        first: NDArray[np.float64] | None = None,
    ) -> None:
        self._lm = lm
        self._ids = ids
        self._rule = rule
        self._context = ids.copy()
        log_probs = lm.log_priors(ids, np.arange(len(ids))) if first is None else first
        self._score = np.empty(len(ids))
        self._true = np.empty(len(ids))
        self._fresh = np.ones(len(ids), bool)
        self._take(np.arange(len(ids)), log_probs)
        self.order: list[int] = []
        self.log_true: list[float] = []

    def _take(self, positions: NDArray[np.int64], log_probs: NDArray[np.float64]) -> None:
        self._true[positions] = log_probs[np.arange(len(positions)), self._ids[positions]]
        self._score[positions] = (
            entropy(log_probs) if self._rule == "entropy" else -self._true[positions]
        )
        self._fresh[positions] = True

    def advance(self) -> tuple[int, float]:
        """The next position, and ln prior(true token) there."""
        while True:
            best = int(np.argmin(self._score))
            if self._fresh[best]:
                break
            stale = np.flatnonzero(~self._fresh & np.isfinite(self._score))
            again = stale[np.argsort(self._score[stale], kind="stable")[:_REFRESH]]
            self._take(again, self._lm.log_priors(self._context, again))
        found = best, float(self._true[best])
        self._context[best] = self._lm.mask
        self._score[best] = math.inf
        self._fresh[:] = False
        self.order.append(best)
        self.log_true.append(found[1])
        return found


def log_detected(qam: Qam, fade: Fade, length: int, masked: int) -> float:
    """ln Pd1(n) = (T - n) bits ln(1 - Pb(P / (T - n))), P = T x the mean power of a token; 0 with
    nothing sent.
    """
    sent = length - masked
    if not sent:
        return 0.0
    error = float(qam.bit_error(fade.power * length / sent, fade.gain))
    return sent * qam.bits * math.log1p(-min(error, 1 - 1e-15))


def adaptive_mask(qam: Qam, fade: Fade, order: MaskOrder, length: int) -> list[int]:
    """Masks as long as the running geometric mean of Pd0 is at least that of Pd1; the positions
    that are left out.
    """
    detected = hidden = 0.0
    for masked in range(length):
        if len(order.order) <= masked:
            order.advance()
        detected += log_detected(qam, fade, length, masked)
        hidden += log_detected(qam, fade, length, masked + 1) + order.log_true[masked]
        # Of means over the same number of terms the sums decide.
        if detected > hidden:
            return order.order[:masked]
    return order.order[:length]


@dataclass(frozen=True, slots=True)
class Arrival:
    """At the receiver: which positions were sent, and ln p(received | w) [sent, |V|] of those."""

    sent: NDArray[np.bool_]
    log_likelihood: NDArray[np.float64]


def send(
    qam: Qam, fade: Fade, ids: NDArray[np.int64], masked: Sequence[int], rng: np.random.Generator
) -> Arrival:
    """The unmasked tokens share the power of all."""
    sent = np.ones(len(ids), bool)
    sent[list(masked)] = False
    power = fade.power * len(ids) / max(1, int(sent.sum()))
    received, amplitude = transmit(qam.modulate(ids[sent]), fade, power, rng)
    return Arrival(sent, qam.log_likelihood(received, amplitude, fade.noise))


def most_likely(arrival: Arrival, mask: int) -> NDArray[np.int64]:
    """Maximum likelihood, [MASK] where nothing was sent."""
    found = np.full(len(arrival.sent), mask, np.int64)
    found[arrival.sent] = arrival.log_likelihood.argmax(axis=1)
    return found


def detect(lm: MaskedLM, arrival: Arrival) -> NDArray[np.int64]:
    """Iterative MAP: w_i = argmax likelihood x prior, all positions of a round at once, sure ones
    frozen.
    """
    found = most_likely(arrival, lm.mask)
    evidence = np.zeros((len(found), lm.vocab_size))
    evidence[arrival.sent] = arrival.log_likelihood
    open_ = np.ones(len(found), bool)
    first, second = np.partition(arrival.log_likelihood, (-2, -1), axis=1)[:, :-3:-1].T
    open_[arrival.sent] = first - second < BEYOND_DOUBT
    for _ in range(ROUNDS):
        at = np.flatnonzero(open_)
        if not len(at):
            break
        posterior = lm.log_priors(found, at) + evidence[at]
        posterior -= posterior.max(axis=1, keepdims=True)
        posterior -= np.log(np.exp(posterior).sum(axis=1, keepdims=True))
        chosen = posterior.argmax(axis=1)
        changed = bool((chosen != found[at]).any())
        found[at] = chosen
        open_[at[entropy(posterior) < FROZEN_BITS]] = False
        if not changed:
            break
    return found


def position_bits(length: int, masked: int) -> float:
    """log2 C(T, N): what it costs to say which positions were left out."""
    return (
        math.lgamma(length + 1) - math.lgamma(masked + 1) - math.lgamma(length - masked + 1)
    ) / math.log(2)
