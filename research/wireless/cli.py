"""hedge wireless: text over a noisy channel, a masked language model at both ends."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hedge.common.command import command_parser, parse
from hedge.common.errors import BadInput
from hedge.common.model import BUNDLED
from hedge.common.noise import SEED_LIMIT
from research.wireless.rules import REHEARSED, RULES

EXAMPLES = """  hedge wireless send --text "Once upon a time there was a king." --snr 5
  hedge wireless study --out runs/wireless --packets 200"""


def command(arguments: Sequence[str]) -> None:
    parser: Any = command_parser(
        "hedge wireless", "Joint token masking and detection over a fading channel.", EXAMPLES
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="send|study")
    sending = actions.add_parser(
        "send", help="one text: what was sent, what was left out, what arrived"
    )
    sending.add_argument("--text", required=True)
    sending.add_argument("--snr", type=float, required=True, metavar="DB")
    sending.add_argument("--qam", type=int, default=4, metavar="ORDER", help="4 (default) or 16")
    sending.add_argument(
        "--rule",
        choices=(*RULES, REHEARSED),
        default=REHEARSED,
        help=f"what is left out (default {REHEARSED})",
    )
    sending.add_argument("--json", action="store_true")
    studying = actions.add_parser("study", help="all systems over many packets")
    _add_study(studying)
    sending.add_argument("--threads", type=int, default=None)
    for one in (sending, studying):
        one.add_argument(
            "--mlm", default=BUNDLED, help="folder of a masked model, or `bundled` (default)"
        )
        one.add_argument("--seed", type=int, default=1)
    args = parse(parser, arguments)
    if not 0 <= args.seed < SEED_LIMIT:
        raise BadInput(f"seed {args.seed} is not in 0..2^64-1")
    if args.action == "study":
        from research.wireless.study import study

        study(args)
    else:
        from research.wireless.text import send_text

        send_text(args)


def _add_study(parser: Any) -> None:
    parser.add_argument("--packets", type=int, default=200)
    parser.add_argument(
        "--snr", type=float, nargs="+", default=[0.0, 5.0, 10.0, 15.0], metavar="DB"
    )
    parser.add_argument(
        "--qam", type=int, nargs="+", default=[4], metavar="ORDER", help="4, 16 (default 4)"
    )
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="default: the bundled tales, which no model has seen",
    )
    parser.add_argument("--slm", default=BUNDLED, help="for range coding; `none`: without")
    parser.add_argument(
        "--embedding",
        default="",
        metavar="FOLDER",
        help="a sentence encoder, for similarities; default: none",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="packets.jsonl, with which it goes on, and rows.jsonl of all in it",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--json", action="store_true", help="the rows on stdout instead of a table")
