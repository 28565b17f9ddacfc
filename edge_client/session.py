"""One answer on the device: draft, gate, send, reconcile. The order of the steps is the order of the code."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal

from hedge.v1 import hedge_pb2 as pb

from common import codec
from common.errors import BadInput, Unreachable
from common.model import CausalLM
from common.noise import Noise, Purpose
from common.sampling import draw, residual
from edge_client.drafting import Drafted, Drafter, Watcher
from edge_client.link import Link, Stream
from edge_client.pace import MAX_BLOCK, Adaptive, Pace, Steady, Unverified
from edge_client.policy import policy_of
from edge_client.recalibration import Recalibrated, recalibration_of
from edge_client.release import TextRelease
from edge_client.settings import Settings
from edge_client.statistics import Provenance, Round, Statistics, rejection
from edge_client.wire import audited, check_server, id_codec_of, law_of, opening

MAX_UNTESTED = 512


@dataclass(frozen=True, slots=True)
class Emitted:
    """A released token, and the text it released."""

    token: int
    provenance: Provenance
    text: str


@dataclass(frozen=True, slots=True)
class Said:
    """What the server expects of the next Draft: its step, unless another is said, and no word of a correction."""

    step: int = 0
    correction: int | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A Draft in flight: untested tokens, then the tested ones from position `start`.

    Without `more` none follows before its verdict, which may bring a bonus.
    """

    step: int
    start: int
    untested: list[Drafted]
    tested: list[Drafted]
    more: bool
    sent_at: float


class Session:
    """Generates one answer; `tokens` may be run once. `recalibrated` carries a moving threshold from answer to answer."""

    def __init__(
        self,
        slm: CausalLM,
        prompt_ids: Sequence[int],
        settings: Settings,
        link: Link | None = None,
        *,
        audit: "pb.Audit.ValueType | None" = None,
        watch: Watcher | None = None,
        recalibrated: Recalibrated | None = None,
    ) -> None:
        self._slm, self._prompt, self._settings, self._link = slm, list(prompt_ids), settings, link
        # Where every token is tested, nothing is left to audit.
        self._audit = audit if audit is not None else pb.AUDIT_NONE if settings.exact else pb.AUDIT_BYTE
        self.context = min(slm.context, link.info.context_limit) if link else slm.context
        self._check()
        self._noise = Noise(settings.seed, self._prompt)
        self._pace: Pace = (Adaptive if settings.policy == "adaptive" else Steady)(settings.max_in_flight)
        # Everything that has been drafted or received, final or not; its tail that is not final; of that, what is unsent.
        self._history = list(self._prompt)
        self._ahead: deque[Drafted] = deque()
        self._block: list[Drafted] = []
        self._flight: deque[Message] = deque()
        self._step = 0
        self._said = Said()
        self._logged_steps = self._unlogged_bytes = 0
        self._release = TextRelease(slm.decode, settings.stop)
        self.statistics = Statistics()
        self._recalibrated = recalibrated or recalibration_of(settings)
        policy = self._recalibrated or policy_of(settings, self._noise)
        self._drafter = Drafter(slm, len(self._prompt), settings, self._noise, self.statistics, policy, watch)
        self.token_ids: list[int] = []
        self.finish_reason = "length"
        self.rejections: list[float] = []

    @property
    def text(self) -> str:
        return self._release.text

    @property
    def exact(self) -> bool:
        """Whether every token is the LLM's or was tested by it before release."""
        return self._settings.guarantee == "exact"

    def _check(self) -> None:
        if not self._prompt:
            raise BadInput("the prompt is empty")
        if len(self._prompt) >= self.context:
            raise BadInput(f"a prompt of {len(self._prompt)} tokens leaves no room in a context of {self.context}")
        if (
            self._settings.truncation in ("fixed", "offline")
            and self._settings.asks
            and not self._settings.coupled
            and self._settings.k > self._slm.vocab_size
        ):
            raise BadInput(f"k {self._settings.k} is more than the vocabulary of {self._slm.vocab_size}")
        if self._settings.needs_cloud:
            if self._link is None:
                raise BadInput(f"system {self._settings.system} needs a cloud: give --cloud HOST:PORT")
            check_server(self._link.info, self._slm)

    async def tokens(self) -> AsyncIterator[Emitted]:
        """The answer, token by token, as it becomes final."""
        started = time.perf_counter()
        before = self._link.socket_bytes() if self._link else None
        stream = await self._open() if self._link and self._settings.needs_cloud else None
        try:
            async for token, provenance in self._streamed(stream) if self._settings.streams else self._drafted(stream):
                yield self._emit(token, provenance)
                if self._ended(token):
                    break
            if rest := self._release.finish():
                yield Emitted(self.token_ids[-1], self.statistics.provenance[-1], rest)
        finally:
            if stream:
                await stream.close()
            if before and self._link and (after := self._link.socket_bytes()):
                self.statistics.uplink_socket_bytes = after[0] - before[0]
                self.statistics.downlink_socket_bytes = after[1] - before[1]
            self.statistics.wall_s = time.perf_counter() - started

    def _emit(self, token: int, provenance: Provenance) -> Emitted:
        self.token_ids.append(token)
        self.statistics.provenance.append(provenance)
        return Emitted(token, provenance, self._release.add(token))

    def _ended(self, token: int) -> bool:
        if token in self._slm.end_ids or self._release.stopped:
            self.finish_reason = "stop"
            return True
        return len(self.token_ids) >= self._limit

    @property
    def _limit(self) -> int:
        return min(self._settings.max_new_tokens, self.context - len(self._prompt))

    async def _open(self) -> Stream:
        assert self._link is not None
        request = opening(self._slm, self._prompt, self._settings, self._audit, self._limit)
        self.statistics.open_bytes = self.statistics.uplink_payload_bytes = pb.ClientMessage(open=request).ByteSize()
        waiting = time.perf_counter()
        stream = await self._link.open(request)
        self.statistics.wait_s += time.perf_counter() - waiting
        self.statistics.downlink_payload_bytes += pb.ServerMessage(opened=stream.opened).ByteSize()
        self._ids = id_codec_of(stream.opened, self._slm)
        return stream

    async def _receive(self, stream: Stream) -> pb.Verdict | None:
        waiting = time.perf_counter()
        verdict = await stream.receive()
        self.statistics.wait_s += time.perf_counter() - waiting
        if verdict is not None:
            self.statistics.downlink_payload_bytes += pb.ServerMessage(verdict=verdict).ByteSize()
        return verdict

    async def _streamed(self, stream: Stream | None) -> AsyncIterator[tuple[int, Provenance]]:
        """The llm system: the cloud's own tokens."""
        assert stream is not None
        while (verdict := await self._receive(stream)) is not None:
            self._log_round(verdict)
            yield self._token_of(verdict, "bonus"), Provenance.BONUS

    async def _drafted(self, stream: Stream | None) -> AsyncIterator[tuple[int, Provenance]]:
        """Drafts while it may, reads verdicts as they come, gives the tokens that have become final."""
        while True:
            while self._ahead and (provenance := self._ahead[0].provenance):
                yield self._ahead.popleft().token, provenance
            if self._is_due() and self._may_send():
                assert stream is not None
                await self._send(stream)
            elif self._may_draft():
                self._draft()
            else:
                assert stream is not None
                await self._reconcile(stream)
            # Verdicts come in, and an answer that needs no cloud can be cancelled, only here.
            await asyncio.sleep(0)
            while self._flight and stream and stream.arrived():
                await self._reconcile(stream)

    @property
    def _position(self) -> int:
        """Index of the next token."""
        return len(self._history) - len(self._prompt)

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
        return self._position >= self._limit or (self._position > 0 and self._history[-1] in self._slm.end_ids)

    def _is_due(self) -> bool:
        """Whether the block is to be sent, now or as soon as another message may be in flight."""
        tested = [drafted for drafted in self._block if drafted.proposal]
        if tested:
            return any(drafted.asked for drafted in tested) or self._at_end() or len(tested) >= self._pace.longest
        return self._settings.asks and len(self._block) >= MAX_UNTESTED

    def _draft(self) -> None:
        started = time.perf_counter()
        drafted = self._drafter.draft(self._history, self._step)
        self._pace.stepped(time.perf_counter() - started)
        self._history.append(drafted.token)
        self._ahead.append(drafted)
        self._block.append(drafted)

    async def _send(self, stream: Stream) -> None:
        """The block as one Draft. What an ordered stream lets the server expect is left out."""
        started = time.perf_counter()
        tested = [drafted for drafted in self._block if drafted.proposal]
        untested = self._block[: len(self._block) - len(tested)]
        more = self._pace.in_flight > 1 and not self._at_end()
        before = self._history[: len(self._history) - len(self._block)]
        draft = pb.Draft(
            step_id=self._step if self._said.step != self._step else None,
            verdicts_seen=self._said.correction,
            ids=self._ids.encode(before, [drafted.token for drafted in self._block]),
            untested=len(untested),
            proposals=[drafted.proposal.payload for drafted in tested if drafted.proposal and drafted.proposal.payload],
            more=more,
        )
        self.statistics.codec_s += time.perf_counter() - started
        self._count_uplink(draft, tested)
        start = self._position - len(tested)
        self._flight.append(Message(self._step, start, untested, tested, more, time.perf_counter()))
        self._block = []
        self._step += 1
        self._said = Said(self._step)
        await stream.send(draft)

    def _count_uplink(self, draft: pb.Draft, tested: Sequence[Drafted]) -> None:
        size = pb.ClientMessage(draft=draft).ByteSize()
        self._unlogged_bytes += size
        self.statistics.uplink_payload_bytes += size
        self.statistics.uplink_codec_bytes += len(draft.ids) + sum(map(len, draft.proposals))
        for drafted in tested:
            if drafted.proposal:
                self.statistics.uplink_paper_bits += codec.paper_bits(self._slm.vocab_size, drafted.proposal.entries)

    def _log_round(self, verdict: pb.Verdict, tested: Sequence[Drafted] = ()) -> None:
        s, timings = self.statistics, verdict.timings
        entries = sum(drafted.proposal.entries for drafted in tested if drafted.proposal)
        s.log.append(
            Round(s.steps - self._logged_steps, entries, self._unlogged_bytes, timings.positions, timings.forward_us / 1e6)
        )
        self._logged_steps, self._unlogged_bytes = s.steps, 0

    async def _reconcile(self, stream: Stream) -> None:
        """Reads the verdict on the oldest message in flight, and makes the history what it says."""
        message = self._flight[0]
        verdict = await self._receive(stream)
        if verdict is None or verdict.step_id != message.step:
            raise Unreachable(f"the server ended the stream without a verdict on step {message.step}")
        if verdict.accepted > len(message.tested):
            raise Unreachable(f"the server accepted {verdict.accepted} of {len(message.tested)} drafts")
        self._flight.popleft()
        timings, kept = verdict.timings, message.tested[: verdict.accepted]
        cloud = (timings.queue_us + timings.forward_us) / 1e6
        self._log_round(verdict, message.tested)
        rejected = verdict.accepted < len(message.tested)
        lost = message.tested[verdict.accepted].asked if rejected else None
        self._pace.judged(time.perf_counter() - message.sent_at, cloud, [drafted.asked for drafted in kept], lost)
        self._take_audit(verdict, [*message.untested, *message.tested[: verdict.accepted + rejected]])
        for drafted in kept:
            drafted.provenance = Provenance.ACCEPTED
        if rejected:
            self._correct(verdict, message)
        elif verdict.HasField("bonus"):
            self._take_bonus(verdict, wanted=self._settings.exact and not message.more)

    def _take_bonus(self, verdict: pb.Verdict, *, wanted: bool) -> None:
        """The LLM's token after a whole block: new, or the verdict on a position that was drafted meanwhile."""
        token = self._token_of(verdict, "bonus")
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
        own = (
            self._own_draw(verdict, message.start + verdict.accepted, wrong) if split else self._token_of(verdict, "correction")
        )
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

    def _token_of(self, verdict: pb.Verdict, kind: Literal["bonus", "correction"]) -> int:
        token: int = getattr(verdict, kind)
        if not verdict.HasField(kind):
            raise Unreachable(f"the server's verdict on step {verdict.step_id} lacks its {kind}")
        if token >= self._slm.vocab_size:
            raise Unreachable(f"the server answered id {token} in a vocabulary of {self._slm.vocab_size}")
        return token

    def _take_audit(self, verdict: pb.Verdict, drafted: Sequence[Drafted]) -> None:
        """Computes beta of every token the cloud has now judged, asked or not (algorithms: section 3)."""
        if self._audit == pb.AUDIT_NONE:
            return
        targets = audited(verdict.audit, self._audit)
        if len(targets) != len(drafted):
            raise Unreachable(f"the server audited {len(targets)} of {len(drafted)} tokens")
        for draft, target in zip(drafted, targets, strict=True):
            beta = rejection(draft.proposed, float(target))
            self.statistics.audited += 1
            if draft.proposal:
                self.rejections.append(beta)
            else:
                self.statistics.risk += beta
            if self._recalibrated:
                self._recalibrated.audited(0.0 if draft.proposal else beta)
