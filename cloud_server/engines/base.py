"""The seam for what runs the LLM: one forward pass over chunks of many sessions."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from hedge.cloud_server.engines.block_manager import BlockManager
from hedge.cloud_server.engines.scheduler import ScheduledChunk


class Engine(Protocol):
    """A model with a KV cache for many sessions, used by one thread.

    The scheduler decides which ids are fed where: a chunk begins at the end of its session's block
    table, whatever an earlier pass has written behind that.
    """

    @property
    def block_manager(self) -> BlockManager: ...

    @property
    def most_sessions(self) -> int | None:
        """Sessions in memory at once, None for as many as the blocks hold."""
        ...

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values per token."""
        ...

    @property
    def prefix_sharing(self) -> bool:
        """Whether several sessions may read one block."""
        ...

    def forward(self, batch: Sequence[ScheduledChunk]) -> list[np.ndarray]:
        """Feeds every chunk; float32 [chunk.rows, vocab_size] each: the raw logits after the last
        of its ids.
        """
        ...
