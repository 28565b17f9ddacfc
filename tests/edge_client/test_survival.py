import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.engine.gates.survival import LARGEST, LOWEST_B, PRIOR_A, PRIOR_B, Survival


def sigmoid(value: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-value)))


def fitted(margins: np.ndarray, accepted: np.ndarray) -> tuple[float, float]:
    """The same posterior without fading, all drafts at once."""
    x, prior = np.stack([np.ones_like(margins), margins], 1), np.array([PRIOR_A, PRIOR_B])
    weights, precision = prior.copy(), np.diag([4.0, 20.0])
    for _ in range(50):
        p = sigmoid(x @ weights)
        gradient = x.T @ (accepted - p) - precision @ (weights - prior)
        weights = weights + np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + precision, gradient)
    return float(weights[0]), float(weights[1])


@pytest.mark.parametrize("truth", [(0.0, 0.7), (1.5, 0.3), (-2.0, 1.5), (3.0, 0.05)])
def test_one_step_a_draft_is_as_good_as_a_fit_of_all(truth: tuple[float, float]) -> None:
    rng, model = np.random.default_rng(1), Survival()
    margins = rng.exponential(2.0, 1500)
    accepted = rng.random(1500) < sigmoid(truth[0] + truth[1] * margins)
    for margin, stays in zip(margins, accepted, strict=True):
        model.judged(float(margin), accepted=bool(stays))
    batch, grid = fitted(margins, accepted), np.linspace(0, 8, 20)
    online = np.array([model.probability(m) for m in grid])
    assert np.abs(online - sigmoid(batch[0] + batch[1] * grid)).max() < 0.06


def test_a_prior_that_is_wrong_is_left_within_an_answer() -> None:
    """A pair that agrees always, and one that never does."""
    for accepted in (True, False):
        model = Survival()
        for _ in range(64):
            model.judged(1.0, accepted=accepted)
        assert abs(model.probability(1.0) - accepted) < 0.15


@given(st.lists(st.tuples(st.floats(0, math.inf), st.booleans()), max_size=60))
def test_whatever_comes_it_stays_a_probability_that_grows_with_the_margin(judged: list[tuple[float, bool]]) -> None:
    model = Survival()
    for margin, accepted in judged:
        model.judged(margin, accepted=accepted)
    found = [model.probability(margin) for margin in (0.0, 0.5, 2.0, LARGEST, math.inf)]
    assert all(0 <= p <= 1 for p in found)
    assert found == sorted(found)
    assert model.b >= LOWEST_B
