"""Recorded answers replayed over links, on virtual time: the device's own loop and the cloud's own
verifier, no model.

A trace is the LLM's own answer as the SLM sees it: for every position whether the draft that the
SLM makes behind the LLM's tokens is the LLM's token, and the noised log margin of that draft. In
coupled mode that is all that an exact answer depends on. Two models of four ids say it again: at
temperature 0 a row whose two best are the margin apart. Behind a rejected draft, where the SLM
would go another way, the trace's own positions stand for it. Any number of devices may share one
LLM.
"""

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from hedge.common.model import Identity, LanguageModel
from hedge.common.sampling import Warp
from hedge.edge_client.config import SamplingParams
from hedge.edge_client.engine.gates.survival import Survival
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import GenerationConfig
from hedge.evaluation.local import LocalLink, LocalStream
from hedge.evaluation.profile import Profile
from hedge.v1 import hedge_pb2 as pb

Result = TypeVar("Result")
# The ids of a replay: what ends answers and never comes, the LLM's token, another one, and the
# prompt.
_END, RIGHT, WRONG, _PROMPT = range(4)
_NEVER = -100.0
# Positions in a pass, as in the cloud.
MOST_POSITIONS = 1024


@dataclass(frozen=True, slots=True)
class Trace:
    """One answer: [tokens] each."""

    accepted: tuple[bool, ...]
    margin: tuple[float, ...]


class _Skipping(selectors.DefaultSelector):
    """Waits for nobody: the time until the next timer has passed at once."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if found := super().select(0):
            return found
        assert timeout is not None, "everybody waits for everybody"
        self.passed += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only where somebody sleeps."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.passed


def run_on_virtual_time(main: Coroutine[Any, Any, Result]) -> Result:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


@dataclass(frozen=True, slots=True)
class VirtualMachine:
    """A device whose step takes `step_s`, and `position_s` for every id but the first."""

    step_s: float
    position_s: float = 0.0

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def run(self, step: Callable[[], Result], slm: LanguageModel, ids: int) -> Result:
        result = step()
        await asyncio.sleep(self.step_s + self.position_s * (ids - 1))
        return result


class TraceModel(LanguageModel):
    """Says at every position of an answer what `rows` say."""

    def __init__(self, rows: np.ndarray) -> None:
        super().__init__(
            Identity("trace", "trace", "trace", 4, len(rows) + 1, len(rows) + 1, (_END,))
        )
        self.rows = rows

    def kv_cache(self) -> "TraceCache":
        return TraceCache(self)

    def encode_chat(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()
    ) -> list[int]:
        return [_PROMPT]

    def encode_text(self, text: str) -> list[int]:
        return [_PROMPT]

    def decode(self, ids: Sequence[int]) -> str:
        return ""

    def describe(self) -> str:
        return "replays a trace"


class TraceCache:
    def __init__(self, lm: TraceModel) -> None:
        self._lm = lm
        self.length = 0

    def forward(self, ids: Sequence[int], rows: int | None = None) -> np.ndarray:
        self.length += len(ids)
        return self._lm.rows[self.length - (len(ids) if rows is None else rows) : self.length]

    def rollback(self, length: int) -> None:
        self.length = length


def make_rows(trace: Trace) -> np.ndarray:
    """float32 [tokens + 1, 4]: the SLM's logits after the prompt and after each of the answer's
    tokens.
    """
    rows = np.full((len(trace.accepted) + 1, 4), _NEVER, np.float32)
    rows[:, [RIGHT, WRONG]] = 0.0
    best = np.where([*trace.accepted, True], RIGHT, WRONG)
    rows[np.arange(len(rows)), best] = [*trace.margin, 1.0]
    return rows


@dataclass(slots=True)
class Cloud:
    """One LLM whose pass takes llm_s + llm_position_s x positions: all that has come when it
    begins, in order of arrival.
    """

    profile: Profile
    positions: int = 0
    waiting: deque[tuple[float, int, "asyncio.Future[tuple[float, float]]"]] = field(
        default_factory=deque
    )
    busy: bool = False

    async def compute(self, positions: int) -> tuple[float, float]:
        """Seconds that so many positions waited, and that the pass took which they were in."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[tuple[float, float]] = loop.create_future()
        self.waiting.append((loop.time(), positions, done))
        if not self.busy:
            self.busy = True
            # Whoever comes at the same instant is in the pass too.
            loop.call_soon(self._begin)
        return await done

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        total = 0
        chosen: list[tuple[float, asyncio.Future[tuple[float, float]]]] = []
        while self.waiting and (not chosen or total + self.waiting[0][1] <= MOST_POSITIONS):
            came, positions, done = self.waiting.popleft()
            chosen.append((loop.time() - came, done))
            total += positions
        seconds = self.profile.llm_s + self.profile.llm_position_s * total
        self.positions += total
        loop.call_later(seconds, self._end, chosen, seconds)

    def _end(
        self, chosen: list[tuple[float, "asyncio.Future[tuple[float, float]]"]], seconds: float
    ) -> None:
        for waited, done in chosen:
            if not done.done():
                done.set_result((waited, seconds))
        self.busy = bool(self.waiting)
        if self.busy:
            self._begin()


class VirtualLink(LocalLink):
    """The verifier of this process, half a round trip away each way. A prompt is `prompt`
    positions.
    """

    def __init__(self, lm: LanguageModel, cloud: Cloud, round_trip: float, prompt: int = 0) -> None:
        super().__init__(lm)
        self.cloud = cloud
        self.way = round_trip / 2
        self.prompt = prompt
        self.messages = self.positions = 0

    async def open(self, request: pb.Open) -> LocalStream:
        return VirtualStream(await LocalLink.open(self, request), self)


class VirtualStream(LocalStream):
    """One session of a cloud: its messages are judged one after the other, those that are void in
    no time.
    """

    def __init__(self, stream: LocalStream, link: VirtualLink) -> None:
        self._stream = stream
        self._link = link
        self.opened = stream.opened
        self._drafts: asyncio.Queue[pb.Draft] = asyncio.Queue()
        self._verdicts: asyncio.Queue[pb.Verdict] = asyncio.Queue()
        self._judging = asyncio.create_task(self._judge())

    async def send(self, draft: pb.Draft) -> None:
        asyncio.get_running_loop().call_later(self._link.way, self._drafts.put_nowait, draft)

    async def _judge(self) -> None:
        link = self._link
        loop = asyncio.get_running_loop()
        await asyncio.sleep(link.way)
        if link.prompt:
            await link.cloud.compute(link.prompt)
        while True:
            await self._stream.send(await self._drafts.get())
            if (verdict := await self._stream.receive()) is not None:
                waited, seconds = await link.cloud.compute(verdict.timings.positions)
                link.messages = link.messages + 1
                link.positions = link.positions + verdict.timings.positions
                verdict.timings.queue_us = round(1e6 * waited)
                verdict.timings.forward_us = round(1e6 * seconds)
                loop.call_later(link.way, self._verdicts.put_nowait, verdict)

    async def receive(self) -> pb.Verdict | None:
        coming = asyncio.ensure_future(self._verdicts.get())
        await asyncio.wait({coming, self._judging}, return_when=asyncio.FIRST_COMPLETED)
        if self._judging.done():
            # A message that was refused.
            self._judging.result()
        return coming.result()

    def arrived(self) -> bool:
        return not self._verdicts.empty()

    async def close(self) -> None:
        self._judging.cancel()


@dataclass(slots=True)
class Counts:
    """What answers came to: tokens, the LLM's passes and the positions they judged, SLM steps, and
    seconds.

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


def replay_traces(
    traces: Iterable[Trace],
    config: GenerationConfig,
    profile: Profile,
    round_trip: float,
    *,
    carried: bool = True,
) -> Counts:
    """Answers in their order over one link, what verdicts have taught carried on or not."""
    counts = Counts()
    survival = Survival()
    for trace in traces:
        survival = survival if carried else Survival()
        run_on_virtual_time(
            replay_answer(trace, config, Cloud(profile), round_trip, survival, counts)
        )
    return counts


async def replay_answer(
    trace: Trace,
    config: GenerationConfig,
    cloud: Cloud,
    round_trip: float,
    survival: Survival,
    counts: Counts,
    prompt: int = 0,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """One answer, added to `counts`; `watch` is called at every token."""
    tokens = len(trace.accepted)
    profile = cloud.profile
    loop = asyncio.get_running_loop()
    slm = TraceModel(make_rows(trace))
    llm = TraceModel(make_rows(Trace((True,) * tokens, (1.0,) * tokens)))
    config = replace(config, sampling=SamplingParams(Warp(0.0), max_new_tokens=tokens))
    link = VirtualLink(llm, cloud, round_trip, prompt)
    began = loop.time()
    machine = VirtualMachine(profile.slm_s, profile.slm_position_s)
    session = Session(slm, [_PROMPT], config, link, survival=survival, machine=machine)
    async for _ in session.tokens():
        watch()
    assert session.token_ids == [RIGHT] * tokens
    counts.tokens += tokens
    counts.passes += link.messages
    counts.positions += link.positions
    counts.steps += session.statistics.steps
    counts.seconds += loop.time() - began
    counts.streamed_s += round_trip + tokens * (profile.llm_s + profile.llm_position_s)
