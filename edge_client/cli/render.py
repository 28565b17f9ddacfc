"""Answers on a terminal: words coloured by provenance; plain text with a legend of counts
elsewhere.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from hedge.edge_client.engine.sequence import Provenance
from hedge.edge_client.engine.session import Emitted, Session
from hedge.edge_client.engine.statistics import Statistics
from hedge.edge_client.transport.events import Event

STYLES = {
    Provenance.LOCAL: "default",
    Provenance.ACCEPTED: "green",
    Provenance.CORRECTED: "bold yellow",
    Provenance.BONUS: "cyan",
    Provenance.OFFLINE: "dim magenta",
}
PROVISIONAL = "dim"
TICK_SECONDS = 0.05
_WORDS = re.compile(r"(\S*)(\s*)")
# From the cursor to the end of the screen.
_ERASE = "\x1b[J"
MEANING = {
    Provenance.LOCAL: "the device was sure",
    Provenance.ACCEPTED: "the cloud agreed",
    Provenance.CORRECTED: "the cloud replaced it",
    Provenance.BONUS: "the cloud's own",
    Provenance.OFFLINE: "written without the cloud",
}


def legend(kinds: Iterable[Provenance] = Provenance) -> Text:
    parts = [Text.assemble((kind.value, STYLES[kind]), f": {MEANING[kind]}") for kind in kinds]
    return Text("  ").join(parts)


def print_piece(console: Console, emitted: Emitted) -> None:
    if not console.is_terminal:
        # Rich would expand tabs.
        console.file.write(emitted.text)
        console.file.flush()
        return
    console.print(Text(emitted.text, STYLES[emitted.provenance]), end="", soft_wrap=True)


class AnswerView:
    """Final words as they come and, on a terminal, those that are not final dimmed behind them, as
    far as the line goes.

    The cursor stays where the next final word begins, so the terminal wraps and scrolls as with
    plain text.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._provisional: Callable[[], str] = str
        self._column = 0
        self._shown = ""
        # The parts of the word that is being written, with their styles.
        self._word: list[tuple[str, str]] = []
        self._width = console.width
        # Whether the column is not known, until the next line.
        self._lost = False

    @asynccontextmanager
    async def watching(self, session: Session) -> AsyncIterator[None]:
        """Shows the words of a session that are not final while the body runs."""
        self._provisional = lambda: session.provisional
        ticking = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
            self._show("")

    async def _tick(self) -> None:
        while self._live:
            self.look()
            await asyncio.sleep(TICK_SECONDS)

    def look(self) -> None:
        """Puts what is provisional now in the place of what was."""
        if self._console.width != self._width:
            # Terminals differ in where the cursor is then.
            self._width = self._console.width
            self._lost = True
        room = 0 if self._lost else self._console.width - self._column - 1
        # Controls move the cursor in ways that nobody counts.
        line = "".join(
            c for c in self._provisional().expandtabs(1).partition("\n")[0] if c.isprintable()
        )
        self._show(chop_cells(line, room)[0] if room > 1 and line else "")

    def _show(self, words: str) -> None:
        if words == self._shown:
            return
        # All that is behind: a terminal that has become narrow has wrapped what was shown.
        self._console.file.write(_ERASE)
        if words:
            self._console.print(Text(words, PROVISIONAL), end="", soft_wrap=True)
            self._console.control(Control((ControlType.CURSOR_BACKWARD, cell_len(words))))
        self._shown = words

    def add(self, emitted: Emitted) -> None:
        self._show("")
        if not self._live:
            print_piece(self._console, emitted)
            return
        style = STYLES[emitted.provenance]
        for word, space in _WORDS.findall(emitted.text):
            if word:
                self._write(word, style)
            if space:
                self._space(space)
        self.look()

    def _write(self, word: str, style: str) -> None:
        """A word or the next part of one. What would be cut by the end of the line goes to the
        next, its beginning too.
        """
        width = self._console.width
        begun = sum(cell_len(text) for text, _ in self._word)
        size = cell_len(word)
        moves = self._column + size > width and begun + size <= width and self._column > begun
        if moves and not self._lost:
            if begun:
                # Behind a full line the cursor stands on its last character.
                back = begun - (self._column >= width)
                self._console.control(
                    Control((ControlType.CURSOR_BACKWARD, back), (ControlType.ERASE_IN_LINE, 0))
                )
            self._console.print()
            self._column = 0
            for text, own in self._word:
                self._print(text, own)
        self._word.append((word, style))
        self._print(word, style)

    def _space(self, space: str) -> None:
        self._word.clear()
        blank = not space.strip(" ")
        if blank and not self._lost and self._column + len(space) > self._console.width:
            # In the place of blanks that would begin the next line.
            self._console.print()
            self._column = 0
            return
        self._print(space, "default")

    def _print(self, text: str, style: str) -> None:
        self._console.print(Text(text, style), end="", soft_wrap=True)
        _, newline, last = text.rpartition("\n")
        start = 0 if newline else self._column
        self._lost = self._lost and not newline
        for part in last.split("\t")[:-1]:
            start += cell_len(part)
            start += 8 - start % 8
        end = start + cell_len(last.rpartition("\t")[2])
        # Terminals differ in what they do with a wide character in the last column.
        self._lost = self._lost or (end > self._console.width and cell_len(last) != len(last))
        # A full line: the cursor waits behind its last character.
        self._column = (end - 1) % self._console.width + 1 if end else 0

    def note(self, event: Event) -> None:
        """A line about the link in the middle of the answer."""
        self._show("")
        self._console.print()
        self._console.print(f"({event})", style=PROVISIONAL, markup=False)
        self._word.clear()
        self._column = 0
        self._lost = False


def counts_line(statistics: Statistics) -> Text:
    """How many tokens came from where."""
    shown = [kind for kind in Provenance if statistics.count(kind)]
    return Text(", ").join(
        Text.assemble((f"{statistics.count(kind)} {kind.value}", STYLES[kind])) for kind in shown
    )


def statistics_line(session: Session) -> str:
    s = session.statistics
    kept = (
        "all tested"
        if session.exact
        else f"{s.skipped / max(1, s.tokens):.0%} kept on the device, {s.asked} asked"
    )
    parts = [f"{s.tokens} tokens", kept, f"{s.rounds} round{'s' * (s.rounds != 1)}"]
    if s.near_ties:
        parts.append(f"{s.near_ties} near tie{'s' * (s.near_ties > 1)}")
    if s.realised_risk is not None:
        parts.append(f"risk taken {s.realised_risk:.4f}")
    if s.uplink_payload_bytes:
        wire = (
            f" ({s.uplink_socket_bytes} on the wire)" if s.uplink_socket_bytes is not None else ""
        )
        parts.append(f"up {s.uplink_payload_bytes} B{wire}, down {s.downlink_payload_bytes} B")
    if s.uplink_paper_bits:
        parts.append(f"paper's account {s.uplink_paper_bits / 8:.0f} B")
    parts.append(f"{s.tokens / max(s.wall_s, 1e-9):.0f} tokens/s")
    return " | ".join(parts)
