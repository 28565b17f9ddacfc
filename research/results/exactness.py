"""How many answers of hedge are llm's, token for token, by engine of the cloud."""

from dataclasses import dataclass
from pathlib import Path

from hedge.evaluation.record import read_journal
from hedge.evaluation.tables import Column, first, markdown, tabulate
from research.results.real_rows import HEDGE, TASKS, TEMPERATURES, Row, Rows, Runs

DTYPES = {
    "bfloat16": "torch, bfloat16, reproducible",
    "float32": "torch, float32, plain",
    "Q4_K_M": "llama.cpp, Q4_K_M, reproducible",
}


@dataclass(frozen=True)
class Agreement:
    """Of an engine: `same` of `total` answers of hedge are llm's; `near_ties` in all of them."""

    engine: str
    temperatures: str
    same: int
    total: int
    near_ties: int


def count_agreements(results: Path) -> list[Agreement]:
    found = []
    exact = [
        row
        for name in ("exact", "exact-gguf")
        for row in read_journal(results / f"{name}.jsonl", "exact")[1]
    ]
    for dtype, engine in DTYPES.items():
        found.append(_compare(engine, [row for row in exact if row["dtype"] == dtype], "question"))
    served = read_journal(results / "vllm.jsonl", "bench-vllm")[1]
    found.append(_compare("vLLM, bfloat16", served, "question"))
    alone = [
        row | {"system": name, "temperature": 0.0}
        for name in ("llm", "hedge")
        for row in read_journal(results / "gsm8k" / f"answers-{name}.jsonl", "answers")[1]
    ]
    found.append(_compare("llama.cpp, Q4_K_M, one device", alone, "task"))
    for temperature in TEMPERATURES:
        together = _read_together(results / "real", temperature)
        if any(row["system"] == "hedge" for row in together):
            found.append(_compare("llama.cpp, Q4_K_M, many at once", together, "number"))
    return found


def _read_together(folder: Path, temperature: str) -> list[Row]:
    """The real pair's kept answers, in the fields of the others."""
    return [
        row
        | {
            "system": name,
            "temperature": float(temperature),
            "number": (task, number),
            "token_ids": row["digest"],
        }
        for task in TASKS
        if (runs := Runs.read(folder, task, temperature))
        for name, run in (("llm", "llm"), ("hedge", HEDGE))
        for number, row in runs.answers.get(run, {}).items()
    ]


def _compare(engine: str, rows: Rows, key: str) -> Agreement:
    llm = {(row["temperature"], row[key]): row for row in rows if row["system"] == "llm"}
    mine = [row for row in rows if row["system"] == "hedge"]
    mine = [row for row in mine if (row["temperature"], row[key]) in llm]
    same = sum(row["token_ids"] == llm[row["temperature"], row[key]]["token_ids"] for row in mine)
    temperatures = " and ".join(f"{t:g}" for t in sorted({row["temperature"] for row in mine}))
    near_ties = sum(row.get("near_ties", 0) for row in mine)
    return Agreement(engine, temperatures, same, len(mine), near_ties)


def tabulate_exactness(results: Path) -> str:
    def near_ties(row: Agreement) -> float | None:
        return None if row.engine.endswith("reproducible") else row.near_ties / row.total

    columns = [
        Column("LLM in the cloud", first(lambda row: row.engine)),
        Column("T", first(lambda row: row.temperatures)),
        Column("answers that are llm's", first(lambda row: f"{row.same} of {row.total}")),
        Column("near ties an answer", first(near_ties), ".1f"),
    ]
    return markdown(tabulate(count_agreements(results), (id,), columns))
