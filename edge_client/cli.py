"""hedge: the program on the device. Commands of other packages come through entry points and are loaded on use."""

import sys
from importlib.metadata import entry_points

from common.command import dispatch, run

GROUP = "hedge.commands"
OWN = {
    "chat": "edge_client.chat:command",
    "generate": "edge_client.generate:command",
    "serve": "edge_client.serve:command",
    "calibrate": "edge_client.calibrate:command",
    "doctor": "edge_client.doctor:command",
    "pull": "edge_client.models:pull",
    "models": "edge_client.models:models",
}


def main() -> None:
    """The entry point of hedge."""
    others = {point.name: point.value for point in entry_points(group=GROUP)}
    run("hedge", lambda: dispatch("hedge", OWN | others, sys.argv[1:]))
