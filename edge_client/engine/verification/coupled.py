"""`coupled`: both sides draw with the same noise, so that the id alone is sent (docs/algorithms.md,
section 3).
"""

import numpy as np

from hedge.common.coupling import decide_coupled, draw_coupled
from hedge.common.noise import Noise
from hedge.edge_client.config import VerificationConfig
from hedge.edge_client.engine.verification.base import Verification
from hedge.edge_client.engine.verification.proposal import Proposal
from hedge.v1 import hedge_pb2 as pb


class Coupled(Verification):
    """A draft stays iff the LLM draws the same token."""

    draws_by_position = True

    def __init__(self, config: VerificationConfig, noise: Noise, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self._noise = noise

    def sample(self, probs: np.ndarray, position: int, step: int) -> int:
        return draw_coupled(self._noise, position, probs)

    def propose(
        self, probs: np.ndarray, position: int, step: int, drawn: int | None, uncertainty: float
    ) -> Proposal:
        if drawn is not None:
            return Proposal(drawn)
        token, margin = decide_coupled(self._noise, position, probs)
        return Proposal(token, margin=margin)

    def announce(self, request: pb.Open) -> None:
        request.verification = pb.VERIFICATION_COUPLED
