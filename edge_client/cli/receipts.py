"""hedge receipts: what the answers of a log came to, together."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from hedge.common.command import command_parser, parse
from hedge.edge_client.receipt import read_receipts, summed, summed_lines

EXAMPLES = """  hedge generate --insecure --prompt "Hi" --receipts log.jsonl --prices position=0.6
  hedge receipts log.jsonl"""


def command(arguments: Sequence[str]) -> None:
    parser = command_parser(
        "hedge receipts", "Sums the receipts of a log that --receipts FILE has written.", EXAMPLES
    )
    parser.add_argument("log", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parse(parser, arguments)
    total = summed(read_receipts(args.log))
    sys.stdout.write(
        (json.dumps(total, ensure_ascii=False) if args.json else "\n".join(summed_lines(total)))
        + "\n"
    )
