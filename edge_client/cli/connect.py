"""Loading the SLM and reaching the cloud, once per command."""

import argparse
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from common.command import model_options, say
from common.errors import BadInput, Disconnected
from common.model import LanguageModel, context_line, load
from common.rpc import LOOPBACK
from common.tls import channel_credentials
from edge_client.cli.options import Pair, check_connection, needs_cloud
from edge_client.transport.grpc_link import GrpcLink
from edge_client.transport.messages import check_server, differences


def load_slm(args: argparse.Namespace) -> LanguageModel:
    options = model_options(args, args.slm)
    slm = load(args.slm, "slm", options)
    if line := context_line(slm, options):
        say(f"hedge: {line}")
    return slm


def read_token(args: argparse.Namespace) -> str | None:
    """The token of --token-file. It does not leave this machine in plaintext."""
    if args.token_file is None:
        return None
    if args.insecure and not all(address.rpartition(":")[0] in LOOPBACK for address in args.cloud.split(",")):
        raise BadInput(f"a token would be readable on the way to {args.cloud}: --token-file needs --tls-ca")
    try:
        token = str(args.token_file.read_text("ascii")).strip()
    except OSError as error:
        raise BadInput(f"cannot read {args.token_file}: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise BadInput(f"{args.token_file} does not hold one token")
    return token


@asynccontextmanager
async def connected(
    args: argparse.Namespace, slm: LanguageModel, *, cloud: bool | None = None
) -> AsyncIterator[tuple[GrpcLink | None, Pair]]:
    """The link, None for a system that needs no cloud, and what is known of the pair."""
    wanted = needs_cloud(args) if cloud is None else cloud
    check_connection(args, wanted)
    if not wanted:
        yield None, Pair(slm, None)
        return
    credentials = None if args.insecure else channel_credentials(args.tls_ca, args.tls_cert, args.tls_key)
    async with AsyncExitStack() as stack:
        try:
            link = await stack.enter_async_context(GrpcLink(args.cloud.split(","), credentials, read_token(args)))
        except Disconnected as error:
            raise Disconnected(f"{error}; `hedge doctor` says what to do", error.retry_after) from None
        check_server(link.info, slm)
        for line in differences(link.info, slm):
            say(f"hedge: {line}")
        yield link, Pair(slm, link.info)
