"""The engine of GGUF models: a sequence of one llama.cpp context per session, and one llama_decode per pass."""

from collections.abc import Sequence

import numpy as np

from cloud_server.engine import blocks_within
from cloud_server.scheduler import BlockTable, ScheduledChunk
from common.llama_decoder import Decoder, llama_cpp
from common.llama_model import LlamaModel


class LlamaEngine:
    """Its memory is one pool of cells for all sequences: `block_manager` counts them, and a session's may lie anywhere."""

    def __init__(self, lm: LlamaModel, kv_bytes: int, positions: int) -> None:
        self.token_bytes, self.prefix_sharing = lm.token_bytes, False
        self.block_manager = blocks_within(kv_bytes, lm.token_bytes, lm.context)
        # Each holds a block at least.
        self.most_sessions = min(int(llama_cpp().llama_max_parallel_sequences()), self.block_manager.total - 1)
        # llama.cpp wants room for a row of every sequence.
        batch = min(self.block_manager.capacity, max(positions, self.most_sessions))
        self._decoder = Decoder(lm, self.block_manager.capacity, batch, self.most_sessions)
        # The sequence of each session in memory, and how many ids llama.cpp holds of it.
        self._sequences: dict[BlockTable, int] = {}
        self._lengths: dict[BlockTable, int] = {}
        self._free = list(range(self.most_sessions))

    def forward(self, batch: Sequence[ScheduledChunk]) -> list[np.ndarray]:
        self._forget()
        for chunk in batch:
            if chunk.work.table not in self._sequences:
                self._sequences[chunk.work.table] = self._free.pop()
        ids = [token for chunk in batch for token in chunk.work.ids[chunk.start : chunk.end]]
        positions = np.concatenate([np.arange(chunk.start, chunk.end) for chunk in batch])
        sequences = [self._sequences[chunk.work.table] for chunk in batch for _ in range(chunk.start, chunk.end)]
        wanted = np.concatenate([np.arange(chunk.start, chunk.end) >= chunk.end - chunk.rows for chunk in batch])
        for chunk in batch:
            self._lengths[chunk.work.table] = chunk.end
        logits = self._decoder.decode(ids, positions, sequences, wanted)
        return np.split(logits, np.cumsum([chunk.rows for chunk in batch])[:-1])

    def _forget(self) -> None:
        """What the scheduler has rolled back, evicted or let go since the last pass leaves llama.cpp's memory too."""
        for table, sequence in list(self._sequences.items()):
            if table.length < self._lengths[table]:
                self._decoder.forget(sequence, table.length)
                self._lengths[table] = table.length
            if not table.length:
                self._free.append(sequence)
                del self._sequences[table], self._lengths[table]
