"""One harness for what is studied: systems x tasks -> answers, and whatever is wanted -> rows.

What is done is on disk at once, and what a journal holds is not done again.
"""

import asyncio
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tqdm import tqdm

from hedge.common.errors import HedgeError
from hedge.common.loading import load
from hedge.common.model import LanguageModel
from hedge.common.model_options import ModelOptions
from hedge.edge_client.engine.session import Session
from hedge.evaluation.local import LocalLink
from hedge.evaluation.record import AnswerRecord, Journal, record_answer
from hedge.evaluation.tasks import Task
from research.batched import answer_batched
from research.jobs import Job, Runs, finish
from research.pool import share_work

T = TypeVar("T")
Entry = dict[str, Any]


def show_progress(items: Iterable[T], total: int, what: str, unit: str = "answer") -> Iterator[T]:
    """On a terminal only."""
    return iter(tqdm(items, total=total, desc=what, unit=unit, disable=None))


def complete(
    journal: Journal,
    fields: Sequence[str],
    wanted: Mapping[tuple[Any, ...], T],
    work: Callable[[list[T]], Iterable[Entry]],
    what: str,
) -> list[Entry]:
    """Has `work` do what the journal lacks; returns the entries of all that is wanted.

    An item's key is what its entry holds in `fields`.
    """
    done = {tuple(entry[name] for name in fields) for entry in journal.entries}
    left = [item for key, item in wanted.items() if key not in done]
    for entry in show_progress(work(left), len(left), what, "row"):
        journal.append(entry)
    return [e for e in journal.entries if tuple(e[name] for name in fields) in wanted]


@dataclass(frozen=True, slots=True)
class ModelPair:
    """Where the models are, and how to load them."""

    slm: str
    llm: str
    options: ModelOptions = field(default_factory=ModelOptions)

    def load(self) -> tuple[LanguageModel, LanguageModel]:
        return load(self.slm, "slm", self.options), load(self.llm, "llm", self.options)


def find_missing(runs: Runs, asked: Sequence[Task], done: Collection[tuple[str, int]]) -> list[Job]:
    """What is not among the (run, task number) that are `done`."""
    jobs = []
    for number, task in enumerate(asked):
        if lacking := tuple(name for name in runs if (name, number) not in done):
            jobs.append(Job(number, task, lacking))
    return jobs


@dataclass(frozen=True, slots=True)
class Answering:
    """How answers are made: in processes, or `batch` at once in common passes of one process.

    `difference`: as in VerifierSession. No answer of a batch begins behind `end`, in
    time.monotonic.
    """

    processes: int = 1
    batch: int | None = None
    difference: float = 0.0
    end: float = math.inf

    def run(
        self, pair: ModelPair, runs: Runs, jobs: Sequence[Job]
    ) -> Iterator[tuple[str, AnswerRecord]]:
        """Run and answer as they are done. HedgeError ends it; what came before stays good."""
        if not jobs:
            return iter(())
        if self.batch:
            found = answer_batched(*pair.load(), runs, jobs, self.batch, self.difference, self.end)
        else:
            found = _answer_in_processes(pair, runs, jobs, self.processes)
        return show_progress(found, sum(len(job.runs) for job in jobs), "answering")


def _answer_in_processes(
    pair: ModelPair, runs: Runs, jobs: Sequence[Job], processes: int
) -> Iterator[tuple[str, AnswerRecord]]:
    for found in share_work(processes, _start, (pair, dict(runs)), _answer, jobs):
        if isinstance(found, str):
            raise HedgeError(found)
        yield from found


# Of a worker process: the SLM, a link to the LLM, and the runs.
_worker: list[Any] = []


def _start(pair: ModelPair, runs: Runs) -> None:
    slm, llm = pair.load()
    _worker[:] = [slm, LocalLink(llm), runs]


def _answer(job: Job) -> list[tuple[str, AnswerRecord]] | str:
    slm, link, runs = _worker
    ids = slm.encode_chat(job.task.prompt.messages)
    found = []
    for name in job.runs:
        session = Session(slm, ids, runs[name], link)
        try:
            asyncio.run(finish(session))
        except HedgeError as error:
            return f"{name}: {error}"
        found.append((name, record_answer(job.number, job.task, ids, session)))
    return found
