"""hedge chat: a conversation on the terminal."""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence

from rich.console import Console

from common.command import command_parser, parse
from common.errors import HedgeError
from common.model import CausalLM
from edge_client.connect import connected, load_slm
from edge_client.grpc_link import GrpcLink
from edge_client.options import Pair, add_generation, check_connection, needs_cloud, settings_from, warp_of
from edge_client.recalibration import recalibration_of
from edge_client.render import counts_line, legend, print_piece, statistics_line
from edge_client.session import Session
from edge_client.settings import SYSTEMS, Settings

EXAMPLES = """  hedge chat --insecure
  hedge chat --insecure --system u-hlm --temperature 0
  hedge chat --system slm                                 (no cloud)"""
HELP = """/help           this list
/system [NAME]  show or change the system: {systems}
/stats          totals of this conversation
/reset          forget the conversation
/quit           leave (so does end of input)"""


class Chat:
    """The conversation and the settings it runs with."""

    def __init__(self, args: argparse.Namespace, slm: CausalLM, link: GrpcLink | None, pair: Pair) -> None:
        self._args, self._slm, self._link, self._pair = args, slm, link, pair
        self._settings = settings_from(args, pair)
        self._recalibrated = recalibration_of(self._settings)
        self._console = Console(highlight=False)
        self._messages: list[dict[str, str]] = []
        self._answers: list[Session] = []

    def greet(self) -> None:
        cloud = f", verified by {self._link.info.model_name} at {self._link.address}" if self._link else ", no cloud"
        self._say(f"{self._slm.name} on this device{cloud}; system {self._settings.system}. /help lists the commands.")
        if self._settings.guarantee == "exact":
            self._say("Exact: every word is the one the large model alone would have chosen; the small one saves its time.")
        if self._console.is_terminal:
            self._console.print(legend())

    def _say(self, line: str) -> None:
        self._console.print(line, style="dim", markup=False)

    def _of_link(self, line: str) -> None:
        self._console.print()
        self._say(f"({line})")

    def obey(self, line: str) -> bool:
        """Runs a /command; False when it was /quit."""
        name, *rest = line[1:].split() or [""]
        match name, rest:
            case "quit", []:
                return False
            case "help", []:
                self._say(HELP.format(systems=" ".join(SYSTEMS)))
            case "reset", []:
                self._messages.clear()
                self._say("forgotten")
            case "stats", []:
                self._report()
            case "system", []:
                self._say(f"system {self._settings.system}: {_describe(self._settings)}")
            case "system", [system]:
                self._change(system)
            case _:
                self._say(f"no command {line!r}; /help lists them")
        return True

    def _change(self, system: str) -> None:
        if system not in SYSTEMS:
            self._say(f"no system {system!r}; there are {' '.join(SYSTEMS)}")
            return
        if self._link is None and SYSTEMS[system]["policy"] != "never":
            self._say(f"system {system} needs a cloud, and this chat was started without one")
            return
        try:
            self._settings = settings_from(self._args, self._pair, system)
            self._recalibrated = recalibration_of(self._settings)
        except HedgeError as error:
            self._say(str(error))
            return
        self._say(f"system {system}: {_describe(self._settings)}")

    def _report(self) -> None:
        done = [session.statistics for session in self._answers]
        tokens, skipped = sum(s.tokens for s in done), sum(s.skipped for s in done)
        up, down = sum(s.uplink_payload_bytes for s in done), sum(s.downlink_payload_bytes for s in done)
        share = f"{skipped / tokens:.0%}" if tokens else "none"
        self._say(f"{len(done)} answers, {tokens} tokens, {share} kept on the device, {up} B up, {down} B down")

    def _fitted(self, messages: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[int]]:
        """The conversation and its ids; the oldest turns go when it has outgrown the context."""
        context = min(self._slm.context, self._link.info.context_limit if self._link else self._slm.context)
        dropped = 0
        while True:
            ids = self._slm.encode_chat(messages)
            # Room for an answer as long as asked for, half of the context at most.
            if len(ids) + min(self._settings.max_new_tokens, context // 2) <= context or len(messages) == 1:
                break
            messages = messages[2 if len(messages) > 2 else 1 :]
            dropped += 1
        if dropped:
            self._say(f"the conversation has outgrown the context of {context} tokens: {dropped} oldest turns dropped")
        return messages, ids

    async def reply(self, line: str) -> None:
        """Answers one user turn, word by word."""
        messages, ids = self._fitted([*self._messages, {"role": "user", "content": line}])
        session = Session(self._slm, ids, self._settings, self._link, recalibrated=self._recalibrated, notify=self._of_link)
        self._messages = messages
        try:
            async for emitted in session.tokens():
                print_piece(self._console, emitted)
        finally:
            self._console.print()
            self._messages.append({"role": "assistant", "content": session.text})
            self._answers.append(session)
        self._console.print(counts_line(session.statistics))
        self._say(statistics_line(session))


def _describe(settings: Settings) -> str:
    limit = f" above {settings.threshold:.4f} of {settings.measure}" if settings.policy == "threshold" else ""
    return f"policy {settings.policy}{limit}, guarantee {settings.guarantee}"


def _read(prompt: str) -> str | None:
    """The next line of input, None at its end."""
    try:
        return input(prompt if sys.stdin.isatty() else "")
    except EOFError:
        return None


def command(arguments: Sequence[str]) -> None:
    parser = command_parser("hedge chat", "Chats on the terminal; words are coloured by who vouches for them.", EXAMPLES)
    add_generation(parser)
    args = parse(parser, arguments)
    warp_of(args)
    check_connection(args, needs_cloud(args))
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    slm = load_slm(args)
    with asyncio.Runner() as runner:
        entered = connected(args, slm)
        link, pair = runner.run(entered.__aenter__())
        try:
            _converse(runner, Chat(args, slm, link, pair))
        finally:
            runner.run(entered.__aexit__(None, None, None))


def _converse(runner: asyncio.Runner, chat: Chat) -> None:
    chat.greet()
    while (line := _read("> ")) is not None:
        if not line.strip():
            continue
        if line.startswith("/"):
            if not chat.obey(line.strip()):
                return
            continue
        try:
            runner.run(chat.reply(line))
        except KeyboardInterrupt:
            # Ctrl-C ends the answer; at the prompt it ends the program.
            sys.stderr.write("stopped\n")
        except HedgeError as error:
            sys.stderr.write(f"hedge chat: {error}\n")
