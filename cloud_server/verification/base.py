"""The seam of verification: which drafts stay, and what follows them (docs/algorithms.md, sections
1 to 3).

Nothing else asks which way runs. The device's half of each is in the file of the same name in
`edge_client/engine/verification/`. No model, no network.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hedge.common.distribution import Quantised
from hedge.common.errors import BadInput
from hedge.common.noise import Noise


@dataclass(frozen=True, slots=True)
class ClaimedDraft:
    """A drafted id, and what the client says it was drawn from: x_hat_d, and x_hat where it was
    sent.
    """

    token: int
    proposed: float = 0.0
    probs: Quantised | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many drafts stay, and what follows them.

    The LLM's token at the first rejection, or its distribution where the client draws that token;
    else the bonus if wanted.
    """

    accepted: int
    correction: int | None = None
    bonus: int | None = None
    probs: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """The token that the noise of a position draws from y, where y itself is not known; `near_tie`:
    rounding could decide.
    """

    token: int
    near_tie: bool = False


# y of a position, float64 [V], or what was drawn from it.
Target = np.ndarray | Drawn


def whole(target: Target) -> np.ndarray:
    """y of a position, for a rule that needs all of it: only rules that draw by position are given
    what was drawn.
    """
    assert not isinstance(target, Drawn)
    return target


class Rule(ABC):
    """One way of testing drafts, for one session. `step` is the message that the drafts came in."""

    # Whether the client draws the token after a rejection, which then comes untested in its next
    # message.
    client_draws = False
    # Whether the LLM's token of a position is the same whatever was drafted: the noise is addressed
    # by position alone.
    draws_by_position = False

    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def read(
        self, tokens: Sequence[int], payloads: Sequence[bytes], vocab_size: int
    ) -> list[ClaimedDraft]:
        """The drafts of a message. BadInput or CodecError for payloads that are not theirs."""
        if len(payloads) != len(tokens):
            raise BadInput(f"{len(payloads)} proposals for {len(tokens)} drafts")
        return [
            self.claimed(token, payload, vocab_size)
            for token, payload in zip(tokens, payloads, strict=True)
        ]

    @abstractmethod
    def claimed(self, token: int, payload: bytes, vocab_size: int) -> ClaimedDraft: ...

    @abstractmethod
    def test(
        self, step: int, at: int, index: int, draft: ClaimedDraft, target: Target
    ) -> Outcome | None:
        """What becomes of the draft at position `at`, number `index` of its block, where y is
        `target` [V]. None: it stays.
        """

    @abstractmethod
    def bonus(self, step: int, at: int, target: Target) -> int:
        """The LLM's own token at `at`."""


def verify_block(
    rule: Rule,
    step: int,
    position: int,
    proposals: Sequence[ClaimedDraft],
    targets: Sequence[Target],
    end_ids: frozenset[int] = frozenset(),
) -> Outcome:
    """Judges the drafts at `position`, `position` + 1, ...

    `targets` are the warped y of those positions, float64 [V], and one more when a bonus is wanted.
    An accepted end token ends the block: what was drafted after it is dropped untested.
    """
    for index, (proposal, target) in enumerate(zip(proposals, targets, strict=False)):
        if (outcome := rule.test(step, position + index, index, proposal, target)) is not None:
            return outcome
        if proposal.token in end_ids:
            return Outcome(index + 1)
    if len(targets) > len(proposals):
        return Outcome(
            len(proposals), bonus=rule.bonus(step, position + len(proposals), targets[-1])
        )
    return Outcome(len(proposals))


def to_audit_byte(probability: float) -> int:
    """round(-16 ln y_d) clipped to 0..254; 255 for 0."""
    return 255 if probability <= 0 else min(254, round(-16 * math.log(probability)))
