"""Tiny random models of every supported architecture, as real folders on disk."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from hedge.common.loading import load
from hedge.common.model import LanguageModel, WrappedModel
from hedge.common.model_options import ModelOptions
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import GenerationConfig
from hedge.edge_client.transport.link import Link
from tests.effort import FULL, RUNS

# What commands remember stays here, and starts from nothing.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp()
# A shell that starts the tests in the background has it ignored, and whatever they start would
# ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("quick", deadline=None, max_examples=30)
hypothesis.settings.register_profile("thorough", deadline=None)
hypothesis.settings.load_profile("thorough" if RUNS >= FULL else "quick")
CONTEXT = 64
# One event loop for thousands of short answers.
_RUNNER = asyncio.Runner()


def _tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    # The last name is one that the Qwen2 tokenizer class would add by itself.
    words = {f"w{i}": i for i in range(vocab - 1)} | {"<|endoftext|>": vocab - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=None)


def _build(kind: str, vocab: int, eos: int | None, width: int, context: int) -> torch.nn.Module:
    common = {"vocab_size": vocab, "eos_token_id": eos, "bos_token_id": None, "pad_token_id": None}
    if kind == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                n_embd=width,
                n_layer=2,
                n_head=2,
                n_positions=context,
                initializer_range=0.6,
                **common,
            )
        )
    shape = {
        "hidden_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 2 * width,
        "max_position_embeddings": context,
        "initializer_range": 0.6,
    }
    if kind == "gpt_neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**shape, **common))
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=1, **shape, **common))
    return LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **shape, **common))


MakeFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """make_folder(kind, seed, vocab, padding, eos, ...): a model folder; equal arguments give equal
    weights.
    """

    def make(
        kind: str = "llama",
        seed: int = 0,
        vocab: int = 12,
        padding: int = 0,
        eos: int | None = None,
        width: int = 16,
        context: int = CONTEXT,
    ) -> Path:
        folder = tmp_path_factory.mktemp(f"{kind}-{seed}")
        torch.manual_seed(seed)
        model = _build(kind, vocab + padding, eos, width, context)
        model.save_pretrained(folder)  # type: ignore[operator]
        _tokenizer(vocab).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def make_lm(make_folder: MakeFolder) -> Callable[..., LanguageModel]:
    def make(dtype: str | None = None, **arguments: object) -> LanguageModel:
        return load(str(make_folder(**arguments)), "model", ModelOptions(dtype=dtype))

    return make


class RememberingLM(WrappedModel):
    """A real model that computes the logits of each prefix once: thousands of sessions meet the
    same few prefixes.
    """

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__(lm)
        self.rows: dict[tuple[int, ...], np.ndarray] = {}

    def kv_cache(self) -> "RememberedCache":
        return RememberedCache(self)

    def row(self, ids: tuple[int, ...]) -> np.ndarray:
        if ids not in self.rows:
            self.rows[ids] = self.lm.kv_cache().forward(ids, 1)[0]
        return self.rows[ids]


class RememberedCache:
    """A KVCache, by look-up."""

    def __init__(self, lm: RememberingLM) -> None:
        self._lm = lm
        self._ids: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        return len(self._ids)

    def forward(self, ids: Sequence[int], rows: int | None = None) -> np.ndarray:
        self._ids += tuple(ids)
        first = len(self._ids) - (len(ids) if rows is None else rows)
        found = [self._lm.row(self._ids[: end + 1]) for end in range(first, len(self._ids))]
        return np.stack(found) if found else np.empty((0, self._lm.vocab_size), np.float32)

    def rollback(self, length: int) -> None:
        self._ids = self._ids[:length]


def run_session(
    slm: LanguageModel,
    prompt: list[int],
    settings: GenerationConfig,
    link: Link | None = None,
    **more: object,
) -> Session:
    """One answer, to its end."""
    session = Session(slm, prompt, settings, link, **more)  # type: ignore[arg-type]

    async def drain() -> None:
        await session.run()

    _RUNNER.run(drain())
    return session
