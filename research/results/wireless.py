"""python -m research.results.wireless: the tables and the plot of joint token masking and detection in
docs/results.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hedge.evaluation.processes import BIN
from hedge.evaluation.record import read_journal
from research.results.paper_tables import table, write
from research.wireless.summary import ADAPTIVE, BASELINES, METRICS

ROOT = Path(__file__).parents[2]
# Kept: a study goes on where it ended.
OUT = ROOT / "docs" / "results" / "wireless"
Rows = Sequence[dict[str, Any]]


def _gain(row: dict[str, Any], metric: str, rule: str) -> str:
    mean, low, high = row[f"{metric} gain of {rule}"]
    mark = "+" if low > 0 else "-" if high < 0 else "="
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f}) {mark}"


def systems(rows: Rows) -> str:
    """What every system brings across, and at what price."""
    head = (
        "SNR, dB",
        "system",
        "token accuracy",
        "times ml (95 %)",
        "similarity",
        "times ml (95 %)",
        "chrF",
        "left out",
        "position bits",
        "symbols",
    )
    lines = []
    for row in rows:
        cells = []
        for metric in METRICS:
            if metric in row:
                times = "{:.2f} ({:.2f} to {:.2f})".format(*row[f"{metric} times ml"])
                cells += [f"{row[metric]:.3f}", times]
            else:
                cells += ["-", "-"]
        rest = (
            f"{row['chrf']:.1f}",
            f"{row['masked']:.2f}",
            f"{row['position_bits']:.0f}",
            f"{row['uses']:.0f}",
        )
        lines.append([f"{row['snr_db']:g}", row["system"], *cells, *rest])
    return table(head, lines)


def gains(rows: Rows, metric: str) -> str:
    """What the adaptive rules gain over each baseline and over each other."""
    lines = [
        [f"{row['snr_db']:g}", row["system"], *(_gain(row, metric, rule) for rule in ADAPTIVE)]
        for row in rows
        if row["system"] in (*BASELINES, *ADAPTIVE[:2], "range coded")
    ]
    return table(("SNR, dB", "over", *ADAPTIVE), lines)


def verdict(rows: Rows) -> str:
    """Per rule and metric: baselines it is significantly worse than, and at how many SNRs it is
    better than each.
    """
    lines = []
    for metric in (name for name in METRICS if name in rows[0]):
        for rule in ADAPTIVE:
            key = f"{metric} gain of {rule}"
            worse = [
                f"{row['system']} at {row['snr_db']:g} dB ({row[key][0]:+.3f})"
                for row in rows
                if row["system"] in BASELINES and row[key][2] < 0
            ]
            better = {
                name: sum(row["system"] == name and row[key][1] > 0 for row in rows)
                for name in BASELINES
            }
            best = max(
                (row for row in rows if row["system"] == rule),
                key=lambda row: float(row[f"{metric} times ml"][0]),
            )
            times, low, high = best[f"{metric} times ml"]
            lines.append(
                [
                    metric,
                    rule,
                    ", ".join(worse) or "none",
                    ", ".join(f"{name} {count}" for name, count in better.items()),
                    f"{times:.2f} ({low:.2f} to {high:.2f}) at {best['snr_db']:g} dB",
                ]
            )
    return table(
        (
            "metric",
            "rule",
            "significantly worse than",
            "better than, at so many SNRs",
            "best over ml (95 %)",
        ),
        lines,
    )


def short(rows: Rows) -> str:
    """One metric of every system over the SNRs, 4-QAM: similarity, or accuracy where no encoder was
    given.
    """
    rows = [row for row in rows if row["qam"] == 4]
    metric = next(name for name in reversed(METRICS) if name in rows[0])
    snrs = sorted({row["snr_db"] for row in rows})
    found = {(row["system"], row["snr_db"]): f"{row[metric]:.3f}" for row in rows}
    lines = [
        [system, *(found[system, snr] for snr in snrs)]
        for system in dict.fromkeys(row["system"] for row in rows)
    ]
    return table((metric, *(f"{snr:g} dB" for snr in snrs)), lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m research.results.wireless", description=__doc__
    )
    parser.add_argument("--packets", type=int, default=200)
    parser.add_argument(
        "--embedding", default="", metavar="FOLDER", help="a sentence encoder, for similarities"
    )
    args = parser.parse_args()
    command = [
        str(BIN / "hedge"),
        "wireless",
        "study",
        "--out",
        str(OUT),
        "--qam",
        "4",
        "16",
        "--packets",
        str(args.packets),
    ]
    command += ["--embedding", args.embedding]
    sys.stderr.write(f"{' '.join(command[1:])}\n")
    if code := subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        sys.exit(code)
    plots = ROOT / "docs" / "plots"
    subprocess.run(
        [str(BIN / "hedge"), "plot", "wireless", str(OUT / "rows.jsonl"), "--out", str(plots)],
        check=True,
    )
    every = read_journal(OUT / "rows.jsonl", "wireless")[1]
    write(OUT.parent / "tables.md", tables(every))
    write(OUT.parent / "wireless.md", {"wireless short": short(every)})


def tables(every: Rows) -> dict[str, str]:
    """The tables of all rows, by name."""
    four, sixteen = ([row for row in every if row["qam"] == order] for order in (4, 16))
    parts = {
        "wireless": f"{four[0]['packets']} packets.\n\n{systems(four)}",
        "wireless verdict": verdict(four),
        "wireless accuracy": gains(four, "accuracy"),
        "wireless 16": f"{sixteen[0]['packets']} packets.\n\n{systems(sixteen)}",
        "wireless 16 verdict": verdict(sixteen),
    }
    if "similarity" in four[0]:
        parts["wireless similarity"] = gains(four, "similarity")
    return parts


if __name__ == "__main__":
    main()
