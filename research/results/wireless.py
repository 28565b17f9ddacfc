"""python -m research.results.wireless: tables and plot of joint token masking and detection.

Goes on where it ended; the rows are kept in docs/results/wireless.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from hedge.evaluation.record import read_journal
from hedge.evaluation.tables import Column, Field, first, markdown, tabulate
from research.results.pages import RESULTS, Pages, write_parts
from research.results.runs import plot, run_hedge
from research.wireless.summary import ADAPTIVE, BASELINES, METRICS

OUT = RESULTS / "wireless"
Rows = Sequence[dict[str, Any]]
SNR = Column("SNR, dB", first("snr_db"), "g")
TITLES = {"accuracy": "token accuracy", "similarity": "similarity"}


def optional(name: str) -> Field:
    return lambda row: row.get(name)


def show_times(found: Sequence[float]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*found)


def show_gain(found: Sequence[float]) -> str:
    mean, low, high = found
    mark = "+" if low > 0 else "-" if high < 0 else "="
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f}) {mark}"


def tabulate_systems(rows: Rows) -> str:
    """What every system brings across, and at what price."""
    columns = [SNR, Column("system", first("system"))]
    for metric in METRICS:
        columns.append(Column(TITLES[metric], first(optional(metric)), ".3f"))
        times = first(optional(f"{metric} times ml"))
        columns.append(Column("times ml (95 %)", times, show_times))
    columns += [
        Column("chrF", first("chrf"), ".1f"),
        Column("left out", first("masked"), ".2f"),
        Column("position bits", first("position_bits"), ".0f"),
        Column("symbols", first("uses"), ".0f"),
    ]
    return f"{rows[0]['packets']} packets.\n\n" + markdown(
        tabulate(rows, ("snr_db", "system"), columns)
    )


def tabulate_gains(rows: Rows, metric: str) -> str:
    """What the adaptive rules gain over each baseline and over each other."""
    columns = [SNR, Column("over", first("system"))]
    for rule in ADAPTIVE:
        columns.append(Column(rule, first(f"{metric} gain of {rule}"), show_gain))
    shown = [row for row in rows if row["system"] in (*BASELINES, *ADAPTIVE[:2], "range coded")]
    return markdown(tabulate(shown, ("snr_db", "system"), columns))


def judge_rule(rows: Rows, metric: str, rule: str) -> list[str]:
    """Baselines it is significantly worse than, and at how many SNRs it is better than each."""
    key = f"{metric} gain of {rule}"
    worse = [
        f"{row['system']} at {row['snr_db']:g} dB ({row[key][0]:+.3f})"
        for row in rows
        if row["system"] in BASELINES and row[key][2] < 0
    ]
    better = []
    for name in BASELINES:
        count = sum(row["system"] == name and row[key][1] > 0 for row in rows)
        better.append(f"{name} {count}")
    mine = [row for row in rows if row["system"] == rule]
    best = max(mine, key=lambda row: float(row[f"{metric} times ml"][0]))
    times = f"{show_times(best[f'{metric} times ml'])} at {best['snr_db']:g} dB"
    return [metric, rule, ", ".join(worse) or "none", ", ".join(better), times]


def tabulate_verdict(rows: Rows) -> str:
    head = (
        "metric",
        "rule",
        "significantly worse than",
        "better than, at so many SNRs",
        "best over ml (95 %)",
    )
    metrics = [name for name in METRICS if name in rows[0]]
    lines = [judge_rule(rows, metric, rule) for metric in metrics for rule in ADAPTIVE]
    return markdown([head, *lines])


def tabulate_short(rows: Rows) -> str:
    """One metric over the SNRs: similarity, or accuracy where no encoder was given."""
    metric = next(name for name in reversed(METRICS) if name in rows[0])
    lines: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: float(row["snr_db"])):
        lines.setdefault(row["system"], [row["system"]]).append(f"{row[metric]:.3f}")
    snrs = sorted({row["snr_db"] for row in rows})
    return markdown([[metric, *(f"{snr:g} dB" for snr in snrs)], *lines.values()])


def make_parts(rows: Rows) -> Pages:
    four, sixteen = ([row for row in rows if row["qam"] == order] for order in (4, 16))
    tables = {
        "wireless": tabulate_systems(four),
        "wireless verdict": tabulate_verdict(four),
        "wireless accuracy": tabulate_gains(four, "accuracy"),
        "wireless 16": tabulate_systems(sixteen),
        "wireless 16 verdict": tabulate_verdict(sixteen),
    }
    if "similarity" in four[0]:
        tables["wireless similarity"] = tabulate_gains(four, "similarity")
    return {
        "docs/results/tables.md": tables,
        "docs/results/wireless.md": {"wireless short": tabulate_short(four)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packets", type=int, default=200)
    parser.add_argument("--embedding", default="", metavar="FOLDER", help="a sentence encoder")
    args = parser.parse_args()
    words = ("--packets", args.packets, "--embedding", args.embedding)
    run_hedge("wireless", "study", "--out", OUT, "--qam", 4, 16, *words)
    plot("wireless", OUT / "rows.jsonl")
    rows = read_journal(OUT / "rows.jsonl", "wireless")[1]
    for page, parts in make_parts(rows).items():
        write_parts(RESULTS / page.rpartition("/")[2], parts)


if __name__ == "__main__":
    main()
