"""hedge evaluate: how good and how dear each system's answers are, over a live cloud."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from tqdm import tqdm

from hedge.common.codec import paper_bits
from hedge.common.command import command_parser, model_options, parse
from hedge.common.errors import BadInput, Incompatible
from hedge.common.files import write_whole
from hedge.common.model import BUNDLED, LanguageModel, load
from hedge.edge_client.cli.connect import connected, load_slm
from hedge.edge_client.cli.options import add_generation, check_connection, resolved, sampling_of
from hedge.edge_client.engine.gates.recalibration import recalibration_of
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import SYSTEMS, GenerationConfig
from hedge.evaluation.quality import chrf, chrf_metric, judge, relative_accuracy
from hedge.evaluation.record import AnswerRecord, Journal, answers_of, from_session
from hedge.evaluation.tables import wide
from hedge.evaluation.tasks import Task, add_judged, add_tasks, judged_tasks

NO_JUDGE = "none"
EXAMPLES = """  hedge evaluate --insecure --systems slm,llm,cu-hlm,hedge --questions 200 --temperature 0
  hedge evaluate --insecure --systems llm,cu-hlm --measure entropy --threshold-rule max-risk --json
  hedge evaluate --insecure --task gsm8k --questions 100 --llm ./my-llm --answers answers/ --resume
  hedge evaluate --insecure --prompts mine.jsonl --judge last-number --llm ./my-llm --answers answers/ --resume"""


def command(arguments: Sequence[str]) -> None:
    parser = command_parser(
        "hedge evaluate",
        "Exact match, fidelity, perplexity, share skipped and bytes, system by system.",
        EXAMPLES,
    )
    parser.add_argument(
        "--systems",
        default="slm,llm,cu-hlm,hedge",
        help="comma-separated (default slm,llm,cu-hlm,hedge)",
    )
    add_tasks(parser, 200)
    add_judged(parser)
    parser.add_argument(
        "--llm",
        default=BUNDLED,
        help="the cloud's model, loaded here to judge: fidelity and perplexity (`none`: without)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per system on stdout")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON objects there")
    parser.add_argument(
        "--answers", type=Path, metavar="FOLDER", help="also write every answer as JSONL"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with what the folder of --answers holds"
    )
    add_generation(parser, temperature=1.0)
    args = parse(parser, arguments)
    systems = args.systems.split(",")
    for system in systems:
        if system not in SYSTEMS:
            raise BadInput(f"no system {system!r}; there are {', '.join(SYSTEMS)}")
    if args.out and (args.out.is_dir() or not args.out.parent.is_dir()):
        raise BadInput(f"--out {args.out} is not a file in an existing folder")
    if args.resume and not args.answers:
        raise BadInput("--resume needs --answers")
    sampling_of(args)
    check_connection(args)
    asked = judged_tasks(args)
    if args.prompts:
        # Before the models answer, not after.
        chrf_metric()
    slm = load_slm(args)
    llm = None if args.llm == NO_JUDGE else load(args.llm, "llm", model_options(args))
    found = asyncio.run(_evaluate(args, slm, llm, systems, asked))
    rows = [
        summarise(name, found[name], found.get("llm"), slm.vocab_size)
        | _judged(args, slm, llm, found[name])
        for name in systems
    ]
    told = "".join(json.dumps(row) + "\n" for row in rows)
    if args.out:
        write_whole(args.out, told)
    if args.json:
        sys.stdout.write(told)
    else:
        _print(rows)


async def _evaluate(
    args: argparse.Namespace,
    slm: LanguageModel,
    llm: LanguageModel | None,
    systems: list[str],
    asked: list[Task],
) -> dict[str, list[AnswerRecord]]:
    found: dict[str, list[AnswerRecord]] = {}
    async with connected(args, slm, cloud=True) as (link, pair):
        if llm and pair.info and llm.fingerprint != pair.info.model_fingerprint:
            raise Incompatible(
                f"--llm {args.llm} ({llm.fingerprint}) is not the cloud's model ({pair.info.model_fingerprint})"
            )
        for system in systems:
            config = resolved(args, pair, system)
            models = {
                "slm": slm.fingerprint,
                "llm": pair.info.model_fingerprint if pair.info else "",
            }
            journal = _journal(args, system, config, models)
            found[system] = answers_of(journal.path, journal.entries) if journal else []
            done = {answer.task for answer in found[system]}
            recalibrated = recalibration_of(config)
            left = [(index, task) for index, task in enumerate(asked) if index not in done]
            for index, task in tqdm(left, desc=system, unit="answer", disable=None):
                ids = slm.encode_chat(task.prompt.messages)
                session = Session(slm, ids, config, link, recalibrated=recalibrated)
                await session.run()
                found[system].append(from_session(index, task, ids, session))
                if journal:
                    journal.append(found[system][-1].to_json())
    return found


def _journal(
    args: argparse.Namespace, system: str, config: GenerationConfig, models: dict[str, str]
) -> Journal | None:
    if args.answers is None:
        return None
    header = {
        "kind": "answers",
        "run": system,
        "settings": config.to_json(),
        "questions": args.questions,
        "question_seed": args.question_seed,
        "prompts": str(args.prompts or ""),
        "task": str(args.task or ""),
        "judge": args.judge or "",
    } | models
    return Journal(args.answers / f"answers-{system}.jsonl", header, resume=args.resume)


def summarise(
    system: str, run: Sequence[AnswerRecord], llm: Sequence[AnswerRecord] | None, vocab_size: int
) -> dict[str, Any]:
    """Exact match per family and overall, relative to the LLM's; shares and bytes are per emitted
    token.
    """
    right: dict[str, list[bool]] = {}
    for answer in run:
        if answer.correct is not None:
            right.setdefault(answer.family, []).append(answer.correct)
    hits = [hit for family in right.values() for hit in family]
    tokens = sum(len(answer.token_ids) for answer in run)
    audited = sum(answer.audited for answer in run)
    relative = relative_accuracy(run, llm) if llm else None
    score = chrf(run)
    row: dict[str, Any] = {
        "system": system,
        "questions": len(run),
        "exact_match": round(sum(hits) / len(hits), 4) if hits else None,
        "families": {
            family: round(sum(found) / len(found), 4) for family, found in sorted(right.items())
        },
        "relative_accuracy": [round(value, 4) for value in relative] if relative else None,
        "as_the_llms": _as_the_llms(run, llm) if llm else None,
        "near_tie_answers": sum(answer.near_ties > 0 for answer in run),
        "chrf": None if score is None else round(score, 2),
        "tokens": tokens,
        "share_skipped": round(sum(answer.skipped for answer in run) / tokens, 4),
        "realised_risk": round(sum(answer.risk for answer in run) / audited, 5)
        if audited
        else None,
    }
    for index, way in enumerate(("uplink", "downlink")):
        sockets = [answer.socket_bytes for answer in run]
        row[f"{way}_payload_bytes_per_token"] = round(
            sum(answer.payload_bytes[index] for answer in run) / tokens, 3
        )
        whole = (
            None
            if None in sockets
            else round(sum(pair[index] for pair in sockets if pair) / tokens, 3)
        )
        row[f"{way}_socket_bytes_per_token"] = whole
    paper = sum(paper_bits(vocab_size, round_.entries) for answer in run for round_ in answer.log)
    row["paper_bytes_per_token"] = round(paper / 8 / tokens, 3)
    row["tokens_per_second"] = round(tokens / sum(answer.wall_s for answer in run), 1)
    return row


def _as_the_llms(run: Sequence[AnswerRecord], llm: Sequence[AnswerRecord]) -> float | None:
    """The share of answers that are the LLM's own, token for token, of those that both have."""
    theirs = {answer.task: answer.token_ids for answer in llm}
    both = [answer.token_ids == theirs[answer.task] for answer in run if answer.task in theirs]
    return round(sum(both) / len(both), 4) if both else None


def _judged(
    args: argparse.Namespace,
    slm: LanguageModel,
    llm: LanguageModel | None,
    run: Sequence[AnswerRecord],
) -> dict[str, Any]:
    if llm is None:
        return {"fidelity": None, "llm_perplexity": None}
    fidelity, perplexity = judge(slm, llm, run, sampling_of(args).warp)
    return {"fidelity": round(fidelity, 5), "llm_perplexity": round(perplexity, 4)}


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"{rows[0]['questions']} prompts")
    table.add_column("")
    for row in rows:
        table.add_column(row["system"], justify="right")
    for family in rows[0]["families"]:
        table.add_row(family, *(f"{row['families'][family]:.0%}" for row in rows))
    for name in ("exact_match", "as_the_llms", "share_skipped"):
        shown = "the LLM's token for token" if name == "as_the_llms" else name.replace("_", " ")
        table.add_row(
            shown, *("-" if row[name] is None else f"{row[name]:.1%}" for row in rows), style="bold"
        )
    table.add_row("answers with near ties", *(str(row["near_tie_answers"]) for row in rows))
    spans = [row["relative_accuracy"] for row in rows]
    table.add_row(
        "accuracy over the LLM's, 95 %",
        *("-" if s is None else f"{s[0]:.1%} ({s[1]:.1%}..{s[2]:.1%})" for s in spans),
    )
    for name in rows[0]:
        if name.endswith("_per_token") or name in (
            "realised_risk",
            "fidelity",
            "llm_perplexity",
            "chrf",
            "tokens_per_second",
        ):
            table.add_row(
                name.replace("_", " "),
                *("-" if row[name] is None else f"{row[name]:g}" for row in rows),
            )
    wide().print(table)
