"""Many answers at once on one pair of GGUF models, in common forward passes.

A worker is a thread that answers one task after the other, each by every system: what one system
has learned of a prefix, the next ones need not compute.
"""

import asyncio
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from hedge.common.errors import BadInput
from hedge.common.llama_model import LlamaModel
from hedge.common.model import LanguageModel
from hedge.edge_client.engine.machine import Result
from hedge.edge_client.engine.session import Session
from hedge.evaluation.local import LocalLink
from hedge.evaluation.record import AnswerRecord, record_answer
from research.batched_models import AfreshModel, BatchedModel, PassQueue, Worker
from research.jobs import Job, Runs, finish

Answer = tuple[str, AnswerRecord]


class _Here:
    """The device of a worker: its steps run in its own thread."""

    def now(self) -> float:
        return 0.0

    async def run(self, step: Callable[[], Result], slm: LanguageModel, ids: int) -> Result:
        return step()


class _Batch:
    """Both models and the queues between the threads."""

    def __init__(
        self, slm: LlamaModel, llm: LlamaModel, runs: Runs, workers: int, context: int
    ) -> None:
        self.passes = PassQueue(workers)
        self.slm = BatchedModel(slm, self.passes, workers, context)
        self.llm = BatchedModel(llm, self.passes, workers, context)
        self.runs = runs
        self.todo: queue.SimpleQueue[Job] = queue.SimpleQueue()
        # None: a worker has ended.
        self.done: queue.SimpleQueue[Answer | Exception | None] = queue.SimpleQueue()

    def work(self, number: int, difference: float, end: float) -> None:
        """The thread of a worker: answers tasks until none is left."""
        worker = Worker(number)
        for lm in (self.slm, self.llm):
            lm.work_as(worker)
        try:
            while time.monotonic() < end:
                worker.rows.clear()
                self._answer(self.todo.get_nowait(), difference, end)
        except queue.Empty:
            pass
        except Exception as error:
            self.done.put(error)
        finally:
            self.passes.leave()
            self.done.put(None)

    def _answer(self, job: Job, difference: float, end: float) -> None:
        ids = self.slm.encode_chat(job.task.prompt.messages)
        for name in job.runs:
            if time.monotonic() > end:
                break
            config = self.runs[name]
            # Exact systems see rows that are computed afresh: they show what rounding does.
            afresh = config.verification.exact and config.system != "llm"
            llm = AfreshModel(self.llm) if afresh else self.llm
            link = LocalLink(llm, difference=difference)
            session = Session(self.slm, ids, config, link, machine=_Here())
            asyncio.run(finish(session))
            self.done.put((name, record_answer(job.number, job.task, ids, session)))


def find_context(slm: LanguageModel, llm: LanguageModel, runs: Runs, jobs: Sequence[Job]) -> int:
    """The ids that the longest prompt takes with its answer, as far as the models allow."""
    prompts = (len(slm.encode_chat(job.task.prompt.messages)) for job in jobs)
    answer = max(config.sampling.max_new_tokens for config in runs.values())
    return min(slm.context, llm.context, max(prompts, default=0) + answer)


def answer_batched(
    slm: LanguageModel,
    llm: LanguageModel,
    runs: Runs,
    jobs: Sequence[Job],
    workers: int,
    difference: float = 0.0,
    end: float = math.inf,
) -> Iterator[Answer]:
    """The answers of every job by the runs it names, as they are done.

    Behind `end` (time.monotonic) no answer begins.
    """
    if not isinstance(slm, LlamaModel) or not isinstance(llm, LlamaModel):
        raise BadInput("--batch is for two GGUF models")
    workers = max(1, min(workers, len(jobs)))
    batch = _Batch(slm, llm, runs, workers, find_context(slm, llm, runs, jobs))
    for job in jobs:
        batch.todo.put(job)
    threads = [
        threading.Thread(target=batch.work, args=(number, difference, end), daemon=True)
        for number in range(workers)
    ]
    for thread in threads:
        thread.start()
    left = workers
    try:
        while left:
            found = batch.done.get()
            if isinstance(found, Exception):
                raise found
            if found is None:
                left -= 1
            else:
                yield found
    finally:
        # llama.cpp is not to be taken away from under a pass.
        batch.passes.stop()
        for thread in threads:
            thread.join()
