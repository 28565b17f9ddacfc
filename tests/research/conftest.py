"""A small random masked model, and the bundled one."""

from functools import cache

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from research.wireless.masked import MaskedLM

WORDS = [f"w{i}" for i in range(13)]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> MaskedLM:
    """A random BERT over 13 words and its mask, in a folder as transformers writes it."""
    folder = tmp_path_factory.mktemp("mlm")
    words = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate([*WORDS, "[MASK]"])}, unk_token="w0")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, mask_token="[MASK]", unk_token="w0")
    fast.model_max_length = 10
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=14,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
        max_position_embeddings=10,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return MaskedLM(str(folder))


@cache
def bundled() -> MaskedLM:
    return MaskedLM()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test` leaves the research tests out."""
    for item in items:
        if "tests/research/" in item.nodeid:
            item.add_marker(pytest.mark.research)
