"""GELATO and its rivals, replayed over what both models say of the LLM's own answers."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hedge.common.coupling import draw_coupled
from hedge.common.model import LanguageModel
from hedge.common.noise import Noise, Purpose
from hedge.common.sampling import Warp
from hedge.edge_client.config import SamplingParams
from hedge.edge_client.engine.gates.calibration import decay_rate
from hedge.edge_client.engine.gates.measures import MEASURES
from hedge.evaluation.local import stream_answer
from hedge.evaluation.quality import interval
from hedge.evaluation.tasks import Task
from research.channel import Channel, open_uplink
from research.gelato_rivals import VOCAB, Controller, Published, Rival

TOP_P = 0.99995
GATE = "expected_perturbation"


@dataclass(frozen=True, slots=True)
class DraftingModel:
    """N layers, width d, FFN d_f; f_D in FLOP/s, p_D in W. With `head` the LM head counts."""

    layers: int = 24
    width: int = 896
    ffn: int = 4864
    flops: float = 40e9
    watts: float = 12.0
    radio_w: float = 0.2
    head: bool = False

    def seconds(self, context: int, drafts: int) -> float:
        """T_D: N gamma [6 d^2 + 4 (L + gamma/2) d + 2 d^2 + 4 d d_f] FLOPs at context L, and 2 d
        |V| a token with the head.
        """
        d = self.width
        layer = 6 * d**2 + 4 * (context + drafts / 2) * d + 2 * d**2 + 4 * d * self.ffn
        return drafts * (self.layers * layer + (2 * d * VOCAB if self.head else 0)) / self.flops


@dataclass(slots=True)
class AnswerTrace:
    """One answer of the LLM: its prompt's length, and of every position the entropy in nats, the
    gate's u, the size of the SLM's top-p set, and whether a sampled and a coupled draft would stay.
    """

    prompt: int
    entropy: list[float] = field(default_factory=list)
    gate: list[float] = field(default_factory=list)
    nucleus: list[int] = field(default_factory=list)
    similar: list[float] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    coupled: list[bool] = field(default_factory=list)


def trace_answer(
    slm: LanguageModel, llm: LanguageModel, task: Task, warp: Warp, seed: int
) -> AnswerTrace:
    prompt = slm.encode_chat(task.prompt.messages)
    answer = asyncio.run(stream_answer(slm, llm, prompt, SamplingParams(warp, seed)))
    noise = Noise(seed, prompt)
    found = AnswerTrace(len(prompt))
    rows = [lm.kv_cache().forward([*prompt, *answer][:-1], len(answer)) for lm in (slm, llm)]
    for at, (token, z, z_llm) in enumerate(zip(answer, *rows, strict=True)):
        x = warp(z)
        y = warp(z_llm)
        similar = float(np.minimum(x, y).sum())
        found.entropy.append(
            round(MEASURES["entropy"].of(z, x, -1, np.empty(0)) * math.log(len(z)), 6)
        )
        found.gate.append(round(MEASURES[GATE].of(z, x, -1, np.empty(0)), 6))
        found.nucleus.append(int(np.searchsorted(np.cumsum(-np.sort(-x)), TOP_P)) + 1)
        found.similar.append(round(similar, 6))
        found.sampled.append(noise.uniform(Purpose.ACCEPT, at) < similar)
        found.coupled.append(draw_coupled(noise, at, x) == token)
    return found


@dataclass(slots=True)
class Sums:
    """Per answer: tokens, seconds, joules. Per round: drafts and, of Gelato, Q."""

    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)
    drafts: list[int] = field(default_factory=list)
    queue: list[float] = field(default_factory=list)
    bits: float = 0.0


def replay(
    traces: Sequence[AnswerTrace],
    rival: Rival,
    draft: DraftingModel,
    channel: Channel,
    pass_s: float,
    seed: int,
) -> Sums:
    """All answers one after the other, one controller for all: Q carries over."""
    controller = rival.controller()
    sums = Sums()
    uplink = open_uplink(channel, np.random.default_rng(seed))
    for trace in traces:
        stays = trace.coupled if rival.coupled else trace.sampled
        at = 0
        seconds = 0.0
        joules = 0.0
        while at < len(stays):
            drafts, computing = _draft_block(controller, rival, draft, trace, at)
            sent = drafts - controller.holds
            accepted = next((n for n in range(sent) if not stays[at + n]), sent)
            bits = sum(rival.bits(size) for size in trace.nucleus[at : at + sent])
            upload = uplink.send(bits, 0.0) if bits else 0.0
            controller.judged(upload, pass_s, sent, accepted)
            seconds += computing + upload + pass_s
            joules += draft.watts * computing + draft.radio_w * upload
            sums.bits += bits
            sums.drafts.append(drafts)
            at += accepted + 1
        sums.tokens.append(len(stays))
        sums.seconds.append(seconds)
        sums.joules.append(joules)
    if isinstance(controller, Published):
        sums.queue = controller.gelato.trace
    return sums


def _draft_block(
    controller: Controller, rival: Rival, draft: DraftingModel, trace: AnswerTrace, at: int
) -> tuple[int, float]:
    """How many drafts the controller lets follow position `at`, and their seconds."""
    drafts = 0
    computing = 0.0
    while at + drafts < len(trace.entropy) and not controller.passes:
        position = at + drafts
        step = draft.seconds(trace.prompt + position, 1)
        controller.stepped(step)
        computing += step
        drafts += 1
        bits = rival.bits(trace.nucleus[position])
        if controller.stops(trace.entropy[position], trace.gate[position], bits):
            break
    return drafts, computing


def summarise(sums: Sums) -> dict[str, Any]:
    tokens = sum(sums.tokens)
    low, high = interval(np.array(sums.tokens, dtype=float), np.array(sums.seconds))
    queue = np.array(sums.queue)
    return {
        "tokens": tokens,
        "tokens_per_s": tokens / sum(sums.seconds),
        "low": low,
        "high": high,
        "joules_per_token": sum(sums.joules) / tokens,
        "bytes_per_token": sums.bits / 8 / tokens,
        "tokens_per_round": tokens / len(sums.drafts),
        "drafts_per_round": float(np.mean(sums.drafts)),
        "queue_mean": float(queue.mean()) if len(queue) else None,
        "queue_max": float(queue.max()) if len(queue) else None,
        "queue_share": float((queue > 0).mean()) if len(queue) else None,
        "queue": [round(q, 4) for q in sums.queue[:400]],
    }


def fit_decay(traces: Sequence[AnswerTrace]) -> float:
    """kappa of rho = exp(-kappa H) by least squares over the traces."""
    entropy = np.concatenate([np.array(trace.entropy) for trace in traces])
    return decay_rate(entropy, 1 - np.concatenate([np.array(trace.similar) for trace in traces]))
