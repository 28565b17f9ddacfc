"""What one generation did and cost; the `stats` object of `hedge generate --json`."""

from collections import Counter
from dataclasses import dataclass, field, fields

from hedge.edge_client.engine.sequence import Provenance
from hedge.edge_client.transport.traffic import Traffic
from hedge.v1 import hedge_pb2 as pb

# Told in other words, or not at all.
_OWN = ("released", "risk", "log", "logged", "gaps", "open_ids")


def rejection(proposed: float, target: float) -> float:
    """beta = max(0, 1 - y_d / x_d); a token the proposal could not draw is never rejected."""
    return max(0.0, 1.0 - target / proposed) if proposed > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Round:
    """One verdict: SLM steps and bytes sent since the last one, entries of the proposals it judged,
    and the cloud's work.
    """

    drafted: int
    entries: int
    uplink_bytes: int
    positions: int
    forward_s: float


@dataclass(slots=True)
class Statistics(Traffic):
    """Counts, bytes and seconds; `steps` are forward passes of the SLM, `released` the tokens by
    provenance.
    """

    released: Counter[Provenance] = field(default_factory=Counter)
    log: list[Round] = field(default_factory=list)
    # Steps and payload bytes, the opening's apart, that the log accounts for.
    logged: tuple[int, int] = (0, 0)
    steps: int = 0
    asked: int = 0
    audited: int = 0
    risk: float = 0.0
    wall_s: float = 0.0
    slm_s: float = 0.0
    gate_s: float = 0.0
    rolled_back: int = 0
    # `split` with a cut distribution: sum of 1 - y(S) over the tokens drawn from one.
    cut_mass: float = 0.0
    # Drafts at positions where the SLM gave no finite logits, and judged positions that rounding
    # could decide.
    blind: int = 0
    near_ties: int = 0
    # In exact mode: how many tokens came before the first that was released untested, when the link
    # was gone.
    exact_until: int | None = None

    def count(self, provenance: Provenance) -> int:
        return self.released[provenance]

    def record(self, verdict: pb.Verdict, entries: int) -> None:
        """Logs a round; `entries` of the distributions that it judged."""
        timings = verdict.timings
        now = (self.steps, self.uplink_payload_bytes - self.open_bytes)
        drafted = now[0] - self.logged[0]
        sent = now[1] - self.logged[1]
        self.log.append(Round(drafted, entries, sent, timings.positions, timings.forward_us / 1e6))
        self.logged = now
        self.near_ties += verdict.near_ties

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
        return self.released.total()

    @property
    def skipped(self) -> int:
        return self.count(Provenance.LOCAL) + self.count(Provenance.OFFLINE)

    @property
    def realised_risk(self) -> float | None:
        """Mean over audited tokens of 1[skipped] beta: the share that was released and would have
        been rejected.
        """
        return self.risk / self.audited if self.audited else None

    def to_json(self) -> dict[str, float | int | None]:
        counts = {
            kind.value: self.count(kind) for kind in Provenance if kind is not Provenance.LOCAL
        }
        plain = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in _OWN}
        plain |= {name: getattr(self, name) for name in ("rounds", "llm_positions", "cloud_s")}
        plain = {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in plain.items()
        }
        risk = self.realised_risk
        return {
            "tokens": self.tokens,
            "verified": self.tokens - self.skipped,
            "skipped": self.skipped,
            "realised_risk": None if risk is None else round(risk, 6),
            **counts,
            **plain,
        }
