"""The masked language model of `hedge wireless`: its shape, and packets of tales with some tokens
hidden and some wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import (
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
)

from tools.train_pair.batches import IGNORED
from tools.train_pair.text import read_books
from tools.train_pair.tokens import save_tokenizer
from tools.train_pair.train import mixed

MASK = "<|mask|>"
PACKET = 128
# Not trained on: packets are drawn from these.
HELD_OUT = ("the-lilac-fairy-book.txt", "the-wonderful-wizard-of-oz.txt")
HELD_OUT_CHARACTERS = 60_000


def build(
    tokenizer: PreTrainedTokenizerFast, llm: LlamaForCausalLM, layers: int = 4
) -> ModernBertForMaskedLM:
    """Norms before the layers, so that Muon's rates work; every layer sees the whole packet.

    It begins as the first `layers` of the pair's LLM, looking both ways: from nothing, it takes
    long to see more than how frequent a token is.
    """
    given: Any = llm
    shape = given.config
    model = ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=shape.num_attention_heads,
            intermediate_size=shape.intermediate_size,
            max_position_embeddings=PACKET,
            layer_types=["full_attention"] * layers,
            hidden_activation="silu",
            rope_parameters={
                "full_attention": {
                    "rope_type": "default",
                    "rope_theta": shape.rope_parameters["rope_theta"],
                }
            },
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            cls_token_id=tokenizer.bos_token_id,
            sep_token_id=tokenizer.eos_token_id,
        )
    )
    inside: Any = model.model
    with torch.no_grad():
        embeddings = given.model.embed_tokens.weight
        inside.embeddings.tok_embeddings.weight[: len(embeddings)] = embeddings
        for i, (to, source) in enumerate(zip(inside.layers, given.model.layers, strict=False)):
            attention = source.self_attn
            mlp = source.mlp
            into = torch.cat(
                [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
            )
            if i:
                to.attn_norm.weight.copy_(source.input_layernorm.weight)
            else:
                # ModernBERT has no norm there: it is in the weights.
                into = into * source.input_layernorm.weight
            to.attn.Wqkv.weight.copy_(into)
            to.attn.Wo.weight.copy_(attention.o_proj.weight)
            to.mlp_norm.weight.copy_(source.post_attention_layernorm.weight)
            to.mlp.Wi.weight.copy_(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]))
            to.mlp.Wo.weight.copy_(mlp.down_proj.weight)
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
        middle = len(paragraphs) // 2
        size = 0
        for paragraph in paragraphs[middle:]:
            parts.append(paragraph)
            if (size := size + len(paragraph)) > HELD_OUT_CHARACTERS:
                break
    return "\n".join(parts) + "\n"


@dataclass(frozen=True)
class Packets:
    """Packets of the other books, as transmitter and receiver see them.

    A share of the tokens, uniform in 0..0.9 a packet, is masked and learned. In half of the packets
    the bits of the rest are flipped as on the air, at a rate between 0.003 and 0.2; in half, a part
    of what is masked holds a guess instead, as it does in a receiver's later rounds.
    """

    ids: np.ndarray
    mask: int
    tokens: int
    seed: int
    guess: Callable[[torch.Tensor], torch.Tensor] | None = None

    @staticmethod
    def of(
        folder: Path,
        tokenizer: PreTrainedTokenizerFast,
        tokens: int,
        seed: int,
        guess: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> "Packets":
        books = read_books(folder, without=HELD_OUT)
        ids = [
            tokenizer.encode("\n".join(paragraphs), add_special_tokens=False)
            for paragraphs in books
        ]
        assert tokenizer.mask_token_id is not None
        return Packets(
            np.concatenate([np.array(one, np.int64) for one in ids]),
            tokenizer.mask_token_id,
            tokens,
            seed,
            guess,
        )

    def at(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels, each int64 [rows, 128]."""
        rng = np.random.default_rng((self.seed, step))
        rows = max(1, self.tokens // PACKET)
        starts = rng.integers(len(self.ids) - PACKET, size=rows)
        truth = self.ids[starts[:, None] + np.arange(PACKET)]
        hidden = rng.random(truth.shape) < rng.uniform(0.0, 0.9, (rows, 1))
        hidden[np.arange(rows), rng.integers(PACKET, size=rows)] = True
        inputs = np.where(hidden, self.mask, self._heard(truth, rng))
        learned = hidden.copy()
        if self.guess:
            guessed = np.arange(rows) < rows // 2
            learned[guessed] &= rng.random((rows // 2, PACKET)) < rng.uniform(
                0.0, 1.0, (rows // 2, 1)
            )
            learned[np.arange(rows), hidden.argmax(axis=1)] = True
            some = torch.from_numpy(inputs[guessed])
            inputs[guessed] = np.where(
                hidden[guessed] & ~learned[guessed], self.guess(some).numpy(), inputs[guessed]
            )
        return torch.from_numpy(inputs), torch.from_numpy(np.where(learned, truth, IGNORED))

    def _heard(self, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Ids with some of their bits flipped, all bits of a packet at one rate; no id becomes one
        that is not sent.
        """
        rows = len(truth)
        rate = np.where(
            rng.random((rows, 1, 1)) < 0.5,
            0.0,
            np.exp(rng.uniform(np.log(0.003), np.log(0.2), (rows, 1, 1))),
        )
        bits = (self.mask - 1).bit_length()
        heard = truth ^ ((rng.random((*truth.shape, bits)) < rate) << np.arange(bits)).sum(axis=-1)
        return np.where(heard < self.mask, heard, truth)


def guesser(model: ModernBertForMaskedLM, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The likeliest token of every position, in the model's present state."""
    parts: Any = model

    @torch.no_grad()
    def guess(inputs: torch.Tensor) -> torch.Tensor:
        with mixed(device):
            found: torch.Tensor = parts(inputs.to(device)).logits[..., :-1].argmax(dim=-1).cpu()
        return found

    return guess


@torch.no_grad()
def hidden_right(
    model: ModernBertForMaskedLM, ids: np.ndarray, mask: int, share: float, seed: int = 0
) -> float:
    """The share of hidden tokens of `ids` that the model's likeliest guess meets, `share` of every
    packet hidden.
    """
    parts: Any = model
    truth = ids[: len(ids) // PACKET * PACKET].reshape(-1, PACKET)
    hidden = np.random.default_rng(seed).random(truth.shape) < share
    inputs = torch.from_numpy(np.where(hidden, mask, truth))
    found = torch.cat(
        [parts(part).logits[..., :-1].argmax(dim=-1) for part in inputs.split(32)]
    ).numpy()
    return float((found == truth)[hidden].mean())
