"""The table of README: what `hedge` with its default settings cost where it was really run."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hedge.evaluation.record import read_journal
from hedge.evaluation.tables import Aggregate, Column, first, markdown, middle, ratio, tabulate

LINKS = {
    "direct": "none, one machine",
    "5 ms, 1 Mbit/s": "5 ms, 1 Mbit/s",
    "100 ms, 1 Mbit/s": "100 ms, 1 Mbit/s",
}
BUNDLED = "bundled, its questions"
REAL = "Qwen2.5-Coder 0.5B, 1.5B"


def tabulate_default(results: Path) -> str:
    """Passes a token, speed over the LLM's own stream, and answers that are the LLM's own."""
    rows = [*_bundled(results / "link.jsonl"), *_real(results / "exact-gguf.jsonl")]
    columns = [
        Column("pair", first("pair")),
        Column("link", first("link")),
        *_at("T 0", lambda temperature: temperature == 0),
        *_at("T 0.7, 1", lambda temperature: temperature > 0),
        Column("the LLM's answers", _count_same),
    ]
    return markdown(tabulate(rows, ("pair", "link"), columns), left=2)


def _at(name: str, wanted: Callable[[float], bool]) -> list[Column]:
    """Passes and speed at the temperatures that are wanted."""

    def of(aggregate: Aggregate) -> Aggregate:
        return lambda rows: aggregate([row for row in rows if wanted(row["temperature"])])

    return [
        Column(f"passes, {name}", of(ratio("rounds", "tokens")), ".2f"),
        Column("speed", of(middle("speed")), ".2f"),
    ]


def _bundled(path: Path) -> Iterator[dict[str, Any]]:
    rows = read_journal(path, "bench-link")[1]
    for link, name in LINKS.items():
        here = [row for row in rows if row.get("link") == link]
        yield from _compare(here, {"pair": BUNDLED, "link": name})


def _real(path: Path) -> Iterator[dict[str, Any]]:
    rows = read_journal(path, "exact")[1]
    alone = [row for row in rows if row["together"] == 1]
    yield from _compare(alone, {"pair": REAL, "link": "none, one CPU for both"})


def _compare(rows: list[dict[str, Any]], labels: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each answer of `hedge` beside that of `llm` to the same question, in the same order."""
    for temperature in sorted({row["temperature"] for row in rows}):
        both = [
            [row for row in rows if (row["temperature"], row["system"]) == (temperature, system)]
            for system in ("hedge", "llm")
        ]
        for own, llm in zip(*both, strict=True):
            speed = own["tokens"] / own["wall_s"] / (llm["tokens"] / llm["wall_s"])
            same = own["token_ids"] == llm["token_ids"]
            yield {**own, **labels, "speed": speed, "same": same}


def _count_same(rows: Sequence[Any]) -> str:
    return f"{sum(row['same'] for row in rows)} of {len(rows)}"
