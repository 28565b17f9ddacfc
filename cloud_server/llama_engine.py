"""The engine of GGUF models: a sequence of one llama.cpp context per session, and one llama_decode per pass."""

from collections.abc import Sequence

import numpy as np

from cloud_server.engine import pages_within
from cloud_server.scheduler import Held, Slice
from common.llama_decoder import Decoder, llama_cpp
from common.llama_model import LlamaModel


class LlamaEngine:
    """Its memory is one pool of cells for all sequences: `pages` count them, and a session's may lie anywhere."""

    def __init__(self, lm: LlamaModel, kv_bytes: int, positions: int) -> None:
        self.token_bytes = lm.token_bytes
        self.pages = pages_within(kv_bytes, lm.token_bytes, lm.context)
        # Each holds a page at least.
        self.most_sessions = min(int(llama_cpp().llama_max_parallel_sequences()), self.pages.total - 1)
        # llama.cpp wants room for a row of every sequence.
        batch = min(self.pages.capacity, max(positions, self.most_sessions))
        self._decoder = Decoder(lm, self.pages.capacity, batch, self.most_sessions)
        # The sequence of each session in memory, and how many ids llama.cpp holds of it.
        self._sequences: dict[Held, int] = {}
        self._lengths: dict[Held, int] = {}
        self._free = list(range(self.most_sessions))

    def forward(self, batch: Sequence[Slice]) -> list[np.ndarray]:
        self._forget()
        for part in batch:
            if part.work.held not in self._sequences:
                self._sequences[part.work.held] = self._free.pop()
        ids = [token for part in batch for token in part.work.ids[part.start : part.end]]
        positions = np.concatenate([np.arange(part.start, part.end) for part in batch])
        sequences = [self._sequences[part.work.held] for part in batch for _ in range(part.start, part.end)]
        wanted = np.concatenate([np.arange(part.start, part.end) >= part.end - part.rows for part in batch])
        for part in batch:
            self._lengths[part.work.held] = part.end
        logits = self._decoder.decode(ids, positions, sequences, wanted)
        return np.split(logits, np.cumsum([part.rows for part in batch])[:-1])

    def _forget(self) -> None:
        """What the scheduler has rolled back, evicted or let go since the last pass leaves llama.cpp's memory too."""
        for held, sequence in list(self._sequences.items()):
            if held.length < self._lengths[held]:
                self._decoder.forget(sequence, held.length)
                self._lengths[held] = held.length
            if not held.length:
                self._free.append(sequence)
                del self._sequences[held], self._lengths[held]
