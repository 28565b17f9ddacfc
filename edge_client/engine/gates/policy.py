"""When to ask the cloud, and how far to draft. A policy sees history and uncertainty, never the value of a discarded draft."""

import math
from dataclasses import dataclass
from typing import Protocol

from common.noise import Noise, Purpose
from edge_client.config import GateConfig, known
from edge_client.engine.gates.gelato import Gelato
from edge_client.engine.pace import Adaptive, Pace, Steady
from edge_client.systems import GenerationConfig

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


def policy_of(config: GateConfig, noise: Noise, vocab_size: int) -> Policy:
    """BadInput for a threshold or a rate that no calibration has set yet."""
    if config.policy == "gelato":
        rate = config.gelato.uplink_bps
        return Gelato(config.gelato, math.log(max(2, vocab_size)), upload_s=ID_BITS / rate if rate else 0.0)
    if config.policy == "random":
        return Random(known(config.verify_rate), noise)
    if config.gated:
        return Threshold(known(config.threshold))
    return Constant(config.policy == "always")


def pace_of(config: GenerationConfig, policy: Policy) -> Pace:
    if isinstance(policy, Gelato):
        return policy
    return (Adaptive if config.gate.policy == "adaptive" else Steady)(config.link.max_in_flight)
