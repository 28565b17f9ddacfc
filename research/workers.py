"""Runs tasks on both models in worker processes, the real edge session against the real verifier,
in small chunks.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hedge.common.errors import HedgeError
from hedge.common.model import LanguageModel, load
from hedge.common.model_options import ModelOptions
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import GenerationConfig
from hedge.evaluation.local import LocalLink
from hedge.evaluation.record import AnswerRecord, from_session
from hedge.evaluation.tasks import Task
from research.pool import shared

CHUNK = 10


@dataclass(frozen=True, slots=True)
class ModelPair:
    """Where the models are, and how to load them."""

    slm: str
    llm: str
    options: ModelOptions = ModelOptions()  # noqa: RUF009

    def load(self) -> tuple[LanguageModel, LanguageModel]:
        return load(self.slm, "slm", self.options), load(self.llm, "llm", self.options)


@dataclass(frozen=True, slots=True)
class AnswerJob:
    """Some tasks of one run."""

    run: str
    config: GenerationConfig
    tasks: tuple[tuple[int, Task], ...]


_models: list[Any] = []


def _start(pair: ModelPair) -> None:
    slm, llm = pair.load()
    _models[:] = [slm, LocalLink(llm)]


def _do(job: AnswerJob) -> tuple[str, list[AnswerRecord] | str]:
    slm, link = _models
    try:
        return job.run, [_answer(slm, link, job.config, index, task) for index, task in job.tasks]
    except HedgeError as error:
        return job.run, f"{job.run}: {error}"


def _answer(
    slm: LanguageModel, link: LocalLink, config: GenerationConfig, index: int, task: Task
) -> AnswerRecord:
    ids = slm.encode_chat(task.prompt.messages)
    session = Session(slm, ids, config, link)

    async def drain() -> None:
        await session.run()

    asyncio.run(drain())
    return from_session(index, task, ids, session)


def answers(
    pair: ModelPair, jobs: Sequence[AnswerJob], processes: int
) -> Iterator[tuple[str, list[AnswerRecord]]]:
    """The answers of every job, in the order they are done. HedgeError ends it; what came before
    stays good.
    """
    for run, found in shared(processes, _start, (pair,), _do, jobs):
        if isinstance(found, str):
            raise HedgeError(found)
        yield run, found
