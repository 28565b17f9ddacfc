"""The one owner of an answer's ids: against a plain list of what each token is."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hedge.edge_client.engine.sequence import Provenance, Sequence, Status, Token
from hedge.edge_client.engine.verification.proposal import Proposal

PROMPT = [7, 8]
IDS = st.integers(0, 5)


class AgainstPlainLists(RuleBasedStateMachine):
    """The model: every token as (id, provenance), how many the cloud knows, how many are on their
    way, what came out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sequence = Sequence(PROMPT, 1000, frozenset({5}))
        self.tokens: list[tuple[int, Provenance | None]] = []
        self.judged = self.sent = 0
        self.out: list[int] = []

    def _leading(self) -> int:
        return next(
            (n for n, (_, kind) in enumerate(self.tokens) if kind is None), len(self.tokens)
        )

    @rule(token=IDS, local=st.booleans())
    def draft(self, token: int, local: bool) -> None:
        kind = Provenance.LOCAL if local else None
        self.sequence.draft(Token(token, kind, proposal=None if local else Proposal(token)))
        self.tokens.append((token, kind))

    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, len(self.tokens) - self.sent))
        self.sequence.send(count)
        self.sent += count

    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        until = data.draw(st.integers(self.judged, self.sent))
        self.sequence.accept(until)
        for at in range(self.judged, until):
            self.tokens[at] = (self.tokens[at][0], self.tokens[at][1] or Provenance.ACCEPTED)
        self.judged = until

    @precondition(lambda self: self.judged == self.sent == len(self.tokens))
    @rule(token=IDS)
    def bonus(self, token: int) -> None:
        self.sequence.append_bonus(token)
        self.tokens.append((token, Provenance.BONUS))
        self.judged = self.sent = len(self.tokens)

    @precondition(lambda self: self.judged == self.sent < len(self.tokens))
    @rule()
    def early(self) -> None:
        self.sequence.confirm()
        self.tokens[self.sent] = (self.tokens[self.sent][0], Provenance.ACCEPTED)
        self.judged = self.sent = self.sent + 1

    @precondition(lambda self: self._leading() < len(self.tokens))
    @rule(token=IDS, known=st.booleans(), data=st.data())
    def correct(self, token: int, known: bool, data: st.DataObject) -> None:
        """As after a verdict: all before the wrong token has been judged."""
        wrong = [n for n in range(self._leading(), self.sent) if self.tokens[n][1] is None]
        if not wrong:
            return
        at = wrong[0]
        self.sequence.accept(at)
        dropped = self.sequence.correct(at, token, known=known)
        assert dropped == len(self.tokens) - at - 1
        self.tokens[at:] = [(token, Provenance.CORRECTED)]
        self.judged = self.sent = at + known

    @rule()
    def lose_the_link(self) -> None:
        kept = self.sequence.keep_offline()
        new = [at for at in range(self.judged, len(self.tokens)) if self.tokens[at][1] is None]
        assert [token.id for token in kept] == [self.tokens[at][0] for at in new]
        for at in new:
            self.tokens[at] = (self.tokens[at][0], Provenance.OFFLINE)
        self.sent = self.judged

    @rule(most=st.integers(0, 4))
    def release(self, most: int) -> None:
        for token, _ in zip(self.sequence.release(), range(most), strict=False):
            self.out.append(token.id)
        self.out = self.out[: self.sequence.released]
        if self.sequence.released > len(self.out):
            # `zip` took one more than it gave.
            self.out.append(self.tokens[len(self.out)][0])

    @invariant()
    def agrees(self) -> None:
        sequence = self.sequence
        leading = self._leading()
        assert sequence.ids == PROMPT + [token for token, _ in self.tokens]
        assert [(token.id, token.provenance) for token in sequence.tokens] == self.tokens
        assert (sequence.judged, sequence.sent, sequence.final) == (self.judged, self.sent, leading)
        assert sequence.released_ids == self.out
        assert sequence.released_provenance == [kind for _, kind in self.tokens[: len(self.out)]]
        for at in range(len(self.tokens)):
            expected = (
                Status.FINAL
                if at < leading
                else Status.IN_FLIGHT
                if at < self.sent
                else Status.DRAFTED
            )
            assert sequence.status(at) is expected
        assert [token.id for token in sequence.block] == [
            token for token, _ in self.tokens[self.sent :]
        ]
        assert sequence.ended == (bool(self.tokens) and self.tokens[-1][0] == 5)


TestAgainstPlainLists = AgainstPlainLists.TestCase
TestAgainstPlainLists.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


def test_an_answer_ends_at_its_limit() -> None:
    sequence = Sequence(PROMPT, 2, frozenset())
    for token in (1, 2):
        assert not sequence.ended
        sequence.draft(Token(token))
    assert sequence.ended


def test_what_is_final_is_not_taken_back() -> None:
    sequence = Sequence(PROMPT, 9, frozenset())
    sequence.draft(Token(1, Provenance.LOCAL))
    with pytest.raises(AssertionError):
        sequence.correct(0, 2, known=True)
