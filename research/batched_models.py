"""GGUF models whose passes several workers share, and that make no row of logits twice.

When all workers wait for a model, the one that more of them wait for makes a pass.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from hedge.common.errors import HedgeError
from hedge.common.llama_decoder import Decoder
from hedge.common.llama_model import LlamaModel
from hedge.common.model import WrappedModel

# Ids of a pass: more do not make it cheaper an id.
_BATCH = 256
# Rows of logits that a worker keeps of a task, of both models: 430 MB at |V| = 152,000.
KEPT_ROWS = 700


@dataclass(eq=False, slots=True)
class Request:
    """Wants the last `rows` logits of `ids`, which follow a sequence's first `start`."""

    sequence: int
    start: int
    ids: list[int]
    rows: int
    found: np.ndarray | Exception | None = None


class PassQueue:
    """Gathers the requests of all workers. Only one thread is in here at a time."""

    def __init__(self, workers: int) -> None:
        self._changed = threading.Condition()
        self._working = workers
        self._waiting: dict[BatchedModel, list[Request]] = {}
        self._stopped = False

    def forward(self, model: "BatchedModel", request: Request) -> np.ndarray:
        """Raises HedgeError after `stop`, and what a pass raised, for all who were in it."""
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
        """Counts a worker out that has no more to do."""
        with self._changed:
            self._working -= 1
            self._run_if_all_wait()

    def stop(self) -> None:
        """Fails all requests, those that wait and those that come."""
        with self._changed:
            self._stopped = True
            for request in chain.from_iterable(self._waiting.values()):
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
class Worker:
    """Holds the ids in a thread's sequence of each model, and its task's rows by their prefix."""

    number: int
    held: dict["BatchedModel", list[int]] = field(default_factory=dict)
    rows: dict[tuple["BatchedModel", int, int], np.ndarray] = field(default_factory=dict)


class BatchedModel(WrappedModel):
    """A GGUF model with a sequence for every worker, of up to `context` ids."""

    def __init__(self, lm: LlamaModel, passes: PassQueue, workers: int, context: int) -> None:
        super().__init__(lm)
        self.context = min(context, lm.context)
        self._passes = passes
        self._local = threading.local()
        self._decoder = Decoder(lm, workers * self.context, max(_BATCH, workers), workers)

    def work_as(self, worker: Worker) -> None:
        self._local.worker = worker

    def kv_cache(self) -> "_Cache":
        return _Cache(self, self._local.worker, reuses=True)

    def forward(self, request: Request) -> np.ndarray:
        return self._passes.forward(self, request)

    def run(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """One pass, or several where there are too many ids; float32 [rows, vocab_size] each."""
        for request in requests:
            self._decoder.forget(request.sequence, request.start)
        ids = [token for request in requests for token in request.ids]
        counts = [len(request.ids) for request in requests]
        steps = np.concatenate([np.arange(count) for count in counts])
        positions = steps + np.repeat([request.start for request in requests], counts)
        sequences = [request.sequence for request in requests for _ in request.ids]
        unwanted = [len(request.ids) - request.rows for request in requests]
        wanted = steps >= np.repeat(unwanted, counts)
        parts = [slice(first, first + _BATCH) for first in range(0, len(ids), _BATCH)]
        logits = np.concatenate(
            [self._decoder.decode(ids[p], positions[p], sequences[p], wanted[p]) for p in parts]
        )
        return np.split(logits, np.cumsum([request.rows for request in requests])[:-1])


class AfreshModel(WrappedModel):
    """Computes rows even where they are known: in other company they may round otherwise."""

    def __init__(self, lm: BatchedModel) -> None:
        super().__init__(lm)
        self.context = lm.context
        self._batched = lm

    def kv_cache(self) -> "_Cache":
        cache = self._batched.kv_cache()
        cache.reuses = False
        return cache


class _Cache:
    """The KVCache of a session, whose worker's sequence may hold fewer of its ids, or others."""

    def __init__(self, model: BatchedModel, worker: Worker, *, reuses: bool) -> None:
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
        """Feeds what the sequence does not hold; returns the last `rows` rows."""
        held = self._worker.held.get(self._model, [])
        start = 0
        most = self.length - rows
        while start < min(most, len(held)) and held[start] == self._ids[start]:
            start += 1
        found = self._model.forward(Request(self._worker.number, start, self._ids[start:], rows))
        self._worker.held[self._model] = list(self._ids)
        return found
