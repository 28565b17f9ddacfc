"""hedge wireless: text over a noisy channel, a masked language model at both ends."""

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from common.command import command_parser, parse
from common.errors import BadInput
from common.model import BUNDLED
from common.noise import SEED_LIMIT
from common.torch_model import use_threads
from studies.wireless.masked import MaskedLM
from studies.wireless.packet import RULES, MaskOrder, adaptive_mask, detect, most_likely, position_bits, send
from studies.wireless.qam import Qam, rayleigh
from studies.wireless.rehearsal import REHEARSED, rehearsed_mask
from studies.wireless.study import add_study, study

EXAMPLES = """  hedge wireless send --text "Once upon a time there was a king." --snr 5
  hedge wireless study --out runs/wireless --packets 200"""
SENT, MASKED, WRONG = "default", "cyan", "bold red"


def command(arguments: Sequence[str]) -> None:
    parser: Any = command_parser("hedge wireless", "Joint token masking and detection over a fading channel.", EXAMPLES)
    actions = parser.add_subparsers(dest="action", required=True, metavar="send|study")
    sending = actions.add_parser("send", help="one text: what was sent, what was left out, what arrived")
    sending.add_argument("--text", required=True)
    sending.add_argument("--snr", type=float, required=True, metavar="DB")
    sending.add_argument("--qam", type=int, default=4, metavar="ORDER", help="4 (default) or 16")
    sending.add_argument(
        "--rule", choices=(*RULES, REHEARSED), default=REHEARSED, help=f"what is left out (default {REHEARSED})"
    )
    sending.add_argument("--json", action="store_true")
    studying = actions.add_parser("study", help="all systems over many packets")
    add_study(studying)
    sending.add_argument("--threads", type=int, default=None)
    for one in (sending, studying):
        one.add_argument("--mlm", default=BUNDLED, help="folder of a masked model, or `bundled` (default)")
        one.add_argument("--seed", type=int, default=1)
    args = parse(parser, arguments)
    if not 0 <= args.seed < SEED_LIMIT:
        raise BadInput(f"seed {args.seed} is not in 0..2^64-1")
    if args.action == "study":
        study(args)
        return
    _send(args)


def pieces(lm: MaskedLM, ids: NDArray[np.int64]) -> list[tuple[slice, str]]:
    """The texts of the ids; those that only together make a character, at most four, are one piece."""
    found, start = list[tuple[slice, str]](), 0
    for end in range(1, len(ids) + 1):
        text = lm.decode(ids[start:end])
        if not text.endswith("\ufffd") or end - start == 4 or end == len(ids):
            found.append((slice(start, end), text))
            start = end
    return found


def _send(args: Any) -> None:
    fade = rayleigh(args.snr, np.random.default_rng([args.seed, 0]))
    Qam(args.qam, 2)
    use_threads(args.threads)
    lm = MaskedLM(args.mlm)
    ids = lm.encode(args.text)
    qam = Qam(args.qam, lm.vocab_size)
    if args.rule == REHEARSED:
        masked = rehearsed_mask(lm, qam, fade, ids, np.random.default_rng([args.seed, 2]))
    else:
        masked = adaptive_mask(qam, fade, MaskOrder(lm, ids, args.rule), len(ids))
    arrival = send(qam, fade, ids, masked, np.random.default_rng([args.seed, 1]))
    plain = send(qam, fade, ids, [], np.random.default_rng([args.seed, 1]))
    found, conventional = detect(lm, arrival), most_likely(plain, lm.mask)
    right = float((found == ids).mean())
    if args.json:
        said = {
            "tokens": len(ids),
            "masked": sorted(masked),
            "sent": args.text,
            "received": lm.decode(found),
            "accuracy": right,
            "conventional": lm.decode(conventional),
            "conventional_accuracy": float((conventional == ids).mean()),
            "gain_db": 10 * float(np.log10(fade.gain)),
            "position_bits": position_bits(len(ids), len(masked)),
        }
        sys.stdout.write(json.dumps(said, ensure_ascii=False) + "\n")
        return
    console = Console(highlight=False)
    hidden = set(masked)
    words = [(text, bool(hidden & {*range(at.start, at.stop)})) for at, text in pieces(lm, ids)]

    def received(arrived: NDArray[np.int64]) -> Text:
        return Text.assemble(*((text, WRONG if (arrived[at] != ids[at]).any() else SENT) for at, text in pieces(lm, arrived)))

    console.print("sent (what was left out in cyan):", style="dim")
    console.print(Text.assemble(*((text, MASKED if left_out else SENT) for text, left_out in words)))
    console.print("on the air:", style="dim")
    console.print(Text("".join(re.sub(r"\S", "_", text) if left_out else text for text, left_out in words)))
    console.print("received (what is wrong in red):", style="dim")
    console.print(received(found))
    console.print("without masking and model:", style="dim")
    console.print(received(conventional))
    share = len(masked) / len(ids)
    console.print(
        f"{len(ids)} tokens, {share:.0%} left out, fade {10 * np.log10(fade.gain):+.1f} dB, {right:.0%} right "
        f"({float((conventional == ids).mean()):.0%} without)",
        style="dim",
    )
