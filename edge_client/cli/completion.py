"""hedge completion: what a shell needs to complete the commands and their options."""

import argparse
import sys
from collections.abc import Sequence

import shtab

from hedge.common.command import Commands, command_parser, find_parser, parse
from hedge.edge_client.cli.commands import commands

EXAMPLES = """  source <(hedge completion bash)
  hedge completion zsh > ~/.zfunc/_hedge                  (a folder of $fpath)
  hedge completion fish > ~/.config/fish/completions/hedge.fish"""
SHELLS = ("bash", "zsh", "fish")


def command(arguments: Sequence[str]) -> None:
    parser = command_parser(
        "hedge completion", "Prints the completion of hedge for a shell.", EXAMPLES
    )
    parser.add_argument("shell", choices=SHELLS)
    shell = parse(parser, arguments).shell
    sys.stdout.write(shtab.complete(parser_of(commands()), shell) + "\n")


def parser_of(known: Commands) -> argparse.ArgumentParser:
    """One parser with the options of every command."""
    whole = argparse.ArgumentParser(prog=known.prog)
    whole.add_argument("--version", action="store_true")
    names = whole.add_subparsers()
    for name, where in known.where.items():
        if name == "completion":
            names.add_parser(name).add_argument("shell", choices=SHELLS)
        else:
            own = find_parser(where)
            names.add_parser(name, parents=[own], add_help=False, help=known.summaries.get(name))
    return whole
