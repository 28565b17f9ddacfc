"""What one generation is asked to do, and the named systems that preset it."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from common.distribution import MAX_BITS
from common.errors import BadInput
from common.noise import SEED_LIMIT
from common.sampling import Warp
from edge_client.engine.gates.gelato import GelatoOptions
from edge_client.engine.gates.measures import MEASURES
from edge_client.engine.verification.bound import ETA, THETA, smallest_k, strictness

POLICIES = ("always", "never", "random", "threshold", "adaptive", "gelato")
VERIFICATIONS = ("full", "sparse", "split", "coupled")
TRUNCATIONS = ("none", "fixed", "offline", "online")
GUARANTEES = ("exact", "opportunistic")
ON_DISCONNECT = ("continue", "wait", "fail")
MAX_NEW_TOKENS = 1 << 20
MAX_IN_FLIGHT = 64
PATIENCE = 60.0

# Policy "stream" is the llm system: the cloud generates alone.
SYSTEMS: dict[str, dict[str, object]] = {
    "slm": {"policy": "never"},
    "llm": {"policy": "stream"},
    "hlm": {"policy": "always", "verification": "full", "truncation": "none", "bits": 16},
    "rand-hlm": {"policy": "random", "verification": "full", "truncation": "none", "bits": 16},
    "u-hlm": {
        "policy": "threshold",
        "measure": "perturbation",
        "threshold_rule": "risk-averse",
        "verification": "full",
        "truncation": "none",
        "bits": 16,
    },
    "cu-hlm": {
        "policy": "threshold",
        "measure": "perturbation",
        "threshold_rule": "risk-averse",
        "verification": "sparse",
        "truncation": "fixed",
    },
    "gelato": {"policy": "gelato", "measure": "entropy", "verification": "coupled", "exact": True},
    "hedge": {
        "policy": "adaptive",
        "measure": "expected_perturbation",
        "threshold_rule": "quantile",
        "skip_rate": 0.85,
        "verification": "coupled",
        "exact": True,
        "max_in_flight": 8,
    },
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that shapes one generation. BadInput when values or their combination make no sense.

    `recalibrate` is the joint risk that a moving threshold holds. `slope` and `intercept` are the calibrated
    beta = a u + b of the measure, read by truncation `online`. With `exact` every drafted position is tested before
    release, and the gate decides only when: it ends blocks. `law_entries`: most entries of y that come back after a
    rejection in `split`, 0 for all. `on_disconnect`: what becomes of an answer whose link
    dies, or has brought nothing for `patience` seconds.
    """

    system: str = "cu-hlm"
    policy: str = "always"
    measure: str = "perturbation"
    threshold: float | None = None
    recalibrate: float | None = None
    verify_rate: float | None = None
    verification: str = "sparse"
    truncation: str = "fixed"
    k: int = 30
    bits: int = 12
    theta: float = THETA
    eta: float = ETA
    law_entries: int = 0
    slope: float = 0.0
    intercept: float = 0.0
    draft_from: str = "full"
    exact: bool = False
    max_in_flight: int = 1
    on_disconnect: str = "fail"
    patience: float = PATIENCE
    warp: Warp = field(default_factory=Warp)
    seed: int = 0
    max_new_tokens: int = 256
    gelato: GelatoOptions = field(default_factory=GelatoOptions)
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.gated and (self.threshold is None or not math.isfinite(self.threshold)):
            raise BadInput(f"threshold {self.threshold} is not a finite number")
        if self.policy == "random" and (self.verify_rate is None or not 0 <= self.verify_rate <= 1):
            raise BadInput(f"verify-rate {self.verify_rate} is not in 0..1")
        if not 1 <= self.bits <= MAX_BITS:
            raise BadInput(f"bits {self.bits} is not in 1..{MAX_BITS}")
        if self.k < 1:
            raise BadInput(f"k {self.k} is not at least 1")
        if not 0 < self.theta < math.inf:
            raise BadInput(f"theta {self.theta} is not above 0")
        if not 0 < self.eta < math.inf:
            raise BadInput(f"eta {self.eta} is not above 0")
        if not 0 <= self.seed < SEED_LIMIT:
            raise BadInput(f"seed {self.seed} is not in 0..2^64-1")
        if not 1 <= self.max_new_tokens <= MAX_NEW_TOKENS:
            raise BadInput(f"max-new-tokens {self.max_new_tokens} is not in 1..{MAX_NEW_TOKENS}")
        if "" in self.stop:
            raise BadInput("a stop string is empty")
        if not 1 <= self.max_in_flight <= MAX_IN_FLIGHT:
            raise BadInput(f"max-in-flight {self.max_in_flight} is not in 1..{MAX_IN_FLIGHT}")
        if not 0 < self.patience < math.inf:
            raise BadInput(f"patience {self.patience:g} is not a number of seconds above 0")
        if self.sends_law and (self.verification == "full") != (self.truncation == "none") and self.asks:
            raise BadInput(f"verification {self.verification} does not go with truncation {self.truncation}")
        if self.policy == "gelato" and not (
            self.exact and self.coupled and self.measure == "entropy" and self.max_in_flight == 1
        ):
            raise BadInput(
                "policy gelato needs verification coupled, measure entropy, guarantee exact and max-in-flight 1, which "
                f"--system gelato sets; not verification {self.verification}, measure {self.measure}, guarantee "
                f"{'exact' if self.exact else 'opportunistic'}, max-in-flight {self.max_in_flight}"
            )
        if self.recalibrate is not None and (self.exact or self.policy != "threshold"):
            raise BadInput("--recalibrate moves the threshold of policy threshold; guarantee exact takes no risk to hold")
        if self.law_entries < 0 or (self.law_entries and (self.exact or self.verification != "split")):
            raise BadInput(
                f"law-entries {self.law_entries} cuts the LLM's law in verification split, and is not exact; not with "
                f"verification {self.verification} and guarantee {'exact' if self.exact else 'opportunistic'}"
            )
        if self.exact and not (self.asks and self._lossless):
            raise BadInput(
                f"guarantee exact needs --verification coupled or --draft-from sent, and a policy that asks; not verification "
                f"{self.verification} with draft-from {self.draft_from} and policy {self.policy}"
            )
        if self.looks_at_draft and self._lossless and not self.exact:
            raise BadInput(
                f"measure {self.measure} looks at the drawn token: with verification coupled or draft-from sent it "
                "goes only with --guarantee exact"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def streams(self) -> bool:
        return self.policy == "stream"

    @property
    def asks(self) -> bool:
        """Whether positions may be sent to the cloud."""
        return self.policy not in ("never", "stream")

    @property
    def gated(self) -> bool:
        """Whether a threshold decides."""
        return self.policy in ("threshold", "adaptive")

    @property
    def coupled(self) -> bool:
        return self.verification == "coupled"

    @property
    def sends_law(self) -> bool:
        """Whether tested positions come with the law they were drawn from."""
        return self.verification in ("full", "sparse")

    @property
    def _lossless(self) -> bool:
        """Whether a tested token follows the LLM's law."""
        return self.coupled or self.draft_from == "sent"

    @property
    def guarantee(self) -> str:
        """`exact` only where the output provably follows the LLM's law."""
        tested = self.exact or (self.policy == "always" and self._lossless and not self.law_entries)
        return "exact" if tested or self.streams else "opportunistic"

    @property
    def needs_cloud(self) -> bool:
        return self.policy != "never"

    @property
    def measures(self) -> bool:
        """Whether the uncertainty of every position is needed."""
        online = self.truncation == "online" and self.draft_from == "full" and not self.coupled and self.asks
        return self.gated or self.policy == "gelato" or online

    @property
    def looks_at_draft(self) -> bool:
        return self.measures and not MEASURES[self.measure].draft_independent

    def strictness(self, drafted: float, uncertainty: float) -> float:
        """The denominator of U_TV for a draft of probability `drafted`."""
        beta = min(1.0, max(0.0, self.slope * uncertainty + self.intercept))
        return float(strictness(drafted, beta, self.eta))

    def kept(self, law: np.ndarray, drafted: float = 0.0, uncertainty: float = 0.0) -> int:
        """k, the entries a message keeps. Without a draft (`drafted` 0) it is enough for any."""
        if self.truncation == "none":
            return len(law)
        if self.truncation == "online":
            return smallest_k(law, self.theta * self.strictness(drafted, uncertainty))
        return self.k
