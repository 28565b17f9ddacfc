"""The options that every generating command shares (`settings.py` reads them)."""

import argparse
from pathlib import Path

from hedge.common.command import MODEL_HELP, Parser, add_runtime
from hedge.common.model import BUNDLED
from hedge.edge_client.config import (
    DEFAULT_CLOUD,
    DRAFT_FROM,
    GUARANTEES,
    KINDS,
    MARGINAL_BUDGET_J,
    MEASURES,
    ON_DISCONNECT,
    POLICIES,
    PREFERENCES,
    RULES,
    TEMPERATURE,
    TRUNCATIONS,
)
from hedge.edge_client.systems import SYSTEMS


def add_slm(parser: Parser) -> None:
    group = parser.add_argument_group("the device's model")
    group.add_argument("--slm", default=BUNDLED, help=MODEL_HELP)
    add_runtime(parser)


def add_models(parser: Parser) -> None:
    add_slm(parser)
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--cloud",
        default=DEFAULT_CLOUD,
        metavar="HOST:PORT[,...]",
        help="the verifying server, or several to turn to when one is gone (default "
        f"{DEFAULT_CLOUD})",
    )
    group.add_argument(
        "--insecure", action="store_true", help="plaintext to the cloud: has to be asked for"
    )
    group.add_argument(
        "--tls-ca",
        type=Path,
        metavar="FILE",
        help="PEM of the authority that vouches for the cloud",
    )
    group.add_argument(
        "--tls-cert",
        type=Path,
        metavar="FILE",
        help="PEM of this device, where the cloud asks for one",
    )
    group.add_argument("--tls-key", type=Path, metavar="FILE")
    group.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="holds the token that the cloud knows this device by",
    )


def add_warp(parser: Parser, temperature: float = 1.0) -> None:
    """`temperature`: by default. Studies sample as the paper does; who answers a person takes the
    likeliest tokens.
    """
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--temperature",
        type=float,
        default=temperature,
        help=f"0 is greedy (default {temperature:g})",
    )
    group.add_argument("--top-k", type=int, default=0, help="0 is off (default)")
    group.add_argument("--top-p", type=float, default=1.0)
    group.add_argument(
        "--min-p",
        type=float,
        default=0.0,
        help="leaves out what has less than this share of the best (default 0)",
    )
    group.add_argument("--seed", type=int, default=None, help="default: random, printed")
    group.add_argument("--max-new-tokens", type=int, default=256)


def add_generation(parser: Parser, temperature: float = TEMPERATURE) -> None:
    add_models(parser)
    add_system(parser)
    add_warp(parser, temperature)


def add_logits(parser: Parser) -> None:
    group = parser.add_argument_group("logits")
    group.add_argument(
        "--repetition-penalty",
        type=float,
        metavar="R",
        help="1 is off (default); of prompt and answer",
    )
    group.add_argument(
        "--presence-penalty",
        type=float,
        metavar="P",
        help="-2..2, of what the answer has said (default 0)",
    )
    group.add_argument(
        "--frequency-penalty",
        type=float,
        metavar="P",
        help="-2..2, for each time it was said (default 0)",
    )
    group.add_argument(
        "--logit-bias",
        nargs="+",
        default=[],
        metavar="ID=B",
        help="added to the logits of token ids",
    )
    shape = group.add_mutually_exclusive_group()
    shape.add_argument(
        "--json-schema",
        type=Path,
        metavar="FILE",
        help="the answer is JSON that this JSON schema allows",
    )
    shape.add_argument(
        "--regex", metavar="R", help="the whole answer matches this regular expression"
    )
    shape.add_argument(
        "--grammar",
        type=Path,
        metavar="FILE",
        help="the answer follows this grammar (Lark, as llguidance has it)",
    )


def add_receipts(parser: Parser) -> None:
    """Of the commands that answer people."""
    group = parser.add_argument_group("receipts")
    group.add_argument(
        "--receipts",
        type=Path,
        metavar="FILE",
        help="append the receipt of every answer to this file (default: no)",
    )
    group.add_argument(
        "--prices",
        nargs="+",
        default=[],
        metavar="NAME=P",
        help="of a million: prompt=, position= and, of the LLM alone, output=; currency= (default "
        "EUR)",
    )
    parser.add_argument(
        "--local-only",
        action="store_true",
        help="system slm, and no connection is made to anywhere: a try ends it",
    )


def add_system_prompt(parser: Parser) -> None:
    parser.add_argument(
        "--system-prompt",
        metavar="TEXT",
        help="a message of the role system before the conversation",
    )


def add_memory(parser: Parser) -> None:
    """Of the commands that keep what verdicts teach."""
    parser.add_argument(
        "--no-memory",
        action="store_true",
        help="policy survival: neither read nor keep what verdicts of this pair have taught",
    )


def add_system(parser: Parser) -> None:
    group = parser.add_argument_group("what goes to the cloud")
    group.add_argument(
        "--system",
        choices=tuple(SYSTEMS),
        default="hedge",
        help="a whole system; options below override it (default hedge)",
    )
    group.add_argument("--policy", choices=POLICIES)
    group.add_argument(
        "--prefer",
        choices=PREFERENCES,
        help="policy survival: what to save, time, the LLM's passes, or passes where they cost "
        "little time (default: balanced)",
    )
    group.add_argument("--measure", choices=MEASURES)
    group.add_argument(
        "--threshold",
        type=float,
        help="ask iff the uncertainty is above this; --policy survival: the risk of the block, "
        "0..1",
    )
    group.add_argument(
        "--calibration", type=Path, metavar="FILE", help="thresholds from hedge calibrate"
    )
    group.add_argument("--threshold-rule", choices=RULES)
    group.add_argument(
        "--max-risk",
        type=float,
        default=0.05,
        metavar="E",
        help="rule max-risk: largest joint risk (default 0.05)",
    )
    group.add_argument(
        "--delta",
        type=float,
        default=0.1,
        metavar="D",
        help="rule max-risk: at level 1 - D (default 0.1)",
    )
    group.add_argument(
        "--recalibrate",
        action="store_true",
        help="move the threshold by the audit so that --max-risk is held",
    )
    group.add_argument(
        "--skip-rate",
        type=float,
        metavar="Q",
        help="rule quantile: share to skip (default 0.5; policy adaptive 0.85)",
    )
    group.add_argument("--verify-rate", type=float, metavar="P", help="policy random: share to ask")
    group.add_argument("--verification", choices=KINDS)
    group.add_argument("--truncation", choices=TRUNCATIONS)
    group.add_argument("--k", type=int, help="entries kept by truncation fixed (default 30)")
    group.add_argument(
        "--theta", type=float, help="truncation offline and online: bound on U_TV (default 0.1)"
    )
    group.add_argument("--eta", type=float, help="sharpness of U_TV (default 1)")
    group.add_argument("--bits", type=int, help="probabilities are integers that sum to 2^BITS")
    group.add_argument(
        "--probs-entries",
        type=int,
        metavar="N",
        help="split: most entries of the LLM's distribution that come back after a rejection: not "
        "exact (default: all)",
    )
    # Its old name.
    group.add_argument("--law-entries", dest="probs_entries", type=int, help=argparse.SUPPRESS)
    group.add_argument(
        "--draft-from",
        choices=DRAFT_FROM,
        help="draw drafts from the distribution that is sent, or from the full one",
    )
    group.add_argument(
        "--guarantee",
        choices=GUARANTEES,
        help="exact: every token is tested before it is shown; the gate only ends blocks",
    )
    group.add_argument(
        "--max-in-flight",
        type=int,
        metavar="N",
        help="messages sent ahead of their verdicts; 1 waits for each",
    )
    group.add_argument(
        "--on-disconnect",
        choices=ON_DISCONNECT,
        help="when the link dies: go on alone, wait for it (same tokens), or fail (default: wait "
        "if exact, else continue)",
    )
    group.add_argument(
        "--patience",
        type=float,
        metavar="S",
        help="seconds without an answer after which the link counts as dead (default 60; going on "
        "alone 5)",
    )
    group.add_argument(
        "--gelato",
        nargs="+",
        default=[],
        metavar="OPTION=VALUE",
        help="system gelato: variant=tripping (or published, marginal), weight=10 (V_L), "
        "budget_j=1.2 (J a round; "
        f"marginal: {MARGINAL_BUDGET_J} J a token), longest=15 (drafts), acceptance=0.9 (rho_0), "
        "bucket=1.2 (theta), "
        "decay=0.35 (kappa; the calibration's where there is one), device_w=12, radio_w=0.2, "
        "uplink_bps=0 (bit/s; 0: uploads "
        "take no time)",
    )
    group.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end the answer before TEXT (repeatable)",
    )
