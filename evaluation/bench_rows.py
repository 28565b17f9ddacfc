"""What the answers of a bench come to: one row a profile, cell and system."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from hedge.evaluation.break_even import no_overlap
from hedge.evaluation.quality import RESAMPLES, relative_accuracy
from hedge.evaluation.record import AnswerRecord, parse_answer
from hedge.evaluation.tables import (
    Aggregate,
    Column,
    Field,
    aggregate,
    first,
    group,
    make_console,
    mean,
    short_number,
    show,
    tabulate,
    total,
)

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


def read_point(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry[name] for name in POINT)


def measure_speed(entry: dict[str, Any]) -> float:
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


def make_rows(
    entries: Iterable[dict[str, Any]], fidelity: Callable[[list[AnswerRecord]], float] | None = None
) -> list[dict[str, Any]]:
    """Medians over answers for times, sums over sums for what is per token.

    `fidelity` judges the answers of a row.
    """
    parsed = [entry | {"record": parse_answer(entry["answer"])} for entry in entries]
    groups = group(parsed, (*POINT, "system"))
    judged: dict[tuple[Any, ...], float | None] = {}
    rows = []
    for (*where, system), mine in groups.items():
        answers = [entry["record"] for entry in mine]
        theirs = [entry["record"] for entry in groups.get((*where, "llm"), [])]
        words = (system, tuple(tuple(answer.token_ids) for answer in answers))
        if words not in judged:
            spoken = [answer for answer in answers if answer.token_ids]
            judged[words] = fidelity(spoken) if fidelity and spoken else None
        rows.append(
            dict(zip(POINT, where, strict=True))
            | {"system": system}
            | aggregate(mine, MEASURES)
            | _compare(answers, theirs)
            | {"fidelity": judged[words]}
        )
    return rows


def _tokens(entry: dict[str, Any]) -> int:
    return len(entry["record"].token_ids)


def _per_token(field: Field) -> Aggregate:
    return lambda entries: total(field)(entries) / max(1, total(_tokens)(entries))


def _count_bytes(way: int) -> Aggregate:
    """Socket bytes a token, of the answers that know theirs."""

    def measure(entries: Sequence[dict[str, Any]]) -> float | None:
        known = [entry["sockets"][way] for entry in entries if entry["sockets"]]
        return sum(known) / max(1, total(_tokens)(entries)) if known else None

    return measure


def _speed_interval(index: int) -> Aggregate:
    return lambda entries: median_interval([measure_speed(entry) for entry in entries])[index]


def _gap_ms(share: float) -> Aggregate:
    """A quantile of the milliseconds between two tokens."""

    def measure(entries: Sequence[dict[str, Any]]) -> float:
        gaps = [np.diff(entry["released"]) for entry in entries if len(entry["released"]) > 1]
        return float(np.quantile(np.concatenate(gaps or [np.zeros(1)]), share)) * 1e3

    return measure


def _first_s(entries: Sequence[dict[str, Any]]) -> float:
    return float(np.median([e["released"][0] for e in entries if e["released"]] or [np.nan]))


def _joules(entries: Sequence[dict[str, Any]]) -> float | None:
    known = entries[0]["joules"] is not None
    return float(_per_token("joules")(entries)) if known else None


MEASURES: dict[str, Aggregate] = {
    "answers": len,
    "partial": total("partial"),
    "tokens_per_s": _speed_interval(0),
    "low": _speed_interval(1),
    "high": _speed_interval(2),
    "first_s": _first_s,
    "gap_p50_ms": _gap_ms(0.5),
    "gap_p95_ms": _gap_ms(0.95),
    "up": _count_bytes(0),
    "down": _count_bytes(1),
    "up_payload": _per_token(lambda entry: entry["payload"][0]),
    "down_payload": _per_token(lambda entry: entry["payload"][1]),
    "rounds": _per_token(lambda entry: len(entry["record"].log)),
    "positions": _per_token(lambda entry: sum(one.positions for one in entry["record"].log)),
    "cloud_s": _per_token("cloud_s"),
    "steps": _per_token(lambda entry: entry["record"].steps),
    "slm_s": _per_token(lambda entry: entry["record"].slm_s),
    "joules": _joules,
    "exact_match": mean(lambda entry: entry["record"].correct),
}


def _compare(answers: Sequence[AnswerRecord], theirs: Sequence[AnswerRecord]) -> dict[str, Any]:
    """Beside the LLM's answers: accuracy, and the share that is the same token for token."""
    relative = relative_accuracy(answers, theirs) if theirs else None
    pairs = zip(answers, theirs, strict=False)
    whole = [(a, b) for a, b in pairs if a.token_ids and b.token_ids]
    return {
        "relative_accuracy": relative and relative[0],
        "same": mean(lambda pair: pair[0].token_ids == pair[1].token_ids)(whole),
    }


def group_cells(rows: Sequence[dict[str, Any]]) -> Cells:
    """The rows of every cell, by system."""
    found: Cells = {}
    for row in rows:
        found.setdefault(read_point(row), {})[row["system"]] = row
    return found


def find_winner(cell: dict[str, dict[str, Any]], least: float = KEPT) -> str:
    """The fastest system of a cell that keeps at least so much of the LLM's accuracy."""
    good = [row for row in cell.values() if (row["relative_accuracy"] or 0.0) >= least]
    return str(max(good, key=lambda row: float(row["tokens_per_s"]))["system"]) if good else "none"


def link_name(rate: float, round_trip: float, outage: str) -> str:
    up = f"{rate / 1e6:g} Mbit/s" if rate else "no limit"
    return f"{up}, {round_trip * 1e3:g} ms" + ("" if outage == "none" else f", outage {outage}")


def cell_name(where: tuple[Any, ...]) -> str:
    return f"{where[0]}: {link_name(*where[1:])}"


def name_system(row: dict[str, Any], name: Callable[[str], str] = str) -> str:
    """The system of a row, and how many of its answers were cut off."""
    cut = f" ({row['partial']} of {row['answers']} cut off)" if row["partial"] else ""
    return name(row["system"]) + cut


def show_rows(rows: Sequence[dict[str, Any]]) -> None:
    columns = [
        Column("system", first(name_system)),
        *(Column(title, first(name), short_number) for name, title in COLUMNS.items()),
    ]
    for where, systems in group_cells(rows).items():
        show(tabulate(systems.values(), ("system",), columns), title=cell_name(where))
        if line := break_even_line(systems):
            make_console().print(line)


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
