"""What is to be answered: tasks, each by some of the runs."""

from collections.abc import Mapping
from typing import NamedTuple

from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import GenerationConfig
from hedge.evaluation.tasks import Task

Runs = Mapping[str, GenerationConfig]


class Job(NamedTuple):
    """A task, by its number, and the runs that are to answer it."""

    number: int
    task: Task
    runs: tuple[str, ...]


async def finish(session: Session) -> None:
    await session.run()
