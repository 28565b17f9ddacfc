"""Rows of a llama.cpp pass over many sessions are what each would be alone: across chunks,
rollbacks and evictions.
"""

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest

from hedge.cloud_server.engines.base import Engine
from hedge.cloud_server.engines.batcher import Batcher, Pass
from hedge.cloud_server.engines.block_manager import BLOCK_SIZE
from hedge.cloud_server.engines.llama_engine import LlamaEngine
from hedge.cloud_server.engines.loading import build_engine
from hedge.cloud_server.engines.scheduler import BlockTable, ScheduledChunk, Scheduler, Work
from hedge.cloud_server.engines.self_check import run_self_check
from hedge.common.errors import BadInput
from hedge.common.llama_decoder import llama_cpp
from hedge.common.loading import load
from hedge.common.model import LanguageModel
from hedge.common.model_options import ModelOptions
from hedge.v1 import hedge_pb2 as pb
from tests.cloud_server.test_batcher import answered, ragged
from tests.cloud_server.test_reproducible import same_bits
from tests.cloud_server.test_session import drafting, opening

# Keys and values are float16 in llama.cpp; logits here are of order 20.
TOLERANCE = 0.05


@pytest.mark.parametrize("most", [None, 3])
def test_ragged_rows_equal_unbatched_ones(slm: LanguageModel, most: int | None) -> None:
    """For lack of blocks, or of sequences."""
    engine = build_engine(slm, (16 if most is None else 64) * BLOCK_SIZE * slm.token_bytes, 64)  # type: ignore[attr-defined]
    assert isinstance(engine, LlamaEngine)
    scheduler = Scheduler(engine.block_manager, 64, most or engine.most_sessions)
    worst, compared = ragged(slm, engine, scheduler, range(5, 4096))
    assert worst < TOLERANCE
    assert compared > 200
    assert scheduler.evicted > 5


def test_many_sessions_share_passes_and_get_their_own_verdicts(llm: LanguageModel) -> None:
    """Each is asked about what the model would say greedily, the first bonus left out, so every
    verdict is known.
    """
    seen: list[Pass] = []
    batcher = Batcher(build_engine(llm, 14 * BLOCK_SIZE * llm.token_bytes), watch=seen.append)  # type: ignore[attr-defined]
    rng = np.random.default_rng(2)
    prompts = []
    drafts = []
    while len(prompts) < 12:
        prompt = [int(token) for token in rng.integers(5, 4096, rng.integers(2, 40))]
        cache = llm.kv_cache()
        said = []
        while len(said) < 6:
            said.append(int(cache.forward([*prompt, *said][cache.length :], 1)[0].argmax()))
        # An end in the middle would end its block.
        if not set(said) & set(llm.end_ids):
            prompts.append(prompt)
            drafts.append(said)

    async def everybody() -> list[list[pb.Verdict]]:
        requests = [
            opening(llm, prompt_ids=prompt, warp=pb.Warp(temperature=0, top_p=1))
            for prompt in prompts
        ]
        scripts = [
            [drafting(said[:3], vocab=4096), drafting(said[4:], vocab=4096)] for said in drafts
        ]
        return await asyncio.gather(
            *(answered(batcher, llm, r, s) for r, s in zip(requests, scripts, strict=True))
        )

    found = asyncio.run(everybody())
    batcher.close()
    assert max(one.sessions for one in seen) > 4
    assert batcher.scheduler.evicted
    for verdicts in found:
        assert [verdict.accepted for verdict in verdicts] == [3, 2]


def test_a_budget_that_holds_nothing_is_refused(slm: LanguageModel) -> None:
    with pytest.raises(BadInput, match="kv-bytes 10 is less than"):
        build_engine(slm, 10)


def test_the_self_check_measures_its_rounding(slm: LanguageModel) -> None:
    engine = build_engine(slm, 64 * BLOCK_SIZE * slm.token_bytes)  # type: ignore[attr-defined]
    found = run_self_check(engine, slm)
    assert found.difference < TOLERANCE
    assert found.rows > 20
    small = build_engine(slm, 6 * BLOCK_SIZE * slm.token_bytes, 8)  # type: ignore[attr-defined]
    assert run_self_check(small, slm, 8).rows > 20
    assert engine.block_manager.used == 0
    # What the check fed is forgotten: the next session's rows are its own.
    scheduler = Scheduler(engine.block_manager, 64, engine.most_sessions)
    worst, _ = ragged(slm, engine, scheduler, range(5, 4096))
    assert worst < TOLERANCE


@pytest.fixture(scope="session")
def quantised(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llm.gguf in Q4_0."""
    llama = llama_cpp()
    path = tmp_path_factory.mktemp("quantised") / "llm.gguf"
    wanted = llama.llama_model_quantize_default_params()
    wanted.ftype = llama.LLAMA_FTYPE_MOSTLY_Q4_0
    assert llama.llama_model_quantize(os.fsencode(files["llm"]), os.fsencode(path), wanted) == 0
    return path


def reproducible(
    path: Path, context: int, sessions: int, threads: int = 1
) -> tuple[LanguageModel, Engine]:
    lm = load(str(path), "llm", ModelOptions(threads=threads, context=context))
    engine = build_engine(
        lm, (sessions * context + BLOCK_SIZE) * lm.token_bytes, 64, reproducible=True
    )  # type: ignore[attr-defined]
    assert engine.most_sessions == sessions
    return lm, engine


@pytest.mark.parametrize(("sessions", "precision"), [(1, "float32"), (4, "float32"), (4, "Q4_0")])
def test_reproducible_rows_are_the_same_bits_in_any_company(
    sessions: int, precision: str, files: dict[str, Path], quantised: Path
) -> None:
    """Across chunks, rollbacks and evictions, as one by one."""
    lm, engine = reproducible(quantised if precision == "Q4_0" else files["llm"], 256, sessions)
    texts = [
        np.random.default_rng(length).integers(0, lm.vocab_size, length).tolist()
        for length in (10, 20, 25, 30, 35)
    ]
    assert same_bits(engine, texts, 50) > 100
    found = run_self_check(engine, lm)
    assert found.bitwise
    assert found.rows > 20


@pytest.mark.parametrize("threads", [1, 2])
def test_reproducible_rows_behind_a_long_text(quantised: Path, threads: int) -> None:
    """Several threads share the keys of a lone row out, from 512 cells on, which come in 256s;
    those of several rows never.
    """
    lm, engine = reproducible(quantised, 512, 1, threads)
    text = np.random.default_rng(3).integers(0, lm.vocab_size, 276).tolist()
    table = BlockTable(
        blocks=engine.block_manager.allocate(engine.block_manager.needed(len(text))) or []
    )
    engine.forward([ScheduledChunk(Work(table, text[:264], 0), 0, 264)])
    found = []
    for pieces in ([1] * 12, [2] * 6, [3] * 4, [12], [1, 5, 2, 4]):
        end = 264
        rows = []
        for size in pieces:
            table.length = end
            rows += engine.forward(
                [ScheduledChunk(Work(table, text[: end + size], size), end, end + size)]
            )
            end += size
        found.append(np.concatenate(rows))
    assert all(np.array_equal(rows, found[0]) for rows in found)
