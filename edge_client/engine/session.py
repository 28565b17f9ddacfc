"""One answer on the device: checks the request, then yields tokens as they become final."""

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from hedge.common.errors import BadInput
from hedge.common.logits import LogitsProcessor
from hedge.common.model import LanguageModel
from hedge.common.noise import Noise
from hedge.edge_client.engine.audit import Auditor
from hedge.edge_client.engine.drafter import Drafter, Watcher
from hedge.edge_client.engine.flight import Flight
from hedge.edge_client.engine.gates.policy import make_gate
from hedge.edge_client.engine.gates.recalibration import Recalibrated, recalibration_of
from hedge.edge_client.engine.gates.survival import Survival
from hedge.edge_client.engine.loop import Loop
from hedge.edge_client.engine.machine import Machine, ThisMachine
from hedge.edge_client.engine.release import TextRelease
from hedge.edge_client.engine.sequence import Logprobs, Provenance, Token
from hedge.edge_client.engine.sequence import Sequence as TokenSequence
from hedge.edge_client.engine.statistics import Statistics
from hedge.edge_client.engine.streamed import streamed
from hedge.edge_client.engine.verification import Verification, verification_of
from hedge.edge_client.systems import GenerationConfig
from hedge.edge_client.transport.connection import Connection
from hedge.edge_client.transport.events import Event, Notify
from hedge.edge_client.transport.link import Link
from hedge.edge_client.transport.messages import build_opening, check_rows, check_server
from hedge.v1 import hedge_pb2 as pb


@dataclass(frozen=True, slots=True)
class Emitted:
    """A released token, and the text it released. `prob` is the SLM's own probability of it, 0
    where unknown.

    Text that was held back until the end comes with the last token once more, and without
    `logprobs`.
    """

    token: int
    provenance: Provenance
    text: str
    prob: float = 0.0
    logprobs: Logprobs | None = None


def _ignore(event: Event) -> None:
    """The default of `notify`."""


class Session:
    """Generates one answer; `tokens` may be run once.

    `recalibrated` carries a moving threshold from answer to answer, `survival` what verdicts have
    taught; `notify` is told, a line each, when the link dies and when it is back. BadInput for a
    prompt or a configuration that cannot be answered.
    """

    def __init__(
        self,
        slm: LanguageModel,
        prompt_ids: Sequence[int],
        config: GenerationConfig,
        link: Link | None = None,
        *,
        audit: "pb.Audit.ValueType | None" = None,
        watch: Watcher | None = None,
        recalibrated: Recalibrated | None = None,
        survival: Survival | None = None,
        notify: Notify = _ignore,
        machine: Machine | None = None,
    ) -> None:
        self._slm = slm
        self.config = config
        self.link = link
        machine = machine or ThisMachine()
        self.context = min(slm.context, link.info.context_limit) if link else slm.context
        self._check(prompt_ids)
        # The LLM's own files may know ends that the SLM's lack.
        self._end_ids = frozenset([*slm.end_ids, *(link.info.end_ids if link else ())])
        self._limit = min(config.sampling.max_new_tokens, self.context - len(prompt_ids))
        self._release = TextRelease(slm.decode, config.sampling.stop)
        self.statistics = Statistics()
        self.finish_reason = "length"
        # Where every token is tested, nothing is left to audit.
        form = (
            audit
            if audit is not None
            else pb.AUDIT_NONE
            if config.verification.exact
            else pb.AUDIT_BYTE
        )
        recalibrated = recalibrated or recalibration_of(config)
        self._auditor = Auditor(form, self.statistics, recalibrated)
        self._sequence = TokenSequence(prompt_ids, self._limit, self._end_ids)
        noise = Noise(config.sampling.seed, self._sequence.ids)
        verification = verification_of(config.verification, noise, slm.vocab_size)
        processor = LogitsProcessor(
            config.sampling.logits, slm, len(self._sequence.ids), self._end_ids
        )
        processor.check(self._sequence.ids)
        if config.gate.asks:
            verification.check()
        self._connection: Connection | None = None
        if link and config.needs_cloud:
            request = build_opening(slm, config, form, self._limit)
            if not config.streams:
                verification.announce(request)
            self._connection = Connection(
                link, slm, request, config.patience, self.statistics, notify
            )
        gate = recalibrated or make_gate(config, noise, slm.vocab_size)
        self._loop = Loop(
            config,
            self._sequence,
            Drafter(
                slm,
                config,
                gate,
                verification,
                noise,
                self.statistics,
                watch,
                survival or Survival(),
                machine,
                processor,
            ),
            verification,
            gate,
            self._flight(verification, machine, processor),
            self._auditor,
            self.statistics,
            machine,
        )

    def _flight(
        self, verification: Verification, machine: Machine, processor: LogitsProcessor
    ) -> Flight | None:
        if self._connection is None:
            return None
        return Flight(
            self._connection, self._sequence, verification, self.statistics, machine, processor
        )

    @property
    def prompt_tokens(self) -> int:
        return self._sequence.prompt

    @property
    def token_ids(self) -> list[int]:
        """The tokens that were released."""
        return self._sequence.released_ids

    @property
    def provenance(self) -> list[Provenance]:
        """Of every released token."""
        return self._sequence.released_provenance

    @property
    def text(self) -> str:
        return self._release.text

    @property
    def provisional(self) -> str:
        """What would follow `text` if every draft that is not final became so."""
        return self._release.preview(self._sequence.unreleased_ids)

    @property
    def exact(self) -> bool:
        """Whether every token is the LLM's or was tested by it before release."""
        return self.config.guarantee == "exact" and self.statistics.exact_until is None

    @property
    def guarantee(self) -> str:
        """What is promised of the answer as it came out, for people."""
        ties = self.statistics.near_ties
        if self.config.guarantee == "exact" and self.statistics.exact_until is not None:
            return f"exact for the first {self.statistics.exact_until} tokens"
        if self.config.guarantee != "exact" or not ties:
            return self.config.guarantee
        return f"exact up to {ties} near tie{'s' * (ties > 1)}"

    @property
    def rejections(self) -> list[float]:
        """beta of every token that was tested and audited."""
        return self._auditor.rejections

    def _check(self, prompt_ids: Sequence[int]) -> None:
        if not prompt_ids:
            raise BadInput("the prompt is empty")
        if len(prompt_ids) >= self.context:
            raise BadInput(
                f"a prompt of {len(prompt_ids)} tokens leaves no room in a context of "
                f"{self.context}"
            )
        if self.config.needs_cloud:
            if self.link is None:
                raise BadInput(f"system {self.config.system} needs a cloud: give --cloud HOST:PORT")
            check_server(self.link.info, self._slm)
            check_rows(self.link.info, self.config.sampling)

    async def tokens(self) -> AsyncGenerator[Emitted]:
        """The answer, token by token, as it becomes final."""
        started = time.perf_counter()
        before = self.link.socket_bytes() if self.link else None
        source = self._source()
        try:
            async for token in source:
                yield self._emit(token)
                if self._ended(token.id):
                    break
            if rest := self._release.finish():
                yield Emitted(self.token_ids[-1], self.provenance[-1], rest)
        finally:
            await source.aclose()
            if self._connection:
                await self._connection.close()
            if before and self.link and (after := self.link.socket_bytes()):
                self.statistics.uplink_socket_bytes = after[0] - before[0]
                self.statistics.downlink_socket_bytes = after[1] - before[1]
            self.statistics.wall_s = time.perf_counter() - started

    async def run(self) -> None:
        """The whole answer: it is in the session afterwards."""
        async for _ in self.tokens():
            pass

    def _source(self) -> AsyncGenerator[Token]:
        if not self.config.streams:
            return self._loop.tokens()
        assert self._connection
        fails = self.config.on_disconnect == "fail"
        return streamed(
            self._connection, self._sequence, self.statistics, self._slm.vocab_size, fails=fails
        )

    def _emit(self, token: Token) -> Emitted:
        assert token.provenance
        if token.provenance is Provenance.OFFLINE and self.exact:
            self.statistics.exact_until = self._sequence.released - 1
        self.statistics.released[token.provenance] += 1
        return Emitted(
            token.id, token.provenance, self._release.add(token.id), token.prob, token.logprobs
        )

    def _ended(self, token: int) -> bool:
        if token in self._end_ids or self._release.stopped:
            self.finish_reason = "stop"
            return True
        return self._sequence.released >= self._limit
