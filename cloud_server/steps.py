"""What a session does until it needs the model, again and again: whoever runs the steps may batch sessions."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from common.model import KVCache

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Feed:
    """What a session wants of the model: all of `ids` in its cache, and the logits after the last `rows` of them."""

    ids: list[int]
    rows: int


# It is sent float32 [rows, vocab_size].
Steps = Generator[Feed, np.ndarray, Result]


class Prefix(Protocol):
    """The cached state of the session's history: how much of it there is, which can shrink at any time, and rollback."""

    @property
    def length(self) -> int: ...

    def rollback(self, length: int) -> None: ...


@dataclass(slots=True)
class Cost:
    """What one verdict cost: seconds from asking for the model to having logits, and positions fed."""

    seconds: float = 0.0
    positions: int = 0


def alone(steps: Steps[Result], prefix: KVCache) -> Result:
    """Runs the steps of one session on a cache of its own."""
    try:
        feed = next(steps)
        while True:
            feed = steps.send(prefix.forward(feed.ids[prefix.length :], feed.rows))
    except StopIteration as end:
        result: Result = end.value
        return result
