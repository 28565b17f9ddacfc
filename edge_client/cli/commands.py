"""The commands of hedge: where each is, as MODULE:FUNCTION, and what it does, in a line.

Those of other packages come through entry points.
"""

from importlib.metadata import entry_points

from hedge.common.command import Commands

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
SUMMARIES = {
    "chat": "chats on the terminal",
    "generate": "answers prompts, as text or JSON",
    "serve": "serves the OpenAI API and a web page on this device",
    "doctor": "checks model, cloud and link, and says what speed to expect",
    "calibrate": "learns thresholds from your prompts",
    "receipts": "sums up what answers sent, saved and cost",
    "pull": "fetches models from the hub",
    "models": "lists the models that are here",
    "evaluate": "compares the answers of systems on questions",
    "bench": "compares the speed of systems on links and devices",
    "link": "puts a slow or failing link between a device and a cloud",
    "completion": "prints the completion for a shell",
    "simulate": "runs systems on the paper's channel (research)",
    "plot": "draws what simulate and bench measured (research)",
    "wireless": "sends text over a fading channel (research)",
}
RESEARCH = frozenset({"simulate", "plot", "wireless"})


def explain_missing(name: str) -> str:
    """Where a command is to be had that is not installed; empty where there is none."""
    if name not in RESEARCH:
        return ""
    return f"hedge {name} is in the package research: in a clone, pip install ./research"


def commands() -> Commands:
    where = OWN | {point.name: point.value for point in entry_points(group=GROUP)}
    return Commands("hedge", where, SUMMARIES, explain_missing)
