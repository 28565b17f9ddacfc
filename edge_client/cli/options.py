"""The options that every generating command shares, and how they become a configuration."""

import argparse
import json
import secrets
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hedge.common.command import MODEL_HELP, Parser, add_runtime, say
from hedge.common.errors import BadInput
from hedge.common.files import read_text
from hedge.common.grammar import of_lark, of_regex, of_schema
from hedge.common.logits import LogitsOptions
from hedge.common.model import BUNDLED
from hedge.common.sampling import Warp
from hedge.edge_client.calibrations import Pair
from hedge.edge_client.config import (
    DEFAULT_CLOUD,
    DRAFT_FROM,
    GATED,
    GUARANTEES,
    KINDS,
    MARGINAL_BUDGET_J,
    MEASURES,
    ON_DISCONNECT,
    POLICIES,
    PREFERENCES,
    RULES,
    STREAM,
    TEMPERATURE,
    TRUNCATIONS,
    CloudConfig,
    GateConfig,
    GelatoConfig,
    SamplingParams,
    ThresholdRule,
    VerificationConfig,
)
from hedge.edge_client.resolve import resolve
from hedge.edge_client.systems import SYSTEMS, GenerationConfig

# What only a gate with a threshold has: given to `hedge`, which needs none, it has one.
OF_A_GATE = ("measure", "threshold", "calibration", "threshold_rule", "skip_rate")
# And then by this rule, where none is given.
RULE_OF_BLOCKS = ThresholdRule("quantile", skip_rate=0.85)


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
        "--law-entries",
        type=int,
        metavar="N",
        help="split: most entries of the LLM's distribution that come back after a rejection: not "
        "exact (default: all)",
    )
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


def cloud_config(args: argparse.Namespace) -> CloudConfig:
    """BadInput for a connection that is neither encrypted nor asked to be plain."""
    return CloudConfig(
        tuple(args.cloud.split(",")),
        args.insecure,
        args.tls_ca,
        args.tls_cert,
        args.tls_key,
        args.token_file,
    )


def check_connection(args: argparse.Namespace, needed: bool = True) -> None:
    """BadInput for a connection that makes no sense. One that is not `needed` need not be there."""
    if needed or args.insecure or args.tls_ca:
        cloud_config(args)


def needs_cloud(args: argparse.Namespace) -> bool:
    return (args.policy or SYSTEMS[args.system].gate.policy) != "never"


def sampling_of(args: argparse.Namespace) -> SamplingParams:
    """The sampling that was asked for, its seed 0 while none has been chosen."""
    return SamplingParams(
        Warp(args.temperature, args.top_k, args.top_p, args.min_p),
        args.seed or 0,
        args.max_new_tokens,
        tuple(getattr(args, "stop", ())),
        _logits(args),
    )


def _logits(args: argparse.Namespace) -> LogitsOptions:
    penalties = _given(args, "repetition_penalty", "presence_penalty", "frequency_penalty")
    return LogitsOptions(
        **penalties, logit_bias=_biases(getattr(args, "logit_bias", [])), grammar=_grammar(args)
    )


def _biases(words: list[str]) -> tuple[tuple[int, float], ...]:
    """From ID=BIAS each."""
    try:
        parts = [word.split("=") for word in words]
        return tuple((int(token), float(bias)) for token, bias in parts)
    except ValueError:
        raise BadInput(
            f"logit-bias {' '.join(words)} is not ID=BIAS, a token id and a number"
        ) from None


def _grammar(args: argparse.Namespace) -> str:
    if (pattern := getattr(args, "regex", None)) is not None:
        return of_regex(pattern)
    if path := getattr(args, "grammar", None):
        return of_lark(read_text(path))
    if not (path := getattr(args, "json_schema", None)):
        return ""
    try:
        return of_schema(json.loads(read_text(path)))
    except (ValueError, TypeError, RecursionError):
        raise BadInput(f"{path} does not hold a JSON schema") from None


def choose_seed(args: argparse.Namespace) -> int:
    """The given seed, or a random one that is printed."""
    if args.seed is None:
        args.seed = secrets.randbits(32)
        sys.stderr.write(f"seed {args.seed}\n")
    return int(args.seed)


def config_from(args: argparse.Namespace, system: str | None = None) -> GenerationConfig:
    """The system, `--system` unless another is named, with every option that was given in the place
    of its own.
    """
    name = system or args.system
    preset = SYSTEMS[name]
    gate = _gate(args, preset.gate)
    verification = _verification(args, preset.verification, gate)
    link = replace(
        preset.link,
        **_given(args, "on_disconnect", "patience", *(("max_in_flight",) if gate.asks else ())),
    )
    return GenerationConfig(
        name, replace(sampling_of(args), seed=choose_seed(args)), gate, verification, link
    )


def resolved(args: argparse.Namespace, pair: Pair, system: str | None = None) -> GenerationConfig:
    """`config_from`, its numbers by the calibration of the pair."""
    return resolve(config_from(args, system), pair, args.calibration, say)


# Of how drafts are gated, tested and sent.
_OF_DRAFTS: tuple[str, ...] = (
    "measure",
    "threshold",
    "threshold_rule",
    "skip_rate",
    "verify_rate",
    "prefer",
    "verification",
    "truncation",
    "k",
)
_OF_DRAFTS += ("theta", "eta", "bits", "law_entries", "draft_from", "guarantee", "max_in_flight")


def check_used(args: argparse.Namespace) -> None:
    """BadInput for an option that the chosen system has no use for."""
    policy = args.policy or SYSTEMS[args.system].gate.policy
    given = _given(args, *_OF_DRAFTS)
    if given and policy in ("never", STREAM):
        option = next(iter(given)).replace("_", "-")
        why = "asks no cloud" if policy == "never" else "drafts nothing"
        raise BadInput(f"--{option} does not apply to system {args.system}, which {why}")


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """What these options say, those that say nothing left out."""
    return {name: value for name in names if (value := getattr(args, name, None)) is not None}


def _gate(args: argparse.Namespace, preset: GateConfig) -> GateConfig:
    policy = args.policy or preset.policy
    if policy == "survival" and not args.policy and _given(args, *OF_A_GATE):
        policy = "adaptive"
    rule = _rule(args, preset)
    if args.threshold is not None and args.policy is None and policy == "always":
        policy = "threshold"
    recalibrate = args.max_risk if args.recalibrate else None
    if policy in ("never", STREAM):
        return GateConfig(policy, recalibrate=recalibrate)
    if args.gelato and policy != "gelato":
        raise BadInput(f"--gelato {' '.join(args.gelato)} is for policy gelato, not {policy}")
    if args.prefer and policy != "survival":
        raise BadInput(f"--prefer {args.prefer} is for policy survival, not {policy}")
    return GateConfig(
        policy,
        args.measure or preset.measure,
        args.threshold if args.threshold is not None else rule if policy in GATED else None,
        args.verify_rate
        if args.verify_rate is not None
        else ThresholdRule()
        if policy == "random"
        else None,
        recalibrate,
        gelato_config(args.gelato),
        args.prefer or preset.prefer,
    )


def _rule(args: argparse.Namespace, preset: GateConfig) -> ThresholdRule:
    """How the threshold is set where none was given. BadInput for a risk, level or share that is
    none.
    """
    rule = RULE_OF_BLOCKS if preset.policy == "survival" else ThresholdRule()
    changes = _given(args, "max_risk", "delta", "skip_rate")
    return replace(rule, rule=args.threshold_rule or rule.rule, **changes)


def _verification(
    args: argparse.Namespace, preset: VerificationConfig, gate: GateConfig
) -> VerificationConfig:
    if gate.policy == STREAM:
        return VerificationConfig()
    exact = preset.exact if args.guarantee is None else args.guarantee == "exact"
    if gate.policy == "never":
        return VerificationConfig(exact=exact)
    kind = args.verification or preset.kind
    if kind == "coupled" and (
        wrong := _given(args, "truncation", "k", "bits", "draft_from", "theta", "eta")
    ):
        option = next(iter(wrong)).replace("_", "-")
        raise BadInput(f"--{option} does not apply to verification coupled, which sends ids alone")
    changes = _given(args, "truncation", "k", "bits", "draft_from", "theta", "eta", "law_entries")
    return replace(preset, kind=kind, exact=exact, **changes)


def gelato_config(words: list[str]) -> GelatoConfig:
    """From OPTION=VALUE each."""
    kinds: dict[str, type] = {field.name: float for field in fields(GelatoConfig)} | {
        "variant": str,
        "longest": int,
    }
    given: dict[str, Any] = {}
    for word in words:
        name, mark, value = word.partition("=")
        if not mark or name not in kinds:
            raise BadInput(f"gelato {word!r} is not OPTION=VALUE with one of {', '.join(kinds)}")
        try:
            given[name] = kinds[name](value)
        except ValueError:
            whole = "a whole number" if kinds[name] is int else "a number"
            raise BadInput(f"gelato {name} {value!r} is not {whole}") from None
    return GelatoConfig(**given)
