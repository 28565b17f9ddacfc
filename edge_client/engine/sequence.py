"""The ids of one answer and what has become of each: drafted, in flight, or final. Nothing else
decides on them.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from enum import StrEnum

from hedge.edge_client.engine.verification.proposal import Proposal
from hedge.v1 import hedge_pb2 as pb

# ln of a token's own probability, and the likeliest ids of its position with theirs, falling.
Logprobs = tuple[float, list[tuple[int, float]]]


class Provenance(StrEnum):
    """Where an emitted token came from. `bonus` is the LLM's own token, every one of the llm
    system's included.
    """

    LOCAL = "local"
    ACCEPTED = "accepted"
    CORRECTED = "corrected"
    BONUS = "bonus"
    OFFLINE = "offline"


class Status(StrEnum):
    """What may still happen to a token: anything, its verdict, or nothing."""

    DRAFTED = "drafted"
    IN_FLIGHT = "in flight"
    FINAL = "final"


@dataclass(slots=True, eq=False)
class Token:
    """One token. `provenance` is None until it is known who vouches for it.

    `prob` is x_d, the SLM's probability of it; `asked` whether the gate fired; `proposal` what the
    cloud is told of a token that is to be tested; `blind` whether the SLM gave no finite logits, so
    that it is anybody's guess. `margin` is by how much its draw was decided, and `survival` the
    probability that it is accepted, where the policy asks for them. `logprobs`: by whoever vouches
    for it, where they are wanted.
    """

    id: int
    provenance: Provenance | None = None
    prob: float = 0.0
    asked: bool = False
    proposal: Proposal | None = None
    blind: bool = False
    margin: float | None = None
    survival: float = 1.0
    logprobs: Logprobs | None = None


class Sequence:
    """The prompt's ids and the answer's tokens, in order. Positions count the answer's tokens from
    0.

    Marks divide the tokens: the cloud has judged `judged` of them, `sent` have left the device,
    `released` have been given out. Only a correction, or a device left alone, moves one back. A
    token is final when it and all before it have a provenance. The answer ends with one of
    `end_ids`, or after `limit` tokens.
    """

    def __init__(self, prompt: Ids[int], limit: int, end_ids: frozenset[int]) -> None:
        self._limit = limit
        self._end_ids = end_ids
        self.ids: list[int] = list(prompt)
        self.prompt = len(self.ids)
        self.tokens: list[Token] = []
        self.judged = self.sent = self.released = 0
        self._final = 0

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def final(self) -> int:
        """How many tokens nothing can take back."""
        while self._final < len(self.tokens) and self.tokens[self._final].provenance:
            self._final += 1
        return self._final

    @property
    def ended(self) -> bool:
        """Whether what has been drafted ends the answer, unless a verdict changes it."""
        return len(self.tokens) >= self._limit or (
            bool(self.tokens) and self.ids[-1] in self._end_ids
        )

    def status(self, position: int) -> Status:
        if position < self.final:
            return Status.FINAL
        return Status.IN_FLIGHT if position < self.sent else Status.DRAFTED

    @property
    def block(self) -> list[Token]:
        """The tokens that the cloud has not been told of."""
        return self.tokens[self.sent :]

    @property
    def unverified(self) -> list[Token]:
        """The tokens that are not final."""
        return self.tokens[self.final :]

    def ids_before(self, position: int) -> list[int]:
        """What comes before the token at `position`, prompt included."""
        return self.ids[: self.prompt + position]

    @property
    def released_ids(self) -> list[int]:
        return self.ids[self.prompt : self.prompt + self.released]

    @property
    def unreleased_ids(self) -> list[int]:
        return self.ids[self.prompt + self.released :]

    @property
    def released_provenance(self) -> list[Provenance]:
        return [token.provenance for token in self.tokens[: self.released] if token.provenance]

    def release(self) -> Iterator[Token]:
        """The tokens that have become final since the last call, one by one."""
        while self.released < self.final:
            self.released += 1
            yield self.tokens[self.released - 1]

    def draft(self, token: Token) -> None:
        """A token of the device."""
        self.ids.append(token.id)
        self.tokens.append(token)

    def send(self, count: int) -> None:
        """The next `count` tokens leave the device."""
        assert self.sent + count <= len(self.tokens)
        self.sent += count

    def accept(self, until: int) -> None:
        """The cloud has judged all before `until`, and they stay."""
        assert self.judged <= until <= self.sent
        for token in self.tokens[self.judged : until]:
            token.provenance = token.provenance or Provenance.ACCEPTED
        self.judged = until

    def append_bonus(self, token: int, *, as_draft: bool = False) -> None:
        """A token of the cloud's, on top of all that it has judged. `as_draft`: the next message
        begins with it.
        """
        assert self.judged == self.sent == len(self.tokens)
        self.draft(Token(token, Provenance.BONUS, proposal=Proposal(token) if as_draft else None))
        if not as_draft:
            self.judged = self.sent = len(self.tokens)

    def confirm(self, *, as_draft: bool = False) -> None:
        """A bonus is the token that was drafted meanwhile. `as_draft`: a message has it, or will
        have it.
        """
        assert self.judged < len(self.tokens)
        self.tokens[self.judged].provenance = Provenance.ACCEPTED
        if not as_draft:
            assert self.judged == self.sent
            self.judged = self.sent = self.sent + 1

    def tell(self, accepted: int, verdict: pb.Verdict) -> None:
        """The cloud's log-probabilities, of the last of what it accepted, up to position
        `accepted`, and of its own token.
        """
        own = verdict.HasField("correction") or verdict.HasField("bonus")
        start = accepted + own - len(verdict.logprobs)
        for position, told in enumerate(verdict.logprobs, start):
            if 0 <= position < len(self.tokens):
                self.tokens[position].logprobs = (
                    told.token,
                    list(zip(told.ids, told.logprobs, strict=False)),
                )

    def settle(self) -> int:
        """What is final counts as judged: a server that is asked anew is told so. Returns how much
        that is.
        """
        self.judged = self.final
        self.sent = max(self.sent, self.judged)
        return self.judged

    def correct(self, position: int, token: int, *, known: bool, as_draft: bool = False) -> int:
        """The LLM's token takes the place of the draft at `position`, and all after it is void.

        `known`: the cloud knows the token, because it drew it. `as_draft`: the next message begins
        with it all the same. Returns how many tokens were dropped, the wrong one apart.
        """
        assert self.final <= position < len(self.tokens)
        dropped = len(self.tokens) - position - 1
        del self.tokens[position:]
        del self.ids[self.prompt + position :]
        self.draft(
            Token(token, Provenance.CORRECTED, proposal=Proposal(token) if as_draft else None)
        )
        self.judged = self.sent = position + (known and not as_draft)
        return dropped

    def keep_offline(self) -> list[Token]:
        """What the cloud has not judged is final, untested, and is to be told to it later. Returns
        what became `offline`.
        """
        self.sent = self.judged
        kept = [token for token in self.tokens[self.sent :] if token.provenance is None]
        for token in kept:
            token.provenance = Provenance.OFFLINE
        for token in self.tokens[self.sent :]:
            token.proposal = None
        return kept
