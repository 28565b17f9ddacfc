from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.cloud_server.serving.access import ANYBODY, Access, entry, new_token
from hedge.cloud_server.serving.limits import Limits, Quotas
from hedge.common.errors import BadInput, Busy, Denied


def test_streams_are_counted_per_client_and_in_all() -> None:
    quotas = Quotas(Limits(sessions=3, streams=2), lambda: 0.0, 1)
    quotas.enter("a", 5)
    quotas.enter("a", 5)
    with pytest.raises(Busy, match="2 streams are open for a"):
        quotas.enter("a", 5)
    quotas.enter("b", 5)
    with pytest.raises(Busy, match="3 sessions"):
        quotas.enter("c", 5)
    quotas.leave("a", 5)
    quotas.enter("c", 5)


def test_tokens_held_are_counted_over_all_sessions_of_a_client() -> None:
    quotas = Quotas(Limits(kv_bytes=6499), lambda: 0.0, 64)
    quotas.enter("a", 60)
    with pytest.raises(
        Busy, match="110 tokens, 7040 bytes of keys and values, in the sessions of a, at most 6499"
    ):
        quotas.enter("a", 50)
    quotas.hold("a", 30)
    with pytest.raises(Busy, match="at most 6499"):
        quotas.hold("a", 12)
    quotas.leave("a", 90)
    quotas.enter("a", 101)


def test_a_long_prompt_is_refused() -> None:
    with pytest.raises(BadInput, match="a prompt of 11 ids, at most 10"):
        Quotas(Limits(prompt=10), lambda: 0.0, 1).enter("a", 11)


@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 200)), min_size=1, max_size=40),
    st.floats(1, 100),
)
def test_over_any_time_a_client_gets_its_rate_and_one_second_more(
    spent: list[tuple[float, int]], rate: float
) -> None:
    """A client that waits as told has, at any time, used at most rate x (time + 1 s)."""
    now = 0.0
    used = 0
    starts = list[tuple[float, int]]()
    quotas = Quotas(Limits(tokens_per_s=rate), lambda: now, 1)
    for idle, positions in spent:
        now += idle
        starts.append((now, used))
        now += quotas.spend("a", positions)
        used += positions
        assert all(
            used - before <= rate * (now - start + 1) * (1 + 1e-9) for start, before in starts
        )


@pytest.mark.parametrize(
    "changes", [{"streams": -1}, {"idle_s": float("nan")}, {"tokens_per_s": float("inf")}]
)
def test_limits_that_are_none_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="is not a number of at least 0"):
        Limits(**changes)  # type: ignore[arg-type]


def test_tokens_are_kept_as_hashes_and_compared_whole(tmp_path: Path) -> None:
    tokens = {name: new_token() for name in ("phone", "robot")}
    path = tmp_path / "tokens"
    path.write_text(
        "# clients\n\n" + "".join(entry(name, token) + "\n" for name, token in tokens.items())
    )
    assert not any(token in path.read_text() for token in tokens.values())
    access = Access(path)
    for name, token in tokens.items():
        assert access.client([("x", "y"), ("authorization", f"Bearer {token}")]) == name
    for metadata in (
        [],
        [("authorization", tokens["phone"])],
        [("authorization", "Bearer nonsense")],
        [("authorization", "")],
    ):
        with pytest.raises(Denied) as denied:
            access.client(metadata)
        assert "nonsense" not in str(denied.value)
    assert Access().client([]) == ANYBODY


def test_a_reload_takes_and_gives_access_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    first = new_token()
    second = new_token()
    path.write_text(entry("a", first))
    access = Access(path)
    path.write_text(entry("b", second))
    access.reload()
    assert access.client([("authorization", f"Bearer {second}")]) == "b"
    with pytest.raises(Denied):
        access.client([("authorization", f"Bearer {first}")])
    path.write_text("nonsense")
    access.reload()
    assert access.client([("authorization", f"Bearer {second}")]) == "b"


@pytest.mark.parametrize(
    "text", ["a:zz", "a", ":" + "0" * 64, "a:" + "0" * 62, "a:" + "0" * 64 + "\na:" + "1" * 64]
)
def test_bad_token_files_are_named_by_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"line [12] of .*tokens"):
        Access(path)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "#a"])
def test_names_that_would_break_the_file_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="name"):
        entry(name, "t")
