"""From parsed options to the values that everything behind the parser works with."""

import argparse
import json
import secrets
import sys
from dataclasses import fields, replace
from typing import Any

from hedge.common.command import say
from hedge.common.errors import BadInput
from hedge.common.files import read_text
from hedge.common.grammar import convert_lark, convert_regex, convert_schema
from hedge.common.logits import LogitsOptions
from hedge.common.sampling import Warp
from hedge.edge_client.calibrations import Pair
from hedge.edge_client.config import STREAM, CloudConfig, GelatoConfig, SamplingParams
from hedge.edge_client.overrides import DRAFT_OPTIONS, Overrides
from hedge.edge_client.resolve import resolve
from hedge.edge_client.systems import SYSTEMS, GenerationConfig


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
        return convert_regex(pattern)
    if path := getattr(args, "grammar", None):
        return convert_lark(read_text(path))
    if not (path := getattr(args, "json_schema", None)):
        return ""
    try:
        return convert_schema(json.loads(read_text(path)))
    except (ValueError, TypeError, RecursionError):
        raise BadInput(f"{path} does not hold a JSON schema") from None


def choose_seed(args: argparse.Namespace) -> int:
    """The given seed, or a random one that is printed."""
    if args.seed is None:
        args.seed = secrets.randbits(32)
        sys.stderr.write(f"seed {args.seed}\n")
    return int(args.seed)


def overrides_from(args: argparse.Namespace) -> Overrides:
    """What the options say in the place of a system's own settings, with a seed."""
    named = [field.name for field in fields(Overrides) if field.name not in ("sampling", "gelato")]
    given = {name: getattr(args, name) for name in named}
    sampling = replace(sampling_of(args), seed=choose_seed(args))
    gelato = gelato_config(args.gelato) if args.gelato else None
    return Overrides(sampling=sampling, gelato=gelato, **given)


def config_from(args: argparse.Namespace, system: str | None = None) -> GenerationConfig:
    """The system (by default `--system`) with every given option in place of its own."""
    return overrides_from(args).configure(system or args.system)


def resolved(args: argparse.Namespace, pair: Pair, system: str | None = None) -> GenerationConfig:
    """`config_from`, its numbers by the calibration of the pair."""
    return resolve(config_from(args, system), pair, args.calibration, say)


def check_used(args: argparse.Namespace) -> None:
    """BadInput for an option that the chosen system has no use for."""
    policy = args.policy or SYSTEMS[args.system].gate.policy
    given = _given(args, *DRAFT_OPTIONS)
    if given and policy in ("never", STREAM):
        option = next(iter(given)).replace("_", "-")
        why = "asks no cloud" if policy == "never" else "drafts nothing"
        raise BadInput(f"--{option} does not apply to system {args.system}, which {why}")


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """What these options say, those that say nothing left out."""
    found = {name: getattr(args, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}


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
