"""What the log proxy counts and times, for Prometheus. TF Serving's own metrics stay its own."""

from __future__ import annotations

import grpc
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics

from bertline.serving.metrics import RecordCounters

# 0.1 ms, which gRPC's Python takes at least, to a second, in which nobody should have to wait for a proxy.
_SECONDS = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1]


class ProxyMetrics:
    """The figures of one log proxy. Safe to call from any thread.

    Attributes:
        registry: of its own.
        records: counts the records.
    """

    def __init__(self):
        disable_created_metrics()
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.records = RecordCounters(registry)
        self._requests = Counter(
            "bertline_log_proxy_requests",
            "Requests passed on that answer texts, by method, the way they came in, and the code of the answer.",
            ["method", "entrypoint", "code"],
            registry=registry,
        )
        self._seconds = Histogram(
            "bertline_log_proxy_seconds",
            "Seconds that such a request spent in the proxy, without those that the server behind took to answer.",
            ["entrypoint"],
            buckets=_SECONDS,
            registry=registry,
        )

    def observe(self, method: str, entrypoint: str, code: grpc.StatusCode, seconds: float) -> None:
        """A request was answered.

        Args:
            method: Predict or Classify.
            entrypoint: `GRPC` or `REST`.
            code: of the answer.
            seconds: in the proxy itself.
        """
        self._requests.labels(method, entrypoint, code.name).inc()
        self._seconds.labels(entrypoint).observe(max(seconds, 0.0))
