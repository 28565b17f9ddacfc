"""What the answers of a bench come to: one row a profile, cell and system."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from hedge.evaluation.break_even import no_overlap
from hedge.evaluation.quality import RESAMPLES, relative_accuracy
from hedge.evaluation.record import AnswerRecord, parse_answer
from hedge.evaluation.tables import wide

Cells = dict[tuple[Any, ...], dict[str, dict[str, Any]]]
POINT = ("profile", "rate", "round_trip", "outage")
KEPT = 0.99
COLUMNS = {
    "tokens_per_s": "tokens/s",
    "first_s": "first token, s",
    "gap_p50_ms": "gap p50, ms",
    "gap_p95_ms": "gap p95, ms",
    "up": "up B/token",
    "down": "down B/token",
    "rounds": "round trips/token",
    "positions": "LLM positions/token",
    "cloud_s": "cloud s/token",
    "joules": "J/token",
    "relative_accuracy": "accuracy/LLM's",
    "same": "as llm",
}


def point(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry[name] for name in POINT)


def speed(entry: dict[str, Any]) -> float:
    """Tokens/s from the question to the last token, or to where the answer was cut off."""
    released = entry["released"]
    return (
        len(released) / (entry["answer"]["wall_s"] if entry["partial"] else released[-1])
        if released
        else 0.0
    )


def median_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """The median, and its 95 % bootstrap interval."""
    array = np.asarray(values, dtype=float)
    picked = np.random.default_rng(seed).integers(0, len(array), (RESAMPLES, len(array)))
    low, high = np.quantile(np.median(array[picked], axis=1), [0.025, 0.975])
    return float(np.median(array)), float(low), float(high)


def rows_of(
    entries: Iterable[dict[str, Any]], fidelity: Callable[[list[AnswerRecord]], float] | None = None
) -> list[dict[str, Any]]:
    """Medians over answers for times, sums over sums for what is per token; `fidelity` judges the
    answers of a row.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault((*point(entry), entry["system"]), []).append(entry)
    judged: dict[tuple[Any, ...], float | None] = {}
    rows = []
    for (*where, system), mine in groups.items():
        answers = [parse_answer(entry["answer"]) for entry in mine]
        theirs = [parse_answer(entry["answer"]) for entry in groups.get((*where, "llm"), [])]
        words = (system, tuple(tuple(answer.token_ids) for answer in answers))
        if words not in judged:
            spoken = [answer for answer in answers if answer.token_ids]
            judged[words] = fidelity(spoken) if fidelity and spoken else None
        rows.append(
            dict(zip(POINT, where, strict=True))
            | {"system": system}
            | _row(mine, answers, theirs, judged[words])
        )
    return rows


def _row(
    entries: Sequence[dict[str, Any]],
    answers: Sequence[AnswerRecord],
    theirs: Sequence[AnswerRecord],
    fidelity: float | None,
) -> dict[str, Any]:
    tokens = max(1, sum(len(answer.token_ids) for answer in answers))
    rate, low, high = median_interval([speed(entry) for entry in entries])
    gaps = np.concatenate(
        [np.diff(entry["released"]) for entry in entries if len(entry["released"]) > 1]
        or [np.zeros(1)]
    )
    known = [entry["sockets"] for entry in entries if entry["sockets"]]
    whole = [(a, b) for a, b in zip(answers, theirs, strict=False) if a.token_ids and b.token_ids]
    right = [answer.correct for answer in answers if answer.correct is not None]
    relative = relative_accuracy(answers, theirs) if theirs else None
    up, down = (sum(pair[way] for pair in known) / tokens if known else None for way in (0, 1))
    return {
        "answers": len(entries),
        "partial": sum(entry["partial"] for entry in entries),
        "tokens_per_s": rate,
        "low": low,
        "high": high,
        "first_s": float(
            np.median([entry["released"][0] for entry in entries if entry["released"]] or [np.nan])
        ),
        "gap_p50_ms": float(np.quantile(gaps, 0.5)) * 1e3,
        "gap_p95_ms": float(np.quantile(gaps, 0.95)) * 1e3,
        "up": up,
        "down": down,
        "up_payload": sum(entry["payload"][0] for entry in entries) / tokens,
        "down_payload": sum(entry["payload"][1] for entry in entries) / tokens,
        "rounds": sum(len(answer.log) for answer in answers) / tokens,
        "positions": sum(round_.positions for answer in answers for round_ in answer.log) / tokens,
        "cloud_s": sum(entry["cloud_s"] for entry in entries) / tokens,
        "steps": sum(answer.steps for answer in answers) / tokens,
        "slm_s": sum(answer.slm_s for answer in answers) / tokens,
        "joules": None
        if entries[0]["joules"] is None
        else sum(entry["joules"] for entry in entries) / tokens,
        "exact_match": sum(right) / len(right) if right else None,
        "relative_accuracy": None if relative is None else relative[0],
        "same": sum(a.token_ids == b.token_ids for a, b in whole) / len(whole) if whole else None,
        "fidelity": fidelity,
    }


def cells(rows: Sequence[dict[str, Any]]) -> Cells:
    """The rows of every cell, by system."""
    found: Cells = {}
    for row in rows:
        found.setdefault(point(row), {})[row["system"]] = row
    return found


def winner(cell: dict[str, dict[str, Any]], least: float = KEPT) -> str:
    """The fastest system of a cell that keeps at least so much of the LLM's accuracy."""
    good = [row for row in cell.values() if (row["relative_accuracy"] or 0.0) >= least]
    return str(max(good, key=lambda row: float(row["tokens_per_s"]))["system"]) if good else "none"


def link_name(rate: float, round_trip: float, outage: str) -> str:
    up = f"{rate / 1e6:g} Mbit/s" if rate else "no limit"
    return f"{up}, {round_trip * 1e3:g} ms" + ("" if outage == "none" else f", outage {outage}")


def cell_name(where: tuple[Any, ...]) -> str:
    return f"{where[0]}: {link_name(*where[1:])}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def show(rows: Sequence[dict[str, Any]]) -> None:
    for where, systems in cells(rows).items():
        table = Table(title=cell_name(where))
        for heading in ("system", *COLUMNS.values()):
            table.add_column(heading, justify="left" if heading == "system" else "right")
        for system, row in systems.items():
            cut = f" ({row['partial']} of {row['answers']} cut off)" if row["partial"] else ""
            table.add_row(system + cut, *(number(row[name]) for name in COLUMNS))
        wide().print(table)
        if line := break_even_line(systems):
            wide().print(line)


def break_even_line(systems: dict[str, dict[str, Any]]) -> str | None:
    """From what hedge and llm did in a cell: the round trip up to which hedge would be ahead if
    nothing overlapped.
    """
    hedge = systems.get("hedge")
    llm = systems.get("llm")
    if hedge is None or llm is None or not hedge["rounds"] or not hedge["steps"]:
        return None
    steps = hedge["steps"]
    passes = hedge["rounds"]
    seconds = no_overlap(
        steps, passes, hedge["slm_s"] / steps, llm["cloud_s"], hedge["cloud_s"] / passes
    )
    trip = f"below {1e3 * seconds:.0f} ms there and back" if seconds > 0 else "at no round trip"
    counts = f"{steps:.2f} steps and {passes:.2f} passes a token"
    return f"hedge is faster than llm {trip}, if steps and messages did not overlap ({counts})"
