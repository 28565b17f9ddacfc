"""`split`: only x_hat_d comes with a draft; after a rejection y goes back, and the client draws
from (y - x_hat)+ (DSSD).
"""

import numpy as np

from hedge.cloud_server.verification.base import ClaimedDraft, Outcome
from hedge.cloud_server.verification.resampled import ResampledRule
from hedge.common.distribution import MAX_BITS
from hedge.common.errors import BadInput
from hedge.common.noise import Noise
from hedge.common.split import decode_share


class SplitRule(ResampledRule):
    """The test of `full` and `sparse`."""

    client_draws = True

    def __init__(self, noise: Noise, bits: int) -> None:
        super().__init__(noise)
        if not 1 <= bits <= MAX_BITS:
            raise BadInput(f"{bits} bits per share, not 1..{MAX_BITS}")
        self._bits = bits

    def claimed(self, token: int, payload: bytes, vocab_size: int) -> ClaimedDraft:
        return ClaimedDraft(token, decode_share(payload, vocab_size, self._bits).probability)

    def rejected(
        self, step: int, at: int, index: int, draft: ClaimedDraft, target: np.ndarray
    ) -> Outcome:
        return Outcome(index, probs=target)
