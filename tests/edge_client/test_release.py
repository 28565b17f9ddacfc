from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from hedge.edge_client.engine.release import TextRelease


def decode(ids: Sequence[int]) -> str:
    """One byte per token, as byte-level tokenizers decode."""
    return bytes(ids).decode("utf-8", errors="replace")


def feed(text: str, stop: Sequence[str] = ()) -> tuple[list[str], TextRelease]:
    release = TextRelease(decode, stop)
    pieces = []
    for byte in text.encode():
        pieces.append(release.add(byte))
        if release.stopped:
            return pieces, release
    return [*pieces, release.finish()], release


@given(st.text(max_size=120))
def test_pieces_add_up_and_are_whole_characters(text: str) -> None:
    pieces, release = feed(text)
    assert "".join(pieces) == release.text == text


@given(
    st.text("abX", max_size=60),
    st.lists(st.text("abX", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_stop_strings_are_cut_off_wherever_they_begin(text: str, stop: list[str]) -> None:
    pieces, release = feed(text, stop)
    found = [text.find(s) for s in stop if s in text]
    # The first to be complete ends the answer, so what was released never reaches past the earliest
    # one that is.
    assert release.stopped == bool(found)
    assert text.startswith(release.text)
    assert "".join(pieces) == release.text
    if found:
        assert not any(s in release.text for s in stop)
    else:
        assert release.text == text


def test_an_unfinished_character_is_not_released_until_the_end() -> None:
    release = TextRelease(decode)
    assert [release.add(byte) for byte in "é".encode()] == ["", "é"]
    release = TextRelease(decode)
    assert release.add("é".encode()[0]) == ""
    assert release.finish() == "\ufffd"


@given(st.text("aé世\n", max_size=40), st.text("aé世\n", max_size=12))
def test_a_preview_is_what_would_follow(text: str, ahead: str) -> None:
    release = TextRelease(decode)
    for byte in text.encode():
        release.add(byte)
    assert release.preview(list(ahead.encode())) == ahead
    # A character that has only begun is none, and nothing was released by looking.
    assert release.preview(list("a世".encode())[:-1]) == "a"
    assert release.text == text


def test_a_preview_has_what_is_held_back_for_a_stop_string() -> None:
    release = TextRelease(decode, ["abX"])
    assert [release.add(byte) for byte in b"-ab"] == ["-", "", ""]
    assert release.preview(list(b"c")) == "abc"
