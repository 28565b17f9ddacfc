"""hedge simulate gelato: GELATO (docs/algorithms.md, section 4) against static speculation.

The constants of its paper, of Qwen2.5-0.5B drafting for 7B, say what a draft, an upload and a pass
cost. The bundled models say of the LLM's own answers, position by position, how uncertain the SLM
is and whether its draft would stay. A policy is replayed over the two; behind a rejection it sees
the entropies of the answer, not of its own wrong path.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hedge.common.command import Parser, command_parser, parse
from hedge.common.errors import BadInput
from hedge.common.loading import load
from hedge.common.model import BUNDLED
from hedge.common.sampling import Warp
from hedge.common.torch_model import use_threads
from hedge.edge_client.config import MARGINAL_BUDGET_J
from hedge.evaluation import tables
from hedge.evaluation.record import Journal, lock_folder
from hedge.evaluation.tables import Column, first, tabulate
from hedge.evaluation.tasks import Task, add_tasks, read_tasks
from research.channel import Channel, snr_at
from research.gelato_replay import (
    AnswerTrace,
    DraftingModel,
    fit_decay,
    replay,
    summarise,
    trace_answer,
)
from research.gelato_rivals import gelato_rival, rivals
from research.harness import complete, show_progress

EXAMPLES = """  hedge simulate gelato --out runs/gelato
  hedge simulate gelato --out runs/mine --bandwidth 1e6 --t-llm 0.06 0.14 --weight 100 --head"""
SKIP_RATE = 0.85
# `marginal` at GELATO's energy: V_L, and the share of that energy that is its budget, over which it
# spends while Q grows.
EQUAL_WEIGHT = 1.0
EQUAL_SHARE = 0.95
OUTAGE = 0.1


def _make_parser() -> Parser:
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
    return parser


def command(arguments: Sequence[str]) -> None:
    args = parse(_make_parser(), arguments)
    for name in ("bandwidth", "t_llm", "weight"):
        for value in getattr(args, name):
            _require_positive(name, value)
    for name in ("budget", "marginal_budget"):
        _require_positive(name, getattr(args, name))
    if not 0 <= args.decay < math.inf:
        raise BadInput(f"decay {args.decay:g} is not a number of at least 0")
    channels = [
        Channel(band, snr_at(args.distance, band), "token", outage=OUTAGE)
        for band in args.bandwidth
    ]
    asked = read_tasks(args.prompts, args.questions, args.question_seed)
    with lock_folder(args.out):
        _simulate(args, asked, channels)


def _require_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise BadInput(f"{name.replace('_', '-')} {value:g} is not a number above 0")


def _simulate(args: argparse.Namespace, asked: list[Task], channels: list[Channel]) -> None:
    traces = _record_traces(args, asked)
    fitted = fit_decay(traces)
    decay = args.decay or fitted
    path = args.out / "rows.jsonl"
    path.unlink(missing_ok=True)
    header = {"kind": "gelato", "decay": decay, "fitted": fitted, "head": args.head}
    rows = Journal(path, header, resume=False)
    for channel in show_progress(channels, len(channels), "replaying", "bandwidth"):
        for pass_s in args.t_llm:
            for name, row in _replay_all(args, traces, decay, channel, pass_s).items():
                where = {"bandwidth_hz": channel.bandwidth_hz, "t_llm": pass_s}
                rows.append({"system": name, **where, **row})
    if args.json:
        sys.stdout.write("".join(json.dumps(row) + "\n" for row in rows.entries))
    else:
        show(rows.entries)


def _replay_all(
    args: argparse.Namespace,
    traces: Sequence[AnswerTrace],
    decay: float,
    channel: Channel,
    pass_s: float,
) -> dict[str, dict[str, Any]]:
    """A row for every system on a channel."""
    gate = np.concatenate([np.array(trace.gate) for trace in traces])
    threshold = float(np.quantile(gate, SKIP_RATE))
    draft = DraftingModel(head=args.head)
    systems = rivals(args.weight, decay, threshold, args.budget, args.marginal_budget)
    found = {
        name: summarise(replay(traces, rival, draft, channel, pass_s, args.seed))
        for name, rival in systems.items()
    }
    for payload in ("top-p", "ids"):
        # `marginal` given what GELATO as published has used here.
        used = found[f"gelato published, V {args.weight[0]:g}, {payload}"]["joules_per_token"]
        equal = gelato_rival("marginal", payload, EQUAL_WEIGHT, decay, EQUAL_SHARE * used)
        sums = replay(traces, equal, draft, channel, pass_s, args.seed)
        found[f"gelato marginal, GELATO's J, {payload}"] = summarise(sums)
    return found


def _record_traces(args: argparse.Namespace, asked: list[Task]) -> list[AnswerTrace]:
    """Recorded once a folder."""
    use_threads(1)
    slm = load(args.slm, "slm")
    llm = load(args.llm, "llm")
    header = {"kind": "traces", "slm": slm.fingerprint, "llm": llm.fingerprint}
    for name in ("temperature", "seed", "questions", "question_seed"):
        header[name] = getattr(args, name)
    header["prompts"] = str(args.prompts or "")
    journal = Journal(args.out / "traces.jsonl", header, resume=True)
    warp = Warp(args.temperature)

    def record(left: Sequence[tuple[int, Task]]) -> Iterator[dict[str, Any]]:
        for number, task in left:
            trace = trace_answer(slm, llm, task, warp, args.seed)
            yield {"question": number} | asdict(trace)

    wanted = {(number,): (number, task) for number, task in enumerate(asked)}
    found = complete(journal, ("question",), wanted, record, "answering")
    return [AnswerTrace(**{k: v for k, v in e.items() if k != "question"}) for e in found]


def show(rows: Sequence[dict[str, Any]]) -> None:
    """tokens/s and J/token by bandwidth, at the middle T_LLM."""
    times = sorted({row["t_llm"] for row in rows})
    middle = times[len(times) // 2]
    columns = [Column("system", first("system"))]
    for band in sorted({row["bandwidth_hz"] for row in rows}):

        def find(mine: Sequence[dict[str, Any]], band: float = band) -> str:
            row = next(row for row in mine if row["bandwidth_hz"] == band)
            return f"{row['tokens_per_s']:.2f}, {row['joules_per_token']:.3f}"

        columns.append(Column(f"{band / 1e6:g} MHz", find))
    shown = [row for row in rows if row["t_llm"] == middle]
    title = f"T_LLM {middle * 1e3:g} ms: tokens/s, J/token"
    tables.show(tabulate(shown, ("system",), columns), title)
