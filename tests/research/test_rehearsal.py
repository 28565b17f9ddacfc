"""A transmitter that plays its receiver before it decides what to leave out."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.wireless.masked import MaskedLM
from research.wireless.packet import Arrival, send
from research.wireless.qam import Fade, Qam
from research.wireless.rehearsal import count_best, rehearse_mask, space_out
from research.wireless.study import PacketJob, Parts, Study


@given(st.permutations(range(12)))
def test_no_two_neighbours_are_chosen_and_no_more_could_be(order: list[int]) -> None:
    chosen = space_out(np.array(order))
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
        return rehearse_mask(
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
        return count_best(
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
    monkeypatch.setattr("research.wireless.rehearsal.count_best", lambda *_: 20)
    monkeypatch.setattr(
        "research.wireless.rehearsal.space_out",
        lambda order: [int(at) for at in order if at % 2 == 0],
    )
    found = rehearse_mask(lm, Qam(4, 13), Fade(1), ids, np.random.default_rng(0))
    assert sorted(found) == list(range(0, 2 * kept, 2))


def test_a_short_packet_has_something_to_leave_out_too(
    lm: MaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.array([3, 1, 4])
    targets = knowing([0, 2], ids, 13)
    monkeypatch.setattr(lm, "log_priors", lambda _, positions: targets[positions])
    assert rehearse_mask(lm, Qam(4, 13), Fade(1), ids, np.random.default_rng(0)) == [0, 2]


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

    monkeypatch.setattr("research.wireless.study.rehearse_mask", rehearsed)
    monkeypatch.setattr("research.wireless.study.send", sent)
    monkeypatch.setattr(Parts, "load", lambda _: (lm, None, None))
    Study(Parts("", "none", "", 3)).send_packet(
        PacketJob(0, np.array([3, 1, 4, 1, 5, 9, 2, 6]), (4, 16), (0.0, 5.0))
    )
    assert len(set(seen["sent"])) == 2
    assert len(set(seen["rehearsed"])) == 2
    assert not set(seen["sent"]) & set(seen["rehearsed"])
