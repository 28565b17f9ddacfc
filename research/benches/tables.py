"""The tables of `make bench`, from docs/results/bench-rows.jsonl: `run` names the bench of
research/benches/grid.py.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hedge.evaluation.bench_rows import KEPT, Cells, cell_name, cells, number, winner
from hedge.evaluation.tables import markdown
from research.figures import short

Rows = Sequence[dict[str, Any]]


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return markdown([head, *lines])


# What a page has room for: the rows hold every column.
SHOWN = {
    "first_s": "first, s",
    "up": "up B",
    "rounds": "passes",
    "positions": "positions",
    "relative_accuracy": "accuracy",
}
STREAMED = ("llm", "colocated", "hedge")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def parts(rows: Rows) -> dict[str, dict[str, str]]:
    """By page, the tables by name."""
    plain, outage = (
        [row for row in rows if row["run"] == run] for run in ("bench", "bench-outage")
    )
    return {
        "docs/benchmarks.md": {"held": held(cells([*plain, *outage])), "region": region(rows)},
        "docs/results/cells.md": {"grid": grid(plain), "outage": grid(outage)},
    }


def grid(rows: Rows) -> str:
    """Every cell of a bench, a table each."""
    found = []
    for where, systems in cells(rows).items():
        lines = []
        for system, row in systems.items():
            cut = f" ({row['partial']} of {row['answers']} cut off)" if row["partial"] else ""
            speed = f"{number(row['tokens_per_s'])} ({number(row['low'])} to {number(row['high'])})"
            lines.append([short(system) + cut, speed, *(number(row[key]) for key in SHOWN)])
        fastest = f"fastest at {KEPT:.0%} of the accuracy: {short(winner(systems))}"
        shown = table(("system", "tokens/s", *SHOWN.values()), lines)
        found.append(f"**{cell_name(where)}**: {fastest}\n\n{shown}")
    return "\n\n".join(found)


def held(found: Cells) -> str:
    """Per cell: hedge over the best verifying system that keeps the accuracy, over llm, and over
    colocated.
    """
    lines = []
    for where, systems in found.items():
        ours = systems["hedge"]["tokens_per_s"]
        rivals = {
            name: row
            for name, row in systems.items()
            if row["rounds"] and name not in STREAMED and not name.startswith(("hedge", "assisted"))
        }
        good = {
            name: row for name, row in rivals.items() if (row["relative_accuracy"] or 0) >= KEPT
        }
        best = max(good, key=lambda name: float(good[name]["tokens_per_s"])) if good else None
        fastest = (
            max(rivals, key=lambda name: float(rivals[name]["tokens_per_s"])) if rivals else None
        )
        line = [cell_name(where), f"{ours:.1f}"]
        for name in (best, fastest):
            line.append(
                f"{ours / rivals[name]['tokens_per_s']:.2f} ({short(name)})" if name else "-"
            )
        lines.append(
            [
                *line,
                *(f"{ours / systems[name]['tokens_per_s']:.2f}" for name in ("llm", "colocated")),
            ]
        )
    best_of = f"over the best at {KEPT:.0%} of the accuracy"
    return table(
        (
            "cell",
            "hedge, tokens/s",
            best_of,
            "over the fastest at any",
            "over llm",
            "over colocated",
        ),
        lines,
    )


def region(rows: Rows) -> str:
    """Where hedge wins, ties and loses against streaming from the cloud."""
    lines = []
    for temperature in (0, 1):
        for where, systems in cells(
            [row for row in rows if row["run"] == f"bench-map-{temperature}"]
        ).items():
            ours = systems["hedge"]["tokens_per_s"]
            shown = [against(systems["hedge"], systems[name]) for name in ("llm", "colocated")]
            busy = systems["hedge"]["cloud_s"] / systems["llm"]["cloud_s"]
            lines.append(
                [
                    where[0],
                    f"{where[2] * 1e3:g} ms",
                    f"{temperature}",
                    f"{ours:.1f}",
                    *shown,
                    f"{busy:.2f}",
                ]
            )
    head = (
        "device",
        "round trip",
        "T",
        "hedge, tokens/s",
        "against llm",
        "against colocated",
        "cloud busy, over llm's",
    )
    return table(head, lines)


def against(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """The ratio of two medians, and who is ahead; unclear where the two intervals overlap."""
    word = (
        "wins"
        if ours["low"] > theirs["high"]
        else "loses"
        if ours["high"] < theirs["low"]
        else "unclear"
    )
    return f"{word} {ours['tokens_per_s'] / theirs['tokens_per_s']:.2f}"
