"""hedge: the program on the device. Commands of other packages come through entry points and are loaded on use."""

import sys
from importlib.metadata import entry_points

from common.command import dispatch, run

GROUP = "hedge.commands"
OWN = {
    "chat": "edge_client.cli.chat:command",
    "generate": "edge_client.cli.generate:command",
    "serve": "edge_client.cli.serve:command",
    "calibrate": "edge_client.cli.calibrate:command",
    "doctor": "edge_client.cli.doctor:command",
    "receipts": "edge_client.cli.receipts:command",
    "pull": "edge_client.cli.models:pull",
    "models": "edge_client.cli.models:models",
}


def main() -> None:
    """The entry point of hedge."""
    others = {point.name: point.value for point in entry_points(group=GROUP)}
    run("hedge", lambda: dispatch("hedge", OWN | others, sys.argv[1:]))
