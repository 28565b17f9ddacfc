"""hedge-cloud: the program on the cloud side."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hedge.cloud_server.serving.limits import Limits
from hedge.cloud_server.serving.options import LIMITS, read_limits
from hedge.common.command import (
    MODEL_HELP,
    Commands,
    Parser,
    add_runtime,
    command_parser,
    parse,
    run,
    say,
    size,
)
from hedge.common.errors import BadInput
from hedge.common.model_options import is_gguf
from hedge.common.rpc import LOOPBACK, split_address

ENGINES = ("own", "vllm")
EXAMPLES = """  hedge-cloud serve --insecure
  hedge-cloud serve --llm ./my-llm --listen 127.0.0.1:7000 --insecure
  hedge-cloud serve --listen 0.0.0.0:7411 --tls-cert C.pem --tls-key K.pem --tokens tokens.txt"""


def add_model(parser: Parser) -> None:
    add_runtime(parser)
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="own",
        help="own: torch or llama.cpp in this process (default); vllm: vLLM's, for folders "
        "and names on the hub",
    )
    group.add_argument(
        "--engine-option",
        type=engine_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="vllm: one of its engine arguments, such as tensor_parallel_size=4 (repeatable)",
    )
    group = parser.add_argument_group("memory and passes")
    group.add_argument(
        "--kv-bytes",
        type=size,
        metavar="SIZE",
        help="for keys and values, such as 4G; the session used longest ago makes room "
        "(default 1G; on a GPU vllm's choice)",
    )
    group.add_argument(
        "--batch-positions",
        type=int,
        default=256,
        metavar="N",
        help="positions of one forward pass at most (default 256)",
    )
    group.add_argument(
        "--reproducible",
        action=argparse.BooleanOptionalAction,
        help="rows whose bits do not depend on what else is in a pass (default: with --dtype "
        "bfloat16, float16)",
    )
    group.add_argument(
        "--prefix-sharing",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="sessions whose texts begin alike share memory and work; model folders only "
        "(default: on)",
    )
    group = parser.add_argument_group("limits (0 is none)")
    for name, meaning in LIMITS.items():
        usual = getattr(Limits(), name)
        flag = f"--max-{name.replace('_', '-')}"
        kind = size if name.endswith("bytes") else type(usual)
        group.add_argument(
            flag, type=kind, default=usual, metavar="N", help=f"{meaning} (default {usual:g})"
        )


def engine_option(word: str) -> tuple[str, Any]:
    """NAME=VALUE; the value is JSON where it can be, otherwise a word."""
    name, equals, value = word.partition("=")
    if not (equals and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"{word!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _parser() -> Parser:
    parser = command_parser(
        "hedge-cloud serve", "Verifies the drafts of Hedge clients with a large model.", EXAMPLES
    )
    parser.add_argument("--llm", default="bundled", help=MODEL_HELP)
    parser.add_argument(
        "--listen", default="127.0.0.1:7411", metavar="HOST:PORT", help="port 0 picks a free one"
    )
    parser.add_argument(
        "--http",
        metavar="HOST:PORT",
        help="the operator's page, /metrics, /healthz and /readyz; port 0 picks a free one",
    )
    parser.add_argument(
        "--drain",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds that SIGTERM leaves to open sessions (default 30)",
    )
    parser.add_argument(
        "--emulate",
        metavar="BASE:PER_POSITION",
        help="seconds that a pass takes at least, for benches: a larger model's",
    )
    group = parser.add_argument_group("who is let in")
    group.add_argument(
        "--insecure", action="store_true", help="plaintext, no authentication: has to be asked for"
    )
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM chain of this server")
    group.add_argument("--tls-key", type=Path, metavar="FILE")
    group.add_argument(
        "--client-ca",
        type=Path,
        metavar="FILE",
        help="only clients with a certificate of this authority",
    )
    group.add_argument(
        "--tokens",
        type=Path,
        metavar="FILE",
        help="NAME:SHA256 a line, as `hedge-cloud token NAME` prints; SIGHUP reads it again",
    )
    add_model(parser)
    return parser


def serve(arguments: Sequence[str]) -> None:
    args = parse(_parser(), arguments)
    host = check(args)
    if args.insecure and host not in LOOPBACK:
        say(
            f"hedge-cloud: warning: {host} is not loopback, and --insecure neither encrypts "
            "nor authenticates"
        )
    # Loading torch takes seconds; what can be refused has been.
    from hedge.cloud_server.serving.server import serve_until_stopped

    asyncio.run(serve_until_stopped(args))


def check(args: argparse.Namespace) -> str:
    """The host to listen on. BadInput for options that do not go together."""
    host, _ = split_address(args.listen, lowest_port=0)
    if args.http:
        split_address(args.http, lowest_port=0)
    if (args.tls_cert is None) != (args.tls_key is None):
        raise BadInput("--tls-cert and --tls-key belong together")
    if args.insecure == (args.tls_cert is not None):
        raise BadInput(
            "--insecure and --tls-cert exclude each other"
            if args.insecure
            else (
                "the server speaks plaintext without authentication: say so with --insecure, "
                "or give --tls-cert and --tls-key"
            )
        )
    if args.client_ca and args.insecure:
        raise BadInput("--client-ca needs --tls-cert and --tls-key")
    if args.tokens and args.insecure and host not in LOOPBACK:
        raise BadInput(
            f"tokens would be readable on the way to {host}: --tokens needs --tls-cert and "
            "--tls-key"
        )
    if not 0 <= args.drain < float("inf"):
        raise BadInput(f"drain {args.drain:g} is not a number of at least 0")
    check_engine(args)
    read_limits(args)
    return host


def check_engine(args: argparse.Namespace) -> None:
    """BadInput for options of another engine than the one that is asked for."""
    if args.engine == "vllm":
        if is_gguf(args.llm):
            raise BadInput(
                f"--engine vllm is for model folders and names on the hub: {args.llm} runs in "
                "llama.cpp"
            )
        for name in ("reproducible", "emulate"):
            if getattr(args, name, None) is not None:
                raise BadInput(f"--{name} is not for --engine vllm")
        if not args.prefix_sharing:
            raise BadInput(
                "--no-prefix-sharing is not for --engine vllm: --engine-option "
                "enable_prefix_caching=false"
            )
    elif args.engine_option:
        raise BadInput(f"--engine-option {args.engine_option[0][0]} is for --engine vllm")


def token(arguments: Sequence[str]) -> None:
    parser = command_parser(
        "hedge-cloud token",
        "Makes a token for a client.",
        "  hedge-cloud token phone >> tokens.txt",
    )
    parser.add_argument("name", help="how the client is called")
    args = parse(parser, arguments)
    from hedge.cloud_server.serving.access import entry, new_token

    made = new_token()
    sys.stdout.write(entry(args.name, made) + "\n")
    sys.stderr.write(f"the token of {args.name}, which is shown only now: {made}\n")


def deploy(arguments: Sequence[str]) -> None:
    examples = """  hedge-cloud deploy --replicas 2 --insecure
  RAY_ADDRESS=auto hedge-cloud deploy --replicas 2 --max-replicas 16 --insecure"""
    what = "Serves with Ray Serve: replicas on a cluster, or on this machine."
    parser = command_parser("hedge-cloud deploy", what, examples)
    parser.add_argument("--llm", default="bundled", help=MODEL_HELP)
    parser.add_argument("--replicas", type=int, default=1, metavar="N")
    parser.add_argument(
        "--max-replicas",
        type=int,
        metavar="N",
        help="scale up to so many, by the streams that are open",
    )
    parser.add_argument(
        "--streams-per-replica",
        type=int,
        default=32,
        metavar="N",
        help="open streams a replica is meant to have (default 32)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=9000,
        help="of Ray's gRPC proxy, on every machine (default 9000)",
    )
    parser.add_argument(
        "--http-port",
        type=int,
        default=8000,
        help="of Ray's HTTP proxy, which serves nothing (default 8000)",
    )
    parser.add_argument(
        "--cpus", type=float, default=1.0, help="CPUs of a replica, as Ray counts them (default 1)"
    )
    parser.add_argument(
        "--gpus", type=float, help="GPUs of a replica (default: as its engine is asked for)"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="Ray's proxy has no TLS: terminate it in front"
    )
    parser.add_argument(
        "--tokens",
        type=Path,
        metavar="FILE",
        help="as for serve; the file has to be on every machine",
    )
    add_model(parser)
    args = parse(parser, arguments)
    if not args.insecure:
        raise BadInput(
            "Ray's gRPC proxy speaks plaintext on all interfaces: say so with --insecure, and "
            "put TLS in front"
        )
    if not 1 <= args.replicas <= (args.max_replicas or args.replicas) <= 1000:
        raise BadInput(
            f"replicas {args.replicas} and max-replicas {args.max_replicas} are not in order "
            "within 1..1000"
        )
    if args.streams_per_replica < 1:
        raise BadInput(f"streams-per-replica {args.streams_per_replica} is not at least 1")
    check_engine(args)
    limits = read_limits(args)
    from hedge.cloud_server.serving.ray_serve import deploy as body

    body(args, limits)


GROUP = "hedge_cloud.commands"
OWN = {
    "serve": "hedge.cloud_server.cli:serve",
    "token": "hedge.cloud_server.cli:token",
    "deploy": "hedge.cloud_server.cli:deploy",
}


SUMMARIES = {
    "serve": "serves the LLM to devices",
    "token": "makes a token for a device",
    "deploy": "serves replicas with Ray Serve",
    "loadtest": "puts many devices on a cloud and measures it",
}


def commands() -> Commands:
    """Its commands; those of other packages come through entry points."""
    where = OWN | {point.name: point.value for point in entry_points(group=GROUP)}
    return Commands("hedge-cloud", where, SUMMARIES)


def main() -> None:
    """The entry point of hedge-cloud. Commands are loaded on use."""
    run("hedge-cloud", lambda: commands().run(sys.argv[1:]))
