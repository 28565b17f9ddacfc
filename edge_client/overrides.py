"""Settings that take the place of a system's own, whichever system it is."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hedge.common.errors import BadInput
from hedge.edge_client.config import (
    GATED,
    STREAM,
    GateConfig,
    GelatoConfig,
    SamplingParams,
    ThresholdRule,
    VerificationConfig,
)
from hedge.edge_client.systems import SYSTEMS, GenerationConfig

# Options of a gate with a threshold: given to `hedge`, which has none, they give it one.
_THRESHOLD_OPTIONS = ("measure", "threshold", "calibration", "threshold_rule", "skip_rate")
# The rule of that threshold where none is given.
_BLOCK_RULE = ThresholdRule("quantile", skip_rate=0.85)
_DISTRIBUTION_OPTIONS = ("truncation", "k", "bits", "draft_from", "theta", "eta")
# How drafts are gated, tested and sent.
DRAFT_OPTIONS = (
    *("measure", "threshold", "threshold_rule", "skip_rate", "verify_rate", "prefer"),
    *("verification", "truncation", "k", "theta", "eta", "bits", "probs_entries", "draft_from"),
    *("guarantee", "max_in_flight"),
)


@dataclass(frozen=True, slots=True)
class Overrides:
    """Settings by the names of their options; None leaves a system its own."""

    sampling: SamplingParams = field(default_factory=SamplingParams)
    policy: str | None = None
    prefer: str | None = None
    measure: str | None = None
    threshold: float | None = None
    calibration: Path | None = None
    threshold_rule: str | None = None
    max_risk: float = 0.05
    delta: float = 0.1
    skip_rate: float | None = None
    recalibrate: bool = False
    verify_rate: float | None = None
    gelato: GelatoConfig | None = None
    verification: str | None = None
    truncation: str | None = None
    k: int | None = None
    theta: float | None = None
    eta: float | None = None
    bits: int | None = None
    probs_entries: int | None = None
    draft_from: str | None = None
    guarantee: str | None = None
    max_in_flight: int | None = None
    on_disconnect: str | None = None
    patience: float | None = None

    def configure(self, system: str) -> GenerationConfig:
        """The system of that name, with these settings in place of its own."""
        preset = SYSTEMS[system]
        gate = self._gate(preset.gate)
        verification = self._verification(preset.verification, gate)
        names = ("on_disconnect", "patience", *(("max_in_flight",) if gate.asks else ()))
        link = replace(preset.link, **self._given(*names))
        return GenerationConfig(system, self.sampling, gate, verification, link)

    def _given(self, *names: str) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in names}
        return {name: value for name, value in found.items() if value is not None}

    def _gate(self, preset: GateConfig) -> GateConfig:
        policy = self._policy(preset.policy)
        rule = self._rule(preset)
        recalibrate = self.max_risk if self.recalibrate else None
        if policy in ("never", STREAM):
            return GateConfig(policy, recalibrate=recalibrate)
        if self.gelato and policy != "gelato":
            raise BadInput(f"--gelato is for policy gelato, not {policy}")
        if self.prefer and policy != "survival":
            raise BadInput(f"--prefer {self.prefer} is for policy survival, not {policy}")
        threshold = rule if self.threshold is None and policy in GATED else self.threshold
        by_rule = ThresholdRule() if policy == "random" else None
        return GateConfig(
            policy,
            self.measure or preset.measure,
            threshold,
            by_rule if self.verify_rate is None else self.verify_rate,
            recalibrate,
            self.gelato or GelatoConfig(),
            self.prefer or preset.prefer,
        )

    def _policy(self, preset: str) -> str:
        if self.policy:
            return self.policy
        if preset == "survival" and self._given(*_THRESHOLD_OPTIONS):
            return "adaptive"
        if preset == "always" and self.threshold is not None:
            return "threshold"
        return preset

    def _rule(self, preset: GateConfig) -> ThresholdRule:
        """How the threshold is set where none is given. BadInput for a rule that makes no sense."""
        rule = _BLOCK_RULE if preset.policy == "survival" else ThresholdRule()
        changes = self._given("max_risk", "delta", "skip_rate")
        return replace(rule, rule=self.threshold_rule or rule.rule, **changes)

    def _verification(self, preset: VerificationConfig, gate: GateConfig) -> VerificationConfig:
        if gate.policy == STREAM:
            return VerificationConfig()
        exact = preset.exact if self.guarantee is None else self.guarantee == "exact"
        if gate.policy == "never":
            return VerificationConfig(exact=exact)
        kind = self.verification or preset.kind
        changes = self._given(*_DISTRIBUTION_OPTIONS)
        if kind == "coupled" and changes:
            option = next(iter(changes)).replace("_", "-")
            raise BadInput(
                f"--{option} does not apply to verification coupled, which sends ids alone"
            )
        changes |= self._given("probs_entries")
        return replace(preset, kind=kind, exact=exact, **changes)
