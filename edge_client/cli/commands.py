"""The commands of hedge, by name: MODULE:FUNCTION. Those of other packages come through entry
points.
"""

from importlib.metadata import entry_points

GROUP = "hedge.commands"
OWN = {
    "chat": "hedge.edge_client.cli.chat:command",
    "generate": "hedge.edge_client.cli.generate:command",
    "serve": "hedge.edge_client.cli.serve:command",
    "calibrate": "hedge.edge_client.cli.calibrate:command",
    "receipts": "hedge.edge_client.cli.receipts:command",
    "pull": "hedge.edge_client.cli.models:pull",
    "models": "hedge.edge_client.cli.models:models",
    "completion": "hedge.edge_client.cli.completion:command",
}


def commands() -> dict[str, str]:
    return OWN | {point.name: point.value for point in entry_points(group=GROUP)}
