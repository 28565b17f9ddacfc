import asyncio
from dataclasses import replace

import pytest

from hedge.common.errors import BadInput
from hedge.common.ids import FIXED
from hedge.edge_client.config import PREFERENCES
from hedge.edge_client.transport.messages import build_opening
from hedge.evaluation.profile import Profile
from hedge.evaluation.replay import (
    Cloud,
    Counts,
    Trace,
    TraceModel,
    VirtualLink,
    make_rows,
    replay_traces,
    run_on_virtual_time,
)
from hedge.v1 import hedge_pb2 as pb
from research.links import configure_hedge
from tests.configs import config_of

TRACE = Trace((True, True, False, True, True, True, False), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0))
HERE = Profile("here", slm_s=0.02, llm_s=0.04, llm_position_s=0.001)
# A block of one draft: any draft ends it.
SINGLE = configure_hedge("balanced", threshold=0.0, max_in_flight=1)
WHOLE = configure_hedge("balanced", threshold=1.0, max_in_flight=1)


def counted(counts: Counts) -> tuple[int, int, int, int]:
    return counts.tokens, counts.passes, counts.steps, counts.positions


def test_a_round_brings_what_was_kept_and_the_llms_own_token() -> None:
    """1 and a bonus for 2; 3 is rejected; 4 and a bonus for 5; 6 and a bonus for 7. A bonus is sent
    on, and not judged again: every pass is over two positions.
    """
    assert counted(replay_traces([TRACE], SINGLE, HERE, 0.0)) == (7, 4, 4, 8)


def test_a_block_that_nothing_ends_is_the_rest_of_the_answer() -> None:
    """1 to 7 are drafted, and 3 is rejected; 4 to 7, and 7 is rejected. After the last draft no
    bonus would be of use.
    """
    counts = replay_traces([TRACE], WHOLE, HERE, 0.0)
    assert counted(counts)[:3] == (7, 2, 11)


def test_time_passes_in_steps_passes_and_on_the_way_alone() -> None:
    """Waiting for every verdict, an answer takes the sum of all three."""
    for round_trip in (0.0, 0.1):
        counts = replay_traces([TRACE], SINGLE, HERE, round_trip)
        passes = counts.passes * HERE.llm_s + counts.positions * HERE.llm_position_s
        assert counts.seconds == pytest.approx(
            counts.steps * HERE.slm_s + passes + counts.passes * round_trip
        )
        assert counts.streamed_s == pytest.approx(7 * 0.041 + round_trip)


def test_on_a_slow_link_running_ahead_is_faster_and_costs_steps() -> None:
    sure = Trace((True,) * 60, (6.0,) * 60)
    waits = replay_traces([sure], configure_hedge("speed", 0.1, max_in_flight=1), HERE, 0.2)
    ahead = replay_traces([sure], configure_hedge("speed", 0.1), HERE, 0.2)
    assert ahead.seconds < 0.6 * waits.seconds
    assert (ahead.tokens, waits.tokens) == (60, 60)
    # Nothing is rejected: an answer of SLM steps alone, and the way of its last message.
    assert ahead.seconds == pytest.approx(60 * HERE.slm_s + 0.2 + HERE.llm_s, rel=0.1)


def test_what_is_preferred_is_what_is_saved() -> None:
    mixed = [Trace((*[True] * 9, False) * 6, (*[3.0] * 8, 0.4, 0.2) * 6)] * 4
    found = [replay_traces(mixed, configure_hedge(prefer), HERE, 0.05) for prefer in PREFERENCES]
    seconds = [counts.seconds for counts in found]
    passes = [counts.passes for counts in found]
    assert max(seconds[:2]) < seconds[2]
    assert passes == sorted(passes, reverse=True)
    assert found[2].steps < found[0].steps


def test_a_pass_takes_what_has_come_in_order_and_has_an_end() -> None:
    """600, 500 and 100 positions come at once: 1,024 go into a pass."""
    cloud = Cloud(HERE)

    async def main() -> list[tuple[float, float]]:
        return await asyncio.gather(*(cloud.compute(positions) for positions in (600, 500, 100)))

    first = 0.04 + 0.6
    second = 0.04 + 0.6
    found = run_on_virtual_time(main())
    assert found == [
        pytest.approx(pair) for pair in ((0.0, first), (first, second), (first, second))
    ]
    assert cloud.positions == 1200


def test_a_verdict_comes_when_its_way_and_its_pass_are_over_and_says_how_long_that_was() -> None:
    """Behind a pass of 100 positions, and a prompt of 10."""
    lm = TraceModel(make_rows(TRACE))

    async def main() -> tuple[float, pb.Verdict | None]:
        cloud = Cloud(HERE)
        link = VirtualLink(lm, cloud, 0.1, prompt=10)
        loop = asyncio.get_running_loop()
        other = asyncio.create_task(cloud.compute(100))
        config = config_of(temperature=0.0, verification="coupled", exact=True)
        request = build_opening(lm, config, pb.AUDIT_NONE, 1)
        request.verification = pb.VERIFICATION_COUPLED
        request.prompt_ids.append(3)
        request.id_codecs[:] = [FIXED]
        stream = await link.open(request)
        await stream.send(pb.Draft())
        assert not stream.arrived()
        verdict = await stream.receive()
        now = loop.time()
        await stream.send(pb.Draft(ids=b"\x09"))
        with pytest.raises(BadInput, match="id 9"):
            await stream.receive()
        await other
        return now, verdict

    now, verdict = run_on_virtual_time(main())
    # 50 ms there; the others' pass ends at 140, the prompt's 50 later, its own 41 after that; 50
    # back.
    assert now == pytest.approx(0.140 + 0.050 + 0.041 + 0.050)
    assert verdict is not None
    assert (verdict.timings.queue_us, verdict.timings.forward_us) == (0, 41_000)


def test_what_was_learned_is_carried() -> None:
    """Drafts that always stay: from answer to answer blocks grow."""
    sure = [Trace((True,) * 40, (0.5,) * 40)] * 5
    config = replace(configure_hedge("balanced", 0.4, max_in_flight=1))
    assert (
        replay_traces(sure, config, HERE, 0.0).passes
        < replay_traces(sure, config, HERE, 0.0, carried=False).passes
    )
