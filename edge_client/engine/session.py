"""One answer on the device: what is asked for is checked, then tokens come out as they become final."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

from hedge.v1 import hedge_pb2 as pb

from common.errors import BadInput, Disconnected
from common.model import LanguageModel
from common.noise import Noise
from edge_client.config import Settings
from edge_client.engine.audit import Auditor
from edge_client.engine.drafter import Drafted, Drafter, Watcher
from edge_client.engine.gates.policy import pace_of, policy_of
from edge_client.engine.gates.recalibration import Recalibrated, recalibration_of
from edge_client.engine.loop import Exchange, log_round, token_of
from edge_client.engine.release import TextRelease
from edge_client.engine.statistics import Provenance, Statistics
from edge_client.transport.connection import Connection, Notify
from edge_client.transport.link import Link
from edge_client.transport.messages import check_server


@dataclass(frozen=True, slots=True)
class Emitted:
    """A released token, and the text it released. `proposed` is the SLM's own probability of it, 0 where unknown."""

    token: int
    provenance: Provenance
    text: str
    proposed: float = 0.0


def _unheard(line: str) -> None:
    """What is said of the link when nobody listens."""


class Session:
    """Generates one answer; `tokens` may be run once.

    `recalibrated` carries a moving threshold from answer to answer; `notify` is told, a line each, when the link dies and
    when it is back.
    """

    def __init__(
        self,
        slm: LanguageModel,
        prompt_ids: Sequence[int],
        settings: Settings,
        link: Link | None = None,
        *,
        audit: "pb.Audit.ValueType | None" = None,
        watch: Watcher | None = None,
        recalibrated: Recalibrated | None = None,
        notify: Notify = _unheard,
    ) -> None:
        self._slm, self._prompt, self._settings, self._link = slm, list(prompt_ids), settings, link
        self.context = min(slm.context, link.info.context_limit) if link else slm.context
        # The LLM's own files may know ends that the SLM's lack.
        self._end_ids = frozenset([*slm.end_ids, *(link.info.end_ids if link else ())])
        self._check()
        self._limit = min(settings.max_new_tokens, self.context - len(self._prompt))
        self._release = TextRelease(slm.decode, settings.stop)
        self.statistics = Statistics()
        self.token_ids: list[int] = []
        self.finish_reason = "length"
        # Where every token is tested, nothing is left to audit.
        form = audit if audit is not None else pb.AUDIT_NONE if settings.exact else pb.AUDIT_BYTE
        self._connection = (
            Connection(link, slm, self._prompt, settings, self.statistics, form, self._limit, notify)
            if link and settings.needs_cloud
            else None
        )
        recalibrated = recalibrated or recalibration_of(settings)
        noise = Noise(settings.seed, self._prompt)
        policy = recalibrated or policy_of(settings, noise, slm.vocab_size)
        self._auditor = Auditor(form, self.statistics, recalibrated)
        self._exchange = Exchange(
            slm,
            self._prompt,
            settings,
            noise,
            Drafter(slm, len(self._prompt), settings, noise, self.statistics, policy, watch),
            pace_of(settings, policy),
            self._connection,
            self._auditor,
            self.statistics,
            self._limit,
            self._end_ids,
        )

    @property
    def text(self) -> str:
        return self._release.text

    @property
    def provisional(self) -> str:
        """What would follow `text` if every draft that is not final became so."""
        return self._release.preview(self._exchange.ahead)

    @property
    def exact(self) -> bool:
        """Whether every token is the LLM's or was tested by it before release."""
        return self._settings.guarantee == "exact" and self.statistics.exact_until is None

    @property
    def guarantee(self) -> str:
        """What is promised of the answer as it came out, for people."""
        ties = self.statistics.near_ties
        if self._settings.guarantee == "exact" and self.statistics.exact_until is not None:
            return f"exact for the first {self.statistics.exact_until} tokens"
        if self._settings.guarantee != "exact" or not ties:
            return self._settings.guarantee
        return f"exact up to {ties} near tie{'s' * (ties > 1)}"

    @property
    def rejections(self) -> list[float]:
        """beta of every token that was tested and audited."""
        return self._auditor.rejections

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
        source = self._streamed() if self._settings.streams else self._exchange.tokens()
        try:
            async for drafted in source:
                yield self._emit(drafted)
                if self._ended(drafted.token):
                    break
            if rest := self._release.finish():
                yield Emitted(self.token_ids[-1], self.statistics.provenance[-1], rest)
        finally:
            await source.aclose()
            if self._connection:
                await self._connection.close()
            if before and self._link and (after := self._link.socket_bytes()):
                self.statistics.uplink_socket_bytes = after[0] - before[0]
                self.statistics.downlink_socket_bytes = after[1] - before[1]
            self.statistics.wall_s = time.perf_counter() - started

    def _emit(self, drafted: Drafted) -> Emitted:
        provenance = drafted.provenance
        assert provenance
        if provenance is Provenance.OFFLINE and self.exact:
            self.statistics.exact_until = len(self.token_ids)
        self.token_ids.append(drafted.token)
        self.statistics.provenance.append(provenance)
        return Emitted(drafted.token, provenance, self._release.add(drafted.token), drafted.proposed)

    def _ended(self, token: int) -> bool:
        if token in self._end_ids or self._release.stopped:
            self.finish_reason = "stop"
            return True
        return len(self.token_ids) >= self._limit

    async def _streamed(self) -> AsyncGenerator[Drafted]:
        """The llm system: the cloud's own tokens."""
        assert self._connection
        while True:
            try:
                if not self._connection.is_open:
                    await self._connection.open(self.token_ids)
                if (verdict := await self._connection.receive()) is None:
                    return
            except Disconnected as error:
                # The device has nothing to go on with.
                if self._settings.on_disconnect == "fail":
                    raise
                await self._connection.lose(error)
                await self._connection.regain(error)
                continue
            log_round(self.statistics, verdict)
            yield Drafted(token_of(verdict, "bonus", self._slm.vocab_size), Provenance.BONUS)
