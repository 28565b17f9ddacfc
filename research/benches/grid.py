"""python -m research.benches.grid: the rows, tables and plots of docs/benchmarks.md; a second run
goes on where the first ended.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hedge.common.loading import load
from hedge.common.model import BUNDLED
from hedge.common.sampling import Warp
from hedge.evaluation.bench_rows import make_rows
from hedge.evaluation.processes import BIN
from hedge.evaluation.quality import judge
from hedge.evaluation.record import AnswerRecord, read_journal
from research.benches import tables as bench_tables
from research.benches.tables import STREAMED
from research.results.pages import write_parts

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "runs"
RESULTS = ROOT / "docs" / "results"
COMMON = ("--seed", "1", "--resume")
# The grid of one profile over all systems, and the map of three devices over the round trip at two
# acceptance rates.
RUN = {
    "bench": (
        *"--temperature 0 --profiles phone --questions 12 --rates 1e5 2e6 2e7 --round-trips 0.005 "
        "0.05 0.3".split(),
    ),
    "bench-outage": (
        *"--temperature 0 --profiles phone --questions 12 --rates 2e6 --round-trips 0.05 --outages "
        "6:2".split(),
    ),
    **{
        f"bench-map-{temperature}": (
            *f"--temperature {temperature} --profiles laptop phone tablet --questions 12 --rates "
            "2e6".split(),
            *"--round-trips 0.005 0.05 0.1 0.3 --systems".split(),
            *STREAMED,
        )
        for temperature in (0, 1)
    },
}
FULL = {
    f"full-{profile}-{temperature}": (
        "--temperature",
        str(temperature),
        "--profiles",
        profile,
        "--questions",
        "12",
        "--outages",
        "none",
        "6:2",
    )
    for profile in ("phone", "laptop", "tablet")
    for temperature in (0, 1)
}


def bench(name: str, *options: str) -> None:
    command = [str(BIN / "hedge"), "bench", "--out", str(RUNS / name), "--json", *COMMON, *options]
    sys.stderr.write(f"{name}: {' '.join(command[1:])}\n")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def entries_of(name: str) -> list[dict[str, Any]]:
    return read_journal(RUNS / name / "bench.jsonl", "bench")[1]


def rows_named(name: str) -> list[dict[str, Any]]:
    """The rows of a bench; with fidelity where every system is in it."""
    if name.startswith("bench-map"):
        return make_rows(entries_of(name))
    slm = load(BUNDLED, "slm")
    llm = load(BUNDLED, "llm")

    def fidelity(answers: list[AnswerRecord]) -> float:
        return judge(slm, llm, answers, Warp(0.0))[0]

    return make_rows(entries_of(name), fidelity)


def plots() -> None:
    files = [str(RUNS / name / "bench.jsonl") for name in ("bench", "bench-outage")]
    subprocess.run(
        [str(BIN / "hedge"), "plot", "bench", *files, "--out", str(ROOT / "docs" / "plots")],
        check=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="the whole grid, over many starts")
    args = parser.parse_args(arguments)
    started = time.monotonic()
    for name, options in (FULL if args.full else RUN).items():
        bench(name, *options)
    if not args.full:
        plots()
        rows = [{"run": name} | row for name in RUN for row in rows_named(name)]
        (RESULTS / "bench-rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for page, tables in bench_tables.parts(rows).items():
            write_parts(ROOT / page, tables)
    sys.stderr.write(f"done: {time.monotonic() - started:.0f} s\n")


if __name__ == "__main__":
    main()
