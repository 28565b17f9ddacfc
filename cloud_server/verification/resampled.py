"""`full` and `sparse`: accept with probability min(1, y_d / x_hat_d), otherwise draw from (y -
x_hat)+.
"""

import numpy as np

from hedge.cloud_server.verification.base import ClaimedDraft, Outcome, Rule, Target, whole
from hedge.common import codec
from hedge.common.noise import Purpose
from hedge.common.sampling import accepts, draw, residual


class ResampledRule(Rule):
    """The whole x_hat comes with each draft."""

    def claimed(self, token: int, payload: bytes, vocab_size: int) -> ClaimedDraft:
        probs = codec.decode(payload, vocab_size)
        return ClaimedDraft(token, probs.probability(token), probs)

    def test(
        self, step: int, at: int, index: int, draft: ClaimedDraft, target: Target
    ) -> Outcome | None:
        if accepts(
            draft.proposed,
            float(whole(target)[draft.token]),
            self.noise.uniform(Purpose.ACCEPT, at, step),
        ):
            return None
        return self.rejected(step, at, index, draft, whole(target))

    def rejected(
        self, step: int, at: int, index: int, draft: ClaimedDraft, target: np.ndarray
    ) -> Outcome:
        assert draft.probs
        weights = residual(target, draft.probs.dense())
        return Outcome(
            index, correction=draw(weights, self.noise.uniform(Purpose.RESIDUAL, at, step))
        )

    def bonus(self, step: int, at: int, target: Target) -> int:
        return draw(whole(target), self.noise.uniform(Purpose.BONUS, at, step))
