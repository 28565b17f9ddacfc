import numpy as np
import pytest

from hedge.common.noise import Noise, Purpose
from hedge.common.sampling import Warp, softmax
from hedge.edge_client.engine.gates.measures import DRAWS, MEASURES, expected_perturbation

RNG = np.random.default_rng(3)
LOGITS = [
    np.concatenate([[9.0], RNG.normal(size=99)]).astype(np.float32),
    RNG.normal(size=100).astype(np.float32) * 3,
    RNG.normal(size=4096).astype(np.float32) * 2,
    np.zeros(50, np.float32),
]


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("z", LOGITS)
@pytest.mark.parametrize("warp", [Warp(), Warp(0.0), Warp(0.7, 5, 0.9)])
def test_values_lie_in_the_unit_interval(name: str, z: np.ndarray, warp: Warp) -> None:
    probs = warp(z)
    coins = Noise(0, [1]).uniforms(Purpose.GATE, 0, count=2 * DRAWS)
    assert 0 <= MEASURES[name].of(z, probs, int(probs.argmax()), coins) <= 1


@pytest.mark.parametrize(
    "name", [name for name, measure in MEASURES.items() if measure.draft_independent]
)
def test_draft_independent_measures_ignore_draft_and_coins(name: str) -> None:
    z = LOGITS[1]
    values = {MEASURES[name].of(z, softmax(z), draft, RNG.random(2 * DRAWS)) for draft in range(20)}
    assert len(values) == 1


def test_perturbation_depends_on_the_draft() -> None:
    z = LOGITS[1]
    coins = RNG.random(2 * DRAWS)
    assert (
        len({MEASURES["perturbation"].of(z, softmax(z), draft, coins) for draft in range(20)}) > 1
    )


@pytest.mark.parametrize("z", LOGITS)
def test_expected_perturbation_is_the_mean_of_perturbation_over_its_draws(z: np.ndarray) -> None:
    probs = softmax(z)
    rng = np.random.default_rng(0)
    drafts = rng.choice(len(z), 3000, p=probs)
    values = [MEASURES["perturbation"].of(z, probs, int(d), rng.random(2 * DRAWS)) for d in drafts]
    # Four standard errors, and the midpoint rule's own error.
    assert (
        abs(np.mean(values) - expected_perturbation(z, probs))
        < 4 * np.std(values) / np.sqrt(len(values)) + 0.01
    )


@pytest.mark.parametrize("scale", [0.3, 1, 2, 4, 8])
def test_few_nodes_are_within_a_hundredth_of_sixty_four(scale: float) -> None:
    rng = np.random.default_rng(1)
    for size in (10, 1000, 4096):
        z = (rng.gumbel(size=size) * scale).astype(np.float32)
        probs = softmax(z)
        assert abs(expected_perturbation(z, probs) - expected_perturbation(z, probs, 64)) < 0.01


def test_entropy_margin_and_top1_on_known_distributions() -> None:
    z = np.log(np.array([0.5, 0.25, 0.125, 0.125])).astype(np.float32)
    probs = softmax(z)
    none = np.empty(0)
    assert MEASURES["entropy"].of(z, probs, 0, none) == pytest.approx(
        1.75 * np.log(2) / np.log(4), abs=1e-6
    )
    assert MEASURES["margin"].of(z, probs, 0, none) == pytest.approx(0.75, abs=1e-6)
    assert MEASURES["top1"].of(z, probs, 0, none) == pytest.approx(0.5, abs=1e-6)
    # Before the warp: a greedy distribution changes nothing.
    assert MEASURES["entropy"].of(z, Warp(0.0)(z), 0, none) == MEASURES["entropy"].of(
        z, probs, 0, none
    )
