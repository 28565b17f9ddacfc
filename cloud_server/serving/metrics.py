"""What the server does, as Prometheus counts it."""

from collections.abc import Iterator

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from hedge.cloud_server.engines.batcher import Pass
from hedge.cloud_server.engines.scoring import ScoringCounts
from hedge.v1 import hedge_pb2 as pb

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class _Theirs(Collector):
    """Part of the registry of the process."""

    def __init__(self, names: str) -> None:
        self._names = names

    def collect(self) -> Iterator[Metric]:
        return (family for family in REGISTRY.collect() if family.name.startswith(self._names))


class CloudMetrics:
    """One registry per server, so that several live in one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.sessions = Gauge("hedge_sessions", "Sessions that are open", registry=registry)
        self.queue = Gauge(
            "hedge_queue_length", "Sessions that wait for a forward pass", registry=registry
        )
        self.kv_bytes = Gauge("hedge_kv_bytes", "KV memory in use", registry=registry)
        self.kv_budget = Gauge("hedge_kv_budget_bytes", "KV memory there is", registry=registry)
        self.difference = Gauge(
            "hedge_logit_difference",
            "How much a logit moves with what else is in a pass; 0: no bit",
            registry=registry,
        )
        self.evictions = Gauge(
            "hedge_evictions",
            "Sessions whose memory was given to another, so far",
            registry=registry,
        )
        self._batch = Histogram(
            "hedge_batch_sessions", "Sessions in a forward pass", buckets=SIZES, registry=registry
        )
        self._forward = Histogram(
            "hedge_forward_seconds", "A forward pass", buckets=SECONDS, registry=registry
        )
        self._positions = Counter(
            "hedge_positions", "Positions through the model", registry=registry
        )
        self._found = Counter(
            "hedge_found_tokens", "Tokens found in memory instead of computed", registry=registry
        )
        self._verdict = Histogram(
            "hedge_verdict_seconds",
            "From a draft to its verdict",
            buckets=SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "hedge_tokens", "Tokens by what became of them", ["outcome"], registry=registry
        )
        self._near_ties = Counter(
            "hedge_near_ties", "Judged positions that rounding could decide", registry=registry
        )
        self._bytes = Counter(
            "hedge_message_bytes", "Messages, without framing", ["direction"], registry=registry
        )
        self._refusals = Counter(
            "hedge_refusals", "Streams ended by an error", ["reason"], registry=registry
        )

    def passed(self, one: Pass) -> None:
        self._batch.observe(one.sessions)
        self._forward.observe(one.seconds)
        self._positions.inc(one.positions)
        self._found.inc(one.found)

    def scored(self, counts: ScoringCounts) -> None:
        """The server asks an engine that tells the likeliest tokens."""
        for name, what, value in (
            (
                "hedge_certified_positions",
                "Positions decided from the likeliest tokens, so far",
                lambda: counts.positions,
            ),
            (
                "hedge_second_questions",
                "Positions that had to be asked about again, so far",
                lambda: counts.again,
            ),
        ):
            Gauge(name, what, registry=self.registry).set_function(value)

    def include(self, names: str) -> None:
        """Passes on what an engine in this process counts by itself, in families whose names begin
        with `names`.
        """
        self.registry.register(_Theirs(names))

    def judged(self, verdict: pb.Verdict, tested: int, untested: int, seconds: float) -> None:
        """A draft of `tested` and `untested` ids has its verdict."""
        self._verdict.observe(seconds)
        self._tokens.labels("accepted").inc(verdict.accepted)
        self._tokens.labels("rejected").inc(tested - verdict.accepted)
        self._tokens.labels("untested").inc(untested)
        if verdict.HasField("bonus"):
            self._tokens.labels("bonus").inc()

    def received(self, message: pb.ClientMessage) -> None:
        self._bytes.labels("up").inc(message.ByteSize())

    def sent(self, message: pb.ServerMessage) -> None:
        self._near_ties.inc(message.verdict.near_ties)
        self._bytes.labels("down").inc(message.ByteSize())

    def refused(self, reason: str) -> None:
        self._refusals.labels(reason).inc()

    def text(self) -> bytes:
        return bytes(generate_latest(self.registry))
