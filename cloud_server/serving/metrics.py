"""What the server does, as Prometheus counts it."""

from collections.abc import Iterator, Sequence

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

PREFIX = "hedge_cloud_"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class _ForeignCollector(Collector):
    """The families of the process's registry whose names begin with `prefix`."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def collect(self) -> Iterator[Metric]:
        return (family for family in REGISTRY.collect() if family.name.startswith(self._prefix))


class CloudMetrics:
    """One registry per server, so that several live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.sessions = self._gauge("sessions", "Sessions that are open")
        self.queue = self._gauge("queue_length", "Sessions that wait for a forward pass")
        self.kv_bytes = self._gauge("kv_bytes", "KV memory in use")
        self.kv_budget = self._gauge("kv_budget_bytes", "KV memory there is")
        self.difference = self._gauge(
            "logit_difference", "How much a logit moves with what else is in a pass; 0: no bit"
        )
        self.evictions = self._gauge("evictions", "Sessions evicted from memory, so far")
        self._batch = self._histogram("batch_sessions", "Sessions in a forward pass", SIZES)
        self._forward = self._histogram("forward_seconds", "A forward pass", SECONDS)
        self._verdict = self._histogram("verdict_seconds", "From a draft to its verdict", SECONDS)
        self._positions = self._counter("positions", "Positions through the model")
        self._found = self._counter("found_tokens", "Tokens found in memory instead of computed")
        self._tokens = self._counter("tokens", "Tokens by what became of them", "outcome")
        self._near_ties = self._counter("near_ties", "Judged positions that rounding could decide")
        self._bytes = self._counter("message_bytes", "Messages, without framing", "direction")
        self._refusals = self._counter("refusals", "Streams ended by an error", "reason")

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(PREFIX + name, meaning, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(PREFIX + name, meaning, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, meaning, labels, registry=self.registry)

    def observe_pass(self, one: Pass) -> None:
        self._batch.observe(one.sessions)
        self._forward.observe(one.seconds)
        self._positions.inc(one.positions)
        self._found.inc(one.found)

    def watch_scoring(self, counts: ScoringCounts) -> None:
        """The server asks an engine that tells the likeliest tokens."""
        certified = self._gauge(
            "certified_positions", "Positions decided from the likeliest tokens, so far"
        )
        certified.set_function(lambda: counts.positions)
        again = self._gauge("second_questions", "Positions that had to be asked about again")
        again.set_function(lambda: counts.again)

    def include(self, prefix: str) -> None:
        """Passes on the families of an engine in this process whose names begin with `prefix`."""
        self.registry.register(_ForeignCollector(prefix))

    def observe_verdict(
        self, verdict: pb.Verdict, tested: int, untested: int, seconds: float
    ) -> None:
        """A draft of `tested` and `untested` ids has its verdict."""
        self._verdict.observe(seconds)
        self._tokens.labels("accepted").inc(verdict.accepted)
        self._tokens.labels("rejected").inc(tested - verdict.accepted)
        self._tokens.labels("untested").inc(untested)
        if verdict.HasField("bonus"):
            self._tokens.labels("bonus").inc()

    def count_received(self, message: pb.ClientMessage) -> None:
        self._bytes.labels("up").inc(message.ByteSize())

    def count_sent(self, message: pb.ServerMessage) -> None:
        self._near_ties.inc(message.verdict.near_ties)
        self._bytes.labels("down").inc(message.ByteSize())

    def count_refusal(self, reason: str) -> None:
        self._refusals.labels(reason).inc()

    def render(self) -> bytes:
        return bytes(generate_latest(self.registry))
