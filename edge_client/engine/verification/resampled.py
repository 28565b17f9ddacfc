"""`full` and `sparse`: x_hat is sent; after a rejection the cloud draws from (y - x_hat)+
(docs/algorithms.md, section 2.3).
"""

import numpy as np

from hedge.common import codec
from hedge.common.distribution import Quantised
from hedge.common.errors import BadInput
from hedge.common.noise import Noise, Purpose
from hedge.common.sampling import draw
from hedge.edge_client.config import VerificationConfig
from hedge.edge_client.engine.verification.base import Verification
from hedge.edge_client.engine.verification.bound import flattening, smallest_k, strictness
from hedge.edge_client.engine.verification.proposal import Proposal
from hedge.edge_client.engine.verification.truncation import truncate
from hedge.v1 import hedge_pb2 as pb

_WIRE = {"full": pb.VERIFICATION_FULL, "sparse": pb.VERIFICATION_SPARSE}


class Resampled(Verification):
    """A draft stays with probability min(1, y_d / x_hat_d)."""

    def __init__(self, config: VerificationConfig, noise: Noise, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self._config = config
        self._noise = noise

    def check(self) -> None:
        if self._config.truncation in ("fixed", "offline") and self._config.k > self.vocab_size:
            raise BadInput(f"k {self._config.k} is more than the vocabulary of {self.vocab_size}")

    def sample(self, probs: np.ndarray, position: int, step: int) -> int:
        return draw(probs, self._noise.uniform(Purpose.DRAFT, position, step))

    def propose(
        self, probs: np.ndarray, position: int, step: int, drawn: int | None, uncertainty: float
    ) -> Proposal:
        if self._config.draft_from == "full":
            token = self.sample(probs, position, step) if drawn is None else drawn
            kept = self.kept(probs, float(probs[token]), uncertainty)
            sent = truncate(probs, kept, self._config.bits)
        else:
            kept = self.kept(probs)
            sent = truncate(probs, kept, self._config.bits)
            bucket, within = self._noise.uniforms(Purpose.DRAFT, position, step, count=2)
            token = sent.draw(float(bucket), float(within))
        return self._encoded(token, sent, kept)

    def _encoded(self, token: int, sent: Quantised, kept: int) -> Proposal:
        return Proposal(token, codec.encode(sent), sent, kept)

    def announce(self, request: pb.Open) -> None:
        request.verification = _WIRE[self._config.kind]

    def kept(self, probs: np.ndarray, drafted: float = 0.0, uncertainty: float = 0.0) -> int:
        """k, the entries a message keeps. Without a draft (`drafted`, its x_d, 0) it is enough for
        any.
        """
        if self._config.truncation == "none":
            return len(probs)
        if self._config.truncation == "online":
            return smallest_k(probs, self._config.theta * self.strictness(drafted, uncertainty))
        return self._config.k

    def strictness(self, drafted: float, uncertainty: float) -> float:
        """The denominator of U_TV for a draft of probability `drafted`."""
        beta = min(1.0, max(0.0, self._config.slope * uncertainty + self._config.intercept))
        return float(strictness(drafted, beta, self._config.eta))

    def describe(self, probs: np.ndarray, proposal: Proposal, uncertainty: float) -> str | None:
        if proposal.probs is None:
            return None
        limit = self.strictness(float(probs[proposal.token]), uncertainty)
        bound = float(flattening(probs, np.array([proposal.entries]))[0]) / limit
        distance = 0.5 * float(np.abs(probs - proposal.probs.dense()).sum())
        return (
            f"u {uncertainty:.3f}, k {proposal.entries}, U_TV {bound:.4f}, "
            f"TV(x, x_hat) {distance:.4f}"
        )
