"""hedge chat in a terminal, as it looks: the screen of a real pty, put on a page for the picture.
`make web-test`.
"""

import html
import os
import time
from pathlib import Path

import pexpect
import pyte
from playwright.sync_api import BrowserContext

from hedge.evaluation.processes import BIN, run_cloud
from tests.web.test_page import browser, context, shoot  # noqa: F401

COLUMNS = 96
LINES = 22
SHADES = {
    "default": "#ddd",
    "green": "#6c6",
    "brown": "#dc4",
    "yellow": "#dc4",
    "cyan": "#5cc",
    "magenta": "#c6c",
    "red": "#e66",
    "black": "#777",
    "white": "#fff",
    "blue": "#69f",
}


def page_of(screen: pyte.Screen) -> str:
    lines = []
    for row in range(LINES):
        cells = [screen.buffer[row][column] for column in range(COLUMNS)]
        spans = (
            f'<span style="color:{SHADES.get(cell.fg, "#999")};'
            f'font-weight:{600 if cell.bold else 400}">'
            f"{html.escape(cell.data)}</span>"
            for cell in cells
        )
        lines.append("".join(spans).rstrip())
    style = "margin:0;padding:16px;background:#161616;font:14px/1.35 monospace;width:fit-content"
    return f'<pre style="{style}">' + "\n".join(lines) + "</pre>"


def test_a_conversation_in_a_terminal(context: BrowserContext, tmp_path: Path) -> None:  # noqa: F811
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.Stream(screen)
    with run_cloud("--threads", "1") as cloud:
        words = [
            "chat",
            "--insecure",
            "--cloud",
            cloud,
            "--temperature",
            "0",
            "--seed",
            "1",
            "--threads",
            "1",
        ]
        terminal = {
            **os.environ,
            "TERM": "xterm-256color",
            "XDG_STATE_HOME": str(tmp_path),
            "OMP_NUM_THREADS": "1",
        }
        child = pexpect.spawn(
            str(BIN / "hedge"),
            words,
            encoding="utf-8",
            dimensions=(LINES, COLUMNS),
            timeout=60,
            env=terminal,
        )

        def until(text: str) -> None:
            end = time.monotonic() + 60
            while text not in "\n".join(screen.display):
                assert time.monotonic() < end, "\n".join(screen.display)
                try:
                    stream.feed(child.read_nonblocking(4096, 0.2))
                except pexpect.TIMEOUT:
                    continue

        until("lists the commands")
        until("> ")
        child.send("What is 47 + 38?\r")
        until("Answer: 85")
        until("tokens/s")
        child.send("/compare slm\r")
        until("╰")
        child.close(force=True)
    page = context.new_page()
    page.set_content(page_of(screen))
    assert "accepted" in page.inner_text("pre")
    shoot(page.locator("pre"), "chat")
