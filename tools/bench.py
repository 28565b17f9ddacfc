"""python -m tools.bench: the tables and plots of docs/benchmarks.md; a second run goes on where the first ended."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.model import BUNDLED, load
from common.sampling import Warp
from evaluation.bench_rows import COLUMNS, KEPT, TIE, Cells, cell_name, cells, number, rows_of, winner
from evaluation.figures import short
from evaluation.processes import BIN
from evaluation.quality import judge
from evaluation.record import AnswerRecord, read_journal
from tools.results_tables import table, write

ROOT = Path(__file__).parent.parent
RUNS, RESULTS = ROOT / "runs", ROOT / "docs" / "results"
COMMON = ("--seed", "1", "--resume")
STREAMED = ("llm", "colocated", "hedge")
# The grid of one profile over all systems, and the map of three devices over the round trip at two acceptance rates.
RUN = {
    "bench": (*"--temperature 0 --profiles phone --questions 12 --rates 1e5 2e6 2e7 --round-trips 0.005 0.05 0.3".split(),),
    "bench-outage": (*"--temperature 0 --profiles phone --questions 12 --rates 2e6 --round-trips 0.05 --outages 6:2".split(),),
    **{
        f"bench-map-{temperature}": (
            *f"--temperature {temperature} --profiles laptop phone tablet --questions 12 --rates 2e6".split(),
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


def judged(name: str) -> list[dict[str, Any]]:
    """The rows of a bench, with fidelity."""
    slm, llm = load(BUNDLED, "slm"), load(BUNDLED, "llm")

    def fidelity(answers: list[AnswerRecord]) -> float:
        return judge(slm, llm, answers, Warp(0.0))[0]

    return rows_of(entries_of(name), fidelity)


def grid(rows: list[dict[str, Any]]) -> str:
    """Every cell of a bench, a table each."""
    head, parts = ("system", *COLUMNS.values(), "fidelity"), []
    for where, systems in cells(rows).items():
        lines = []
        for system, row in systems.items():
            cut = f" ({row['partial']} of {row['answers']} cut off)" if row["partial"] else ""
            speed = f"{number(row['tokens_per_s'])} ({number(row['low'])} to {number(row['high'])})"
            rest = (number(row[key]) for key in [*COLUMNS, "fidelity"] if key != "tokens_per_s")
            lines.append([short(system) + cut, speed, *rest])
        fastest = f"fastest at {KEPT:.0%} of the accuracy: {short(winner(systems))}"
        parts.append(f"**{cell_name(where)}**: {fastest}\n\n{table(head, lines)}")
    return "\n\n".join(parts)


def held(found: Cells) -> str:
    """Per cell: hedge over the best verifying system that keeps the accuracy, over llm, and over colocated."""
    lines = []
    for where, systems in found.items():
        ours = systems["hedge"]["tokens_per_s"]
        at_gate = systems.get("hedge:threshold-rule=quantile,skip-rate=0.748", systems["hedge"])["tokens_per_s"]
        rivals = {
            name: row
            for name, row in systems.items()
            if row["rounds"] and name not in STREAMED and not name.startswith(("hedge", "assisted"))
        }
        good = {name: row for name, row in rivals.items() if (row["relative_accuracy"] or 0) >= KEPT}
        best = max(good, key=lambda name: float(good[name]["tokens_per_s"])) if good else None
        fastest = max(rivals, key=lambda name: float(rivals[name]["tokens_per_s"])) if rivals else None
        line = [cell_name(where), f"{ours:.1f}"]
        for name in (best, fastest):
            line.append(f"{at_gate / rivals[name]['tokens_per_s']:.2f} ({short(name)})" if name else "-")
        lines.append([*line, *(f"{ours / systems[name]['tokens_per_s']:.2f}" for name in ("llm", "colocated"))])
    best_of = f"over the best at {KEPT:.0%} of the accuracy"
    return table(("cell", "hedge, tokens/s", best_of, "over the fastest at any", "over llm", "over colocated"), lines)


def region() -> str:
    """Where hedge wins, ties and loses against streaming from the cloud."""
    lines = []
    for temperature in (0, 1):
        for where, systems in cells(rows_of(entries_of(f"bench-map-{temperature}"))).items():
            ours = systems["hedge"]["tokens_per_s"]
            ratios = [ours / systems[name]["tokens_per_s"] for name in ("llm", "colocated")]
            words = ["wins" if ratio > 1 / TIE else "ties" if ratio >= TIE else "loses" for ratio in ratios]
            cells_ = [f"{word} {ratio:.2f}" for word, ratio in zip(words, ratios, strict=True)]
            busy = systems["hedge"]["cloud_s"] / systems["llm"]["cloud_s"]
            lines.append([where[0], f"{where[2] * 1e3:g} ms", f"{temperature}", f"{ours:.1f}", *cells_, f"{busy:.2f}"])
    head = (
        "device",
        "round trip",
        "temperature",
        "hedge, tokens/s",
        "against llm",
        "against colocated",
        "cloud busy, over llm's",
    )
    return table(head, lines)


def plots() -> None:
    files = [str(RUNS / name / "bench.jsonl") for name in ("bench", "bench-outage")]
    subprocess.run([str(BIN / "hedge"), "plot", "bench", *files, "--out", str(ROOT / "docs" / "plots")], check=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="the whole grid, over many starts")
    args = parser.parse_args(arguments)
    started = time.monotonic()
    for name, options in (FULL if args.full else RUN).items():
        bench(name, *options)
    if not args.full:
        plots()
        plain, outage = judged("bench"), judged("bench-outage")
        rows = [*plain, *outage, *(row for t in (0, 1) for row in rows_of(entries_of(f"bench-map-{t}")))]
        (RESULTS / "bench-rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        held_out = held(cells([*plain, *outage]))
        parts = {"grid": grid(plain), "outage": grid(outage), "held": held_out, "region": region()}
        write(ROOT / "docs" / "benchmarks.md", parts)
    sys.stderr.write(f"done: {time.monotonic() - started:.0f} s\n")


if __name__ == "__main__":
    main()
