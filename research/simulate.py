"""hedge simulate: the real edge session and the real verifier in one process, on the papers'
channel and a virtual clock.

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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from tqdm import tqdm

from hedge.cloud_server.sessions.opening import server_info
from hedge.common.command import MODEL_HELP, command_parser, model_options, parse
from hedge.common.errors import BadInput
from hedge.common.model import BUNDLED
from hedge.edge_client.calibrations import Pair as Known
from hedge.edge_client.cli.options import add_slm, add_system, add_warp, choose_seed, resolved
from hedge.edge_client.systems import GenerationConfig
from hedge.evaluation.profile import read_profile
from hedge.evaluation.quality import interval
from hedge.evaluation.record import AnswerRecord, Journal, answers_of, only_writer
from hedge.evaluation.systems import options_of
from hedge.evaluation.tables import wide
from hedge.evaluation.tasks import Task, add_judged, add_tasks, judged_tasks
from research.channel import FADINGS, Channel, open_uplink, snr_at
from research.clock import ACCOUNTS, Clock, Times, bits_of, measured, replay
from research.workers import CHUNK, AnswerJob, ModelPair, answers

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
POINT = ("run", "bandwidth_hz", "snr_db", "fading", "coherence_s", "outage", "account", "vocab")
TAUS = ("tau_slm", "tau_llm", "tau_llm_position")
EXAMPLES = """  hedge simulate --questions 200 --temperature 0 --snr -10 0 10 --bandwidth 1e6 10e6
  hedge simulate --systems hlm cu-hlm:measure=margin,threshold-rule=quantile,skip-rate=0.76 --fading token --out runs/a
  hedge simulate --slm small.gguf --llm large.gguf --task gsm8k --batch 12 --calibration mine.json --out runs/g
  hedge simulate gelato --out runs/gelato                 (energy-controlled block lengths; its own --help)
  hedge simulate links --out runs/links                   (links of every length on a virtual clock; its own --help)
  hedge simulate --slm ./small --llm ./large --prompts mine.jsonl --calibration mine.json --tau-slm 0.02 --tau-llm 0.1"""


def command(arguments: Sequence[str]) -> None:
    if arguments and arguments[0] in STUDIES:
        importlib.import_module(STUDIES[arguments[0]]).command(arguments[1:])
        return
    args = options(arguments)
    channels = channels_of(args)
    given = times_of(args)
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
    asked = judged_tasks(args)
    with only_writer(args.out):
        _simulate(args, asked, channels, given)


def options(arguments: Sequence[str]) -> argparse.Namespace:
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
        help="by how much rounding moves a logit of the LLM, as hedge-cloud says at its start: near ties are counted",
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


def _simulate(
    args: argparse.Namespace, asked: list[Task], channels: list[Channel], given: Times | None
) -> None:
    runs, header = plan(args)
    journals = {
        name: Journal(
            args.out / f"answers-{_file_name(name)}.jsonl",
            header | _run(name, config),
            resume=args.resume,
        )
        for name, config in runs.items()
    }
    run_models(args, runs, asked, journals)
    found = {name: answers_of(journal.path, journal.entries) for name, journal in journals.items()}
    times = given or measured_over(list(found.values()))
    rows = Journal(args.out / "rows.jsonl", {"kind": "rows"} | header, resume=args.resume)
    wanted = sweep(args, runs, found, channels, times, rows)
    asked_for = {_key(row) for row in wanted}
    shown = [row for row in rows.entries if _key(row) in asked_for]
    if args.json:
        sys.stdout.write("".join(json.dumps(row) + "\n" for row in shown))
    else:
        show(shown)


def channels_of(args: argparse.Namespace) -> list[Channel]:
    """The grid, checked before any model is loaded."""
    grid = [
        (bandwidth, snr)
        for bandwidth in args.bandwidth
        for snr in (
            args.snr
            if args.distance is None
            else [snr_at(d, bandwidth) if bandwidth > 0 else 0 for d in args.distance]
        )
    ]
    return [
        Channel(bandwidth, snr, args.fading, args.coherence, args.outage) for bandwidth, snr in grid
    ]


def times_of(args: argparse.Namespace) -> Times | None:
    if args.profile:
        profile = read_profile(args.profile)
        return Times(profile.slm_s, profile.llm_s, profile.llm_position_s)
    if (args.tau_slm is None) != (args.tau_llm is None):
        raise BadInput("--tau-slm and --tau-llm go together")
    return None if args.tau_slm is None else Times(args.tau_slm, args.tau_llm)


def pair_of(args: argparse.Namespace) -> ModelPair:
    return ModelPair(args.slm, args.llm, replace(model_options(args), threads=1))


def plan(args: argparse.Namespace) -> tuple[dict[str, GenerationConfig], dict[str, Any]]:
    """The system of every run, and what all runs share."""
    slm, llm = pair_of(args).load()
    known = Known(slm, server_info(llm))
    runs: dict[str, GenerationConfig] = {}
    for spec in args.systems:
        chosen = options_of(spec, args)
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


def _run(name: str, config: GenerationConfig) -> dict[str, Any]:
    return {"kind": "answers", "run": name, "settings": config.to_json()}


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=-]+", "_", name)


def run_models(
    args: argparse.Namespace,
    runs: dict[str, GenerationConfig],
    asked: list[Task],
    journals: dict[str, Journal],
) -> None:
    """Answers what the journals lack; every finished chunk is on disk at once."""
    if args.batch:
        run_batched(args, runs, asked, journals)
        return
    jobs = []
    for name, config in runs.items():
        done = {entry["task"] for entry in journals[name].entries}
        left = [(index, task) for index, task in enumerate(asked) if index not in done]
        jobs += [
            AnswerJob(name, config, tuple(left[i : i + CHUNK])) for i in range(0, len(left), CHUNK)
        ]
    total = sum(len(job.tasks) for job in jobs)
    with tqdm(total=total, desc="answering", unit="answer", disable=None) as bar:
        for run, found in answers(pair_of(args), jobs, args.jobs):
            for answer in found:
                journals[run].append(answer.to_json())
            bar.update(len(found))


def run_batched(
    args: argparse.Namespace,
    runs: dict[str, GenerationConfig],
    asked: list[Task],
    journals: dict[str, Journal],
) -> None:
    """As `run_models`, each task by all systems before the next one; every answer is on disk at
    once.
    """
    from research.batched import answers as batched

    done = {
        name: {entry["task"] for entry in journal.entries} for name, journal in journals.items()
    }
    left = [
        (index, task, lacking)
        for index, task in enumerate(asked)
        if (lacking := tuple(name for name in runs if index not in done[name]))
    ]
    if not left:
        return
    slm, llm = pair_of(args).load()
    longest = (
        max(len(slm.encode_chat(task.prompt.messages)) for _, task, _ in left) + args.max_new_tokens
    )
    context = min(slm.context, llm.context, longest)
    with tqdm(
        total=sum(len(names) for _, _, names in left), desc="answering", unit="answer", disable=None
    ) as bar:
        for run, answer in batched(slm, llm, runs, left, args.batch, context, args.difference):
            journals[run].append(answer.to_json())
            bar.update()


def measured_over(runs: Sequence[Sequence[AnswerRecord]]) -> Times:
    """One pair of times for all systems, so that they differ only in what they do."""
    every = [answer for run in runs for answer in run]
    steps = [a.slm_s / a.steps for a in every if a.steps]
    return measured(steps, (round_ for answer in every for round_ in answer.log))


def sweep(
    args: argparse.Namespace,
    runs: dict[str, GenerationConfig],
    found: dict[str, list[AnswerRecord]],
    channels: list[Channel],
    times: Times,
    rows: Journal,
) -> list[dict[str, Any]]:
    """Appends the rows that are missing. Returns the keys of all that were asked for."""
    vocab_size = int(rows.header["vocab_size"])
    accounted = args.vocab or vocab_size
    taus = dict(zip(TAUS, (times.slm, times.llm, times.llm_position), strict=True))
    done = {_key(row) for row in rows.entries}
    wanted = []
    for channel in tqdm(channels, desc="clock", unit="channel", disable=None):
        for name, config in runs.items():
            key = {
                "run": name,
                **asdict(channel),
                "account": args.account,
                "vocab": accounted,
            } | taus
            wanted.append(key)
            if _key(key) not in done:
                rows.append(
                    key
                    | row_of(
                        found[name], config, channel, times, args.account, vocab_size, accounted
                    )
                )
    return wanted


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in (*POINT, *TAUS))


def row_of(
    run: list[AnswerRecord],
    config: GenerationConfig,
    channel: Channel,
    times: Times,
    account: str,
    vocab_size: int,
    accounted: int,
) -> dict[str, Any]:
    """Throughput with its 95 % interval over answers, and what the channel does not change."""
    seconds = []
    sent = 0.0
    for answer in run:
        bits = [bits_of(r, account, vocab_size, accounted) for r in answer.log]
        clock = Clock(
            times, open_uplink(channel, np.random.default_rng([config.sampling.seed, answer.task]))
        )
        seconds.append(replay(clock, answer.log, bits, answer.steps))
        sent += sum(bits)
    tokens = np.array([len(answer.token_ids) for answer in run], dtype=float)
    low, high = interval(tokens, np.array(seconds))
    judged = [answer.correct for answer in run if answer.correct is not None]
    audited = sum(answer.audited for answer in run)
    return {
        "system": config.system,
        "measure": config.gate.measure,
        "threshold": config.to_json()["threshold"],
        "seed": config.sampling.seed,
        "temperature": config.sampling.temperature,
        "answers": len(run),
        "tokens": int(tokens.sum()),
        "tokens_per_s": float(tokens.sum() / sum(seconds)),
        "low": low,
        "high": high,
        "uplink_bytes_per_token": sent / 8 / float(tokens.sum()),
        "share_skipped": sum(answer.skipped for answer in run) / float(tokens.sum()),
        "exact_match": sum(judged) / len(judged) if judged else None,
        "risk": sum(answer.risk for answer in run) / audited if audited else None,
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    """What each run is, and its tokens/s on every channel."""
    names = {
        name: f"[{number}]"
        for number, name in enumerate(dict.fromkeys(row["run"] for row in rows), 1)
    }
    about = Table(title=f"uplink by the {rows[-1]['account']} account, |V| = {rows[-1]['vocab']}")
    for heading in ("", "run", "skipped", "exact match", "bytes/token"):
        about.add_column(heading, justify="left" if heading == "run" else "right")
    first = {row["run"]: row for row in reversed(rows)}
    for name, number in names.items():
        row = first[name]
        match = "-" if row["exact_match"] is None else f"{row['exact_match']:.1%}"
        about.add_row(
            number,
            name,
            f"{row['share_skipped']:.1%}",
            match,
            f"{row['uplink_bytes_per_token']:.4g}",
        )
    speed = Table(title="tokens/s")
    for heading in ("channel", *names.values()):
        speed.add_column(heading, justify="right")
    found = {(_channel_name(row), row["run"]): f"{row['tokens_per_s']:.3g}" for row in rows}
    for channel in dict.fromkeys(_channel_name(row) for row in rows):
        speed.add_row(channel, *(found.get((channel, name), "-") for name in names))
    console = wide()
    console.print(about)
    console.print(speed)


def _channel_name(row: dict[str, Any]) -> str:
    fading = "" if row["fading"] == "none" else f" {row['fading']}"
    return f"{row['snr_db']:g} dB {row['bandwidth_hz'] / 1e6:g} MHz{fading}"
