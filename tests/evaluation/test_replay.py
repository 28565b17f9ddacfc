from edge_client.engine.gates.survival import Survival
from evaluation.replay import Counts, SurvivalRule, Trace, foresight, over, replayed


class Blocks:
    """Always so long."""

    def __init__(self, length: int) -> None:
        self._length = length
        self.told: list[tuple[float, bool]] = []

    def ends(self, margins: list[float]) -> bool:
        return len(margins) >= self._length

    def judged(self, margin: float, *, accepted: bool) -> None:
        self.told.append((margin, accepted))


TRACE = Trace((True, True, False, True, True, True, False), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0))


def test_a_round_brings_what_was_kept_and_the_llms_own_token() -> None:
    """Drafts 1 2 | 3 stays not; 4 5, the bonus takes the place of 6; 7 is rejected."""
    counts, rule = Counts(), Blocks(2)
    replayed(TRACE, rule, counts)
    # 1 2 and a bonus for 3; 4 5 and a bonus for 6; 7.
    assert (counts.tokens, counts.passes, counts.steps, counts.positions) == (7, 3, 5, 8)
    assert rule.told == [(1.0, True), (2.0, True), (4.0, True), (5.0, True), (7.0, False)]


def test_nothing_behind_a_rejection_is_judged() -> None:
    counts, rule = Counts(), Blocks(5)
    replayed(TRACE, rule, counts)
    assert (counts.passes, counts.steps, counts.positions) == (2, 9, 11)
    assert rule.told == [(1.0, True), (2.0, True), (3.0, False), (4.0, True), (5.0, True), (6.0, True), (7.0, False)]


def test_foresight_is_the_fewest_passes() -> None:
    assert foresight([TRACE]) == 2 / 7
    for length in range(1, 8):
        counts = over([TRACE], lambda length=length: Blocks(length))
        assert counts.per_token()[0] >= foresight([TRACE])


def test_what_was_learned_is_carried() -> None:
    """Drafts that always stay: from answer to answer blocks grow."""
    sure = Trace((True,) * 40, (0.5,) * 40)
    carried = over([sure] * 5, lambda: SurvivalRule(Survival(), 0.4))
    anew = over([sure] * 5, lambda: SurvivalRule(Survival(), 0.4), carried=False)
    assert carried.passes < anew.passes
