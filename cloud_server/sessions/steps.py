"""What a session does until it needs the model, again and again: whoever runs the steps may batch
sessions.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from hedge.cloud_server.verification.base import Drawn
from hedge.common.model import KVCache
from hedge.common.noise import Noise
from hedge.common.sampling import Warp

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Draws:
    """How tokens are drawn from rows: by `warp` and `noise`, the first one at the generated
    position `position`.
    """

    warp: Warp
    noise: Noise
    position: int


@dataclass(frozen=True, slots=True)
class Feed:
    """What a session wants of the model: all of `ids` in its cache, and the logits after the last
    `rows` of them.

    With `draws` the tokens that these draw are enough, and may be sent in place of the logits: up
    to the first one that is not the id that follows, behind which nothing will be looked at.
    `stream`: so many tokens the session will go on to draw, this one included, each behind the one
    before.
    """

    ids: list[int]
    rows: int
    draws: Draws | None = None
    stream: int = 0


# float32 [rows, vocab_size], or what was drawn from each.
Rows = np.ndarray | list[Drawn]
Steps = Generator[Feed, Rows, Result]


class SessionCache(Protocol):
    """The cached state of the session's history: how much of it there is, which can shrink at any
    time, and rollback.
    """

    @property
    def length(self) -> int: ...

    def rollback(self, length: int) -> None: ...


@dataclass(slots=True)
class Cost:
    """What one verdict cost: seconds of waiting for logits, and positions fed."""

    seconds: float = 0.0
    positions: int = 0


def run_alone(steps: Steps[Result], prefix: KVCache) -> Result:
    """Runs the steps of one session on a cache of its own."""
    try:
        feed = next(steps)
        while True:
            feed = steps.send(prefix.forward(feed.ids[prefix.length :], feed.rows))
    except StopIteration as end:
        result: Result = end.value
        return result
