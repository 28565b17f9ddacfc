"""hedge-cloud: the program on the cloud side."""

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

from common.command import Parser, command_parser, parse, run
from common.errors import BadInput, HedgeError
from common.rpc import make_server, split_address

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
DEFAULT_KV_BYTES = 1 << 30
EXAMPLES = """  hedge-cloud serve --insecure
  hedge-cloud serve --llm ./my-llm --listen 127.0.0.1:7000 --insecure"""


def _parser() -> Parser:
    parser = command_parser("hedge-cloud serve", "Verifies the drafts of Hedge clients with a large model.", EXAMPLES)
    parser.add_argument("--llm", default="bundled", help="model folder, hub id or `bundled` (default)")
    parser.add_argument("--listen", default="127.0.0.1:7411", metavar="HOST:PORT", help="port 0 picks a free one")
    parser.add_argument("--insecure", action="store_true", help="plaintext, no authentication: has to be asked for")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--kv-bytes", type=int, default=DEFAULT_KV_BYTES, metavar="N",
        help="memory for keys and values; the session used longest ago makes room (default 1 GiB)",
    )  # fmt: skip
    parser.add_argument(
        "--batch-positions", type=int, default=256, metavar="N", help="positions of one forward pass, padding included"
    )
    parser.add_argument("--threads", type=int, default=None, help="torch threads (default: torch's own choice)")
    return parser


def serve(arguments: Sequence[str]) -> None:
    args = parse(_parser(), arguments)
    host, port = split_address(args.listen, lowest_port=0)
    if not 8 <= args.batch_positions <= 1 << 20:
        raise BadInput(f"batch-positions {args.batch_positions} is not in 8..2^20")
    if not args.insecure:
        raise BadInput("the server speaks plaintext without authentication: say so with --insecure")
    if host not in LOOPBACK:
        sys.stderr.write(f"hedge-cloud: warning: {host} is not loopback, and --insecure neither encrypts nor authenticates\n")
    # Loading torch takes seconds; the errors above should not.
    from common.model import load, use_threads

    use_threads(args.threads)
    lm = load(args.llm, "llm", dtype=args.dtype, device=args.device)
    from cloud_server.batcher import Batcher
    from cloud_server.engine import Engine

    batcher = Batcher(Engine(lm, args.kv_bytes), args.batch_positions)
    asyncio.run(_serve(lm, batcher, f"{host}:{port}"))


async def _serve(lm: "CausalLM", batcher: "Batcher", address: str) -> None:  # type: ignore[name-defined]  # noqa: F821
    from hedge.v1.hedge_pb2_grpc import add_HedgeServicer_to_server

    from cloud_server.servicer import ErrorInterceptor, Servicer

    servicer = Servicer(lm, batcher)
    server = make_server(lambda made: add_HedgeServicer_to_server(servicer, made), [ErrorInterceptor()])
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        raise HedgeError(f"cannot listen on {address}: the port is in use or the address is not this machine's") from None
    await server.start()
    sys.stderr.write(f"hedge-cloud: {lm.name}, listening on {address.rpartition(':')[0]}:{port}\n")
    sys.stderr.flush()
    stopped = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stopped.set)
    await stopped.wait()
    await server.stop(grace=1.0)
    batcher.close()


COMMANDS = {"serve": serve}


def main() -> None:
    """The entry point of hedge-cloud."""
    run("hedge-cloud", lambda: _dispatch(sys.argv[1:]))


def _dispatch(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"usage: hedge-cloud {{{','.join(COMMANDS)}}} ...\n\n`hedge-cloud COMMAND --help` says more.\n")
        if not arguments:
            sys.exit(2)
        return
    if arguments[0] not in COMMANDS:
        raise BadInput(f"no command {arguments[0]!r}; there are {', '.join(COMMANDS)}")
    COMMANDS[arguments[0]](arguments[1:])
