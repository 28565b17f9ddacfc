"""python -m research.results.gelato: tables and plots of docs/results/gelato.md, near and far."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from hedge.evaluation.record import read_journal
from hedge.evaluation.tables import Column, first, markdown, tabulate
from research.results.pages import RESULTS, write_parts
from research.results.runs import PLOTS, RUNS, plot, run_hedge

Rows = Sequence[dict[str, Any]]
NEAR = "gelato"
FAR = "gelato-far"
DISTANCES = {NEAR: 500, FAR: 3000}
T_LLM = 0.1
BAND = 1e6
# What the page itself shows.
SHORT = (
    "static 1, top-p",
    "static 7, top-p",
    "static 7, ids",
    "gelato published, V 10, top-p",
    "gelato published, V 10, ids",
    "gelato marginal, GELATO's J, ids",
    "hedge, waiting",
)


def read_rows(name: str) -> list[dict[str, Any]]:
    """Those at 1 MHz and 100 ms."""
    rows = read_journal(RUNS / name / "rows.jsonl", "gelato")[1]
    return [row for row in rows if (row["t_llm"], row["bandwidth_hz"]) == (T_LLM, BAND)]


def show_speed(row: dict[str, Any]) -> str:
    return f"{row['tokens_per_s']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def show_queue(row: dict[str, Any]) -> str | None:
    mean = row["queue_mean"]
    return None if mean is None else f"{mean:.2f} ({row['queue_share']:.0%})"


def show_gain(row: dict[str, Any], rows: Rows) -> str:
    """Over the best static length with the same payload."""
    payload = "top-p" if row["system"].endswith("top-p") else "ids"
    static = [one for one in rows if one["system"].startswith("static")]
    static = [one for one in static if one["system"].endswith(payload)]
    best = max(static, key=lambda one: float(one["tokens_per_s"]))
    gains = [row[key] / best[key] - 1 for key in ("tokens_per_s", "joules_per_token")]
    return ", ".join(f"{gain:+.1%}" for gain in gains)


def tabulate_systems(rows: Rows) -> str:
    columns = [
        Column("system", first("system")),
        Column("tokens/s (95 %)", first(show_speed)),
        Column("J/token", first("joules_per_token"), ".3f"),
        Column("up B/token", first("bytes_per_token"), ".0f"),
        Column("drafts/round", first("drafts_per_round"), ".2f"),
        Column("tokens/round", first("tokens_per_round"), ".2f"),
        Column("Q, J (above 0)", first(show_queue)),
        Column("tokens/s, J over the best static", first(partial(show_gain, rows=rows))),
    ]
    return markdown(tabulate(rows, ("system",), columns))


def tabulate_short(near: Rows, far: Rows) -> str:
    """Speed and energy of a few systems, near the mast and far from it."""
    lines = {system: [system] for system in SHORT}
    for rows in (near, far):
        for row in rows:
            if row["system"] in lines:
                cells = (f"{row['tokens_per_s']:.1f}", f"{row['joules_per_token']:.3f}")
                lines[row["system"]] += cells
    head = ("system", "500 m: tokens/s", "J/token", "3,000 m: tokens/s", "J/token")
    return markdown([head, *lines.values()])


def main() -> None:
    for name, distance in DISTANCES.items():
        run_hedge("simulate", "gelato", "--distance", distance, "--out", RUNS / name)
        plot("gelato", RUNS / name / "rows.jsonl", out=PLOTS if name == NEAR else PLOTS / "far")
    near, far = (read_rows(name) for name in (NEAR, FAR))
    tables = {"gelato near": tabulate_systems(near), "gelato far": tabulate_systems(far)}
    write_parts(RESULTS / "tables.md", tables)
    write_parts(RESULTS / "gelato.md", {"gelato short": tabulate_short(near, far)})


if __name__ == "__main__":
    main()
