"""The systems that the study of GELATO compares: what ends their rounds, and what their drafts cost
on the uplink.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hedge.common.codec import paper_bits
from hedge.edge_client.config import GelatoConfig
from hedge.edge_client.engine.gates.adaptive import Adaptive
from hedge.edge_client.engine.gates.gate import RoundTrip, recent_mean
from hedge.edge_client.engine.gates.gelato import Gelato

VOCAB = 151_936
PROBABILITY_BITS = 16


class Controller(Protocol):
    """Ends rounds; told what they cost."""

    def stops(self, entropy: float, gate: float, bits: float) -> bool:
        """Of every draft, `bits` on the uplink: whether it is the last of the round."""
        ...

    @property
    def holds(self) -> bool: ...

    @property
    def passes(self) -> bool:
        """Whether the round is to be without a draft."""
        ...

    def stepped(self, seconds: float) -> None: ...

    def judged(self, upload: float, pass_s: float, sent: int, accepted: int) -> None: ...


@dataclass(slots=True)
class Static:
    length: int
    drafts: int = 0
    holds: bool = False
    passes: bool = False

    def stops(self, entropy: float, gate: float, bits: float) -> bool:
        self.drafts += 1
        return self.drafts >= self.length

    def stepped(self, seconds: float) -> None: ...

    def judged(self, upload: float, pass_s: float, sent: int, accepted: int) -> None:
        self.drafts = 0


@dataclass(slots=True)
class Published:
    """Gelato as a session runs it; uploads are measured, and what a draft's own would take is known
    from its size.
    """

    gelato: Gelato
    seconds_per_bit: float = 0.0
    bits: list[float] = field(default_factory=list)

    def stops(self, entropy: float, gate: float, bits: float) -> bool:
        self.bits.append(bits)
        if self.seconds_per_bit:
            self.gelato.newest_s = bits * self.seconds_per_bit
        self.gelato.observe_draft(entropy)
        return self.gelato.asks(entropy, 0)

    @property
    def holds(self) -> bool:
        return self.gelato.holds_last

    @property
    def passes(self) -> bool:
        return self.gelato.requests_token

    def stepped(self, seconds: float) -> None:
        self.gelato.observe_step(seconds)

    def judged(self, upload: float, pass_s: float, sent: int, accepted: int) -> None:
        if sent:
            self.gelato.upload_s = recent_mean(self.gelato.upload_s, upload / sent)
            self.seconds_per_bit = recent_mean(self.seconds_per_bit, upload / sum(self.bits[:sent]))
        self.bits.clear()
        self.gelato.observe_verdict(
            RoundTrip(upload + pass_s, 0.0, pass_s),
            [True] * accepted,
            True if accepted < sent else None,
        )


@dataclass(slots=True)
class HedgeRival:
    """`hedge`, waiting for each verdict: a block ends at the gate, or at the length that its pace
    prefers.
    """

    threshold: float
    pace: Adaptive = field(default_factory=lambda: Adaptive(0.0))
    fired: list[bool] = field(default_factory=list)
    holds: bool = False
    passes: bool = False

    def stops(self, entropy: float, gate: float, bits: float) -> bool:
        self.fired.append(gate > self.threshold)
        return self.fired[-1] or len(self.fired) >= self.pace.longest

    def stepped(self, seconds: float) -> None:
        self.pace.observe_step(seconds)

    def judged(self, upload: float, pass_s: float, sent: int, accepted: int) -> None:
        lost = self.fired[accepted] if accepted < sent else None
        self.pace.observe_verdict(
            RoundTrip(upload + pass_s, 0.0, pass_s), self.fired[:accepted], lost
        )
        self.fired.clear()


@dataclass(frozen=True, slots=True)
class Rival:
    """A system: its controller, whether its drafts are sampled or coupled, and the bits of a token
    on the uplink.
    """

    controller: Callable[[], Controller]
    coupled: bool
    payload: str

    def bits(self, nucleus: int) -> float:
        index = math.ceil(math.log2(VOCAB))
        if self.payload == "top-p":
            return float(paper_bits(VOCAB, nucleus))
        return float(index + (PROBABILITY_BITS if self.payload == "id and probability" else 0))


def gelato_rival(
    variant: str, payload: str, weight: float, decay: float, budget_j: float, bucket: float = 1.2
) -> Rival:
    options = GelatoConfig(
        variant=variant, weight=weight, budget_j=budget_j, bucket=bucket, decay=decay
    )
    return Rival(lambda: Published(Gelato(options)), payload == "ids", payload)


def rivals(
    weights: Sequence[float], decay: float, threshold: float, budget_j: float, marginal_j: float
) -> dict[str, Rival]:
    found = {}
    for length in (1, 3, 5, 7, 9):
        found[f"static {length}, top-p"] = Rival(lambda n=length: Static(n), False, "top-p")  # type: ignore[misc]
        found[f"static {length}, ids"] = Rival(lambda n=length: Static(n), True, "ids")  # type: ignore[misc]
    found["DSSD"] = Rival(lambda: Static(7), False, "id and probability")

    for weight in weights:
        for variant, payload in (
            ("published", "top-p"),
            ("published", "ids"),
            ("tripping", "top-p"),
            ("tripping", "ids"),
        ):
            found[f"gelato {variant}, V {weight:g}, {payload}"] = gelato_rival(
                variant, payload, weight, decay, budget_j
            )
        for payload in ("top-p", "ids"):
            found[f"gelato marginal, V {weight:g}, {payload}"] = gelato_rival(
                "marginal", payload, weight, decay, marginal_j
            )
    for payload in ("top-p", "ids"):
        # A bucket that never overflows leaves the outer loop alone.
        found[f"gelato without a bucket, {payload}"] = gelato_rival(
            "published", payload, weights[0], decay, budget_j, 1e9
        )
    found["hedge, waiting"] = Rival(lambda: HedgeRival(threshold), True, "ids")
    return found
