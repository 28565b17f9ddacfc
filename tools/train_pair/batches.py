"""Packed training batches, each a function of (seed, step) alone: a resumed run sees the same."""

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from tools.train_pair.text import ASSISTANT, BEGIN, END, USER, Conversations

IGNORED = -100


@dataclass(frozen=True)
class Batches:
    """Rows of documents end to end; tales and the assistant's words are learned, not questions."""

    conversations: Conversations
    tokenizer: Tokenizer
    tokens: int
    lengths: tuple[int, ...]
    prose_share: float
    seed: int

    def _document(self, rng: np.random.Generator) -> tuple[list[int], list[int]]:
        begin, end, user, assistant = (
            int(self.tokenizer.token_to_id(t) or 0) for t in (BEGIN, END, USER, ASSISTANT)
        )
        if rng.random() < self.prose_share:
            ids = [*self.tokenizer.encode(self.conversations.library.anywhere(rng)).ids, end]
            return [begin, *ids], [IGNORED, *ids]
        ids = [begin]
        labels = [IGNORED]
        for question, answer in self.conversations.draw(rng):
            asked = [user, *self.tokenizer.encode(question).ids, end, assistant]
            said = [*self.tokenizer.encode(answer).ids, end]
            ids += asked + said
            labels += [IGNORED] * len(asked) + said
        return ids, labels

    def at(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels, each int64 [rows, length], the labels already shifted by one."""
        rng = np.random.default_rng((self.seed, step))
        length = self.lengths[step % len(self.lengths)]
        rows = max(1, self.tokens // length)
        ids = np.empty((rows, length + 1), np.int64)
        labels = np.empty((rows, length + 1), np.int64)
        for row in range(rows):
            filled_ids: list[int] = []
            filled_labels: list[int] = []
            while len(filled_ids) <= length:
                more_ids, more_labels = self._document(rng)
                filled_ids += more_ids
                filled_labels += more_labels
            ids[row], labels[row] = filled_ids[: length + 1], filled_labels[: length + 1]
        return torch.from_numpy(ids[:, :-1].copy()), torch.from_numpy(labels[:, 1:].copy())
