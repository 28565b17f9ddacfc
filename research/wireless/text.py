"""`hedge wireless send`: one text over the channel, what was sent, left out and received."""

import argparse
import json
import re
import sys

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from hedge.common.torch_model import use_threads
from research.wireless.masked import MaskedLM
from research.wireless.packet import (
    MaskOrder,
    adaptive_mask,
    detect,
    most_likely,
    position_bits,
    send,
)
from research.wireless.qam import Qam, rayleigh
from research.wireless.rehearsal import rehearse_mask
from research.wireless.rules import REHEARSED

SENT = "default"
MASKED = "cyan"
WRONG = "bold red"


def pieces(lm: MaskedLM, ids: NDArray[np.int64]) -> list[tuple[slice, str]]:
    """The texts of the ids; at most four that only together make a character are one piece."""
    found = list[tuple[slice, str]]()
    start = 0
    for end in range(1, len(ids) + 1):
        text = lm.decode(ids[start:end])
        if not text.endswith("\ufffd") or end - start == 4 or end == len(ids):
            found.append((slice(start, end), text))
            start = end
    return found


def send_text(args: argparse.Namespace) -> None:
    fade = rayleigh(args.snr, np.random.default_rng([args.seed, 0]))
    Qam(args.qam, 2)
    use_threads(args.threads)
    lm = MaskedLM(args.mlm)
    ids = lm.encode(args.text)
    qam = Qam(args.qam, lm.vocab_size)
    if args.rule == REHEARSED:
        masked = rehearse_mask(lm, qam, fade, ids, np.random.default_rng([args.seed, 2]))
    else:
        masked = adaptive_mask(qam, fade, MaskOrder(lm, ids, args.rule), len(ids))
    arrival = send(qam, fade, ids, masked, np.random.default_rng([args.seed, 1]))
    plain = send(qam, fade, ids, [], np.random.default_rng([args.seed, 1]))
    found = detect(lm, arrival)
    conventional = most_likely(plain, lm.mask)
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
        return Text.assemble(
            *(
                (text, WRONG if (arrived[at] != ids[at]).any() else SENT)
                for at, text in pieces(lm, arrived)
            )
        )

    console.print("sent (what was left out in cyan):", style="dim")
    console.print(
        Text.assemble(*((text, MASKED if left_out else SENT) for text, left_out in words))
    )
    console.print("on the air:", style="dim")
    console.print(
        Text("".join(re.sub(r"\S", "_", text) if left_out else text for text, left_out in words))
    )
    console.print("received (what is wrong in red):", style="dim")
    console.print(received(found))
    console.print("without masking and model:", style="dim")
    console.print(received(conventional))
    share = len(masked) / len(ids)
    without = float((conventional == ids).mean())
    fading = f"fade {10 * np.log10(fade.gain):+.1f} dB"
    counts = f"{len(ids)} tokens, {share:.0%} left out, {fading}, {right:.0%} right"
    console.print(f"{counts} ({without:.0%} without)", style="dim")
