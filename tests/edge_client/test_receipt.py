"""Receipts: their numbers are the answer's own, sums are sums, and bad input is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from hedge.common.errors import BadInput
from hedge.common.loading import load
from hedge.common.model import BUNDLED
from hedge.edge_client.receipt import (
    Prices,
    ReceiptLog,
    lines,
    read_receipts,
    receipt_of,
    summed,
    summed_lines,
)
from hedge.edge_client.systems import SYSTEMS
from hedge.evaluation.local import LocalLink
from tests.configs import changed
from tests.conftest import run_session

PRICES = Prices(prompt=10.0, position=100.0, output=300.0, currency="USD")


def receipt(system: str, prices: Prices | None = PRICES) -> dict[str, Any]:
    slm = load(BUNDLED, "slm")
    llm = load(BUNDLED, "llm")
    config = changed(SYSTEMS[system], max_new_tokens=30)
    if system == "cu-hlm":
        config = config.with_threshold(0.3)
    prompt = slm.encode_chat([{"role": "user", "content": "Tell me a tale."}])
    return receipt_of(
        run_session(slm, prompt, config, LocalLink(llm) if config.needs_cloud else None), prices
    )


@pytest.mark.parametrize(
    ("system", "sent"),
    [
        ("slm", []),
        ("llm", ["prompt ids"]),
        ("hedge", ["prompt ids", "draft ids"]),
        ("cu-hlm", ["prompt ids", "draft ids", "the largest draft probs"]),
        ("hlm", ["prompt ids", "draft ids", "whole draft probs"]),
    ],
)
def test_it_says_what_left_the_device_and_what_that_cost(system: str, sent: list[str]) -> None:
    found = receipt(system)
    assert found["sent"] == sent
    assert (found["cloud"] is None) == (not sent) == (found["bytes"]["up"] == 0)
    tokens = found["tokens"]
    assert (
        tokens["all"]
        == sum(count for kind, count in tokens.items() if kind != "all")
        == found["llm"]["passes_alone"]
    )
    cost = found["cost"]
    assert cost["llm_alone"] == pytest.approx(
        (10 * found["prompt_tokens"] + 300 * tokens["all"]) / 1e6
    )
    read = found["prompt_tokens"] if sent else 0
    assert cost["hedge"] == pytest.approx((10 * read + 100 * found["llm"]["positions"]) / 1e6)
    assert json.loads(json.dumps(found)) == found
    assert any(("nothing" if not sent else ", ".join(sent)) in line for line in lines(found))


def test_sums_are_sums_and_a_log_gives_back_what_it_was_given(tmp_path: Path) -> None:
    log = ReceiptLog(tmp_path / "log.jsonl")
    kept = [receipt("slm"), receipt("hedge"), receipt("hedge", None)]
    for one in kept:
        log.add(one)
    assert read_receipts(tmp_path / "log.jsonl") == kept
    total = summed(kept)
    assert total["answers"] == 3
    assert total["systems"] == {"slm": 1, "hedge": 2}
    assert total["tokens"]["all"] == sum(one["tokens"]["all"] for one in kept)
    assert total["bytes"]["up"] == sum(one["bytes"]["up"] for one in kept)
    assert total["bytes"]["socket_up"] == 0
    assert total["cost"]["USD"]["hedge"] == pytest.approx(
        kept[0]["cost"]["hedge"] + kept[1]["cost"]["hedge"]
    )
    assert total["sent"] == ["draft ids", "prompt ids"]
    assert all(len(line) < 200 for line in summed_lines(total))
    assert summed([])["answers"] == 0
    assert summed_lines(summed([]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prompt"], "price 'prompt' is not NAME=VALUE"),
        (
            ["speed=3"],
            "price 'speed=3' is not NAME=VALUE with one of prompt, position, output, currency",
        ),
        (["prompt=x"], "price prompt 'x' is not a number"),
        (["prompt=-1"], "price prompt -1 is not a number of at least 0"),
        (["position=nan"], "price position nan"),
    ],
)
def test_prices_that_are_none_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Prices.of(words)
    assert Prices.of([]) is None


def _changed(**changes: Any) -> str:
    return json.dumps(receipt("slm") | changes)


@pytest.mark.parametrize(
    "line",
    [
        *("", "7", "{}", '{"tokens": 3}', "[" * 100000),
        _changed(seconds=float("nan")),
        _changed(cost={"currency": 5, "hedge": 1.0, "llm_alone": 1.0}),
    ],
)
def test_a_log_that_is_none_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(json.dumps(receipt("slm")) + f"\n{line}\n")
    with pytest.raises(BadInput, match="line 2: not a receipt"):
        read_receipts(tmp_path / "log")
    with pytest.raises(BadInput, match="cannot write"):
        ReceiptLog(tmp_path / "nowhere" / "log")
