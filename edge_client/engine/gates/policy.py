"""When to ask the cloud, and how far to draft. A policy sees history and uncertainty, never the
value of a discarded draft.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from hedge.common.noise import Noise, Purpose
from hedge.edge_client.config import STREAM, GateConfig, known
from hedge.edge_client.engine.gates.gelato import Gelato
from hedge.edge_client.engine.gates.survival_pace import SurvivalPace
from hedge.edge_client.engine.pace import Adaptive, Pace, Steady
from hedge.edge_client.systems import GenerationConfig

# A coded id, with its share of the message around it.
ID_BITS = 16


class Policy(Protocol):
    """Decides per position; `uncertainty` is 0 where the policy has no measure."""

    def asks(self, uncertainty: float, position: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Constant:
    """`always` and `never`."""

    answer: bool

    def asks(self, uncertainty: float, position: int) -> bool:
        return self.answer


@dataclass(frozen=True, slots=True)
class Random:
    """Rand-HLM: asks with a fixed probability."""

    rate: float
    noise: Noise

    def asks(self, uncertainty: float, position: int) -> bool:
        return self.noise.uniform(Purpose.POLICY, position) < self.rate


@dataclass(frozen=True, slots=True)
class Threshold:
    """U-HLM and CU-HLM: asks iff u > u_th."""

    limit: float

    def asks(self, uncertainty: float, position: int) -> bool:
        return uncertainty > self.limit


def _gelato(config: GateConfig, noise: Noise, vocab_size: int) -> Policy:  # noqa: ARG001
    rate = config.gelato.uplink_bps
    return Gelato(
        config.gelato, math.log(max(2, vocab_size)), upload_s=ID_BITS / rate if rate else 0.0
    )


POLICIES: dict[str, Callable[[GateConfig, Noise, int], Policy]] = {
    "always": lambda *_: Constant(True),
    "never": lambda *_: Constant(False),
    "random": lambda config, noise, _: Random(known(config.verify_rate), noise),
    "threshold": lambda config, *_: Threshold(known(config.threshold)),
    "adaptive": lambda config, *_: Threshold(known(config.threshold)),
    "survival": lambda config, *_: SurvivalPace(
        config.prefer, None if config.threshold is None else known(config.threshold)
    ),
    "gelato": _gelato,
    # Nothing is drafted.
    STREAM: lambda *_: Constant(False),
}


def policy_of(config: GateConfig, noise: Noise, vocab_size: int) -> Policy:
    """BadInput for a threshold or a rate that no calibration has set yet."""
    return POLICIES[config.policy](config, noise, vocab_size)


def pace_of(config: GenerationConfig, policy: Policy) -> Pace:
    if isinstance(policy, Gelato):
        return policy
    if isinstance(policy, SurvivalPace):
        policy.in_flight = config.link.max_in_flight
        return policy
    return (Adaptive if config.gate.policy == "adaptive" else Steady)(config.link.max_in_flight)
