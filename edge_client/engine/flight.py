"""Messages whose verdicts have not come: sent in order, and sent again after a fault."""

import time
from collections import deque
from dataclasses import dataclass

from hedge.common import codec
from hedge.common.errors import Unreachable
from hedge.common.logits import LogitsProcessor
from hedge.edge_client.engine.machine import Machine
from hedge.edge_client.engine.sequence import Sequence, Token
from hedge.edge_client.engine.statistics import Statistics
from hedge.edge_client.engine.verification import Verification
from hedge.edge_client.transport.connection import Connection
from hedge.edge_client.transport.messages import build_draft, build_probs_request
from hedge.v1 import hedge_pb2 as pb


@dataclass(slots=True)
class InFlight:
    """The tokens from `start` to `end` of the answer, those from `tested` on to be tested.

    Without `more` none follows before its verdict, which may bring a bonus.
    """

    step: int
    start: int
    tested: int
    end: int
    more: bool
    sent_at: float = 0.0

    @property
    def drafts(self) -> int:
        """How many tokens are to be tested."""
        return self.end - self.tested


@dataclass(frozen=True, slots=True)
class Expected:
    """What the server expects of the next Draft: its step, unless another is said, and no word of a
    correction.
    """

    step: int = 0
    correction: int | None = None


class Flight:
    """Carries the tokens of one sequence to the cloud, and its verdicts back."""

    def __init__(
        self,
        connection: Connection,
        sequence: Sequence,
        verification: Verification,
        statistics: Statistics,
        machine: Machine,
        processor: LogitsProcessor,
    ) -> None:
        self._machine = machine
        self._processor = processor
        self.connection = connection
        self._sequence = sequence
        self._verification = verification
        self._statistics = statistics
        self._messages: deque[InFlight] = deque()
        self._expected = Expected()
        # How many of the messages this stream has carried.
        self._transmitted = 0

    @property
    def messages(self) -> int:
        """How many wait for their verdicts."""
        return len(self._messages)

    @property
    def waited(self) -> float:
        """Seconds since the oldest of them left."""
        return self._machine.now() - self._messages[0].sent_at if self._messages else 0.0

    @property
    def bonus_ahead(self) -> bool:
        """Whether every whole block brings a bonus, however many messages follow it."""
        return self.connection.request.bonus_ahead

    @property
    def awaits_bonus(self) -> bool:
        """Whether the newest message may bring the token after it."""
        return bool(self._messages) and not self._messages[-1].more

    @property
    def is_full(self) -> bool:
        """Whether no new message may be sent before a verdict. On a new stream one alone is: what
        is written to a call that fails hides why it fails.
        """
        return bool(self._messages) and (
            self.awaits_bonus or self._is_behind or not self.connection.is_heard
        )

    @property
    def _is_behind(self) -> bool:
        return self._transmitted < len(self._messages)

    @property
    def may_catch_up(self) -> bool:
        """Whether a message is to be sent again now."""
        return self._is_behind and (self.connection.is_heard or not self._transmitted)

    def arrived(self) -> bool:
        """Whether a verdict can be read at once."""
        return bool(self._messages) and self.connection.arrived()

    async def send(self, message: InFlight) -> None:
        self._messages.append(message)
        vocab_size = self._verification.vocab_size
        for token in self._tested(message):
            if token.proposal:
                self._statistics.uplink_paper_bits += codec.paper_bits(
                    vocab_size, token.proposal.entries
                )
        await self._transmit(message)

    def _tested(self, message: InFlight) -> list[Token]:
        return self._sequence.tokens[message.tested : message.end]

    async def _transmit(self, message: InFlight) -> None:
        """What an ordered stream lets the server expect is left out."""
        started = time.perf_counter()
        ids, forced = self._ids_of(message)
        payloads = [
            token.proposal.payload
            for token in self._tested(message)
            if token.proposal and token.proposal.payload
        ]
        draft = build_draft(
            step=message.step if self._expected.step != message.step else None,
            correction=self._expected.correction,
            ids=self.connection.ids.encode(self._sequence.ids_before(message.start), ids)
            if ids or not forced
            else b"",
            untested=message.tested - message.start,
            proposals=payloads,
            more=message.more and not self.bonus_ahead,
            forced=forced,
        )
        self._statistics.codec_s += time.perf_counter() - started
        self._statistics.uplink_codec_bytes += len(draft.ids) + sum(map(len, draft.proposals))
        message.sent_at = self._machine.now()
        self._expected = Expected(message.step + 1)
        self._transmitted += 1
        await self._write(draft)

    def _ids_of(self, message: InFlight) -> tuple[list[int], int]:
        """The ids of a message, without those that a grammar forces where the cloud knows them: so
        many behind the last one.
        """
        tokens = self._sequence.tokens[message.start : message.end]
        if not (self._verification.draws_by_position and self._processor.options.grammar):
            return [token.id for token in tokens], 0
        before = self._sequence.ids_before(message.start)
        ids = list[int]()
        forced = 0
        for token in tokens:
            if self._processor.forced(before) is None:
                ids.append(token.id)
                forced = 0
            else:
                forced += 1
            before.append(token.id)
        return ids, forced

    async def _write(self, draft: pb.Draft) -> None:
        self._statistics.uplink_payload_bytes += pb.ClientMessage(draft=draft).ByteSize()
        await self.connection.send(draft)

    async def receive(self) -> tuple[InFlight, pb.Verdict]:
        """The oldest message and its verdict. Unreachable when the server's word makes no sense."""
        message = self._messages[0]
        verdict = await self._read(message)
        if verdict.accepted > message.drafts:
            raise Unreachable(f"the server accepted {verdict.accepted} of {message.drafts} drafts")
        if verdict.accepted < message.drafts:
            verdict = await self._with_residual(message, verdict)
        self._messages.popleft()
        self._transmitted -= 1
        self._statistics.verdict_s = self._machine.now() - message.sent_at
        return message, verdict

    async def _read(self, message: InFlight) -> pb.Verdict:
        verdict = await self.connection.receive()
        if verdict is None or verdict.step_id != message.step:
            raise Unreachable(
                f"the server ended the stream without a verdict on step {message.step}"
            )
        return verdict

    async def _with_residual(self, message: InFlight, verdict: pb.Verdict) -> pb.Verdict:
        """The verdict, its distribution whole where nothing can be drawn from what was cut out of
        it.
        """
        rejected = self._sequence.tokens[message.tested + verdict.accepted].proposal
        if rejected is None or not self._verification.lacks_residual(verdict, rejected):
            return verdict
        await self._write(build_probs_request(message.step))
        whole = await self.connection.receive()
        if whole is None or (whole.step_id, whole.accepted) != (verdict.step_id, verdict.accepted):
            raise Unreachable(
                f"the server did not repeat its verdict on step {message.step} with the whole "
                "distribution"
            )
        return whole

    def void(self, corrected: InFlight) -> None:
        """A correction: what was sent behind it will have no verdicts."""
        self.clear()
        if corrected.more:
            self._expected = Expected(self._expected.step, corrected.step + 1)

    def clear(self) -> None:
        """Nothing is waited for any more."""
        self._messages.clear()
        self._transmitted = 0

    async def open(self) -> None:
        """A session over what the cloud has judged. The messages that it has not judged are to be
        sent again, as they were.

        Steps, positions and noise are the same, so a verdict is the one that was lost.
        """
        self._expected = Expected()
        self._transmitted = 0
        if self.bonus_ahead:
            settled = self._sequence.settle()
            if self._messages and self._messages[0].start < settled:
                self._messages[0].start = settled
                self._messages[0].tested = max(settled, self._messages[0].tested)
        await self.connection.open(
            self._sequence.ids_before(self._sequence.judged), self._sequence.judged
        )

    async def catch_up(self) -> None:
        """Sends the next message again."""
        await self._transmit(self._messages[self._transmitted])
