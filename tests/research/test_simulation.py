"""The clock, the journals and the numbers drawn from them."""

import json
from pathlib import Path

import numpy as np
import pytest

from hedge.common.errors import BadInput
from hedge.common.sampling import softmax
from hedge.edge_client.engine.statistics import Round
from hedge.evaluation.profile import Profile, read_profile
from hedge.evaluation.quality import interval, relative_accuracy
from hedge.evaluation.record import AnswerRecord, Journal, parse_answer, parse_answers, read_journal
from research.channel import Channel, open_uplink
from research.clock import Clock, Times, bits_of, fit_times, replay
from research.findings import max_risk_trials
from research.study import KEPT, KS, auc, effect

ROUNDS = [Round(3, 30, 50, 3, 0.01), Round(1, 30, 40, 1, 0.008)]


def answer(task: int, *, correct: bool | None = True) -> AnswerRecord:
    return AnswerRecord(
        task=task,
        family="sum",
        prompt="é",
        reference="r",
        text="t",
        correct=correct,
        prompt_ids=[1],
        token_ids=[1, 2, 3, 4, 5],
        provenance=["local", "local", "accepted", "corrected", "local"],
        log=ROUNDS,
        steps=5,
        audited=4,
        risk=0.5,
        slm_s=0.01,
        wall_s=1.0,
        codec_bytes=40,
        payload_bytes=(90, 30),
        socket_bytes=None,
    )


def test_the_clock_is_steps_plus_airtime_plus_passes() -> None:
    clock = Clock(Times(0.1, 1.0, 0.01), open_uplink(Channel(1e3, 0.0), np.random.default_rng(0)))
    seconds = replay(clock, ROUNDS, [1000.0, 500.0], steps=5)
    assert seconds == pytest.approx(5 * 0.1 + 1.5 + 2 * 1.0 + 4 * 0.01)
    assert clock.now == seconds


def test_a_streaming_cloud_pays_no_steps_of_the_device() -> None:
    clock = Clock(Times(0.1, 1.0), open_uplink(Channel(1e3, 0.0), np.random.default_rng(0)))
    log = [Round(0, 0, 0, 1, 0.0)] * 4
    assert replay(clock, log, [0.0] * 4, steps=0) == pytest.approx(4.0)


def test_bits_by_both_accounts() -> None:
    assert bits_of(ROUNDS[0], "paper", 4096, 32_000) == 30 * 23
    assert bits_of(Round(1, 4096, 9, 1, 0), "paper", 4096, 32_000) == 32_000 * 23 == 92_000 * 8
    assert bits_of(ROUNDS[0], "payload", 4096, 32_000) == 400


def test_times_are_fitted_from_rounds() -> None:
    log = [Round(p, 1, 1, p, 0.5 + 0.1 * p) for p in (1, 2, 5) for _ in range(30)]
    times = fit_times([0.2, 0.3, 0.4], log)
    assert (times.slm, times.llm, times.llm_position) == pytest.approx((0.3, 0.5, 0.1))
    assert fit_times([], log).slm == fit_times([0.2], []).llm == 0
    with pytest.raises(BadInput, match="nothing was measured"):
        fit_times([], [])


def test_a_profile_says_its_times(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text("slm_s = 0.02\nllm_s = 0.1\n")
    assert read_profile(path) == Profile(path.stem, slm_s=0.02, llm_s=0.1)
    for bad in (
        "slm_s = 1",
        "nonsense",
        "slm_s = -1\nllm_s = 1",
        "slm_s = 'x'\nllm_s = 1",
        "slm_s = nan\nllm_s = 1",
    ):
        path.write_text(bad)
        with pytest.raises(BadInput):
            read_profile(path)


def test_answers_survive_the_disk_and_a_cut_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.jsonl"
    journal = Journal(path, {"kind": "answers"}, resume=False)
    for task in range(3):
        journal.append(answer(task).to_json())
    whole = path.read_bytes()
    for cut in (1, 5, 200):
        path.write_bytes(whole[:-cut])
        resumed = Journal(path, {"kind": "answers"}, resume=True)
        assert parse_answers(path, resumed.entries) == [answer(0), answer(1)]
        resumed.append(answer(2).to_json())
        assert path.read_bytes() == whole
    assert parse_answers(path, read_journal(path, "answers")[1]) == [
        answer(0),
        answer(1),
        answer(2),
    ]


def test_a_file_cut_within_its_header_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"version": 1, "ki')
    assert Journal(path, {"kind": "answers"}, resume=True).entries == []
    assert read_journal(path, "answers")[1] == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"version": 99, "kind": "answers"}\n', "version 99"),
        ('{"version": 2, "kind": "rows"}\n', "another run: kind 'rows'"),
        ("[]\n", "not an object"),
        ('{"version": 1, "kind": "answers"}\nnonsense\n{}\n', r"a\.jsonl:2"),
    ],
)
def test_files_of_something_else_are_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(BadInput, match=words):
        Journal(path, {"kind": "answers"}, resume=True)
    assert path.read_text() == content


def test_an_existing_file_is_kept_unless_resumed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    Journal(path, {"kind": "answers"}, resume=False)
    with pytest.raises(BadInput, match="--resume"):
        Journal(path, {"kind": "answers"}, resume=False)


def test_an_answer_that_is_none_is_named(tmp_path: Path) -> None:
    entry = answer(0).to_json()
    assert parse_answer(json.loads(json.dumps(entry))) == answer(0)
    del entry["risk"]
    with pytest.raises(BadInput, match=":2: no answer"):
        parse_answers(tmp_path / "a", [entry])


def test_relative_accuracy_pairs_by_task() -> None:
    llm = [answer(t, correct=t % 2 == 0) for t in range(100)]
    same = relative_accuracy(list(reversed(llm)), llm)
    assert same == (1.0, 1.0, 1.0)
    worse = relative_accuracy([answer(t, correct=t % 4 == 0) for t in range(100)], llm)
    assert worse is not None
    assert worse[0] == 0.5
    assert 0.3 < worse[1] < 0.5 < worse[2] < 0.7
    assert relative_accuracy(llm, [answer(t, correct=None) for t in range(100)]) is None


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for run in range(200):
        below = rng.exponential(size=80) + 1
        above = below * 3 + rng.normal(size=80)
        low, high = interval(above, below, seed=run)
        hits += low <= 3 <= high
    # Binomial(200, 0.95) is below 176 less than once in 10,000; the bootstrap of 80 items is a
    # little short.
    assert hits >= 176


def test_the_effect_of_truncation_at_its_ends() -> None:
    rng = np.random.default_rng(0)
    x = softmax(rng.normal(size=64))
    y = softmax(rng.normal(size=64))
    found = effect(x, y, float(x[3]), 0.4)
    assert found.shape == (sum(k <= 64 for k in KS), len(KEPT))
    last = dict(zip(KEPT, found[-1], strict=True))
    assert last["flattening"] == last["bound"] == 0
    assert last["tested"] == pytest.approx(0, abs=1e-12)
    assert last["acceptance"] == pytest.approx(np.minimum(x, y).sum())
    assert (found[:, KEPT.index("tested")] <= found[:, KEPT.index("flattening")] + 1e-12).all()


def test_auc_is_the_share_of_ordered_pairs() -> None:
    u = np.array([0.1, 0.4, 0.4, 0.9])
    rejected = np.array([0, 1, 0, 1])
    assert auc(u, rejected) == pytest.approx((1 + 0.5 + 1 + 1) / 4)


def test_max_risk_trials_count_what_exceeds() -> None:
    """Uncertainty that predicts rejection perfectly never exceeds; one that is blind finds no
    threshold.
    """
    rng = np.random.default_rng(0)
    betas = [np.where(rng.random(30) < 0.2, 1.0, 0.0) for _ in range(400)]
    sharp = [{"u": {"m": b.tolist()}, "beta": b.tolist()} for b in betas]
    assert max_risk_trials(sharp, "m", 0.05, 0.1, 200)[:2] == (0, 50)
    blind = [{"u": {"m": [0.5] * 30}, "beta": b.tolist()} for b in betas]
    assert max_risk_trials(blind, "m", 0.05, 0.1, 200)[1] == 0
