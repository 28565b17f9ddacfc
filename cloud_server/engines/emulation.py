"""The engine of a larger model than there is: every pass takes as long as that model's would."""

import time
from collections.abc import Sequence

import numpy as np

from hedge.cloud_server.engines.base import Engine
from hedge.cloud_server.engines.scheduler import ScheduledChunk
from hedge.common.errors import BadInput


class Emulated:
    """An Engine whose passes take `base` + `per_position` x positions seconds, or as long as they
    do.
    """

    def __init__(self, engine: Engine, base: float, per_position: float) -> None:
        self._engine = engine
        self._base = base
        self._per_position = per_position
        self.block_manager = engine.block_manager
        self.most_sessions = engine.most_sessions
        self.token_bytes = engine.token_bytes
        self.prefix_sharing = engine.prefix_sharing

    def forward(self, batch: Sequence[ScheduledChunk]) -> list[np.ndarray]:
        started = time.perf_counter()
        rows = self._engine.forward(batch)
        wanted = self._base + self._per_position * sum(chunk.end - chunk.start for chunk in batch)
        time.sleep(max(0.0, started + wanted - time.perf_counter()))
        return rows


def parse_pace(word: str) -> tuple[float, float]:
    """BASE:PER_POSITION in seconds."""
    base, mark, per_position = word.partition(":")
    try:
        pace = float(base), float(per_position)
    except ValueError:
        pace = -1.0, -1.0
    if not mark or not all(0 <= value < float("inf") for value in pace):
        raise BadInput(f"emulate {word!r} is not BASE:PER_POSITION in seconds")
    return pace
