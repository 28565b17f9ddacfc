"""Logits processors: the field's formulas, and functions of what the history holds alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from hedge.common.errors import BadInput
from hedge.common.loading import load
from hedge.common.logits import LogitsOptions, LogitsProcessor, logprobs
from hedge.common.model import BUNDLED, LanguageModel
from hedge.common.sampling import Warp

SIZE = 4096


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load(BUNDLED, "slm")


ids = st.lists(st.integers(0, 30), min_size=1, max_size=40)


@given(st.integers(0, 2**32 - 1), ids, ids, st.floats(0.2, 3), st.floats(-2, 2), st.floats(-2, 2))
def test_penalties_are_those_of_the_field(
    lm: LanguageModel,
    seed: int,
    prompt: list[int],
    said: list[int],
    repetition: float,
    presence: float,
    frequency: float,
) -> None:
    logits = np.random.default_rng(seed).normal(0, 5, SIZE).astype(np.float32)
    made = LogitsProcessor(LogitsOptions(repetition, presence, frequency), lm, len(prompt), [])(
        logits, prompt + said
    )
    theirs = RepetitionPenaltyLogitsProcessor(repetition)(
        torch.tensor([prompt + said]), torch.tensor(logits)[None]
    )[0].numpy()
    counts = np.bincount(said, minlength=SIZE)
    np.testing.assert_allclose(
        made, theirs - frequency * counts - presence * (counts > 0), rtol=1e-5, atol=1e-5
    )


def test_bias_is_added_and_the_order_of_what_was_said_is_nothing(lm: LanguageModel) -> None:
    logits = np.random.default_rng(1).normal(0, 5, SIZE).astype(np.float32)
    made = LogitsProcessor(LogitsOptions(logit_bias=((7, 3.5), (9, -100.0))), lm, 1, [])(
        logits, [1, 2]
    )
    assert made[7] == logits[7] + np.float32(3.5)
    assert made[9] == logits[9] - np.float32(100)
    assert (np.delete(made, [7, 9]) == np.delete(logits, [7, 9])).all()
    process = LogitsProcessor(LogitsOptions(1.3, 0.4, 0.2), lm, 2, [])
    assert (process(logits, [1, 2, 3, 4, 4]) == process(logits, [2, 1, 4, 3, 4])).all()


def test_nothing_asked_is_nothing_done(lm: LanguageModel) -> None:
    logits = np.zeros(SIZE, np.float32)
    assert LogitsProcessor(LogitsOptions(), lm, 0, [])(logits, [1]) is logits
    assert not LogitsOptions()
    assert LogitsOptions(presence_penalty=0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"repetition_penalty": 0.0}, "repetition-penalty 0 is not in 0.1..10"),
        ({"repetition_penalty": float("nan")}, "repetition-penalty nan"),
        ({"presence_penalty": 2.5}, "presence-penalty 2.5 is not in -2..2"),
        ({"frequency_penalty": float("nan")}, "frequency-penalty nan"),
        ({"logit_bias": ((1, 101.0),)}, "logit-bias 1=101"),
        ({"logit_bias": ((1, float("nan")),)}, "logit-bias 1=nan"),
        ({"logit_bias": tuple((n, 1.0) for n in range(2000))}, "2000 logit biases"),
        ({"grammar": "x" * (1 << 20)}, "a grammar of 1048576 characters"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        LogitsOptions(**options)  # type: ignore[arg-type]


def test_a_bias_of_an_id_that_is_none_is_refused(lm: LanguageModel) -> None:
    with pytest.raises(BadInput, match="id 4096 in a vocabulary of 4096"):
        LogitsProcessor(LogitsOptions(logit_bias=((SIZE, 1.0),)), lm, 0, [])


@given(st.integers(0, 2**32 - 1), st.integers(0, 20), st.floats(0.1, 5))
def test_logprobs_are_the_logarithm_of_the_softmax(seed: int, count: int, scale: float) -> None:
    logits = np.random.default_rng(seed).normal(0, scale, 50).astype(np.float32)
    expected = torch.log_softmax(torch.tensor(logits, dtype=torch.float64), 0).numpy()
    own, likeliest = logprobs(logits, 3, count)
    assert own == pytest.approx(expected[3], abs=1e-9)
    assert [token for token, _ in likeliest] == list(np.argsort(-logits, kind="stable")[:count])
    assert [value for _, value in likeliest] == pytest.approx(
        [expected[token] for token, _ in likeliest], abs=1e-9
    )


def test_more_likeliest_tokens_than_there_are() -> None:
    assert len(logprobs(np.zeros(5, np.float32), 0, 20)[1]) == 5


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0, 1),
    st.floats(0.2, 2),
    st.integers(0, 9),
    st.floats(0.2, 1),
)
def test_min_p_keeps_what_has_its_share_of_the_best(
    seed: int, min_p: float, temperature: float, top_k: int, top_p: float
) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, 40)
    wide = Warp(temperature, top_k, top_p)(logits)
    cut = Warp(temperature, top_k, top_p, min_p)(logits)
    assert ((cut > 0) == ((wide > 0) & (wide >= min_p * wide.max()))).all()
    assert cut.sum() == pytest.approx(1)
