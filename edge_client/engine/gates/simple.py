"""Policies with the default pace: always, never, random and threshold."""

from dataclasses import dataclass

from hedge.common.noise import Noise, Purpose
from hedge.edge_client.engine.gates.gate import Gate


@dataclass(slots=True)
class Constant(Gate):
    """`always` and `never`."""

    answer: bool
    in_flight: int = 1

    def asks(self, uncertainty: float, position: int) -> bool:
        return self.answer


@dataclass(slots=True)
class Random(Gate):
    """Rand-HLM: asks with a fixed probability."""

    rate: float
    noise: Noise
    in_flight: int = 1

    def asks(self, uncertainty: float, position: int) -> bool:
        return self.noise.uniform(Purpose.POLICY, position) < self.rate


@dataclass(slots=True)
class Threshold(Gate):
    """U-HLM and CU-HLM: asks iff u > u_th."""

    limit: float
    in_flight: int = 1

    def asks(self, uncertainty: float, position: int) -> bool:
        return uncertainty > self.limit
