"""hedge: the program on the device. Commands are loaded on use."""

import sys

from hedge.common.command import run
from hedge.edge_client.cli.commands import commands


def main() -> None:
    """The entry point of hedge."""
    run("hedge", lambda: commands().run(sys.argv[1:]))
