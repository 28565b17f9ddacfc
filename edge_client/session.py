"""One answer on the device: draft, gate, ask, reconcile. The order of the steps is the order of the code."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from hedge.v1 import hedge_pb2 as pb

from common import codec
from common.distribution import Quantised
from common.errors import BadInput, Incompatible, Unreachable
from common.model import CausalLM, Prefix
from common.noise import Noise, Purpose
from common.rpc import PROTOCOL_VERSION
from common.sampling import draw
from edge_client.bound import flattening
from edge_client.link import Link, Stream
from edge_client.measures import DRAWS, MEASURES
from edge_client.policy import Constant, Policy, Random, Threshold
from edge_client.release import TextRelease
from edge_client.settings import Settings
from edge_client.statistics import Provenance, Round, Statistics, rejection
from edge_client.truncation import truncate

logger = logging.getLogger(__name__)

VERIFICATION = {"full": pb.VERIFICATION_FULL, "sparse": pb.VERIFICATION_SPARSE}
GUARANTEE = {"exact": pb.GUARANTEE_EXACT, "opportunistic": pb.GUARANTEE_OPPORTUNISTIC}


@dataclass(frozen=True, slots=True)
class Emitted:
    """A released token, and the text it released."""

    token: int
    provenance: Provenance
    text: str


@dataclass(frozen=True, slots=True)
class Gate:
    """What the gate found at a position; `early` is the draft if the measure had to look at it."""

    uncertainty: float
    early: int | None
    asks: bool


@dataclass(frozen=True, slots=True)
class Drafted:
    """A position whose draft the cloud will see, now or with the next message."""

    token: int
    proposed: float
    asked: bool


# Called with (position, raw logits, warped law, draft) of every asked position, before the verdict.
Watcher = Callable[[int, np.ndarray, np.ndarray, int], None]


class Session:
    """Generates one answer; `tokens` may be run once."""

    def __init__(
        self,
        slm: CausalLM,
        prompt_ids: Sequence[int],
        settings: Settings,
        link: Link | None = None,
        *,
        audit: "pb.Audit.ValueType" = pb.AUDIT_BYTE,
        watch: Watcher | None = None,
    ) -> None:
        self._slm, self._prompt, self._settings, self._link = slm, list(prompt_ids), settings, link
        self._audit, self._watch = audit, watch
        self.context = min(slm.context, link.info.context_limit) if link else slm.context
        self._check()
        self._noise = Noise(settings.seed, self._prompt)
        self._measure = MEASURES[settings.measure]
        self._policy = self._make_policy()
        self._pending: list[Drafted] = []
        self._step = 0
        self._release = TextRelease(slm.decode, settings.stop)
        self.statistics = Statistics()
        self.token_ids: list[int] = []
        self.finish_reason = "length"
        self.rejections: list[float] = []

    @property
    def text(self) -> str:
        return self._release.text

    def _check(self) -> None:
        if not self._prompt:
            raise BadInput("the prompt is empty")
        if len(self._prompt) >= self.context:
            raise BadInput(f"a prompt of {len(self._prompt)} tokens leaves no room in a context of {self.context}")
        if (
            self._settings.truncation in ("fixed", "offline")
            and self._settings.asks
            and self._settings.k > self._slm.vocab_size
        ):
            raise BadInput(f"k {self._settings.k} is more than the vocabulary of {self._slm.vocab_size}")
        if self._settings.needs_cloud:
            if self._link is None:
                raise BadInput(f"system {self._settings.system} needs a cloud: give --cloud HOST:PORT")
            check_server(self._link.info, self._slm)

    def _make_policy(self) -> Policy:
        settings = self._settings
        if settings.policy == "random":
            return Random(settings.verify_rate or 0.0, self._noise)
        if settings.policy == "threshold":
            return Threshold(settings.threshold or 0.0)
        return Constant(settings.policy == "always")

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
        settings, warp = self._settings, self._settings.warp
        request = pb.Open(
            session_id=uuid.uuid4().hex,
            protocol_version=PROTOCOL_VERSION,
            prompt_ids=self._prompt,
            warp=pb.Warp(temperature=warp.temperature, top_k=warp.top_k, top_p=warp.top_p),
            seed=settings.seed,
            verification=pb.VERIFICATION_STREAM if settings.streams else VERIFICATION[settings.verification],
            guarantee=GUARANTEE[settings.guarantee],
            audit=self._audit,
            tokenizer_fingerprint=self._slm.tokenizer_fingerprint,
            vocab_size=self._slm.vocab_size,
            codecs=codec.VERSIONS,
            max_new_tokens=self._limit if settings.streams else 0,
            end_ids=self._slm.end_ids,
        )
        self.statistics.uplink_payload_bytes += pb.ClientMessage(open=request).ByteSize()
        waiting = time.perf_counter()
        stream = await self._link.open(request)
        self.statistics.wait_s += time.perf_counter() - waiting
        self.statistics.downlink_payload_bytes += pb.ServerMessage(opened=stream.opened).ByteSize()
        if stream.opened.codec not in codec.VERSIONS:
            raise Incompatible(f"the server wants codec {stream.opened.codec}, this client writes {list(codec.VERSIONS)}")
        return stream

    async def _receive(self, stream: Stream) -> pb.Verdict | None:
        waiting = time.perf_counter()
        verdict = await stream.receive()
        self.statistics.wait_s += time.perf_counter() - waiting
        if verdict is not None:
            self.statistics.downlink_payload_bytes += pb.ServerMessage(verdict=verdict).ByteSize()
        return verdict

    def _log_round(self, verdict: pb.Verdict, drafted: int = 0, entries: int = 0, uplink_bytes: int = 0) -> None:
        timings = verdict.timings
        self.statistics.log.append(Round(drafted, entries, uplink_bytes, timings.positions, timings.forward_us / 1e6))

    async def _streamed(self, stream: Stream | None) -> AsyncIterator[tuple[int, Provenance]]:
        """The llm system: the cloud's own tokens."""
        assert stream is not None
        while (verdict := await self._receive(stream)) is not None:
            self._log_round(verdict)
            yield self._token_of(verdict, "bonus"), Provenance.BONUS

    async def _drafted(self, stream: Stream | None) -> AsyncIterator[tuple[int, Provenance]]:
        prefix = self._slm.prefix()
        fed = self._prompt
        while True:
            # Only here can a skipping answer be cancelled.
            await asyncio.sleep(0)
            position = len(self.token_ids)
            logits = self._step_slm(prefix, fed)
            law = self._warped(logits)
            gate = self._gate(logits, law, position)
            if gate.asks:
                token, provenance = await self._ask(stream, position, logits, law, gate)
            else:
                token, provenance = self._draw(law, position) if gate.early is None else gate.early, Provenance.LOCAL
                self._pending.append(Drafted(token, float(law[token]), asked=False))
            yield token, provenance
            fed = [token]

    def _step_slm(self, prefix: Prefix, fed: Sequence[int]) -> np.ndarray:
        started = time.perf_counter()
        logits: np.ndarray = prefix.forward(fed, 1)[0]
        self.statistics.slm_s += time.perf_counter() - started
        return logits

    def _draw(self, law: np.ndarray, position: int) -> int:
        return draw(law, self._noise.uniform(Purpose.DRAFT, position, self._step))

    def _warped(self, logits: np.ndarray) -> np.ndarray:
        started = time.perf_counter()
        law = self._settings.warp(logits)
        self.statistics.gate_s += time.perf_counter() - started
        return law

    def _gate(self, logits: np.ndarray, law: np.ndarray, position: int) -> Gate:
        started = time.perf_counter()
        early, uncertainty = None, 0.0
        if self._settings.looks_at_draft:
            early = self._draw(law, position)
            uncertainty = self._measure.of(logits, law, early, self._noise.uniforms(Purpose.GATE, position, count=2 * DRAWS))
        elif self._settings.measures:
            uncertainty = self._measure.of(logits, law, -1, _NO_COINS)
        asks = self._policy.asks(uncertainty, position)
        self.statistics.gate_s += time.perf_counter() - started
        return Gate(uncertainty, early, asks)

    def _propose(self, law: np.ndarray, position: int, gate: Gate) -> tuple[int, int, Quantised]:
        """The draft, k, and the law that is sent; with draft-from `sent` the draft is drawn from that law itself."""
        settings = self._settings
        if settings.draft_from == "full":
            token = self._draw(law, position) if gate.early is None else gate.early
            kept = settings.kept(law, float(law[token]), gate.uncertainty)
            return token, kept, truncate(law, kept, settings.bits)
        kept = settings.kept(law)
        sent = truncate(law, kept, settings.bits)
        bucket, within = self._noise.uniforms(Purpose.DRAFT, position, self._step, count=2)
        return sent.draw(float(bucket), float(within)), kept, sent

    async def _ask(
        self, stream: Stream | None, position: int, logits: np.ndarray, law: np.ndarray, gate: Gate
    ) -> tuple[int, Provenance]:
        assert stream is not None
        started = time.perf_counter()
        token, kept, sent = self._propose(law, position, gate)
        payload = codec.encode(sent)
        self.statistics.codec_s += time.perf_counter() - started
        if logger.isEnabledFor(logging.INFO):
            self._log_truncation(position, law, token, kept, sent, gate)
        if self._watch:
            self._watch(position, logits, law, token)
        draft = pb.Draft(
            step_id=self._step,
            verdicts_seen=self._step,
            position=position - len(self._pending),
            catch_up_ids=[skipped.token for skipped in self._pending],
            drafts=[pb.Drafted(id=token, distribution=payload)],
            more=True,
        )
        size = pb.ClientMessage(draft=draft).ByteSize()
        self._count_uplink(size, kept, len(payload))
        await stream.send(draft)
        verdict = await self._receive(stream)
        if verdict is None or verdict.step_id != self._step:
            raise Unreachable(f"the server ended the stream without a verdict on step {self._step}")
        self._log_round(verdict, len(self._pending) + 1, kept, size)
        self._take_audit(verdict, [*self._pending, Drafted(token, float(law[token]), asked=True)])
        self._pending.clear()
        self._step += 1
        if verdict.accepted > 1:
            raise Unreachable(f"the server accepted {verdict.accepted} of 1 draft")
        if verdict.accepted:
            return token, Provenance.ACCEPTED
        return self._token_of(verdict, "correction"), Provenance.CORRECTED

    def _log_truncation(self, position: int, law: np.ndarray, token: int, kept: int, sent: Quantised, gate: Gate) -> None:
        limit = self._settings.strictness(float(law[token]), gate.uncertainty)
        bound = float(flattening(law, np.array([kept]))[0]) / limit
        distance = 0.5 * float(np.abs(law - sent.dense()).sum())
        logger.info(
            "position %d: u %.3f, k %d, U_TV %.4f, TV(x, x_hat) %.4f", position, gate.uncertainty, kept, bound, distance
        )

    def _count_uplink(self, size: int, kept: int, codec_bytes: int) -> None:
        self.statistics.uplink_paper_bits += codec.paper_bits(self._slm.vocab_size, kept)
        self.statistics.uplink_codec_bytes += codec_bytes
        self.statistics.uplink_payload_bytes += size

    def _token_of(self, verdict: pb.Verdict, kind: Literal["bonus", "correction"]) -> int:
        token: int = getattr(verdict, kind)
        if not verdict.HasField(kind):
            raise Unreachable(f"the server's verdict on step {verdict.step_id} lacks its {kind}")
        if token >= self._slm.vocab_size:
            raise Unreachable(f"the server answered id {token} in a vocabulary of {self._slm.vocab_size}")
        return token

    def _take_audit(self, verdict: pb.Verdict, drafted: Sequence[Drafted]) -> None:
        """Computes beta of every token the cloud has now judged, asked or not (algorithms: section 3)."""
        targets = _audited(verdict.audit, self._audit)
        if len(targets) != len(drafted):
            raise Unreachable(f"the server audited {len(targets)} of {len(drafted)} tokens")
        for draft, target in zip(drafted, targets, strict=True):
            beta = rejection(draft.proposed, float(target))
            self.statistics.audited += 1
            if draft.asked:
                self.rejections.append(beta)
            else:
                self.statistics.risk += beta


_NO_COINS = np.empty(0)


def _audited(data: bytes, form: "pb.Audit.ValueType") -> np.ndarray:
    """y_d per token, from either form of the audit."""
    if form == pb.AUDIT_FLOAT32:
        return np.frombuffer(data[: len(data) // 4 * 4], dtype="<f4").astype(np.float64)
    codes = np.frombuffer(data, dtype=np.uint8)
    return np.where(codes == 255, 0.0, np.exp(codes / -16.0))


def check_server(info: pb.ServerInfo, slm: CausalLM) -> None:
    """Refuses a server that cannot judge this model's tokens, naming both values."""
    if info.protocol_version != PROTOCOL_VERSION:
        raise Incompatible(f"the server speaks protocol {info.protocol_version}, this client {PROTOCOL_VERSION}")
    if info.tokenizer_fingerprint != slm.tokenizer_fingerprint:
        raise Incompatible(
            f"the server's tokenizer {info.tokenizer_fingerprint} is not {slm.name}'s {slm.tokenizer_fingerprint}"
        )
    if info.vocab_size != slm.vocab_size:
        raise Incompatible(f"the server has a vocabulary of {info.vocab_size} ids, {slm.name} has {slm.vocab_size}")
