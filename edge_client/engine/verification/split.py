"""`split`: only x_hat_d is sent; after a rejection y comes back, and the device draws from (y -
x_hat)+ (DSSD).
"""

import numpy as np

from hedge.common.distribution import Quantised
from hedge.common.errors import Unreachable
from hedge.common.noise import Purpose
from hedge.common.sampling import draw, residual
from hedge.common.split import compute_share, encode_share
from hedge.edge_client.engine.verification.base import Correction
from hedge.edge_client.engine.verification.proposal import Proposal
from hedge.edge_client.engine.verification.resampled import Resampled
from hedge.v1 import hedge_pb2 as pb


class Split(Resampled):
    """The test of `full` and `sparse`; the correction is the device's own draw, so the cloud has to
    be told of it.
    """

    def _encoded(self, token: int, sent: Quantised, kept: int) -> Proposal:
        return Proposal(token, encode_share(compute_share(sent, token)), sent)

    def announce(self, request: pb.Open) -> None:
        request.verification = pb.VERIFICATION_SPLIT
        request.bits = self._config.bits
        request.law_entries = self._config.probs_entries

    def lacks_residual(self, verdict: pb.Verdict, proposal: Proposal) -> bool:
        """Of a cut y: whether nothing of y - x_hat lies in what came."""
        if not self._config.probs_entries or not verdict.HasField("probs"):
            return False
        assert proposal.probs
        return not np.maximum(
            probs_of(verdict.probs, self.vocab_size) - proposal.probs.dense(), 0.0
        ).any()

    def correction(self, verdict: pb.Verdict, proposal: Proposal, position: int) -> Correction:
        assert proposal.probs
        target = probs_of(verdict.probs, self.vocab_size)
        uniform = self._noise.uniform(Purpose.RESIDUAL, position, verdict.step_id)
        cut_mass = max(0.0, 1.0 - float(target.sum())) if verdict.probs.ids else 0.0
        return Correction(
            draw(residual(target, proposal.probs.dense()), uniform), known=False, cut_mass=cut_mass
        )

    def describe(self, probs: np.ndarray, proposal: Proposal, uncertainty: float) -> str | None:
        return None


def probs_of(probs: pb.Probs, vocab_size: int) -> np.ndarray:
    """y, float64 [V]. Unreachable for bytes that are no distribution."""
    values = np.frombuffer(probs.probabilities[: len(probs.probabilities) // 4 * 4], "<f4").astype(
        np.float64
    )
    named = (
        np.frombuffer(probs.ids[: len(probs.ids) // 4 * 4], "<u4")
        if probs.ids
        else np.arange(vocab_size)
    )
    sane = np.isfinite(values).all() and (values >= 0).all() and values.any()
    sound = len(values) == len(named) > 0 and named.max() < vocab_size and bool(sane)
    if not sound:
        raise Unreachable(
            f"the server sent {len(probs.probabilities)} and {len(probs.ids)} bytes that are no "
            "distribution"
        )
    target = np.zeros(vocab_size)
    target[named] = values
    return target
