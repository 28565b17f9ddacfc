"""Whether an engine gives a position the same logits in whatever company it is judged. It is tried
when the server starts.

A few ids are fed in several ways: as one block, one by one, beside other sessions, after a
rollback, after an eviction. What comes out differs by nothing, by rounding, or by so much that the
model cannot be served.
"""

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from hedge.cloud_server.engines.base import Engine
from hedge.cloud_server.engines.scheduler import BlockTable, ScheduledChunk, Scheduler, Work
from hedge.common.errors import HedgeError, Incompatible
from hedge.common.model import LanguageModel, first_line

# Ids of the text: fewer where a pass over one id is slow.
IDS = 16
FEW = 3
# No further way is tried after so many seconds, and of the ids as many as can be fed twice
# meanwhile.
SECONDS = 2.0
# Rounding moves a row by a few hundredths of its standard deviation, another session's words by all
# of it.
ROUNDING = 0.25


@dataclass(frozen=True, slots=True)
class Exactness:
    """What was seen: the largest `difference` of a logit, 0 where all bits were the same, over so
    many `rows`.
    """

    difference: float
    rows: int

    @property
    def bitwise(self) -> bool:
        return self.rows > 0 and self.difference == 0

    def __str__(self) -> str:
        if not self.rows:
            return "warning: no row of finite logits could be compared"
        if self.bitwise:
            return f"bitwise: {self.rows} rows came out the same, bit for bit, in any company"
        return f"rounding: logits differ by up to {self.difference:.2g} with what else is in a pass"


def _measure_difference(rows: np.ndarray, expected: np.ndarray) -> float | None:
    """The largest difference of two logits; None where it is more than rounding.

    Logits that are not finite are left out: the position that needs them will be told so.
    """
    known = np.isfinite(rows) & np.isfinite(expected)
    if (np.isfinite(rows) != np.isfinite(expected)).any():
        return None
    apart = np.where(known, np.abs(np.where(known, rows, 0) - np.where(known, expected, 0)), 0.0)
    spread = np.where(known, expected, 0.0).std(axis=1)
    return (
        None if (np.sqrt((apart**2).mean(axis=1)) > ROUNDING * spread).any() else float(apart.max())
    )


@dataclass(frozen=True, slots=True)
class Ask:
    """The text of a session up to `end`, with the rows after its last ids."""

    table: BlockTable
    text: Sequence[int]
    end: int
    rows: int


def run_self_check(
    engine: Engine, lm: LanguageModel, positions: int = 256, *, reproducible: bool | None = None
) -> Exactness:
    """Compares passes of at most `positions` ids.

    Incompatible for a model whose rows depend on company by more than rounding, or at all where
    `reproducible` passes were asked for.
    """
    trial = _Trial(engine, lm, positions)
    expected = trial.compute_reference()
    worst = 0.0
    compared = 0
    with closing(trial.try_ways()) as ways:
        for way, start, rows in ways:
            apart = _measure_difference(rows, expected[start : start + len(rows)])
            if apart is None:
                raise Incompatible(
                    f"{lm.name} cannot verify: "
                    f"the logits of a position change by more than rounding {way}"
                )
            worst = max(worst, apart)
            compared += int(np.isfinite(rows).all(axis=1).sum())
    exactness = Exactness(worst, compared)
    if reproducible and not exactness.bitwise:
        raise Incompatible(
            f"--reproducible cannot be had with {lm.name} on this machine: {exactness}"
        )
    return exactness


class _Trial:
    def __init__(self, engine: Engine, lm: LanguageModel, positions: int) -> None:
        self._engine = engine
        self._name = lm.name
        # Without sharing: what it compares has to be computed each time.
        self._scheduler = Scheduler(engine.block_manager, positions, engine.most_sessions)
        self._size = min(IDS, engine.block_manager.capacity, lm.context)
        texts = np.random.default_rng(0).integers(0, lm.vocab_size, (3, self._size))
        self._text, self._other, self._wrong = (row.tolist() for row in texts)
        self._started = time.perf_counter()
        # The first pass of a process is slower than all others.
        self._first, seconds = min((self._block(1) for _ in range(2)), key=lambda timed: timed[1])
        self._size = min(self._size, max(FEW, int(SECONDS / (2 * seconds))))

    def _block(self, count: int) -> tuple[np.ndarray, float]:
        """The first ids of the text as one block, alone, and the seconds it took."""
        table = BlockTable()
        started = time.perf_counter()
        rows = self._run(Ask(table, self._text, count, count))
        self._scheduler.release(table)
        return rows, time.perf_counter() - started

    def compute_reference(self) -> np.ndarray:
        """float32 [ids, vocab_size]: all of the text as one block, alone."""
        return self._block(self._size)[0]

    @property
    def _is_late(self) -> bool:
        return time.perf_counter() - self._started > SECONDS

    def try_ways(self) -> Generator[tuple[str, int, np.ndarray]]:
        """How, from which id on, and the rows. What tells most comes first."""
        one = BlockTable()
        two = BlockTable()
        beside = BlockTable()
        text = self._text
        size = self._size
        third = max(2, self._size // 3)
        # With fewer there are no parts to feed apart.
        if size < FEW:
            return
        try:
            asks = [
                Ask(one, text, third, third),
                Ask(beside, self._other, third + 1, 1),
                Ask(two, text, third - 1, 0),
            ]
            yield "beside other sessions", 0, self._run(*asks)
            yield "when it is judged alone", 0, self._first
            if self._is_late:
                return
            yield "when it is judged alone", third - 1, self._run(Ask(two, text, third, 1))
            if self._is_late or size < 2 * FEW:
                return
            self._run(Ask(one, [*text[:third], *self._wrong[:4]], third + min(4, size - third), 1))
            self._scheduler.rollback(one, min(one.length, third))
            asks = [Ask(one, text, size - 2, size - 2 - third), Ask(beside, self._other, size, 2)]
            yield "after a rollback", third, self._run(*asks)
            if self._is_late:
                return
            self._scheduler.release(two)
            self._run(Ask(two, text, 2 * third, 0), Ask(one, text, size, 0))
            yield "after an eviction", 2 * third, self._run(Ask(two, text, size, size - 2 * third))
            self._scheduler.rollback(one, min(one.length, 2 * third))
            for end in range(2 * third + 1, size + 1):
                if self._is_late:
                    return
                yield "one by one", end - 1, self._run(Ask(one, text, end, 1))
        finally:
            for table in (one, two, beside):
                self._scheduler.release(table)

    def _run(self, *asks: Ask) -> np.ndarray:
        """The rows of the first, all of them fed together."""
        logits: dict[int, list[np.ndarray]] = {}
        works = [Work(ask.table, ask.text[: ask.end], ask.rows) for ask in asks]
        for work in works:
            self._scheduler.add(work)
        while batch := self._scheduler.batch():
            for chunk, rows in zip(batch, self._forward(batch), strict=True):
                kept = [] if chunk.is_first else logits[id(chunk.work)]
                logits[id(chunk.work)] = [*kept, rows]
                self._scheduler.done(chunk)
        return np.concatenate(logits[id(works[0])])

    def _forward(self, batch: Sequence[ScheduledChunk]) -> list[np.ndarray]:
        try:
            return self._engine.forward(batch)
        except HedgeError:
            raise
        except Exception as error:
            # Model code fails in as many ways as there are models that lay a pass out otherwise.
            raise Incompatible(
                f"{self._name} cannot verify: a pass over several sessions fails, "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error
