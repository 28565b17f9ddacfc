"""hedge bench: every system a user could pick, side by side, over real gRPC through the link
emulator.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hedge.common.command import command_parser, model_options, parse, runtime_arguments
from hedge.common.errors import BadInput
from hedge.common.loading import load
from hedge.common.model import BUNDLED, LanguageModel
from hedge.edge_client.cli.options import add_models, add_system, add_warp
from hedge.edge_client.cli.settings import check_connection, choose_seed, sampling_of
from hedge.evaluation.bench_rows import make_rows, show_rows
from hedge.evaluation.bench_run import ASSISTED, COLOCATED, MEASURED, Bench, Cell
from hedge.evaluation.link import parse_outages
from hedge.evaluation.machine import describe_machine
from hedge.evaluation.processes import run_program
from hedge.evaluation.profile import Profile, list_profiles, read_profile
from hedge.evaluation.quality import judge
from hedge.evaluation.record import Journal, lock_folder
from hedge.evaluation.systems import parse_system
from hedge.evaluation.tasks import add_tasks, read_tasks

GATE = "threshold-rule=quantile,skip-rate=0.748"
SYSTEMS_COMPARED = (
    "slm",
    "llm",
    COLOCATED,
    ASSISTED,
    "hlm",
    f"rand-hlm:verify-rate={1 - 0.748:g}",
    f"u-hlm:{GATE}",
    f"cu-hlm:{GATE}",
    f"cu-hlm:verification=split,{GATE}",
    f"hedge:{GATE}",
    "hedge",
)
EXAMPLES = """  hedge bench --out runs/bench --rates 1e5 2e6 --round-trips 0.05 0.3 --profiles phone
  hedge bench --out runs/mine --slm ./small --llm ./large --rates 5e6 --round-trips 0.04
  hedge bench --out runs/real --cloud cloud.example.org:7411 --tls-ca ca.pem"""


def command(arguments: Sequence[str]) -> None:
    args = parse(_parser(), arguments)
    args.threads = args.threads or 1
    options = model_options(args)
    cells, profiles = check(args)
    asked = read_tasks(args.prompts, args.questions, args.question_seed)
    with lock_folder(args.out):
        slm = load(args.slm, "slm", options)
        llm = load(args.llm, "llm", options)
        journal = Journal(args.out / "bench.jsonl", header(args, slm, llm), resume=args.resume)
        for profile in profiles:
            with _cloud(args, profile) as address:
                asyncio.run(Bench(args, slm, llm, profile, journal).run(address, cells, asked))
    rows = make_rows(
        journal.entries, lambda answers: judge(slm, llm, answers, sampling_of(args).warp)[0]
    )
    if args.json:
        sys.stdout.write("".join(json.dumps(row) + "\n" for row in rows))
    else:
        show_rows(rows)


def _parser() -> Any:
    parser = command_parser(
        "hedge bench",
        "Systems side by side over real gRPC and an emulated, or a real, link.",
        EXAMPLES,
    )
    add_models(parser)
    parser.set_defaults(cloud=None)
    parser.add_argument(
        "--llm", default=BUNDLED, help="the cloud's model, served for the bench and loaded to judge"
    )
    add_system(parser)
    add_warp(parser)
    group = parser.add_argument_group("what is compared")
    group.add_argument(
        "--systems",
        nargs="+",
        default=list(SYSTEMS_COMPARED),
        metavar="NAME[:OPTION=VALUE,...]",
        help=f"also `{COLOCATED}`: both models in the cloud, our rule; `{ASSISTED}`: the same by "
        "transformers, computed",
    )
    add_tasks(group, 12)
    group.add_argument(
        "--seconds",
        type=float,
        default=8.0,
        help="an answer is cut off then, and marked (default 8)",
    )
    group.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="bench.jsonl, every answer"
    )
    group.add_argument("--resume", action="store_true", help="go on with what the folder holds")
    group.add_argument("--json", action="store_true", help="rows on stdout instead of tables")
    group = parser.add_argument_group("where (every combination; not with --cloud)")
    group.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[1e5, 5e5, 2e6, 2e7],
        metavar="BIT/S",
        help="uplink; 0: no limit",
    )
    group.add_argument(
        "--round-trips", type=float, nargs="+", default=[0.005, 0.02, 0.05, 0.1, 0.3], metavar="S"
    )
    group.add_argument(
        "--outages", nargs="+", default=["none"], metavar="PERIOD:LENGTH", help="seconds; `none`"
    )
    group.add_argument(
        "--profiles",
        nargs="+",
        default=[MEASURED],
        metavar="NAME|FILE",
        help=f"`{MEASURED}`: this machine; {', '.join(list_profiles())} or TOML: emulated",
    )
    return parser


def check(args: argparse.Namespace) -> tuple[list[Cell], list[Profile | None]]:
    """The grid. BadInput for what is no bench, before any model is loaded."""
    _check_links(args)
    for spec in args.systems:
        if spec not in (COLOCATED, ASSISTED):
            parse_system(spec, args)
    if args.resume and args.seed is None:
        raise BadInput("--resume goes on with a run of one seed: give its --seed, which it printed")
    choose_seed(args)
    sampling_of(args)
    if args.cloud:
        check_connection(args)
        if args.profiles != [MEASURED] or {COLOCATED, ASSISTED} & set(args.systems):
            raise BadInput(
                f"--cloud is as fast as it is: no --profiles, and not the systems {COLOCATED} and "
                f"{ASSISTED}"
            )
        return [Cell(0.0, 0.0, "none")], [None]
    profiles = [None if name == MEASURED else read_profile(name) for name in args.profiles]
    return [Cell(*cell) for cell in _grid(args)], profiles


def _check_links(args: argparse.Namespace) -> None:
    for name in ("rates", "round_trips"):
        for value in getattr(args, name):
            if not 0 <= value < float("inf"):
                raise BadInput(f"{name.replace('_', '-')} {value:g} is not a number of at least 0")
    if not 0 < args.seconds < float("inf"):
        raise BadInput(f"seconds {args.seconds:g} is not a number above 0")
    for word in args.outages:
        if word != "none":
            ((period, end),) = parse_outages([word])
            if not 0 < end - period < period:
                raise BadInput(
                    f"outages {word!r} is not PERIOD:LENGTH with a length below the period"
                )


def _grid(args: argparse.Namespace) -> Iterator[tuple[float, float, str]]:
    for outage in args.outages:
        for rate in args.rates:
            for round_trip in args.round_trips:
                yield rate, round_trip, outage


def header(args: argparse.Namespace, slm: LanguageModel, llm: LanguageModel) -> dict[str, Any]:
    """What the entries of a journal have in common, machine included."""
    return {
        "kind": "bench",
        "slm": slm.fingerprint,
        "llm": llm.fingerprint,
        "questions": args.questions,
        "question_seed": args.question_seed,
        "prompts": str(args.prompts or ""),
        "seed": args.seed,
        "seconds": args.seconds,
        "warp": asdict(sampling_of(args).warp),
        "max_new_tokens": args.max_new_tokens,
        "machine": describe_machine(args.threads),
    }


@contextmanager
def _cloud(args: argparse.Namespace, profile: Profile | None) -> Iterator[str]:
    if args.cloud:
        yield args.cloud
        return
    # The systems are asked the same questions: none is to find the prompts of another.
    options = ["--llm", args.llm, "--no-prefix-sharing", *runtime_arguments(model_options(args))]
    if profile:
        options += ["--emulate", f"{profile.llm_s}:{profile.llm_position_s}"]
    with run_program(
        "hedge-cloud", "serve", "--insecure", "--listen", "127.0.0.1:0", *options
    ) as address:
        yield address
