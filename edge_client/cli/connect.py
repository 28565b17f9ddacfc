"""Loading the SLM and reaching the cloud, once per command."""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hedge.common.command import model_options, say
from hedge.common.loading import load
from hedge.common.model import LanguageModel, context_line
from hedge.edge_client.calibrations import Pair
from hedge.edge_client.cli.settings import check_connection, cloud_config, needs_cloud
from hedge.edge_client.client import AsyncHedge
from hedge.edge_client.receipt import Prices, ReceiptLog
from hedge.edge_client.transport.connect import reached
from hedge.edge_client.transport.grpc_link import GrpcLink


def load_slm(args: argparse.Namespace) -> LanguageModel:
    options = model_options(args, args.slm)
    slm = load(args.slm, "slm", options)
    if line := context_line(slm, options):
        say(f"hedge: {line}")
    return slm


def hedge_from(args: argparse.Namespace, slm: LanguageModel) -> AsyncHedge:
    """The way to answers that the options ask for."""
    needed = needs_cloud(args)
    return AsyncHedge(
        cloud_config(args) if needed else None,
        slm=slm,
        system="hedge" if needed else "slm",
        calibration=args.calibration,
        remember=not args.no_memory,
        prices=Prices.of(args.prices),
        on_receipt=ReceiptLog(args.receipts).add,
        notify=lambda line: say(f"hedge: {line}"),
    )


@asynccontextmanager
async def connected(
    args: argparse.Namespace, slm: LanguageModel, *, cloud: bool | None = None
) -> AsyncIterator[tuple[GrpcLink | None, Pair]]:
    """The link, None for a system that needs no cloud, and what is known of the pair."""
    if not (needs_cloud(args) if cloud is None else cloud):
        check_connection(args, needed=False)
        yield None, Pair(slm, None)
        return
    async with reached(cloud_config(args), slm, lambda line: say(f"hedge: {line}")) as link:
        yield link, Pair(slm, link.info)
