import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.common.distribution import Quantised
from hedge.common.errors import CodecError
from hedge.common.split import compute_share, decode_share, encode_share


@st.composite
def targets(draw: st.DrawFn) -> Quantised:
    vocab = draw(st.sampled_from([3, 12, 300, 70_000]))
    bits = draw(st.integers(2, 20))
    kept = sorted(draw(st.sets(st.integers(0, vocab - 1), min_size=1, max_size=min(3, vocab - 1))))
    counts = [draw(st.integers(1, 2**bits // 4)) for _ in kept]
    return Quantised(vocab, bits, np.array(kept), np.array(counts))


@given(targets())
def test_a_share_is_the_probability_of_its_token(probs: Quantised) -> None:
    for token in (
        int(probs.ids[0]),
        int(probs.ids[-1]),
        next(t for t in range(probs.vocab_size) if t not in probs.ids),
    ):
        share = decode_share(
            encode_share(compute_share(probs, token)), probs.vocab_size, probs.bits
        )
        assert share.probability == pytest.approx(probs.probability(token), rel=1e-12)


def test_certainty_fits() -> None:
    probs = Quantised(5, 12, np.array([2]), np.array([4096]))
    assert decode_share(encode_share(compute_share(probs, 2)), 5, 12).probability == 1


@given(st.binary(max_size=8), st.integers(1, 20), st.sampled_from([3, 300, 70_000]))
def test_hostile_bytes_are_refused_or_are_what_encode_writes(
    data: bytes, bits: int, vocab: int
) -> None:
    try:
        share = decode_share(data, vocab, bits)
    except CodecError:
        return
    assert 0 < share.probability <= 1
    assert encode_share(share) == data
