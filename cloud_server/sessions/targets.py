"""The LLM's probabilities at the positions that a verdict looks at."""

from collections.abc import Sequence
from copy import copy
from typing import overload

import numpy as np

from hedge.common.errors import NotFinite
from hedge.common.logits import LogitsProcessor
from hedge.common.sampling import Warp


class Targets(Sequence[np.ndarray]):
    """y, warped, of some `rows` of logits, the first of which judges `position`; each is made when
    it is looked at.

    `ids` are the prompt's and the answer's, drafts included: the row that judges a position is
    processed by what is before it.

    What is behind a rejection is never looked at, and may be no number. NotFinite for a row that is
    looked at and is none.
    """

    def __init__(
        self,
        warp: Warp,
        processor: LogitsProcessor,
        rows: np.ndarray,
        position: int,
        ids: Sequence[int],
        prompt: int,
    ) -> None:
        self._warp = warp
        self._process = processor
        self._rows = rows
        self._position = position
        self._ids = ids
        self._prompt = prompt
        # The rows that are in this part, and what has been made, of all parts.
        self._part = range(len(rows))
        self._made: dict[int, np.ndarray] = {}
        self._logits: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._part)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> "Targets": ...
    def __getitem__(self, index: int | slice) -> "np.ndarray | Targets":
        if isinstance(index, slice):
            part = copy(self)
            part._part = self._part[index]
            return part
        number = self._part[index]
        if number not in self._made:
            if not np.isfinite(self._rows[number]).all():
                raise NotFinite(self._position + number)
            # Histories are long, and nothing is done to most rows.
            before = (
                self._ids[: self._prompt + self._position + number] if self._process.options else ()
            )
            self._logits[number] = self._process(self._rows[number], before)
            self._made[number] = self._warp(self._logits[number])
        return self._made[number]

    def logits(self, index: int) -> np.ndarray:
        """What the warp was given of a position."""
        self[index]
        return self._logits[self._part[index]]

    def raw(self, index: int) -> np.ndarray:
        """What the model gave of it."""
        return np.asarray(self._rows[self._part[index]])
