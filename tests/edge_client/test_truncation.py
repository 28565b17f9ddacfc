import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hedge.common.sampling import largest, softmax
from hedge.edge_client.engine.verification.truncation import truncate


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, int | None, int]:
    size = draw(st.integers(1, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    probs = softmax(rng.normal(size=size) * draw(st.floats(0, 20)))
    probs[rng.random(size) < draw(st.floats(0, 0.9))] = 0
    probs = probs / probs.sum() if probs.sum() > 0 else np.eye(size)[0]
    return probs, draw(st.none() | st.integers(1, 2 * size)), draw(st.integers(1, 20))


@given(cases())
@settings(max_examples=400, deadline=None)
def test_counts_are_the_largest_entries_rounded(case: tuple[np.ndarray, int | None, int]) -> None:
    """Quantised checks itself that the integers fit 2^bits; here they are close to the distribution
    they stand for.
    """
    probs, kept, bits = case
    sent = truncate(probs, kept, bits)
    allowed = np.flatnonzero(probs) if kept is None or kept >= len(probs) else largest(probs, kept)
    assert set(sent.ids) <= set(allowed)
    assert (probs[sent.ids] > 0).all()
    if len(sent.counts) > 1:
        assert (np.abs(sent.counts - probs[sent.ids] * sent.total) < 1.001).all()


def test_an_exact_distribution_is_kept_exactly() -> None:
    probs = np.array([0.5, 0.25, 0.0, 0.125, 0.125])
    assert np.array_equal(truncate(probs, None, 3).dense(), probs)
    assert truncate(probs, None, 3).tail == 0


def test_the_tail_bucket_holds_the_rest() -> None:
    sent = truncate(np.array([0.5, 0.25, 0.125, 0.125]), 1, 4)
    assert (list(sent.ids), list(sent.counts), sent.tail) == ([0], [8], 8)


def test_a_flat_distribution_coarser_than_the_vocabulary_still_names_a_token() -> None:
    sent = truncate(np.full(4096, 1 / 4096), 1, 1)
    assert (len(sent.ids), sent.counts[0], sent.tail) == (1, 1, 1)
