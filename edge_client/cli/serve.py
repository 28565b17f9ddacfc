"""hedge serve: the OpenAI-compatible API on the device, and its web page."""

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hedge.common import signals
from hedge.common.command import command_parser, parse, say
from hedge.common.errors import BadInput
from hedge.common.files import TEXT
from hedge.common.http import check_free, serving
from hedge.common.rpc import LOOPBACK, split_address
from hedge.edge_client.cli.connect import load_slm
from hedge.edge_client.cli.local_only import stay_local
from hedge.edge_client.cli.options import add_generation, add_logits, add_memory, add_receipts
from hedge.edge_client.cli.settings import cloud_config, overrides_from
from hedge.edge_client.client import AsyncHedge
from hedge.edge_client.http.api import Api
from hedge.edge_client.http.metrics import Metrics
from hedge.edge_client.http.page import Page
from hedge.edge_client.http.service import Service
from hedge.edge_client.receipt import Prices, ReceiptLog

EXAMPLES = """  hedge serve --insecure
  hedge serve --insecure --on-disconnect continue        (answers alone when the cloud is away)
  curl http://127.0.0.1:8080/v1/completions -d '{"model": "hedge", "prompt": "2 + 2 ="}'"""


def command(arguments: Sequence[str]) -> None:
    parser = command_parser(
        "hedge serve", "The OpenAI API on this device; every model is a system.", EXAMPLES
    )
    parser.add_argument(
        "--http", default="127.0.0.1:8080", metavar="HOST:PORT", help="port 0 picks a free one"
    )
    parser.add_argument("--host", help="in place of that of --http")
    parser.add_argument("--port", type=int, help="in place of that of --http")
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="holds the key that clients have to send"
    )
    parser.add_argument(
        "--cors",
        nargs="+",
        default=[],
        metavar="ORIGIN",
        help="web pages that may ask (default: none)",
    )
    parser.add_argument(
        "--link-control",
        metavar="HOST:PORT",
        help="of `hedge link --control`: the page can cut and slow it",
    )
    parser.add_argument(
        "--max-requests", type=int, default=64, metavar="N", help="at once (default 64)"
    )
    add_memory(parser)
    add_generation(parser)
    add_logits(parser)
    add_receipts(parser)
    args = parse(parser, arguments)
    stay_local(args)
    host, port = split_address(args.http, lowest_port=0)
    args.http = f"{args.host or host}:{port if args.port is None else args.port}"
    host, _ = split_address(args.http, lowest_port=0)
    if args.max_requests < 1:
        raise BadInput(f"max-requests {args.max_requests} is not at least 1")
    key = read_key(args.api_key_file)
    if host not in LOOPBACK and key is None:
        say(
            f"hedge serve: warning: {host} is not loopback, and without --api-key-file anybody may "
            "ask"
        )
    # Without one every request draws its own.
    seed = args.seed
    args.seed = args.seed or 0
    overrides = overrides_from(args)
    cloud = None if args.local_only else cloud_config(args)
    prices = Prices.of(args.prices)
    log = ReceiptLog(args.receipts)
    metrics = Metrics()
    check_free(args.http)
    slm = load_slm(args)
    slm.warm_up()

    def record(receipt: dict[str, Any]) -> None:
        log.add(receipt)
        metrics.answered(receipt)

    hedge = AsyncHedge(
        cloud,
        slm=slm,
        system="slm" if cloud is None else "hedge",
        calibration=args.calibration,
        remember=not args.no_memory,
        prices=prices,
        on_receipt=record,
        notify=lambda line: say(f"hedge: {line}"),
        wait_for_cloud=True,
    )
    service = Service(hedge, overrides.configure, metrics)
    asyncio.run(_serve(args, service, key, seed))


def read_key(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        key = path.read_text(TEXT).strip()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        key = ""
    if not key or not key.isprintable():
        raise BadInput(f"{path} does not hold one key")
    return key


async def _serve(
    args: argparse.Namespace, service: Service, key: str | None, seed: int | None
) -> None:
    host, _ = split_address(args.http, lowest_port=0)
    async with service.hedge as hedge:
        api = Api(service, key, args.max_requests, tuple(args.cors), seed)
        server, task = await serving(
            api.app(Page(api, service, args.link_control).routes()), args.http
        )
        alone = "alone (--local-only)" if args.local_only else "no cloud yet"
        link = hedge.link
        cloud = f"verified by {link.info.model_name} at {link.address}" if link else None
        say(f"hedge serve: {service.slm.name}, {cloud or alone}, listening on {host}:{server.port}")
        await signals.wait_for_stop()
        server.should_exit = True
        await task
