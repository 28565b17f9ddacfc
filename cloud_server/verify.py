"""The test of one block of drafts against the LLM's laws (algorithms: sections 1 to 3). Pure: no model, no network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.distribution import Quantised
from common.noise import Noise, Purpose
from common.sampling import accepts, draw, residual


@dataclass(frozen=True, slots=True)
class Proposal:
    """A drafted id and the law it was drawn from."""

    token: int
    law: Quantised


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many drafts stay, and the LLM's own token: the correction at the first rejection, else the bonus if wanted."""

    accepted: int
    correction: int | None = None
    bonus: int | None = None


def verify_block(
    noise: Noise,
    position: int,
    step: int,
    proposals: Sequence[Proposal],
    laws: Sequence[np.ndarray],
    end_ids: frozenset[int] = frozenset(),
) -> Outcome:
    """Accepts or resamples the drafts at `position`, `position` + 1, ...

    `laws` are the warped y of those positions, float64 [V], and one more when a bonus is wanted. An accepted end token ends
    the block: what was drafted after it is dropped untested.
    """
    for index, (proposal, target) in enumerate(zip(proposals, laws, strict=False)):
        at = position + index
        uniform = noise.uniform(Purpose.ACCEPT, at, step)
        if not accepts(proposal.law.probability(proposal.token), float(target[proposal.token]), uniform):
            weights = residual(target, proposal.law.dense())
            return Outcome(index, correction=draw(weights, noise.uniform(Purpose.RESIDUAL, at, step)))
        if proposal.token in end_ids:
            return Outcome(index + 1)
    if len(laws) > len(proposals):
        at = position + len(proposals)
        return Outcome(len(proposals), bonus=draw(laws[-1], noise.uniform(Purpose.BONUS, at, step)))
    return Outcome(len(proposals))


def audit_byte(probability: float) -> int:
    """round(-16 ln y_d) clipped to 0..254; 255 for 0."""
    return 255 if probability <= 0 else min(254, round(-16 * math.log(probability)))
