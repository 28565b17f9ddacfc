"""When to ask the cloud, and how far to draft. A policy sees history and uncertainty, never the value of a discarded draft."""

import math
from dataclasses import dataclass
from typing import Protocol

from common.noise import Noise, Purpose
from edge_client.config import Settings
from edge_client.engine.gates.gelato import Gelato
from edge_client.engine.pace import Adaptive, Pace, Steady

# A coded id, with its share of the message around it.
ID_BITS = 16


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


def policy_of(settings: Settings, noise: Noise, vocab_size: int) -> Policy:
    if settings.policy == "gelato":
        rate = settings.gelato.uplink_bps
        return Gelato(settings.gelato, math.log(max(2, vocab_size)), upload_s=ID_BITS / rate if rate else 0.0)
    if settings.policy == "random":
        return Random(settings.verify_rate or 0.0, noise)
    if settings.gated:
        return Threshold(settings.threshold or 0.0)
    return Constant(settings.policy == "always")


def pace_of(settings: Settings, policy: Policy) -> Pace:
    if isinstance(policy, Gelato):
        return policy
    return (Adaptive if settings.policy == "adaptive" else Steady)(settings.max_in_flight)
