"""What a server serves, where it listens and what it lets pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bertline.serving.batching import BatchingOptions
from bertline.serving.canary_plan import CanaryPlan
from bertline.serving.limits import Limits
from bertline.serving.protos import ConfigProto, ModelServerConfig
from bertline.serving.recording import RecordOptions
from bertline.serving.versions import Polling

if TYPE_CHECKING:
    from bertline.serving.canary_watch import Measure
    from bertline.serving.configuration import SSLConfig


@dataclass(frozen=True)
class ServerOptions:
    """What a server serves, where it listens and what it lets pass.

    Args:
        models: the models to serve; ignored if there is a `models_file`.
        models_file: a ModelServerConfig in text form.
        models_file_poll_seconds: time between two looks at that file; 0 reads it once.
        host: address to listen on; loopback unless the network is meant to reach it.
        port: TCP port for gRPC; 0 takes a free one, None listens on none.
        socket_path: path of a Unix socket for gRPC, in addition to the port.
        rest_port: TCP port for REST and metrics; 0 takes a free one, None listens on none.
        rest_timeout: seconds that a REST request may take.
        cors: whether pages of other sites may call REST.
        metrics_path: the REST path with Prometheus' metrics; None for no metrics.
        polling: how often to look at the models' folders.
        labels_in_advance: whether labels may name versions that are not loaded yet.
        batching: how requests share runs; None runs each by itself.
        tags: of the graph to load from a SavedModel.
        session: TensorFlow's session: threads and the like.
        warm_up: whether a version is warmed before it answers.
        warm_up_rounds: how often each recorded request is replayed.
        as_content: whether Predict answers numbers as raw bytes.
        health: whether there is gRPC's health service.
        tls: certificates; None speaks in the clear.
        keys_file: API keys, one of which each request needs; None for no keys.
        reload_roots: folders that HandleReloadConfigRequest may name; None for those of the models first served.
        limits: the most that a request may take.
        records: what is kept of each request; None for nothing.
        canary: how a new version of the one model is tried in traffic; None serves each new version at once.
        shadow_records: what is kept of the answers of a canary that shadows; None for nothing.
        measure: counts the answers of the two versions whose labels are known; None where none are.
        grpc_arguments: channel arguments of the gRPC server, such as ("grpc.max_connection_age_ms", 2000).
    """

    models: ModelServerConfig = field(default_factory=ModelServerConfig)
    models_file: Path | None = None
    models_file_poll_seconds: float = 0.0
    host: str = "127.0.0.1"
    port: int | None = 8500
    socket_path: str | None = None
    rest_port: int | None = None
    rest_timeout: float = 30.0  # TF Serving's
    cors: bool = False
    metrics_path: str | None = None
    polling: Polling = field(default_factory=Polling)
    labels_in_advance: bool = False
    batching: BatchingOptions | None = None
    tags: tuple[str, ...] = ("serve",)
    session: ConfigProto | None = None
    warm_up: bool = True
    warm_up_rounds: int = 1
    as_content: bool = False
    health: bool = True
    tls: SSLConfig | None = None
    keys_file: Path | None = None
    reload_roots: tuple[str, ...] | None = None
    limits: Limits = field(default_factory=Limits)
    records: RecordOptions | None = None
    canary: CanaryPlan | None = None
    shadow_records: RecordOptions | None = None
    measure: Measure | None = None
    grpc_arguments: tuple[tuple[str, int | str], ...] = ()
