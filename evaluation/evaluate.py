"""hedge evaluate: exact match, share skipped and bytes, system by system, on the held-out questions."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from common.command import command_parser, parse
from common.errors import BadInput
from common.model import CausalLM
from edge_client.connect import connected, load_slm
from edge_client.generate import answer
from edge_client.options import add_generation, check_connection, settings_from, warp_of
from edge_client.prompts import from_text
from edge_client.session import Session
from edge_client.settings import SYSTEMS
from evaluation.questions import Question, held_out_set, is_correct

EXAMPLES = """  hedge evaluate --insecure --systems slm,llm,cu-hlm --questions 200 --temperature 0
  hedge evaluate --insecure --systems cu-hlm --measure entropy --threshold-rule max-risk --json"""


def command(arguments: Sequence[str]) -> None:
    parser = command_parser(
        "hedge evaluate", "Exact match per family on generated questions no model was trained on.", EXAMPLES
    )
    parser.add_argument("--systems", default="slm,llm,cu-hlm", help="comma-separated (default slm,llm,cu-hlm)")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--question-seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object per system on stdout")
    parser.add_argument("--answers", type=Path, metavar="FILE", help="also write every answer as JSONL")
    add_generation(parser)
    args = parse(parser, arguments)
    systems = args.systems.split(",")
    for system in systems:
        if system not in SYSTEMS:
            raise BadInput(f"no system {system!r}; there are {', '.join(SYSTEMS)}")
    if args.questions < 1:
        raise BadInput(f"questions {args.questions} is not at least 1")
    warp_of(args)
    check_connection(args)
    slm = load_slm(args)
    asyncio.run(_evaluate(args, slm, systems, held_out_set(args.questions, args.question_seed)))


async def _evaluate(args: argparse.Namespace, slm: CausalLM, systems: list[str], questions: list[Question]) -> None:
    rows = []
    written = args.answers.open("w", encoding="utf-8") if args.answers else None
    try:
        async with connected(args, slm, cloud=True) as (link, pair):
            for system in systems:
                settings = settings_from(args, pair, system)
                done: list[tuple[Question, Session]] = []
                for question in tqdm(questions, desc=system, unit="question", disable=None):
                    session = await answer(slm, from_text(question.text), settings, link)
                    done.append((question, session))
                    if written:
                        entry = {"system": system, "question": question.text, "answer": question.answer, "text": session.text}
                        written.write(json.dumps(entry | {"correct": is_correct(question, session.text)}) + "\n")
                rows.append(summarise(system, done))
                if args.json:
                    sys.stdout.write(json.dumps(rows[-1]) + "\n")
                    sys.stdout.flush()
    finally:
        if written:
            written.close()
    if not args.json:
        _print(rows)


def summarise(system: str, done: Sequence[tuple[Question, Session]]) -> dict[str, Any]:
    """Exact match per family and overall; shares and bytes are per emitted token."""
    right: dict[str, list[bool]] = {}
    for question, session in done:
        right.setdefault(question.family, []).append(is_correct(question, session.text))
    statistics = [session.statistics for _, session in done]
    tokens = sum(s.tokens for s in statistics)

    def per_token(name: str) -> float | None:
        values = [getattr(s, name) for s in statistics]
        return None if None in values else round(sum(values) / tokens, 3)

    audited = sum(s.audited for s in statistics)
    hits = [hit for family in right.values() for hit in family]
    return {
        "system": system,
        "questions": len(done),
        "exact_match": round(sum(hits) / len(hits), 4),
        "families": {family: round(sum(found) / len(found), 4) for family, found in sorted(right.items())},
        "tokens": tokens,
        "share_skipped": round(sum(s.skipped for s in statistics) / tokens, 4),
        "realised_risk": round(sum(s.risk for s in statistics) / audited, 5) if audited else None,
        "uplink_payload_bytes_per_token": per_token("uplink_payload_bytes"),
        "uplink_socket_bytes_per_token": per_token("uplink_socket_bytes"),
        "downlink_payload_bytes_per_token": per_token("downlink_payload_bytes"),
        "downlink_socket_bytes_per_token": per_token("downlink_socket_bytes"),
        "paper_bytes_per_token": round(sum(s.uplink_paper_bits for s in statistics) / 8 / tokens, 3),
        "tokens_per_second": round(tokens / sum(s.wall_s for s in statistics), 1),
    }


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"{rows[0]['questions']} held-out questions")
    table.add_column("")
    for row in rows:
        table.add_column(row["system"], justify="right")
    for family in rows[0]["families"]:
        table.add_row(family, *(f"{row['families'][family]:.0%}" for row in rows))
    for name in ("exact_match", "share_skipped"):
        table.add_row(name.replace("_", " "), *(f"{row[name]:.1%}" for row in rows), style="bold")
    for name in rows[0]:
        if name.endswith("_per_token") or name in ("realised_risk", "tokens_per_second"):
            table.add_row(name.replace("_", " "), *("-" if row[name] is None else f"{row[name]:g}" for row in rows))
    Console(highlight=False).print(table)
