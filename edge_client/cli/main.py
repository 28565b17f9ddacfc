"""hedge: the program on the device. Commands are loaded on use."""

import sys

from hedge.common.command import dispatch, run
from hedge.edge_client.cli.commands import commands


def main() -> None:
    """The entry point of hedge."""
    run("hedge", lambda: dispatch("hedge", commands(), sys.argv[1:]))
