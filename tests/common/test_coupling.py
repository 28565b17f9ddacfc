import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from hedge.common.coupling import decide_race, draw_coupled, race_times, winner
from hedge.common.noise import Noise, Purpose


def test_golden_vectors() -> None:
    """The integers are the same on every machine; the Gumbel noise is -ln E."""
    noise = Noise(42, [1, 2, 3])
    assert noise.integers(Purpose.TARGET, 5, 0, 6).tolist() == GOLDEN
    assert noise.integers(Purpose.TARGET, 5, 4094, 3).tolist() == GOLDEN_FAR
    gumbel = -np.log(race_times(np.ones(6), noise.integers(Purpose.TARGET, 5, 0, 6)))
    assert gumbel == pytest.approx(GUMBEL, rel=1e-9)


GOLDEN = [
    2960732743074869,
    4183073121619973,
    476800106617026,
    1651563854751681,
    2224269959593668,
    2094020712697019,
]
GOLDEN_FAR = [4237045471686165, 1762089533668786, 3433403791069253]
GUMBEL = [
    0.8688342944147429,
    2.6059790026544105,
    -0.8089437706849222,
    -0.003149399835348071,
    0.34892187611379183,
    0.266846005016375,
]


@given(st.integers(0, 5000), st.integers(1, 40), st.integers(0, 2**40))
def test_tokens_are_addressable_at_random(start: int, count: int, position: int) -> None:
    noise = Noise(3, [4])
    whole = noise.integers(Purpose.TARGET, position, 0, start + count)
    assert np.array_equal(whole[start:], noise.integers(Purpose.TARGET, position, start, count))
    assert whole.max() < 2**52


@pytest.mark.parametrize("scale", [0.1, 1, 10, 100])
def test_skipping_what_cannot_win_changes_nothing(scale: float) -> None:
    noise = Noise(1, [2])
    rng = np.random.default_rng(0)
    for t in range(300):
        weights = rng.gumbel(size=500) * scale
        probs = np.exp(weights - weights.max())
        probs /= probs.sum()
        probs[rng.random(500) < 0.3] = 0
        integers = noise.integers(Purpose.TARGET, t, 0, 500)
        times = race_times(probs, integers)
        best = np.argsort(times, kind="stable")[:2]
        assert winner(probs, integers) == best[0]
        assert decide_race(probs, integers) == (
            best[0],
            pytest.approx(np.log(times[best[1]] / times[best[0]])),
        )


def test_extreme_noise_is_finite_and_ties_go_to_the_lowest_id() -> None:
    ends = np.array([0, 2**52 - 1], np.uint64)
    assert np.isfinite(race_times(np.ones(2), ends)).all()
    assert (race_times(np.ones(2), ends) > 0).all()
    assert winner(np.array([0.5, 0.5]), np.array([7, 7], np.uint64)) == 0
    assert winner(np.array([0.0, 1.0]), np.array([2**52 - 1, 0], np.uint64)) == 1
    assert decide_race(np.array([0.5, 0.5]), np.array([7, 7], np.uint64)) == (0, 0.0)
    assert decide_race(np.array([0.0, 1.0]), np.array([2**52 - 1, 0], np.uint64)) == (1, np.inf)


def test_the_winner_follows_the_distribution() -> None:
    probs = np.array([0.5, 0.0, 0.3, 0.15, 0.05])
    noise = Noise(9, [1])
    counts = np.bincount([draw_coupled(noise, t, probs) for t in range(50_000)], minlength=5)
    assert not counts[1]
    assert chisquare(counts[probs > 0], 50_000 * probs[probs > 0]).pvalue > 1e-4
