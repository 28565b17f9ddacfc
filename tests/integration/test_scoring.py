"""Sessions on an engine that scores prompts and has a prefix cache of its own: a real model, real
gRPC, the same answers.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from hedge.cloud_server.engines.scoring import Scored, ScoringCounts, ScoringRunner
from hedge.cloud_server.engines.scoring_check import check_scorer
from hedge.cloud_server.engines.self_check import Exactness
from hedge.cloud_server.serving.limits import Limits
from hedge.cloud_server.serving.servicer import Servicer
from hedge.cloud_server.sessions.steps import Draws
from hedge.cloud_server.verification.certificate import Top
from hedge.common.coupling import draw_coupled
from hedge.common.errors import HedgeError, Incompatible
from hedge.common.model import LanguageModel
from hedge.common.sampling import Warp
from hedge.edge_client.config import SamplingParams
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import SYSTEMS, GenerationConfig
from hedge.edge_client.transport.grpc_link import GrpcLink
from hedge.evaluation.local import LocalLink
from tests.integration.test_numbers import serving

VOCAB = 200
BLOCK = 4
PROMPT = [1, 2, 3, 4, 5, 6, 7]
WARPS = [Warp(0.0), Warp(0.7), Warp(1.0), Warp(1.0, 20), Warp(0.8, 0, 0.9)]


class TorchScorer:
    """A Scorer over a model in torch, whose prefix cache holds whole blocks of all that it has
    read, as vLLM's does.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self.cached: set[tuple[int, ...]] = set()
        self.garbage = self.streams = self.closed = self.asked = 0
        self.noise = 0.0
        self.held: list[AsyncGenerator[tuple[int, Top], None]] = []

    def _row(self, ids: Sequence[int], count: int | None) -> Top:
        logits = self.lm.kv_cache().forward(ids, 1)[0].astype(np.float64)
        row = (logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())).astype(
            np.float32
        )
        row += np.float32(self.noise) * np.random.default_rng(self.asked).normal(
            size=len(row)
        ).astype(np.float32)
        kept = np.sort(np.argsort(-row)[:count])
        return Top(kept, row[kept], -np.inf if len(kept) == len(row) else float(row[kept].min()))

    async def score(self, ids: Sequence[int], rows: int, count: int | None) -> Scored:
        self.asked += 1
        await asyncio.sleep(0)
        # The last token is always read.
        whole = range(BLOCK, len(ids), BLOCK)
        found = max((end for end in whole if tuple(ids[:end]) in self.cached), default=0)
        self.cached |= {tuple(ids[:end]) for end in range(BLOCK, len(ids) + 1, BLOCK)}
        ends = range(len(ids) - rows + 1, len(ids) + 1)
        self.garbage += sum(end <= found for end in ends)
        return Scored([None if end <= found else self._row(ids[:end], count) for end in ends])

    def stream(
        self, ids: Sequence[int], draws: Draws, limit: int, count: int
    ) -> AsyncGenerator[tuple[int, Top], None]:
        # Held here, so that only its runner can close it.
        self.held.append(self._stream(ids, draws, limit, count))
        return self.held[-1]

    async def _stream(
        self, ids: Sequence[int], draws: Draws, limit: int, count: int
    ) -> AsyncGenerator[tuple[int, Top], None]:
        self.streams += 1
        try:
            read = list(ids)
            for number in range(limit):
                whole = self._row(read, None)
                finite = np.isfinite(whole.logprobs).all()
                token = (
                    draw_coupled(draws.noise, draws.position + number, draws.warp(whole.logprobs))
                    if finite
                    else 0
                )
                yield token, self._row(read, count)
                read.append(token)
        finally:
            self.closed += 1


@pytest.fixture(scope="module")
def pair(make_lm: Callable[..., LanguageModel]) -> tuple[LanguageModel, LanguageModel]:
    return make_lm(seed=1, vocab=VOCAB), make_lm(seed=2, vocab=VOCAB)


def config_of(system: str, warp: Warp, seed: int) -> GenerationConfig:
    sampling = SamplingParams(warp, seed, 24)
    return replace(SYSTEMS[system], sampling=sampling)


async def answer(address: str, slm: LanguageModel, config: GenerationConfig) -> Session:
    async with GrpcLink(address) as link:
        session = Session(slm, PROMPT, config, link)
        await session.run()
    return session


async def plain(slm: LanguageModel, llm: LanguageModel, config: GenerationConfig) -> list[int]:
    """By the LLM in torch."""
    session = Session(slm, PROMPT, config, LocalLink(llm))
    return [emitted.token async for emitted in session.tokens()]


def runner_of(scorer: TorchScorer) -> ScoringRunner:
    return ScoringRunner(scorer, VOCAB, scorer.lm.context - 1, 64)


@pytest.mark.parametrize("warp", WARPS, ids=str)
def test_hedge_and_llm_answer_as_on_the_own_engine(
    pair: tuple[LanguageModel, LanguageModel], warp: Warp
) -> None:
    """Each question twice, so that the second time drafts are found in the cache, whose rows are
    never looked at.
    """
    slm, llm = pair
    scorer = TorchScorer(llm)
    runner = runner_of(scorer)

    async def run() -> None:
        async with serving(Servicer(llm, runner, Limits())) as address:
            for seed in range(4):
                expected = await plain(slm, llm, config_of("llm", warp, seed))
                for system in ("hedge", "hedge", "llm"):
                    found = await answer(address, slm, config_of(system, warp, seed))
                    assert found.token_ids == expected, (system, seed)

    asyncio.run(run())
    assert scorer.garbage > 0
    assert scorer.streams == scorer.closed == 4
    assert runner.counts.positions > 50


@pytest.mark.parametrize("system", ["hlm", "u-hlm"])
def test_rules_that_need_all_of_y_are_given_it(
    pair: tuple[LanguageModel, LanguageModel], system: str
) -> None:
    slm, llm = pair
    config = config_of(system, Warp(1.0), 3)
    config = replace(config, gate=replace(config.gate, policy="always"))
    scorer = TorchScorer(llm)

    async def run() -> Session:
        async with serving(Servicer(llm, runner_of(scorer), Limits())) as address:
            return await answer(address, slm, config)

    assert asyncio.run(run()).token_ids == asyncio.run(plain(slm, llm, config))


def test_a_long_prompt_is_not_handed_over_whole(
    pair: tuple[LanguageModel, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row is then the last one of a prompt of its own."""
    monkeypatch.setattr("hedge.cloud_server.engines.scoring._ENTRIES", 0)
    slm, llm = pair
    config = config_of("hedge", Warp(0.7), 5)

    class Narrow(TorchScorer):
        async def score(self, ids: Sequence[int], rows: int, count: int | None) -> Scored:
            assert rows < 2
            return await super().score(ids, rows, count)

    async def run() -> Session:
        async with serving(Servicer(llm, runner_of(Narrow(llm)), Limits())) as address:
            return await answer(address, slm, config)

    assert asyncio.run(run()).token_ids == asyncio.run(
        plain(slm, llm, config_of("llm", Warp(0.7), 5))
    )


def test_what_is_not_enough_is_asked_again(
    pair: tuple[LanguageModel, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedge.cloud_server.engines.scoring._WARM", 2)
    slm, llm = pair
    runner = runner_of(TorchScorer(llm))
    config = config_of("hedge", Warp(1.0), 5)

    async def run() -> Session:
        async with serving(Servicer(llm, runner, Limits())) as address:
            return await answer(address, slm, config)

    assert asyncio.run(run()).token_ids == asyncio.run(
        plain(slm, llm, config_of("llm", Warp(1.0), 5))
    )
    assert runner.counts.again > 0


def test_a_stream_that_is_left_ends_in_the_engine(
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    slm, llm = pair
    scorer = TorchScorer(llm)
    runner = runner_of(scorer)

    async def run() -> None:
        async with serving(Servicer(llm, runner, Limits())) as address, GrpcLink(address) as link:
            session = Session(slm, PROMPT, config_of("llm", Warp(1.0), 1), link)
            tokens = session.tokens()
            await anext(tokens)
            await tokens.aclose()
            while not scorer.closed:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert scorer.streams == 1


def test_the_engine_is_tried_before_it_serves(pair: tuple[LanguageModel, LanguageModel]) -> None:
    _, llm = pair
    scorer = TorchScorer(llm)
    assert asyncio.run(check_scorer(scorer, llm)).difference < 1e-4
    scorer.noise = 0.01
    assert 0.005 < asyncio.run(check_scorer(scorer, llm)).difference < 0.1
    scorer.noise = 10.0
    with pytest.raises(Incompatible, match="more than rounding"):
        asyncio.run(check_scorer(scorer, llm))


def test_near_ties_are_counted_and_numbers_that_are_none_end_the_answer(
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    slm, llm = pair
    scorer = TorchScorer(llm)
    runner = runner_of(scorer)
    runner.difference = 1e3

    async def run() -> Session:
        async with serving(
            Servicer(llm, runner, Limits(), exactness=Exactness(1e3, 10))
        ) as address:
            told = await answer(address, slm, config_of("hedge", Warp(0.7), 1))
            streamed = await answer(address, slm, config_of("llm", Warp(0.7), 1))
            assert streamed.statistics.near_ties >= 24
            scorer.noise = float("nan")
            with pytest.raises(HedgeError, match="finite"):
                await answer(address, slm, config_of("hedge", Warp(0.7), 1))
            with pytest.raises(HedgeError, match="finite"):
                await answer(address, slm, config_of("llm", Warp(0.7), 1))
            return told

    assert asyncio.run(run()).statistics.near_ties >= 24


def test_the_number_that_is_asked_for_follows_what_was_enough() -> None:
    counts = ScoringCounts(152_000)
    warp = Warp(1.0)
    first = counts.of(warp)
    for number in range(256):
        counts.learn(warp, enough=number % 20 > 0)
    # Not wider: it would take longer than to ask again.
    assert counts.of(warp) == first
    assert counts.of(Warp(0.7)) < first
    for number in range(256):
        counts.learn(Warp(0.7), enough=number % 20 > 0)
    assert counts.of(Warp(0.7)) == 2 * ScoringCounts(152_000).of(Warp(0.7)) == first
    for _ in range(256):
        counts.learn(warp, enough=True)
    assert counts.of(warp) == first // 2
    assert counts.of(Warp(1.0, 300)) == 301
    assert ScoringCounts(100).of(warp) == 100
