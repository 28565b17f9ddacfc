"""What runs the LLM of a server, by the command line: an engine in this process, or vLLM."""

import argparse
import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from hedge.cloud_server.engines.base import Engine
from hedge.cloud_server.engines.batcher import Batcher
from hedge.cloud_server.engines.block_manager import BLOCK_SIZE, DEFAULT_KV_BYTES
from hedge.cloud_server.engines.emulation import Emulated, parse_pace
from hedge.cloud_server.engines.loading import build_engine
from hedge.cloud_server.engines.runner import Runner
from hedge.cloud_server.engines.self_check import Exactness, run_self_check
from hedge.cloud_server.serving.metrics import CloudMetrics
from hedge.common.command import model_options, say
from hedge.common.loading import load
from hedge.common.model import LanguageModel, context_line


@dataclass(frozen=True, slots=True)
class Backend:
    """The LLM and what runs it. `failed` returns when the engine has died."""

    lm: LanguageModel
    runner: Runner[Any]
    exactness: Exactness
    failed: Callable[[], Awaitable[object]]


def open_backend(
    args: argparse.Namespace, metrics: CloudMetrics
) -> AbstractAsyncContextManager[Backend]:
    """What `--engine` asks for."""
    return (_open_vllm if args.engine == "vllm" else _open_own)(args, metrics)


@asynccontextmanager
async def _open_own(args: argparse.Namespace, metrics: CloudMetrics) -> AsyncGenerator[Backend]:
    """Torch or llama.cpp, in a thread of this process."""
    # The model's thread comes back to Python between any two products; it should not wait for the
    # event loop each time.
    sys.setswitchinterval(5e-4)
    options = model_options(args, args.llm)
    lm = load(args.llm, "llm", options)
    if line := context_line(lm, options):
        say(f"hedge-cloud: {line}")
    kv_bytes = DEFAULT_KV_BYTES if args.kv_bytes is None else args.kv_bytes
    engine = build_engine(
        lm, kv_bytes, args.batch_positions, args.reproducible, prefix_sharing=args.prefix_sharing
    )
    # It is the model's first pass, too, which is slower than all others.
    exactness = run_self_check(engine, lm, args.batch_positions, reproducible=args.reproducible)
    engine = _emulate(args, engine, lm)
    batcher = Batcher(engine, args.batch_positions, metrics.observe_pass)
    metrics.queue.set_function(lambda: len(batcher.scheduler))
    metrics.evictions.set_function(lambda: batcher.scheduler.evicted)
    metrics.kv_bytes.set_function(
        lambda: engine.block_manager.used * BLOCK_SIZE * engine.token_bytes
    )
    metrics.kv_budget.set(engine.block_manager.capacity * engine.token_bytes)
    try:
        yield Backend(lm, batcher, exactness, asyncio.Event().wait)
    finally:
        batcher.close()


@asynccontextmanager
async def _open_vllm(args: argparse.Namespace, metrics: CloudMetrics) -> AsyncGenerator[Backend]:
    """vLLM, in processes of its own."""
    from hedge.cloud_server.engines.scoring import ScoringRunner
    from hedge.cloud_server.engines.scoring_check import check_scorer
    from hedge.cloud_server.engines.vllm_engine import load_vllm, open_vllm_scorer

    options = dict(args.engine_option)
    lm = load_vllm(args.llm, model_options(args, args.llm), options)
    async with open_vllm_scorer(lm, options, args.dtype, args.kv_bytes) as scorer:
        # Behind the longest prompt there is one token.
        runner = ScoringRunner(scorer, lm.vocab_size, lm.context - 1, lm.token_bytes)
        exactness = await check_scorer(scorer, lm)
        runner.difference = exactness.difference
        metrics.watch_scoring(runner.counts)
        metrics.include("vllm")
        yield Backend(lm, runner, exactness, scorer.died)


def _emulate(args: argparse.Namespace, engine: Engine, lm: LanguageModel) -> Engine:
    if args.emulate is None:
        return engine
    pace = parse_pace(args.emulate)
    lm.name += f", emulated at {pace[0]:g} s + {pace[1]:g} s a position"
    return Emulated(engine, *pace)
