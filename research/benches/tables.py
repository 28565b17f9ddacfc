"""The tables of `make bench`, from docs/results/bench-rows.jsonl."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hedge.evaluation.bench_rows import (
    KEPT,
    POINT,
    Cells,
    cell_name,
    find_winner,
    group_cells,
    name_system,
)
from hedge.evaluation.tables import Column, first, markdown, short_number, tabulate
from research.drawing import shorten

Row = dict[str, Any]
Rows = Sequence[Row]


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
        "docs/benchmarks.md": {
            "held": held(group_cells([*plain, *outage])),
            "region": region(rows),
        },
        "docs/results/cells.md": {"grid": grid(plain), "outage": grid(outage)},
    }


def grid(rows: Rows) -> str:
    """Every cell of a bench, a table each."""
    columns = [
        Column("system", first(lambda row: name_system(row, shorten))),
        Column("tokens/s", first(_format_speed)),
        *(Column(title, first(name), short_number) for name, title in SHOWN.items()),
    ]
    found = []
    for where, systems in group_cells(rows).items():
        fastest = f"fastest at {KEPT:.0%} of the accuracy: {shorten(find_winner(systems))}"
        shown = markdown(tabulate(systems.values(), ("system",), columns))
        found.append(f"**{cell_name(where)}**: {fastest}\n\n{shown}")
    return "\n\n".join(found)


def _format_speed(row: Row) -> str:
    middle, low, high = (short_number(row[name]) for name in ("tokens_per_s", "low", "high"))
    return f"{middle} ({low} to {high})"


def held(found: Cells) -> str:
    """Per cell: hedge over the best verifying system that keeps the accuracy, llm and colocated."""
    columns = [
        Column("cell", first(lambda cell: cell_name(cell[0]))),
        Column("hedge, tokens/s", first(lambda cell: cell[1]["hedge"]["tokens_per_s"]), ".1f"),
        Column(f"over the best at {KEPT:.0%} of the accuracy", first(partial(_over_best, KEPT))),
        Column("over the fastest at any", first(partial(_over_best, 0.0))),
        *(Column(f"over {name}", first(partial(_over, name)), ".2f") for name in STREAMED[:2]),
    ]
    return markdown(tabulate(found.items(), (id,), columns))


def _over(name: str, cell: tuple[Any, dict[str, Row]]) -> float:
    _, systems = cell
    return float(systems["hedge"]["tokens_per_s"] / systems[name]["tokens_per_s"])


def _over_best(least: float, cell: tuple[Any, dict[str, Row]]) -> str | None:
    """hedge over the fastest system that verifies and keeps so much of the LLM's accuracy."""
    rivals = [
        row
        for name, row in cell[1].items()
        if row["rounds"]
        and name not in STREAMED
        and not name.startswith(("hedge", "assisted"))
        and (row["relative_accuracy"] or 0) >= least
    ]
    if not rivals:
        return None
    best = max(rivals, key=lambda row: float(row["tokens_per_s"]))["system"]
    return f"{_over(best, cell):.2f} ({shorten(best)})"


def region(rows: Rows) -> str:
    """Where hedge wins, ties and loses against streaming from the cloud."""
    mapped = [row for row in rows if row["run"].startswith("bench-map-")]
    columns = [
        Column("device", first("profile")),
        Column("round trip", first(lambda row: f"{row['round_trip'] * 1e3:g} ms")),
        Column("T", first(lambda row: row["run"].rpartition("-")[2])),
        Column("hedge, tokens/s", lambda rows: _select(rows, "hedge")["tokens_per_s"], ".1f"),
        *(Column(f"against {name}", partial(_against, name)) for name in STREAMED[:2]),
        Column(
            "cloud busy, over llm's",
            lambda rows: _select(rows, "hedge")["cloud_s"] / _select(rows, "llm")["cloud_s"],
            ".2f",
        ),
    ]
    return markdown(tabulate(mapped, ("run", *POINT), columns))


def _select(rows: Rows, system: str) -> Row:
    return next(row for row in rows if row["system"] == system)


def _against(name: str, rows: Rows) -> str:
    """The ratio of two medians, and who is ahead; unclear where the two intervals overlap."""
    ours = _select(rows, "hedge")
    theirs = _select(rows, name)
    word = "unclear"
    if ours["low"] > theirs["high"]:
        word = "wins"
    elif ours["high"] < theirs["low"]:
        word = "loses"
    return f"{word} {ours['tokens_per_s'] / theirs['tokens_per_s']:.2f}"
