"""The engine of GGUF models: a sequence of one llama.cpp context per session, and one llama_decode
per pass.
"""

from collections.abc import Sequence

import numpy as np

from hedge.cloud_server.engines.block_manager import make_block_manager
from hedge.cloud_server.engines.scheduler import BlockTable, ScheduledChunk
from hedge.common.llama_decoder import Decoder, llama_cpp
from hedge.common.llama_model import LlamaModel

# What a sequence has of its own is a multiple of so many cells.
_SHARE = 256
# Rows of a call, most first: from four on, llama.cpp multiplies them together and sums in another
# order.
_ROWS = (3, 1)


class LlamaEngine:
    """Its memory is one pool of cells for all sequences: `block_manager` counts them, and a
    session's may lie anywhere.

    With `reproducible` passes every session has cells for a whole context, and a pass is fed in
    calls of a few rows of one session, which all go through the same kernels.
    """

    def __init__(
        self, lm: LlamaModel, kv_bytes: int, positions: int, *, reproducible: bool = False
    ) -> None:
        self.token_bytes = lm.token_bytes
        self.prefix_sharing = False
        self.block_manager = make_block_manager(kv_bytes, lm.token_bytes, lm.context)
        capacity = self.block_manager.capacity
        # Each holds a block at least.
        self.most_sessions = min(
            int(llama_cpp().llama_max_parallel_sequences()), self.block_manager.total - 1
        )
        if reproducible:
            share = -(-lm.context // _SHARE) * _SHARE
            self.most_sessions = max(1, min(self.most_sessions, capacity // share))
            capacity = min(capacity, self.most_sessions * share)
        # llama.cpp wants room for a row of every sequence.
        batch = min(capacity, max(positions, self.most_sessions))
        self._decoder = Decoder(lm, capacity, batch, self.most_sessions, apart=reproducible)
        # The sequence of each session in memory, and how many ids llama.cpp holds of it.
        self._sequences: dict[BlockTable, int] = {}
        self._lengths: dict[BlockTable, int] = {}
        self._free = list(range(self.most_sessions))
        self._rows_a_call = self._alike(lm) if reproducible else None

    def forward(self, batch: Sequence[ScheduledChunk]) -> list[np.ndarray]:
        self._forget()
        for chunk in batch:
            if chunk.work.table not in self._sequences:
                self._sequences[chunk.work.table] = self._free.pop()
            self._lengths[chunk.work.table] = chunk.end
        if self._rows_a_call:
            return [self._in_calls(chunk, self._rows_a_call) for chunk in batch]
        ids = [token for chunk in batch for token in chunk.work.ids[chunk.start : chunk.end]]
        positions = np.concatenate([np.arange(chunk.start, chunk.end) for chunk in batch])
        sequences = [
            self._sequences[chunk.work.table]
            for chunk in batch
            for _ in range(chunk.start, chunk.end)
        ]
        wanted = np.concatenate(
            [np.arange(chunk.start, chunk.end) >= chunk.end - chunk.rows for chunk in batch]
        )
        logits = self._decoder.decode(ids, positions, sequences, wanted)
        return np.split(logits, np.cumsum([chunk.rows for chunk in batch])[:-1])

    def _in_calls(self, chunk: ScheduledChunk, size: int) -> np.ndarray:
        """The rows of one chunk, in calls of up to `size` ids."""
        sequence = self._sequences[chunk.work.table]
        found = []
        for start in range(chunk.start, chunk.end, size):
            positions = np.arange(start, min(start + size, chunk.end))
            ids = chunk.work.ids[start : start + len(positions)]
            wanted = positions >= chunk.end - chunk.rows
            found.append(self._decoder.decode(ids, positions, [sequence] * len(ids), wanted))
        return np.concatenate(found)

    def _alike(self, lm: LlamaModel) -> int:
        """How many rows of a call come out as each would alone.

        With several threads it is one: they share the keys of a lone row out, from 512 keys on, and
        of several rows never.
        """
        ids = np.random.default_rng(0).integers(0, lm.vocab_size, 2 * _ROWS[0]).tolist()

        def rows(size: int) -> np.ndarray:
            self._decoder.forget(0, 0)
            calls = [np.arange(start, start + size) for start in range(0, len(ids), size)]
            return np.concatenate(
                [self._decoder.decode(ids[p[0] : p[-1] + 1], p, [0] * size, p >= 0) for p in calls]
            )

        alone = rows(1)
        sizes = [size for size in _ROWS if lm.threads == 1 or size == 1]
        found = next((size for size in sizes if np.array_equal(rows(size), alone)), 1)
        self._decoder.forget(0, 0)
        return found

    def _forget(self) -> None:
        """What the scheduler has rolled back, evicted or let go since the last pass leaves
        llama.cpp's memory too.
        """
        for table, sequence in list(self._sequences.items()):
            if table.length < self._lengths[table]:
                self._decoder.forget(sequence, table.length)
                self._lengths[table] = table.length
            if not table.length:
                self._free.append(sequence)
                del self._sequences[table], self._lengths[table]
