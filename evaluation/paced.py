"""The device's model at the speed of a profile, and what an answer did when: the timeline of `hedge
plot bench`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hedge.common.model import LanguageModel, WrappedModel
from hedge.edge_client.transport.link import Link, Stream
from hedge.v1 import hedge_pb2 as pb


@dataclass(slots=True)
class Timeline:
    """(what, from, to) in seconds of one clock: `step`, `message` (from: it left, to: its verdict
    came), `pass`.
    """

    events: list[tuple[str, float, float]] = field(default_factory=list)

    def since(self, start: float) -> list[list[Any]]:
        return [[what, round(a - start, 5), round(b - start, 5)] for what, a, b in self.events]


class PacedLM(WrappedModel):
    """A real model whose forward pass takes `step_s` + `position_s` x (positions - 1) seconds, or
    as long as it does.
    """

    def __init__(
        self,
        lm: LanguageModel,
        step_s: float = 0.0,
        position_s: float = 0.0,
        timeline: Timeline | None = None,
    ) -> None:
        super().__init__(lm)
        self.step_s = step_s
        self.position_s = position_s
        self.timeline = timeline or Timeline()

    def kv_cache(self) -> "PacedCache":
        return PacedCache(self)


class PacedCache:
    def __init__(self, paced: PacedLM) -> None:
        self._paced = paced
        self._cache = paced.lm.kv_cache()

    @property
    def length(self) -> int:
        return self._cache.length

    def rollback(self, length: int) -> None:
        self._cache.rollback(length)

    def forward(self, ids: Sequence[int], rows: int | None = None) -> np.ndarray:
        started = time.perf_counter()
        found = self._cache.forward(ids, rows)
        wanted = self._paced.step_s + self._paced.position_s * max(0, len(ids) - 1)
        time.sleep(max(0.0, started + wanted - time.perf_counter()))
        self._paced.timeline.events.append(("step", started, time.perf_counter()))
        return found


@dataclass(slots=True)
class TracedLink:
    """A link that notes when messages leave and verdicts come."""

    link: Link
    timeline: Timeline

    @property
    def info(self) -> pb.ServerInfo:
        return self.link.info

    @property
    def address(self) -> str:
        return self.link.address

    async def open(self, request: pb.Open) -> "TracedStream":
        return TracedStream(await self.link.open(request), self.timeline)

    @property
    def connection(self) -> int:
        return self.link.connection

    async def reach(self, after: int) -> None:
        await self.link.reach(after)

    def socket_bytes(self) -> tuple[int, int] | None:
        return self.link.socket_bytes()


@dataclass(slots=True)
class TracedStream:
    stream: Stream
    timeline: Timeline
    sent: list[float] = field(default_factory=list)

    @property
    def opened(self) -> pb.Opened | None:
        return self.stream.opened

    async def send(self, draft: pb.Draft) -> None:
        self.sent.append(time.perf_counter())
        await self.stream.send(draft)

    async def receive(self) -> pb.Verdict | None:
        verdict = await self.stream.receive()
        now = time.perf_counter()
        if verdict is not None and self.sent:
            # Void messages have no verdict: of those that left before this one came, this one's is
            # not known.
            left = self.sent.pop(0)
            busy = verdict.timings.forward_us / 1e6
            middle = (left + now - busy) / 2
            self.timeline.events += [("message", left, now), ("pass", middle, middle + busy)]
            if verdict.HasField("correction"):
                self.sent.clear()
        return verdict

    def arrived(self) -> bool:
        return self.stream.arrived()

    async def close(self) -> None:
        await self.stream.close()
