"""A position that is no near tie keeps its token however its logits are rounded; a tie that is made
is counted.
"""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hedge.cloud_server.sessions.session import VerifierSession
from hedge.cloud_server.sessions.steps import run_alone
from hedge.cloud_server.verification.near_ties import is_near_tie
from hedge.common.coupling import draw_coupled, race_noise
from hedge.common.model import LanguageModel
from hedge.common.noise import Noise
from hedge.common.sampling import Warp
from hedge.v1 import hedge_pb2 as pb
from tests.cloud_server.test_session import drafting, opening

DIFFERENCE = 0.3
NOISE = Noise(5, [1, 2, 3])


def noise_of(position: int) -> np.ndarray:
    return race_noise(NOISE, position, 12)


def token(logits: np.ndarray, warp: Warp, position: int) -> int:
    return draw_coupled(NOISE, position, warp(logits))


@pytest.fixture(scope="module")
def lm(make_lm: Callable[..., LanguageModel]) -> LanguageModel:
    return make_lm(seed=3)


@example(66, Warp(1.0, 0, 0.8), 15)
@example(70, Warp(0.6, 0, 0.95), 19)
@example(13, Warp(1.0, min_p=0.2), 13)
@example(66, Warp(1.0, min_p=0.2), 15)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(
        [
            Warp(0.0),
            Warp(0.7),
            Warp(1.3),
            Warp(1.0, 3),
            Warp(0.5, 1),
            Warp(0.7, 5),
            Warp(1.0, min_p=0.2),
            Warp(0.8, 5, 0.9, 0.1),
            Warp(1.0, 0, 0.8),
        ]
    ),
    st.integers(0, 50),
)
def test_what_is_no_near_tie_survives_any_rounding(seed: int, warp: Warp, position: int) -> None:
    """Each logit moves by up to half of the difference, so that no two come nearer by more than all
    of it.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, 12).astype(np.float32)
    if is_near_tie(logits, warp(logits), warp, DIFFERENCE, noise_of(position)):
        return
    own = token(logits, warp, position)
    for _ in range(20):
        moved = logits + rng.uniform(-0.499, 0.499, 12).astype(np.float32) * DIFFERENCE
        assert token(moved, warp, position) == own


@pytest.mark.parametrize("temperature", [0.0, 0.4, 1.0])
def test_a_tie_that_rounding_decides_is_counted(temperature: float) -> None:
    """The runner-up is brought to within half the difference of the winner, noise included."""
    warp = Warp(temperature)
    rng = np.random.default_rng(3)
    for position in range(40):
        logits = rng.normal(0, 3, 12)
        first = token(logits, warp, position)
        # The largest logit at which another token still loses to it.
        other = (first + 1) % 12
        low = logits.min() - 100
        high = logits.max() + 100
        for _ in range(60):
            logits[other] = (low + high) / 2
            low, high = (
                (logits[other], high)
                if token(logits, warp, position) == first
                else (low, logits[other])
            )
        for by in (-DIFFERENCE / 2, DIFFERENCE / 2):
            logits[other] = low + by
            assert is_near_tie(logits, warp(logits), warp, DIFFERENCE, noise_of(position))


def test_the_edge_of_top_k_counts() -> None:
    logits = np.array([0.0, 2.0, 1.9, -3.0], np.float32)
    counted = [
        is_near_tie(
            logits, Warp(1.0, 1)(logits), Warp(1.0, 1), DIFFERENCE, race_noise(NOISE, at, 4)
        )
        for at in range(20)
    ]
    assert all(counted)
    wide = np.array([0.0, 9.0, 1.9, -3.0], np.float32)
    assert not any(
        is_near_tie(wide, Warp(1.0, 1)(wide), Warp(1.0, 1), DIFFERENCE, race_noise(NOISE, at, 4))
        for at in range(20)
    )


def test_other_verifications_have_no_winner_to_tie_with() -> None:
    logits = np.zeros(4, np.float32)
    assert not is_near_tie(logits, Warp(1.0)(logits), Warp(1.0), DIFFERENCE, None)
    assert is_near_tie(logits, Warp(0.0)(logits), Warp(0.0), DIFFERENCE, None)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("verification", [pb.VERIFICATION_COUPLED, pb.VERIFICATION_STREAM])
def test_verdicts_count_every_judged_position(
    temperature: float, verification: "pb.Verification.ValueType", lm: LanguageModel
) -> None:
    """Where everything is near: all accepted drafts, and the token that follows them. Without a
    difference: not a byte.
    """
    found = []
    for difference in (1e9, 0.0):
        cache = lm.kv_cache()
        warp = pb.Warp(temperature=temperature, top_p=1)
        request = opening(lm, verification=verification, warp=warp, max_new_tokens=5, end_ids=[])
        session = VerifierSession(lm, request, cache, None, difference)
        run_alone(session.prefill(), cache)
        if session.streams:
            verdict = run_alone(session.next_token(), cache)
        else:
            message = drafting([1, 2, 3])
            del message.proposals[:]
            verdict = run_alone(session.verify(message), cache)
        assert verdict is not None
        verdict.ClearField("timings")
        found.append(verdict)
    near, none = found
    assert near.near_ties == near.accepted + 1
    assert none.near_ties == 0
    near.ClearField("near_ties")
    assert near == none
