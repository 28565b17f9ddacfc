import contextlib
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hedge.common import codec
from hedge.common.distribution import MAX_BITS, Quantised
from hedge.common.errors import CodecError


@st.composite
def targets(draw: st.DrawFn) -> Quantised:
    vocab = draw(st.integers(1, 5000))
    bits = draw(st.integers(1, MAX_BITS))
    kept = draw(st.integers(1, min(vocab, 1 << bits, 400)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = np.sort(rng.choice(vocab, kept, replace=False))
    steep = draw(st.floats(0, 4))
    spare = (1 << bits) - kept
    shares = rng.permutation(1.0 / np.arange(1, kept + 1) ** steep)
    counts = 1 + np.floor(shares / shares.sum() * spare * draw(st.floats(0, 1))).astype(np.int64)
    if kept == vocab:
        counts[0] += (1 << bits) - counts.sum()
    return Quantised(vocab, bits, ids, counts)


def same(a: Quantised, b: Quantised) -> bool:
    return a.bits == b.bits and np.array_equal(a.ids, b.ids) and np.array_equal(a.counts, b.counts)


# The kept ids of a distribution whose stream ends with words that a carry would turn over, as bits.
CARRYING = int(
    "2b4473a854982b3cc8359a2044adcb4d4364f58a01697ea9620d783167e592182ead3"
    "df88340056115812f866017d605373911672a0a0c9f1333540d018206e8651489a8c",
    16,
)


def with_a_carry_at_the_end() -> Quantised:
    ids = np.array([i for i in range(546) if CARRYING >> i & 1])
    return Quantised(546, 11, ids, np.full(len(ids), 6))


@given(targets())
@example(with_a_carry_at_the_end())
@settings(max_examples=300, deadline=None)
def test_round_trip(probs: Quantised) -> None:
    assert same(codec.decode(codec.encode(probs), probs.vocab_size), probs)


def test_golden_bytes() -> None:
    probs = Quantised(4096, 12, np.array([3, 77, 4095]), np.array([4000, 5, 1]))
    assert codec.encode(probs).hex() == GOLDEN


GOLDEN = "018cce603ad97ace72bd26"


@given(st.binary(max_size=300), st.sampled_from([1, 2, 12, 4096, 151_936]))
@example(b"", 12)
@example(bytes([codec.VERSION]), 4096)
@example(bytes([codec.VERSION]) + b"\xff" * 200, 4096)
@settings(max_examples=500, deadline=None)
def test_hostile_bytes_are_refused_or_canonical(data: bytes, vocab: int) -> None:
    try:
        probs = codec.decode(data, vocab)
    except CodecError:
        return
    assert codec.encode(probs) == data


@given(targets(), st.data())
@settings(max_examples=150, deadline=None)
def test_truncated_and_flipped_bytes_never_pass_as_the_same_distribution(
    probs: Quantised, data: st.DataObject
) -> None:
    honest = codec.encode(probs)
    cut = honest[: data.draw(st.integers(0, len(honest) - 1))]
    at = data.draw(st.integers(0, len(honest) - 1))
    flipped = honest[:at] + bytes([honest[at] ^ data.draw(st.integers(1, 255))]) + honest[at + 1 :]
    for broken in (cut, flipped, honest + b"\x01"):
        with contextlib.suppress(CodecError):
            assert not same(codec.decode(broken, probs.vocab_size), probs)


def test_oversized_and_unknown_versions_are_refused_unread() -> None:
    with pytest.raises(CodecError, match="at most"):
        codec.decode(bytes([codec.VERSION]) + bytes(codec.largest_message(12)), 12)
    with pytest.raises(CodecError, match="version 9"):
        codec.decode(b"\x09abc", 12)


@pytest.mark.parametrize(
    ("vocab", "kept"), [(4096, 30), (4096, 1), (32_000, 30), (151_936, 100), (4096, 2048)]
)
def test_a_support_costs_about_its_entropy(vocab: int, kept: int) -> None:
    """All counts 1, no mantissas: what remains is support, header and the coder's ends."""
    rng = np.random.default_rng(0)
    sizes = [
        len(
            codec.encode(
                Quantised(
                    vocab,
                    12,
                    np.sort(rng.choice(vocab, kept, replace=False)),
                    np.ones(kept, np.int64),
                )
            )
        )
        for _ in range(50)
    ]
    floor = math.log2(math.comb(vocab, kept)) / 8
    assert np.mean(sizes) < 1.02 * floor + 7


def test_paper_accounting() -> None:
    assert codec.paper_bits(32_000, 32_000) / 8 == 92_000
    assert codec.paper_bits(32_000, 30) / 8 == 86.25
