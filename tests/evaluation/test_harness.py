"""What a journal lacks is asked for, in order and so many at once; an error ends the run."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hedge.common.errors import Disconnected
from hedge.evaluation.harness import ask_all
from hedge.evaluation.record import Journal

FIELDS = ("system", lambda row: row["answer"]["task"])


def journal_of(path: Path) -> Journal:
    return Journal(path / "j.jsonl", {"kind": "test"}, resume=True)


def want(
    ask: Callable[[int], Awaitable[dict[str, Any]]], count: int
) -> dict[tuple[Any, ...], Callable[[], Awaitable[dict[str, Any]]]]:
    return {("hedge", number): partial(ask, number) for number in range(count)}


def test_a_run_goes_on_where_it_ended_with_its_own_error(tmp_path: Path) -> None:
    asked: list[int] = []

    async def ask(number: int) -> dict[str, Any]:
        asked.append(number)
        if len(asked) == 3:
            raise Disconnected("gone")
        return {"answer": {"task": number}}

    with pytest.raises(Disconnected, match="gone"):
        asyncio.run(ask_all(journal_of(tmp_path), FIELDS, want(ask, 4), "test"))
    asyncio.run(ask_all(journal_of(tmp_path), FIELDS, want(ask, 4), "test"))
    assert asked == [0, 1, 2, 2, 3]
    rows = journal_of(tmp_path).entries
    assert rows == [{"system": "hedge", "answer": {"task": number}} for number in range(4)]


def test_no_more_go_on_at_once_than_was_said(tmp_path: Path) -> None:
    running = 0
    most = 0

    async def ask(number: int) -> dict[str, Any]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return {"answer": {"task": number}}

    asyncio.run(ask_all(journal_of(tmp_path), FIELDS, want(ask, 9), "test", together=3))
    assert most == 3
    assert len(journal_of(tmp_path).entries) == 9
