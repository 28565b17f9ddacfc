import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedge.common.errors import CodecError
from hedge.common.ids import ADAPTIVE, FIXED, PRIMED, AdaptiveIds, id_codec

VOCABS = st.sampled_from([2, 12, 256, 257, 4096, 151_936])


@st.composite
def talks(draw: st.DrawFn) -> tuple[int, list[int], list[list[int]]]:
    """A vocabulary, a prompt, and messages; small ids recur."""
    vocab = draw(VOCABS)
    ids = st.one_of(st.integers(0, min(5, vocab - 1)), st.integers(0, vocab - 1))
    return (
        vocab,
        draw(st.lists(ids, max_size=12)),
        draw(st.lists(st.lists(ids, max_size=9), max_size=5)),
    )


@given(talks(), st.sampled_from([FIXED, ADAPTIVE]))
def test_both_sides_stay_in_step(
    talk: tuple[int, list[int], list[list[int]]], version: int
) -> None:
    vocab, history, messages = talk
    writer = id_codec(version, vocab)
    reader = id_codec(version, vocab)
    for ids in messages:
        data = writer.encode(history, ids)
        assert reader.decode(history, data, 20) == ids
        history = history + ids


@given(talks(), st.data())
def test_after_a_rollback_the_model_is_that_of_a_fresh_session(
    talk: tuple[int, list[int], list[list[int]]], data: st.DataObject
) -> None:
    vocab, prompt, messages = talk
    used = AdaptiveIds(vocab)
    history = list(prompt)
    for ids in messages:
        used.encode(history, ids)
        history = history[: data.draw(st.integers(0, len(history)))] + ids
    fresh = AdaptiveIds(vocab)
    last = data.draw(st.lists(st.integers(0, vocab - 1), max_size=5))
    assert used.encode(history, last) == fresh.encode(history, last)


@settings(max_examples=300)
@given(st.binary(max_size=40), VOCABS, st.sampled_from([FIXED, ADAPTIVE]))
def test_hostile_bytes_are_refused_or_are_what_encode_writes(
    data: bytes, vocab: int, version: int
) -> None:
    codec = id_codec(version, vocab)
    try:
        ids = codec.decode([1, 0, 1], data, 16)
    except CodecError:
        return
    assert len(ids) <= 16
    assert all(0 <= token < vocab for token in ids)
    assert codec.encode([1, 0, 1], ids) == data


@pytest.mark.parametrize("version", [FIXED, ADAPTIVE])
def test_more_ids_than_allowed_are_refused(version: int) -> None:
    data = id_codec(version, 300).encode([], [7] * 10)
    with pytest.raises(CodecError, match=r"at most 9|more than 9"):
        id_codec(version, 300).decode([], data, 9)


def test_what_was_said_before_is_cheap_to_say_again() -> None:
    phrase = [11, 300, 42, 7, 999, 5]
    codec = AdaptiveIds(4096)
    first = len(codec.encode([], phrase))
    assert first <= 11
    assert len(codec.encode(phrase * 3, phrase)) <= first / 3


@given(
    st.lists(st.integers(0, 11), max_size=12), st.lists(st.integers(0, 11), min_size=1, max_size=6)
)
def test_sessions_share_a_primer_and_nothing_else(history: list[int], ids: list[int]) -> None:
    primer = (1, 2, 3, 1, 2, 3, 1, 2, 5)
    first = id_codec(PRIMED, 12, primer).encode(history, ids)
    other = id_codec(PRIMED, 12, primer)
    other.encode([4, 4, 4], [1, 2, 9])
    assert id_codec(PRIMED, 12, primer).encode(history, ids) == first
    assert other.decode(history, first, len(ids)) == ids
    # As if the primer had been said before.
    assert first == AdaptiveIds(12).encode([*primer, *history], ids)
