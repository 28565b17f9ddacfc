"""`coupled`: the LLM's own token under the shared noise, whatever was drafted; a draft stays iff it
is that token.
"""

from collections.abc import Sequence

from hedge.cloud_server.verification.base import ClaimedDraft, Drawn, Outcome, Rule, Target
from hedge.common.coupling import draw_coupled


class CoupledRule(Rule):
    """Also what draws the tokens of the llm system, so that the two give the same answer."""

    draws_by_position = True

    def read(
        self, tokens: Sequence[int], payloads: Sequence[bytes], vocab_size: int
    ) -> list[ClaimedDraft]:
        return [ClaimedDraft(token) for token in tokens]

    def claimed(self, token: int, payload: bytes, vocab_size: int) -> ClaimedDraft:
        return ClaimedDraft(token)

    def test(
        self, step: int, at: int, index: int, draft: ClaimedDraft, target: Target
    ) -> Outcome | None:
        own = self.bonus(step, at, target)
        return None if own == draft.token else Outcome(index, correction=own)

    def bonus(self, step: int, at: int, target: Target) -> int:
        return target.token if isinstance(target, Drawn) else draw_coupled(self.noise, at, target)
