from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hedge.common.errors import BadInput
from hedge.common.noise import Noise, Purpose


def test_golden_vectors() -> None:
    noise = Noise(42, [1, 2, 3])
    assert {purpose.name: noise.uniform(purpose, 5, 7) * 2**53 for purpose in Purpose} == GOLDEN


GOLDEN = {
    "DRAFT": 2877649324912153,
    "ACCEPT": 2539016070698512,
    "RESIDUAL": 6351462201088016,
    "BONUS": 7115058383673557,
    "GATE": 5883896608779509,
    "POLICY": 8406646016629291,
    "TARGET": 1093463025497501,
}


def test_draws_are_functions_of_their_address_alone() -> None:
    one = Noise(1, [5])
    other = Noise(1, [5])
    other.uniforms(Purpose.DRAFT, 0, count=9)
    assert one.uniform(Purpose.ACCEPT, 3, 2) == other.uniform(Purpose.ACCEPT, 3, 2)
    assert np.array_equal(
        one.uniforms(Purpose.GATE, 1, count=40)[:7], one.uniforms(Purpose.GATE, 1, count=7)
    )


def test_threads_that_draw_at_once_draw_what_one_alone_does() -> None:
    noises = [Noise(seed, [5]) for seed in range(2)]

    def drawn(noise: Noise) -> list[float]:
        return [noise.uniform(Purpose.DRAFT, position) for position in range(5000)]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(drawn, noises)) == [drawn(noise) for noise in noises]


def test_every_part_of_the_address_matters() -> None:
    draws = {
        Noise(seed, prompt).uniform(purpose, position, step)
        for seed in (0, 1)
        for prompt in ([1], [1, 2], [2])
        for purpose in Purpose
        for position in (0, 1, 1 << 40)
        for step in (0, 1)
    }
    assert len(draws) == 2 * 3 * len(Purpose) * 3 * 2


def test_two_turns_with_one_seed_differ() -> None:
    """With equal keys the second turn would reuse the first one's draws."""
    first = Noise(9, [1, 2, 3])
    second = Noise(9, [1, 2, 3, 4, 5])
    assert not np.array_equal(
        first.uniforms(Purpose.DRAFT, 0, count=8), second.uniforms(Purpose.DRAFT, 0, count=8)
    )


def test_numbers_lie_in_the_unit_interval_and_are_uniform() -> None:
    numbers = np.concatenate(
        [Noise(0, [1]).uniforms(Purpose.DRAFT, t, count=50) for t in range(400)]
    )
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, 20, (0, 1))[0]
    # Chi-square with 19 degrees of freedom passes 50.8 once in 10,000.
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 50.8


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(BadInput, match=str(seed)):
        Noise(seed, [1])
