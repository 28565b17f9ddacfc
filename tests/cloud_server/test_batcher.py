"""Rows of a batch are what each would be alone: across ragged lengths, chunks, rollbacks and
evictions.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from hedge.cloud_server.engines.base import Engine
from hedge.cloud_server.engines.batcher import Batcher, Pass, PooledCache
from hedge.cloud_server.engines.block_manager import BLOCK_SIZE
from hedge.cloud_server.engines.scheduler import BlockTable, ScheduledChunk, Scheduler, Work
from hedge.cloud_server.engines.torch_engine import TorchEngine
from hedge.cloud_server.serving.limits import Limits
from hedge.cloud_server.serving.servicer import Servicer, split_forward_time
from hedge.cloud_server.sessions.session import VerifierSession
from hedge.cloud_server.sessions.steps import Feed, Steps
from hedge.common.errors import BadInput, Unreachable
from hedge.common.model import LanguageModel
from hedge.common.torch_model import TorchModel
from hedge.v1 import hedge_pb2 as pb
from tests.cloud_server.test_session import PROMPT, Alone, drafting, greedy, opening

KINDS = ("llama", "qwen2", "gpt2", "gpt_neox")
# float32 sums in another order; logits here are of order 1.
TOLERANCE = 2e-5


def ragged(
    lm: LanguageModel, engine: Engine, scheduler: Scheduler, ids: range
) -> tuple[float, int]:
    """Six sessions grow, roll back and are evicted at random; how far a row is from a fresh
    forward's, and of how many.
    """
    rng = np.random.default_rng(1)
    texts = [[int(token) for token in rng.integers(ids.start, ids.stop, 60)] for _ in range(6)]
    for text in texts[1::2]:
        text[:40] = texts[1][:40]
    tables = [BlockTable() for _ in texts]
    worst = 0.0
    compared = 0
    for _ in range(60):
        for one, text in zip(tables, texts, strict=True):
            if one.length and rng.random() < 0.3:
                scheduler.rollback(one, int(rng.integers(0, one.length)))
            end = int(rng.integers(one.length + 1, len(text) + 1)) if one.length < len(text) else 0
            if end and rng.random() < 0.7:
                scheduler.add(Work(one, text[:end], min(3, end - one.length)))
        while batch := scheduler.batch():
            for chunk, rows in zip(batch, engine.forward(batch), strict=True):
                alone = lm.kv_cache().forward(chunk.work.ids[: chunk.end], chunk.rows)
                assert rows.shape == alone.shape
                worst = max(worst, float(np.abs(rows - alone).max(initial=0)))
                compared += len(rows)
                scheduler.done(chunk)
    return worst, compared


@pytest.mark.parametrize("sharing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_ragged_rows_equal_unbatched_ones(
    kind: str, sharing: bool, make_lm: Callable[..., TorchModel]
) -> None:
    lm = make_lm(kind=kind, seed=3, padding=4 if kind == "qwen2" else 0)
    engine = TorchEngine(lm, 12 * BLOCK_SIZE * lm.token_bytes)
    scheduler = Scheduler(engine.block_manager, 64, sharing=sharing)
    worst, compared = ragged(lm, engine, scheduler, range(12))
    assert worst < TOLERANCE
    assert compared > 200
    assert scheduler.evicted > 5


@pytest.fixture(scope="module")
def lm(make_lm: Callable[..., LanguageModel]) -> LanguageModel:
    return make_lm(seed=3)


@pytest.fixture
def batcher(lm: LanguageModel) -> Iterator[Batcher]:
    made = Batcher(TorchEngine(lm, 1 << 20))
    yield made
    made.close()


async def answered(
    batcher: Batcher, lm: LanguageModel, request: pb.Open, drafts: Sequence[pb.Draft]
) -> list[pb.Verdict]:
    prefix = batcher.prefix()
    session = VerifierSession(lm, request, prefix)
    await batcher.run(prefix, session.prefill())
    found = [(await batcher.run(prefix, session.verify(draft)))[0] for draft in drafts]
    batcher.leave(prefix)
    return [verdict for verdict in found if verdict is not None]


def test_many_sessions_at_once_get_the_verdicts_they_would_get_alone(lm: LanguageModel) -> None:
    rng = np.random.default_rng(2)
    seen: list[Pass] = []
    batcher = Batcher(TorchEngine(lm, 40 * BLOCK_SIZE * lm.token_bytes), watch=seen.append)
    requests = []
    scripts = []
    for seed in range(40):
        prompt = [int(token) for token in rng.integers(0, 11, rng.integers(1, 30))]
        requests.append(opening(lm, seed=seed, prompt_ids=prompt))
        scripts.append(
            [
                drafting(
                    [int(t) for t in rng.integers(0, 11, 2)],
                    [int(t) for t in rng.integers(0, 11, 2)],
                )
                for _ in range(5)
            ]
        )

    async def everybody() -> list[list[pb.Verdict]]:
        return await asyncio.gather(
            *(answered(batcher, lm, r, s) for r, s in zip(requests, scripts, strict=True))
        )

    together = asyncio.run(everybody())
    batcher.close()
    assert max(one.sessions for one in seen) > 4
    assert batcher.scheduler.evicted
    for request, script, found in zip(requests, scripts, together, strict=True):
        session = Alone(lm, request)
        session.opened()
        for draft, verdict in zip(script, found, strict=True):
            expected = session.judge(draft)
            assert expected is not None
            assert (verdict.accepted, verdict.correction, verdict.bonus) == (
                expected.accepted,
                expected.correction,
                expected.bonus,
            )
            assert np.allclose(
                np.frombuffer(verdict.audit, "<f4"), np.frombuffer(expected.audit, "<f4"), rtol=1e-3
            )


@pytest.mark.parametrize("sharing", [True, False])
def test_sessions_that_share_a_prompt_get_the_verdicts_they_would_get_alone(
    lm: TorchModel, sharing: bool
) -> None:
    seen: list[Pass] = []
    batcher = Batcher(TorchEngine(lm, 1 << 20, prefix_sharing=sharing), watch=seen.append)
    request = opening(lm, prompt_ids=[1, 2, 3, 4] * 10)
    drafts = [drafting([5], [4, 7]), drafting([6])]
    session = Alone(lm, request)
    session.opened()
    expected = [verdict for draft in drafts if (verdict := session.judge(draft)) is not None]

    async def in_turn() -> int:
        for _ in range(3):
            for verdict, other in zip(
                await answered(batcher, lm, request, drafts), expected, strict=True
            ):
                assert (verdict.accepted, verdict.correction) == (other.accepted, other.correction)
        return await used(batcher)

    assert asyncio.run(in_turn()) == 0
    batcher.close()
    # The first one left two full blocks that the others need no row of.
    assert sum(one.found for one in seen) == (64 if sharing else 0)


def test_what_a_session_refuses_is_its_own_affair(lm: LanguageModel, batcher: Batcher) -> None:
    async def both() -> list[list[pb.Verdict] | BaseException]:
        good = answered(batcher, lm, opening(lm), [drafting([1])])
        bad = answered(batcher, lm, opening(lm), [drafting(position=7)])
        return await asyncio.gather(bad, good, return_exceptions=True)

    bad, good = asyncio.run(both())
    assert isinstance(bad, BadInput)
    assert isinstance(good, list)
    assert len(good) == 1


def test_a_failing_pass_fails_its_sessions_and_the_thread_lives_on(
    lm: LanguageModel, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = TorchEngine.forward

    def broken(*_: object) -> list[np.ndarray]:
        monkeypatch.setattr(TorchEngine, "forward", plain)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(TorchEngine, "forward", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        asyncio.run(answered(batcher, lm, opening(lm), [drafting([1])]))
    assert len(asyncio.run(answered(batcher, lm, opening(lm), [drafting([1])]))) == 1


def test_a_failing_pass_takes_no_block_from_those_who_share_it(
    lm: LanguageModel, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = opening(lm, prompt_ids=[1, 2, 3, 4] * 10)
    draft = drafting([5])
    plain = TorchEngine.forward

    def broken(*_: object) -> list[np.ndarray]:
        monkeypatch.setattr(TorchEngine, "forward", plain)
        raise RuntimeError("out of memory")

    async def both() -> tuple[pb.Verdict | None, int]:
        prefix = batcher.prefix()
        session = VerifierSession(lm, request, prefix)
        await batcher.run(prefix, session.prefill())
        before = await used(batcher)
        monkeypatch.setattr(TorchEngine, "forward", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            await answered(batcher, lm, request, [draft])
        assert await used(batcher) == before
        return (await batcher.run(prefix, session.verify(draft)))[0], before

    verdict, before = asyncio.run(both())
    session = Alone(lm, request)
    session.opened()
    expected = session.judge(draft)
    assert before == 3
    assert verdict is not None
    assert expected is not None
    assert (verdict.accepted, verdict.correction) == (expected.accepted, expected.correction)


def test_cancelled_work_leaves_the_queue_and_the_memory(
    lm: LanguageModel, batcher: Batcher
) -> None:
    async def cancelled() -> None:
        prefix = batcher.prefix()
        session = VerifierSession(lm, opening(lm, prompt_ids=[1] * 50), prefix)
        running = asyncio.create_task(batcher.run(prefix, session.prefill()))
        await asyncio.sleep(0)
        running.cancel()
        batcher.leave(prefix)
        # Served after it: what was left is gone by then.
        await answered(batcher, lm, opening(lm), [drafting([1])])
        assert await used(batcher) == 0

    asyncio.run(cancelled())


def test_waiting_is_told_from_computing(
    lm: LanguageModel, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass takes 1 on a clock of its own. Who comes while one runs waits for it, and is then
    computed.
    """
    clock = SimpleNamespace(now=0.0)
    busy = threading.Event()
    waiting = threading.Event()
    monkeypatch.setattr(
        "hedge.cloud_server.engines.batcher.time", SimpleNamespace(perf_counter=lambda: clock.now)
    )
    plain = TorchEngine.forward

    def forward(engine: TorchEngine, batch: Sequence[ScheduledChunk]) -> list[np.ndarray]:
        busy.set()
        assert waiting.wait(60)
        clock.now += 1.0
        return plain(engine, batch)

    monkeypatch.setattr(TorchEngine, "forward", forward)

    def fed() -> Steps[int]:
        return len((yield Feed([1, 2, 3], 1)))

    async def both() -> list[tuple[int, float, float]]:
        first = asyncio.create_task(batcher.run(batcher.prefix(), fed()))
        await asyncio.to_thread(busy.wait, 60)
        second = asyncio.create_task(batcher.run(batcher.prefix(), fed()))
        await asyncio.sleep(0)
        waiting.set()
        return [await first, await second]

    assert asyncio.run(both()) == [(1, 0.0, 1.0), (1, 1.0, 1.0)]


def test_work_that_is_evicted_halfway_gets_every_row_once(
    make_lm: Callable[..., TorchModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both come while a pass runs. The second makes the first lose its memory, which then finds a
    block of it again.
    """
    lm = make_lm(seed=3, context=128)
    seen = list[Pass]()
    batcher = Batcher(TorchEngine(lm, 8 * BLOCK_SIZE * lm.token_bytes), 64, seen.append)
    ids = [1, 2, 3, 4, 5] * 20
    busy = threading.Event()
    arrived = threading.Event()
    plain = TorchEngine.forward

    def forward(engine: TorchEngine, batch: Sequence[ScheduledChunk]) -> list[np.ndarray]:
        busy.set()
        assert arrived.wait(60)
        return plain(engine, batch)

    monkeypatch.setattr(TorchEngine, "forward", forward)

    def fed(ids: list[int], rows: int) -> Steps[np.ndarray]:
        return (yield Feed(ids, rows))

    async def rows() -> np.ndarray:
        before = asyncio.create_task(batcher.run(batcher.prefix(), fed([1], 1)))
        await asyncio.to_thread(busy.wait, 60)
        works = (ids, 80), ([7] * 64, 1)
        tasks = [asyncio.create_task(batcher.run(batcher.prefix(), fed(*work))) for work in works]
        await asyncio.sleep(0)
        arrived.set()
        await before
        return (await asyncio.gather(*tasks))[0][0]

    found = asyncio.run(rows())
    batcher.close()
    assert [(one.positions, one.found) for one in seen] == [
        (1, 0),
        (64, 0),
        (64, 0),
        (64, BLOCK_SIZE),
        (20, 0),
    ]
    assert found.shape == (80, lm.vocab_size)
    assert np.abs(found - lm.kv_cache().forward(ids, 80)).max() < TOLERANCE


def test_the_times_of_a_verdict_add_up_to_what_it_took() -> None:
    """1 s before it began, 3 s until it had its logits, 2 of them in passes; and a clock that is
    read a little apart.
    """
    for since_asked, queue, forward in (
        (3_000_000, 2_000_000, 2_000_000),
        (1_999_990, 1_000_000, 1_999_990),
    ):
        timings = pb.Timings(forward_us=since_asked)
        split_forward_time(timings, 1.0, 2.0)
        assert (timings.queue_us, timings.forward_us) == (queue, forward)
        assert timings.queue_us + timings.forward_us == since_asked + 1_000_000


async def used(batcher: Batcher) -> int:
    """Blocks in use, seen from the model's thread after all that was asked before."""

    def look() -> Steps[int]:
        return batcher.scheduler._block_manager.used
        yield

    return (await batcher.run(PooledCache(batcher.scheduler), look()))[0]


def test_a_client_above_its_rate_gets_its_verdict_later(
    lm: LanguageModel, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pauses are those of its bucket: 1 position/s, 1 saved up, two of the prompt and one of
    the draft spent.
    """
    pauses: list[float] = []

    async def slept(seconds: float) -> None:
        pauses.append(seconds)

    async def requests() -> AsyncIterator[pb.ClientMessage]:
        yield pb.ClientMessage(open=opening(lm, bonus=False))
        yield pb.ClientMessage(draft=drafting([1]))

    monkeypatch.setattr("hedge.cloud_server.serving.servicer.asyncio.sleep", slept)
    monkeypatch.setattr("hedge.cloud_server.serving.servicer.time.monotonic", lambda: 0.0)
    context = SimpleNamespace(invocation_metadata=tuple)

    async def served() -> list[str | None]:
        servicer = Servicer(lm, batcher, Limits(tokens_per_s=1.0))
        return [
            message.WhichOneof("kind") async for message in servicer.Generate(requests(), context)
        ]

    assert asyncio.run(served()) == ["opened", "verdict"]
    assert pauses == [1.0, 2.0]


def test_a_session_of_void_drafts_ends_in_time_too(
    lm: LanguageModel, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft whose client never hears of a correction gets no verdict."""
    now = 0.0
    wrong = (greedy(lm, PROMPT) + 1) % lm.vocab_size

    async def requests() -> AsyncIterator[pb.ClientMessage]:
        nonlocal now
        yield pb.ClientMessage(open=opening(lm, warp=pb.Warp(temperature=0, top_p=1)))
        for step in range(9):
            yield pb.ClientMessage(draft=drafting([wrong], step_id=step, verdicts_seen=0))
            now += 2.0

    monkeypatch.setattr("hedge.cloud_server.serving.servicer.time.monotonic", lambda: now)
    context = SimpleNamespace(invocation_metadata=tuple)
    heard = list[str | None]()

    async def served() -> None:
        servicer = Servicer(lm, batcher, Limits(session_s=5.0))
        async for message in servicer.Generate(requests(), context):
            heard.append(message.WhichOneof("kind"))

    with pytest.raises(Unreachable, match="the session took longer than 5 s"):
        asyncio.run(served())
    assert heard == ["opened", "verdict"]


def test_a_grammar_whose_client_has_left_still_counts(
    lm: LanguageModel, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()
    goes_on = threading.Event()

    def slowly(*made: object) -> VerifierSession:
        begun.set()
        goes_on.wait(30)
        raise BadInput("no grammar")

    async def requests(grammar: str) -> AsyncIterator[pb.ClientMessage]:
        yield pb.ClientMessage(
            open=opening(lm, processors=pb.LogitsProcessors(repetition_penalty=1, grammar=grammar))
        )

    async def served() -> None:
        servicer = Servicer(lm, batcher, Limits(streams=1))
        context = SimpleNamespace(invocation_metadata=tuple)

        async def kind(grammar: str) -> str | None:
            return (await anext(servicer.Generate(requests(grammar), context))).WhichOneof("kind")

        with monkeypatch.context() as patched:
            patched.setattr("hedge.cloud_server.serving.servicer.VerifierSession", slowly)
            first = asyncio.create_task(kind("slow"))
            await asyncio.to_thread(begun.wait, 30)
            first.cancel()
            await asyncio.wait([first])
        assert await kind("") == "throttle"
        goes_on.set()
        while await kind("") != "opened":
            await asyncio.to_thread(goes_on.wait)

    asyncio.run(served())


def test_a_budget_that_holds_nothing_is_refused(lm: LanguageModel) -> None:
    with pytest.raises(BadInput, match="kv-bytes 10 is less than"):
        TorchEngine(lm, 10)
