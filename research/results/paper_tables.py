"""The tables of the bundled pair in docs/results/paper.md, from what `make results` simulated."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hedge.evaluation.quality import relative_accuracy
from hedge.evaluation.record import AnswerRecord, parse_answers, read_journal
from hedge.evaluation.tables import Column, first, markdown, short_number, tabulate
from research.drawing import shorten
from research.findings import RESAMPLES, max_risk_trials, predictors

Rows = Sequence[dict[str, Any]]
RATES = (0.02, 0.05)
RISK_MEASURES = ("perturbation", "expected_perturbation", "margin")


def read_runs(folder: Path) -> dict[str, list[AnswerRecord]]:
    """The answers of every run of a folder, by name."""
    found = {}
    for path in sorted(folder.glob("answers-*.jsonl")):
        header, entries = read_journal(path, "answers")
        found[str(header["run"])] = parse_answers(path, entries)
    return found


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return read_journal(folder / "rows.jsonl", "rows")[1]


def compare_with_llm(folder: Path) -> Callable[[Rows], str | None]:
    """Accuracy over the LLM's (95 %) of the run of a line's rows."""
    runs = read_runs(folder)
    llm = next(run for name, run in runs.items() if name.startswith("llm #"))

    def compare(rows: Rows) -> str | None:
        found = relative_accuracy(runs[rows[0]["run"]], llm)
        return None if found is None else f"{found[0]:.1%} ({found[1]:.1%} to {found[2]:.1%})"

    return compare


def tabulate_systems(folder: Path) -> str:
    """What each run of a folder skips, keeps and sends, channel apart."""

    def find_bytes(account: str) -> Callable[[Rows], float | None]:
        def find(rows: Rows) -> float | None:
            mine = (row["uplink_bytes_per_token"] for row in rows if row["account"] == account)
            return next(mine, None)

        return find

    columns = [
        Column("system", first("run"), shorten),
        Column("answers", first("answers")),
        Column("skipped", first("share_skipped"), ".1%"),
        Column("exact match", first("exact_match"), ".1%"),
        Column("accuracy over the LLM's (95 %)", compare_with_llm(folder)),
        Column("realised risk", first("risk"), ".3%"),
        Column("uplink B/token, paper, 32,000", find_bytes("paper"), ",.1f"),
        Column("uplink B/token, sent", find_bytes("payload"), ",.1f"),
    ]
    return markdown(tabulate(read_rows(folder), ("run",), columns))


def tabulate_speeds(
    folder: Path, channels: Sequence[tuple[float, float, str]], base: str = "hlm #1"
) -> str:
    """Tokens/s on some channels, and how many times hlm's."""
    rows = [row for row in read_rows(folder) if row["account"] == "paper"]
    columns = [Column("tokens/s (over hlm)", first("run"), shorten)]
    for snr, hz, fading in channels:
        here = {
            row["run"]: row["tokens_per_s"]
            for row in rows
            if (row["snr_db"], row["bandwidth_hz"], row["fading"]) == (snr, hz, fading)
        }

        def over(run: str, here: dict[str, float] = here) -> str:
            return f"{short_number(here[run])} ({short_number(here[run] / here[base])}x)"

        fades = "" if fading == "none" else f", Rayleigh per {fading}"
        columns.append(Column(f"{snr:g} dB, {hz / 1e6:g} MHz{fades}", first("run"), over))
    return markdown(tabulate(rows, ("run",), columns))


def tabulate_frontier(folder: Path) -> str:
    rows = {row["run"]: row for row in read_rows(folder)}
    columns = [
        Column("measure", first("measure")),
        Column("u_th", first("threshold"), ".4f"),
        Column("skipped", first("share_skipped"), ".1%"),
        Column("exact match", first("exact_match"), ".1%"),
        Column("realised risk", first("risk"), ".3%"),
        Column("accuracy over the LLM's (95 %)", compare_with_llm(folder)),
    ]
    gated = [row for row in rows.values() if row["threshold"] is not None]
    return markdown(tabulate(gated, ("run",), columns))


def tabulate_measures(tokens: Path) -> str:
    rows = [
        {"measure": name} | found
        for name, found in predictors(read_journal(tokens, "tokens")[1]).items()
    ]
    columns = [
        Column("measure", first("measure")),
        Column("Pearson with TV(x, y)", first("pearson_tv"), ".3f"),
        Column("Pearson with beta", first("pearson_beta"), ".3f"),
        Column("R^2 with beta", first("r2_beta"), ".3f"),
        Column("AUC for rejection", first("auc"), ".3f"),
        Column("cost over perturbation", first("cost"), ".2f"),
    ]
    return markdown(tabulate(rows, ("measure",), columns))


def tabulate_risk(tokens: Path) -> str:
    entries = read_journal(tokens, "tokens")[1]
    lines = []
    for measure in RISK_MEASURES:
        for epsilon in RATES:
            exceeded, feasible, skipped = max_risk_trials(
                entries, measure, epsilon, 0.1, calibrated=len(entries) // 2
            )
            found = f"{feasible} of {RESAMPLES}"
            lines.append([measure, f"{epsilon:g}", found, f"{exceeded}", f"{skipped:.1%}"])
    head = ("measure", "epsilon", "threshold found", "exceeded", "skipped")
    return markdown([head, *lines])
