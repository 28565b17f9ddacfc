"""What an operator asks over HTTP: a page that is read only, /metrics, /healthz, /readyz."""

from collections.abc import Callable
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from hedge.cloud_server.serving.metrics import CloudMetrics
from hedge.common.http import serve_files

FILES = {"/": "operator.html", "/operator.js": "operator.js", "/operator.css": "operator.css"}


def make_operator_app(metrics: CloudMetrics, ready: Callable[[], bool]) -> Starlette:
    async def scrape(_: Request) -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)

    async def alive(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readiness(_: Request) -> Response:
        return PlainTextResponse("ready\n") if ready() else PlainTextResponse("draining\n", 503)

    answers = [Route("/metrics", scrape), Route("/healthz", alive), Route("/readyz", readiness)]
    return Starlette(routes=[*answers, *serve_files(Path(__file__).parent / "web", FILES)])
