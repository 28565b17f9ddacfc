import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.common.errors import BadInput
from hedge.common.sampling import Warp, draw, largest, residual, softmax

logits = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=30).map(
    lambda z: np.array(z, np.float32)
)


@given(logits, st.floats(0, 5), st.integers(0, 40), st.floats(0.001, 1))
def test_a_warped_distribution_is_a_distribution(
    z: np.ndarray, temperature: float, top_k: int, top_p: float
) -> None:
    probs = Warp(temperature, top_k, top_p)(z)
    assert probs.dtype == np.float64
    assert probs.sum() == pytest.approx(1)
    assert (probs >= 0).all()
    if top_k:
        assert (probs > 0).sum() <= top_k
    assert probs[int(np.argmax(z))] > 0


def test_temperature_0_top_k_1_and_tiny_top_p_are_the_argmax_ties_to_the_lowest_id() -> None:
    z = np.array([1.0, 3.0, 3.0, 2.0], np.float32)
    for warp in (Warp(0.0), Warp(1.0, 1), Warp(1.0, 0, 1e-9), Warp(1e-30)):
        probs = warp(z)
        assert probs[3] == probs[0] == 0
        assert probs[1] == pytest.approx(1 if warp.temperature != 1e-30 else 0.5)


def test_ties_at_the_border_of_top_k_go_to_the_lowest_ids() -> None:
    assert list(np.flatnonzero(Warp(1.0, 2)(np.array([0.0, 1.0, 1.0, 1.0])))) == [1, 2]
    assert list(largest(np.array([0.5, 0.1, 0.5, 0.5]), 2)) == [0, 2]


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    z = np.log([0.5, 0.3, 0.15, 0.05])
    assert list(np.flatnonzero(Warp(1.0, 0, 0.6)(z))) == [0, 1]
    assert Warp(1.0, 0, 0.6)(z)[0] == pytest.approx(0.625)


def test_warp_of_no_temperature_is_softmax() -> None:
    z = np.random.default_rng(0).normal(size=50).astype(np.float32)
    assert np.allclose(Warp()(z), softmax(z), rtol=1e-12)


@pytest.mark.parametrize(
    "bad",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0}, {"top_p": 2}],
)
def test_bad_warps_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(BadInput):
        Warp(**bad)  # type: ignore[arg-type]


def test_draw_never_lands_on_a_zero() -> None:
    weights = np.array([0.0, 0.3, 0.0, 0.7, 0.0])
    assert draw(weights, 0.0) == 1
    assert draw(weights, np.nextafter(1, 0)) == 3
    assert draw(weights * 1e-300, np.nextafter(1, 0)) == 3


def test_an_empty_residual_falls_back_to_the_target() -> None:
    y = np.array([0.25, 0.75])
    assert list(residual(y, y)) == list(y)
    assert list(residual(y, np.array([0.5, 0.5]))) == [0, 0.25]
