"""Coded links, the pieces of a text, and texts, channels and models that are refused."""

import heapq
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from hedge.common.errors import BadInput
from research.wireless.coded import HuffmanLdpc, decode_blocks, encode_blocks, huffman, is_delivered
from research.wireless.masked import MaskedLM
from research.wireless.packet import send
from research.wireless.qam import Fade, Qam, rayleigh, transmit
from research.wireless.text import pieces
from tests.research.conftest import bundled


@given(st.lists(st.integers(0, 4095), max_size=30))
def test_pieces_are_the_ids_in_order(ids: list[int]) -> None:
    lm = bundled()
    found = pieces(lm, np.array(ids, np.int64))
    assert [i for at, _ in found for i in ids[at]] == ids
    assert all(1 <= at.stop - at.start <= 4 for at, _ in found)


def test_pieces_are_whole_characters() -> None:
    lm = bundled()
    text = "a 😀 wörld and a 🦔"
    assert "".join(piece for _, piece in pieces(lm, lm.ids(text))) == text


def test_a_mask_among_the_words_is_never_expected(tmp_path: Path) -> None:
    words = ["a", "[MASK]", "b", "c"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="a"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=made, mask_token="[MASK]", unk_token="a"
    ).save_pretrained(tmp_path)
    config = BertConfig(
        vocab_size=4,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=9,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    foreign = MaskedLM(str(tmp_path))
    assert (foreign.vocab_size, foreign.mask) == (4, 1)
    probs = np.exp(foreign.log_priors(np.array([0, 2, 3]), [0, 1, 2]))
    assert (probs[:, 1] == 0).all()
    assert probs.sum(axis=1) == pytest.approx(1)


def test_what_is_left_out_gives_its_power_to_the_rest(
    lm: MaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    powers: list[float] = []

    def noticed(
        symbols: np.ndarray, fade: Fade, power: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, complex]:
        powers.append(power * float((np.abs(symbols) ** 2).sum()))
        return transmit(symbols, fade, power, rng)

    monkeypatch.setattr("research.wireless.packet.transmit", noticed)
    monkeypatch.setattr("research.wireless.coded.transmit", noticed)
    qam = Qam(4, lm.vocab_size)
    fade = Fade(1, 1.0, 0.7)
    ids = np.arange(12)
    send(qam, fade, ids, [], np.random.default_rng(0))
    send(qam, fade, ids, [1, 5, 7], np.random.default_rng(0))
    HuffmanLdpc(qam, huffman(np.full(13, 1 / 13))).carry(ids, fade, np.random.default_rng(0))
    # 12 tokens of two symbols: the energy is the same whatever carries it.
    assert powers == pytest.approx([0.7 * 12 * 2] * 3)


@given(st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=40))
def test_huffman_is_a_prefix_code_of_the_least_mean_length(weights: list[float]) -> None:
    probs = np.array(weights) / sum(weights)
    words = huffman(probs)
    assert sum(2.0 ** -len(word) for word in words) == pytest.approx(1)
    for a, b in zip(sorted(words), sorted(words)[1:], strict=False):
        assert not b.startswith(a)
    # The sum of the inner nodes' weights is the mean length.
    heap = list(probs)
    mean = 0.0
    heapq.heapify(heap)
    while len(heap) > 1:
        pair = heapq.heappop(heap) + heapq.heappop(heap)
        mean += pair
        heapq.heappush(heap, pair)
    assert float(sum(p * len(word) for p, word in zip(probs, words, strict=True))) == pytest.approx(
        mean
    )


def test_the_code_has_its_rate_and_corrects_errors() -> None:
    bits = np.random.default_rng(1).integers(0, 2, 700).astype(np.uint8)
    coded = encode_blocks(bits)
    assert coded.shape == (2, 600)
    ratios = (1.0 - 2.0 * coded) * 4.0
    assert (decode_blocks(ratios)[:700] == bits).all()
    # Eight bits of each block arrive wrong, and a little less sure.
    wrong = np.random.default_rng(2).choice(600, 8, replace=False)
    ratios[:, wrong] *= -0.5
    assert (decode_blocks(ratios)[:700] == bits).all()


def test_what_is_huffman_coded_comes_through_a_good_channel_and_not_a_bad_one() -> None:
    qam = Qam(4, 13)
    scheme = HuffmanLdpc(qam, huffman(np.arange(1, 14) / 91))
    ids = np.random.default_rng(0).integers(0, 13, 100)
    assert (scheme.carry(ids, Fade(1, 1.0, 10.0), np.random.default_rng(1)) == ids).all()
    assert (scheme.carry(ids, Fade(1, 1.0, 0.1), np.random.default_rng(1)) == ids).mean() < 0.5
    # A gap of 3 dB to capacity: over 100 tokens of two symbols at SNR 3 log2(1 + 3 / 1.995) = 1.324
    # bits each.
    assert is_delivered(qam, Fade(1, 1.0, 3.0), 100, 264)
    assert not is_delivered(qam, Fade(1, 1.0, 3.0), 100, 266)


@pytest.mark.parametrize("snr", [math.nan, math.inf, 300.0])
def test_a_channel_that_is_none(snr: float) -> None:
    with pytest.raises(BadInput, match="SNR"):
        rayleigh(snr, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("w1 zebra", "not sent: w0"),
        ("w1 [MASK]", "not sent"),
        ("w1 " * 11, "11 tokens, a packet at most 10"),
    ],
)
def test_a_text_that_cannot_be_sent(lm: MaskedLM, text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words.replace("[", r"\[")):
        lm.encode(text)


def test_a_folder_without_a_masked_model(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a folder"):
        MaskedLM(str(tmp_path / "none"))
    with pytest.raises(BadInput, match="cannot load"):
        MaskedLM(str(tmp_path))
