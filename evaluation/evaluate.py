"""hedge evaluate: how good and how dear each system's answers are, over a live cloud."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hedge.common.codec import paper_bits
from hedge.common.command import command_parser, model_options, parse
from hedge.common.errors import BadInput, Incompatible
from hedge.common.files import write_whole
from hedge.common.loading import load
from hedge.common.model import BUNDLED, LanguageModel
from hedge.edge_client.cli.connect import connected, load_slm
from hedge.edge_client.cli.options import add_generation
from hedge.edge_client.cli.settings import check_connection, resolved, sampling_of
from hedge.edge_client.engine.gates.recalibration import recalibration_of
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import SYSTEMS, GenerationConfig
from hedge.evaluation.quality import chrf, chrf_metric, judge, relative_accuracy
from hedge.evaluation.record import AnswerRecord, Journal, parse_answers, record_answer
from hedge.evaluation.tables import (
    Aggregate,
    Column,
    aggregate,
    first,
    group,
    mean,
    ratio,
    show,
    tabulate,
    total,
    transpose,
)
from hedge.evaluation.tasks import Task, add_judged, add_tasks, read_judged_tasks

NO_JUDGE = "none"
EXAMPLES = """  hedge evaluate --insecure --systems slm,llm,hedge --questions 200 --temperature 0
  hedge evaluate --insecure --systems llm,cu-hlm --measure entropy --threshold-rule max-risk --json
  hedge evaluate --insecure --task gsm8k --questions 100 --llm ./my-llm --answers answers/ --resume
  hedge evaluate --insecure --prompts mine.jsonl --judge last-number --answers answers/ --resume"""


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
    asked = read_judged_tasks(args)
    if args.prompts:
        # Before the models answer, not after.
        chrf_metric()
    slm = load_slm(args)
    llm = None if args.llm == NO_JUDGE else load(args.llm, "llm", model_options(args))
    found = asyncio.run(_evaluate(args, slm, llm, systems, asked))
    rows = [
        summarise(name, found[name], found.get("llm"), slm.vocab_size)
        | _judge(args, slm, llm, found[name])
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
                f"--llm {args.llm} ({llm.fingerprint}) is not the cloud's model "
                f"({pair.info.model_fingerprint})"
            )
        for system in systems:
            config = resolved(args, pair, system)
            models = {
                "slm": slm.fingerprint,
                "llm": pair.info.model_fingerprint if pair.info else "",
            }
            journal = _journal(args, system, config, models)
            found[system] = parse_answers(journal.path, journal.entries) if journal else []
            done = {answer.task for answer in found[system]}
            recalibrated = recalibration_of(config)
            left = [(index, task) for index, task in enumerate(asked) if index not in done]
            for index, task in tqdm(left, desc=system, unit="answer", disable=None):
                ids = slm.encode_chat(task.prompt.messages)
                session = Session(slm, ids, config, link, recalibrated=recalibrated)
                await session.run()
                found[system].append(record_answer(index, task, ids, session))
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
    """Exact match overall and per family, and relative to the LLM's; what is per emitted token."""
    relative = relative_accuracy(run, llm) if llm else None
    measures: dict[str, Aggregate] = {
        "questions": len,
        "exact_match": _round(mean(attrgetter("correct")), 4),
        "families": _match_families,
        "relative_accuracy": lambda _: relative and [round(value, 4) for value in relative],
        "as_the_llms": _round(lambda run: share_same(run, llm) if llm else None, 4),
        "near_tie_answers": total(lambda answer: answer.near_ties > 0),
        "chrf": _round(chrf, 2),
        "tokens": total(_tokens),
        "share_skipped": _round(ratio(attrgetter("skipped"), _tokens), 4),
        "realised_risk": _round(ratio(attrgetter("risk"), attrgetter("audited")), 5),
    }
    for index, way in enumerate(("uplink", "downlink")):
        payload, sockets = (
            _round(_sum_bytes(name, index), 3) for name in ("payload_bytes", "socket_bytes")
        )
        measures[f"{way}_payload_bytes_per_token"] = payload
        measures[f"{way}_socket_bytes_per_token"] = sockets
    measures["paper_bytes_per_token"] = _round(
        ratio(
            lambda answer: sum(paper_bits(vocab_size, one.entries) for one in answer.log) / 8,
            _tokens,
        ),
        3,
    )
    measures["tokens_per_second"] = _round(ratio(_tokens, attrgetter("wall_s")), 1)
    return {"system": system} | aggregate(run, measures)


def _tokens(answer: AnswerRecord) -> int:
    return len(answer.token_ids)


def _round(measure: Aggregate, digits: int) -> Aggregate:
    def rounded(run: Sequence[AnswerRecord]) -> float | None:
        value = measure(run)
        return None if value is None else round(value, digits)

    return rounded


def _match_families(run: Sequence[AnswerRecord]) -> dict[str, float]:
    judged = [answer for answer in run if answer.correct is not None]
    families = sorted(group(judged, (attrgetter("family"),)).items())
    return {family: _round(mean(attrgetter("correct")), 4)(mine) for (family,), mine in families}


def _sum_bytes(name: str, index: int) -> Aggregate:
    """Bytes a token; None where an answer does not know its own."""

    def measure(run: Sequence[AnswerRecord]) -> float | None:
        pairs = [getattr(answer, name) for answer in run]
        return None if None in pairs else sum(pair[index] for pair in pairs) / total(_tokens)(run)

    return measure


def share_same(run: Sequence[AnswerRecord], llm: Sequence[AnswerRecord]) -> Any:
    """The share of answers that are the LLM's own, token for token, of those that both have."""
    theirs = {answer.task: answer.token_ids for answer in llm}
    both = [answer for answer in run if answer.task in theirs]
    return mean(lambda answer: answer.token_ids == theirs[answer.task])(both)


def _judge(
    args: argparse.Namespace,
    slm: LanguageModel,
    llm: LanguageModel | None,
    run: Sequence[AnswerRecord],
) -> dict[str, Any]:
    if llm is None:
        return {"fidelity": None, "llm_perplexity": None}
    fidelity, perplexity = judge(slm, llm, run, sampling_of(args).warp)
    return {"fidelity": round(fidelity, 5), "llm_perplexity": round(perplexity, 4)}


def _format_span(span: Sequence[float]) -> str:
    return f"{span[0]:.1%} ({span[1]:.1%}..{span[2]:.1%})"


PLAIN = ("realised_risk", "fidelity", "llm_perplexity", "chrf", "tokens_per_second")
SHARES = {
    "exact_match": "exact match",
    "as_the_llms": "the LLM's token for token",
    "share_skipped": "share skipped",
}


def _match_family(name: str) -> Aggregate:
    return first(lambda row: row["families"][name])


def _print(rows: list[dict[str, Any]]) -> None:
    families = [Column(name, _match_family(name), ".0%") for name in rows[0]["families"]]
    numbers = [
        Column(name.replace("_", " "), first(name), "g")
        for name in rows[0]
        if name.endswith("_per_token") or name in PLAIN
    ]
    columns = [
        Column("", first("system")),
        *families,
        *(Column(title, first(name), ".1%") for name, title in SHARES.items()),
        Column("answers with near ties", first("near_tie_answers")),
        Column("accuracy over the LLM's, 95 %", first("relative_accuracy"), _format_span),
        *numbers,
    ]
    table = transpose(tabulate(rows, (id,), columns))
    show(table, title=f"{rows[0]['questions']} prompts", bold=SHARES.values())
