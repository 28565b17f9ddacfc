"""hedge generate: answers prompts, one or a file of them."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hedge.common.command import command_parser, parse
from hedge.common.errors import BadInput, HedgeError
from hedge.common.model import LanguageModel
from hedge.edge_client.cli.connect import connected, load_slm
from hedge.edge_client.cli.local_only import stay_local
from hedge.edge_client.cli.options import (
    add_generation,
    add_logits,
    add_memory,
    add_receipts,
    add_system_prompt,
    check_connection,
    check_used,
    needs_cloud,
    resolved,
    sampling_of,
)
from hedge.edge_client.cli.prompts import Prompt, from_text, read_prompts
from hedge.edge_client.cli.render import counts_line, print_piece, statistics_line
from hedge.edge_client.engine.gates.recalibration import recalibration_of
from hedge.edge_client.engine.session import Session
from hedge.edge_client.memory import remembered
from hedge.edge_client.receipt import Prices, ReceiptLog, receipt_of
from hedge.edge_client.systems import GenerationConfig
from hedge.edge_client.transport.events import Event

EXAMPLES = """  hedge generate --insecure --prompt "What is 47 + 38?"
  hedge generate --insecure --system cu-hlm --prompts questions.jsonl --json > answers.jsonl
  hedge generate --system slm --prompt "Tell me a tale about a fox."     (no cloud)"""


def command(arguments: Sequence[str]) -> None:
    parser = command_parser(
        "hedge generate", "Answers prompts with the device's model and the cloud's.", EXAMPLES
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", metavar="TEXT")
    source.add_argument(
        "--prompts", type=Path, metavar="FILE", help="JSONL: prompt or messages per line"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per prompt on stdout")
    add_memory(parser)
    add_generation(parser)
    add_logits(parser)
    add_receipts(parser)
    add_system_prompt(parser)
    args = parse(parser, arguments)
    stay_local(args)
    check_used(args)
    Prices.of(args.prices)
    prompts = read_prompts(args.prompts) if args.prompts else [from_text(args.prompt)]
    sampling_of(args)
    check_connection(args, needs_cloud(args))
    slm = load_slm(args)
    failed = asyncio.run(_generate(args, slm, prompts))
    if failed:
        raise HedgeError(f"{failed} of {len(prompts)} prompts failed")


async def _generate(args: Any, slm: LanguageModel, prompts: list[Prompt]) -> int:
    before = [{"role": "system", "content": args.system_prompt}] if args.system_prompt else []
    failed = 0
    prices = Prices.of(args.prices)
    log = ReceiptLog(args.receipts)
    async with connected(args, slm) as (link, pair):
        config = resolved(args, pair)
        recalibrated = recalibration_of(config)
        with remembered(pair, keep=not args.no_memory) as survival:
            for prompt in prompts:
                try:
                    ids = slm.encode_chat([*before, *prompt.messages])
                    session = Session(
                        slm,
                        ids,
                        config,
                        link,
                        recalibrated=recalibrated,
                        survival=survival,
                        notify=report_link,
                    )
                    await (_as_json if args.json else _as_text)(
                        prompt, config, session, prices, log
                    )
                except BadInput as error:
                    # The next prompts may be fine; a dead link would not be.
                    failed += 1
                    if len(prompts) == 1:
                        raise
                    _report_error(prompt, config, error, as_json=args.json)
    return failed


def report_link(event: Event) -> None:
    """What is to be said of the link, between the words of an answer."""
    sys.stderr.write(f"hedge: {event}\n")
    sys.stderr.flush()


def _report_error(
    prompt: Prompt, config: GenerationConfig, error: HedgeError, *, as_json: bool
) -> None:
    if as_json:
        record = {
            "prompt": prompt.text,
            "system": config.system,
            "seed": config.sampling.seed,
            "error": str(error),
        }
        sys.stdout.write(json.dumps(record) + "\n")
    else:
        sys.stderr.write(f"hedge generate: {error}\n")


def record(
    prompt: Prompt, config: GenerationConfig, session: Session, receipt: dict[str, Any]
) -> dict[str, Any]:
    """The JSON object of one answer."""
    return {
        "prompt": prompt.text,
        "text": session.text,
        "token_ids": session.token_ids,
        "provenance": [kind.value for kind in session.provenance],
        "finish_reason": session.finish_reason,
        "system": config.system,
        "seed": config.sampling.seed,
        "guarantee": session.guarantee,
        "threshold": config.gate.threshold,
        "receipt": receipt,
        "stats": session.statistics.to_json(),
    }


async def _as_json(
    prompt: Prompt,
    config: GenerationConfig,
    session: Session,
    prices: Prices | None,
    log: ReceiptLog,
) -> None:
    await session.run()
    log.add(receipt := receipt_of(session, prices))
    sys.stdout.write(
        json.dumps(record(prompt, config, session, receipt), ensure_ascii=False) + "\n"
    )
    sys.stdout.flush()


async def _as_text(
    prompt: Prompt,  # noqa: ARG001
    config: GenerationConfig,  # noqa: ARG001
    session: Session,
    prices: Prices | None,
    log: ReceiptLog,
) -> None:
    out = Console(highlight=False)
    err = Console(stderr=True, highlight=False)
    async for emitted in session.tokens():
        print_piece(out, emitted)
    out.print()
    log.add(receipt_of(session, prices))
    err.print(counts_line(session.statistics))
    err.print(statistics_line(session), style="dim")
