"""Sessions on an engine that scores prompts: it tells the likeliest tokens of positions, and has
its own cache and batches.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from hedge.cloud_server.sessions.steps import Draws, Feed, Result, Rows, Steps
from hedge.cloud_server.verification.base import Drawn
from hedge.cloud_server.verification.certificate import Top, certify
from hedge.common.coupling import race_noise
from hedge.common.errors import NotFinite
from hedge.common.sampling import Warp

# Asked for where the first answer was not enough: so many times as many, then all.
_MORE = 16
_MOST = 1024
# After so many positions their number doubles or halves, by the share that were asked about again.
_JUDGED = 256
_MANY = 0.005
_FEW = 0.0005
_GREEDY = 8
_COOL = 128
_WARM = 256
# More are not asked for at first: a thousand a position take longer than to ask again now and then.
_WIDEST = 256
# Numbers of a prompt's positions that an engine may hand over at once: it makes objects of them.
_ENTRIES = 1 << 18
_WARM_FROM = 0.85
_NO_NOISE = np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True)
class Scored:
    """The `rows` that were asked for; None for those that the engine did not compute, because its
    cache had them.
    """

    tops: Sequence[Top | None]
    queued_s: float = 0.0
    computed_s: float = 0.0


class Scorer(Protocol):
    """The engine."""

    async def score(self, ids: Sequence[int], rows: int, count: int | None) -> Scored:
        """The `count` likeliest tokens (None: all) after each of the last `rows` of `ids`; the last
        row is always computed.
        """
        ...

    def stream(
        self, ids: Sequence[int], draws: Draws, limit: int, count: int
    ) -> AsyncGenerator[tuple[int, Top], None]:
        """Its own tokens behind `ids`, drawn by `draws`, at most `limit`, with the likeliest tokens
        of each position.
        """
        ...


@dataclass(slots=True)
class ScoredCache:
    """How much of a session's history the engine has read; what it still has in its cache is its
    own affair.
    """

    length: int = 0
    stream: AsyncGenerator[tuple[int, Top], None] | None = None

    def rollback(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot roll {self.length} tokens back to {length}")
        self.length = length


@dataclass(slots=True)
class ScoringCounts:
    """How many of the likeliest tokens are asked for, by temperature, and by how often that was not
    enough.
    """

    vocab_size: int
    _counts: dict[tuple[int, bool], int] = field(default_factory=dict)
    _seen: dict[tuple[int, bool], list[int]] = field(default_factory=dict)
    positions: int = 0
    again: int = 0

    def of(self, warp: Warp) -> int:
        key = _kind(warp)
        # What top-k keeps, and one that it does not.
        return min(
            self.vocab_size, max(self._counts.get(key, _first(warp)), min(warp.top_k + 1, _MOST))
        )

    def learn(self, warp: Warp, *, enough: bool) -> None:
        """A position was decided, by the first answer or by a second one."""
        self.positions = self.positions + 1
        self.again = self.again + (not enough)
        key = _kind(warp)
        seen = self._seen.setdefault(key, [0, 0])
        seen[0], seen[1] = seen[0] + 1, seen[1] + (not enough)
        if seen[0] < _JUDGED:
            return
        count = self._counts.get(key, _first(warp))
        share = seen[1] / seen[0]
        if share > _MANY:
            self._counts[key] = min(2 * count, _WIDEST)
        elif share < _FEW:
            self._counts[key] = max(count // 2, _GREEDY)
        self._seen[key] = [0, 0]


def _kind(warp: Warp) -> tuple[int, bool]:
    """Few, whatever clients ask for."""
    return (0 if warp.greedy else min(20, 1 + int(10 * warp.temperature)), warp.cuts)


def _first(warp: Warp) -> int:
    return _GREEDY if warp.greedy else _COOL if warp.temperature < _WARM_FROM else _WARM


class ScoringRunner:
    """A Runner that asks a Scorer. `difference`: by how much rounding moves a logit, for the count
    of near ties.
    """

    # There are: a hundred thousand numbers a row, one by one.
    whole_rows = False

    def __init__(self, scorer: Scorer, vocab_size: int, capacity: int, token_bytes: int) -> None:
        self._scorer = scorer
        self._vocab_size = vocab_size
        self.capacity = capacity
        self.token_bytes = token_bytes
        self.counts = ScoringCounts(vocab_size)
        self.difference = 0.0
        self._closing: set[asyncio.Task[None]] = set()

    def prefix(self) -> ScoredCache:
        return ScoredCache()

    def leave(self, prefix: ScoredCache) -> None:
        if prefix.stream is not None:
            task = asyncio.ensure_future(_closed(prefix.stream))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def run(self, prefix: ScoredCache, steps: Steps[Result]) -> tuple[Result, float, float]:
        late = computed = 0.0
        try:
            feed = next(steps)
            while True:
                rows, queued_s, computed_s = await self._rows(feed, prefix)
                late = late + queued_s
                computed = computed + computed_s
                prefix.length = len(feed.ids)
                feed = steps.send(rows)
        except StopIteration as end:
            return end.value, late, computed

    async def _rows(self, feed: Feed, prefix: ScoredCache) -> tuple[Rows, float, float]:
        if feed.stream:
            return await self._streamed(feed, prefix)
        if feed.draws is None:
            return await self._whole(feed)
        scored = await self._scored(feed, self.counts.of(feed.draws.warp))
        drawn: list[Drawn] = []
        for number, top in enumerate(scored.tops):
            drawn.append(await self._drawn(feed, feed.draws, number, top))
            after = len(feed.ids) - feed.rows + number + 1
            # Behind a rejected draft nothing is looked at.
            if after < len(feed.ids) and feed.ids[after] != drawn[-1].token:
                break
        return drawn, scored.queued_s, scored.computed_s

    async def _scored(self, feed: Feed, count: int) -> Scored:
        """The rows at once, or where an engine would hand over too much of the prompt as well, each
        as a last one.
        """
        if feed.rows < 2 or len(feed.ids) * count <= _ENTRIES:
            return await self._scorer.score(feed.ids, feed.rows, count)
        prompts = [
            feed.ids[: len(feed.ids) - feed.rows + number + 1] for number in range(feed.rows)
        ]
        parts = await asyncio.gather(*(self._scorer.score(ids, 1, count) for ids in prompts))
        queued = max(part.queued_s for part in parts)
        computed = max(part.computed_s for part in parts)
        return Scored([part.tops[0] for part in parts], queued, computed)

    async def _whole(self, feed: Feed) -> tuple[Rows, float, float]:
        """All tokens of every row, a row at a time: a hundred thousand numbers each, one by one."""
        rows = np.empty((feed.rows, self._vocab_size), np.float32)
        started = time.perf_counter()
        if not feed.rows:
            await self._scorer.score(feed.ids, 0, None)
        for number in range(feed.rows):
            rows[number] = (await self._again(feed, number, None)).logprobs
        return rows, 0.0, time.perf_counter() - started

    async def _again(self, feed: Feed, number: int, count: int | None) -> Top:
        """A row as the last one of a shorter prompt, where it is always computed."""
        (top,) = (
            await self._scorer.score(feed.ids[: len(feed.ids) - feed.rows + number + 1], 1, count)
        ).tops
        assert top is not None
        return top

    async def _drawn(self, feed: Feed, draws: Draws, number: int, top: Top | None) -> Drawn:
        """What is drawn from a row, certified."""
        count: int | None = self.counts.of(draws.warp)
        position = draws.position + number
        integers = self._noise(draws, position)
        enough = True
        if top is None:
            top = await self._again(feed, number, count)
        while True:
            if not np.isfinite(top.logprobs).all():
                raise NotFinite(position)
            if (drawn := certify(top, draws.warp, integers, self.difference)) is not None:
                self.counts.learn(draws.warp, enough=enough)
                return drawn
            enough = False
            count = (
                _MORE * count
                if count and _MORE * count < min(self._vocab_size, _MORE * _MOST)
                else None
            )
            top = await self._again(feed, number, count)

    def _noise(self, draws: Draws, position: int) -> np.ndarray:
        """Of every token; none where the likeliest one wins."""
        return (
            _NO_NOISE if draws.warp.greedy else race_noise(draws.noise, position, self._vocab_size)
        )

    async def _streamed(self, feed: Feed, prefix: ScoredCache) -> tuple[Rows, float, float]:
        """The next token of a session that only wants the LLM's own ones: the engine goes on
        drawing them by itself.
        """
        assert feed.draws
        started = time.perf_counter()
        if prefix.stream is None:
            count = self.counts.of(feed.draws.warp)
            prefix.stream = self._scorer.stream(feed.ids, feed.draws, feed.stream, count)
        token, top = await anext(prefix.stream)
        position = feed.draws.position
        if not np.isfinite(top.logprobs).all():
            raise NotFinite(position)
        integers = self._noise(feed.draws, position)
        own = certify(top, feed.draws.warp, integers, self.difference)
        # The engine rounds in its own way.
        near_tie = self.difference > 0 and (own is None or own.near_tie or own.token != token)
        return [Drawn(token, near_tie)], 0.0, time.perf_counter() - started


async def _closed(stream: AsyncGenerator[tuple[int, Top], None]) -> None:
    with suppress(RuntimeError):
        await stream.aclose()
