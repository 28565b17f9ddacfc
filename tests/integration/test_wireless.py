"""hedge wireless on the bundled masked model."""

import json
from pathlib import Path

import pytest

from tests.integration.conftest import Run, one_line

pytestmark = pytest.mark.research

TEXT = "Once upon a time there was a king who had a daughter."


def test_a_text_is_sent_and_received(here: Run) -> None:
    arguments = ("wireless", "send", "--text", TEXT, "--threads", "1", "--seed", "3")
    clear = json.loads(here(*arguments, "--snr", "40", "--json").stdout)
    assert clear["received"] == clear["sent"] == TEXT
    assert (clear["accuracy"], clear["masked"], clear["position_bits"]) == (1.0, [], 0)
    noisy = here(*arguments, "--snr", "-12", "--json").stdout
    assert noisy == here(*arguments, "--snr", "-12", "--json").stdout
    found = json.loads(noisy)
    assert found["accuracy"] < 1
    assert set(found["masked"]) <= set(range(found["tokens"]))
    assert (
        "Hello 😀 wörld"
        in here("wireless", "send", "--text", "Hello 😀 wörld", "--snr", "40").stdout
    )
    shown = here(*arguments, "--snr", "-12").stdout
    assert "left out" in shown
    assert "\x1b" not in shown


def test_a_study_goes_on_where_it_ended(here: Run, tmp_path: Path) -> None:
    arguments = (
        *f"wireless study --packets 1 --snr 0 --qam 4 16 --out {tmp_path} --jobs 1 --json".split(),
    )
    rows = [json.loads(line) for line in here(*arguments).stdout.splitlines()]
    assert [(row["qam"], row["system"]) for row in rows] == [
        (order, system)
        for order in (4, 16)
        for system in (
            "ml",
            "receiver only",
            "random",
            "parallel",
            "sequential",
            "adaptive, entropy",
            "adaptive, true-token",
            "adaptive, rehearsed",
            "huffman + ldpc",
            "range coded",
        )
    ]
    assert all(0 <= row["accuracy"] <= 1 for row in rows)
    masked = {row["system"]: row["masked"] for row in rows if row["qam"] == 4}
    assert round(128 * masked["random"]) == 38
    assert (
        min(masked["adaptive, entropy"], masked["adaptive, true-token"])
        > 0.3
        > masked["adaptive, rehearsed"]
    )
    before = (tmp_path / "packets.jsonl").read_bytes()
    assert [json.loads(line) for line in here(*arguments).stdout.splitlines()] == rows
    assert (tmp_path / "packets.jsonl").read_bytes() == before
    one_line(here(*arguments, "--seed", "2"), 2, "another run")
    here("plot", "wireless", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path))
    assert (tmp_path / "wireless.png").read_bytes().startswith(b"\x89PNG")
