"""hedge chat: a conversation on the terminal."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hedge.common.command import command_parser, parse, say
from hedge.common.errors import HedgeError
from hedge.edge_client.cli.connect import hedge_from, load_slm
from hedge.edge_client.cli.conversation import Conversation
from hedge.edge_client.cli.local_only import stay_local
from hedge.edge_client.cli.options import (
    add_generation,
    add_logits,
    add_memory,
    add_receipts,
    add_system_prompt,
)
from hedge.edge_client.cli.settings import (
    check_connection,
    check_used,
    needs_cloud,
    overrides_from,
    sampling_of,
)
from hedge.edge_client.memory import state_folder

EXAMPLES = """  hedge chat --insecure
  hedge chat --insecure --system u-hlm --temperature 0
  hedge chat --system slm                                 (no cloud)"""

# The next line of input, None at its end.
Read = Callable[[], str | None]


def history_file() -> Path:
    """Where questions are remembered."""
    return state_folder() / "history"


def reader(*, plain: bool) -> Read:
    """Line editing, history and pasted lines in one piece on a terminal; plain lines elsewhere."""
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if plain or not terminal or os.environ.get("TERM", "dumb") == "dumb":
        return lambda: _line("> " if terminal else "")
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    history: History = InMemoryHistory()
    with contextlib.suppress(OSError):
        path = history_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        history = FileHistory(str(path))
    session: PromptSession[Any] = PromptSession(history=history, enable_open_in_editor=False)

    def read() -> str | None:
        while True:
            try:
                return str(session.prompt("> "))
            except KeyboardInterrupt:
                say("/quit or Ctrl-D leaves")
            except EOFError:
                return None

    return read


def _line(prompt: str) -> str | None:
    try:
        return input(prompt)
    except EOFError:
        return None


def command(arguments: Sequence[str]) -> None:
    parser = command_parser(
        "hedge chat", "Chats on the terminal; words are coloured by who vouches for them.", EXAMPLES
    )
    parser.add_argument(
        "--plain", action="store_true", help="no colours and no line editing (NO_COLOR: no colours)"
    )
    add_memory(parser)
    add_generation(parser)
    add_logits(parser)
    add_receipts(parser)
    add_system_prompt(parser)
    args = parse(parser, arguments)
    stay_local(args)
    check_used(args)
    sampling_of(args)
    check_connection(args, needs_cloud(args))
    slm = load_slm(args)
    console = Console(
        highlight=False, no_color=args.plain or None, force_terminal=False if args.plain else None
    )
    if sys.stdin.isatty():
        # A shell ignores it for what it starts in the background, and Python leaves an ignored one
        # alone.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with asyncio.Runner() as runner:
        hedge = hedge_from(args, slm)
        runner.run(hedge.__aenter__())
        try:
            overrides = overrides_from(args)
            conversation = Conversation(hedge, overrides, args.system, console, args.system_prompt)
            _converse(runner, conversation, reader(plain=args.plain))
        finally:
            runner.run(hedge.__aexit__())


def _converse(runner: asyncio.Runner, conversation: Conversation, read: Read) -> None:
    conversation.greet()
    while (line := read()) is not None:
        if not line.strip():
            continue
        if line.strip() in ("exit", "quit"):
            return
        try:
            if line.startswith("/"):
                if not runner.run(conversation.run_command(line.strip())):
                    return
            else:
                runner.run(conversation.reply(line))
        except KeyboardInterrupt:
            say("stopped")
        except HedgeError as error:
            say(f"hedge chat: {error}")
