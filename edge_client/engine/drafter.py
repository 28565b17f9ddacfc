"""One draft: SLM step, probabilities, gate and draw. Knows nothing of messages and verdicts."""

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from hedge.common.logits import LogitsProcessor, logprobs
from hedge.common.model import LanguageModel
from hedge.common.noise import Noise, Purpose
from hedge.common.sampling import gap
from hedge.edge_client.engine.gates.gate import Gate
from hedge.edge_client.engine.gates.measures import DRAWS, MEASURES
from hedge.edge_client.engine.gates.survival import Survival
from hedge.edge_client.engine.machine import Machine
from hedge.edge_client.engine.sequence import Provenance, Sequence, Token
from hedge.edge_client.engine.statistics import Statistics
from hedge.edge_client.engine.verification import Verification
from hedge.edge_client.engine.verification.proposal import Proposal
from hedge.edge_client.systems import GenerationConfig

logger = logging.getLogger(__name__)

# Called with (position, raw logits, x, draft) of every asked position.
Watcher = Callable[[int, np.ndarray, np.ndarray, int], None]
_NO_COINS = np.empty(0)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the gate found at a position."""

    uncertainty: float
    asks: bool
    margin: float | None = None
    survival: float = 1.0


_BLIND = Reading(1.0, asks=True, survival=0.0)


class Drafter:
    """Runs the SLM, the gate and the draw; the KV cache follows the sequence, one id behind."""

    def __init__(
        self,
        slm: LanguageModel,
        config: GenerationConfig,
        gate: Gate,
        verification: Verification,
        noise: Noise,
        statistics: Statistics,
        watch: Watcher | None,
        survival: Survival,
        machine: Machine,
        processor: LogitsProcessor,
    ) -> None:
        self._machine = machine
        self._survival = survival if config.gate.policy == "survival" else None
        self._slm = slm
        self._cache = slm.kv_cache()
        self._config = config
        self._gate = gate
        self._verification = verification
        self._noise = noise
        self._statistics = statistics
        self._watch = watch
        self._measure = MEASURES[config.gate.measure]
        self._warp = config.sampling.warp
        self._process = processor
        self._logprobs = config.sampling.logprobs

    def judged(self, kept: Iterable[Token], lost: Token | None) -> None:
        """Learns from a verdict: which drafts stayed, and the one that did not."""
        if self._survival is None:
            return
        for token in kept:
            if token.margin is not None:
                self._survival.judged(token.margin, accepted=True)
        if lost is not None and lost.margin is not None:
            self._survival.judged(lost.margin, accepted=False)

    def roll_back(self, length: int) -> None:
        """Forgets what the cache holds after the first `length` ids."""
        self._cache.rollback(min(self._cache.length, length))

    async def draft(self, sequence: Sequence, step: int) -> Token:
        """The token after the sequence; `step` names the message it will travel in."""
        if (only := self._process.forced(sequence.ids)) is not None:
            return self._forced(only, len(sequence), step)
        fed = len(sequence.ids) - self._cache.length
        return await self._machine.run(lambda: self._draft(sequence, step), self._slm, fed)

    def _draft(self, sequence: Sequence, step: int) -> Token:
        started = time.perf_counter()
        fed = sequence.ids[self._cache.length :]
        logits = self._cache.forward(fed, 1)[0]
        stepped = time.perf_counter()
        if blind := not np.isfinite(logits).all():
            logits = np.zeros_like(logits)
        raw = logits
        logits = self._process(logits, sequence.ids)
        probs = self._warp(logits)
        if blind:
            # A guess of one token is sent exactly, however it is quantised, so that its test is.
            probs = np.zeros_like(probs)
            probs[0] = 1.0
        self._statistics.slm_s += stepped - started
        self._statistics.gate_s += time.perf_counter() - stepped
        self._statistics.steps += 1
        before = math.prod(token.survival for token in sequence.block)
        token = self._choose(logits, probs, len(sequence), step, before, blind=blind)
        self._statistics.asked += token.asked
        if self._logprobs is not None and not blind:
            token.logprobs = logprobs(raw, token.id, self._logprobs)
        return token

    def _forced(self, only: int, at: int, step: int) -> Token:
        """The one token that the grammar allows: certain on both sides, and the SLM need not be
        asked.
        """
        known = None if self._logprobs is None else (0.0, [(only, 0.0)][: self._logprobs])
        if self._config.guarantee != "exact":
            return Token(only, Provenance.LOCAL, 1.0, logprobs=known)
        probs = np.zeros(self._slm.vocab_size)
        probs[only] = 1.0
        return Token(
            only, None, 1.0, proposal=self._propose(probs, at, step, None, 0.0), logprobs=known
        )

    def _choose(
        self,
        logits: np.ndarray,
        probs: np.ndarray,
        at: int,
        step: int,
        before: float,
        *,
        blind: bool,
    ) -> Token:
        """Exact: draw, then let the gate end the block. Opportunistic: gate, then draw. A blind
        draft is always asked about.
        """
        if self._config.verification.exact:
            proposal = self._propose(probs, at, step, None, 0.0)
            reading = (
                _BLIND
                if blind
                else self._read(logits, probs, at, proposal.token, before, proposal.margin)
            )
        else:
            early = (
                self._verification.sample(probs, at, step) if self._config.looks_at_draft else None
            )
            reading = _BLIND if blind else self._read(logits, probs, at, early)
            if not reading.asks:
                token = self._verification.sample(probs, at, step) if early is None else early
                return Token(token, Provenance.LOCAL, float(probs[token]))
            proposal = self._propose(probs, at, step, early, reading.uncertainty)
        if self._watch and reading.asks and not blind:
            self._watch(at, logits, probs, proposal.token)
        if logger.isEnabledFor(logging.INFO) and (
            line := self._verification.describe(probs, proposal, reading.uncertainty)
        ):
            logger.info("position %d: %s", at, line)
        prob = float(probs[proposal.token])
        return Token(
            proposal.token,
            None,
            prob,
            reading.asks,
            proposal,
            blind,
            reading.margin,
            reading.survival,
        )

    def _read(
        self,
        logits: np.ndarray,
        probs: np.ndarray,
        at: int,
        draft: int | None,
        before: float = 1.0,
        decided: float = math.inf,
    ) -> Reading:
        """`before`: the probability that the block's drafts before this one are all accepted;
        `decided`: the draft's margin.
        """
        started = time.perf_counter()
        uncertainty = 0.0
        margin = None
        survival = 1.0
        if self._survival:
            margin = gap(logits) if self._warp.greedy else decided
            survival = self._survival.probability(margin)
            uncertainty = 1.0 - before * survival
        elif self._config.looks_at_draft:
            assert draft is not None
            uncertainty = self._measure.of(
                logits, probs, draft, self._noise.uniforms(Purpose.GATE, at, count=2 * DRAWS)
            )
        elif self._config.measures:
            uncertainty = self._measure.of(logits, probs, -1, _NO_COINS)
        self._gate.observe_draft(uncertainty)
        asks = self._gate.asks(uncertainty, at)
        self._statistics.gate_s += time.perf_counter() - started
        return Reading(uncertainty, asks, margin, survival)

    def _propose(
        self, probs: np.ndarray, at: int, step: int, early: int | None, uncertainty: float
    ) -> Proposal:
        started = time.perf_counter()
        proposal = self._verification.propose(probs, at, step, early, uncertainty)
        self._statistics.codec_s += time.perf_counter() - started
        return proposal
