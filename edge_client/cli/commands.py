"""The commands of hedge, by name: MODULE:FUNCTION. Those of other packages come through entry points."""

from importlib.metadata import entry_points

GROUP = "hedge.commands"
OWN = {
    "chat": "edge_client.cli.chat:command",
    "generate": "edge_client.cli.generate:command",
    "serve": "edge_client.cli.serve:command",
    "calibrate": "edge_client.cli.calibrate:command",
    "receipts": "edge_client.cli.receipts:command",
    "pull": "edge_client.cli.models:pull",
    "models": "edge_client.cli.models:models",
    "completion": "edge_client.cli.completion:command",
}


def commands() -> dict[str, str]:
    return OWN | {point.name: point.value for point in entry_points(group=GROUP)}
