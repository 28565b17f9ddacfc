"""The masked model's training: what it is shown, how it begins, and that its files load."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from research.wireless.masked import MaskedLM
from tools.train_pair.batches import IGNORED
from tools.train_pair.masked import PACKET, Packets, build, guesser, hidden_right, masked_tokenizer
from tools.train_pair.text import Conversations, Library, read_books
from tools.train_pair.tokens import train_tokenizer
from tools.train_pair.train import Schedule, Size, train

TALE = (
    "Once upon a time there was a king who had a fox and a golden bird. "
    "The fox said to the king: follow me. "
) * 4


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("books")
    (folder / "tales.txt").write_text("\n\n".join([TALE] * 5))
    return folder


@pytest.fixture(scope="module")
def tokenizer(books: Path) -> Tokenizer:
    return train_tokenizer(Conversations(Library(read_books(books))), 600, seed=0)


@pytest.fixture(scope="module")
def fast(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return masked_tokenizer(tokenizer, tmp_path_factory.mktemp("masked"))


def test_what_is_learned_is_hidden_or_was_guessed_and_nothing_else(
    books: Path, fast: PreTrainedTokenizerFast
) -> None:
    guess = 77
    packets = Packets.of(books, fast, 64 * PACKET, 3, lambda inputs: torch.full_like(inputs, guess))
    again = Packets.of(books, fast, 64 * PACKET, 3, lambda inputs: torch.full_like(inputs, guess))
    inputs, labels = packets.at(5)
    assert all(torch.equal(a, b) for a, b in zip((inputs, labels), again.at(5), strict=True))
    learned = labels != IGNORED
    assert learned.any(dim=1).all()
    assert (inputs[learned] == packets.mask).all()
    assert (labels[learned] < packets.mask).all()
    # In the second half of the packets nothing is guessed: all that is hidden is learned.
    assert ((inputs == packets.mask) == learned)[32:].all()
    assert (inputs[:32] == guess).float().mean() > 0.1
    assert (inputs[32:] == guess).float().mean() < 0.05


def test_what_is_heard_has_flipped_bits_in_half_of_the_packets(
    fast: PreTrainedTokenizerFast,
) -> None:
    packets = Packets(np.zeros(1, np.int64), 512, PACKET, 0)
    truth = np.random.default_rng(0).integers(0, 512, (400, PACKET))
    wrong = (packets._heard(truth, np.random.default_rng(1)) != truth).mean(axis=1)
    # Four standard deviations of 400 coins.
    assert abs((wrong == 0).mean() - 0.5) < 0.1
    # Nine bits at a rate of 0.2 leave 13 % of the ids right.
    assert 0.7 < wrong.max() < 0.97


def test_the_masked_model_is_trained_and_loads(
    books: Path, tokenizer: Tokenizer, fast: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    llm = Size(layers=2, width=32, ffn=48, heads=2).build(
        tokenizer.get_vocab_size(), end=2, begin=1, pad=0
    )
    torch.nn.init.uniform_(llm.model.layers[0].input_layernorm.weight, 0.5, 2.0)
    model = build(fast, llm, layers=1)
    own = model.state_dict()
    given = llm.state_dict()
    assert torch.equal(
        own["model.embeddings.tok_embeddings.weight"][:-1], given["model.embed_tokens.weight"]
    )
    assert torch.equal(
        own["model.layers.0.mlp.Wo.weight"], given["model.layers.0.mlp.down_proj.weight"]
    )
    # The first layer reads what the LLM's would, its norm included, and gates with what the LLM
    # gates with.
    assert torch.equal(
        own["model.layers.0.attn.Wqkv.weight"],
        torch.cat([given[f"model.layers.0.self_attn.{one}_proj.weight"] for one in "qkv"])
        * given["model.layers.0.input_layernorm.weight"],
    )
    assert torch.equal(
        own["model.layers.0.mlp.Wi.weight"],
        torch.cat([given[f"model.layers.0.mlp.{one}_proj.weight"] for one in ("gate", "up")]),
    )
    packets = Packets.of(books, fast, 2 * PACKET, 0, guesser(model, "cpu"))
    train("mlm", model, packets, Schedule(3), tmp_path / "runs", "cpu")
    truth = packets.ids[: 2 * PACKET]
    assert 0 <= hidden_right(model, truth, packets.mask, 0.3) < 1
    model.to(torch.bfloat16).save_pretrained(tmp_path / "mlm")
    fast.save_pretrained(tmp_path / "mlm")
    lm = MaskedLM(str(tmp_path / "mlm"))
    assert lm.vocab_size == tokenizer.get_vocab_size() == lm.mask
    assert lm.decode(lm.encode("a golden bird")) == "a golden bird"
    assert lm.context == PACKET
