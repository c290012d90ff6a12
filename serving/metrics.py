"""What the server counts and times, for Prometheus.

Metrics that TF Serving has keep its names, labels and units (its `/tensorflow/serving/request_count` is written
`:tensorflow:serving:request_count`), so that a dashboard made for one shows the other. The rest is `bertline_*`, in
Prometheus' own manner: seconds, and counters that end in `_total`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric

# 10 us to about 20 minutes: TF Serving's own limits, so that quantiles of both come from the same buckets.
_LATENCY_MICROSECONDS = [10 * 1.8**step for step in range(33)]
# 0.1 ms to about 1 s, TF Serving's own as well.
_QUEUING_MICROSECONDS = [100 * 1.2**step for step in range(52)]
_ROWS = [2**step for step in range(14)]
# A model of a few MB loads in tenths of a second; one of gigabytes, from a network disk, in minutes.
_LOAD_SECONDS = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500]


class RecordCounters:
    """Records of requests: written, and dropped by reason. Safe to call from any thread."""

    def __init__(self, registry: CollectorRegistry):
        self._written = Counter("bertline_records_written", "Records of requests written.", registry=registry)
        self._dropped = Counter(
            "bertline_records_dropped",
            "Records of requests lost: too many at once, one too large, a disk that took none, or the server's end.",
            ["reason"],
            registry=registry,
        )

    def count(self, rows: int, why: str) -> None:
        """Records were written, or dropped for a reason.

        Args:
            rows: how many.
            why: the reason; "" for written ones.
        """
        (self._dropped.labels(why) if why else self._written).inc(rows)


class CanaryFigures:
    """What is tried in traffic, and what comes of it, by model. Safe to call from any thread."""

    def __init__(self, registry: CollectorRegistry):
        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(f"bertline_canary_{name}", words, ["model", *labels], registry=registry)

        self._version = Gauge(
            "bertline_canary_version",
            "The stable version, and the canary that is tried beside it; 0 without one.",
            ["model", "role"],
            registry=registry,
        )
        self._requests = counter(
            "requests",
            "Requests while a canary is tried that named no version, by what answered them; shadow: the canary beside.",
            "by",
        )
        self._errors = counter(
            "errors", "Requests that failed at the canary and that the stable version answered.", "code"
        )
        self._texts = counter(
            "texts", "Texts that both versions answered, by whether they gave the same labels.", "agree"
        )
        self._dropped = counter("dropped", "Requests that were not answered by the other version too.")
        self._decisions = counter("decisions", "Canaries that were promoted or withdrawn.", "decision")

    def show(self, model: str, stable: int | None, canary: int | None) -> None:
        """Which version is stable, and which is tried; None for none."""
        for role, version in (("stable", stable), ("canary", canary)):
            self._version.labels(model, role).set(version or 0)

    def count_request(self, model: str, by: str) -> None:
        """A request was answered by `stable` or `canary`, or by the canary beside the stable version: `shadow`."""
        self._requests.labels(model, by).inc()

    def count_error(self, model: str, code: grpc.StatusCode) -> None:
        """A request failed at the canary, and the stable version answered it."""
        self._errors.labels(model, code.name).inc()

    def count_texts(self, model: str, agreeing: int, others: int) -> None:
        """Both versions answered some texts, and gave so many of them the same labels."""
        self._texts.labels(model, "yes").inc(agreeing)
        self._texts.labels(model, "no").inc(others)

    def count_dropped(self, model: str) -> None:
        """A request was not answered by the other version too."""
        self._dropped.labels(model).inc()

    def count_decision(self, model: str, decision: str) -> None:
        """A canary was `promoted` or `withdrawn`."""
        self._decisions.labels(model, decision).inc()


class Metrics:
    """The figures of one server. Safe to call from any thread.

    Attributes:
        registry: a prometheus_client CollectorRegistry of its own, so that several servers fit in one process.
        records: counts the records.
        canaries: shows which version is tried in traffic, and counts what comes of it.
    """

    def __init__(self):
        disable_created_metrics()  # prometheus_client has no switch for one registry; TF Serving has no such series
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._depths: list[Callable[[], int]] = []  # of the batch queues
        self._count_requests(registry)
        self._count_batches(registry)
        self._count_loads(registry)
        self._key_file_faults = Counter(
            "bertline_key_file_faults", "Times that the file of API keys could no longer be read.", registry=registry
        )
        self.records = RecordCounters(registry)
        self.canaries = CanaryFigures(registry)
        self._series = functools.cache(self._series_of)  # finding a series by its labels costs more than counting

    def _count_requests(self, registry: CollectorRegistry) -> None:
        self._request_count = Counter(
            ":tensorflow:serving:request_count", "Requests answered.", ["model_name", "status"], registry=None
        )
        registry.register(_BareCounter(self._request_count))
        self._request_latency = Histogram(
            ":tensorflow:serving:request_latency",
            "Microseconds from a request's arrival to its answer, of requests answered with OK.",
            ["model_name", "API", "entrypoint"],
            buckets=_LATENCY_MICROSECONDS,
            registry=registry,
        )
        self._requests = Counter(
            "bertline_requests",
            "Requests answered, by the method that was called and the way it came in.",
            ["model", "method", "entrypoint", "code"],
            registry=registry,
        )

        self._in_flight = Gauge(
            "bertline_requests_in_flight", "Requests that run or wait for their turn.", registry=registry
        )

    def _count_batches(self, registry: CollectorRegistry) -> None:
        self._queuing_latency = Histogram(
            ":tensorflow:serving:batching_session:queuing_latency",
            "Microseconds that the oldest request of a batch waited in its queue. Each model has queues of its own: "
            "thread_pool_name is the model's.",
            ["thread_pool_name"],
            buckets=_QUEUING_MICROSECONDS,
            registry=registry,
        )
        self._processed_batch_size = Histogram(
            ":tensorflow:serving:batching_session:processed_batch_size",
            "Rows of each batch that ran, padding among them.",
            buckets=_ROWS,
            registry=registry,
        )
        self._padding_size = Histogram(
            ":tensorflow:serving:batching_session:padding_size",
            "Rows of padding, of the batches that were padded.",
            ["execution_batch_size"],
            buckets=_ROWS,
            registry=registry,
        )
        self._batch_rows = Histogram(
            "bertline_batch_rows",
            "Rows of requests in each batch that ran, without padding.",
            ["model", "signature"],
            buckets=_ROWS,
            registry=registry,
        )
        self._queue_depth = Gauge("bertline_queue_depth", "Requests that wait in batch queues.", registry=registry)

    def _count_loads(self, registry: CollectorRegistry) -> None:
        self._load_seconds = Histogram(
            "bertline_model_load_seconds",
            "Seconds to load and warm a version, or to find that it does not load.",
            ["model", "result"],
            buckets=_LOAD_SECONDS,
            registry=registry,
        )
        self._loaded_version = Gauge(
            "bertline_model_loaded_version", "The version that was loaded last.", ["model"], registry=registry
        )

    def observe_request(self, model: str, method: str, entrypoint: str, code: grpc.StatusCode, seconds: float) -> None:
        """A request was answered.

        Args:
            model: a model that is served, "" for any other: strangers' names would make label values without end.
            method: `Predict`, `Classify` ... over gRPC, `predict`, `classify` ... over REST, as TF Serving has them.
            entrypoint: `GRPC` or `REST`.
            code: the status it was answered with.
            seconds: from arrival to answer; recorded only for OK, as in TF Serving.
        """
        count, requests, latency = self._series(model, method, entrypoint, code)
        count.inc()
        requests.inc()
        if latency:
            latency.observe(seconds * 1e6)

    def _series_of(
        self, model: str, method: str, entrypoint: str, code: grpc.StatusCode
    ) -> tuple[Counter, Counter, Histogram | None]:
        """The two counters of such an answer, and its histogram if it is OK."""
        latency = self._request_latency.labels(model, method, entrypoint) if code is grpc.StatusCode.OK else None
        return (
            self._request_count.labels(model, code.name),
            self._requests.labels(model, method, entrypoint, code.name),
            latency,
        )

    def observe_batch(self, model: str, signature: str, rows: int, padding_rows: int, queued_seconds: float) -> None:
        """A batch ran.

        Args:
            model: its model.
            signature: its signature.
            rows: of its requests.
            padding_rows: added to them, to reach an allowed size.
            queued_seconds: that its oldest request waited.
        """
        self._queuing_latency.labels(model).observe(queued_seconds * 1e6)
        self._batch_rows.labels(model, signature).observe(rows)
        self._processed_batch_size.observe(rows + padding_rows)
        # Unpadded batches are left out: without allowed_batch_sizes any size occurs, each a label value with 15 series.
        if padding_rows:
            self._padding_size.labels(rows + padding_rows).observe(padding_rows)

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Takes the depth of one more queue from `depth` whenever the metrics are read.

        Args:
            depth: gives the number of requests that wait; called from the thread that renders.
        """
        self._depths.append(depth)
        self._queue_depth.set_function(lambda: sum(each() for each in self._depths))

    def watch_requests(self, in_flight: Callable[[], int]) -> None:
        """Takes the number of requests that run or wait from `in_flight` whenever the metrics are read.

        Args:
            in_flight: gives it; called from the thread that renders.
        """
        self._in_flight.set_function(in_flight)

    def count_key_file_fault(self) -> None:
        """The key file turned out to be unreadable, so that every call is refused."""
        self._key_file_faults.inc()

    def observe_load(self, model: str, version: int, seconds: float, loaded: bool) -> None:
        """A version was loaded and warmed, or turned out not to load.

        Args:
            model: its model.
            version: its number.
            seconds: it took.
            loaded: False where it failed.
        """
        self._load_seconds.labels(model, "loaded" if loaded else "failed").observe(seconds)
        if loaded:
            self._loaded_version.labels(model).set(version)

    def render(self) -> tuple[bytes, str]:
        """All metrics, in Prometheus' text format.

        That is TF Serving's one format; prometheus_client's OpenMetrics would write `_` for each `:` in the names.

        Returns:
            The body and its content type.
        """
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4


class _BareCounter:
    """A counter under its bare name: prometheus_client adds `_total` to every counter, which TF Serving's lack.

    Its type is "untyped" then; `rate()` does not mind.
    """

    def __init__(self, counter: Counter):
        self._counter = counter

    def collect(self) -> Iterable[Metric]:
        for counted in self._counter.collect():
            bare = Metric(counted.name, counted.documentation, "untyped")
            for sample in counted.samples:
                bare.add_sample(counted.name, sample.labels, sample.value)
            yield bare
