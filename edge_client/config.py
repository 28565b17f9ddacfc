"""What one answer is asked to be: small frozen parts that check themselves."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from hedge.common.distribution import MAX_BITS
from hedge.common.errors import BadInput
from hedge.common.logits import LogitsOptions
from hedge.common.noise import SEED_LIMIT
from hedge.common.sampling import Warp

POLICIES = ("always", "never", "random", "threshold", "adaptive", "survival", "gelato")
# Those in which a threshold decides.
GATED = ("threshold", "adaptive")
DEFAULT_CLOUD = "127.0.0.1:7411"
# The llm system: the cloud generates alone.
STREAM = "stream"
KINDS = ("full", "sparse", "split", "coupled")
TRUNCATIONS = ("none", "fixed", "offline", "online")
DRAFT_FROM = ("sent", "full")
GUARANTEES = ("exact", "opportunistic")
ON_DISCONNECT = ("continue", "wait", "fail")
# What policy survival spends least of: time, the LLM's passes, or passes as long as that costs
# little time.
PREFERENCES = ("speed", "balanced", "cloud")
RULES = ("risk-averse", "risk-prone", "max-risk", "quantile")
MAX_NEW_TOKENS = 1 << 20
MAX_IN_FLIGHT = 64
MAX_LOGPROBS = 20
PATIENCE = 60.0
SHORT_PATIENCE = 5.0
# Of U_TV: its bound and its sharpness. Ours: the paper's are not known.
THETA = 0.1
ETA = 1.0
MEASURES = ("perturbation", "expected_perturbation", "entropy", "margin", "top1")
# Functions of the drawn token too, not of the logits alone.
LOOK_AT_DRAFT = frozenset({"perturbation"})
VARIANTS = ("published", "tripping", "marginal")
# Of whoever answers a person, whatever the way: the likeliest tokens, and the same ones each time.
TEMPERATURE = 0.0
BUDGET_J = 1.2
MARGINAL_BUDGET_J = 0.15
DECAY = 0.35


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise BadInput(f"{name} {value!r} is not one of {', '.join(choices)}")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn, and when an answer ends."""

    warp: Warp = field(default_factory=lambda: Warp(TEMPERATURE))
    seed: int = 0
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    logits: LogitsOptions = field(default_factory=LogitsOptions)
    # Log-probabilities of every token are wanted, and of so many of the likeliest ones besides;
    # None for none.
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < SEED_LIMIT:
            raise BadInput(f"seed {self.seed} is not in 0..2^64-1")
        if not 1 <= self.max_new_tokens <= MAX_NEW_TOKENS:
            raise BadInput(f"max-new-tokens {self.max_new_tokens} is not in 1..{MAX_NEW_TOKENS}")
        if "" in self.stop:
            raise BadInput("a stop string is empty")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise BadInput(f"logprobs {self.logprobs} is not in 0..{MAX_LOGPROBS}")


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """How a calibration sets the threshold (docs/algorithms.md, section 2.2).

    `max-risk` keeps the joint risk within `max_risk` at level 1 - `delta`; `quantile` skips the
    share `skip_rate`.
    """

    rule: str = "risk-averse"
    max_risk: float = 0.05
    delta: float = 0.1
    skip_rate: float = 0.5

    def __post_init__(self) -> None:
        _check_choice("threshold-rule", self.rule, RULES)
        for name, value in (("max-risk", self.max_risk), ("delta", self.delta)):
            if not 0 < value < 1:
                raise BadInput(f"{name} {value:g} is not in (0, 1)")
        if not 0 <= self.skip_rate <= 1:
            raise BadInput(f"skip-rate {self.skip_rate:g} is not in 0..1")


def known(value: float | ThresholdRule | None) -> float:
    """A threshold or a rate as a number. BadInput while only the rule that sets it is known."""
    if isinstance(value, ThresholdRule):
        raise BadInput(f"rule {value.rule} needs a calibration: resolve the configuration first")
    assert value is not None
    return value


@dataclass(frozen=True, slots=True)
class GelatoConfig:
    """GELATO (docs/algorithms.md, section 4). None: the paper's value, and of `decay` the
    calibration's where there is one.

    `weight` is V_L; `budget_j` E_bar in J a round, with variant `marginal` e_bar in J a token;
    `longest` gamma_0.

    `acceptance` is rho_0; `bucket` Theta_th / H_th; `decay` the kappa of rho = exp(-kappa H), H in
    nats; powers in W. `uplink_bps` in bit/s, 0 for an upload that takes no time, as ids nearly do.

    Variants: `published` keeps back the token that made the bucket overflow, `tripping` sends it,
    `marginal` weighs every token by itself, its step before it is drafted and its upload before it
    is sent; a round may be without any.
    """

    variant: str = "tripping"
    weight: float = 10.0
    budget_j: float | None = None
    longest: int = 15
    acceptance: float = 0.9
    bucket: float = 1.2
    decay: float | None = None
    device_w: float = 12.0
    radio_w: float = 0.2
    uplink_bps: float = 0.0

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise BadInput(f"gelato variant {self.variant!r} is not one of {', '.join(VARIANTS)}")
        if not 1 <= self.longest <= 64:
            raise BadInput(f"gelato longest {self.longest} is not in 1..64")
        if not 0 < self.acceptance < 1:
            raise BadInput(f"gelato acceptance {self.acceptance:g} is not in (0, 1)")
        for name in ("weight", "budget_j", "bucket", "decay", "device_w", "radio_w", "uplink_bps"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise BadInput(f"gelato {name} {value:g} is not a number of at least 0")
        if self.decay == 0:
            raise BadInput("gelato decay 0 is not above 0")

    @property
    def budget(self) -> float:
        """`budget_j`, or the paper's; for `marginal` the same a token."""
        by_default = MARGINAL_BUDGET_J if self.variant == "marginal" else BUDGET_J
        return by_default if self.budget_j is None else self.budget_j

    @property
    def kappa(self) -> float:
        """`decay`, or the paper's."""
        return DECAY if self.decay is None else self.decay

    @property
    def level(self) -> float:
        """H_th = -ln(rho_0) / kappa, nats: the entropy at which a token is accepted with
        probability rho_0.
        """
        return -math.log(self.acceptance) / self.kappa


@dataclass(frozen=True, slots=True)
class GateConfig:
    """When a position is uncertain.

    `threshold` and `verify_rate` are numbers, or the rule by which a calibration sets them
    (`edge_client/resolve.py`). `recalibrate` is the joint risk that a moving threshold holds.
    `prefer`: what policy survival spends least of.
    """

    policy: str = "always"
    measure: str = "perturbation"
    threshold: float | ThresholdRule | None = None
    verify_rate: float | ThresholdRule | None = None
    recalibrate: float | None = None
    gelato: GelatoConfig = field(default_factory=GelatoConfig)
    prefer: str = "balanced"

    def __post_init__(self) -> None:
        _check_choice("policy", self.policy, (*POLICIES, STREAM))
        _check_choice("prefer", self.prefer, PREFERENCES)
        _check_choice("measure", self.measure, MEASURES)
        limit = self.threshold
        rate = self.verify_rate
        if (
            self.gated
            and not isinstance(limit, ThresholdRule)
            and (limit is None or not math.isfinite(limit))
        ):
            raise BadInput(f"threshold {limit} is not a finite number")
        if (
            self.policy == "survival"
            and limit is not None
            and not (isinstance(limit, int | float) and 0 <= limit <= 1)
        ):
            raise BadInput(f"threshold {limit} is not in 0..1, the range of policy survival")
        if (
            self.policy == "random"
            and not isinstance(rate, ThresholdRule)
            and (rate is None or not 0 <= rate <= 1)
        ):
            raise BadInput(f"verify-rate {rate} is not in 0..1")
        if self.recalibrate is not None and self.policy != "threshold":
            raise BadInput(
                "--recalibrate moves the threshold of policy threshold, not of policy "
                f"{self.policy}"
            )

    @property
    def asks(self) -> bool:
        """Whether drafts may be sent to the cloud."""
        return self.policy not in ("never", STREAM)

    @property
    def gated(self) -> bool:
        """Whether a threshold decides."""
        return self.policy in GATED


@dataclass(frozen=True, slots=True)
class VerificationConfig:
    """How drafts are tested, and what is sent of them (docs/algorithms.md, sections 2.3 and 3).

    With `exact` every draft is tested before release, and the gate decides only when: it ends
    blocks. `slope` and `intercept` are the calibrated beta = a u + b of the gate's measure, read by
    truncation `online`. `probs_entries`: most entries of y that come back after a rejection in
    `split`, 0 for all.
    """

    kind: str = "sparse"
    exact: bool = False
    draft_from: str = "full"
    truncation: str = "fixed"
    k: int = 30
    bits: int = 12
    theta: float = THETA
    eta: float = ETA
    slope: float = 0.0
    intercept: float = 0.0
    probs_entries: int = 0

    def __post_init__(self) -> None:
        _check_choice("verification", self.kind, KINDS)
        _check_choice("truncation", self.truncation, TRUNCATIONS)
        _check_choice("draft-from", self.draft_from, DRAFT_FROM)
        if not 1 <= self.bits <= MAX_BITS:
            raise BadInput(f"bits {self.bits} is not in 1..{MAX_BITS}")
        if self.k < 1:
            raise BadInput(f"k {self.k} is not at least 1")
        for name, value in (("theta", self.theta), ("eta", self.eta)):
            if not 0 < value < math.inf:
                raise BadInput(f"{name} {value} is not above 0")
        if self.probs_entries >= 1 << 32:
            raise BadInput(f"probs-entries {self.probs_entries} is not in 0..2^32-1")
        if self.probs_entries < 0 or (self.probs_entries and (self.exact or self.kind != "split")):
            raise BadInput(
                f"probs-entries {self.probs_entries} cuts the LLM's distribution in verification "
                "split, and is not exact; not with "
                f"verification {self.kind} and guarantee "
                f"{'exact' if self.exact else 'opportunistic'}"
            )

    @property
    def coupled(self) -> bool:
        return self.kind == "coupled"

    @property
    def lossless(self) -> bool:
        """Whether a tested token follows the LLM's distribution."""
        return self.coupled or self.draft_from == "sent"


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """The messages of an answer. None: by the guarantee, `wait` and 60 s where it is exact, else
    `continue` and 5 s.

    `max_in_flight`: messages sent ahead of their verdicts. `on_disconnect`: what becomes of an
    answer whose link dies, or has brought nothing for `patience` seconds.
    """

    max_in_flight: int = 1
    on_disconnect: str | None = None
    patience: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_in_flight <= MAX_IN_FLIGHT:
            raise BadInput(f"max-in-flight {self.max_in_flight} is not in 1..{MAX_IN_FLIGHT}")
        if self.on_disconnect is not None:
            _check_choice("on-disconnect", self.on_disconnect, ON_DISCONNECT)
        if self.patience is not None and not 0 < self.patience < math.inf:
            raise BadInput(f"patience {self.patience:g} is not a number of seconds above 0")


@dataclass(frozen=True, slots=True)
class CloudConfig:
    """Where the cloud is, several addresses to turn to when one is gone, and how it is spoken to:
    plainly only when asked.
    """

    addresses: tuple[str, ...] = (DEFAULT_CLOUD,)
    insecure: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None

    def __post_init__(self) -> None:
        if self.insecure == (self.tls_ca is not None):
            raise BadInput(
                "--insecure and --tls-ca exclude each other"
                if self.insecure
                else "the connection to the cloud is plaintext: say so with --insecure, or give "
                "--tls-ca"
            )
        if self.insecure and (self.tls_cert or self.tls_key):
            raise BadInput("--tls-cert and --tls-key need --tls-ca")
