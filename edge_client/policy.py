"""When to ask the cloud. A policy sees committed history and uncertainty, never the value of a discarded draft."""

from dataclasses import dataclass
from typing import Protocol

from common.noise import Noise, Purpose


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
