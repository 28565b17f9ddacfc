"""A conversation on the terminal: its turns, its settings, and what its /commands do."""

import json
import time
from pathlib import Path

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from hedge.common.errors import BadInput, HedgeError
from hedge.common.files import TEXT
from hedge.edge_client.cli.chat_settings import NUMBERS, describe, read_setting, show_setting
from hedge.edge_client.cli.prompts import check_messages
from hedge.edge_client.cli.render import STYLES, AnswerView, counts_line, legend, statistics_line
from hedge.edge_client.client import AsyncHedge
from hedge.edge_client.overrides import Overrides
from hedge.edge_client.receipt import lines
from hedge.edge_client.reply import Reply
from hedge.edge_client.systems import SYSTEMS
from hedge.edge_client.transport.messages import engine_of

HELP = """/help             this list
/system [NAME]    show or change the system: {systems}
/threshold [X]    show or change when the cloud is asked: above X; `calibrated`: by calibration
/temperature [X]  show or change it; /seed [N] and /max-tokens [N] too
/undo             forget the last question and its answer
/compare NAME     the last question again, by this system and another one, side by side
/receipt          who wrote the last answer, what left this device, and what it cost
/link             the cloud, and how long the way there takes
/stats            totals of this conversation
/save FILE        write the conversation, as JSON
/load FILE        go on with one that was saved
/reset            forget the conversation
/quit             leave (so do exit and Ctrl-D); Ctrl-C stops an answer"""


# Characters of a question that is named.
SHOWN = 60


class Conversation:
    """The turns so far and the settings they run with."""

    def __init__(
        self,
        hedge: AsyncHedge,
        overrides: Overrides,
        system: str,
        console: Console,
        system_prompt: str | None = None,
    ) -> None:
        self._hedge = hedge
        self._overrides = overrides
        self._config = hedge.resolve(overrides.configure(system))
        self._console = console
        self._beginning = [{"role": "system", "content": system_prompt}] if system_prompt else []
        self._messages: list[dict[str, str]] = list(self._beginning)
        self._answers: list[Reply] = []
        # The file that a second /save may write over.
        self._overwritten: Path | None = None

    def greet(self) -> None:
        cloud = (
            f", verified by {self._hedge.link.info.model_name} at {self._hedge.link.address}"
            if self._hedge.link
            else ", no cloud"
        )
        self.say(
            f"{self._hedge.slm.name} on this device{cloud}; system {self._config.system}. "
            "/help lists the commands."
        )
        if self._config.guarantee == "exact":
            ties = (
                ", up to near ties, which are counted"
                if self._hedge.link and engine_of(self._hedge.link.info) != "bitwise"
                else ""
            )
            self.say(
                f"Exact: every word is the one the large model alone would have chosen{ties}; "
                "the small one saves its time."
            )
        if self._console.is_terminal:
            self._console.print(legend())

    def say(self, line: str) -> None:
        self._console.print(line, style="dim", markup=False)

    async def run_command(self, line: str) -> bool:
        """Runs a /command; False when it was /quit."""
        name, *rest = line[1:].split(maxsplit=1) or [""]
        plain = {"stats": self._report, "receipt": self._tell_receipt, "undo": self._undo}
        try:
            match name, rest:
                case "quit", []:
                    return False
                case "help", []:
                    self.say(HELP.format(systems=" ".join(SYSTEMS)))
                case "reset", []:
                    self._messages[:] = self._beginning
                    self.say("forgotten")
                case _, [] if name in plain:
                    plain[name]()
                case _, _ if name == "system" or name in NUMBERS:
                    self._run_setting(name, rest)
                case "compare", [system]:
                    await self._compare(system)
                case "link", []:
                    await self._tell_link()
                case "save", [path]:
                    self._save(Path(path))
                case "load", [path]:
                    self._load(Path(path))
                case _:
                    self.say(f"no command {line!r}; /help lists them")
        except HedgeError as error:
            self.say(str(error))
        return True

    def _run_setting(self, name: str, rest: list[str]) -> None:
        """Shows a setting, or changes it to the word that follows its name."""
        if not rest:
            self.say(self._described() if name == "system" else show_setting(self._config, name))
        elif name == "system":
            self._change(rest[0])
        else:
            self._set(name, rest[0])

    def _described(self) -> str:
        return f"system {self._config.system}: {describe(self._config)}"

    def _checked(self, system: str) -> None:
        if system not in SYSTEMS:
            raise BadInput(f"no system {system!r}; there are {' '.join(SYSTEMS)}")
        if self._hedge.link is None and SYSTEMS[system].needs_cloud:
            raise BadInput(f"system {system} needs a cloud, and this chat was started without one")

    def _change(self, system: str) -> None:
        self._checked(system)
        self._config = self._hedge.resolve(self._overrides.configure(system))
        self.say(self._described())

    def _set(self, name: str, word: str) -> None:
        overrides = read_setting(self._overrides, name, word)
        self._config = self._hedge.resolve(overrides.configure(self._config.system))
        self._overrides = overrides
        self.say(self._described() if name == "threshold" else show_setting(self._config, name))

    def _tell_receipt(self) -> None:
        if not self._answers:
            raise BadInput("nothing has been answered yet")
        for line in lines(self._answers[-1].receipt):
            self.say(line)

    def _undo(self) -> None:
        asked = [
            number for number, message in enumerate(self._messages) if message["role"] == "user"
        ]
        if not asked:
            raise BadInput("nothing has been asked yet")
        question = " ".join(self._messages[asked[-1]]["content"].split())
        del self._messages[asked[-1] :]
        self.say(f"forgotten: {question if len(question) <= SHOWN else question[:SHOWN] + '...'}")

    async def _tell_link(self) -> None:
        if self._hedge.link is None:
            self.say("no cloud: everything stays on this device")
            return
        started = time.perf_counter()
        await self._hedge.link.probe()
        trip = 1e3 * (time.perf_counter() - started)
        info = self._hedge.link.info
        self.say(
            f"{info.model_name} at {self._hedge.link.address}: {trip:.1f} ms there and back, "
            f"context {info.context_limit}"
        )

    def _report(self) -> None:
        done = [reply.session.statistics for reply in self._answers]
        tokens = sum(s.tokens for s in done)
        skipped = sum(s.skipped for s in done)
        up = sum(s.uplink_payload_bytes for s in done)
        down = sum(s.downlink_payload_bytes for s in done)
        share = f"{skipped / tokens:.0%}" if tokens else "none"
        self.say(
            f"{len(done)} answers, {tokens} tokens, {share} kept on the device, "
            f"{up} B up, {down} B down"
        )

    def _save(self, path: Path) -> None:
        if path.exists() and path != self._overwritten:
            self._overwritten = path
            raise BadInput(f"{path} is there already: the same /save once more writes over it")
        try:
            path.write_text(
                json.dumps({"messages": self._messages}, ensure_ascii=False, indent=1) + "\n",
                "utf-8",
            )
        except OSError as error:
            raise BadInput(f"cannot write {path}: {error.strerror}") from None
        self.say(f"saved: {len(self._messages)} messages in {path}")

    def _load(self, path: Path) -> None:
        try:
            saved = json.loads(path.read_text(TEXT))
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror}") from None
        except ValueError:
            raise BadInput(f"{path} is not JSON") from None
        self._messages = check_messages(
            saved.get("messages") if isinstance(saved, dict) else None, str(path)
        )
        self.say(f"{len(self._messages)} messages from {path}")

    def _fitted(self, messages: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[int]]:
        """The conversation and its ids; the oldest turns go when it has outgrown the context."""
        context = min(
            self._hedge.slm.context,
            self._hedge.link.info.context_limit if self._hedge.link else self._hedge.slm.context,
        )
        dropped = 0
        first = int(messages[0]["role"] == "system")
        while True:
            ids = self._hedge.slm.encode_chat(messages)
            # Room for an answer as long as asked for, half of the context at most.
            if (
                len(ids) + min(self._config.sampling.max_new_tokens, context // 2) <= context
                or len(messages) == first + 1
            ):
                break
            messages = messages[:first] + messages[first + min(2, len(messages) - first - 1) :]
            dropped += 1
        if dropped:
            self.say(
                f"the conversation has outgrown the context of {context} tokens: "
                f"{dropped} oldest turns dropped"
            )
        return messages, ids

    async def reply(self, line: str) -> None:
        """Answers one user turn, word by word."""
        messages, ids = self._fitted([*self._messages, {"role": "user", "content": line}])
        answer = AnswerView(self._console)
        reply = self._hedge.reply(ids, self._config, answer.note)
        self._messages = messages
        try:
            async with answer.watching(reply.session):
                async for emitted in reply.tokens():
                    answer.add(emitted)
        finally:
            self._console.print()
            self._messages.append({"role": "assistant", "content": reply.session.text})
            self._answers.append(reply)
        self._console.print(counts_line(reply.session.statistics))
        self.say(statistics_line(reply.session))

    async def _compare(self, system: str) -> None:
        """Answers the last question by two systems under one seed; the conversation stays."""
        self._checked(system)
        asked = [
            number for number, message in enumerate(self._messages) if message["role"] == "user"
        ]
        if not asked:
            raise BadInput("nothing has been asked yet")
        _, ids = self._fitted(self._messages[: asked[-1] + 1])
        panels = []
        for name in (self._config.system, system):
            same = name == self._config.system
            config = self._config if same else self._overrides.configure(name)
            session = self._hedge.open_session(ids, config)
            words = Text()
            async for emitted in session.tokens():
                words.append(emitted.text, STYLES[emitted.provenance])
            panels.append(
                Panel(Text("\n").join([words, Text(statistics_line(session), "dim")]), title=name)
            )
        self._console.print(Columns(panels, equal=True, expand=True))
        self.say(
            f"{self._config.system} and {system} on the last question; "
            "the conversation is as it was"
        )
