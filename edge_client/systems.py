"""A system: the parts of a configuration that go together, and the named ones."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from hedge.common.errors import BadInput
from hedge.edge_client.config import (
    LOOK_AT_DRAFT,
    PATIENCE,
    SHORT_PATIENCE,
    STREAM,
    GateConfig,
    LinkConfig,
    SamplingParams,
    ThresholdRule,
    VerificationConfig,
)


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """A system: everything that shapes an answer. BadInput when its parts do not go together."""

    system: str = "custom"
    sampling: SamplingParams = field(default_factory=SamplingParams)
    gate: GateConfig = field(default_factory=GateConfig)
    verification: VerificationConfig = field(default_factory=VerificationConfig)
    link: LinkConfig = field(default_factory=LinkConfig)

    def __post_init__(self) -> None:
        gate = self.gate
        verification = self.verification
        resampled = verification.kind in ("full", "sparse") and gate.asks
        if resampled and (verification.kind == "full") != (verification.truncation == "none"):
            raise BadInput(
                f"verification {verification.kind} does not go with truncation "
                f"{verification.truncation}"
            )
        if gate.policy == "gelato":
            self._check_gelato()
        if gate.policy == "survival" and not (verification.exact and verification.coupled):
            raise BadInput(
                "policy survival needs verification coupled and guarantee exact, not verification "
                f"{verification.kind} and "
                f"guarantee {'exact' if verification.exact else 'opportunistic'}"
            )
        self._check_guarantee()

    def _check_guarantee(self) -> None:
        gate = self.gate
        verification = self.verification
        if gate.recalibrate is not None and verification.exact:
            raise BadInput("--recalibrate moves a threshold; guarantee exact takes no risk to hold")
        if verification.exact and not (gate.asks and verification.lossless):
            raise BadInput(
                "guarantee exact needs --verification coupled or --draft-from sent, and a policy "
                "that asks; not verification "
                f"{verification.kind} with draft-from {verification.draft_from} and policy "
                f"{gate.policy}"
            )
        if self.looks_at_draft and verification.lossless and not verification.exact:
            raise BadInput(
                f"measure {gate.measure} looks at the drawn token: with verification coupled or "
                "draft-from sent it "
                "goes only with --guarantee exact"
            )

    def _check_gelato(self) -> None:
        exact = self.verification.exact
        kind = self.verification.kind
        measure = self.gate.measure
        if not (
            exact and kind == "coupled" and measure == "entropy" and self.link.max_in_flight == 1
        ):
            raise BadInput(
                "policy gelato needs verification coupled, measure entropy, guarantee exact and "
                "max-in-flight 1, which "
                f"--system gelato sets; not verification {kind}, measure {measure}, guarantee "
                f"{'exact' if exact else 'opportunistic'}, max-in-flight {self.link.max_in_flight}"
            )

    @property
    def streams(self) -> bool:
        return self.gate.policy == STREAM

    @property
    def needs_cloud(self) -> bool:
        return self.gate.policy != "never"

    @property
    def guarantee(self) -> str:
        """`exact` only where the output provably follows the LLM's distribution."""
        verification = self.verification
        always = (
            self.gate.policy == "always"
            and verification.lossless
            and not verification.probs_entries
        )
        return "exact" if verification.exact or always or self.streams else "opportunistic"

    @property
    def measures(self) -> bool:
        """Whether the uncertainty of every position is needed."""
        v = self.verification
        online = (
            v.truncation == "online" and v.draft_from == "full" and not v.coupled and self.gate.asks
        )
        return self.gate.gated or self.gate.policy == "gelato" or online

    @property
    def looks_at_draft(self) -> bool:
        return self.measures and self.gate.measure in LOOK_AT_DRAFT

    @property
    def on_disconnect(self) -> str:
        return self.link.on_disconnect or ("wait" if self.guarantee == "exact" else "continue")

    @property
    def patience(self) -> float:
        """Seconds."""
        by_default = SHORT_PATIENCE if self.on_disconnect == "continue" else PATIENCE
        return by_default if self.link.patience is None else self.link.patience

    def with_threshold(self, threshold: float) -> Self:
        """Asks above it; a system without a threshold becomes one with a gate."""
        gate = self.gate
        policy = {"always": "threshold", "survival": "adaptive"}.get(gate.policy, gate.policy)
        if gate.gated or policy != gate.policy:
            gate = replace(gate, policy=policy, threshold=threshold)
        return replace(self, gate=gate)

    def to_json(self) -> dict[str, Any]:
        """Flat, by the names of the command line; None for a threshold that only a calibration
        knows.
        """
        gate = asdict(self.gate)
        sampling = asdict(self.sampling)
        for name in ("threshold", "verify_rate"):
            gate[name] = None if isinstance(gate[name], dict) else gate[name]
        verification = asdict(self.verification)
        verification["verification"] = verification.pop("kind")
        link = asdict(self.link) | {"on_disconnect": self.on_disconnect, "patience": self.patience}
        return {"system": self.system, **gate, **verification, **link, **sampling}


def _full(name: str, gate: GateConfig) -> GenerationConfig:
    return GenerationConfig(
        name, gate=gate, verification=VerificationConfig("full", truncation="none", bits=16)
    )


SYSTEMS: dict[str, GenerationConfig] = {
    system.system: system
    for system in (
        GenerationConfig("slm", gate=GateConfig("never")),
        GenerationConfig("llm", gate=GateConfig(STREAM)),
        _full("hlm", GateConfig("always")),
        _full("rand-hlm", GateConfig("random", verify_rate=ThresholdRule())),
        _full("u-hlm", GateConfig("threshold", threshold=ThresholdRule())),
        GenerationConfig("cu-hlm", gate=GateConfig("threshold", threshold=ThresholdRule())),
        GenerationConfig(
            "gelato",
            gate=GateConfig("gelato", measure="entropy"),
            verification=VerificationConfig("coupled", exact=True),
        ),
        GenerationConfig(
            "hedge",
            gate=GateConfig("survival", "expected_perturbation"),
            verification=VerificationConfig("coupled", exact=True),
            link=LinkConfig(max_in_flight=8),
        ),
    )
}
