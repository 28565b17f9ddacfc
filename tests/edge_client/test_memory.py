"""What verdicts have taught is kept from command to command, and nothing else is believed."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from hedge.common.loading import load
from hedge.edge_client.calibrations import Pair
from hedge.edge_client.engine.gates.survival import Survival
from hedge.edge_client.memory import remembered
from hedge.v1 import hedge_pb2 as pb
from tests.conftest import MakeFolder

MARGINS = ((0.1, False), (3.0, True), (7.5, True), (math.inf, True))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def pair(make_folder: MakeFolder) -> Pair:
    return Pair(load(str(make_folder()), "slm"), pb.ServerInfo(model_fingerprint="0123abcd"))


def taught(pair: Pair) -> Survival:
    with remembered(pair, keep=True) as survival:
        for margin, accepted in MARGINS:
            survival.judged(margin, accepted=accepted)
    return survival


def test_what_was_learned_is_there_again(home: Path, pair: Pair) -> None:
    first = taught(pair)
    assert first != Survival()
    with remembered(pair, keep=True) as again:
        assert again == first
    other = replace(pair, info=pb.ServerInfo(model_fingerprint="another"))
    with remembered(other, keep=True) as fresh:
        assert fresh == Survival()


def test_a_stopped_command_keeps_it_too(home: Path, pair: Pair) -> None:
    held: list[Survival] = []

    def stopped() -> None:
        with remembered(pair, keep=True) as survival:
            held.append(survival)
            survival.judged(3.0, accepted=False)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    with remembered(pair, keep=True) as again:
        assert again == held[0] != Survival()


def test_nothing_is_kept_that_was_not_to_be(home: Path, pair: Pair) -> None:
    first = taught(pair)
    for of, keep in ((pair, False), (replace(pair, info=None), True)):
        with remembered(of, keep=keep) as survival:
            assert survival == Survival()
            survival.judged(0.1, accepted=True)
    with remembered(pair, keep=True) as again:
        assert again == first
    assert [path.suffix for path in home.rglob("*") if path.is_file()] == [".json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\ufeff{",
        "[]",
        "null",
        '{"a": "x"}',
        '{"a": null}',
        '{"z": 1}',
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"b": -1}',
        '{"b": 0}',
        '{"aa": -1}',
        '{"aa": 1, "bb": 1, "ab": 2}',
        "[" * 100_000,
    ],
)
def test_a_file_that_verdicts_did_not_write_is_told_and_left(
    home: Path, pair: Pair, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    taught(pair)
    (file,) = (path for path in home.rglob("*") if path.is_file())
    file.write_text(text, "utf-8")
    with remembered(pair, keep=True) as survival:
        assert survival == Survival()
        survival.judged(1.0, accepted=True)
    assert capsys.readouterr().err.count("\n") == 1
    assert json.loads(file.read_text("utf-8")) == asdict(survival)


def test_a_folder_that_cannot_be_written_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: Pair
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(blocked))
    assert taught(pair) != Survival()
