"""Recorded answers replayed over a link, on a virtual clock: the device's own loop and the cloud's own verifier, no model.

A trace is the LLM's own answer as the SLM sees it: for every position whether the draft that the SLM makes behind the LLM's
tokens is the LLM's token, and the noised log margin of that draft. In coupled mode that is all that an exact answer depends on.
Two models of four ids say it again: at temperature 0 a row whose two best are the margin apart. Behind a rejected draft, where
the SLM would go another way, the trace's own positions stand for it.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from hedge.v1 import hedge_pb2 as pb

from common.model import Identity, LanguageModel
from edge_client.config import SamplingParams
from edge_client.engine.gates.survival import Survival
from edge_client.engine.session import Session
from edge_client.systems import GenerationConfig
from evaluation.link import Pipe
from evaluation.local import LocalLink, LocalStream
from evaluation.profile import Profile

# The ids of a replay: what ends answers and never comes, the LLM's token, another one, and the prompt.
_END, RIGHT, WRONG, _PROMPT = range(4)
_NEVER = -100.0
# What a message weighs on the wire, either way.
MESSAGE_BYTES = 60


@dataclass(frozen=True, slots=True)
class Trace:
    """One answer: [tokens] each."""

    accepted: tuple[bool, ...]
    margin: tuple[float, ...]


@dataclass(slots=True)
class VirtualClock:
    """Seconds that pass only where something is said to take some."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class TraceModel(LanguageModel):
    """Says at every position of an answer what a trace says, in `step_s` virtual seconds a forward pass."""

    def __init__(self, rows: np.ndarray, clock: VirtualClock, step_s: float) -> None:
        super().__init__(Identity("trace", "trace", "trace", 4, len(rows) + 1, len(rows) + 1, (_END,)))
        self.rows, self.clock, self.step_s = rows, clock, step_s

    def kv_cache(self) -> "TraceCache":
        return TraceCache(self)

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:  # noqa: ARG002
        return [_PROMPT]

    def encode_text(self, text: str) -> list[int]:  # noqa: ARG002
        return [_PROMPT]

    def decode(self, ids: Sequence[int]) -> str:  # noqa: ARG002
        return ""

    def describe(self) -> str:
        return "replays a trace"


class TraceCache:
    def __init__(self, lm: TraceModel) -> None:
        self._lm, self.length = lm, 0

    def forward(self, ids: Sequence[int], rows: int | None = None) -> np.ndarray:
        self._lm.clock.now += self._lm.step_s
        self.length += len(ids)
        return self._lm.rows[self.length - (len(ids) if rows is None else rows) : self.length]

    def rollback(self, length: int) -> None:
        self.length = length


def drafting(trace: Trace) -> np.ndarray:
    """float32 [tokens + 1, 4]: the SLM's logits after the prompt and after each of the answer's tokens."""
    rows = np.full((len(trace.accepted) + 1, 4), _NEVER, np.float32)
    rows[:, [RIGHT, WRONG]] = 0.0
    best = np.where([*trace.accepted, True], RIGHT, WRONG)
    rows[np.arange(len(rows)), best] = [*trace.margin, 1.0]
    return rows


@dataclass(slots=True)
class Cloud:
    """One LLM: a pass takes llm_s + llm_position_s x positions. Counts what it was asked."""

    profile: Profile
    passes: int = 0
    positions: int = 0
    free_at: float = 0.0

    def computed(self, arrived: float, positions: int) -> tuple[float, float]:
        """When the pass of a message is over, and how long it took."""
        seconds = self.profile.llm_s + self.profile.llm_position_s * positions
        self.free_at = max(arrived, self.free_at) + seconds
        self.passes, self.positions = self.passes + 1, self.positions + positions
        return self.free_at, seconds


class VirtualLink(LocalLink):
    """The verifier of this process, as far away as `up` and `down` say."""

    def __init__(self, lm: LanguageModel, clock: VirtualClock, cloud: Cloud, round_trip: float) -> None:
        super().__init__(lm)
        self.clock, self.cloud = clock, cloud
        self.up, self.down = Pipe(0.0, round_trip / 2), Pipe(0.0, round_trip / 2)

    async def open(self, request: pb.Open) -> LocalStream:
        stream = await LocalLink.open(self, request)
        return VirtualStream(stream, self)


class VirtualStream(LocalStream):
    """A message is answered when it is sent, and the verdict comes when the clock says so."""

    def __init__(self, stream: LocalStream, link: VirtualLink) -> None:
        self._stream, self._link = stream, link
        self.opened = stream.opened
        self._coming: deque[tuple[float, pb.Verdict]] = deque()

    async def send(self, draft: pb.Draft) -> None:
        link = self._link
        arrived = link.up.arrival(MESSAGE_BYTES, link.clock.now)
        await self._stream.send(draft)
        if (verdict := await self._stream.receive()) is not None:
            done, seconds = link.cloud.computed(arrived, verdict.timings.positions)
            verdict.timings.queue_us, verdict.timings.forward_us = 0, round(seconds * 1e6)
            self._coming.append((link.down.arrival(MESSAGE_BYTES, done), verdict))

    async def receive(self) -> pb.Verdict | None:
        if not self._coming:
            return None
        arrives, verdict = self._coming.popleft()
        self._link.clock.now = max(self._link.clock.now, arrives)
        return verdict

    def arrived(self) -> bool:
        return bool(self._coming) and self._coming[0][0] <= self._link.clock.now

    async def close(self) -> None:
        self._coming.clear()


@dataclass(slots=True)
class Counts:
    """What answers came to: tokens, the LLM's passes and the positions they judged, SLM steps, and seconds.

    `streamed_s`: of the same tokens when the LLM streams them.
    """

    tokens: int = 0
    passes: int = 0
    positions: int = 0
    steps: int = 0
    seconds: float = 0.0
    streamed_s: float = 0.0

    @property
    def speed(self) -> float:
        """Over that of the LLM streaming."""
        return self.streamed_s / self.seconds

    def per_token(self) -> tuple[float, float, float]:
        """Passes, SLM steps, LLM positions."""
        return self.passes / self.tokens, self.steps / self.tokens, self.positions / self.tokens


def replayed(
    traces: Iterable[Trace], config: GenerationConfig, profile: Profile, round_trip: float, *, carried: bool = True
) -> Counts:
    """Answers in their order over one link, what verdicts have taught carried on or not."""
    counts, survival = Counts(), Survival()
    for trace in traces:
        survival = survival if carried else Survival()
        asyncio.run(_replay(trace, config, profile, round_trip, survival, counts))
    return counts


async def _replay(
    trace: Trace, config: GenerationConfig, profile: Profile, round_trip: float, survival: Survival, counts: Counts
) -> None:
    tokens, clock, cloud = len(trace.accepted), VirtualClock(), Cloud(profile)
    slm = TraceModel(drafting(trace), clock, profile.slm_s)
    llm = TraceModel(drafting(Trace((True,) * tokens, (1.0,) * tokens)), VirtualClock(), 0.0)
    config = replace(config, sampling=SamplingParams(temperature=0.0, max_new_tokens=tokens))
    link = VirtualLink(llm, clock, cloud, round_trip)
    session = Session(slm, [_PROMPT], config, link, survival=survival, clock=clock)
    async for _ in session.tokens():
        pass
    assert session.token_ids == [RIGHT] * tokens
    counts.tokens += tokens
    counts.passes += cloud.passes
    counts.positions += cloud.positions
    counts.steps += session.statistics.steps
    counts.seconds += clock.now
    counts.streamed_s += round_trip + tokens * (profile.llm_s + profile.llm_position_s)


def foresight(traces: Iterable[Trace]) -> float:
    """Passes a token of who knows which drafts will stay."""
    traces = list(traces)
    passes = sum(1 for trace in traces for stays in trace.accepted if not stays) + sum(trace.accepted[-1] for trace in traces)
    return passes / sum(len(trace.accepted) for trace in traces)
