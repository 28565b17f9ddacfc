"""What an operator asks over HTTP: /metrics, /healthz, /readyz."""

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cloud_server.metrics import Metrics


def operator_app(metrics: Metrics, ready: Callable[[], bool]) -> Starlette:
    async def scrape(_: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def alive(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readiness(_: Request) -> Response:
        return PlainTextResponse("ready\n") if ready() else PlainTextResponse("draining\n", 503)

    return Starlette(routes=[Route("/metrics", scrape), Route("/healthz", alive), Route("/readyz", readiness)])
