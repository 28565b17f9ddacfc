"""GELATO (docs/algorithms.md, section 4): block lengths from a Lyapunov queue on the device's
energy, and an entropy bucket.

It decides how much is drafted before the cloud is asked, never what a token is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from hedge.edge_client.config import GelatoConfig
from hedge.edge_client.engine.gates.gate import Gate, RoundTrip, Unverified, recent_mean


def expected_tokens(rho: float, drafts: int) -> float:
    """E[N] = (1 - rho^(gamma+1)) / (1 - rho) tokens of a round of gamma drafts; gamma + 1 at rho =
    1.
    """
    return drafts + 1.0 if rho >= 1 else (1 - rho ** (drafts + 1)) / (1 - rho)


def best_length(
    options: GelatoConfig,
    queue: float,
    seconds: Callable[[int], float],
    joules: Callable[[int], float],
) -> int:
    """The outer loop: gamma in 1..gamma_0 that maximises V_L E[N] / T(gamma) - Q E(gamma); the
    shortest of equals.
    """

    def worth(drafts: int) -> float:
        gained = expected_tokens(options.acceptance, drafts) / max(seconds(drafts), 1e-9)
        return options.weight * gained - queue * joules(drafts)

    return max(range(1, options.longest + 1), key=worth)


@dataclass(slots=True)
class Gelato(Gate):
    """Q and the measured times last as long as the object; a round is from verdict to verdict."""

    options: GelatoConfig
    # ln |V|: the measure is entropy over it.
    scale: float = 1.0
    queue: float = 0.0
    step_s: float = 0.0
    # Of the upload per token, and of everything else between a message and its verdict.
    upload_s: float = 0.0
    round_s: float = 0.0
    # Upload of the newest draft, where messages differ in size and that is known before they are
    # sent.
    newest_s: float | None = None
    throughput: float = 0.0
    # This round: drafts, bucket, probability that all of it is accepted, seconds of computing, and
    # the length aimed at.
    drafts: int = 0
    overflow: float = 0.0
    survival: float = 1.0
    computed_s: float = 0.0
    aim: int = 0
    # Whether the last draft is kept back.
    holds_last: bool = False
    # Whether it is the last of its block.
    block_ends: bool = False
    # Rounds in a row without a draft.
    passed: int = 0
    trace: list[float] = field(default_factory=list)

    def seconds(self, drafts: int) -> float:
        """T(gamma)."""
        return drafts * (self.step_s + self.upload_s) + self.round_s

    def joules(self, drafts: int) -> float:
        """E(gamma) = p_D T_D + p_U T_U."""
        return drafts * (self.options.device_w * self.step_s + self.options.radio_w * self.upload_s)

    def observe_draft(self, uncertainty: float) -> None:
        options = self.options
        entropy = uncertainty * self.scale
        if self.drafts >= options.longest:
            # Nobody is asked, as while the link is down: not a round of which a verdict will tell.
            self._begin()
        if not self.drafts:
            # Before the first verdict nothing is known of a round.
            known = self.round_s > 0
            self.aim = (
                best_length(options, self.queue, self.seconds, self.joules)
                if known
                else options.longest
            )
        self.drafts += 1
        self.survival *= math.exp(-options.kappa * entropy)
        if options.variant == "marginal":
            rate = self.throughput or expected_tokens(options.acceptance, self.aim) / max(
                self.seconds(self.aim), 1e-9
            )
            # Its step is paid; what is left to pay is its upload.
            upload = self.upload_s if self.newest_s is None else self.newest_s
            self.holds_last = not self._pays(self.survival, rate, upload, options.radio_w * upload)
            more = self._pays(
                self.survival * options.acceptance,
                rate,
                self.seconds(1) - self.round_s,
                self.joules(1),
            )
            self.block_ends = self.holds_last or not more or self.drafts >= options.longest
            return
        self.overflow = max(0.0, self.overflow + entropy - options.level)
        tripped = self.overflow > options.bucket * options.level
        self.holds_last = tripped and options.variant == "published"
        self.block_ends = tripped or self.drafts >= self.aim

    def asks(self, uncertainty: float, position: int) -> bool:
        """Whether the block ends with the newest draft."""
        return self.block_ends

    @property
    def requests_token(self) -> bool:
        """`marginal`: whether the round is to be without a draft; not for ever, or nothing would be
        measured any more.
        """
        if (
            self.options.variant != "marginal"
            or self.drafts
            or not self.throughput
            or self.passed >= self.options.longest
        ):
            return False
        return not self._pays(
            self.options.acceptance, self.throughput, self.seconds(1) - self.round_s, self.joules(1)
        )

    def _pays(self, gain: float, rate: float, seconds: float, joules: float) -> bool:
        """Whether V_L (gain - th dt) - Q (e - e_bar gain) > 0 of a token that is accepted with
        probability `gain`.
        """
        options = self.options
        return (
            options.weight * (gain - rate * seconds) - self.queue * (joules - options.budget * gain)
            > 0
        )

    def observe_step(self, seconds: float) -> None:
        self.step_s = recent_mean(self.step_s, seconds)
        self.computed_s += seconds

    def observe_verdict(self, trip: RoundTrip, kept: list[bool], lost: bool | None) -> None:
        """A round is over: Q <- max(0, Q + E - E_bar), with `marginal` max(0, Q + E - e_bar N)."""
        uploaded = self.drafts - self.holds_last
        self.passed = 0 if self.drafts else self.passed + 1
        spent = (
            self.options.device_w * self.computed_s
            + self.options.radio_w * uploaded * self.upload_s
        )
        allowed = self.options.budget * (
            (len(kept) + 1) if self.options.variant == "marginal" else 1
        )
        self.queue = max(0.0, self.queue + spent - allowed)
        self.trace.append(self.queue)
        self.round_s = recent_mean(self.round_s, max(0.0, trip.seconds - uploaded * self.upload_s))
        self.throughput = recent_mean(
            self.throughput, (len(kept) + 1) / max(self.computed_s + trip.seconds, 1e-9)
        )
        self._begin()

    def _begin(self) -> None:
        self.drafts = 0
        self.overflow = 0.0
        self.survival = 1.0
        self.computed_s = 0.0
        self.holds_last = False

    @property
    def longest(self) -> int:
        return self.options.longest

    def should_draft(self, unverified: Unverified) -> bool:
        return not unverified.messages
