"""The stage `traces` of the real pair: what the SLM makes of the LLM's answers."""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hedge.common.loading import load
from hedge.common.model import LanguageModel
from hedge.common.model_options import ModelOptions
from hedge.common.sampling import Warp
from hedge.edge_client.calibrations import load_calibration
from hedge.evaluation.break_even import trace_answer
from hedge.evaluation.record import Journal, read_journal
from research.findings import predictors
from research.harness import complete, show_progress
from research.results.pages import RESULTS
from research.results.real_rows import SEED, TASKS, TEMPERATURES, Row
from research.study import Context, study

OUT = RESULTS / "real"
MAX_NEW_TOKENS = 400
MEASURE = "perturbation"
# Answers whose tokens are looked at by every measure, of each task.
STUDIED = 8


def calibration_path(temperature: str) -> Path:
    return OUT / f"calibration-{temperature}.json"


class RecordedAnswer(NamedTuple):
    """Of the LLM."""

    task: int
    prompt_ids: list[int]
    token_ids: list[int]


def read_llm(task: str, temperature: str) -> list[Row]:
    path = OUT / f"{task}-{temperature}.jsonl"
    rows = read_journal(path, "real")[1] if path.exists() else []
    mine = [row for row in rows if row["run"].startswith("llm ")]
    return sorted(mine, key=lambda row: int(row["task"]))


def trace(args: argparse.Namespace) -> None:
    """Margins and acceptances of all answers, every measure of the first ones."""
    end = time.monotonic() + 60 * args.minutes
    options = ModelOptions(threads=1)
    slm = load(args.slm, "slm", options)
    llm = load(args.llm, "llm", options)
    models = {"slm": slm.fingerprint, "llm": llm.fingerprint}
    header = models | {"seed": SEED, "max_new_tokens": MAX_NEW_TOKENS}
    answers = {(task, t): read_llm(task, t) for t in TEMPERATURES for task in TASKS}

    def read_through(left: Sequence[tuple[str, str, Row]]) -> Iterator[Row]:
        for task, t, row in left:
            if time.monotonic() > end:
                return
            where = {"task": task, "temperature": float(t), "question": row["task"]}
            yield where | trace_answer(slm, row["prompt"], row["ids"], Warp(float(t)), SEED)

    def measure(left: Sequence[tuple[str, str]]) -> Iterator[Row]:
        for task, t in left:
            where = {"task": task, "temperature": float(t)}
            yield where | measure_answers(slm, llm, answers[task, t][:STUDIED], t)

    wanted = {
        (task, float(t), row["task"]): (task, t, row)
        for (task, t), rows in answers.items()
        for row in rows
    }
    traces = Journal(OUT / "traces.jsonl", {"kind": "traces"} | header, resume=True)
    complete(traces, ("task", "temperature", "question"), wanted, read_through, "traces")
    if time.monotonic() > end:
        return
    head = {"kind": "measures"} | header | {"studied": STUDIED}
    measures = Journal(OUT / "measures.jsonl", head, resume=True)
    studied = {(k[0], float(k[1])): k for k, rows in answers.items() if len(rows) >= STUDIED}
    complete(measures, ("task", "temperature"), studied, measure, "measures")


def measure_answers(slm: LanguageModel, llm: LanguageModel, rows: list[Row], t: str) -> Row:
    """How each measure of uncertainty predicts rejection."""
    fit = load_calibration(calibration_path(t)).fits[MEASURE]
    context = Context(slm, llm, Warp(float(t)), SEED, MEASURE, fit)
    answers = [RecordedAnswer(row["task"], row["prompt"], row["ids"]) for row in rows]
    entries = list(show_progress(study(context, answers, 0), len(answers), "measures"))
    return {"tokens": sum(len(entry["beta"]) for entry in entries), "measures": predictors(entries)}
