"""One answer under way: draft, send, receive, in the order of the code."""

import asyncio
import math
from collections.abc import AsyncGenerator
from itertools import takewhile

from hedge.common.errors import Disconnected, NotFinite, Unreachable
from hedge.common.ids import MAX_UNTESTED
from hedge.edge_client.engine.audit import Auditor
from hedge.edge_client.engine.drafter import Drafter
from hedge.edge_client.engine.flight import Flight, InFlight
from hedge.edge_client.engine.gates.gate import MAX_BLOCK, Gate, RoundTrip, Unverified
from hedge.edge_client.engine.machine import Machine
from hedge.edge_client.engine.sequence import Sequence, Token
from hedge.edge_client.engine.statistics import Statistics
from hedge.edge_client.engine.verification import Verification
from hedge.edge_client.engine.verification.base import token_of
from hedge.edge_client.systems import GenerationConfig
from hedge.edge_client.transport.events import Event, EventKind
from hedge.edge_client.transport.messages import relax_guarantee
from hedge.v1 import hedge_pb2 as pb

SLM = "the device's model"


class Loop:
    """Drafts, sends and reconciles until the sequence ends; yields tokens as they become final.

    Without a flight the device answers alone.
    """

    def __init__(
        self,
        config: GenerationConfig,
        sequence: Sequence,
        drafter: Drafter,
        verification: Verification,
        gate: Gate,
        flight: Flight | None,
        auditor: Auditor,
        statistics: Statistics,
        machine: Machine,
    ) -> None:
        self._machine = machine
        self._config = config
        self._sequence = sequence
        self._drafter = drafter
        self._verification = verification
        self._gate = gate
        self._flight = flight
        self._auditor = auditor
        self._statistics = statistics
        self._exact = config.verification.exact
        self._step = 0
        # Looks for the cloud while the device goes on alone.
        self._regaining: asyncio.Task[None] | None = None

    async def tokens(self) -> AsyncGenerator[Token]:
        """The answer. Runs until it is closed: who reads it knows where it ends."""
        try:
            while True:
                for token in self._sequence.release():
                    yield token
                try:
                    await self._advance()
                except Disconnected as error:
                    await self._disconnected(error)
        finally:
            if self._regaining:
                self._regaining.cancel()
                await asyncio.gather(self._regaining, return_exceptions=True)

    async def _advance(self) -> None:
        flight = self._linked
        if flight and not flight.connection.is_open:
            await flight.open()
        elif flight and flight.may_catch_up:
            await flight.catch_up()
        elif flight and not flight.is_full and (self._block_ends() or self._requests_token(flight)):
            await self._send(flight)
        elif self._should_draft():
            await self._draft()
        else:
            assert flight, "the answer has ended, and goes on"
            await self._receive(flight)
        while (flight := self._linked) and flight.arrived():
            await self._receive(flight)

    @property
    def _linked(self) -> Flight | None:
        """The way to the cloud; None while the device is alone."""
        return None if self._regaining else self._flight

    def _block_ends(self) -> bool:
        """Whether the block is to be sent, now or as soon as another message may be in flight."""
        if not self._linked:
            return False
        block = self._sequence.block
        tested = [token for token in block if token.proposal]
        if tested:
            return (
                any(token.asked for token in tested)
                or self._sequence.ended
                or len(tested) >= self._gate.longest
            )
        return self._config.gate.asks and len(block) >= MAX_UNTESTED

    def _requests_token(self, flight: Flight) -> bool:
        """Whether an empty message should ask for the LLM's own next token: nothing is drafted."""
        return not flight.messages and not self._sequence.unverified and self._gate.requests_token

    def _should_draft(self) -> bool:
        sequence = self._sequence
        flight = self._linked
        if sequence.ended:
            return False
        if (
            flight
            and flight.awaits_bonus
            and not (self._exact and self._verification.draws_by_position)
        ):
            # A bonus will take the next position, and only one drawn by position is what the
            # draft's own test would say.
            return False
        if self._block_ends() and not (self._exact and len(sequence.block) < MAX_BLOCK):
            return False
        unverified = sequence.unverified
        asked = sum(token.asked for token in unverified)
        survival = math.prod(token.survival for token in unverified)
        messages, waited = (flight.messages, flight.waited) if flight else (0, 0.0)
        return self._gate.should_draft(
            Unverified(messages, asked, len(unverified) - asked, survival, waited)
        )

    async def _draft(self) -> None:
        started = self._machine.now()
        steps = self._statistics.steps
        token = await self._drafter.draft(self._sequence, self._step)
        # A token that the grammar forces takes no step.
        if self._statistics.steps > steps:
            self._gate.observe_step(self._machine.now() - started)
        if token.blind:
            self._tell_blind(len(self._sequence))
        alone = not self._linked and self._config.gate.asks
        if alone:
            token.provenance = None
        self._sequence.draft(token)
        if alone:
            self._keep_offline()
            if self._regaining and self._regaining.done() and self._regaining.exception() is None:
                self._regaining = None

    def _tell_blind(self, position: int) -> None:
        """The SLM has nothing to say at a position: the LLM will. NotFinite where it cannot be
        asked.
        """
        flight = self._linked
        if flight is None:
            raise NotFinite(position, SLM)
        if not self._statistics.blind:
            line = f"{NotFinite(position, SLM)}: the cloud is asked"
            flight.connection.notify(Event(EventKind.SLM_NOT_FINITE, line))
        self._statistics.blind += 1

    async def _send(self, flight: Flight) -> None:
        sequence = self._sequence
        start = self._sequence.sent
        held = int(self._gate.holds_last and not sequence.ended)
        whole = sequence.block[: len(sequence.block) - held]
        if len(list(takewhile(lambda token: token.proposal is None, whole))) > MAX_UNTESTED:
            whole = whole[:MAX_UNTESTED]
        sequence.send(len(whole))
        tested = sum(token.proposal is not None for token in whole)
        more = flight.bonus_ahead or (self._gate.in_flight > 1 and not sequence.ended)
        step = self._step
        self._step = self._step + 1
        await flight.send(InFlight(step, start, sequence.sent - tested, sequence.sent, more))

    async def _receive(self, flight: Flight) -> None:
        """Receives the verdict on the oldest message in flight and applies it to the sequence."""
        message, verdict = await flight.receive()
        sequence = self._sequence
        rejected = verdict.accepted < message.drafts
        wrong = message.tested + verdict.accepted
        # A draft that a bonus confirmed ahead of its test teaches nothing a second time.
        kept = [token for token in sequence.tokens[message.tested : wrong] if not token.provenance]
        lost = sequence.tokens[wrong] if rejected else None
        tested = sequence.tokens[message.tested : message.end]
        self._statistics.record(
            verdict, sum(token.proposal.entries for token in tested if token.proposal)
        )
        self._auditor.take(verdict, sequence.tokens[message.start : wrong + rejected])
        sequence.accept(wrong)
        if lost is not None:
            self._correct(flight, message, verdict, lost, wrong)
        elif verdict.HasField("bonus") or message.start == message.end:
            drafted, stays = self._take_bonus(flight, message, verdict)
            kept = [*kept, *([drafted] if drafted and stays else [])]
            lost = None if stays else drafted
        sequence.tell(wrong, verdict)
        timings = verdict.timings
        trip = RoundTrip(
            self._statistics.verdict_s, timings.queue_us / 1e6, timings.forward_us / 1e6
        )
        self._gate.observe_verdict(
            trip, [token.asked for token in kept], None if lost is None else lost.asked
        )
        self._drafter.judged(kept, lost)

    def _correct(
        self, flight: Flight, message: InFlight, verdict: pb.Verdict, wrong: Token, position: int
    ) -> None:
        """Replaces the rejected draft by the LLM's token; what was sent after it is void."""
        assert wrong.proposal
        correction = self._verification.correction(verdict, wrong.proposal, position)
        self._statistics.cut_mass += correction.cut_mass
        self._replace(position, correction.token, known=correction.known)
        flight.void(message)

    def _take_bonus(
        self, flight: Flight, message: InFlight, verdict: pb.Verdict
    ) -> tuple[Token | None, bool]:
        """The LLM's token after a whole block: new, or the verdict on a position that was drafted
        meanwhile.

        Returns the draft that was there, and whether it stays.
        """
        sequence = self._sequence
        token = token_of(verdict, "bonus", self._verification.vocab_size)
        if not self._exact or (message.more and not flight.bonus_ahead):
            raise Unreachable(
                f"the server's verdict on step {verdict.step_id} has a bonus that was not wanted"
            )
        drafted = sequence.tokens[sequence.judged] if sequence.judged < len(sequence) else None
        if drafted and drafted.id == token:
            sequence.confirm(as_draft=flight.bonus_ahead)
        elif drafted:
            self._replace(sequence.judged, token, known=True, as_draft=flight.bonus_ahead)
            if flight.messages:
                flight.void(message)
        elif not sequence.ended:
            sequence.append_bonus(token, as_draft=flight.bonus_ahead)
        return drafted, not drafted or drafted.id == token

    def _replace(self, position: int, token: int, *, known: bool, as_draft: bool = False) -> None:
        """Rolls back to a draft that was wrong, and goes on from the LLM's token."""
        if self._sequence.block and not self._verification.draws_by_position:
            # Draws of the discarded block must not be used again.
            self._step += 1
        self._statistics.rolled_back += self._sequence.correct(
            position, token, known=known, as_draft=as_draft
        )
        self._drafter.roll_back(self._sequence.prompt + position)

    async def _disconnected(self, error: Disconnected) -> None:
        """`wait` reconnects before it goes on, `continue` goes on alone meanwhile."""
        if self._config.on_disconnect == "fail" or self._flight is None:
            raise error
        connection = self._flight.connection
        await connection.lose(error)
        if self._config.on_disconnect == "wait":
            await connection.regain(error)
            return
        self._flight.clear()
        self._keep_offline()
        self._step += 1
        # When it fails for good, the answer is finished alone.
        self._regaining = asyncio.create_task(connection.regain(error))

    def _keep_offline(self) -> None:
        """Releases the device's own tokens untested: exactness ends, and they are audited later."""
        blind = next(
            (
                n
                for n, token in enumerate(self._sequence.tokens)
                if token.blind and token.provenance is None
            ),
            None,
        )
        if blind is not None:
            raise NotFinite(blind, SLM)
        if self._sequence.keep_offline() and self._config.guarantee == "exact" and self._flight:
            relax_guarantee(self._flight.connection.request)
            self._auditor.form = pb.AUDIT_BYTE
