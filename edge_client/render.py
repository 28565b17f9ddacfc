"""Answers on a terminal: words coloured by provenance; plain text with a legend of counts elsewhere."""

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from edge_client.session import Emitted, Session
from edge_client.statistics import Provenance, Statistics

STYLES = {
    Provenance.LOCAL: "default",
    Provenance.ACCEPTED: "green",
    Provenance.CORRECTED: "bold yellow",
    Provenance.BONUS: "cyan",
    Provenance.OFFLINE: "dim magenta",
}
MEANING = {
    Provenance.LOCAL: "the device was sure",
    Provenance.ACCEPTED: "the cloud agreed",
    Provenance.CORRECTED: "the cloud replaced it",
    Provenance.BONUS: "the cloud's own",
    Provenance.OFFLINE: "written without the cloud",
}


def legend(kinds: Iterable[Provenance] = Provenance) -> Text:
    parts = [Text.assemble((kind.value, STYLES[kind]), f": {MEANING[kind]}") for kind in kinds]
    return Text("  ").join(parts)


def print_piece(console: Console, emitted: Emitted) -> None:
    if not console.is_terminal:
        # Rich would expand tabs.
        console.file.write(emitted.text)
        console.file.flush()
        return
    console.print(Text(emitted.text, STYLES[emitted.provenance]), end="", soft_wrap=True)


def counts_line(statistics: Statistics) -> Text:
    """How many tokens came from where."""
    shown = [kind for kind in Provenance if statistics.count(kind)]
    return Text(", ").join(Text.assemble((f"{statistics.count(kind)} {kind.value}", STYLES[kind])) for kind in shown)


def statistics_line(session: Session) -> str:
    s = session.statistics
    kept = "all tested" if session.exact else f"{s.skipped / max(1, s.tokens):.0%} kept on the device, {s.asked} asked"
    parts = [f"{s.tokens} tokens", kept, f"{s.rounds} rounds"]
    if s.realised_risk is not None:
        parts.append(f"risk taken {s.realised_risk:.4f}")
    if s.uplink_payload_bytes:
        wire = f" ({s.uplink_socket_bytes} on the wire)" if s.uplink_socket_bytes is not None else ""
        parts.append(f"up {s.uplink_payload_bytes} B{wire}, down {s.downlink_payload_bytes} B")
    if s.uplink_paper_bits:
        parts.append(f"paper's account {s.uplink_paper_bits / 8:.0f} B")
    parts.append(f"{s.tokens / max(s.wall_s, 1e-9):.0f} tokens/s")
    return " | ".join(parts)
