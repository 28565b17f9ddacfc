"""What `hedge serve` does, as Prometheus counts it."""

from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    generate_latest,
)
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class Metrics:
    """One registry per server, so that several live in one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._answers = Counter(
            "hedge_device_answers", "Answers that have ended", ["system"], registry=registry
        )
        self._tokens = Counter(
            "hedge_device_tokens",
            "Tokens by who vouches for them",
            ["provenance"],
            registry=registry,
        )
        self._passes = Counter(
            "hedge_device_llm_passes", "Passes of the cloud's model", registry=registry
        )
        self._positions = Counter(
            "hedge_device_llm_positions", "Positions of those passes", registry=registry
        )
        self._bytes = Counter(
            "hedge_device_message_bytes",
            "Messages, without framing",
            ["direction"],
            registry=registry,
        )
        self._lost = Counter(
            "hedge_device_cloud_lost", "Times that an answer lost the cloud", registry=registry
        )
        self._near_ties = Counter(
            "hedge_device_near_ties", "Positions that rounding could decide", registry=registry
        )
        self.open = Gauge(
            "hedge_device_open_requests", "Requests that are being answered", registry=registry
        )
        self.up = Gauge(
            "hedge_device_cloud_up",
            "Whether the cloud was there when it was last heard of",
            registry=registry,
        )

    def answered(self, receipt: dict[str, Any]) -> None:
        self._answers.labels(receipt["system"]).inc()
        for kind, count in receipt["tokens"].items():
            if kind != "all":
                self._tokens.labels(kind).inc(count)
        self._passes.inc(receipt["llm"]["passes"])
        self._positions.inc(receipt["llm"]["positions"])
        for direction in ("up", "down"):
            self._bytes.labels(direction).inc(receipt["bytes"][direction])
        self._lost.inc(len(receipt["without_cloud_s"]))
        self._near_ties.inc(receipt["near_ties"])

    def routes(self) -> list[Route]:
        async def scrape(request: Request) -> Response:  # noqa: ARG001
            return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

        return [Route("/metrics", scrape)]
