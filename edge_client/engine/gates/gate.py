"""The one interface of a policy: when the cloud is asked, and how far is drafted meanwhile."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

MAX_BLOCK = 64
# Weight of the newest measurement.
RECENT = 0.1


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


class Gate(ABC):
    """Observes uncertainties and times, never the value of a token that is discarded.

    The default pace: blocks are as long as the answers of `asks` make them, and drafting goes on
    until `in_flight` messages wait for their verdicts.
    """

    @abstractmethod
    def asks(self, uncertainty: float, position: int) -> bool:
        """Whether the cloud is asked at a position that was observed; changes nothing.

        `uncertainty` is 0 where the policy has no measure.
        """

    def observe_draft(self, uncertainty: float) -> None:  # noqa: B027
        """A position was drafted; `asks` is called next."""

    def observe_step(self, seconds: float) -> None:  # noqa: B027
        """A step of the SLM took so long."""

    def observe_verdict(self, trip: RoundTrip, kept: list[bool], lost: bool | None) -> None:  # noqa: B027
        """A verdict came. `kept`: whether the gate had fired at each accepted draft; `lost`: at the
        rejected one.
        """

    @property
    def longest(self) -> int:
        """Most drafts of a block."""
        return MAX_BLOCK

    @property
    def in_flight(self) -> int:
        """Messages sent ahead of their verdicts."""
        return 1

    @property
    def holds_last(self) -> bool:
        """Whether the last draft of the block that is to be sent is kept back."""
        return False

    @property
    def requests_token(self) -> bool:
        """Whether, with nothing drafted, the LLM's own next token is requested instead."""
        return False

    def should_draft(self, unverified: Unverified) -> bool:
        """Whether to draft one more position on top of these."""
        return unverified.messages < self.in_flight


def recent_mean(old: float, new: float) -> float:
    """Exponentially weighted; nothing (0) was known before the first measurement."""
    return new if not old else old + RECENT * (new - old)
