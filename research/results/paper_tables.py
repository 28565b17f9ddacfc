"""The generated parts of the pages in docs/results: each stands between a begin and an end mark
that names it.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hedge.evaluation.quality import relative_accuracy
from hedge.evaluation.record import AnswerRecord, answers_of, read_journal
from research.figures import short
from research.findings import RESAMPLES, max_risk_trials, predictors

Rows = Sequence[dict[str, Any]]


def quantile(measure: str, share: float) -> str:
    """cu-hlm with its threshold where so much of the calibration tokens is skipped."""
    return f"cu-hlm:measure={measure},threshold-rule=quantile,skip-rate={share}"


PROPOSED = quantile("margin", 0.76)


def runs_of(folder: Path) -> dict[str, list[AnswerRecord]]:
    """The answers of every run of a folder, by name."""
    found = {}
    for path in sorted(folder.glob("answers-*.jsonl")):
        header, entries = read_journal(path, "answers")
        found[str(header["run"])] = answers_of(path, entries)
    return found


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return read_journal(folder / "rows.jsonl", "rows")[1]


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _relative(run: Sequence[AnswerRecord], llm: Sequence[AnswerRecord]) -> str:
    found = relative_accuracy(run, llm)
    return "-" if found is None else f"{found[0]:.1%} ({found[1]:.1%} to {found[2]:.1%})"


def systems(folder: Path) -> str:
    """What each run of a folder skips, keeps and sends, channel apart."""
    runs = runs_of(folder)
    rows = rows_of(folder)
    llm = next(run for name, run in runs.items() if name.startswith("llm #"))
    lines = []
    for name in dict.fromkeys(row["run"] for row in rows):
        paper = next(row for row in rows if row["run"] == name and row["account"] == "paper")
        payload = next(
            (row for row in rows if row["run"] == name and row["account"] == "payload"), None
        )
        lines.append(
            [
                short(name),
                f"{paper['answers']}",
                f"{paper['share_skipped']:.1%}",
                f"{paper['exact_match']:.1%}",
                _relative(runs[name], llm),
                "-" if paper["risk"] is None else f"{paper['risk']:.3%}",
                f"{paper['uplink_bytes_per_token']:,.1f}",
                "-" if payload is None else f"{payload['uplink_bytes_per_token']:,.1f}",
            ]
        )
    head = (
        "system",
        "answers",
        "skipped",
        "exact match",
        "accuracy over the LLM's (95 %)",
        "realised risk",
        "uplink B/token, paper, 32,000",
        "uplink B/token, sent",
    )
    return table(head, lines)


def speeds(folder: Path, channels: Sequence[tuple[float, float, str]], base: str = "hlm #1") -> str:
    """Tokens/s on some channels, and how many times hlm's."""
    rows = [row for row in rows_of(folder) if row["account"] == "paper"]
    found = {(row["run"], row["snr_db"], row["bandwidth_hz"], row["fading"]): row for row in rows}
    lines = []
    for name in dict.fromkeys(row["run"] for row in rows):
        cells = []
        for channel in channels:
            speed = found[name, *channel]["tokens_per_s"]
            reference = found[base, *channel]["tokens_per_s"]
            cells.append(f"{_short(speed)} ({_short(speed / reference)}x)")
        lines.append([short(name), *cells])
    heads = [
        f"{snr:g} dB, {hz / 1e6:g} MHz" + ("" if fading == "none" else f", Rayleigh per {fading}")
        for snr, hz, fading in channels
    ]
    return table(("tokens/s (over hlm)", *heads), lines)


def frontier(folder: Path) -> str:
    runs = runs_of(folder)
    rows = {row["run"]: row for row in rows_of(folder)}
    llm = next(run for name, run in runs.items() if name.startswith("llm #"))
    lines = [
        [
            row["measure"],
            f"{row['threshold']:.4f}",
            *(f"{row[key]:.1%}" for key in ("share_skipped", "exact_match")),
            f"{row['risk']:.3%}",
            _relative(runs[name], llm),
        ]
        for name, row in rows.items()
        if row["threshold"] is not None
    ]
    return table(
        (
            "measure",
            "u_th",
            "skipped",
            "exact match",
            "realised risk",
            "accuracy over the LLM's (95 %)",
        ),
        lines,
    )


def measures(tokens: Path) -> str:
    entries = read_journal(tokens, "tokens")[1]
    lines = [
        [
            name,
            *(f"{found[key]:.3f}" for key in ("pearson_tv", "pearson_beta", "r2_beta", "auc")),
            f"{found['cost']:.2f}",
        ]
        for name, found in predictors(entries).items()
    ]
    head = (
        "measure",
        "Pearson with TV(x, y)",
        "Pearson with beta",
        "R^2 with beta",
        "AUC for rejection",
        "cost over perturbation",
    )
    return table(head, lines)


def risk(tokens: Path) -> str:
    entries = read_journal(tokens, "tokens")[1]
    lines = []
    for measure in ("perturbation", "expected_perturbation", "margin"):
        for epsilon in (0.02, 0.05):
            exceeded, feasible, skipped = max_risk_trials(
                entries, measure, epsilon, 0.1, calibrated=len(entries) // 2
            )
            lines.append(
                [
                    measure,
                    f"{epsilon:g}",
                    f"{feasible} of {RESAMPLES}",
                    f"{exceeded}",
                    f"{skipped:.1%}",
                ]
            )
    return table(("measure", "epsilon", "threshold found", "exceeded", "skipped"), lines)


def write(document: Path, parts: dict[str, str]) -> None:
    """Replaces the text between the marks of each part."""
    text = document.read_text("utf-8")
    for name, part in parts.items():
        pattern = re.compile(f"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{document} has no place for {name}")
        text = pattern.sub(lambda found, part=part: found[1] + part + "\n" + found[2], text)  # type: ignore[misc]
    document.write_text(text, "utf-8")
