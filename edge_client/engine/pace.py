"""How long blocks are and how far to draft ahead, from what has been measured: step time, round
trips, acceptance.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

MAX_BLOCK = 64
# Weight of the newest measurement.
_RECENT = 0.1
# No more is drafted ahead when all of it survives with less than this probability: where blocks are
# held back, and where messages run ahead of their verdicts and a stall costs a round trip.
_SURVIVAL_HELD = 0.4
_SURVIVAL_AHEAD = 0.05
# A message ahead of a verdict gains the network's round trip at most; it has to be worth so many
# steps.
_WORTH = 3.0
# The network's round trip is the shortest of so many: the others waited for something else too.
_WINDOW = 16


@dataclass(frozen=True, slots=True)
class Unverified:
    """What has been drafted and not judged: messages in flight, positions at which the gate fired,
    and the others.

    `survival` is the probability that all of it is accepted, where the policy has one for each
    draft. `waited`: seconds since the oldest message left.
    """

    messages: int
    asked: int
    others: int
    survival: float = 1.0
    waited: float = 0.0


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Seconds from a message to its verdict, and how many of them it waited in the cloud and was in
    the LLM's pass.
    """

    seconds: float
    queue: float
    forward: float

    @property
    def network(self) -> float:
        return max(0.0, self.seconds - self.queue - self.forward)


class Pace(Protocol):
    """Told what happens; asked how to go on. Never sees a token."""

    def drafted(self, seconds: float) -> None: ...

    def judged(self, trip: RoundTrip, kept: list[bool], lost: bool | None) -> None:
        """A verdict came. `kept` says of every accepted draft whether the gate had fired there,
        `lost` of the rejected one.
        """
        ...

    @property
    def longest(self) -> int:
        """Drafts in a block."""
        return MAX_BLOCK

    @property
    def in_flight(self) -> int:
        """Messages sent ahead of their verdicts."""
        ...

    @property
    def holds_last(self) -> bool:
        """Whether the last draft of the block that is to be sent is kept back."""
        return False

    @property
    def requests_token(self) -> bool:
        """Whether, with nothing drafted, the LLM's own next token is asked for instead."""
        return False

    def should_draft(self, unverified: Unverified) -> bool:
        """Whether to draft one more position on top of these."""
        ...


@dataclass(slots=True)
class Steady(Pace):
    """Blocks as long as the gate makes them, and as many in flight as allowed."""

    in_flight: int

    def drafted(self, seconds: float) -> None: ...

    def judged(self, trip: RoundTrip, kept: list[bool], lost: bool | None) -> None: ...

    def should_draft(self, unverified: Unverified) -> bool:
        return unverified.messages < self.in_flight


@dataclass(slots=True)
class Adaptive(Pace):
    """`--policy adaptive`: estimates are exponentially weighted means over steps, cloud times and
    judged positions.

    A block of n drafts brings E[N] = (1 - rho^(n+1)) / (1 - rho) tokens (algorithms.md, section 4)
    in n steps and one round trip; `longest` is the n that maximises their ratio. While a message is
    in flight drafting goes on as long as all of it is likely enough to survive; blocks are held
    back, and grow, where the network is so fast that sending them ahead gains less than what is
    void after a rejection costs.
    """

    most: int
    step_s: float = 0.0
    cloud_s: float = 0.0
    networks: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    # Acceptance where the gate fired, and elsewhere.
    asked: float = 0.7
    others: float = 0.97
    acceptance: float = 0.9
    longest: int = MAX_BLOCK

    def drafted(self, seconds: float) -> None:
        self.step_s = recent_mean(self.step_s, seconds)

    def judged(self, trip: RoundTrip, kept: list[bool], lost: bool | None) -> None:
        self.cloud_s = recent_mean(self.cloud_s, trip.queue + trip.forward)
        self.networks.append(trip.network)
        for asked, accepted in [
            *((asked, 1.0) for asked in kept),
            *([] if lost is None else [(lost, 0.0)]),
        ]:
            self.acceptance += _RECENT / 4 * (accepted - self.acceptance)
            if asked:
                self.asked += _RECENT * (accepted - self.asked)
            else:
                self.others += _RECENT / 4 * (accepted - self.others)
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


def recent_mean(old: float, new: float) -> float:
    """Exponentially weighted; nothing (0) was known before the first measurement."""
    return new if not old else old + _RECENT * (new - old)
