"""Joint token masking and detection: the equations, and what has to hold for any model."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from research.wireless.qam import Fade, Qam, transmit


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
