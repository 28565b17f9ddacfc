"""The server as a process: what listens where, and how it starts, reloads and stops."""

import argparse
import asyncio
import logging
from collections.abc import Awaitable, Callable

import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection

from hedge.cloud_server.serving.access import Access
from hedge.cloud_server.serving.backend import Backend, open_backend
from hedge.cloud_server.serving.http import make_operator_app
from hedge.cloud_server.serving.metrics import CloudMetrics
from hedge.cloud_server.serving.options import read_limits
from hedge.cloud_server.serving.servicer import ErrorInterceptor, Servicer
from hedge.common import signals
from hedge.common.command import say
from hedge.common.errors import HedgeError, Unreachable
from hedge.common.http import check_free, serving
from hedge.common.rpc import make_server, split_address
from hedge.common.tls import server_credentials
from hedge.v1 import hedge_pb2
from hedge.v1.hedge_pb2_grpc import add_HedgeServicer_to_server

logger = logging.getLogger(__name__)

SERVICE = hedge_pb2.DESCRIPTOR.services_by_name["Hedge"].full_name


async def serve_until_stopped(args: argparse.Namespace) -> None:
    """Serves until SIGINT or SIGTERM, then drains."""
    credentials = (
        None if args.insecure else server_credentials(args.tls_cert, args.tls_key, args.client_ca)
    )
    access = Access(args.tokens)
    metrics = CloudMetrics()
    for address in filter(None, (args.listen, args.http)):
        check_free(address)
    async with open_backend(args, metrics) as backend:
        await _serve(args, backend, credentials, access, metrics)


async def _serve(
    args: argparse.Namespace,
    backend: Backend,
    credentials: "grpc.ServerCredentials | None",
    access: Access,
    metrics: CloudMetrics,
) -> None:
    lm = backend.lm
    exactness = backend.exactness
    metrics.difference.set(exactness.difference)
    servicer = Servicer(lm, backend.runner, read_limits(args), access, metrics, exactness)
    health = HealthServicer()

    def register(made: grpc.aio.Server) -> None:
        add_HedgeServicer_to_server(servicer, made)
        health_pb2_grpc.add_HealthServicer_to_server(health, made)
        reflection.enable_server_reflection(
            (SERVICE, reflection.SERVICE_NAME, "grpc.health.v1.Health"), made
        )

    server = make_server(register, [ErrorInterceptor(metrics)])
    port = _listen(server, args.listen, credentials)
    http = (
        await serving(make_operator_app(metrics, lambda: not servicer.draining), args.http)
        if args.http
        else None
    )
    await server.start()
    for name in ("", SERVICE):
        await health.set(name, HealthCheckResponse.SERVING)
    host = args.listen.rpartition(":")[0]
    operator = (
        f", HTTP on {split_address(args.http, lowest_port=0)[0]}:{http[0].port}" if http else ""
    )
    say(f"hedge-cloud: {exactness}")
    say(f"hedge-cloud: {lm.name}{operator}, listening on {host}:{port}")
    failed = await _ended(access, backend.failed)
    servicer.draining = True
    await health.enter_graceful_shutdown()
    logger.info("draining for up to %g s", args.drain)
    await server.stop(grace=1.0 if failed else args.drain)
    if http:
        http[0].should_exit = True
        await http[1]
    if failed:
        raise Unreachable(
            f"the engine of {lm.name} has died; its sessions can go on at a server that is "
            "started again"
        )


def _listen(
    server: grpc.aio.Server, address: str, credentials: "grpc.ServerCredentials | None"
) -> int:
    host, wanted = split_address(address, lowest_port=0)
    try:
        if credentials is None:
            return server.add_insecure_port(f"{host}:{wanted}")
        return server.add_secure_port(f"{host}:{wanted}", credentials)
    except RuntimeError:
        raise HedgeError(
            f"cannot listen on {address}: the port is in use or the address is not this machine's"
        ) from None


async def _ended(access: Access, failed: Callable[[], Awaitable[object]]) -> bool:
    """Returns at SIGINT or SIGTERM, or when the engine has failed, which it tells; SIGHUP reads the
    tokens again.
    """
    waiting = [
        asyncio.ensure_future(signals.wait_for_stop(access.reload)),
        asyncio.ensure_future(failed()),
    ]
    ended, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    return waiting[0] not in ended
