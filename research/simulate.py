"""hedge simulate: the real edge session and the real verifier in one process, on a virtual clock.

The tokens of these policies do not depend on the channel: the models run once per system and seed,
and the clock is replayed over SNR x bandwidth.
"""

import argparse
import importlib
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hedge.cloud_server.sessions.opening import make_server_info
from hedge.common.command import MODEL_HELP, command_parser, model_options, parse
from hedge.common.errors import BadInput
from hedge.common.model import BUNDLED
from hedge.edge_client.calibrations import Pair as Known
from hedge.edge_client.cli.options import add_slm, add_system, add_warp
from hedge.edge_client.cli.settings import choose_seed, resolved
from hedge.edge_client.systems import GenerationConfig
from hedge.evaluation.profile import read_profile
from hedge.evaluation.record import Journal, lock_folder, parse_answers
from hedge.evaluation.systems import parse_system
from hedge.evaluation.tasks import Task, add_judged, add_tasks, read_judged_tasks
from research.channel import FADINGS, Channel, snr_at
from research.clock import ACCOUNTS, Times
from research.harness import Answering, ModelPair, find_missing
from research.sweep import Sweep, measure_times, show

DEFAULT_SYSTEMS = (
    "slm",
    "llm",
    "hlm",
    "rand-hlm",
    "u-hlm",
    "u-hlm:threshold-rule=risk-prone",
    "cu-hlm",
    "cu-hlm:truncation=offline",
    "cu-hlm:truncation=online",
    "hedge:max-in-flight=1",
)
# Each with a command line of its own.
STUDIES = {"gelato": "research.gelato", "links": "research.links"}
EXAMPLES = """  hedge simulate --questions 200 --temperature 0 --snr -10 0 10 --bandwidth 1e6 10e6
  hedge simulate --systems hlm cu-hlm:measure=margin,threshold-rule=quantile,skip-rate=0.76 \\
      --fading token --out runs/a
  hedge simulate --slm small.gguf --llm large.gguf --task gsm8k --batch 12 \\
      --calibration mine.json --out runs/g
  hedge simulate gelato --out runs/gelato       (energy-controlled block lengths; its own --help)
  hedge simulate links --out runs/links         (links of every length; its own --help)
  hedge simulate --slm ./small --llm ./large --prompts mine.jsonl --calibration mine.json \\
      --tau-slm 0.02 --tau-llm 0.1"""


def command(arguments: Sequence[str]) -> None:
    if arguments and arguments[0] in STUDIES:
        importlib.import_module(STUDIES[arguments[0]]).command(arguments[1:])
        return
    args = parse_options(arguments)
    channels = make_channels(args)
    times = read_times(args)
    for name in ("seeds", "jobs", "batch"):
        if (number := getattr(args, name)) is not None and number < 1:
            raise BadInput(f"{name} {number} is not at least 1")
    if not 0 <= args.difference < math.inf:
        raise BadInput(f"difference {args.difference:g} is not a number of at least 0")
    if args.vocab is not None and args.vocab < 2:
        raise BadInput(f"vocab {args.vocab} is not at least 2")
    if args.resume and args.seed is None:
        raise BadInput("--resume goes on with a run of one seed: give its --seed, which it printed")
    choose_seed(args)
    asked = read_judged_tasks(args)
    with lock_folder(args.out):
        _simulate(args, asked, channels, times)


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command_parser(
        "hedge simulate",
        "Token throughput of whole systems on the channel of the papers.",
        EXAMPLES,
    )
    add_slm(parser)
    parser.add_argument("--llm", default=BUNDLED, help=MODEL_HELP)
    add_system(parser)
    add_warp(parser)
    group = parser.add_argument_group("runs")
    group.add_argument(
        "--systems",
        nargs="+",
        default=list(DEFAULT_SYSTEMS),
        metavar="NAME[:OPTION=VALUE,...]",
        help="default: all of the paper, and hedge without pipelining",
    )
    add_tasks(group, 200)
    add_judged(group)
    group.add_argument(
        "--seeds",
        type=int,
        default=1,
        help="runs per system, with seeds --seed, --seed + 1, ... (default 1)",
    )
    group.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="answers and rows as JSONL"
    )
    group.add_argument("--resume", action="store_true", help="go on with what the folder holds")
    group.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    group.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="N answers at once in one process, in common passes (two GGUF models)",
    )
    group.add_argument(
        "--difference",
        type=float,
        default=0.0,
        metavar="D",
        help="by how much rounding moves a logit of the LLM, as hedge-cloud says at its start: "
        "near ties are counted",
    )
    group.add_argument("--json", action="store_true", help="the rows on stdout instead of a table")
    group = parser.add_argument_group("channel and clock")
    group.add_argument(
        "--snr", type=float, nargs="+", default=[-10.0, 0.0, 10.0, 20.0], metavar="DB"
    )
    group.add_argument(
        "--distance",
        type=float,
        nargs="+",
        metavar="M",
        help="instead of --snr: 3GPP path loss at 23 dBm",
    )
    group.add_argument("--bandwidth", type=float, nargs="+", default=[1e6, 10e6], metavar="HZ")
    group.add_argument("--fading", choices=FADINGS, default="none")
    group.add_argument(
        "--coherence",
        type=float,
        default=0.01,
        metavar="S",
        help="length of a fading block (default 0.01 s)",
    )
    group.add_argument(
        "--outage",
        type=float,
        default=0.0,
        metavar="BIT/S/HZ",
        help="nothing is carried below (default 0)",
    )
    group.add_argument(
        "--account",
        choices=ACCOUNTS,
        default="paper",
        help="bits of a message (default: the paper's)",
    )
    group.add_argument("--vocab", type=int, help="|V| of the paper's account (default: the pair's)")
    group.add_argument(
        "--tau-slm", type=float, metavar="S", help="seconds of an SLM step (default: measured)"
    )
    group.add_argument(
        "--tau-llm", type=float, metavar="S", help="seconds of an LLM pass (default: measured)"
    )
    group.add_argument(
        "--profile",
        metavar="NAME|FILE",
        help="both from a device profile: phone, laptop, tablet, cpu, or TOML",
    )
    return parse(parser, arguments)


def make_channels(args: argparse.Namespace) -> list[Channel]:
    """The grid, checked before any model is loaded."""
    found = []
    for bandwidth in args.bandwidth:
        snrs = args.snr
        if args.distance is not None:
            # Channel refuses what is no bandwidth.
            snrs = [snr_at(d, bandwidth) if bandwidth > 0 else 0 for d in args.distance]
        for snr in snrs:
            found.append(Channel(bandwidth, snr, args.fading, args.coherence, args.outage))
    return found


def read_times(args: argparse.Namespace) -> Times | None:
    """Those that are given; None to measure them."""
    if args.profile:
        profile = read_profile(args.profile)
        return Times(profile.slm_s, profile.llm_s, profile.llm_position_s)
    if (args.tau_slm is None) != (args.tau_llm is None):
        raise BadInput("--tau-slm and --tau-llm go together")
    return None if args.tau_slm is None else Times(args.tau_slm, args.tau_llm)


def make_pair(args: argparse.Namespace) -> ModelPair:
    return ModelPair(args.slm, args.llm, replace(model_options(args), threads=1))


def plan(args: argparse.Namespace) -> tuple[dict[str, GenerationConfig], dict[str, Any]]:
    """The system of every run, and what all runs share."""
    slm, llm = make_pair(args).load()
    known = Known(slm, make_server_info(llm))
    runs: dict[str, GenerationConfig] = {}
    for spec in args.systems:
        chosen = parse_system(spec, args)
        for seed in range(args.seed, args.seed + args.seeds):
            chosen.seed = seed
            runs[f"{spec} #{seed}"] = resolved(chosen, known)
    header = {
        "slm": slm.fingerprint,
        "llm": llm.fingerprint,
        "vocab_size": slm.vocab_size,
        "questions": args.questions,
        "question_seed": args.question_seed,
        "prompts": str(args.prompts or ""),
        "task": args.task or "",
    }
    return runs, header


def _simulate(
    args: argparse.Namespace, asked: list[Task], channels: list[Channel], times: Times | None
) -> None:
    runs, header = plan(args)
    journals = {}
    for name, config in runs.items():
        path = args.out / f"answers-{re.sub(r'[^A-Za-z0-9.=-]+', '_', name)}.jsonl"
        head = header | {"kind": "answers", "run": name, "settings": config.to_json()}
        journals[name] = Journal(path, head, resume=args.resume)
    done = {(name, e["task"]) for name, journal in journals.items() for e in journal.entries}
    answering = Answering(args.jobs, args.batch, args.difference)
    jobs = find_missing(runs, asked, done)
    for name, answer in answering.run(make_pair(args), runs, jobs):
        journals[name].append(answer.to_json())
    answers = {
        name: parse_answers(journal.path, journal.entries) for name, journal in journals.items()
    }
    times = times or measure_times(answers.values())
    vocab_size = int(header["vocab_size"])
    sweep = Sweep(runs, answers, times, args.account, vocab_size, args.vocab or vocab_size)
    journal = Journal(args.out / "rows.jsonl", {"kind": "rows"} | header, resume=args.resume)
    rows = sweep.complete(journal, channels)
    if args.json:
        sys.stdout.write("".join(json.dumps(row) + "\n" for row in rows))
    else:
        show(rows)
