"""python -m research.results.gelato: the tables and plots of docs/results/gelato.md, near the mast and
far from it.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from hedge.evaluation.processes import BIN
from hedge.evaluation.record import read_journal
from research.results.paper_tables import table, write

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "runs"
NEAR = "gelato"
FAR = "gelato-far"
DISTANCES = {NEAR: 500, FAR: 3000}
T_LLM = 0.1
BAND = 1e6


def rows_of(name: str) -> list[dict[str, Any]]:
    rows = read_journal(RUNS / name / "rows.jsonl", "gelato")[1]
    return [row for row in rows if (row["t_llm"], row["bandwidth_hz"]) == (T_LLM, BAND)]


def systems(name: str) -> str:
    """Every system at 1 MHz and 100 ms, and what it gains over the best static length with the same
    payload.
    """
    rows = {row["system"]: row for row in rows_of(name)}
    lines = []
    for system, row in rows.items():
        payload = "top-p" if system.endswith("top-p") else "ids"
        static = [
            one for key, one in rows.items() if key.startswith("static") and key.endswith(payload)
        ]
        best = max(static, key=lambda one: float(one["tokens_per_s"]))
        gain = row["tokens_per_s"] / best["tokens_per_s"] - 1
        energy = row["joules_per_token"] / best["joules_per_token"] - 1
        queue = (
            "-"
            if row["queue_mean"] is None
            else f"{row['queue_mean']:.2f} ({row['queue_share']:.0%})"
        )
        lines.append(
            [
                system,
                f"{row['tokens_per_s']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
                f"{row['joules_per_token']:.3f}",
                f"{row['bytes_per_token']:.0f}",
                f"{row['drafts_per_round']:.2f}",
                f"{row['tokens_per_round']:.2f}",
                queue,
                f"{gain:+.1%}, {energy:+.1%}",
            ]
        )
    head = (
        "system",
        "tokens/s (95 %)",
        "J/token",
        "up B/token",
        "drafts/round",
        "tokens/round",
        "Q, J (above 0)",
        "tokens/s, J over the best static",
    )
    return table(head, lines)


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


def short() -> str:
    """Speed and energy of a few systems, near the mast and far from it."""
    near, far = ({row["system"]: row for row in rows_of(name)} for name in DISTANCES)
    lines = [
        [
            system,
            *(
                text
                for rows in (near, far)
                for text in (
                    f"{rows[system]['tokens_per_s']:.1f}",
                    f"{rows[system]['joules_per_token']:.3f}",
                )
            ),
        ]
        for system in SHORT
    ]
    return table(("system", "500 m: tokens/s", "J/token", "3,000 m: tokens/s", "J/token"), lines)


def main() -> None:
    for name, distance in DISTANCES.items():
        command = [
            str(BIN / "hedge"),
            "simulate",
            "gelato",
            "--distance",
            str(distance),
            "--out",
            str(RUNS / name),
        ]
        sys.stderr.write(f"{' '.join(command[1:])}\n")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for name in DISTANCES:
        plots = ROOT / "docs" / "plots" / ("." if name == NEAR else "far")
        subprocess.run(
            [
                str(BIN / "hedge"),
                "plot",
                "gelato",
                str(RUNS / name / "rows.jsonl"),
                "--out",
                str(plots),
            ],
            check=True,
        )
    folder = ROOT / "docs" / "results"
    write(folder / "tables.md", {"gelato near": systems(NEAR), "gelato far": systems(FAR)})
    write(folder / "gelato.md", {"gelato short": short()})


if __name__ == "__main__":
    main()
