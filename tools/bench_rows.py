"""python -m tools.bench_rows MODEL [--dtype D ...]: what reproducible passes cost, and the self-check, one thread.

Passes over sessions with 160 ids behind them, the plain engine and the reproducible one in turn; medians, and their ratio.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from cloud_server.engine import BLOCK_SIZE, Engine
from cloud_server.scheduler import BlockTable, ScheduledChunk, Work
from cloud_server.self_check import self_check
from cloud_server.torch_engine import TorchEngine
from common.model import load
from common.model_options import ModelOptions
from common.torch_model import TorchModel

# Ids of whole blocks.
BEHIND, ROUNDS = 10 * BLOCK_SIZE, 3
# Sessions, and new ids of each.
PASSES = ((1, 1), (1, 16), (16, 4))


def taken(engine: Engine, tokens: int) -> list[int]:
    blocks = engine.block_manager.allocate(engine.block_manager.needed(tokens))
    assert blocks
    return blocks


def prompt(engine: Engine, ids: list[int]) -> list[int]:
    """The blocks of a prompt that has been fed."""
    table = BlockTable(0, taken(engine, len(ids)))
    engine.forward([ScheduledChunk(Work(table, ids, 1), 0, len(ids))])
    return table.blocks


def a_pass(engine: Engine, ids: list[int], blocks: list[int], sessions: int, rows: int) -> Callable[[], float]:
    """A function that runs it and tells its seconds. All sessions have the same prompt, and blocks of their own behind it."""
    rng = np.random.default_rng(0)
    batch = []
    for _ in range(sessions):
        work = Work(BlockTable(BEHIND, [*blocks, *taken(engine, rows)]), [*ids, *rng.integers(0, 1000, rows).tolist()], rows)
        batch.append(ScheduledChunk(work, BEHIND, BEHIND + rows))

    def run() -> float:
        started = time.perf_counter()
        engine.forward(batch)
        return time.perf_counter() - started

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    args = parser.parse_args()
    print(
        "| precision | sizes of a call | sessions x rows | plain, ms | reproducible, ms | ratio |\n|---|---|---|---:|---:|---:|"
    )
    said = []
    for dtype in args.dtype:
        lm = load(args.model, "llm", ModelOptions(dtype=dtype, threads=1))
        assert isinstance(lm, TorchModel)
        started = time.perf_counter()
        lm.warm_up()
        warm = time.perf_counter()
        engines = [TorchEngine(lm, 400 * BLOCK_SIZE * lm.token_bytes, reproducible=wanted) for wanted in (False, True)]
        made = time.perf_counter()
        found = self_check(engines[1], lm)
        checked = time.perf_counter()
        said.append(
            f"{dtype}: {found}. Finding the sizes took {made - warm:.2f} s, the self-check {checked - made:.2f} s, "
            f"the warm-up that it stands for {warm - started:.2f} s."
        )
        ids = np.random.default_rng(1).integers(0, 1000, BEHIND).tolist()
        prompts = [prompt(engine, ids) for engine in engines]
        sizes = " ".join(map(str, engines[1].sizes))
        for sessions, rows in PASSES:
            runs = [a_pass(engine, ids, blocks, sessions, rows) for engine, blocks in zip(engines, prompts, strict=True)]
            times = [[run() for run in runs] for _ in range(ROUNDS)]
            plain, ours = (1e3 * median(column) for column in zip(*times, strict=True))
            ratio = median(b / a for a, b in times)
            print(f"| {dtype} | {sizes} | {sessions} x {rows} | {plain:.1f} | {ours:.1f} | {ratio:.2f} |")
    print("\n" + "\n".join(said))


if __name__ == "__main__":
    main()
