"""The seam of verification: how a draft is drawn, what is sent of it, what a verdict means
(docs/algorithms.md, section 3).

Nothing else asks which way runs. The cloud's half of each is in the file of the same name in
`cloud_server/verification/`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from hedge.common.errors import Unreachable
from hedge.edge_client.engine.verification.proposal import Proposal
from hedge.v1 import hedge_pb2 as pb


@dataclass(frozen=True, slots=True)
class Correction:
    """The LLM's token in the place of a rejected draft.

    `known`: the cloud drew it, so it need not be told. `cut_mass`: 1 - y(S) where it was drawn from
    a y cut to S.
    """

    token: int
    known: bool = True
    cut_mass: float = 0.0


class Verification(ABC):
    """One way of testing drafts, for one answer over `vocab_size` ids. `step` names the message a
    draft will travel in.
    """

    # Whether the LLM's token of a position is the same whatever was drafted and whichever message
    # carried it. Then a bonus is the verdict on a draft made meanwhile, and draws of a discarded
    # block may be repeated.
    draws_by_position = False

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def check(self) -> None:  # noqa: B027
        """BadInput where its configuration and the vocabulary do not go together."""

    @abstractmethod
    def sample(self, probs: np.ndarray, position: int, step: int) -> int:
        """A token of x, float64 [V], that is released untested."""

    @abstractmethod
    def propose(
        self, probs: np.ndarray, position: int, step: int, drawn: int | None, uncertainty: float
    ) -> Proposal:
        """A token that is tested; `drawn` is the token of `sample` where the gate had to look at
        it.
        """

    @abstractmethod
    def announce(self, request: pb.Open) -> None:
        """Writes into the opening how drafts are to be tested."""

    def lacks_residual(self, verdict: pb.Verdict, proposal: Proposal) -> bool:
        """Whether the correction needs more of the distribution than the verdict brings."""
        return False

    def correction(self, verdict: pb.Verdict, proposal: Proposal, position: int) -> Correction:
        """What follows a rejected draft. Unreachable when the verdict does not say it."""
        return Correction(token_of(verdict, "correction", self.vocab_size))

    def describe(self, probs: np.ndarray, proposal: Proposal, uncertainty: float) -> str | None:
        """For the log: what truncation did to x."""
        return None


def token_of(verdict: pb.Verdict, kind: str, vocab_size: int) -> int:
    """The verdict's `bonus` or `correction`. Unreachable when it is missing or no token."""
    token: int = getattr(verdict, kind)
    if not verdict.HasField(kind):  # type: ignore[arg-type]
        raise Unreachable(f"the server's verdict on step {verdict.step_id} lacks its {kind}")
    if token >= vocab_size:
        raise Unreachable(f"the server answered id {token} in a vocabulary of {vocab_size}")
    return token
