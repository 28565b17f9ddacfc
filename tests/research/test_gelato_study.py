"""The replay of GELATO on its paper's constants, against values worked by hand."""

import json
from pathlib import Path

import pytest

from hedge.common.codec import paper_bits
from hedge.edge_client.config import GelatoConfig
from hedge.edge_client.engine.gates.gelato import Gelato
from research.channel import Channel
from research.gelato import command
from research.gelato_replay import AnswerTrace, DraftingModel, replay, summarise
from research.gelato_rivals import VOCAB, HedgeRival, Published, Rival, Static, rivals
from research.plot import command as plot

STEADY = Channel(1e6, 0.0)
UNIT = DraftingModel(layers=1, width=1, ffn=1, flops=12.0, watts=12.0, radio_w=0.2)


def trace(stays: list[bool], entropy: float = 0.0) -> AnswerTrace:
    count = len(stays)
    return AnswerTrace(
        0, [entropy] * count, [0.0] * count, [10] * count, [0.9] * count, stays, stays
    )


def test_a_draft_costs_what_the_formula_says() -> None:
    # Qwen2.5-0.5B, one token at context 100: 24 [8 896^2 + 4 x 100.5 x 896 + 4 x 896 x 4864] = 24 x
    # 24,215,296 FLOPs.
    assert DraftingModel().seconds(100, 1) == pytest.approx(24 * 24_215_296 / 40e9)
    # Its head: 2 x 896 x 151,936 more.
    assert DraftingModel(head=True).seconds(100, 1) - DraftingModel().seconds(
        100, 1
    ) == pytest.approx(2 * 896 * VOCAB / 40e9)
    # gamma tokens are the sum of one after the other.
    assert DraftingModel().seconds(10, 3) == pytest.approx(
        sum(DraftingModel().seconds(10 + n, 1) for n in range(3))
    )


def test_rounds_of_a_static_length() -> None:
    """10 tokens, the sixth is rejected: rounds of 3 bring 4 (3 + bonus), 2 (1 + correction), 4."""
    sums = replay(
        [trace([True] * 5 + [False] + [True] * 4)],
        Rival(lambda: Static(3), True, "ids"),
        UNIT,
        STEADY,
        0.5,
        0,
    )
    assert sums.drafts == [3, 3, 3]
    # 18 bits an id, log2(1 + 1) bit/s/Hz at 0 dB and 1 MHz.
    upload = 9 * 18 / 1e6
    # A step at context L: [8 + 4 (L + 1/2) + 4] / 12 s.
    steps = sum((12 + 4 * (at + 0.5)) / 12 for at in (0, 1, 2, 4, 5, 6, 6, 7, 8))
    assert sums.seconds == [pytest.approx(steps + upload + 3 * 0.5)]
    assert sums.joules == [pytest.approx(12 * steps + 0.2 * upload)]
    assert summarise(sums)["tokens_per_round"] == pytest.approx(10 / 3)


def test_what_is_sent_is_what_is_counted() -> None:
    assert Rival(lambda: Static(1), False, "top-p").bits(10) == paper_bits(VOCAB, 10)
    assert Rival(lambda: Static(1), True, "ids").bits(10) == 18
    assert Rival(lambda: Static(1), False, "id and probability").bits(10) == 34


def test_the_token_that_trips_is_paid_for_and_not_sent() -> None:
    """Every second draft overflows: published sends one of two, tripping both."""
    made = {}
    for variant in ("published", "tripping"):
        options = GelatoConfig(
            variant=variant, acceptance=0.5, decay=1.0, bucket=0.5, budget_j=100.0
        )
        # H_th = ln 2 = 0.693; of 0.9 the bucket keeps 0.207 and 0.414, over 0.347.
        sums = replay(
            [trace([True] * 9, 0.9)],
            Rival(lambda o=options: Published(Gelato(o)), True, "ids"),
            UNIT,
            STEADY,
            50.0,
            0,  # type: ignore[misc]
        )
        made[variant] = (sums.drafts, sums.bits)
    assert made["tripping"] == ([2, 2, 2], 6 * 18)
    assert made["published"] == ([2, 2, 2, 2, 1], 5 * 18)


def test_a_round_without_a_draft_costs_its_pass() -> None:
    """A step of over a second gains less than a pass of 0.1 s: after a first round, 15 of every 16
    are without a draft.
    """
    options = GelatoConfig(variant="marginal", budget_j=100.0)
    sums = replay(
        [trace([True] * 40)],
        Rival(lambda: Published(Gelato(options)), True, "ids"),
        UNIT,
        STEADY,
        0.1,
        0,
    )
    assert sums.drafts.count(0) > 20
    assert sums.bits == 18 * sum(sums.drafts)
    at = 0
    steps = 0.0
    for drafts in sums.drafts:
        steps += sum((12 + 4 * (at + n + 0.5)) / 12 for n in range(drafts))
        at += drafts + 1
    assert sums.seconds == [pytest.approx(steps + sums.bits / 1e6 + 0.1 * len(sums.drafts))]
    assert sums.joules == [pytest.approx(12 * steps + 0.2 * sums.bits / 1e6)]


def test_the_time_of_a_bit_is_measured_on_what_was_sent() -> None:
    found = trace([True] * 30)
    found.nucleus[:] = [10 * (at + 1) for at in range(30)]
    controller = Published(Gelato(GelatoConfig(longest=3)))
    replay([found], Rival(lambda: controller, False, "top-p"), UNIT, STEADY, 0.5, 0)
    # One bit/s/Hz at 0 dB and 1 MHz.
    assert controller.seconds_per_bit == pytest.approx(1e-6)


def test_hedge_ends_at_its_gate() -> None:
    found = trace([True] * 6)
    found.gate[1] = 0.5
    sums = replay([found], Rival(lambda: HedgeRival(0.4), True, "ids"), UNIT, STEADY, 0.1, 0)
    assert sums.drafts[0] == 2


def test_a_simulation_is_rows_and_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--out",
        str(tmp_path),
        "--questions",
        "2",
        "--bandwidth",
        "1e6",
        "2e6",
        "--t-llm",
        "0.1",
        "--weight",
        "10",
    ]
    command([*arguments, "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    equal = {f"gelato marginal, GELATO's J, {payload}" for payload in ("top-p", "ids")}
    assert {row["system"] for row in rows} == set(rivals([10.0], 0.35, 0.0, 1.2, 0.15)) | equal
    assert all(0 < row["low"] <= row["tokens_per_s"] <= row["high"] for row in rows)
    # Again from the traces: the same.
    command([*arguments, "--json"])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    plot(["gelato", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path)])
    assert (tmp_path / "gelato.png").exists()
    assert (tmp_path / "gelato-queue.svg").exists()
