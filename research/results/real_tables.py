"""The tables of the real pair, from the rows of docs/results/real."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hedge.common.codec import paper_bits
from hedge.evaluation.record import read_journal
from hedge.evaluation.tables import Column, aggregate, first, markdown, ratio, tabulate, transpose
from research.drawing import shorten
from research.results.exactness import tabulate_exactness
from research.results.pages import Pages
from research.results.predicted import show_ms, tabulate_predicted
from research.results.real_rows import (
    CPU,
    HEDGE,
    MEASURES,
    PAPER_SHARE,
    REFERENCE,
    TASKS,
    TEMPERATURES,
    Row,
    Rows,
    Runs,
    measure_unsent,
    time_answer,
)
from research.study import auc

# The entries that CU-HLM keeps.
KEPT = 30
CHANNELS = ((-10.0, 1e6), (0.0, 1e6), (10.0, 1e6), (0.0, 10e6))
LEADING = ("llm", "slm", "hlm", HEDGE, "gelato", "rand-hlm", "u-hlm", "cu-hlm")
PROFILES = ("phone", "laptop")
# Of a million positions of the LLM: a price to compare by, about that of a 70 B model in the cloud.
EUR = 0.60


def read_tasks(folder: Path, temperature: str) -> dict[str, Runs]:
    return {task: runs for task in TASKS if (runs := Runs.read(folder, task, temperature))}


def gather_rows(runs: dict[str, Runs]) -> list[Row]:
    """Every paired answer, the LLM's and the SLM's first, then of what is exact."""
    names = {name for one in runs.values() for name in one.answers}

    def order(name: str) -> tuple[int, str]:
        return (LEADING.index(name) if name in LEADING else len(LEADING), name)

    return [
        row | {"system": shorten(f"{name} #1"), "of": task}
        for name in sorted(names, key=order)
        for task, one in runs.items()
        for row in one.pair_up(name)
    ]


def show_percent(value: float) -> str:
    return f"{value:.0%}"


def show_relative(rows: Rows) -> str | None:
    """Accuracy over the LLM's, with its interval where resampling gives one."""
    relative = MEASURES["relative"](rows)
    low, high = MEASURES["interval"](rows)
    if relative is None:
        return None
    known = not np.isnan([low, high]).any() and low != high
    return f"{relative:.1%}" + (f" ({low:.0%} to {high:.0%})" if known else "")


def tabulate_systems(folder: Path, temperature: str) -> str:
    """Every system at one temperature: both tasks' accuracy, and what both took together."""
    runs = read_tasks(folder, temperature)

    def count(rows: Rows) -> str:
        return " + ".join(str(sum(row["of"] == task for row in rows)) for task in runs)

    def judge(rows: Rows, task: str) -> Any:
        return MEASURES["accuracy"]([row for row in rows if row["of"] == task])

    columns = [
        Column("system", first("system")),
        Column("n", count),
        Column("skipped", MEASURES["skipped"], ".1%"),
        *(Column(task, partial(judge, task=task), ".0%") for task in runs),
        Column("accuracy over llm's", show_relative),
        Column("risk", MEASURES["risk"], ".2%"),
        Column("up B", MEASURES["up"], ".1f"),
        Column("passes", MEASURES["passes"], ".2f"),
    ]
    return markdown(tabulate(gather_rows(runs), ("system",), columns))


def tabulate_speeds(folder: Path, temperature: str) -> str:
    """Tokens/s of every system on the paper's channel, and how many times hlm's."""
    rows = gather_rows(read_tasks(folder, temperature))
    reference = [row for row in rows if row["system"] == REFERENCE]
    columns = [Column("tokens/s (over hlm)", first("system")), Column("n", len)]
    for snr, hz in CHANNELS:
        speed = ratio("tokens", partial(time_answer, snr_db=snr, bandwidth_hz=hz))

        def over(value: float, base: float = speed(reference)) -> str:
            return f"{value:.3g} ({value / base:,.3g}x)"

        columns.append(Column(f"{snr:g} dB, {hz / 1e6:g} MHz", speed, over))
    return markdown(tabulate(rows, ("system",), columns))


def tabulate_measures(folder: Path) -> str:
    """Fits and areas of the measures and of the noised margin on the same answers.

    The mean over both tasks, weighted by their tokens.
    """
    header, entries = read_journal(folder / "measures.jsonl", "measures")
    head = ["measure"]
    lines = [[name] for name in entries[0]["measures"]]
    noised = ["noised margin of `hedge`"]
    for temperature in TEMPERATURES:
        mine = [entry for entry in entries if entry["temperature"] == float(temperature)]
        areas = [margin_auc(folder, entry, int(header["studied"])) for entry in mine]

        def average(values: Sequence[float], mine: Rows = mine) -> str:
            weights = [entry["tokens"] for entry in mine]
            return f"{np.average(values, weights=weights):.3f}" if mine else "-"

        for line in lines:
            for key in ("r2_beta", "auc"):
                line.append(average([entry["measures"][line[0]][key] for entry in mine]))
        noised += ["-", average(areas)]
        head += [f"T {temperature}: R^2", f"T {temperature}: AUC"]
    return markdown([head, *lines, noised])


def margin_auc(folder: Path, where: Row, studied: int) -> float:
    """Of the noised margin of a draft, for drafts that are not the LLM's."""
    entries = read_journal(folder / "traces.jsonl", "traces")[1]
    key = (where["task"], where["temperature"])
    mine = [entry for entry in entries if (entry["task"], entry["temperature"]) == key]
    mine = sorted(mine, key=lambda entry: int(entry["question"]))[:studied]
    margins = np.concatenate([np.asarray(entry["margin"]) for entry in mine])
    return auc(-margins, 1 - np.concatenate([np.asarray(entry["accepted"]) for entry in mine]))


def tabulate_savings(rows: Rows) -> str:
    """hedge on recorded answers over emulated devices and links, against the LLM's stream."""
    columns = [
        Column("T", first("temperature"), "g"),
        Column("device", first("profile")),
        Column("round trip", first("round_trip"), show_ms),
        Column("passes", first("passes"), ".2f"),
        Column("positions", first("positions"), ".2f"),
        Column("SLM steps", first("steps"), ".2f"),
        Column("J", first("joules"), ".3f"),
        Column("EUR/M", first(lambda row: EUR * row["positions"]), ".2f"),
        Column("speed over llm", first("speed"), ".2f"),
    ]
    shown = [row for row in rows if row.get("profile") in PROFILES and row["round_trip"]]
    return markdown(tabulate(shown, ("temperature", "profile", "round_trip"), columns))


def tabulate_break_evens(rows: Rows) -> str:
    """The round trip below which hedge is faster than the LLM's stream, by answers and device."""
    columns = [
        Column("answers", first("answers")),
        Column("T", first("temperature"), "g"),
        Column("n", first("count")),
        Column("drafts accepted", first("accepted"), ".1%"),
    ]
    for name in (*PROFILES, CPU):

        def find(row: Row, name: str = name) -> str:
            return "never" if row[name] is None else show_ms(row[name])

        columns.append(Column(name, first(find)))
    shown = [row for row in rows if row["what"] == "break-even"]
    return markdown(tabulate(shown, ("answers", "temperature"), columns))


def read_headline(page: Path, name: str) -> list[str]:
    """Of the bundled pair at temperature 0, as its own tables on the page have it.

    Skipped, not sent, accuracy, and over hlm at -10 dB.
    """
    system = _read_line(page, name, 8)
    sent = 1 - paper_bits(32000, KEPT) / paper_bits(32000, 32000)
    return [system[2], f"{sent:.2%}", system[4].split(" ")[0], _read_speed(page, name)]


def _read_speed(page: Path, name: str) -> str:
    return _read_line(page, name, 6)[1].partition("(")[2].strip(")")


def _read_line(page: Path, name: str, columns: int) -> list[str]:
    """The first line of that name and width; the tables of temperature 0 come first."""
    lines = page.read_text("utf-8").partition("<!-- begin headline -->")[2].splitlines()
    rows = ([cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines)
    return next(row for row in rows if row[0] == name and len(row) == columns)


def tabulate_claims(folder: Path, page: Path) -> str:
    """The abstract of the paper beside both pairs at temperature 0.

    cu-hlm as published, and gated by margin.
    """
    runs = read_tasks(folder, "0")
    measures = MEASURES | {"compression": measure_unsent(next(iter(runs.values())).vocab_size)}

    def real(name: str) -> dict[str, Any]:
        return aggregate([row for one in runs.values() for row in one.pair_up(name)], measures)

    hlm = real(REFERENCE)["tokens_per_s"]
    llm = real("llm")["tokens_per_s"]
    columns = [
        [
            "cu-hlm",
            "transmissions skipped",
            "vocabulary not sent",
            "accuracy over llm's",
            "throughput over hlm's",
            "the same, if every pass takes 52 ms",
            "throughput of `llm` over hlm's",
            "answers",
        ],
        ["paper", "74.8%", "97.4%", "97.4%", "206x", "-", "-", ""],
    ]
    for title, name in (("", "cu-hlm"), (", margin 0.76", "cu-hlm:margin,skip 0.76")):
        cells = [*read_headline(page, name), "-", _read_speed(page, "llm"), "1000"]
        columns.append([f"bundled{title}", *cells])
    for title, name in (("", "cu-hlm"), (", margin 0.58", PAPER_SHARE)):
        own = real(name)
        shares = [f"{own['skipped']:.1%}", f"{own['compression']:.2%}", f"{own['relative']:.1%}"]
        speeds = (own["tokens_per_s"], own["tokens_per_s_flat"], llm)
        times = [f"{speed / hlm:.0f}x" for speed in speeds]
        columns.append([f"real{title}", *shares, *times, str(own["answers"])])
    return markdown(transpose(columns))


# A pair's rows, and what they were asked.
SHOWN = (
    ("bundled: worked questions", "bundled", "questions"),
    ("bundled: tales, its bad case", "bundled", "tales"),
    ("Qwen2.5-Coder: GSM8K", "real", "gsm8k"),
    ("Qwen2.5-Coder: HumanEval", "real", "humaneval"),
)


def tabulate_first(results: Path) -> str:
    """Per token at temperature 0: the median answer and the worst tenth; how many are llm's."""
    lines = []
    for label, folder, task in SHOWN:
        runs = Runs.read(results / folder, task, "0")
        if runs is None or not (rows := runs.pair_up(HEDGE)):
            continue
        cells = [label]
        for key in ("rounds", "positions", "messages"):
            values = [row[key] / row["tokens"] for row in rows]
            cells.append(f"{np.median(values):.2f} ({np.quantile(values, 0.9):.2f})")
        same = sum(row["digest"] == row["llm"]["digest"] for row in rows)
        lines.append([*cells, f"{same} of {len(rows)}"])
    head = ("pair and task", "passes", "positions", "bytes up", "llm's tokens")
    return markdown([head, *lines])


def make_parts(results: Path) -> Pages:
    real = results / "real"
    replays = read_journal(results / "replays.jsonl", "replays")[1]
    predicted = read_journal(results / "break-even.jsonl", "break-even")[1]
    return {
        "docs/results/exactness.md": {"exactness": tabulate_exactness(results)},
        "docs/results/hedge.md": {
            "first": tabulate_first(results),
            "predicted": tabulate_predicted(predicted),
            "savings": tabulate_savings([row for row in replays if row["what"] == "savings"]),
            "break-even": tabulate_break_evens(replays),
        },
        "docs/results/paper.md": {
            **{f"real {t}": tabulate_systems(real, t) for t in TEMPERATURES},
            "claims": tabulate_claims(real, results / "paper.md"),
            "real speeds": tabulate_speeds(real, "0"),
            "real measures": tabulate_measures(real),
        },
    }
