"""What one generation did and cost; the `stats` object of `hedge generate --json`."""

from dataclasses import dataclass, field
from enum import StrEnum


class Provenance(StrEnum):
    """Where an emitted token came from. `bonus` is the LLM's own token, every one of the llm system's included."""

    LOCAL = "local"
    ACCEPTED = "accepted"
    CORRECTED = "corrected"
    BONUS = "bonus"
    OFFLINE = "offline"


def rejection(proposed: float, target: float) -> float:
    """beta = max(0, 1 - y_d / x_d); a token the proposal could not draw is never rejected."""
    return max(0.0, 1.0 - target / proposed) if proposed > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Round:
    """One verdict: SLM steps and bytes sent since the last one, entries of the laws it judged, and the cloud's work."""

    drafted: int
    entries: int
    uplink_bytes: int
    positions: int
    forward_s: float


@dataclass(slots=True)
class Statistics:
    """Counts, bytes and seconds; `steps` are forward passes of the SLM.

    Payload bytes are protobuf messages, the opening (`open_bytes`) included, socket bytes what TCP carried, HTTP/2 included.
    """

    provenance: list[Provenance] = field(default_factory=list)
    log: list[Round] = field(default_factory=list)
    # Steps and payload bytes, the opening's apart, that the log accounts for.
    logged: tuple[int, int] = (0, 0)
    steps: int = 0
    asked: int = 0
    audited: int = 0
    risk: float = 0.0
    open_bytes: int = 0
    uplink_payload_bytes: int = 0
    uplink_codec_bytes: int = 0
    uplink_paper_bits: int = 0
    downlink_payload_bytes: int = 0
    uplink_socket_bytes: int | None = None
    downlink_socket_bytes: int | None = None
    wall_s: float = 0.0
    slm_s: float = 0.0
    gate_s: float = 0.0
    codec_s: float = 0.0
    wait_s: float = 0.0
    # From the last message that was judged to its verdict.
    verdict_s: float = 0.0
    rolled_back: int = 0
    # `split` with a cut law: sum of 1 - y(S) over the tokens drawn from one.
    cut_mass: float = 0.0
    disconnects: int = 0
    # Of the cloud's rows: `bitwise`, `rounding`, or None when it does not say; and positions that rounding could decide.
    engine: str | None = None
    # Drafts at positions where the SLM gave no finite logits.
    blind: int = 0
    near_ties: int = 0
    # In exact mode: how many tokens came before the first that was released untested, when the link was gone.
    exact_until: int | None = None

    def count(self, provenance: Provenance) -> int:
        return self.provenance.count(provenance)

    @property
    def rounds(self) -> int:
        return len(self.log)

    @property
    def llm_positions(self) -> int:
        return sum(round_.positions for round_ in self.log)

    @property
    def cloud_s(self) -> float:
        return sum(round_.forward_s for round_ in self.log)

    @property
    def tokens(self) -> int:
        return len(self.provenance)

    @property
    def skipped(self) -> int:
        return self.count(Provenance.LOCAL) + self.count(Provenance.OFFLINE)

    @property
    def realised_risk(self) -> float | None:
        """Mean over audited tokens of 1[skipped] beta: the share that was released and would have been rejected."""
        return self.risk / self.audited if self.audited else None

    def to_json(self) -> dict[str, float | int | None]:
        counts = {kind.value: self.count(kind) for kind in Provenance if kind is not Provenance.LOCAL}
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in ("provenance", "risk", "log", "logged")}
        plain |= {name: getattr(self, name) for name in ("rounds", "llm_positions", "cloud_s")}
        plain = {name: round(value, 6) if isinstance(value, float) else value for name, value in plain.items()}
        risk = self.realised_risk
        return {
            "tokens": self.tokens,
            "verified": self.tokens - self.skipped,
            "skipped": self.skipped,
            "realised_risk": None if risk is None else round(risk, 6),
            **counts,
            **plain,
        }
