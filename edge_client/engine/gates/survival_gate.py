"""Policy survival: when a block ends, and how far to draft past messages in flight, by what that
costs (docs/algorithms.md, 3).

Two things are traded. A draft that is rejected is heard of only after its block has left: every
further draft of the block holds that news back by an SLM step. Against it stands one pass of the
LLM a block. And a step past messages in flight is in vain when one of their drafts is rejected.
"""

from collections import deque
from dataclasses import dataclass, field

from hedge.edge_client.engine.gates.gate import Gate, RoundTrip, Unverified, recent_mean

# The block's risk, as a share of (seconds a token) / (seconds a step), at which it ends; found by
# replay: `balanced` takes the fewest passes within 5 % of the best speed.
RISK = {"speed": 0.1, "balanced": 0.23, "cloud": 1.0}
# Of a longer block hardly a pass is saved, and more of its drafts are in vain.
MOST_RISK = 0.4
# Nothing is drafted past drafts that are all accepted with less than this probability.
AHEAD = {"speed": 0.05, "balanced": 0.2, "cloud": 0.6}
# The fastest of so many steps, and round trips: the others waited for something else too.
_WINDOW = 16
# Rejections a token before any is known.
_REJECTED = 0.1
_RECENT_TOKEN = 0.02


@dataclass(slots=True)
class SurvivalGate(Gate):
    """`threshold` is the risk at which a block ends; None: by the costs."""

    prefer: str = "balanced"
    threshold: float | None = None
    in_flight: int = 8
    steps: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    networks: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    pass_s: float = 0.0
    queue_s: float = 0.0
    verdict_s: float = 0.0
    rejected: float = _REJECTED

    @property
    def step_s(self) -> float:
        return min(self.steps, default=0.0)

    def asks(self, uncertainty: float, position: int) -> bool:
        """`uncertainty`: the probability that one of the block's drafts is rejected."""
        return uncertainty > self.risk

    @property
    def risk(self) -> float:
        """At which a block ends."""
        if self.threshold is not None:
            return self.threshold
        if not self.step_s or not self.networks:
            return MOST_RISK
        token_s = self.step_s + self.rejected * (min(self.networks) + self.queue_s + self.pass_s)
        return min(MOST_RISK, RISK[self._prefers] * token_s / self.step_s)

    @property
    def _prefers(self) -> str:
        """A cloud in which messages wait longer than they are computed is short of passes, whatever
        the device would like.
        """
        return "cloud" if self.queue_s > self.pass_s else self.prefer

    def observe_step(self, seconds: float) -> None:
        self.steps.append(seconds)

    def observe_verdict(self, trip: RoundTrip, kept: list[bool], lost: bool | None) -> None:
        self.networks.append(trip.network)
        self.pass_s = recent_mean(self.pass_s, trip.forward)
        self.queue_s = recent_mean(self.queue_s, trip.queue)
        self.verdict_s = recent_mean(self.verdict_s, trip.seconds)
        for outcome in (*(0.0 for _ in kept), *(() if lost is None else (1.0,))):
            self.rejected += _RECENT_TOKEN * (outcome - self.rejected)

    def should_draft(self, unverified: Unverified) -> bool:
        if not unverified.messages:
            return True
        if unverified.messages >= self.in_flight or unverified.survival < AHEAD[self._prefers]:
            return False
        # A verdict that will come within the step, and make it vain, is waited for.
        left = self.verdict_s - unverified.waited
        return not 0 < left < (1 - unverified.survival) * self.step_s
