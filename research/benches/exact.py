"""python -m research.benches.exact PAIR TASKS [--dtype D ...]: whether `hedge` says token for token
what `llm` says.

The real pair, q05.gguf on the device, q15 in torch or q15.gguf (Q4_K_M) in the cloud, one thread
each: 20 questions, 160 tokens, temperatures 0 and 0.7; `llm` alone, `hedge` with four answers at
once and alone. Answers are kept in docs/results, exact.jsonl and exact-gguf.jsonl, where it goes
on, on a processor of the same kind: bits are a machine's own.
"""

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hedge.common.loading import load
from hedge.common.model_options import ModelOptions
from hedge.evaluation.processes import run_cloud
from hedge.evaluation.record import Journal, read_journal
from hedge.evaluation.tables import Column, first, markdown, tabulate, total
from research.benches.real import PASSES, SAME, TEMPERATURE, ask_systems, compare, questions

OUT = Path(__file__).parents[2] / "docs" / "results" / "exact.jsonl"
OUT_GGUF = OUT.with_name("exact-gguf.jsonl")
TOKENS = 160
# Systems, and how many of their answers go on at once. llm's are the reference.
RUNS = (("llm", 1), ("hedge", 4), ("hedge", 1))
GGUF = "Q4_K_M"
CLOUDS = {
    "bfloat16": ("--dtype", "bfloat16", "--reproducible"),
    "float32": ("--dtype", "float32", "--no-reproducible"),
    GGUF: ("--context", "2048", "--reproducible"),
}


def report(entries: Sequence[dict[str, Any]]) -> None:
    columns = (
        Column("cloud", first("dtype")),
        TEMPERATURE,
        Column("answers at once", first("together")),
        *SAME,
        Column("near ties", total("near_ties")),
        PASSES,
    )
    order = list(CLOUDS)
    rows = sorted(
        compare(entries), key=lambda e: (order.index(e["dtype"]), e["temperature"], -e["together"])
    )
    print(markdown(tabulate(rows, ("dtype", "temperature", "together"), columns)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pair", type=Path)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--dtype", nargs="+", choices=tuple(CLOUDS), default=list(CLOUDS))
    args = parser.parse_args()
    slm = load(str(args.pair / "q05.gguf"), "slm", ModelOptions(threads=1))
    for dtype in args.dtype:
        llm, out = ("q15.gguf", OUT_GGUF) if dtype == GGUF else ("q15", OUT)
        header = {
            "kind": "exact",
            "slm": slm.fingerprint,
            "llm": llm,
            "tokens": TOKENS,
            "cpu": torch.backends.cpu.get_cpu_capability(),
        }
        journal = Journal(out, header, resume=out.exists())
        options = (*CLOUDS[dtype], "--threads", "1", "--max-step-s", "0", "--max-session-s", "0")
        with run_cloud("--llm", str(args.pair / llm), *options) as address:
            asyncio.run(
                ask_systems(slm, address, questions(args.tasks), journal, TOKENS, RUNS, dtype=dtype)
            )
    report(
        [
            entry
            for out in (OUT, OUT_GGUF)
            if out.exists()
            for entry in read_journal(out, "exact")[1]
        ]
    )


if __name__ == "__main__":
    main()
