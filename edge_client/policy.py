"""When to ask the cloud. A policy sees committed history and uncertainty, never the value of a discarded draft."""

from dataclasses import dataclass
from typing import Protocol

from common.noise import Noise, Purpose
from edge_client.settings import Settings


class Policy(Protocol):
    """Decides per position; `uncertainty` is 0 where the policy has no measure."""

    def asks(self, uncertainty: float, position: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Constant:
    """`always` and `never`."""

    answer: bool

    def asks(self, uncertainty: float, position: int) -> bool:  # noqa: ARG002
        return self.answer


@dataclass(frozen=True, slots=True)
class Random:
    """Rand-HLM: asks with a fixed probability."""

    rate: float
    noise: Noise

    def asks(self, uncertainty: float, position: int) -> bool:  # noqa: ARG002
        return self.noise.uniform(Purpose.POLICY, position) < self.rate


@dataclass(frozen=True, slots=True)
class Threshold:
    """U-HLM and CU-HLM: asks iff u > u_th."""

    limit: float

    def asks(self, uncertainty: float, position: int) -> bool:  # noqa: ARG002
        return uncertainty > self.limit


def policy_of(settings: Settings, noise: Noise) -> Policy:
    if settings.policy == "random":
        return Random(settings.verify_rate or 0.0, noise)
    if settings.gated:
        return Threshold(settings.threshold or 0.0)
    return Constant(settings.policy == "always")
