"""hedge: the program on the device. Commands of other packages come through entry points and are loaded on use."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import entry_points

from common.command import run
from common.errors import BadInput

GROUP = "hedge.commands"
OWN = {
    "chat": "edge_client.chat:command",
    "generate": "edge_client.generate:command",
    "serve": "edge_client.serve:command",
    "calibrate": "edge_client.calibrate:command",
    "doctor": "edge_client.doctor:command",
}


def _commands() -> dict[str, str]:
    return OWN | {point.name: point.value for point in entry_points(group=GROUP)}


def _load(target: str) -> Callable[[Sequence[str]], None]:
    module, _, name = target.partition(":")
    command: Callable[[Sequence[str]], None] = getattr(import_module(module), name)
    return command


def main() -> None:
    """The entry point of hedge."""
    run("hedge", lambda: _dispatch(sys.argv[1:]))


def _dispatch(arguments: Sequence[str]) -> None:
    commands = _commands()
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"usage: hedge {{{','.join(commands)}}} ...\n\n`hedge COMMAND --help` says more.\n")
        if not arguments:
            sys.exit(2)
        return
    if arguments[0] not in commands:
        raise BadInput(f"no command {arguments[0]!r}; there are {', '.join(commands)}")
    _load(commands[arguments[0]])(arguments[1:])
