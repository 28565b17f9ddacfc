"""Policy adaptive: a threshold, and block lengths from step times, round trips and acceptance."""

from collections import deque
from dataclasses import dataclass, field

from hedge.edge_client.engine.gates.gate import (
    MAX_BLOCK,
    RECENT,
    Gate,
    RoundTrip,
    Unverified,
    recent_mean,
)

# No more is drafted ahead when all of it survives with less than this probability: where blocks are
# held back, and where messages run ahead of their verdicts and a stall costs a round trip.
_SURVIVAL_HELD = 0.4
_SURVIVAL_AHEAD = 0.05
# A message ahead of a verdict gains the network's round trip at most; it has to be worth so many
# steps.
_WORTH = 3.0
# The network's round trip is the shortest of so many: the others waited for something else too.
_WINDOW = 16


@dataclass(slots=True)
class Adaptive(Gate):
    """`--policy adaptive`: estimates are exponentially weighted means over steps, cloud times and
    judged positions.

    A block of n drafts brings E[N] = (1 - rho^(n+1)) / (1 - rho) tokens (algorithms.md, section 4)
    in n steps and one round trip; `longest` is the n that maximises their ratio. While a message is
    in flight drafting goes on as long as all of it is likely enough to survive; blocks are held
    back, and grow, where the network is so fast that sending them ahead gains less than what is
    void after a rejection costs.
    """

    limit: float
    most: int = 1
    step_s: float = 0.0
    cloud_s: float = 0.0
    networks: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    # Acceptance where the gate fired, and elsewhere.
    asked: float = 0.7
    others: float = 0.97
    acceptance: float = 0.9
    longest: int = MAX_BLOCK

    def asks(self, uncertainty: float, position: int) -> bool:
        return uncertainty > self.limit

    def observe_step(self, seconds: float) -> None:
        self.step_s = recent_mean(self.step_s, seconds)

    def observe_verdict(self, trip: RoundTrip, kept: list[bool], lost: bool | None) -> None:
        self.cloud_s = recent_mean(self.cloud_s, trip.queue + trip.forward)
        self.networks.append(trip.network)
        for asked, accepted in [
            *((asked, 1.0) for asked in kept),
            *([] if lost is None else [(lost, 0.0)]),
        ]:
            self.acceptance += RECENT / 4 * (accepted - self.acceptance)
            if asked:
                self.asked += RECENT * (accepted - self.asked)
            else:
                self.others += RECENT / 4 * (accepted - self.others)
        rho = min(self.acceptance, 0.999)
        round_s = self.network_s + self.cloud_s
        rates = [
            (1 - rho ** (n + 1)) / (1 - rho) / (n * self.step_s + round_s)
            for n in range(1, MAX_BLOCK + 1)
        ]
        self.longest = 1 + max(range(MAX_BLOCK), key=rates.__getitem__)

    @property
    def network_s(self) -> float:
        return min(self.networks, default=0.0)

    @property
    def in_flight(self) -> int:
        return self.most if self.network_s > _WORTH * self.step_s else 1

    def should_draft(self, unverified: Unverified) -> bool:
        if not unverified.messages:
            return True
        limit = _SURVIVAL_HELD if self.in_flight == 1 else _SURVIVAL_AHEAD
        survival = self.asked**unverified.asked * self.others**unverified.others
        return unverified.messages < self.most and survival >= limit
