"""The training tool on a few sentences: what it learns matters less here than that it repeats
itself.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from hedge.common.loading import load
from tools.train_pair.batches import IGNORED, Batches
from tools.train_pair.muon import orthogonalise
from tools.train_pair.text import (
    ASSISTANT,
    BEGIN,
    END,
    PAD,
    USER,
    Conversations,
    Library,
    cut_at_sentence,
    read_books,
)
from tools.train_pair.tokens import save_tokenizer, train_tokenizer
from tools.train_pair.train import Schedule, Size, train

# Of a program that is run once a year.
pytestmark = pytest.mark.research
TALE = (
    "Once upon a time there was a king who had a fox and a golden bird. "
    "The fox said to the king: follow me. "
) * 4


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Conversations:
    folder = tmp_path_factory.mktemp("books")
    (folder / "tales.txt").write_text("\n\n".join([TALE] * 5))
    return Conversations(Library(read_books(folder)))


@pytest.fixture(scope="module")
def tokenizer(conversations: Conversations) -> Tokenizer:
    return train_tokenizer(conversations, 600, seed=0)


def make_batches(conversations: Conversations, tokenizer: Tokenizer) -> Batches:
    return Batches(conversations, tokenizer, tokens=256, lengths=(64, 128), prose_share=0.2, seed=3)


def test_digits_are_split_and_text_round_trips(tokenizer: Tokenizer) -> None:
    text = "What is 47 + 385? É, 7."
    encoded = tokenizer.encode(text)
    assert tokenizer.decode(encoded.ids) == text
    assert [t for t in encoded.tokens if any(c.isdigit() for c in t)] == list("473857")


def test_the_chat_template_has_user_and_assistant_turns(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    fast = save_tokenizer(tokenizer, tmp_path)
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    text = fast.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == f"{BEGIN}{USER}a{END}{ASSISTANT}b{END}{USER}c{END}{ASSISTANT}"


def test_a_batch_is_a_function_of_seed_and_step(
    conversations: Conversations, tokenizer: Tokenizer
) -> None:
    one, other = (make_batches(conversations, tokenizer) for _ in range(2))
    for step in (5, 0, 5):
        for a, b in zip(one.at(step), other.at(step), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(one.at(0)[0], one.at(2)[0])
    assert [tuple(one.at(step)[0].shape) for step in (0, 1)] == [(4, 64), (2, 128)]


def test_labels_are_the_next_ids_of_what_the_assistant_says(
    conversations: Conversations, tokenizer: Tokenizer
) -> None:
    inputs, labels = make_batches(conversations, tokenizer).at(1)
    learned = labels[:, :-1] != IGNORED
    assert torch.equal(labels[:, :-1][learned], inputs[:, 1:][learned])
    questions = inputs == tokenizer.token_to_id(USER)
    assert not learned[questions[:, :-1]].any()
    assert learned.any()


def test_an_interrupted_run_ends_with_the_same_weights(
    conversations: Conversations, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    class Broken(Batches):
        def at(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
            if step == 3:
                raise KeyboardInterrupt
            return super().at(step)

    def run(folder: str, batches: Batches) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = Size(layers=1, width=16, ffn=32, heads=2).build(600, end=2, begin=1, pad=0)
        train("slm", model, batches, Schedule(6), tmp_path / folder, "cpu", checkpoint_seconds=0)
        return model.state_dict()

    batches = make_batches(conversations, tokenizer)
    whole = run("whole", batches)
    with pytest.raises(KeyboardInterrupt):
        run(
            "broken",
            Broken(**{name: getattr(batches, name) for name in Batches.__dataclass_fields__}),
        )
    resumed = run("broken", batches)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_is_written_loads_as_any_model_folder(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = Size(layers=1, width=16, ffn=32, heads=2).build(
        tokenizer.get_vocab_size(), end=2, begin=1, pad=0
    )
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    save_tokenizer(tokenizer, tmp_path)
    lm = load(str(tmp_path), "slm")
    assert (lm.vocab_size, lm.context, lm.end_ids) == (tokenizer.get_vocab_size(), 1024, (2,))
    assert lm.encode_chat([{"role": "user", "content": "hi"}])[0] == tokenizer.token_to_id(BEGIN)
    assert tokenizer.token_to_id(PAD) == 0


def test_newton_schulz_brings_singular_values_near_one() -> None:
    for shape in ((2, 8, 20), (1, 20, 8)):
        x = orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        values = np.linalg.svd(x.numpy(), compute_uv=False)
        assert ((values > 0.5) & (values < 1.5)).all()


def test_passages_end_with_a_sentence() -> None:
    assert cut_at_sentence("One. Two three. Four five six.", 18) == "One. Two three."
    assert cut_at_sentence("short", 18) == "short"
    assert len(cut_at_sentence("word " * 30, 20)) <= 20
