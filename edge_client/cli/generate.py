"""hedge generate: answers prompts, one or a file of them."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hedge.common.command import command_parser, parse, say
from hedge.common.errors import BadInput, HedgeError
from hedge.common.model import LanguageModel
from hedge.edge_client.cli.connect import hedge_from, load_slm
from hedge.edge_client.cli.local_only import stay_local
from hedge.edge_client.cli.options import (
    add_generation,
    add_logits,
    add_memory,
    add_receipts,
    add_system_prompt,
)
from hedge.edge_client.cli.prompts import Prompt, from_text, read_prompts
from hedge.edge_client.cli.render import counts_line, print_piece, statistics_line
from hedge.edge_client.cli.settings import (
    check_connection,
    check_used,
    config_from,
    needs_cloud,
    sampling_of,
)
from hedge.edge_client.receipt import Prices
from hedge.edge_client.reply import Reply
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
    write = _write_json if args.json else _write_text
    failed = 0
    async with hedge_from(args, slm) as hedge:
        config = hedge.resolve(config_from(args))
        for prompt in prompts:
            try:
                ids = slm.encode_chat([*before, *prompt.messages])
                await write(prompt, hedge.reply(ids, config, report))
            except BadInput as error:
                # The next prompts may be fine; a dead link would not be.
                failed += 1
                if len(prompts) == 1:
                    raise
                _report_error(prompt, config, error, as_json=args.json)
    return failed


def report(event: Event) -> None:
    """Says what happens to the link, between the words of an answer."""
    say(f"hedge: {event}")


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


def record(prompt: Prompt, reply: Reply) -> dict[str, Any]:
    """The JSON object of one answer."""
    session = reply.session
    return {
        "prompt": prompt.text,
        "text": session.text,
        "token_ids": session.token_ids,
        "provenance": [kind.value for kind in session.provenance],
        "finish_reason": session.finish_reason,
        "system": reply.config.system,
        "seed": reply.config.sampling.seed,
        "guarantee": session.guarantee,
        "threshold": reply.config.gate.threshold,
        "receipt": reply.receipt,
        "stats": session.statistics.to_json(),
    }


async def _write_json(prompt: Prompt, reply: Reply) -> None:
    await reply.run()
    sys.stdout.write(json.dumps(record(prompt, reply), ensure_ascii=False) + "\n")
    sys.stdout.flush()


async def _write_text(_: Prompt, reply: Reply) -> None:
    out = Console(highlight=False)
    err = Console(stderr=True, highlight=False)
    async for emitted in reply.tokens():
        print_piece(out, emitted)
    out.print()
    err.print(counts_line(reply.session.statistics))
    err.print(statistics_line(reply.session), style="dim")
