"""One draft: SLM step, warp, gate and draw. Knows nothing of messages and verdicts."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.distribution import Quantised
from common.model import LanguageModel
from common.noise import Noise, Purpose
from edge_client.config import Settings
from edge_client.engine.gates.measures import DRAWS, MEASURES
from edge_client.engine.gates.policy import Policy
from edge_client.engine.statistics import Provenance, Statistics
from edge_client.engine.verification.bound import flattening
from edge_client.engine.verification.proposing import Proposal, proposer

logger = logging.getLogger(__name__)

# Called with (position, raw logits, warped law, draft) of every asked position.
Watcher = Callable[[int, np.ndarray, np.ndarray, int], None]
_NO_COINS = np.empty(0)


@dataclass(frozen=True, slots=True)
class Gate:
    """What the gate found at a position."""

    uncertainty: float
    asks: bool


_BLIND = Gate(1.0, asks=True)


@dataclass(slots=True, eq=False)
class Drafted:
    """A generated token on its way to release. `provenance` is None until it is final.

    `proposed` is x_d, `asked` whether the gate fired, `proposal` what the cloud is told of a token that is to be tested.
    """

    token: int
    provenance: Provenance | None
    proposed: float = 0.0
    asked: bool = False
    proposal: Proposal | None = None
    # Whether the SLM gave no finite logits, so that this is anybody's guess.
    blind: bool = False


class Drafter:
    """The device's half of a position. The SLM's cache follows whatever history it is given, one id behind."""

    def __init__(
        self,
        slm: LanguageModel,
        prompt: int,
        settings: Settings,
        noise: Noise,
        statistics: Statistics,
        policy: Policy,
        watch: Watcher | None,
    ) -> None:
        self._prefix, self._prompt, self._settings, self._noise = slm.kv_cache(), prompt, settings, noise
        self._statistics, self._watch = statistics, watch
        self._measure = MEASURES[settings.measure]
        self._policy = policy
        self._proposer = proposer(settings, noise)

    def roll_back(self, length: int) -> None:
        """Forgets what the cache holds after the first `length` ids of the history."""
        self._prefix.rollback(min(self._prefix.length, length))

    def draft(self, history: Sequence[int], step: int) -> Drafted:
        """The token after `history`; `step` names the message it will travel in."""
        started = time.perf_counter()
        logits = self._prefix.forward(history[self._prefix.length :], 1)[0]
        stepped = time.perf_counter()
        if blind := not np.isfinite(logits).all():
            logits = np.zeros_like(logits)
        law = self._settings.warp(logits)
        if blind:
            # A guess of one token is sent exactly, however it is quantised, so that its test is.
            law = np.zeros_like(law)
            law[0] = 1.0
        self._statistics.slm_s += stepped - started
        self._statistics.gate_s += time.perf_counter() - stepped
        self._statistics.steps += 1
        drafted = self._choose(logits, law, len(history) - self._prompt, step, blind=blind)
        self._statistics.asked += drafted.asked
        return drafted

    def _choose(self, logits: np.ndarray, law: np.ndarray, at: int, step: int, *, blind: bool) -> Drafted:
        """Exact: draw, then let the gate end the block. Opportunistic: gate, then draw. A blind draft is always asked about."""
        settings = self._settings
        if settings.exact:
            proposal = self._propose(law, at, step, None, 0.0)
            gate = _BLIND if blind else self._gate(logits, law, at, proposal.token)
        else:
            early = self._proposer.skipped(law, at, step) if settings.looks_at_draft else None
            gate = _BLIND if blind else self._gate(logits, law, at, early)
            if not gate.asks:
                token = self._proposer.skipped(law, at, step) if early is None else early
                return Drafted(token, Provenance.LOCAL, float(law[token]))
            proposal = self._propose(law, at, step, early, gate.uncertainty)
        if self._watch and gate.asks and not blind:
            self._watch(at, logits, law, proposal.token)
        if logger.isEnabledFor(logging.INFO) and settings.sends_law and proposal.law:
            self._log_truncation(law, at, proposal, proposal.law, gate)
        return Drafted(proposal.token, None, float(law[proposal.token]), gate.asks, proposal, blind)

    def _gate(self, logits: np.ndarray, law: np.ndarray, at: int, draft: int | None) -> Gate:
        started = time.perf_counter()
        uncertainty = 0.0
        if self._settings.looks_at_draft:
            assert draft is not None
            uncertainty = self._measure.of(logits, law, draft, self._noise.uniforms(Purpose.GATE, at, count=2 * DRAWS))
        elif self._settings.measures:
            uncertainty = self._measure.of(logits, law, -1, _NO_COINS)
        asks = self._policy.asks(uncertainty, at)
        self._statistics.gate_s += time.perf_counter() - started
        return Gate(uncertainty, asks)

    def _propose(self, law: np.ndarray, at: int, step: int, early: int | None, uncertainty: float) -> Proposal:
        started = time.perf_counter()
        proposal = self._proposer.tested(law, at, step, early, uncertainty)
        self._statistics.codec_s += time.perf_counter() - started
        return proposal

    def _log_truncation(self, law: np.ndarray, at: int, proposal: Proposal, sent: Quantised, gate: Gate) -> None:
        limit = self._settings.strictness(float(law[proposal.token]), gate.uncertainty)
        bound = float(flattening(law, np.array([proposal.entries]))[0]) / limit
        distance = 0.5 * float(np.abs(law - sent.dense()).sum())
        logger.info(
            "position %d: u %.3f, k %d, U_TV %.4f, TV(x, x_hat) %.4f", at, gate.uncertainty, proposal.entries, bound, distance
        )
