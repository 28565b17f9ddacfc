"""The gate of each policy."""

import math
from collections.abc import Callable

from hedge.common.noise import Noise
from hedge.edge_client.config import STREAM, known
from hedge.edge_client.engine.gates.adaptive import Adaptive
from hedge.edge_client.engine.gates.gate import Gate
from hedge.edge_client.engine.gates.gelato import Gelato
from hedge.edge_client.engine.gates.simple import Constant, Random, Threshold
from hedge.edge_client.engine.gates.survival_gate import SurvivalGate
from hedge.edge_client.systems import GenerationConfig

# A coded id, with its share of the message around it.
ID_BITS = 16

Make = Callable[[GenerationConfig, Noise, int], Gate]


def _survival(config: GenerationConfig, *_: object) -> Gate:
    gate = config.gate
    threshold = None if gate.threshold is None else known(gate.threshold)
    return SurvivalGate(gate.prefer, threshold, config.link.max_in_flight)


def _gelato(config: GenerationConfig, noise: Noise, vocab_size: int) -> Gate:  # noqa: ARG001
    options = config.gate.gelato
    upload_s = ID_BITS / options.uplink_bps if options.uplink_bps else 0.0
    return Gelato(options, math.log(max(2, vocab_size)), upload_s=upload_s)


POLICIES: dict[str, Make] = {
    "always": lambda config, *_: Constant(True, config.link.max_in_flight),
    "never": lambda config, *_: Constant(False, config.link.max_in_flight),
    "random": lambda config, noise, _: Random(
        known(config.gate.verify_rate), noise, config.link.max_in_flight
    ),
    "threshold": lambda config, *_: Threshold(
        known(config.gate.threshold), config.link.max_in_flight
    ),
    "adaptive": lambda config, *_: Adaptive(
        known(config.gate.threshold), config.link.max_in_flight
    ),
    "survival": _survival,
    "gelato": _gelato,
    # Nothing is drafted.
    STREAM: lambda config, *_: Constant(False, config.link.max_in_flight),
}


def make_gate(config: GenerationConfig, noise: Noise, vocab_size: int) -> Gate:
    """BadInput for a threshold or a rate that no calibration has set yet."""
    return POLICIES[config.gate.policy](config, noise, vocab_size)
