"""When hedge is faster than the stream: the closed form is what a device that overlaps nothing
does.
"""

import asyncio
from dataclasses import replace

import pytest

from hedge.common.loading import load
from hedge.common.model import BUNDLED, LanguageModel
from hedge.common.sampling import Warp
from hedge.edge_client.config import SamplingParams
from hedge.evaluation.bench_rows import break_even_line
from hedge.evaluation.break_even import CLOSE, TOKENS, PairSample, no_overlap, sample_pair
from hedge.evaluation.local import LocalLink
from hedge.evaluation.profile import Profile
from hedge.evaluation.replay import Trace
from research.links import configure_hedge

MIXED = [Trace((*[True] * 5, False) * 8, (*[4.0] * 5, 0.1) * 8)] * 3
HERE = Profile("here", slm_s=0.005, llm_s=0.04, llm_position_s=0.001)
# Blocks of a fixed length, each verdict waited for: steps and passes are the same on every link.
WAITING = configure_hedge("balanced", threshold=0.3, max_in_flight=1)


def test_the_closed_form_is_what_happens_where_nothing_overlaps() -> None:
    sample = PairSample(MIXED, HERE)
    passes, steps, positions = sample.over(0.1, WAITING).per_token()
    assert sample.over(0.3, WAITING).per_token() == (passes, steps, positions)
    verify = HERE.llm_s + HERE.llm_position_s * positions / passes
    expected = no_overlap(steps, passes, HERE.slm_s, HERE.llm_s + HERE.llm_position_s, verify)
    assert 0.02 < expected < 0.5
    # The stream too pays the way to the first token, once an answer.
    answers = len(MIXED)
    tokens = sum(len(trace.accepted) for trace in MIXED)
    exact = expected * passes / (passes - answers / tokens)
    assert sample.break_even(WAITING) == pytest.approx(exact, abs=2 * CLOSE)


def test_drafting_on_moves_it_outwards() -> None:
    often = [Trace((*[True] * 30, False) * 3, (*[3.0] * 30, 0.1) * 3)] * 3
    sample = PairSample(often, replace(HERE, slm_s=0.02))
    ahead = sample.break_even(configure_hedge("speed"))
    waiting = sample.break_even(WAITING)
    assert ahead is not None
    assert waiting is not None
    assert ahead > 1.1 * waiting


def test_a_slow_device_is_never_ahead_and_a_perfect_one_always() -> None:
    assert PairSample(MIXED, replace(HERE, slm_s=0.2)).break_even() is None
    endless = PairSample([Trace((True,) * 400, (20.0,) * 400)], replace(HERE, slm_s=0.001))
    assert endless.break_even() == float("inf")
    assert no_overlap(1.2, 0.4, 0.1, 0.05, 0.06) < 0


def test_a_sample_knows_what_the_slm_would_draft() -> None:
    slm = load(BUNDLED, "slm")
    llm = load(BUNDLED, "llm")
    prompt = llm.encode_chat([{"role": "user", "content": "What is 47 + 38?"}])

    def asked(own: LanguageModel, temperature: float) -> PairSample:
        sampling = SamplingParams(Warp(temperature), seed=2)
        return asyncio.run(sample_pair(own, LocalLink(llm), [prompt], sampling, 0.003, 0.001))

    for temperature in (0.0, 0.7):
        (trace,) = asked(llm, temperature).traces
        assert all(trace.accepted)
        assert 5 < len(trace.accepted) <= TOKENS
        found = asked(slm, temperature)
        assert len(found.traces[0].accepted) == len(trace.accepted)
        assert found.profile.slm_s >= 0.003
        assert found.profile.llm_s + found.profile.llm_position_s > 0


def test_a_bench_says_where_hedge_begins_to_lose() -> None:
    llm = {"cloud_s": 0.05}
    hedge = {"rounds": 0.25, "steps": 1.0, "slm_s": 0.01, "cloud_s": 0.015}
    assert "below 100 ms" in str(break_even_line({"hedge": hedge, "llm": llm}))
    assert "at no round trip" in str(
        break_even_line({"hedge": hedge | {"slm_s": 0.05}, "llm": llm})
    )
    assert break_even_line({"hedge": hedge}) is None
    assert break_even_line({"hedge": hedge | {"rounds": 0.0}, "llm": llm}) is None
