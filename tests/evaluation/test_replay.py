from dataclasses import replace

import pytest

from edge_client.config import PREFERENCES
from evaluation.profile import Profile
from evaluation.replay import Counts, Trace, foresight, replayed
from studies.links import preferring

TRACE = Trace((True, True, False, True, True, True, False), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0))
HERE = Profile("here", slm_s=0.02, llm_s=0.04, llm_position_s=0.001)
# A block of one draft: any draft ends it.
SINGLE = preferring("balanced", threshold=0.0, max_in_flight=1)
WHOLE = preferring("balanced", threshold=1.0, max_in_flight=1)


def counted(counts: Counts) -> tuple[int, int, int, int]:
    return counts.tokens, counts.passes, counts.steps, counts.positions


def test_a_round_brings_what_was_kept_and_the_llms_own_token() -> None:
    """1 and a bonus for 2; 3 is rejected; 4 and a bonus for 5; 6 and a bonus for 7. A bonus is sent on, and not judged again:
    every pass is over two positions."""
    assert counted(replayed([TRACE], SINGLE, HERE, 0.0)) == (7, 4, 4, 8)


def test_a_block_that_nothing_ends_is_the_rest_of_the_answer() -> None:
    """1 to 7 are drafted, and 3 is rejected; 4 to 7, and 7 is rejected. After the last draft no bonus would be of use."""
    counts = replayed([TRACE], WHOLE, HERE, 0.0)
    assert counted(counts)[:3] == (7, 2, 11)


def test_time_passes_in_steps_passes_and_on_the_way_alone() -> None:
    """Waiting for every verdict, an answer takes the sum of all three."""
    for round_trip in (0.0, 0.1):
        counts = replayed([TRACE], SINGLE, HERE, round_trip)
        passes = counts.passes * HERE.llm_s + counts.positions * HERE.llm_position_s
        assert counts.seconds == pytest.approx(counts.steps * HERE.slm_s + passes + counts.passes * round_trip)
        assert counts.streamed_s == pytest.approx(7 * 0.041 + round_trip)


def test_on_a_slow_link_running_ahead_is_faster_and_costs_steps() -> None:
    sure = Trace((True,) * 60, (6.0,) * 60)
    waits = replayed([sure], preferring("speed", 0.1, max_in_flight=1), HERE, 0.2)
    ahead = replayed([sure], preferring("speed", 0.1), HERE, 0.2)
    assert ahead.seconds < 0.6 * waits.seconds
    assert (ahead.tokens, waits.tokens) == (60, 60)
    # Nothing is rejected: an answer of SLM steps alone, and the way of its last message.
    assert ahead.seconds == pytest.approx(60 * HERE.slm_s + 0.2 + HERE.llm_s, rel=0.1)


def test_what_is_preferred_is_what_is_saved() -> None:
    mixed = [Trace((*[True] * 9, False) * 6, (*[3.0] * 8, 0.4, 0.2) * 6)] * 4
    found = [replayed(mixed, preferring(prefer), HERE, 0.05) for prefer in PREFERENCES]
    seconds, passes = [counts.seconds for counts in found], [counts.passes for counts in found]
    assert max(seconds[:2]) < seconds[2]
    assert passes == sorted(passes, reverse=True)
    assert found[2].steps < found[0].steps


def test_foresight_is_the_fewest_passes() -> None:
    assert foresight([TRACE]) == 2 / 7
    for threshold in (0.0, 0.2, 0.4, 1.0):
        counts = replayed([TRACE], preferring("balanced", threshold), HERE, 0.0)
        assert counts.per_token()[0] >= foresight([TRACE])


def test_what_was_learned_is_carried() -> None:
    """Drafts that always stay: from answer to answer blocks grow."""
    sure = [Trace((True,) * 40, (0.5,) * 40)] * 5
    config = replace(preferring("balanced", 0.4, max_in_flight=1))
    assert replayed(sure, config, HERE, 0.0).passes < replayed(sure, config, HERE, 0.0, carried=False).passes
