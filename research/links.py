"""hedge simulate links: `hedge` on recorded answers over links of every length, on a virtual clock.

The answers are the LLM's own, generated once. The SLM reads them: of every token, whether its draft
would be the same, and by how much its draw was decided. Then the device's loop and the cloud's
verifier run as they are, in milliseconds a cell.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from hedge.common.command import MODEL_HELP, command_parser, model_options, parse
from hedge.common.errors import BadInput
from hedge.common.loading import load
from hedge.common.model import BUNDLED, LanguageModel
from hedge.edge_client.cli.options import add_slm, add_warp
from hedge.edge_client.cli.settings import choose_seed, sampling_of
from hedge.edge_client.config import PREFERENCES, GateConfig
from hedge.edge_client.systems import SYSTEMS, GenerationConfig
from hedge.evaluation.break_even import trace_answer
from hedge.evaluation.local import stream_answer
from hedge.evaluation.profile import Profile, list_profiles, read_profile
from hedge.evaluation.record import Journal, lock_folder, read_journal
from hedge.evaluation.replay import Trace, replay_traces
from hedge.evaluation.tables import Column, first, show, tabulate
from hedge.evaluation.tasks import Task, add_tasks, read_tasks
from research.harness import complete

EXAMPLES = """  hedge simulate links --out runs/links
  hedge simulate links --slm ./small.gguf --llm ./large --prompts mine.jsonl --temperature 0.7 \\
      --out runs/mine
  hedge simulate links --traces docs/results/traces.jsonl --profiles phone laptop tablet \\
      --round-trips 0.02 0.2"""


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
    entries = read_journal(args.traces, "traces")[1] if args.traces else record_traces(args)
    if not entries:
        raise BadInput(f"{args.traces or args.out} holds no traces")
    rows = replay_everywhere(entries, profiles, args.round_trips, args.prefer)
    if args.json:
        sys.stdout.write("".join(json.dumps(row) + "\n" for row in rows))
    else:
        show_rows(rows)


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
    names = f"{', '.join(list_profiles())}, or TOML"
    group.add_argument(
        "--profiles", nargs="+", default=["phone", "laptop"], metavar="NAME|FILE", help=names
    )
    group.add_argument(
        "--round-trips", type=float, nargs="+", default=[0.005, 0.05, 0.1], metavar="S"
    )
    group.add_argument("--prefer", nargs="+", choices=PREFERENCES, default=list(PREFERENCES))
    group.add_argument("--json", action="store_true", help="rows on stdout instead of a table")
    return parser


def configure_hedge(
    prefer: str, threshold: float | None = None, max_in_flight: int = 8
) -> GenerationConfig:
    hedge = SYSTEMS["hedge"]
    link = replace(hedge.link, max_in_flight=max_in_flight)
    return replace(
        hedge, gate=GateConfig("survival", threshold=threshold, prefer=prefer), link=link
    )


def record_traces(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The traces of a folder, those that are missing made."""
    choose_seed(args)
    sampling = sampling_of(args)
    asked = read_tasks(args.prompts, args.questions, args.question_seed)

    def record(left: Sequence[tuple[int, Task]]) -> Iterator[dict[str, Any]]:
        for number, task in left:
            prompt = slm.encode_chat(task.prompt.messages)
            answer = asyncio.run(stream_answer(slm, llm, prompt, sampling))
            where = {"temperature": sampling.warp.temperature, "question": number}
            yield where | trace_answer(slm, prompt, answer, sampling.warp, sampling.seed)

    with lock_folder(args.out):
        slm = load(args.slm, "slm", model_options(args))
        llm = load(args.llm, "llm", model_options(args))
        journal = Journal(args.out / "traces.jsonl", _header(args, slm, llm), resume=args.resume)
        wanted = {(sampling.warp.temperature, n): (n, task) for n, task in enumerate(asked)}
        complete(journal, ("temperature", "question"), wanted, record, "recording")
        return journal.entries


def _header(args: argparse.Namespace, slm: LanguageModel, llm: LanguageModel) -> dict[str, Any]:
    """What the traces of a file share; their temperatures may differ."""
    shared = ("questions", "question_seed", "seed", "top_k", "top_p", "max_new_tokens")
    models = {"slm": slm.fingerprint, "llm": llm.fingerprint, "prompts": str(args.prompts or "")}
    return {"kind": "traces"} | models | {name: getattr(args, name) for name in shared}


def select_traces(entries: Sequence[dict[str, Any]], temperature: float) -> list[Trace]:
    """Those of one temperature, question by question."""
    mine = [entry for entry in entries if entry["temperature"] == temperature and entry["accepted"]]
    mine.sort(key=lambda entry: int(entry["question"]))
    return [Trace(tuple(map(bool, entry["accepted"])), tuple(entry["margin"])) for entry in mine]


def replay_everywhere(
    entries: Sequence[dict[str, Any]],
    profiles: Sequence[Profile],
    round_trips: Sequence[float],
    preferences: Sequence[str],
) -> list[dict[str, Any]]:
    rows = []
    temperatures = sorted({float(entry["temperature"]) for entry in entries})
    for temperature, profile, round_trip, prefer in product(
        temperatures, profiles, round_trips, preferences
    ):
        traces = select_traces(entries, temperature)
        counts = replay_traces(traces, configure_hedge(prefer), profile, round_trip)
        passes, steps, positions = counts.per_token()
        row = {
            "temperature": temperature,
            "profile": profile.name,
            "round_trip": round_trip,
            "prefer": prefer,
            "tokens_per_s": counts.tokens / counts.seconds,
            "over_llm": counts.speed,
            "passes": passes,
            "steps": steps,
            "positions": positions,
        }
        rows.append(row)
    return rows


def show_rows(rows: Sequence[dict[str, Any]]) -> None:
    columns = [
        Column("temperature", first("temperature"), "g"),
        Column("profile", first("profile")),
        Column("round trip", first("round_trip"), lambda seconds: f"{1e3 * seconds:g} ms"),
        Column("prefer", first("prefer")),
        Column("tokens/s", first("tokens_per_s"), ".1f"),
        Column("over llm", first("over_llm"), ".3f"),
        Column("passes", first("passes"), ".3f"),
        Column("SLM steps", first("steps"), ".3f"),
        Column("LLM positions", first("positions"), ".3f"),
    ]
    cells = tabulate(rows, (id,), columns)
    show(cells, "a token each; against the LLM streaming", left=(1, 3))
