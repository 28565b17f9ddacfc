"""The thread in which the model runs: it takes what many sessions want, and does it in common
forward passes.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic

import numpy as np

from hedge.cloud_server.engines.base import Engine
from hedge.cloud_server.engines.scheduler import BlockTable, ScheduledChunk, Scheduler, Work
from hedge.cloud_server.sessions.steps import Feed, Result, Steps

logger = logging.getLogger(__name__)


class PooledCache:
    """A session's part of the pool. Used in the model's thread alone."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.table = BlockTable()

    @property
    def length(self) -> int:
        return self.table.length

    def rollback(self, length: int) -> None:
        self._scheduler.rollback(self.table, length)


@dataclass(eq=False, slots=True)
class ActiveSteps(Generic[Result]):
    """Steps under way; `rows` are the logits of the present Feed that have been computed."""

    table: BlockTable
    steps: Steps[Result]
    finish: Callable[[Result | None, BaseException | None], None]
    asked: float
    # Seconds before the model's thread took them up, and of the passes that they were in.
    late: float = 0.0
    computed: float = 0.0
    rows: list[np.ndarray] = field(default_factory=list)


@dataclass(slots=True)
class Pass:
    """One forward pass, for whoever watches: sessions and positions in it, seconds, and tokens
    found instead of computed.
    """

    sessions: int
    positions: int
    seconds: float
    found: int


class Batcher:
    """Runs Steps of many sessions; `watch` is told of every pass, in the model's thread."""

    whole_rows = True

    def __init__(
        self, engine: Engine, positions: int = 256, watch: Callable[[Pass], None] = lambda _: None
    ) -> None:
        self._engine = engine
        self._watch = watch
        self.scheduler = Scheduler(
            engine.block_manager, positions, engine.most_sessions, sharing=engine.prefix_sharing
        )
        self._arrived: deque[ActiveSteps[Any]] = deque()
        self._leaving: deque[BlockTable] = deque()
        self._tasks: dict[Work, ActiveSteps[Any]] = {}
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def prefix(self) -> PooledCache:
        return PooledCache(self.scheduler)

    @property
    def capacity(self) -> int:
        """Tokens of one session that fit into the pool."""
        return self._engine.block_manager.capacity

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values per token."""
        return self._engine.token_bytes

    async def run(self, prefix: PooledCache, steps: Steps[Result]) -> tuple[Result, float, float]:
        """The result of `steps`, the seconds before they began, and those of the passes that they
        were in.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[Result, float, float]] = loop.create_future()

        def settle(result: Result | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result((result, task.late, task.computed))  # type: ignore[arg-type]

        def finish(result: Result | None, error: BaseException | None) -> None:
            loop.call_soon_threadsafe(settle, result, error)

        task: ActiveSteps[Result] = ActiveSteps(prefix.table, steps, finish, time.perf_counter())
        with self._wake:
            self._arrived.append(task)
            self._wake.notify()
        return await future

    def leave(self, prefix: PooledCache) -> None:
        """The session has ended, however it ended: its work is dropped, its memory is free."""
        with self._wake:
            self._leaving.append(prefix.table)
            self._wake.notify()

    def close(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(
                    lambda: self._stopping or self._arrived or self._leaving or len(self.scheduler)
                )
                if self._stopping:
                    return
                arrived = list(self._arrived)
                leaving = list(self._leaving)
                self._arrived.clear()
                self._leaving.clear()
            for table in leaving:
                self.scheduler.cancel(table)
                self._tasks = {
                    work: task for work, task in self._tasks.items() if work.table is not table
                }
            for task in arrived:
                # Work that came after its session's end is left.
                if task.table not in leaving:
                    task.late = time.perf_counter() - task.asked
                    self._go_on(task, None)
            if batch := self.scheduler.batch():
                self._pass(batch)

    def _pass(self, batch: list[ScheduledChunk]) -> None:
        started = time.perf_counter()
        try:
            logits = self._engine.forward(batch)
        except Exception as error:
            logger.exception("a forward pass over %d sessions failed", len(batch))
            if len(batch) > 1:
                # One of them may have been too much: the others are not to lose their answers for
                # it.
                for chunk in batch:
                    self._pass([chunk])
                return
            for chunk in batch:
                self._tasks.pop(chunk.work).finish(None, error)
                self.scheduler.release(chunk.work.table)
            return
        seconds = time.perf_counter() - started
        positions = sum(chunk.end - chunk.start for chunk in batch)
        found = sum(chunk.found for chunk in batch)
        self._watch(Pass(len(batch), positions, seconds, found))
        for chunk, rows in zip(batch, logits, strict=True):
            task = self._tasks[chunk.work]
            task.computed += seconds
            task.rows = [rows] if chunk.is_first else [*task.rows, rows]
            if self.scheduler.done(chunk):
                del self._tasks[chunk.work]
                rows = np.concatenate(task.rows)
                task.rows = []
                self._go_on(task, rows)

    def _go_on(self, task: ActiveSteps[Any], logits: np.ndarray | None) -> None:
        """Lets a session compute until it needs the model again."""
        try:
            feed: Feed = task.steps.send(logits)  # type: ignore[arg-type]
            work = Work(task.table, feed.ids, feed.rows)
            self.scheduler.add(work)
            self._tasks[work] = task
        except StopIteration as end:
            task.finish(end.value, None)
        except Exception as error:
            task.finish(None, error)
