"""hedge chat on a real pseudo-terminal."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.integration.conftest import BIN, ENVIRONMENT, Cloud, StartCloud

pytestmark = pytest.mark.process
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()=>][0B]?|\x1b\][^\x07]*\x07")
TALE = "Tell me a tale about a king."


def chatting(cloud: Cloud, home: Path, *options: str, **environment: str) -> Any:
    plain = {name: value for name, value in ENVIRONMENT.items() if name != "NO_COLOR"}
    words = [
        "chat",
        "--cloud",
        cloud.address,
        "--insecure",
        "--threads",
        "1",
        "--temperature",
        "0",
        "--seed",
        "1",
        *options,
    ]
    child = pexpect.spawn(
        str(BIN / "hedge"),
        words,
        timeout=60,
        encoding="utf-8",
        dimensions=(40, 160),
        env={
            **plain,
            "TERM": "xterm-256color",
            "PROMPT_TOOLKIT_NO_CPR": "1",
            "XDG_STATE_HOME": str(home),
            **environment,
        },
        # As where the tests themselves were started in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    child.expect("/help lists the commands")
    child.expect(">")
    return child


@pytest.fixture
def child(cloud: Cloud, tmp_path: Path) -> Iterator[Any]:
    made = chatting(cloud, tmp_path)
    yield made
    made.close(force=True)


def said(child: Any) -> str:
    return ESCAPES.sub("", child.before)


def test_a_conversation_with_commands(child: Any, tmp_path: Path) -> None:
    child.sendline("What is 47 + 38?")
    child.expect("tokens/s")
    assert re.search(r"7\+8=15.*Answer: 85", said(child).replace("\r\n", " "))
    # Words are coloured by whose they are.
    assert "\x1b[32m" in child.before
    for line, words in (
        ("/threshold 0.5", "above 0.5000 of expected_perturbation"),
        ("/threshold high", "threshold 'high' is not a number"),
        ("/threshold calibrated", "guarantee exact"),
        ("/link", "ms there and back"),
        ("/system slm", "policy never"),
        ("/system hedge", "guarantee exact"),
        ("/compare best", "no system 'best'"),
        ("/compare slm", "tokens/s.*tokens/s"),
        ("/temperature", "temperature 0"),
        ("/temperature hot", "temperature 'hot' is not a number"),
        ("/temperature -1", "temperature -1"),
        ("/temperature 0.5", "temperature 0.5"),
        ("/seed 1.5", "seed '1.5' is not a whole number"),
        ("/seed 7", "seed 7"),
        ("/max-tokens 0", "max-new-tokens 0"),
        ("/max-tokens", "max-tokens 256"),
        (f"/save {tmp_path / 'talk.json'}", "2 messages in"),
        (f"/save {tmp_path / 'talk.json'}", "is there already"),
        (f"/save {tmp_path / 'talk.json'}", "2 messages in"),
        ("/undo", "forgotten: What is 47 . 38"),
        ("/undo", "nothing has been asked yet"),
        ("/reset", "forgotten"),
        ("/compare slm", "nothing has been asked yet"),
        ("/load /nowhere", "cannot read /nowhere"),
        (f"/load {tmp_path / 'talk.json'}", "2 messages from"),
        ("/stats", "1 answers, 22 tokens"),
        ("/wish", "no command '/wish'.*>"),
    ):
        child.sendline(line)
        child.expect(f"(?s){words}")
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [message["role"] for message in saved["messages"]] == ["user", "assistant"]
    child.sendline("exit")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(
    start_cloud: StartCloud, tmp_path: Path
) -> None:
    # A fifth of a second a token: the answer is far from its end.
    child = chatting(
        start_cloud("--threads", "1", "--emulate", "0.2:0"), tmp_path, "--system", "llm"
    )
    child.sendline(TALE)
    # The colour of the first word.
    child.expect("\x1b\\[36m")
    child.sendintr()
    child.expect("(?s)stopped.*>")
    child.sendintr()
    child.expect("leaves")
    child.sendline("/stats")
    child.expect("1 answers")
    child.close(force=True)


def test_pasted_lines_are_one_question_and_history_comes_back(
    cloud: Cloud, tmp_path: Path, child: Any
) -> None:
    child.send("\x1b[200~What is\n47 + 38?\x1b[201~")
    child.send("\r")
    child.expect("(?s)tokens/s.*>")
    child.sendline("/stats")
    child.expect("(?s)1 answers.*>")
    child.sendline("What is 2 + 3?")
    child.expect("tokens/s")
    history = tmp_path / "hedge" / "history"
    assert "+47 + 38?" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0
    again = chatting(cloud, tmp_path)
    again.send("\x1b[A")
    again.expect("3")
    again.send("\r")
    again.expect("tokens/s")
    assert "Answer: 5" in said(again)
    again.close(force=True)


def test_plain_has_no_escapes_and_no_color_no_colours(cloud: Cloud, tmp_path: Path) -> None:
    plain = chatting(cloud, tmp_path, "--plain")
    plain.sendline("What is 47 + 38?")
    plain.expect("tokens/s")
    assert "\x1b" not in plain.before
    plain.close(force=True)
    grey = chatting(cloud, tmp_path, NO_COLOR="1")
    grey.sendline("What is 47 + 38?")
    grey.expect("tokens/s")
    assert "\x1b[32m" not in grey.before
    grey.close(force=True)
