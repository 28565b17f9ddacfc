"""hedge simulate gelato: GELATO (docs/algorithms.md, section 4) against static speculation on the
constants of its paper.

Both bundled models say of the LLM's own answers, position by position, how uncertain the SLM is and
whether its draft would stay. The constants, of Qwen2.5-0.5B drafting for 7B, say what a draft, an
upload and a pass cost. A policy is replayed over the two; behind a rejection it sees the entropies
of the answer, not of its own wrong path.
"""

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from tqdm import tqdm

from hedge.common.command import command_parser, parse
from hedge.common.coupling import coupled_draw
from hedge.common.errors import BadInput
from hedge.common.model import BUNDLED, LanguageModel, load
from hedge.common.noise import Noise, Purpose
from hedge.common.sampling import Warp
from hedge.common.torch_model import use_threads
from hedge.edge_client.config import MARGINAL_BUDGET_J, SamplingParams
from hedge.edge_client.engine.gates.calibration import decay_rate
from hedge.edge_client.engine.gates.measures import MEASURES
from hedge.evaluation.local import own_answer
from hedge.evaluation.quality import interval
from hedge.evaluation.record import Journal, only_writer, read_journal
from hedge.evaluation.tables import wide
from hedge.evaluation.tasks import Task, add_tasks, tasks
from research.channel import Channel, open_uplink, snr_at
from research.gelato_rivals import VOCAB, Published, Rival, gelato_rival, rivals

EXAMPLES = """  hedge simulate gelato --out runs/gelato
  hedge simulate gelato --out runs/mine --bandwidth 1e6 --t-llm 0.06 0.14 --weight 100 --head"""
TOP_P = 0.99995
GATE = "expected_perturbation"
SKIP_RATE = 0.85
# `marginal` at GELATO's energy: V_L, and the share of that energy that is its budget, over which it
# spends while Q grows.
EQUAL_WEIGHT = 1.0
EQUAL_SHARE = 0.95
OUTAGE = 0.1


@dataclass(frozen=True, slots=True)
class DraftingModel:
    """The drafting model: N layers, width d, FFN d_f; f_D in FLOP/s, p_D in W. With `head` the LM
    head counts.
    """

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
class Trace:
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


def trace_of(slm: LanguageModel, llm: LanguageModel, task: Task, warp: Warp, seed: int) -> Trace:
    prompt = slm.encode_chat(task.prompt.messages)
    answer = asyncio.run(
        own_answer(slm, llm, prompt, SamplingParams(warp.temperature, warp.top_k, warp.top_p, seed))
    )
    noise = Noise(seed, prompt)
    found = Trace(len(prompt))
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
        found.coupled.append(coupled_draw(noise, at, x) == token)
    return found


@dataclass(slots=True)
class Sums:
    """What a system came to: per answer tokens, seconds, joules; per round drafts and, of Gelato,
    Q.
    """

    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)
    drafts: list[int] = field(default_factory=list)
    queue: list[float] = field(default_factory=list)
    bits: float = 0.0


def replay(
    traces: Sequence[Trace],
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
        length = len(stays)
        while at < length:
            drafts = 0
            computing = 0.0
            while at + drafts < length and not controller.passes:
                step = draft.seconds(trace.prompt + at + drafts, 1)
                controller.stepped(step)
                computing += step
                drafts += 1
                last = at + drafts - 1
                if controller.stops(
                    trace.entropy[last], trace.gate[last], rival.bits(trace.nucleus[last])
                ):
                    break
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
        sums.tokens.append(length)
        sums.seconds.append(seconds)
        sums.joules.append(joules)
    if isinstance(controller, Published):
        sums.queue = controller.gelato.trace
    return sums


def row_of(sums: Sums) -> dict[str, Any]:
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


def decay_of(traces: Sequence[Trace]) -> float:
    """kappa of rho = exp(-kappa H) by least squares over the traces."""
    entropy = np.concatenate([np.array(trace.entropy) for trace in traces])
    return decay_rate(entropy, 1 - np.concatenate([np.array(trace.similar) for trace in traces]))


def command(arguments: Sequence[str]) -> None:
    parser = command_parser(
        "hedge simulate gelato",
        "Energy-controlled block lengths on the constants of their paper.",
        EXAMPLES,
    )
    parser.add_argument("--slm", default=BUNDLED)
    parser.add_argument("--llm", default=BUNDLED)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    add_tasks(parser, 200)
    parser.add_argument(
        "--bandwidth", type=float, nargs="+", default=[1e6, 2e6, 4e6, 7e6, 10e6], metavar="HZ"
    )
    parser.add_argument(
        "--t-llm", type=float, nargs="+", default=[0.06, 0.08, 0.1, 0.12, 0.14], metavar="S"
    )
    parser.add_argument(
        "--distance",
        type=float,
        default=500.0,
        metavar="M",
        help="3GPP path loss at 23 dBm (default 500)",
    )
    parser.add_argument("--weight", type=float, nargs="+", default=[10.0, 100.0], metavar="V_L")
    parser.add_argument(
        "--budget", type=float, default=1.2, metavar="J", help="E_bar a round (default 1.2)"
    )
    parser.add_argument(
        "--marginal-budget",
        type=float,
        default=MARGINAL_BUDGET_J,
        metavar="J",
        help="of `marginal`, a token (default 0.15)",
    )
    parser.add_argument(
        "--decay",
        type=float,
        default=0.35,
        help="kappa, 0 for this pair's own (default 0.35, the paper's)",
    )
    parser.add_argument("--head", action="store_true", help="count the LM head's FLOPs")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="traces and rows as JSONL"
    )
    parser.add_argument("--json", action="store_true", help="the rows on stdout instead of a table")
    args = parse(parser, arguments)
    channels = [
        Channel(b, snr_at(args.distance, b), "token", outage=OUTAGE)
        for b in args.bandwidth
        if _positive("bandwidth", b)
    ]
    for name in ("t_llm", "weight"):
        for value in getattr(args, name):
            _positive(name.replace("_", "-"), value)
    for name in ("budget", "marginal_budget"):
        _positive(name.replace("_", "-"), getattr(args, name))
    if not 0 <= args.decay < math.inf:
        raise BadInput(f"decay {args.decay:g} is not a number of at least 0")
    asked = tasks(args.prompts, args.questions, args.question_seed)
    with only_writer(args.out):
        _simulate(args, asked, channels)


def _positive(name: str, value: float) -> bool:
    if not 0 < value < math.inf:
        raise BadInput(f"{name} {value:g} is not a number above 0")
    return True


def _simulate(args: argparse.Namespace, asked: list[Task], channels: list[Channel]) -> None:
    traces = _traces(args, asked)
    every = np.concatenate([np.array(trace.gate) for trace in traces])
    fitted = decay_of(traces)
    decay = args.decay or fitted
    systems = rivals(
        args.weight, decay, float(np.quantile(every, SKIP_RATE)), args.budget, args.marginal_budget
    )
    draft = DraftingModel(head=args.head)
    path = args.out / "rows.jsonl"
    path.unlink(missing_ok=True)
    rows = Journal(
        path, {"kind": "gelato", "decay": decay, "fitted": fitted, "head": args.head}, resume=False
    )
    for channel in tqdm(channels, desc="replaying", unit="bandwidth", disable=None):
        for pass_s in args.t_llm:
            cell = {
                name: row_of(replay(traces, rival, draft, channel, pass_s, args.seed))
                for name, rival in systems.items()
            }
            for payload in ("top-p", "ids"):
                # `marginal` given what GELATO as published has used here.
                used = cell[f"gelato published, V {args.weight[0]:g}, {payload}"][
                    "joules_per_token"
                ]
                equal = gelato_rival("marginal", payload, EQUAL_WEIGHT, decay, EQUAL_SHARE * used)
                cell[f"gelato marginal, GELATO's J, {payload}"] = row_of(
                    replay(traces, equal, draft, channel, pass_s, args.seed)
                )
            for name, found in cell.items():
                rows.append(
                    {"system": name, "bandwidth_hz": channel.bandwidth_hz, "t_llm": pass_s, **found}
                )
    if args.json:
        sys.stdout.write("".join(json.dumps(row) + "\n" for row in rows.entries))
    else:
        show(rows.entries)


def _traces(args: argparse.Namespace, asked: list[Task]) -> list[Trace]:
    """Recorded once a folder."""
    path = args.out / "traces.jsonl"
    use_threads(1)
    slm = load(args.slm, "slm")
    llm = load(args.llm, "llm")
    header = {
        "kind": "traces",
        "slm": slm.fingerprint,
        "llm": llm.fingerprint,
        "temperature": args.temperature,
        "seed": args.seed,
        "questions": args.questions,
        "question_seed": args.question_seed,
        "prompts": str(args.prompts or ""),
    }
    journal = Journal(path, header, resume=True)
    warp = Warp(args.temperature)
    for task in tqdm(asked[len(journal.entries) :], desc="answering", unit="answer", disable=None):
        journal.append(asdict(trace_of(slm, llm, task, warp, args.seed)))
    return [Trace(**entry) for entry in read_journal(path, "traces")[1]]


def show(rows: Sequence[dict[str, Any]]) -> None:
    """tokens/s and J/token by bandwidth, at the middle T_LLM."""
    times = sorted({row["t_llm"] for row in rows})
    middle = times[len(times) // 2]
    bands = sorted({row["bandwidth_hz"] for row in rows})
    table = Table(title=f"T_LLM {middle * 1e3:g} ms: tokens/s, J/token")
    for heading in ("system", *(f"{band / 1e6:g} MHz" for band in bands)):
        table.add_column(heading, justify="left" if heading == "system" else "right")
    found = {(row["system"], row["bandwidth_hz"]): row for row in rows if row["t_llm"] == middle}
    for name in dict.fromkeys(row["system"] for row in rows):
        cells = [
            f"{found[name, b]['tokens_per_s']:.2f}, {found[name, b]['joules_per_token']:.3f}"
            for b in bands
        ]
        table.add_row(name, *cells)
    wide().print(table)
