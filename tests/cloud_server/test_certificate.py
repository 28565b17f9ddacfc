"""What is certified from a position's likeliest tokens is what all of them draw; and much is."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hedge.cloud_server.verification.certificate import Top, certify
from hedge.cloud_server.verification.near_ties import is_near_tie
from hedge.common.coupling import draw_coupled, race_noise
from hedge.common.noise import Noise
from hedge.common.sampling import Warp, largest
from tests.effort import scaled

NOISE = Noise(7, [1, 2, 3])
WARPS = [
    Warp(0.0),
    Warp(0.3),
    Warp(0.7),
    Warp(1.0),
    Warp(1.6),
    Warp(1.0, 5),
    Warp(0.7, 40),
    Warp(1.0, 0, 0.8),
    Warp(0.6, 0, 0.95),
    Warp(1.4, 0, 0.6),
    Warp(3.0, 0, 0.9),
    Warp(0.9, 6, 0.7),
    Warp(1e-9, 0, 0.9),
    Warp(1.0, 1),
    Warp(1.0, min_p=0.1),
    Warp(1.6, min_p=0.02),
    Warp(0.7, 0, 0.9, 0.05),
    Warp(1.2, 20, 1.0, 0.3),
]


def row_of(seed: int, size: int, scale: float, step: float) -> np.ndarray:
    """float32 logprobs; `step` > 0 makes ties."""
    logits = np.random.default_rng(seed).normal(0, scale, size)
    if step:
        logits = np.round(logits / step) * step
    return (logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()).astype(np.float32)


def top_of(row: np.ndarray, count: int) -> Top:
    """As an engine tells it: ties at the end of the list go to whichever it likes."""
    if count >= len(row):
        return Top(np.arange(len(row)), row)
    ids = np.sort(len(row) - 1 - largest(row[::-1], count))
    return Top(ids, row[ids], float(row[ids].min()))


rows = st.builds(
    row_of,
    st.integers(0, 2**32 - 1),
    st.sampled_from([4, 30, 200]),
    st.sampled_from([0.5, 2.0, 6.0]),
    st.sampled_from([0.0, 0.5, 2.0]),
)


@pytest.mark.statistics
@settings(max_examples=scaled(1000))
@given(rows, st.integers(1, 60), st.sampled_from(WARPS), st.integers(0, 1000))
def test_what_is_certified_is_the_draw_from_all(
    row: np.ndarray, count: int, warp: Warp, position: int
) -> None:
    found = certify(top_of(row, count), warp, race_noise(NOISE, position, len(row)))
    assert found is None or found.token == draw_coupled(NOISE, position, warp(row))


@given(rows, st.sampled_from(WARPS), st.integers(0, 1000))
def test_all_tokens_are_always_enough(row: np.ndarray, warp: Warp, position: int) -> None:
    found = certify(top_of(row, len(row)), warp, race_noise(NOISE, position, len(row)))
    assert found is not None
    assert found.token == draw_coupled(NOISE, position, warp(row))


@pytest.mark.statistics
@settings(max_examples=scaled(1500))
@example(row_of(271, 30, 0.5, 0.5), 20, Warp(1.2, 20, 1.0, 0.3), 0, 0.05)
@given(
    rows,
    st.integers(2, 30),
    st.sampled_from(WARPS),
    st.integers(0, 1000),
    st.sampled_from([0.05, 0.5, 2.0]),
)
def test_no_near_tie_is_missed(
    row: np.ndarray, count: int, warp: Warp, position: int, difference: float
) -> None:
    integers = race_noise(NOISE, position, len(row))
    found = certify(top_of(row, count), warp, integers, difference)
    if found is not None and is_near_tie(row, warp(row), warp, difference, integers):
        assert found.near_tie
    if found is not None and count >= len(row):
        assert found.near_tie == is_near_tie(row, warp(row), warp, difference, integers)


@pytest.mark.parametrize(
    ("warp", "share"),
    [(Warp(0.0), 1.0), (Warp(0.7), 0.9), (Warp(1.0, 20), 0.95), (Warp(1.0, 0, 0.9), 0.6)],
)
def test_a_peaked_row_needs_few(warp: Warp, share: float) -> None:
    """With a model's spread of logits, 6, 64 of 4,096 tokens decide most positions."""
    done = [
        certify(top_of(row_of(at, 4096, 6.0, 0), 64), warp, race_noise(NOISE, at, 4096))
        for at in range(200)
    ]
    assert sum(one is not None for one in done) >= share * len(done)


def test_a_near_tie_with_an_unknown_token_counts() -> None:
    """Rounding could put it in the place of one that top-k keeps, and its noise could win."""
    logits = np.array([2.0, 0.0, -0.1, -0.2])
    warp = Warp(1.0, 2)
    row = (logits - np.log(np.exp(logits).sum())).astype(np.float32)
    for position in range(2000):
        integers = race_noise(NOISE, position, 4)
        found = certify(top_of(row, 3), warp, integers, 0.5)
        assert found is not None
        assert found.near_tie or not is_near_tie(row, warp(row), warp, 0.5, integers)


@pytest.mark.parametrize("warp", [Warp(0.0), Warp(1.0, 3), Warp(1.0, 0, 0.8)], ids=str)
def test_a_tie_at_the_edge_of_what_is_known_is_not_decided(warp: Warp) -> None:
    """The tokens with the lowest ids stay, and they may be unknown."""
    logits = np.array([0.0, 0.0, 0.0, 0.0] if warp.greedy else [0.0, 0.0, 0.0, 1.0, 2.0])
    row = (logits - np.log(np.exp(logits).sum())).astype(np.float32)
    known = top_of(row, len(row) - 2)
    assert known.ids[0] > 0
    assert certify(known, warp, race_noise(NOISE, 0, len(row))) is None
    assert certify(top_of(row, len(row)), warp, race_noise(NOISE, 0, len(row))) is not None


def test_a_token_that_is_not_known_can_win() -> None:
    """Where nobody is likely the noise decides, and what is known is not enough."""
    row = np.full(1000, -math.log(1000), np.float32)
    found = [certify(top_of(row, 10), Warp(1.0), race_noise(NOISE, at, 1000)) for at in range(200)]
    # One in a hundred times it is one of those that are known.
    assert 190 < sum(one is None for one in found) < 200
    assert certify(top_of(row, 10), Warp(0.0), race_noise(NOISE, 0, 1000)) is None
