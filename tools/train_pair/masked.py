"""The masked language model of `hedge wireless`: its shape, and packets of tales with some tokens hidden and some wrong."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import ModernBertConfig, ModernBertForMaskedLM, PreTrainedTokenizerFast

from tools.train_pair.batches import IGNORED
from tools.train_pair.text import read_books
from tools.train_pair.tokens import save_tokenizer

MASK, PACKET = "<|mask|>", 128
# Not trained on: packets are drawn from these.
HELD_OUT = ("the-lilac-fairy-book.txt", "the-wonderful-wizard-of-oz.txt")
HELD_OUT_CHARACTERS = 60_000


def build(tokenizer: PreTrainedTokenizerFast, embeddings: torch.Tensor) -> ModernBertForMaskedLM:
    """Norms before the layers, so that Muon's rates work; every layer sees the whole packet.

    `embeddings` [ids, 160] are the SLM's: from nothing, a masked model takes long to see more than how frequent a token is.
    """
    model = ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=len(tokenizer), hidden_size=160, num_hidden_layers=5, num_attention_heads=5, intermediate_size=384,
            max_position_embeddings=PACKET, layer_types=["full_attention"] * 5,
            pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            cls_token_id=tokenizer.bos_token_id, sep_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    inside: Any = model.get_input_embeddings()
    own: torch.Tensor = inside.weight
    with torch.no_grad():
        own[: len(embeddings)] = embeddings * (own.std() / embeddings.std())
    return model


def masked_tokenizer(tokenizer: Tokenizer, folder: Path) -> PreTrainedTokenizerFast:
    """The pair's own, with a mask behind its last id: what is sent needs no more bits."""
    fast = save_tokenizer(tokenizer, folder)
    fast.add_special_tokens({"mask_token": MASK})
    fast.model_max_length = PACKET
    fast.save_pretrained(folder)
    return fast


def held_out_text(folder: Path) -> str:
    """The middle of each held-out book, in whole paragraphs."""
    parts = []
    for paragraphs in read_books(folder, only=HELD_OUT):
        middle, size = len(paragraphs) // 2, 0
        for paragraph in paragraphs[middle:]:
            parts.append(paragraph)
            if (size := size + len(paragraph)) > HELD_OUT_CHARACTERS:
                break
    return "\n".join(parts) + "\n"


@dataclass(frozen=True)
class Packets:
    """Packets of the other books. A share of the tokens, uniform in 0..0.9 a packet, is masked and learned.

    In half of the packets up to a fifth of the rest is wrong, as at a receiver.
    """

    ids: np.ndarray
    mask: int
    tokens: int
    seed: int

    @staticmethod
    def of(folder: Path, tokenizer: PreTrainedTokenizerFast, tokens: int, seed: int) -> "Packets":
        books = read_books(folder, without=HELD_OUT)
        ids = [tokenizer.encode("\n".join(paragraphs), add_special_tokens=False) for paragraphs in books]
        assert tokenizer.mask_token_id is not None
        return Packets(np.concatenate([np.array(one, np.int64) for one in ids]), tokenizer.mask_token_id, tokens, seed)

    def at(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels, each int64 [rows, 128]."""
        rng = np.random.default_rng((self.seed, step))
        rows = max(1, self.tokens // PACKET)
        starts = rng.integers(len(self.ids) - PACKET, size=rows)
        truth = self.ids[starts[:, None] + np.arange(PACKET)]
        hidden = rng.random(truth.shape) < rng.uniform(0.0, 0.9, (rows, 1))
        hidden[np.arange(rows), rng.integers(PACKET, size=rows)] = True
        wrong = rng.random(truth.shape) < rng.uniform(0.0, 0.2, (rows, 1)) * rng.integers(0, 2, (rows, 1))
        inputs = np.where(hidden, self.mask, np.where(wrong, rng.integers(self.mask, size=truth.shape), truth))
        return torch.from_numpy(inputs), torch.from_numpy(np.where(hidden, truth, IGNORED))
