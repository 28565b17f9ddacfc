import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hedge.common.sampling import residual, softmax
from hedge.edge_client.engine.verification.bound import (
    flattening,
    grid,
    smallest_k,
    softplus,
    strictness,
)


def kept_probs(x: np.ndarray, k: int) -> np.ndarray:
    """x_hat: the k largest entries of x, the rest shared equally."""
    order = np.argsort(-x, kind="stable")
    x_hat = x.copy()
    if k < len(x):
        x_hat[order[k:]] = x[order[k:]].sum() / (len(x) - k)
    return x_hat


def probs_of_tested(x: np.ndarray, x_hat: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The distribution of a token drawn from x and accepted or resampled against x_hat."""
    accepted = x * np.minimum(1, y / np.where(x_hat > 0, x_hat, 1))
    weights = residual(y, x_hat)
    return np.asarray(accepted + (1 - accepted.sum()) * weights / weights.sum())


def distance(p: np.ndarray, q: np.ndarray) -> float:
    return 0.5 * float(np.abs(p - q).sum())


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    size = draw(st.integers(2, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    z = rng.normal(size=size) * draw(st.floats(0.1, 8))
    return softmax(z), softmax(z + rng.normal(size=size) * draw(st.floats(0, 4)))


@given(pairs())
@settings(max_examples=200, deadline=None)
def test_flattening_is_the_distance_it_says(pair: tuple[np.ndarray, np.ndarray]) -> None:
    x, _ = pair
    plain = [np.abs(x - kept_probs(x, k)).sum() for k in range(1, len(x) + 1)]
    assert flattening(x) == pytest.approx(np.array(plain), abs=1e-12)
    ks = grid(len(x))
    assert np.array_equal(flattening(x, ks), flattening(x)[ks - 1])


@given(pairs(), st.integers(1, 200))
@settings(max_examples=300, deadline=None)
def test_a_tested_token_is_within_half_the_flattening_of_the_llm(
    pair: tuple[np.ndarray, np.ndarray], k: int
) -> None:
    """What holds, whatever eta: the draft of the full distribution, tested against the truncated
    one.
    """
    x, y = pair
    k = min(k, len(x))
    assert (
        distance(probs_of_tested(x, kept_probs(x, k), y), y) <= 0.5 * flattening(x)[k - 1] + 1e-12
    )


def test_the_published_bound_can_fall_below_the_distance_of_the_residuals() -> None:
    """eta = 1 and models that nearly agree: eq. 26 promises 0.006, the residual distributions have
    nothing in common.
    """
    x = np.array([0.97, 0.012, 0.010, 0.008])
    y = np.array([0.9699, 0.012, 0.010, 0.0081])
    x_hat = kept_probs(x, 1)
    with_x = residual(y, x)
    with_x_hat = residual(y, x_hat)
    true = distance(with_x / with_x.sum(), with_x_hat / with_x_hat.sum())
    drafted = float(x[0])
    beta = 1 - y[0] / x[0]
    claimed = float(flattening(x)[0] / strictness(drafted, beta, eta=1.0))
    assert claimed < 0.01
    assert true > 0.99


def test_the_bound_on_known_values() -> None:
    assert softplus(0.0, 2.0) == pytest.approx(np.log(2) / 2)
    assert strictness(0.0, 0.3, 1.0) == pytest.approx(np.log1p(np.exp(-1)))
    assert strictness(1.0, 0.0, 1.0) == pytest.approx(np.log(2))
    assert strictness(0.5, 1.0, 1.0) == pytest.approx(np.log1p(np.exp(-1)))


@given(pairs(), st.floats(0.001, 2))
@example((np.array([1.0]), np.array([1.0])), 0.1)
@settings(max_examples=200, deadline=None)
def test_the_smallest_k_keeps_the_bound_and_the_next_smaller_one_does_not(
    pair: tuple[np.ndarray, np.ndarray], allowed: float
) -> None:
    x, _ = pair
    k = smallest_k(x, allowed)
    assert flattening(x)[k - 1] <= allowed
    assert (flattening(x)[: k - 1] > allowed).all()


@pytest.mark.parametrize("vocab", [1, 2, 64, 65, 4096, 151_936])
def test_the_grid_rises_to_the_vocabulary(vocab: int) -> None:
    ks = grid(vocab)
    assert ks[0] == 1
    assert ks[-1] == vocab
    assert (np.diff(ks) > 0).all()
    assert (np.diff(ks) / ks[:-1] <= 1).all()
