"""hedge simulate links: `hedge` on recorded answers of a pair over links of every length, on a
virtual clock.

The answers are the LLM's own, generated once; the SLM reads them, and says of every token whether
its draft would be the same, and by how much its draw was decided. Then the device's loop and the
cloud's verifier run as they are, in milliseconds a cell.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table
from tqdm import tqdm

from hedge.common.command import MODEL_HELP, command_parser, model_options, parse
from hedge.common.errors import BadInput
from hedge.common.model import BUNDLED, LanguageModel, load
from hedge.edge_client.cli.options import add_slm, add_warp, choose_seed, sampling_of
from hedge.edge_client.config import PREFERENCES, GateConfig
from hedge.edge_client.systems import SYSTEMS, GenerationConfig
from hedge.evaluation.break_even import traced
from hedge.evaluation.local import own_answer
from hedge.evaluation.profile import named, read_profile
from hedge.evaluation.record import Journal, only_writer, read_journal
from hedge.evaluation.replay import Counts, Trace, replayed
from hedge.evaluation.tables import wide
from hedge.evaluation.tasks import add_tasks, tasks

EXAMPLES = """  hedge simulate links --out runs/links
  hedge simulate links --slm ./small.gguf --llm ./large --prompts mine.jsonl --temperature 0.7 --out runs/mine
  hedge simulate links --traces docs/results/traces.jsonl --profiles phone laptop tablet --round-trips 0.02 0.2"""


def command(arguments: Sequence[str]) -> None:
    args = parse(_parser(), arguments)
    profiles = [read_profile(name) for name in args.profiles]
    for seconds in args.round_trips:
        if not 0 <= seconds < float("inf"):
            raise BadInput(f"round-trips {seconds:g} is not a number of at least 0")
    if (args.traces is None) == (args.out is None):
        raise BadInput("--out FOLDER records traces, --traces FILE has them: give one of the two")
    if args.resume and args.seed is None:
        raise BadInput("--resume goes on with a run of one seed: give its --seed, which it printed")
    entries = read_journal(args.traces, "traces")[1] if args.traces else recorded(args)
    if not entries:
        raise BadInput(f"{args.traces or args.out} holds no traces")
    found = []
    for temperature in sorted({float(entry["temperature"]) for entry in entries}):
        traces = traces_of(entries, temperature)
        for profile in profiles:
            for round_trip in args.round_trips:
                for prefer in args.prefer:
                    where = {
                        "temperature": temperature,
                        "profile": profile.name,
                        "round_trip": round_trip,
                        "prefer": prefer,
                    }
                    found.append(
                        where | row(replayed(traces, preferring(prefer), profile, round_trip))
                    )
    if args.json:
        sys.stdout.write("".join(json.dumps(entry) + "\n" for entry in found))
    else:
        show(found)


def _parser() -> Any:
    parser = command_parser(
        "hedge simulate links", "hedge over links of every length, on a virtual clock.", EXAMPLES
    )
    add_slm(parser)
    parser.add_argument("--llm", default=BUNDLED, help=MODEL_HELP)
    add_warp(parser)
    group = parser.add_argument_group("answers")
    add_tasks(group, 20)
    group.add_argument("--out", type=Path, metavar="FOLDER", help="traces.jsonl is made there")
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on with what the folder holds, at this or another temperature",
    )
    group.add_argument(
        "--traces",
        type=Path,
        metavar="FILE",
        help="traces that were made before; no model is loaded",
    )
    group = parser.add_argument_group("where")
    names = f"{', '.join(named())}, or TOML"
    group.add_argument(
        "--profiles", nargs="+", default=["phone", "laptop"], metavar="NAME|FILE", help=names
    )
    group.add_argument(
        "--round-trips", type=float, nargs="+", default=[0.005, 0.05, 0.1], metavar="S"
    )
    group.add_argument("--prefer", nargs="+", choices=PREFERENCES, default=list(PREFERENCES))
    group.add_argument("--json", action="store_true", help="rows on stdout instead of a table")
    return parser


def preferring(
    prefer: str, threshold: float | None = None, max_in_flight: int = 8
) -> GenerationConfig:
    """System hedge, in these terms."""
    hedge = SYSTEMS["hedge"]
    link = replace(hedge.link, max_in_flight=max_in_flight)
    return replace(
        hedge, gate=GateConfig("survival", threshold=threshold, prefer=prefer), link=link
    )


def recorded(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The traces of a folder, those that are missing made."""
    choose_seed(args)
    sampling = sampling_of(args)
    asked = tasks(args.prompts, args.questions, args.question_seed)
    with only_writer(args.out):
        slm = load(args.slm, "slm", model_options(args))
        llm = load(args.llm, "llm", model_options(args))
        journal = Journal(args.out / "traces.jsonl", _header(args, slm, llm), resume=args.resume)
        done = {(entry["temperature"], entry["question"]) for entry in journal.entries}
        for number, task in enumerate(tqdm(asked, desc="recording", unit="answer", disable=None)):
            if (sampling.temperature, number) not in done:
                prompt = slm.encode_chat(task.prompt.messages)
                answer = asyncio.run(own_answer(slm, llm, prompt, sampling))
                where = {"temperature": sampling.temperature, "question": number}
                journal.append(where | traced(slm, prompt, answer, sampling.warp, sampling.seed))
        return journal.entries


def _header(args: argparse.Namespace, slm: LanguageModel, llm: LanguageModel) -> dict[str, Any]:
    """What the traces of a file have in common; their temperatures may differ."""
    named = ("questions", "question_seed", "seed", "top_k", "top_p", "max_new_tokens")
    models = {"slm": slm.fingerprint, "llm": llm.fingerprint, "prompts": str(args.prompts or "")}
    return {"kind": "traces"} | models | {name: getattr(args, name) for name in named}


def traces_of(entries: Sequence[dict[str, Any]], temperature: float) -> list[Trace]:
    """Those of one temperature, question by question."""
    mine = sorted(
        (entry for entry in entries if entry["temperature"] == temperature),
        key=lambda entry: int(entry["question"]),
    )
    return [
        Trace(tuple(map(bool, entry["accepted"])), tuple(entry["margin"]))
        for entry in mine
        if entry["accepted"]
    ]


def row(counts: Counts) -> dict[str, float]:
    passes, steps, positions = counts.per_token()
    speeds = {"tokens_per_s": counts.tokens / counts.seconds, "over_llm": counts.speed}
    return speeds | {"passes": passes, "steps": steps, "positions": positions}


def show(rows: Sequence[dict[str, Any]]) -> None:
    names = (
        "temperature",
        "profile",
        "round trip",
        "prefer",
        "tokens/s",
        "over llm",
        "passes",
        "SLM steps",
        "LLM positions",
    )
    table = Table(title="a token each; against the LLM streaming")
    for name in names:
        table.add_column(name, justify="left" if name in ("profile", "prefer") else "right")
    for found in rows:
        where = (
            f"{found['temperature']:g}",
            found["profile"],
            f"{1e3 * found['round_trip']:g} ms",
            found["prefer"],
        )
        numbers = (found[name] for name in ("over_llm", "passes", "steps", "positions"))
        table.add_row(
            *where, f"{found['tokens_per_s']:.1f}", *(f"{number:.3f}" for number in numbers)
        )
    wide().print(table)
