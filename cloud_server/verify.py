"""A block of drafts tested against the LLM's distributions (docs/algorithms.md, sections 1 to 3). No model, no network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common.coupling import coupled_draw
from common.distribution import Quantised
from common.noise import Noise, Purpose
from common.sampling import accepts, draw, residual


@dataclass(frozen=True, slots=True)
class ClaimedDraft:
    """A drafted id, and what the client says it was drawn from: x_hat_d, and x_hat where it was sent."""

    token: int
    proposed: float = 0.0
    probs: Quantised | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many drafts stay, and what follows them.

    The LLM's token at the first rejection, or its distribution where the client draws that token; else the bonus if wanted.
    """

    accepted: int
    correction: int | None = None
    bonus: int | None = None
    probs: np.ndarray | None = None


class Rule(Protocol):
    """One verification: what becomes of the draft at position `at`, number `index` of its block, where y is `target` [V]."""

    def test(self, at: int, index: int, draft: ClaimedDraft, target: np.ndarray) -> Outcome | None:
        """None: it stays."""
        ...

    def bonus(self, at: int, target: np.ndarray) -> int: ...


@dataclass(frozen=True, slots=True)
class Resample:
    """`full` and `sparse`: accept with probability min(1, y_d / x_hat_d), otherwise draw from (y - x_hat)+.

    `split`: the same test of a draft without its distribution; the client knows x_hat, and draws from (y - x_hat)+ itself.
    """

    noise: Noise
    step: int

    def test(self, at: int, index: int, draft: ClaimedDraft, target: np.ndarray) -> Outcome | None:
        if accepts(draft.proposed, float(target[draft.token]), self.noise.uniform(Purpose.ACCEPT, at, self.step)):
            return None
        if draft.probs is None:
            return Outcome(index, probs=target)
        weights = residual(target, draft.probs.dense())
        return Outcome(index, correction=draw(weights, self.noise.uniform(Purpose.RESIDUAL, at, self.step)))

    def bonus(self, at: int, target: np.ndarray) -> int:
        return draw(target, self.noise.uniform(Purpose.BONUS, at, self.step))


@dataclass(frozen=True, slots=True)
class Couple:
    """`coupled`: the LLM's own token under the shared noise, whatever was drafted."""

    noise: Noise

    def test(self, at: int, index: int, draft: ClaimedDraft, target: np.ndarray) -> Outcome | None:
        own = self.bonus(at, target)
        return None if own == draft.token else Outcome(index, correction=own)

    def bonus(self, at: int, target: np.ndarray) -> int:
        return coupled_draw(self.noise, at, target)


def verify_block(
    rule: Rule,
    position: int,
    proposals: Sequence[ClaimedDraft],
    targets: Sequence[np.ndarray],
    end_ids: frozenset[int] = frozenset(),
) -> Outcome:
    """Judges the drafts at `position`, `position` + 1, ...

    `targets` are the warped y of those positions, float64 [V], and one more when a bonus is wanted. An accepted end token ends
    the block: what was drafted after it is dropped untested.
    """
    for index, (proposal, target) in enumerate(zip(proposals, targets, strict=False)):
        if (outcome := rule.test(position + index, index, proposal, target)) is not None:
            return outcome
        if proposal.token in end_ids:
            return Outcome(index + 1)
    if len(targets) > len(proposals):
        return Outcome(len(proposals), bonus=rule.bonus(position + len(proposals), targets[-1]))
    return Outcome(len(proposals))


def audit_byte(probability: float) -> int:
    """round(-16 ln y_d) clipped to 0..254; 255 for 0."""
    return 255 if probability <= 0 else min(254, round(-16 * math.log(probability)))
