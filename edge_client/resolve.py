"""From a system as it was asked for to one of numbers alone: what the calibration of a pair says of
it.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hedge.common.errors import Incompatible
from hedge.edge_client.calibrations import Pair, find_calibration
from hedge.edge_client.config import GateConfig, ThresholdRule
from hedge.edge_client.engine.gates.calibration import Calibration
from hedge.edge_client.systems import GenerationConfig

# Asks about a sixth of the bundled pair's tokens.
DEFAULT_THRESHOLD = 0.15


def resolve(
    config: GenerationConfig,
    pair: Pair,
    calibration: Path | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> GenerationConfig:
    """The same system with every threshold, rate and k a number.

    `calibration` is a file, None for the one that is bundled for this pair. `notify` is told when
    no threshold keeps the risk. Incompatible where a calibration is needed and there is none for
    this pair and this sampling.
    """

    def known() -> Calibration:
        return find_calibration(calibration, pair, config.sampling.warp)

    gate = config.gate
    verification = config.verification
    if gate.gated and isinstance(gate.threshold, ThresholdRule):
        gate = _with_threshold(
            gate, gate.threshold, known, notify, optional=verification.exact and calibration is None
        )
    if gate.policy == "random" and isinstance(gate.verify_rate, ThresholdRule):
        gate = replace(gate, verify_rate=_rate(known(), gate.verify_rate))
    if gate.policy == "gelato" and gate.gelato.decay is None:
        gate = _with_decay(gate, known, pair, given=calibration is not None)
    if gate.asks and verification.truncation == "online":
        fit = known().fits[gate.measure]
        verification = replace(verification, slope=fit.a, intercept=fit.b)
    elif gate.asks and verification.truncation == "offline":
        k = known().smallest_k(gate.measure, verification.theta, verification.eta)
        verification = replace(verification, k=k)
    return replace(config, gate=gate, verification=verification)


def _with_threshold(
    gate: GateConfig,
    rule: ThresholdRule,
    known: Callable[[], Calibration],
    notify: Callable[[str], None],
    *,
    optional: bool,
) -> GateConfig:
    """In exact mode the gate sets only the pace: an uncalibrated one is no less exact."""
    try:
        calibration = known()
    except Incompatible:
        if not optional:
            raise
        return replace(gate, threshold=DEFAULT_THRESHOLD)
    threshold = _limit(calibration, gate.measure, rule)
    if threshold is None:
        notify(f"rule {rule.rule}: no threshold keeps the risk, asking always")
        return replace(gate, policy="always", threshold=None)
    return replace(gate, threshold=threshold)


def _limit(calibration: Calibration, measure: str, rule: ThresholdRule) -> float | None:
    return calibration.threshold(
        measure, rule.rule, max_risk=rule.max_risk, delta=rule.delta, skip_rate=rule.skip_rate
    )


def _rate(calibration: Calibration, rule: ThresholdRule) -> float:
    """The share of positions at which a gate of the paper's measure would ask by this rule."""
    limit = _limit(calibration, "perturbation", rule)
    return 1.0 - calibration.fits["perturbation"].skip_rate(-1.0 if limit is None else limit)


def _with_decay(
    gate: GateConfig, known: Callable[[], Calibration], pair: Pair, *, given: bool
) -> GateConfig:
    """GELATO's kappa by the calibration of this pair, where there is one."""
    with contextlib.suppress(*(() if given else (Incompatible,))):
        if decay := known().fits["entropy"].decay:
            return replace(
                gate, gelato=replace(gate.gelato, decay=decay / math.log(pair.slm.vocab_size))
            )
    return gate
