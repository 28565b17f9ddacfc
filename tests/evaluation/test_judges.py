"""Judges: what is right is right however it is put, and code that models write is run within
bounds.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.common.errors import BadInput
from hedge.evaluation.judges import JUDGES, judge_of, program_of
from hedge.evaluation.run_code import run_to_end
from hedge.evaluation.tasks import NAMED, read_judged_tasks


@pytest.mark.parametrize(
    ("judge", "reference", "right", "wrong"),
    [
        (
            "last-number",
            "18",
            ["so 16 - 3 = 13 ... **18**", "$18.", "18.00", "It is 1 then\n#### 18"],
            ["18 or 19", "", "eighteen", "-18"],
        ),
        ("last-number", "1,250", ["1250 dollars", "$1,250"], ["1.250"]),
        ("last-number", "-3", ["x = -3"], ["x = 3"]),
        ("exact", "yes ", ["yes", " yes\n"], ["Yes", "yes."]),
        ("regex", r"\bcats?\b", ["a cat", "two cats."], ["category"]),
        (
            "choice",
            "B",
            ["B", "The answer is B.", "answer: (B) because A is not", "A? No: B"],
            ["A", "The answer is C, not B", "", "b"],
        ),
    ],
)
def test_what_is_right(judge: str, reference: str, right: list[str], wrong: list[str]) -> None:
    judged = JUDGES[judge](reference)
    assert [reply for reply in right if not judged(reply)] == []
    assert [reply for reply in wrong if judged(reply)] == []


@given(
    st.integers(-(10**9), 10**9),
    st.text(st.characters(exclude_categories=["N", "Cs"]), max_size=20),
)
def test_a_number_is_found_behind_any_words(number: int, words: str) -> None:
    # A dash before digits is a sign.
    said = words.rstrip("-")
    assert JUDGES["last-number"](str(number))(f"{said} {number:,}")
    assert not JUDGES["last-number"](str(number))(f"{said} {number + 1}")


@pytest.mark.parametrize("judge", [*JUDGES, None, "code"])
@given(reply=st.text(max_size=60))
def test_no_reply_is_an_error(judge: str | None, reply: str) -> None:
    row: dict[str, Any] = {}
    if judge != "code":
        found = judge_of(row, "p", "A" if judge == "choice" else "3", judge, "here")
        assert found
        assert found(reply) in (True, False)
    else:
        assert isinstance(program_of("def f():\n", reply, "f"), str)


PROMPT = 'import math\n\n\ndef area(r):\n    """The area of a circle."""\n'
TEST = "def check(candidate):\n    assert abs(candidate(2) - 12.566370614) < 1e-6\n"
CODE = judge_of({"test": TEST, "entry_point": "area"}, PROMPT, None, None, "here")


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("    return math.pi * r * r\n", True),
        ("```python\ndef area(r):\n    return math.pi * r ** 2\n```", True),
        (
            "Here it is:\n```\nimport math\ndef area(r):\n    return math.pi * r ** 2\n```\nIt "
            "multiplies.",
            True,
        ),
        ("def area(r):\n    return math.pi * r ** 2\n", True),
        ("```python\ndef area(r):\n    return 3 * r ** 2\n```", False),
        ("I cannot.", False),
        ("", False),
        ("    raise SystemExit(0)\n", False),
    ],
)
def test_code_is_judged_by_its_tests(reply: str, right: bool) -> None:
    assert CODE
    assert CODE(reply) is right


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "x = bytearray(4 << 30)",
        "open('big', 'wb').write(b'x' * (8 << 20))",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)",
        "import os; os.kill(os.getpid(), 9)",
        "1 / 0",
        "def (",
    ],
)
def test_what_goes_too_far_fails(program: str) -> None:
    assert not run_to_end(program, 2)


def test_a_program_sees_an_empty_folder_and_none_of_our_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET", "x")
    assert run_to_end("import os; assert not os.listdir('.') and 'SECRET' not in os.environ")


def asked(**changes: Any) -> argparse.Namespace:
    usual = {
        "task": None,
        "task_folder": Path("nowhere"),
        "judge": None,
        "run_code": False,
        "prompts": None,
        "questions": 2,
    }
    return argparse.Namespace(**{**usual, "question_seed": 0, **changes})


def test_tasks_are_found_by_name_and_by_file(tmp_path: Path) -> None:
    rows = [
        {"prompt": "1 + 1?", "reference": "2"},
        {"prompt": "2 + 2?", "reference": "4", "judge": "regex"},
    ]
    (tmp_path / "gsm8k-dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = read_judged_tasks(asked(task="gsm8k", task_folder=tmp_path))
    assert [task.is_correct("It is 2.0") for task in named] == [True, False]
    assert {task.family for task in named} == {"gsm8k"}
    by_file = read_judged_tasks(asked(task=str(tmp_path / "gsm8k-dev.jsonl")))
    assert [task.is_correct("4 cats") for task in by_file] == [False, True]
    assert [
        task.is_correct("2")
        for task in read_judged_tasks(asked(prompts=tmp_path / "gsm8k-dev.jsonl", judge="exact"))
    ] == [True, False]
    code = {"prompt": PROMPT, "test": TEST, "entry_point": "area"}
    (tmp_path / "humaneval.jsonl").write_text(json.dumps(code) + "\n")
    (task,) = read_judged_tasks(asked(task="humaneval", task_folder=tmp_path, run_code=True))
    assert task.is_correct("    return math.pi * r * r")
    assert "```python\nimport math" in task.prompt.text


@pytest.mark.parametrize(
    ("row", "changes", "words"),
    [
        (
            {"prompt": "x", "reference": "y"},
            {"judge": "last-number"},
            "task 1: reference 'y' has no number",
        ),
        ({"prompt": "x", "reference": "("}, {"judge": "regex"}, "is not a regular expression"),
        ({"prompt": "x", "reference": "yes"}, {"judge": "choice"}, "is not a letter A to J"),
        ({"prompt": "x", "reference": "1", "judge": "taste"}, {}, "judge 'taste' is not one of"),
        (
            {"prompt": "x", "reference": "1", "judge": "code"},
            {"run_code": True},
            "needs the texts test and entry_point",
        ),
        ({"prompt": "x", "test": "y", "entry_point": "f"}, {}, "--run-code allows that"),
        ({"prompt": "x"}, {"prompts": Path("other")}, "--task and --prompts exclude each other"),
    ],
)
def test_what_cannot_be_judged_is_named(
    row: dict[str, Any], changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(BadInput, match=words):
        read_judged_tasks(asked(task=str(tmp_path / "mine.jsonl"), **changes))


@pytest.mark.parametrize("name", NAMED)
def test_a_task_that_is_not_here_says_where_it_belongs(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"no {name}.jsonl in .*--task-folder"):
        read_judged_tasks(asked(task=name, task_folder=tmp_path, run_code=True))
    with pytest.raises(BadInput, match="--judge exact needs --task or --prompts"):
        read_judged_tasks(asked(judge="exact"))
