"""An answer on a terminal: what is left on the screen is the final text, whatever was provisional
in between.
"""

import io
import re
from dataclasses import dataclass, field
from typing import Any

import pyte
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hedge.edge_client.cli.render import AnswerView
from hedge.edge_client.engine.sequence import Provenance
from hedge.edge_client.engine.session import Emitted

WIDTH = 12
HEIGHT = 60
WORDS = st.text("ab \n\u00e9\u4e16", max_size=9)


@dataclass
class Provisional:
    """A session, as far as an Answer looks at one."""

    provisional: str = ""
    steps: list[Any] = field(default_factory=list)


def shown(steps: list[tuple[str, str]]) -> tuple[list[str], str]:
    """The screen after pieces with what is provisional behind each, and all that was written."""
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=True, width=WIDTH, legacy_windows=False, _environ={"TERM": "xterm"}
    )
    answer = AnswerView(console)
    session = Provisional()
    answer._provisional = lambda: session.provisional
    for piece, provisional in steps:
        session.provisional = provisional
        answer.look()
        answer.add(Emitted(0, Provenance.ACCEPTED, piece))
    session.provisional = ""
    answer.look()
    # A terminal's line discipline makes CR LF of LF.
    return screen(out.getvalue()), out.getvalue()


def screen(written: str) -> list[str]:
    display = pyte.Screen(WIDTH, HEIGHT)
    pyte.Stream(display).feed(written.replace("\n", "\r\n"))
    return [line.rstrip() for line in display.display]


@given(st.lists(st.tuples(WORDS, WORDS), max_size=12))
def test_provisional_words_leave_no_trace(steps: list[tuple[str, str]]) -> None:
    assert shown(steps)[0] == shown([(piece, "") for piece, _ in steps])[0]


NARROW = st.text("ab \n\u00e9", max_size=9)


@given(st.lists(st.tuples(NARROW, NARROW), max_size=12))
def test_lines_are_cut_between_words(steps: list[tuple[str, str]]) -> None:
    """Whatever tokens a word comes in; only one that is longer than a line is cut."""
    text = "".join(piece for piece, _ in steps)
    lines = shown(steps)[0]
    assert "".join("".join(lines).split()) == "".join(text.split())
    if max(map(len, text.split()), default=0) <= WIDTH:
        assert " ".join(lines).split() == text.split()


def test_a_word_that_does_not_fit_moves_whole() -> None:
    lines, _ = shown([("It was de", ""), ("light", ""), ("ful, and", ""), (" more", "")])
    assert lines[:4] == ["It was", "delightful,", "and more", ""]


def test_a_terminal_that_becomes_narrow_keeps_no_ghosts() -> None:
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=True, width=40, legacy_windows=False, _environ={"TERM": "xterm"}
    )
    answer = AnswerView(console)
    session = Provisional()
    answer._provisional = lambda: session.provisional
    answer.add(Emitted(0, Provenance.ACCEPTED, "one two "))
    session.provisional = "three four five six seven"
    answer.look()
    console.width = WIDTH
    answer.look()
    assert out.getvalue().endswith("\x1b[J")
    answer.add(Emitted(0, Provenance.ACCEPTED, "three\n"))
    session.provisional = "four five"
    answer.look()
    assert out.getvalue().count("four five") == 2


def test_provisional_words_are_dimmed_and_stay_on_their_line() -> None:
    _, written = shown([("one ", ""), ("two", " three four five")])
    assert re.findall(r"\x1b\[2m([^\x1b]*)", written) == [" three ", " thr"]
