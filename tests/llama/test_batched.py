"""Many answers at once: the same tokens as one at a time, and rows that are those of a fresh
forward.
"""

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedge.common.errors import BadInput, HedgeError
from hedge.common.llama_model import LlamaModel
from hedge.common.loading import load
from hedge.common.model import BUNDLED, LanguageModel
from hedge.common.sampling import Warp
from hedge.edge_client.config import GateConfig, SamplingParams
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import SYSTEMS, GenerationConfig
from hedge.evaluation.local import LocalLink
from hedge.evaluation.tasks import read_tasks
from research.batched import answer_batched
from research.batched_models import BatchedModel, PassQueue, Request, Worker
from research.jobs import Job
from tests.integration.conftest import hedge

QUESTIONS = read_tasks(None, 6, 0)
CONTEXT = 256
NEAR = 2e-3


def greedy(system: str, **gate: object) -> GenerationConfig:
    config = SYSTEMS[system]
    gates = replace(config.gate, **gate) if gate else config.gate
    return replace(
        config, gate=gates, sampling=SamplingParams(Warp(0.0), seed=1, max_new_tokens=60)
    )


RUNS = {
    "llm": greedy("llm"),
    "hlm": greedy("hlm"),
    "hedge": replace(greedy("hedge"), gate=GateConfig("survival", threshold=0.4)),
    "cu-hlm": greedy("cu-hlm", measure="margin", threshold=0.05),
    "slm": greedy("slm"),
}


async def drained(session: Session) -> list[int]:
    await session.run()
    return session.token_ids


def test_answers_at_once_are_those_of_one_at_a_time(slm: LanguageModel, llm: LanguageModel) -> None:
    left = [Job(index, task, tuple(RUNS)) for index, task in enumerate(QUESTIONS)]
    found = {
        (run, answer.task): answer for run, answer in answer_batched(slm, llm, RUNS, left, 3, NEAR)
    }
    assert len(found) == len(QUESTIONS) * len(RUNS)
    for index, task in enumerate(QUESTIONS):
        for name, config in RUNS.items():
            alone = Session(slm, slm.encode_chat(task.prompt.messages), config, LocalLink(llm))
            assert asyncio.run(drained(alone)) == found[name, index].token_ids
            assert found[name, index].correct is not None
        assert found["hedge", index].token_ids == found["llm", index].token_ids


def test_a_row_is_computed_once(
    slm: LanguageModel, llm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hlm needs of the LLM is what llm has seen; hedge, which is exact, sees rows that are
    computed afresh.
    """
    rows: dict[str, int] = {}
    run = BatchedModel.run

    def counted(self: BatchedModel, requests: list[Request]) -> list[np.ndarray]:
        rows[self.name] = rows.get(self.name, 0) + sum(request.rows for request in requests)
        return run(self, requests)

    monkeypatch.setattr(BatchedModel, "run", counted)

    def needed(*names: str) -> tuple[int, int]:
        rows.clear()
        found = list(answer_batched(slm, llm, RUNS, [Job(0, QUESTIONS[0], names)], 1))
        assert len(found) == len(names)
        return rows.get(slm.name, 0), rows.get(llm.name, 0)

    (_, streamed), (drafted, verified) = needed("llm"), needed("llm", "hlm")
    assert verified == streamed > 10
    assert drafted >= streamed - 1
    assert needed("llm", "hlm", "hedge")[1] >= verified + streamed
    assert needed("llm", "hlm", "hedge")[0] - drafted < 10


def one_worker(lm: LanguageModel) -> tuple[BatchedModel, Worker]:
    assert isinstance(lm, LlamaModel)
    worker = Worker(0)
    model = BatchedModel(lm, PassQueue(1), 1, CONTEXT)
    model.work_as(worker)
    return model, worker


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_rows_after_any_rollback_are_those_of_a_fresh_forward(
    slm: LanguageModel, data: st.DataObject
) -> None:
    model, _ = one_worker(slm)
    caches = [model.kv_cache(), model.kv_cache()]
    held: list[list[int]] = [[], []]
    for _ in range(data.draw(st.integers(1, 8))):
        which = data.draw(st.integers(0, 1))
        cache = caches[which]
        ids = held[which]
        if ids and data.draw(st.booleans()):
            length = data.draw(st.integers(0, len(ids)))
            cache.rollback(length)
            del ids[length:]
        new = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=6))
        rows = data.draw(st.integers(0, len(new)))
        found = cache.forward(new, rows)
        ids += new
        assert cache.length == len(ids)
        if rows:
            np.testing.assert_allclose(found, slm.kv_cache().forward(ids, rows), atol=NEAR)
    with pytest.raises(ValueError, match="roll"):
        caches[0].rollback(len(held[0]) + 1)


def test_a_context_that_is_full_is_said_so(slm: LanguageModel) -> None:
    model, _ = one_worker(slm)
    with pytest.raises(HedgeError, match="257 tokens in a context of 256"):
        model.kv_cache().forward([1] * 257)


def test_a_pass_that_fails_fails_for_all_who_wait(
    slm: LanguageModel, llm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: BatchedModel, requests: object) -> list[np.ndarray]:
        raise HedgeError("no memory")

    monkeypatch.setattr(BatchedModel, "run", broken)
    left = [Job(index, task, ("llm",)) for index, task in enumerate(QUESTIONS)]
    before = threading.active_count()
    with pytest.raises(HedgeError, match="no memory"):
        list(answer_batched(slm, llm, RUNS, left, 3))
    assert threading.active_count() == before


def test_who_stops_listening_leaves_nobody_at_work(slm: LanguageModel, llm: LanguageModel) -> None:
    before = threading.active_count()
    left = [Job(index, task, tuple(RUNS)) for index, task in enumerate(QUESTIONS)]
    found = answer_batched(slm, llm, RUNS, left, 3)
    assert next(found)[0] == "llm"
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert not list(answer_batched(slm, llm, RUNS, left, 3, end=0.0))


def test_a_study_at_once_goes_on_where_it_ended(files: dict[str, Path], tmp_path: Path) -> None:
    task = tmp_path / "sums.jsonl"
    asked = [
        {"prompt": f"What is {n} + 5?", "reference": str(n + 5), "judge": "last-number"}
        for n in range(40, 44)
    ]
    task.write_text("".join(json.dumps(one) + "\n" for one in asked))
    command = [
        "simulate",
        "--batch",
        "3",
        "--out",
        str(tmp_path / "out"),
        "--seed",
        "1",
        "--temperature",
        "0",
        "--json",
    ]
    command += [
        "--slm",
        str(files["slm"]),
        "--llm",
        str(files["llm"]),
        "--task",
        str(task),
        "--snr",
        "0",
        "--bandwidth",
        "1e6",
    ]
    command += [
        "--tau-slm",
        "0.01",
        "--tau-llm",
        "0.02",
        "--difference",
        "0.001",
        "--systems",
        "llm",
        "hlm",
    ]
    first = hedge(*command, "--questions", "0")
    assert first.returncode == 0, first.stderr
    rows = [json.loads(line) for line in first.stdout.splitlines()]
    assert [(row["system"], row["answers"]) for row in rows] == [("llm", 4), ("hlm", 4)]
    assert rows[0]["exact_match"] == rows[1]["exact_match"] >= 0.5
    again = hedge(*command, "--questions", "0", "--resume")
    assert again.stdout == first.stdout


def test_models_of_another_runtime_are_refused(slm: LanguageModel) -> None:
    with pytest.raises(BadInput, match="two GGUF models"):
        list(answer_batched(slm, load(BUNDLED, "llm"), RUNS, [], 1))
