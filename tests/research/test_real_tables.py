"""What the tables of the real pair say of kept rows."""

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedge.edge_client.engine.statistics import Round
from hedge.evaluation.record import AnswerRecord, Journal
from hedge.evaluation.tables import aggregate
from research.channel import Channel, open_uplink
from research.clock import Clock, Times, bits_of, replay
from research.results.exactness import count_agreements
from research.results.real_rows import (
    BANDWIDTH_HZ,
    HEDGE,
    MEASURED,
    MEASURES,
    SNR_DB,
    Runs,
    condense,
    measure_unsent,
    time_answer,
)
from research.results.real_tables import tabulate_first

VOCAB = 152_000


def answer(
    task: int, tokens: list[int], log: list[Round], *, correct: bool, skipped: int = 0
) -> AnswerRecord:
    provenance = ["local"] * skipped + ["accepted"] * (len(tokens) - skipped)
    return AnswerRecord(
        task=task,
        family="gsm8k",
        prompt="",
        reference=None,
        text="",
        correct=correct,
        prompt_ids=[1, 2],
        token_ids=tokens,
        provenance=provenance,
        log=log,
        steps=sum(round_.drafted for round_ in log) + 1,
        audited=len(tokens),
        risk=0.5,
        slm_s=1.0,
        wall_s=1.0,
        codec_bytes=0,
        payload_bytes=(100, 50),
        socket_bytes=None,
        near_ties=2,
    )


LOG = [Round(3, 30, 12, 4, 0.1), Round(2, VOCAB, 40, 2, 0.1)]


def test_seconds_of_a_kept_row_are_those_of_its_rounds() -> None:
    found = answer(0, [5, 6, 7], LOG, correct=True)
    uplink = open_uplink(Channel(BANDWIDTH_HZ, SNR_DB, "none", 0.01, 0.0), np.random.default_rng(0))
    times = Times(MEASURED.slm_s, MEASURED.llm_s, MEASURED.llm_position_s)
    seconds = replay(
        Clock(times, uplink),
        found.log,
        [bits_of(round_, "paper", VOCAB, VOCAB) for round_ in LOG],
        found.steps,
    )
    row = condense(found, VOCAB, with_ids=False)
    assert time_answer(row) == pytest.approx(seconds)
    # Two passes, six positions.
    assert time_answer(row) - time_answer(row, flat=True) == pytest.approx(
        4 * MEASURED.llm_position_s
    )


def written(folder: Path, task: str, runs: dict[str, list[AnswerRecord]]) -> None:
    journal = Journal(
        folder / f"{task}-0.jsonl", {"kind": "real", "vocab_size": VOCAB}, resume=False
    )
    for name, answers in runs.items():
        for one in answers:
            journal.append({"run": f"{name} #1"} | condense(one, VOCAB, with_ids=name == "llm"))


def test_runs_are_compared_question_by_question(tmp_path: Path) -> None:
    llm = [answer(n, [n, 1, 2, 3], [Round(0, 0, 0, 1, 0.1)] * 4, correct=n != 1) for n in range(3)]
    own = [
        answer(0, [0, 1, 2, 3], LOG, correct=True),
        answer(1, [9, 9, 9, 9], LOG, correct=True, skipped=2),
    ]
    written(tmp_path, "gsm8k", {"llm": llm, "cu-hlm": own})
    runs = Runs.read(tmp_path, "gsm8k", "0")
    assert runs is not None
    pairs = runs.pair_up("cu-hlm")
    found = aggregate(pairs, MEASURES | {"compression": measure_unsent(VOCAB)})
    assert [row["llm"]["task"] for row in pairs] == [0, 1]
    assert (found["accuracy"], found["relative"], found["skipped"], found["passes"]) == (
        1.0,
        2.0,
        0.25,
        0.5,
    )
    assert (found["same"], found["near_ties"], found["up"]) == (0.5, 4, 13.0)
    # One distribution of 30 entries and a whole one, for three tokens each that were not skipped.
    assert found["compression"] == pytest.approx(1 - (30 + VOCAB) * 2 / 6 / VOCAB)
    assert Runs.read(tmp_path, "gsm8k", "1") is None


def test_the_first_table_has_the_median_and_the_worst_tenth(tmp_path: Path) -> None:
    folder = tmp_path / "bundled"
    llm = [answer(n, [n] * 10, [Round(0, 0, 0, 1, 0.1)] * 10, correct=True) for n in range(11)]
    own = [
        answer(n, [n if n else 99] * 10, [Round(1, 0, 5, 2, 0.1)] * (n + 1), correct=True)
        for n in range(11)
    ]
    written(folder, "questions", {"llm": llm, HEDGE: own})
    written(tmp_path / "real", "gsm8k", {"llm": llm, HEDGE: own})
    shown = tabulate_first(tmp_path)
    assert "questions | 0.60 (1.00) | 1.20 (2.00) | 3.00 (5.00) | 10 of 11 |" in shown
    assert "GSM8K | 0.60 (1.00) | 1.20 (2.00) | 3.00 (5.00) | 10 of 11 |" in shown


def test_agreement_is_by_engine_and_question(tmp_path: Path) -> None:
    def rows(name: str, kind: str, entries: list[dict[str, Any]]) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            "".join(json.dumps(entry) + "\n" for entry in [{"version": 2, "kind": kind}, *entries])
        )

    def entry(system: str, number: int, ids: list[int], **more: object) -> dict[str, Any]:
        return {
            "system": system,
            "temperature": 0.0,
            "question": number,
            "task": number,
            "token_ids": ids,
            "near_ties": 1,
        } | more

    both = [
        entry("llm", 0, [1]),
        entry("hedge", 0, [1]),
        entry("llm", 1, [1]),
        entry("hedge", 1, [2]),
        entry("hedge", 2, [3]),
    ]
    rows(
        "exact.jsonl",
        "exact",
        [one | {"dtype": dtype} for dtype in ("bfloat16", "float32") for one in both],
    )
    rows("exact-gguf.jsonl", "exact", [one | {"dtype": "Q4_K_M"} for one in both])
    rows("vllm.jsonl", "bench-vllm", both[:2])
    rows("gsm8k/answers-llm.jsonl", "answers", [entry("", 0, [4])])
    rows("gsm8k/answers-hedge.jsonl", "answers", [entry("", 0, [4])])
    llm = [answer(0, [1], [], correct=True)]
    written(tmp_path / "real", "gsm8k", {"llm": llm, HEDGE: llm})
    assert [astuple(found)[1:] for found in count_agreements(tmp_path)] == [
        ("0", 1, 2, 2),
        ("0", 1, 2, 2),
        ("0", 1, 2, 2),
        ("0", 1, 1, 1),
        ("0", 1, 1, 1),
        ("0", 1, 1, 2),
    ]
