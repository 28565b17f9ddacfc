"""python -m tools.bench_rows MODEL [--dtype D ...]: what reproducible passes cost, and the
self-check, one thread.

MODEL is a folder or a GGUF file. A prompt of 160 ids, and passes over sessions that have it behind
them, the plain engine and the reproducible one in turn; medians, and their ratio.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import numpy as np

from hedge.cloud_server.engines.base import BLOCK_SIZE, Engine, engine_of
from hedge.cloud_server.engines.scheduler import BlockTable, ScheduledChunk, Work
from hedge.cloud_server.engines.self_check import self_check
from hedge.common.model import load
from hedge.common.model_options import ModelOptions, is_gguf

# Ids of whole blocks; an engine has room for 16 sessions of so many.
BEHIND = 10 * BLOCK_SIZE
CONTEXT = 256
ROUNDS = 3
# Sessions, and new ids of each; none for the prompt itself.
PASSES = ((1, 0), (1, 1), (1, 16), (16, 4))


def timed(engine: Engine, batch: list[ScheduledChunk]) -> float:
    started = time.perf_counter()
    engine.forward(batch)
    return time.perf_counter() - started


@contextmanager
def passes(
    engine: Engine, ids: list[int], sessions: int, rows: int
) -> Iterator[Callable[[], float]]:
    """A function that runs a pass and tells its seconds."""
    rng = np.random.default_rng(0)
    tables = []
    batch = list[ScheduledChunk]()
    for _ in range(sessions):
        tables.append(
            BlockTable(
                0, engine.block_manager.allocate(engine.block_manager.needed(BEHIND + rows)) or []
            )
        )
        prompt = [ScheduledChunk(Work(tables[-1], ids, 1), 0, BEHIND)]
        if not rows:
            batch = prompt
            continue
        engine.forward(prompt)
        tables[-1].length = BEHIND
        work = Work(tables[-1], [*ids, *rng.integers(0, 1000, rows).tolist()], rows)
        batch.append(ScheduledChunk(work, BEHIND, BEHIND + rows))
    yield lambda: timed(engine, batch)
    for table in tables:
        engine.block_manager.free(table.blocks)
        table.length = 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    args = parser.parse_args()
    print(
        "| precision | sessions x rows | plain, ms | reproducible, ms | ratio |\n|---|---|---:|---:|---:|"
    )
    said = []
    for dtype in ["GGUF"] if is_gguf(args.model) else args.dtype:
        options = (
            ModelOptions(context=CONTEXT, threads=1)
            if dtype == "GGUF"
            else ModelOptions(dtype=dtype, threads=1)
        )
        lm = load(args.model, "llm", options)
        started = time.perf_counter()
        lm.warm_up()
        warm = time.perf_counter()
        room = 17 * CONTEXT * lm.token_bytes  # type: ignore[attr-defined]
        engines = [engine_of(lm, room, reproducible=wanted) for wanted in (False, True)]
        made = time.perf_counter()
        found = self_check(engines[1], lm)
        checked = time.perf_counter()
        said.append(
            f"{dtype}: {found}. Finding the sizes took {made - warm:.2f} s, the self-check {checked - made:.2f} s, "
            f"the warm-up that it stands for {warm - started:.2f} s."
        )
        ids = np.random.default_rng(1).integers(0, 1000, BEHIND).tolist()
        for sessions, rows in PASSES:
            with (
                passes(engines[0], ids, sessions, rows) as one,
                passes(engines[1], ids, sessions, rows) as other,
            ):
                times = [[run() for run in (one, other)] for _ in range(ROUNDS)]
            plain, ours = (1e3 * median(column) for column in zip(*times, strict=True))
            ratio = median(b / a for a, b in times)
            what = f"{sessions} x {rows}" if rows else f"a prompt of {BEHIND}"
            print(f"| {dtype} | {what} | {plain:.1f} | {ours:.1f} | {ratio:.2f} |", flush=True)
    print("\n" + "\n".join(said))


if __name__ == "__main__":
    main()
