"""The exchange of one answer with the cloud: draft, gate, send, reconcile. The order of the steps is the order of the code."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from hedge.v1 import hedge_pb2 as pb

from common import codec
from common.errors import Disconnected, NotFinite, Unreachable
from common.model import LanguageModel
from common.noise import Noise, Purpose
from common.sampling import draw, residual
from edge_client.config import Settings
from edge_client.engine.audit import Auditor
from edge_client.engine.drafter import Drafted, Drafter
from edge_client.engine.pace import MAX_BLOCK, Pace, Unverified
from edge_client.engine.statistics import Provenance, Round, Statistics
from edge_client.transport.connection import Connection
from edge_client.transport.messages import law_of

MAX_UNTESTED = 512


@dataclass(frozen=True, slots=True)
class Said:
    """What the server expects of the next Draft: its step, unless another is said, and no word of a correction."""

    step: int = 0
    correction: int | None = None


@dataclass(slots=True)
class Message:
    """A Draft in flight: untested tokens, then the tested ones from position `start`.

    Without `more` none follows before its verdict, which may bring a bonus.
    """

    step: int
    start: int
    untested: list[Drafted]
    tested: list[Drafted]
    more: bool
    sent_at: float = 0.0

    @property
    def ids(self) -> list[int]:
        return [drafted.token for drafted in (*self.untested, *self.tested)]


def log_round(statistics: Statistics, verdict: pb.Verdict, tested: Sequence[Drafted] = ()) -> None:
    entries = sum(drafted.proposal.entries for drafted in tested if drafted.proposal)
    timings, now = verdict.timings, (statistics.steps, statistics.uplink_payload_bytes - statistics.open_bytes)
    drafted, sent = now[0] - statistics.logged[0], now[1] - statistics.logged[1]
    statistics.log.append(Round(drafted, entries, sent, timings.positions, timings.forward_us / 1e6))
    statistics.logged = now
    statistics.near_ties += verdict.near_ties


def token_of(verdict: pb.Verdict, kind: Literal["bonus", "correction"], vocab_size: int) -> int:
    """The LLM's own token in a verdict; Unreachable when it is missing or none."""
    token: int = getattr(verdict, kind)
    if not verdict.HasField(kind):
        raise Unreachable(f"the server's verdict on step {verdict.step_id} lacks its {kind}")
    if token >= vocab_size:
        raise Unreachable(f"the server answered id {token} in a vocabulary of {vocab_size}")
    return token


class Exchange:
    """Gives the tokens of one answer as they become final. Without a connection the device answers alone."""

    def __init__(
        self,
        slm: LanguageModel,
        prompt: Sequence[int],
        settings: Settings,
        noise: Noise,
        drafter: Drafter,
        pace: Pace,
        connection: Connection | None,
        auditor: Auditor,
        statistics: Statistics,
        limit: int,
        end_ids: frozenset[int],
    ) -> None:
        self._slm, self._settings, self._noise, self._drafter, self._end_ids = slm, settings, noise, drafter, end_ids
        self._connection, self._auditor, self.statistics, self._limit = connection, auditor, statistics, limit
        self._pace = pace
        # Everything that has been drafted or received, final or not; its tail that is not final; of that, what is unsent.
        self._prompt = len(prompt)
        self._history = list(prompt)
        self._ahead: deque[Drafted] = deque()
        self._block: list[Drafted] = []
        self._flight: deque[Message] = deque()
        self._step = 0
        self._said = Said()
        self._regaining: asyncio.Task[None] | None = None

    async def tokens(self) -> AsyncGenerator[Drafted]:
        """Drafts while it may, reads verdicts as they come, gives the tokens that have become final."""
        try:
            while True:
                while self._ahead and self._ahead[0].provenance:
                    yield self._ahead.popleft()
                try:
                    await self._advance()
                except Disconnected as error:
                    await self._disconnected(error)
        finally:
            if self._regaining:
                self._regaining.cancel()
                await asyncio.gather(self._regaining, return_exceptions=True)

    async def _advance(self) -> None:
        if self._connection and not self._alone and not self._connection.is_open:
            await self._connect(self._connection)
            return
        if (self._is_due() or self._passes()) and self._may_send():
            await self._send()
        elif self._may_draft():
            self._draft()
        else:
            await self._reconcile()
        # Verdicts come in, and an answer that needs no cloud can be cancelled, only here.
        await asyncio.sleep(0)
        while self._flight and self._connection and self._connection.arrived():
            await self._reconcile()

    @property
    def ahead(self) -> list[int]:
        """The tokens that are drafted and not final."""
        return [drafted.token for drafted in self._ahead]

    @property
    def _position(self) -> int:
        """Index of the next token."""
        return len(self._history) - self._prompt

    @property
    def _alone(self) -> bool:
        return self._connection is None or self._regaining is not None

    def _may_draft(self) -> bool:
        if self._at_end():
            return False
        if self._flight and not self._flight[-1].more and not (self._settings.exact and self._settings.coupled):
            # A bonus will take the next position. Only a coupled one is what the draft's own test would say.
            return False
        if self._is_due() and not (self._settings.exact and len(self._block) < MAX_BLOCK):
            return False
        asked = sum(drafted.asked for drafted in self._ahead)
        return self._pace.goes_on(Unverified(len(self._flight), asked, len(self._ahead) - asked))

    def _may_send(self) -> bool:
        return not self._flight or (self._flight[-1].more and len(self._flight) < self._pace.in_flight)

    def _at_end(self) -> bool:
        """Whether what has been drafted ends the answer, unless a verdict changes it."""
        return self._position >= self._limit or (self._position > 0 and self._history[-1] in self._end_ids)

    def _is_due(self) -> bool:
        """Whether the block is to be sent, now or as soon as another message may be in flight."""
        if self._alone:
            return False
        tested = [drafted for drafted in self._block if drafted.proposal]
        if tested:
            return any(drafted.asked for drafted in tested) or self._at_end() or len(tested) >= self._pace.longest
        return self._settings.asks and len(self._block) >= MAX_UNTESTED

    def _passes(self) -> bool:
        """Whether nothing is drafted: an empty message asks for the LLM's own next token."""
        waits = self._flight or self._ahead or self._alone
        return not waits and self._pace.passes

    def _draft(self) -> None:
        started = time.perf_counter()
        drafted = self._drafter.draft(self._history, self._step)
        self._pace.stepped(time.perf_counter() - started)
        if drafted.blind:
            self._blind(self._position)
        self._history.append(drafted.token)
        self._ahead.append(drafted)
        self._block.append(drafted)
        if self._alone and self._settings.asks:
            self._keep_offline([drafted])
            if self._regaining and self._regaining.done() and self._regaining.exception() is None:
                self._regaining = None

    def _blind(self, position: int) -> None:
        """The SLM has nothing to say at a position: the LLM will. NotFinite where it cannot be asked."""
        if self._alone or not self._connection:
            raise NotFinite(position, "the device's model")
        if not self.statistics.blind:
            self._connection.notify(f"the device's model gave no finite logits at position {position}: the cloud is asked")
        self.statistics.blind += 1

    async def _send(self) -> None:
        held = int(self._pace.holds and not self._at_end())
        before = self._history[: len(self._history) - len(self._block)]
        whole, self._block = self._block[: len(self._block) - held], self._block[len(self._block) - held :]
        tested = [drafted for drafted in whole if drafted.proposal]
        untested = whole[: len(whole) - len(tested)]
        more = self._pace.in_flight > 1 and not self._at_end()
        message = Message(self._step, self._position - held - len(tested), untested, tested, more)
        self._flight.append(message)
        self._step += 1
        for drafted in tested:
            if drafted.proposal:
                self.statistics.uplink_paper_bits += codec.paper_bits(self._slm.vocab_size, drafted.proposal.entries)
        await self._transmit(message, before)

    async def _transmit(self, message: Message, before: list[int]) -> None:
        """Sends a message on top of the history `before`. What an ordered stream lets the server expect is left out."""
        assert self._connection
        started = time.perf_counter()
        draft = pb.Draft(
            step_id=message.step if self._said.step != message.step else None,
            verdicts_seen=self._said.correction,
            ids=self._connection.ids.encode(before, message.ids),
            untested=len(message.untested),
            proposals=[d.proposal.payload for d in message.tested if d.proposal and d.proposal.payload],
            more=message.more,
        )
        self.statistics.codec_s += time.perf_counter() - started
        self.statistics.uplink_payload_bytes += pb.ClientMessage(draft=draft).ByteSize()
        self.statistics.uplink_codec_bytes += len(draft.ids) + sum(map(len, draft.proposals))
        message.sent_at = time.perf_counter()
        self._said = Said(message.step + 1)
        await self._connection.send(draft)

    async def _connect(self, connection: Connection) -> None:
        """Opens a session over what the server has judged, and sends again, as they were, the messages it has not.

        Steps, positions and noise are the same, so a verdict is the one that was lost.
        """
        pending = sum(len(message.ids) for message in self._flight) + len(self._block)
        judged = self._history[: len(self._history) - pending]
        self._said = Said()
        # What is written to a call that fails hides why it fails: after a fault the first verdict is waited for.
        again = connection.is_lost
        await connection.open(judged[self._prompt :])
        for message in list(self._flight):
            if message not in self._flight:
                # The verdict was a correction.
                return
            await self._transmit(message, judged)
            judged = judged + message.ids
            if again:
                again = False
                await self._reconcile()

    async def _disconnected(self, error: Disconnected) -> None:
        """`wait` reconnects before it goes on, `continue` goes on alone meanwhile."""
        if self._settings.on_disconnect == "fail" or self._connection is None:
            raise error
        await self._connection.lose(error)
        if self._settings.on_disconnect == "wait":
            await self._connection.regain(error)
            return
        self._block = [drafted for message in self._flight for drafted in (*message.untested, *message.tested)] + self._block
        self._flight.clear()
        if (guess := next((n for n, drafted in enumerate(self._block) if drafted.blind), None)) is not None:
            raise NotFinite(self._position - len(self._block) + guess, "the device's model")
        self._keep_offline([drafted for drafted in self._block if drafted.provenance is None])
        self._step += 1
        # When it fails for good, the answer is finished alone.
        self._regaining = asyncio.create_task(self._connection.regain(error))

    def _keep_offline(self, drafts: Sequence[Drafted]) -> None:
        """The device's own tokens, final and untested; they void exactness, and are audited later."""
        for drafted in drafts:
            drafted.provenance, drafted.proposal = Provenance.OFFLINE, None
        if drafts and self._settings.exact and self._connection:
            self._connection.exact = False
            self._connection.audit = self._auditor.form = pb.AUDIT_BYTE

    async def _reconcile(self) -> None:
        """Reads the verdict on the oldest message in flight, and makes the history what it says."""
        assert self._connection
        message = self._flight[0]
        verdict = await self._connection.receive()
        if verdict is None or verdict.step_id != message.step:
            raise Unreachable(f"the server ended the stream without a verdict on step {message.step}")
        if verdict.accepted > len(message.tested):
            raise Unreachable(f"the server accepted {verdict.accepted} of {len(message.tested)} drafts")
        if verdict.HasField("law") and verdict.accepted < len(message.tested):
            verdict = await self._with_a_residual(verdict, message)
        self._flight.popleft()
        timings, kept = verdict.timings, message.tested[: verdict.accepted]
        cloud = (timings.queue_us + timings.forward_us) / 1e6
        log_round(self.statistics, verdict, message.tested)
        rejected = verdict.accepted < len(message.tested)
        lost = message.tested[verdict.accepted].asked if rejected else None
        self.statistics.verdict_s = time.perf_counter() - message.sent_at
        self._pace.judged(self.statistics.verdict_s, cloud, [drafted.asked for drafted in kept], lost)
        self._auditor.take(verdict, [*message.untested, *message.tested[: verdict.accepted + rejected]])
        for drafted in kept:
            drafted.provenance = Provenance.ACCEPTED
        if rejected:
            self._correct(verdict, message)
        elif verdict.HasField("bonus") or not message.ids:
            self._take_bonus(verdict, wanted=self._settings.exact and not message.more)

    async def _with_a_residual(self, verdict: pb.Verdict, message: Message) -> pb.Verdict:
        """`split`: the verdict, its law whole if nothing of y - x_hat lies in what was cut out for us."""
        proposal = message.tested[verdict.accepted].proposal
        assert self._connection
        if not self._settings.law_entries or not proposal or not proposal.law:
            return verdict
        cut = law_of(verdict.law, self._slm.vocab_size)
        if np.maximum(cut - proposal.law.dense(), 0.0).any():
            self.statistics.cut_mass += max(0.0, 1.0 - float(cut.sum()))
            return verdict
        draft = pb.Draft(step_id=message.step, whole_law=True)
        self.statistics.uplink_payload_bytes += pb.ClientMessage(draft=draft).ByteSize()
        await self._connection.send(draft)
        whole = await self._connection.receive()
        if whole is None or (whole.step_id, whole.accepted) != (verdict.step_id, verdict.accepted):
            raise Unreachable(f"the server did not repeat its verdict on step {message.step} with the whole law")
        return whole

    def _take_bonus(self, verdict: pb.Verdict, *, wanted: bool) -> None:
        """The LLM's token after a whole block: new, or the verdict on a position that was drafted meanwhile."""
        token = token_of(verdict, "bonus", self._slm.vocab_size)
        if not wanted:
            raise Unreachable(f"the server's verdict on step {verdict.step_id} has a bonus that was not wanted")
        if self._at_end() and not self._block:
            return
        if not self._block:
            self._history.append(token)
            self._ahead.append(Drafted(token, Provenance.BONUS))
        elif self._block[0].token == token:
            self._block.pop(0).provenance = Provenance.ACCEPTED
        else:
            self._replace(self._block[0], token)
            self._block = []

    def _correct(self, verdict: pb.Verdict, message: Message) -> None:
        """Puts the LLM's token in the place of the rejected draft; what was sent after it is void."""
        wrong = message.tested[verdict.accepted]
        split = self._settings.verification == "split"
        if split:
            own = self._own_draw(verdict, message.start + verdict.accepted, wrong)
        else:
            own = token_of(verdict, "correction", self._slm.vocab_size)
        corrected = self._replace(wrong, own)
        # The cloud has not seen a token that was drawn here.
        self._block = [corrected] if split else []
        self._flight.clear()
        if message.more:
            self._said = Said(self._said.step, verdict.step_id + 1)

    def _replace(self, wrong: Drafted, token: int) -> Drafted:
        """Rolls back to a draft that was wrong, and goes on from the LLM's token."""
        after = self._ahead.index(wrong)
        end = len(self._history) - (len(self._ahead) - after)
        self.statistics.rolled_back += len(self._ahead) - after - 1
        while len(self._ahead) > after:
            self._ahead.pop()
        self._ahead.append(Drafted(token, Provenance.CORRECTED))
        self._history[end:] = [token]
        self._drafter.roll_back(end)
        if self._block:
            # Draws of the discarded block must not be used again.
            self._step += not self._settings.coupled
        return self._ahead[-1]

    def _own_draw(self, verdict: pb.Verdict, position: int, wrong: Drafted) -> int:
        """`split`: from (y - x_hat)+ of the y that came."""
        assert wrong.proposal
        assert wrong.proposal.law
        target = law_of(verdict.law, self._slm.vocab_size)
        uniform = self._noise.uniform(Purpose.RESIDUAL, position, verdict.step_id)
        return draw(residual(target, wrong.proposal.law.dense()), uniform)
