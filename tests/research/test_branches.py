"""The replay on its virtual clock, against answers worked out by hand."""

from dataclasses import dataclass

import pytest

from research.branches import PASS, ROUND_TRIP, STEP, Choices, Path, Replay


@dataclass
class Scripted:
    """A device that drafts 0 everywhere, with 1 as its runner-up, and asks at `asks`."""

    asks: frozenset[int]

    def choices(self, path: Path) -> Choices:
        return Choices([0, 1, 2], len(path) in self.asks)


def replayed(truth: list[int], asks: set[int], runners_up: int = 0, rows: int = 1) -> float:
    return Replay(Scripted(frozenset(asks)), truth, runners_up, rows, STEP).seconds()  # type: ignore[arg-type]


def test_an_answer_the_device_knew_costs_one_round_trip() -> None:
    assert replayed([0] * 5, {2}) == pytest.approx(5 * STEP + ROUND_TRIP + PASS)


def test_a_mismatch_costs_another_one() -> None:
    assert replayed([0, 0, 1, 0, 0], {2}) == pytest.approx(
        3 * STEP + ROUND_TRIP + PASS + 2 * STEP + ROUND_TRIP + PASS
    )


def test_a_mismatch_is_found_out_where_the_gate_fires_next() -> None:
    assert replayed([0, 1, 0, 0, 0], {3}) == pytest.approx(
        4 * STEP + ROUND_TRIP + PASS + 3 * STEP + ROUND_TRIP + PASS
    )


def test_a_mismatch_that_is_a_branch_costs_none() -> None:
    assert replayed([0, 0, 1, 0, 0], {2}, runners_up=1, rows=2) == pytest.approx(
        5 * STEP + ROUND_TRIP + PASS
    )
    assert replayed([0, 0, 2, 0, 0], {2}, runners_up=1, rows=2) > 2 * ROUND_TRIP


def test_a_branch_that_waits_for_a_row_starts_late() -> None:
    alone, beside = (replayed([0, 0, 1, 0, 0], {2}, runners_up=1, rows=rows) for rows in (1, 2))
    assert beside < alone < 2 * ROUND_TRIP
