"""Loading the SLM and reaching the cloud, once per command."""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common.model import CausalLM, load, use_threads
from edge_client.grpc_link import GrpcLink
from edge_client.options import Pair, check_connection, needs_cloud
from edge_client.wire import check_server


def load_slm(args: argparse.Namespace) -> CausalLM:
    use_threads(args.threads)
    return load(args.slm, "slm", dtype=args.dtype, device=args.device)


@asynccontextmanager
async def connected(
    args: argparse.Namespace, slm: CausalLM, *, cloud: bool | None = None
) -> AsyncIterator[tuple[GrpcLink | None, Pair]]:
    """The link, None for a system that needs no cloud, and what is known of the pair."""
    wanted = needs_cloud(args) if cloud is None else cloud
    check_connection(args, wanted)
    if not wanted:
        yield None, Pair(slm, None)
        return
    async with GrpcLink(args.cloud.split(",")) as link:
        check_server(link.info, slm)
        yield link, Pair(slm, link.info)
