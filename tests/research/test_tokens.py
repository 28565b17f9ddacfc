"""Joint token masking and detection: the equations against values worked by hand, and what has to
hold for any model.
"""

import heapq
import itertools
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from hedge.common.errors import BadInput
from research.wireless.coded import HuffmanLdpc, decode_blocks, delivered, encode_blocks, huffman
from research.wireless.masked import MaskedLM, entropy, share_rows
from research.wireless.packet import (
    Arrival,
    MaskOrder,
    adaptive_mask,
    detect,
    log_detected,
    most_likely,
    position_bits,
    send,
)
from research.wireless.qam import Fade, Qam, rayleigh, transmit
from research.wireless.rehearsal import best_count, rehearsed_mask, spaced
from research.wireless.study import PacketJob, Parts, Study
from research.wireless.text import pieces

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


@pytest.mark.parametrize("order", [4, 16])
def test_the_constellation_has_unit_power_and_gray_labels(order: int) -> None:
    qam = Qam(order, 4096)
    assert float((np.abs(qam.points) ** 2).mean()) == pytest.approx(1)
    nearest = np.sort(np.abs(qam.points[:, None] - qam.points[None, :]), axis=1)[0, 1]
    for a in range(order):
        for b in range(order):
            if abs(abs(qam.points[a] - qam.points[b]) - nearest) < 1e-9:
                assert (a ^ b).bit_count() == 1
    assert qam.bits == 12


def test_ids_are_padded_to_whole_symbols() -> None:
    assert Qam(16, 13).symbols == 1
    # 9 bits in 16-QAM: three symbols, three zeros behind them. 300 = 1 0010 1100, 1001 0110 0000.
    qam = Qam(16, 500)
    assert qam.bits == 12
    assert qam.labels(np.array([300])).tolist() == [[0b1001, 0b0110, 0b0000]]


@pytest.mark.parametrize(("order", "words"), [(4, 13), (16, 500)])
def test_a_likelihood_is_gaussian_around_the_symbols_of_an_id(order: int, words: int) -> None:
    qam = Qam(order, words)
    rng = np.random.default_rng(0)
    received = rng.normal(size=(3, qam.symbols, 2)) @ np.array([1, 1j])
    found = qam.log_likelihood(received, 0.5 - 0.3j, 0.7)
    away = np.abs(received[:, None, :] - (0.5 - 0.3j) * qam.modulate(np.arange(words))) ** 2
    assert np.allclose(found, -away.sum(axis=2) / 0.7)


def test_the_error_rate_is_that_of_the_equation() -> None:
    # 4-QAM, p g = 4: R = 2, s = sqrt(3 x 4 / 6) = sqrt 2, Pb = erfc(sqrt 2) / 2 = Q(2) = 0.02275.
    assert float(Qam(4, 4096).bit_error(4.0, 1.0)) == pytest.approx(0.0227501, abs=1e-6)
    # 16-QAM, p g = 10: R = 4, s = 1: 3/8 erfc(1) + 2/8 erfc(3) = 0.375 x 0.157299 + 0.25 x
    # 0.0000221.
    assert float(Qam(16, 4096).bit_error(10.0, 1.0)) == pytest.approx(0.0589927, abs=1e-6)


def test_the_error_rate_is_what_bits_on_the_air_suffer() -> None:
    rng = np.random.default_rng(3)
    qam = Qam(4, 4096)
    fade = Fade(complex(0.6, 0.8))
    ids = rng.integers(0, 4096, 4000)
    received, amplitude = transmit(qam.modulate(ids), fade, 2.0, rng)
    found = qam.log_likelihood(received, amplitude, fade.noise).argmax(axis=1)
    wrong = sum((int(a) ^ int(b)).bit_count() for a, b in zip(found, ids, strict=True)) / (
        12 * len(ids)
    )
    expected = float(qam.bit_error(2.0, fade.gain))
    # 48,000 bits: four standard deviations.
    assert abs(wrong - expected) < 4 * math.sqrt(expected * (1 - expected) / 48_000)


def test_detection_of_what_is_left_after_masking() -> None:
    # T = 4, one masked, a bit of each token: three bits at P/(T-N) = 1.5 x 4/3 = 2: Q(sqrt 2) =
    # 0.0786.
    qam = Qam(4, 4)
    error = 0.5 * math.erfc(1.0)
    assert log_detected(qam, Fade(1, 1.0, 1.5), 4, 1) == pytest.approx(3 * 2 * math.log(1 - error))
    assert log_detected(qam, Fade(1, 1.0, 1.5), 4, 4) == 0
    assert position_bits(4, 2) == pytest.approx(math.log2(6))


class Chosen:
    """An order of masking with known priors."""

    def __init__(self, log_true: list[float]) -> None:
        self.order: list[int] = []
        self.log_true: list[float] = []
        self._next = list(enumerate(log_true))

    def advance(self) -> tuple[int, float]:
        position, value = self._next.pop(0)
        self.order.append(position)
        self.log_true.append(value)
        return position, value


def test_masking_goes_on_while_it_is_better_on_the_running_mean() -> None:
    """D(n) = ln Pd1(n). Masking token n gains D(n+1) - D(n) and costs its prior; the sums over 0..n
    decide.
    """
    qam = Qam(4, 4)
    fade = Fade(1, 1.0, 1.0)
    length = 4
    d = [log_detected(qam, fade, length, n) for n in range(5)]
    gains = [b - a for a, b in itertools.pairwise(d)]
    assert all(gain > 0 for gain in gains)
    # First a token that costs half of what it gains, then one that costs twice what both gain: mean
    # of n = 1 turns.
    costs = [-gains[0] / 2, -2 * (gains[0] + gains[1]), 0.0, 0.0]
    assert adaptive_mask(qam, fade, Chosen(costs), length) == [0]
    # A dear token in the middle is paid for by cheap ones before it.
    assert adaptive_mask(
        qam, fade, Chosen([0.0, -gains[0] - gains[1] + 1e-9, 0.0, 0.0]), length
    ) == [0, 1, 2, 3]
    assert adaptive_mask(qam, fade, Chosen([-gains[0] - 1e-9, 0, 0, 0]), length) == []


def test_the_rules_choose_what_they_say(lm: MaskedLM) -> None:
    ids = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    targets = lm.log_priors(ids, np.arange(8))
    assert MaskOrder(lm, ids, "entropy").advance()[0] == int(entropy(targets).argmin())
    position, log_true = MaskOrder(lm, ids, "true-token").advance()
    true = targets[np.arange(8), ids]
    assert position == int(true.argmax())
    assert log_true == pytest.approx(true.max(), abs=1e-5)
    order = MaskOrder(lm, ids, "entropy")
    assert sorted(order.advance()[0] for _ in range(8)) == list(range(8))


def test_a_prior_is_that_of_what_is_still_there(lm: MaskedLM) -> None:
    ids = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    order = MaskOrder(lm, ids, "true-token")
    context = ids.copy()
    for _ in range(4):
        position, log_true = order.advance()
        assert log_true == pytest.approx(
            lm.log_priors(context, [position])[0, ids[position]], abs=1e-4
        )
        context[position] = lm.mask


def test_what_is_heard_outweighs_the_model_and_is_asked_once(
    lm: MaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty nats for the true token are less than beyond doubt, and more than any prior here."""
    ids = np.array([3, 1, 4, 1, 5, 9])
    heard = np.full((6, lm.vocab_size), -30.0)
    heard[np.arange(6), ids] = 0.0
    asked: list[int] = []
    priors = lm.log_priors

    def counted(context: np.ndarray, positions: np.ndarray) -> np.ndarray:
        asked.append(len(positions))
        return priors(context, positions)

    monkeypatch.setattr(lm, "log_priors", counted)
    arrival = Arrival(np.ones(6, bool), heard)
    assert (detect(lm, arrival) == ids).all()
    # One token was not heard: it alone is looked at again, with the others frozen.
    asked.clear()
    found = detect(lm, Arrival(np.arange(6) != 2, heard[np.arange(6) != 2]))
    assert (np.delete(found, 2) == np.delete(ids, 2)).all()
    assert asked[0] == 6
    assert set(asked[1:]) == {1}


def test_a_prior_looks_everywhere_but_at_its_own_position(lm: MaskedLM) -> None:
    ids = np.array([3, 1, 4, 1, 5, 9])
    other = ids.copy()
    other[2] = 7
    assert np.allclose(lm.log_priors(ids, [2]), lm.log_priors(other, [2]), atol=1e-6)
    assert not np.allclose(lm.log_priors(ids, [3]), lm.log_priors(other, [3]), atol=1e-4)
    assert np.exp(lm.log_priors(ids, [0, 5])).sum(axis=1) == pytest.approx(1)
    # The mask is not sent: 13 ids, four bits.
    assert lm.vocab_size == 13
    assert Qam(4, lm.vocab_size).bits == 4


@given(st.sets(st.integers(0, 127)), st.integers(1, 128))
def test_positions_that_share_a_row_are_far_apart_and_the_rows_are_few(
    chosen: set[int], apart: int
) -> None:
    positions = np.array(sorted(chosen, key=lambda at: (at * 37) % 128), np.int64)
    rows, count = share_rows(positions, apart)
    for row in range(count):
        assert (np.diff(np.sort(positions[rows == row])) >= apart).all()
    # No fewer would do: as many lie within `apart` of each other.
    assert count == max(
        (sum(0 <= other - at < apart for other in chosen) for at in chosen), default=0
    )


def test_what_shares_a_row_is_hidden_there(lm: MaskedLM, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    alone = lm.log_priors(ids, [0, 5])
    monkeypatch.setattr("research.wireless.masked.APART", 5)
    together = lm.log_priors(ids, [0, 5])
    for at, other, found in ((0, 5, together[0]), (5, 0, together[1])):
        context = ids.copy()
        context[other] = lm.mask
        assert np.allclose(found, lm.log_priors(context, [at])[0], atol=0.05)
    assert not np.allclose(alone, together, atol=0.05)


@given(st.permutations(range(12)))
def test_no_two_neighbours_are_chosen_and_no_more_could_be(order: list[int]) -> None:
    chosen = spaced(np.array(order))
    assert chosen == [at for at in order if at in chosen]
    assert not {at + 1 for at in chosen} & set(chosen)
    assert all({at - 1, at, at + 1} & set(chosen) for at in range(12))


def test_rehearsing_leaves_out_what_the_receiver_will_know(
    lm: MaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that knows every other token whatever it hears, and nothing of the rest."""
    ids = np.random.default_rng(5).integers(0, 13, 40)
    targets = knowing(list(range(0, 40, 2)), ids, lm.vocab_size)
    monkeypatch.setattr(lm, "log_priors", lambda _, positions: targets[positions])
    qam = Qam(4, lm.vocab_size)

    def mask(snr_db: float) -> list[int]:
        return rehearsed_mask(
            lm, qam, Fade(1, 1.0, 10 ** (snr_db / 10)), ids, np.random.default_rng(0)
        )

    assert len(mask(2)) >= 16
    assert all(at % 2 == 0 for at in mask(2))
    # Where all of it arrives nothing is gained.
    assert mask(30) == []


def knowing(known: list[int], ids: np.ndarray, words: int) -> np.ndarray:
    """Distributions of a model that is sure of some positions, and rightly, and knows nothing of
    the others.
    """
    targets = np.full((len(ids), words), -math.log(words))
    targets[known] = -50.0
    targets[known, ids[known]] = 0.0
    return targets


def test_as_many_are_proposed_as_are_known_and_make_the_rest_heard() -> None:
    qam = Qam(4, 512)
    ids = np.random.default_rng(5).integers(0, 512, 400)
    order = list(range(0, 400, 2))

    def best(known: list[int], snr_db: float, other: list[int] | None = None) -> int:
        priors = [knowing(known, ids, 512), knowing(known if other is None else other, ids, 512)]
        return best_count(
            qam, Fade(1, 1.0, 10 ** (snr_db / 10)), ids, order, priors, np.random.default_rng(0)
        )

    # Noise is drawn twice.
    assert best(order, 5) >= 180
    assert 80 <= best(order[:100], 5) <= 120
    # What is heard anyway is not left out, nor is what only one of two trials would know.
    assert best(order, 30) == 0
    assert best(order, 10, []) == 0


@pytest.mark.parametrize(("known", "kept"), [(40, 20), (20, 10), (0, 0)])
def test_of_a_proposal_as_much_is_taken_as_pays_when_it_is_received(
    known: int, kept: int, lm: MaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other token is proposed, and the first `known` tokens are known."""
    ids = np.random.default_rng(5).integers(0, 13, 40)
    # Of those known, the even ones a little better: they come first in the order.
    targets = knowing(list(range(0, known, 2)), ids, 13)
    monkeypatch.setattr(lm, "log_priors", lambda _, positions: targets[positions])
    monkeypatch.setattr("research.wireless.rehearsal.best_count", lambda *_: 20)
    monkeypatch.setattr(
        "research.wireless.rehearsal.spaced", lambda order: [int(at) for at in order if at % 2 == 0]
    )
    found = rehearsed_mask(lm, Qam(4, 13), Fade(1), ids, np.random.default_rng(0))
    assert sorted(found) == list(range(0, 2 * kept, 2))


def test_a_short_packet_has_something_to_leave_out_too(
    lm: MaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.array([3, 1, 4])
    targets = knowing([0, 2], ids, 13)
    monkeypatch.setattr(lm, "log_priors", lambda _, positions: targets[positions])
    assert rehearsed_mask(lm, Qam(4, 13), Fade(1), ids, np.random.default_rng(0)) == [0, 2]


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


def test_a_rehearsal_does_not_know_the_noise_that_comes(
    lm: MaskedLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, list[str]] = {"rehearsed": [], "sent": []}

    def rehearsed(
        _lm: object, _qam: object, _fade: object, _ids: object, rng: np.random.Generator
    ) -> list[int]:
        seen["rehearsed"].append(str(rng.bit_generator.state["state"]))
        return []

    def sent(
        qam: Qam, fade: Fade, ids: np.ndarray, masked: list[int], rng: np.random.Generator
    ) -> Arrival:
        seen["sent"].append(str(rng.bit_generator.state["state"]))
        return send(qam, fade, ids, masked, rng)

    monkeypatch.setattr("research.wireless.study.rehearsed_mask", rehearsed)
    monkeypatch.setattr("research.wireless.study.send", sent)
    monkeypatch.setattr(Parts, "load", lambda _: (lm, None, None))
    Study(Parts("", "none", "", 3)).entries(
        PacketJob(0, np.array([3, 1, 4, 1, 5, 9, 2, 6]), (4, 16), (0.0, 5.0))
    )
    assert len(set(seen["sent"])) == 2
    assert len(set(seen["rehearsed"])) == 2
    assert not set(seen["sent"]) & set(seen["rehearsed"])


def test_without_noise_everything_sent_arrives(lm: MaskedLM) -> None:
    ids = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    qam = Qam(16, lm.vocab_size)
    fade = Fade(1, 1.0, 1e4)
    arrival = send(qam, fade, ids, [1, 5], np.random.default_rng(0))
    first = most_likely(arrival, lm.mask)
    assert first[[1, 5]].tolist() == [lm.mask] * 2
    kept = [0, 2, 3, 4, 6, 7]
    assert (first[kept] == ids[kept]).all()
    found = detect(lm, arrival)
    assert (found[kept] == ids[kept]).all()
    # What was left out is the model's own guess.
    blank = found.copy()
    assert found[1] == int(lm.log_priors(blank, [1])[0].argmax())
    assert detect(lm, send(qam, fade, ids, range(8), np.random.default_rng(0))).shape == (8,)


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
    assert delivered(qam, Fade(1, 1.0, 3.0), 100, 264)
    assert not delivered(qam, Fade(1, 1.0, 3.0), 100, 266)


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
