"""The parts of hedge bench that need no server: the grid, the arithmetic of links and devices, rows
and winners.
"""

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedge.cloud_server.engines.emulation import Emulated, parse_pace
from hedge.cloud_server.engines.loading import build_engine
from hedge.cloud_server.engines.scheduler import BlockTable, Scheduler, Work
from hedge.common.errors import BadInput
from hedge.common.model import LanguageModel
from hedge.common.sampling import Warp
from hedge.evaluation.assisted import generate_assisted
from hedge.evaluation.bench import _parser, check
from hedge.evaluation.bench_rows import (
    find_winner,
    group_cells,
    make_rows,
    measure_speed,
    median_interval,
)
from hedge.evaluation.bench_run import Cell, send_through
from hedge.evaluation.paced import PacedLM
from hedge.evaluation.profile import Profile, list_profiles, read_profile


def options(*arguments: str) -> argparse.Namespace:
    parsed: argparse.Namespace = _parser().parse_args(
        ["--out", "x", "--insecure", "--seed", "1", *arguments]
    )
    return parsed


def test_the_grid_is_every_combination() -> None:
    found, profiles = check(
        options("--rates", "1e5", "0", "--round-trips", "0.1", "--outages", "none", "6:2")
    )
    assert found == [Cell(rate, 0.1, outage) for outage in ("none", "6:2") for rate in (1e5, 0)]
    assert profiles == [None]
    assert found[2].outages(20) == ["6:2", "12:2", "18:2"]
    assert str(found[2]) == "0.1 Mbit/s, 100 ms, outage 6:2"
    assert check(options("--profiles", "phone", "measured"))[1] == [read_profile("phone"), None]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rates", "-1"), "rates -1"),
        (("--round-trips", "nan"), "round-trips nan"),
        (("--seconds", "0"), "seconds 0"),
        (("--outages", "3:3"), "outages '3:3'"),
        (("--outages", "often"), "often"),
        (("--profiles", "toaster"), "toaster"),
        (("--systems", "best"), "best"),
        (("--cloud", "h:1", "--systems", "colocated"), "colocated"),
        (("--cloud", "h:1", "--profiles", "phone"), "--profiles"),
    ],
)
def test_what_is_no_bench_is_refused(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        check(options(*arguments))


def test_a_stream_from_the_cloud_costs_one_round_trip_and_waits_out_outages() -> None:
    assert send_through(Cell(0.0, 0.3, "none"), 5.0, [0.1, 0.2]) == pytest.approx([0.4, 0.5])
    # Asked at second 5, an outage from 6 to 8: what is ready in between arrives after it.
    assert send_through(Cell(0.0, 0.2, "6:2"), 5.0, [0.5, 1.5, 3.5]) == pytest.approx(
        [0.7, 3.1, 3.7], abs=1e-3
    )


def test_energy_is_computing_and_sending() -> None:
    profile = Profile("p", slm_s=0.02, llm_s=0.1, device_w=5.0, radio_w=2.0)
    assert profile.energy(steps=10, uplink_bytes=1000, rate=8e3) == pytest.approx(
        10 * 0.02 * 5 + 1.0 * 2
    )
    assert profile.energy(steps=0, uplink_bytes=1000, rate=0.0) == 0
    assert set(list_profiles()) == {"cpu", "laptop", "phone", "tablet"}


@pytest.mark.parametrize(
    "text", ["slm_s = 1", "slm_s = 1\nllm_s = 1\nspeed = 3", "slm_s = 1\nllm_s = inf"]
)
def test_profiles_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(BadInput):
        read_profile(path)


@pytest.mark.parametrize("word", ["0.1", "a:b", "1:-1", "nan:0", "1:inf"])
def test_a_pace_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(BadInput, match="BASE:PER_POSITION"):
        parse_pace(word)
    assert parse_pace("0.04:0.0003") == (0.04, 0.0003)


def test_a_paced_model_says_what_the_model_says(make_lm: Callable[..., LanguageModel]) -> None:
    lm = make_lm(seed=1)
    paced = PacedLM(lm, 1e-4, 1e-5)
    prefix = paced.kv_cache()
    plain = lm.kv_cache()
    assert (prefix.forward([1, 2, 3]) == plain.forward([1, 2, 3])).all()
    assert [what for what, _, _ in paced.timeline.events] == ["step"]
    assert paced.end_ids == lm.end_ids


def test_emulation_waits_for_what_is_left_of_a_pass(
    make_lm: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    lm = make_lm(seed=1)
    engine = Emulated(build_engine(lm, 1 << 20), 2.0, 0.25)
    # A quarter of a second goes by between two looks at the clock.
    now = itertools.count(step=0.25)
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    PacedLM(lm, 1.0, 0.5).kv_cache().forward([1, 2, 3])
    assert waited == [1.0 + 2 * 0.5 - 0.25]
    PacedLM(lm, 0.1).kv_cache().forward([1])
    assert waited.pop() == 0
    scheduler = Scheduler(engine.block_manager)
    scheduler.add(Work(BlockTable(), [1, 2, 3, 4], 1))
    engine.forward(scheduler.batch())
    assert waited.pop() == 2.0 + 4 * 0.25 - 0.25


def test_assisted_generation_is_greedy_decoding(make_lm: Callable[..., LanguageModel]) -> None:
    slm = make_lm(seed=1)
    llm = make_lm(seed=2)
    found = generate_assisted(slm, llm, [1, 2, 3], Warp(0.0), 1, 8)
    ids = [1, 2, 3]
    for _ in range(8):
        ids.append(int(np.argmax(llm.kv_cache().forward(ids, 1)[0])))
    assert found.token_ids == ids[3:]
    assert 0 < len(found.llm) <= 8
    assert sum(found.llm) >= len(ids) - 1


def entry(
    system: str, task: int, released: list[float], correct: bool = True, **changes: Any
) -> dict[str, Any]:
    answer = {
        "task": task,
        "family": "sum",
        "prompt": "",
        "reference": "1",
        "text": "",
        "correct": correct,
        "prompt_ids": [1],
        "token_ids": list(range(len(released))),
        "provenance": ["accepted"] * len(released),
        "log": [[3, 0, 8, 4, 0.1]],
        "steps": 3,
        "audited": 0,
        "risk": 0.0,
        "slm_s": 0.0,
        "wall_s": 2.0,
        "codec_bytes": 0,
        "payload_bytes": [10, 20],
        "socket_bytes": None,
    }
    return {
        "profile": "phone",
        "rate": 1e6,
        "round_trip": 0.1,
        "outage": "none",
        "system": system,
        "partial": False,
        "released": released,
        "answer": answer,
        "cloud_s": 0.1,
        "payload": [10, 20],
        "sockets": [40, 80],
        "joules": 1.0,
        "rapl_joules": None,
        "timeline": [],
        **changes,
    }


def test_rows_are_medians_of_times_and_sums_of_the_rest() -> None:
    entries = [entry("llm", t, [0.5, 1.0]) for t in range(3)]
    entries += [
        entry("hedge", 0, [0.25, 0.5]),
        entry("hedge", 1, [0.25, 0.5]),
        entry("hedge", 2, [2.0, 4.0]),
    ]
    llm, ours = make_rows(entries)
    assert (llm["tokens_per_s"], ours["tokens_per_s"]) == (2.0, 4.0)
    assert ours["low"] <= 4.0 <= ours["high"]
    assert ours["first_s"] == 0.25
    assert ours["gap_p50_ms"] == pytest.approx(250)
    assert (ours["up"], ours["down"], ours["up_payload"]) == (20, 40, 5)
    assert (ours["rounds"], ours["positions"]) == (0.5, 2)
    assert (ours["cloud_s"], ours["joules"]) == (pytest.approx(0.05), 0.5)
    assert ours["same"] == ours["relative_accuracy"] == 1


def test_an_answer_that_was_cut_off_counts_by_its_time() -> None:
    assert measure_speed(entry("hlm", 0, [0.5, 1.0], partial=True)) == 1.0
    assert measure_speed(entry("hlm", 0, [], partial=True)) == 0


def test_the_winner_keeps_the_accuracy() -> None:
    entries = [entry("llm", t, [1.0]) for t in range(4)] + [
        entry("cu-hlm", t, [0.1], correct=t > 0) for t in range(4)
    ]
    (cell,) = group_cells(make_rows(entries)).values()
    assert find_winner(cell) == "llm"
    assert find_winner(cell, least=0.7) == "cu-hlm"


def test_the_interval_of_a_median_covers_it() -> None:
    rng = np.random.default_rng(0)
    covered = sum(
        low <= 0 <= high
        for _, low, high in (median_interval(rng.normal(size=25).tolist()) for _ in range(60))
    )
    assert covered >= 50
