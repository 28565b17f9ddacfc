"""Many answers at once on one pair of GGUF models, in common forward passes, and no row of logits
is made twice.

A worker is a thread that answers one task after the other, each by every system. When all workers
wait for a model, the one that more of them wait for makes a pass. What one system has learned of a
prefix the next systems of the task need not compute: their tokens part only where their choices do.
"""

import asyncio
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from hedge.common.errors import BadInput, HedgeError
from hedge.common.llama_decoder import Decoder
from hedge.common.llama_model import LlamaModel
from hedge.common.model import LanguageModel, WrappedModel
from hedge.edge_client.engine.machine import Result
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import GenerationConfig
from hedge.evaluation.local import LocalLink
from hedge.evaluation.record import AnswerRecord, from_session
from hedge.evaluation.tasks import Task

# Ids of a pass: more do not make it cheaper an id.
_BATCH = 256
# Rows of logits that a worker keeps of a task, of both models: 430 MB at |V| = 152,000.
KEPT_ROWS = 700


@dataclass(eq=False, slots=True)
class _Request:
    """`ids` of a sequence behind its first `start`, which stay; wanted are the last `rows` logits."""

    sequence: int
    start: int
    ids: list[int]
    rows: int
    found: np.ndarray | Exception | None = None


class _Passes:
    """Gathers what workers want of both models. Only one thread is in here at a time."""

    def __init__(self, workers: int) -> None:
        self._changed = threading.Condition()
        self._working = workers
        self._waiting: dict[BatchedModel, list[_Request]] = {}
        self._stopped = False

    def forward(self, model: "BatchedModel", request: _Request) -> np.ndarray:
        """HedgeError when all is to end; and whatever a pass raises, for all who are in it."""
        with self._changed:
            if self._stopped:
                raise HedgeError("stopped")
            self._waiting.setdefault(model, []).append(request)
            self._working -= 1
            self._run_if_all_wait()
            self._changed.wait_for(lambda: request.found is not None)
        if isinstance(request.found, Exception):
            raise request.found
        assert request.found is not None
        return request.found

    def leave(self) -> None:
        """A worker has no more to do."""
        with self._changed:
            self._working -= 1
            self._run_if_all_wait()

    def stop(self) -> None:
        """Whoever waits, or comes to wait, has no answer any more."""
        with self._changed:
            self._stopped = True
            for request in (request for requests in self._waiting.values() for request in requests):
                request.found = HedgeError("stopped")
                self._working += 1
            self._waiting.clear()
            self._changed.notify_all()

    def _run_if_all_wait(self) -> None:
        if self._working or not any(self._waiting.values()):
            return
        model = max(self._waiting, key=lambda model: len(self._waiting[model]))
        requests = self._waiting.pop(model)
        try:
            for request, rows in zip(requests, model.run(requests), strict=True):
                request.found = rows
        except Exception as error:
            for request in requests:
                request.found = error
        self._working += len(requests)
        self._changed.notify_all()


@dataclass(slots=True)
class _Worker:
    """What one thread holds of each model: the ids in its sequence, and the rows of its task by
    their prefix.
    """

    number: int
    held: dict["BatchedModel", list[int]] = field(default_factory=dict)
    rows: dict[tuple["BatchedModel", int, int], np.ndarray] = field(default_factory=dict)


class BatchedModel(WrappedModel):
    """A GGUF model with a sequence for every worker, of up to `context` ids."""

    def __init__(self, lm: LlamaModel, passes: _Passes, workers: int, context: int) -> None:
        super().__init__(lm)
        self.context = min(context, lm.context)
        self._passes = passes
        self._local = threading.local()
        self._decoder = Decoder(lm, workers * self.context, max(_BATCH, workers), workers)

    def work_as(self, worker: _Worker) -> None:
        self._local.worker = worker

    def kv_cache(self) -> "_Cache":
        return _Cache(self, self._local.worker, reuses=True)

    def forward(self, request: _Request) -> np.ndarray:
        return self._passes.forward(self, request)

    def run(self, requests: Sequence[_Request]) -> list[np.ndarray]:
        """One pass, or several where there are too many ids; float32 [rows, vocab_size] each."""
        for request in requests:
            self._decoder.forget(request.sequence, request.start)
        ids = [token for request in requests for token in request.ids]
        positions = np.concatenate(
            [np.arange(request.start, request.start + len(request.ids)) for request in requests]
        )
        sequences = [request.sequence for request in requests for _ in request.ids]
        wanted = np.concatenate(
            [np.arange(len(request.ids)) >= len(request.ids) - request.rows for request in requests]
        )
        parts = [slice(first, first + _BATCH) for first in range(0, len(ids), _BATCH)]
        logits = np.concatenate(
            [self._decoder.decode(ids[p], positions[p], sequences[p], wanted[p]) for p in parts]
        )
        return np.split(logits, np.cumsum([request.rows for request in requests])[:-1])


class AfreshModel(WrappedModel):
    """The same model, whose rows are computed even where they are known: in other company they may
    round otherwise.
    """

    def __init__(self, lm: BatchedModel) -> None:
        super().__init__(lm)
        self.context = lm.context
        self._batched = lm

    def kv_cache(self) -> "_Cache":
        cache = self._batched.kv_cache()
        cache.reuses = False
        return cache


class _Cache:
    """A KVCache: the ids of one session, of which the worker's sequence may hold fewer, or others."""

    def __init__(self, model: BatchedModel, worker: _Worker, *, reuses: bool) -> None:
        self._model = model
        self._worker = worker
        self.reuses = reuses
        self._ids: list[int] = []
        # Names the prefix before each id, and the whole.
        self._names = [0]

    @property
    def length(self) -> int:
        return len(self._ids)

    def rollback(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot roll a cache of {self.length} back to {length}")
        del self._ids[length:], self._names[length + 1 :]

    def forward(self, ids: Sequence[int], rows: int | None = None) -> np.ndarray:
        rows = len(ids) if rows is None else rows
        if self.length + len(ids) > self._model.context:
            raise HedgeError(
                f"{self.length + len(ids)} tokens in a context of {self._model.context}"
            )
        for token in ids:
            self._ids.append(token)
            self._names.append(hash((self._names[-1], token)))
        if not rows:
            return np.empty((0, self._model.vocab_size), np.float32)
        keys = [
            (self._model, at, self._names[at])
            for at in range(self.length - rows + 1, self.length + 1)
        ]
        known = self._worker.rows if self.reuses else {}
        if missing := [i for i, key in enumerate(keys) if key not in known]:
            fresh = self._compute(rows - missing[0])
            found = [known[key] for key in keys[: missing[0]]] + list(fresh)
            for key, row in zip(keys, found, strict=True):
                if self.reuses and len(known) < KEPT_ROWS:
                    known.setdefault(key, row.copy())
            return np.stack(found)
        return np.stack([known[key] for key in keys])

    def _compute(self, rows: int) -> np.ndarray:
        """The last `rows` rows; what the sequence holds of the ids before them is not fed again."""
        held = self._worker.held.get(self._model, [])
        start = 0
        most = self.length - rows
        while start < min(most, len(held)) and held[start] == self._ids[start]:
            start += 1
        found = self._model.forward(_Request(self._worker.number, start, self._ids[start:], rows))
        self._worker.held[self._model] = list(self._ids)
        return found


class _Here:
    """The device of a worker: its steps run in its own thread."""

    def now(self) -> float:
        return 0.0

    async def run(self, step: Callable[[], Result], slm: LanguageModel, ids: int) -> Result:
        return step()


def answers(
    slm: LanguageModel,
    llm: LanguageModel,
    runs: dict[str, GenerationConfig],
    left: Sequence[tuple[int, Task, tuple[str, ...]]],
    workers: int,
    context: int,
    difference: float,
    end: float = math.inf,
) -> Iterator[tuple[str, AnswerRecord]]:
    """The answers of every task by the runs it names, as they are done.

    `context`: ids of a prompt with its answer, at most. Systems that are exact see rows of the LLM
    that are computed afresh, so that they show what rounding does; `difference` as in
    VerifierSession. Behind `end` (time.monotonic) no answer begins.
    """
    if not isinstance(slm, LlamaModel) or not isinstance(llm, LlamaModel):
        raise BadInput("--batch is for two GGUF models")
    workers = max(1, min(workers, len(left)))
    passes = _Passes(workers)
    mine, theirs = (BatchedModel(lm, passes, workers, context) for lm in (slm, llm))
    afresh = AfreshModel(theirs)
    todo: queue.SimpleQueue[tuple[int, Task, tuple[str, ...]]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, AnswerRecord] | Exception | None] = queue.SimpleQueue()
    for one in left:
        todo.put(one)

    def answer_all(worker: _Worker) -> None:
        for lm in (mine, theirs):
            lm.work_as(worker)
        try:
            while time.monotonic() < end:
                try:
                    index, task, names = todo.get_nowait()
                except queue.Empty:
                    break
                worker.rows.clear()
                ids = slm.encode_chat(task.prompt.messages)
                for name in names:
                    if time.monotonic() > end:
                        break
                    config = runs[name]
                    verified = config.verification.exact and config.system != "llm"
                    link = LocalLink(afresh if verified else theirs, difference=difference)
                    session = Session(mine, ids, config, link, machine=_Here())
                    asyncio.run(_drain(session))
                    done.put((name, from_session(index, task, ids, session)))
        except Exception as error:
            done.put(error)
        finally:
            passes.leave()
            done.put(None)

    threads = [
        threading.Thread(target=answer_all, args=(_Worker(number),), daemon=True)
        for number in range(workers)
    ]
    for thread in threads:
        thread.start()
    ended = 0
    try:
        while ended < workers:
            found = done.get()
            if isinstance(found, Exception):
                raise found
            if found is None:
                ended += 1
            else:
                yield found
    finally:
        # llama.cpp is not to be taken away from under a pass.
        passes.stop()
        for thread in threads:
            thread.join()


async def _drain(session: Session) -> None:
    await session.run()
