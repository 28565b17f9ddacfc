"""hedge: the program on the device. Commands are loaded on use."""

import sys

from common.command import dispatch, run
from edge_client.cli.commands import commands


def main() -> None:
    """The entry point of hedge."""
    run("hedge", lambda: dispatch("hedge", commands(), sys.argv[1:]))
