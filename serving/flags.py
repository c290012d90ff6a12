"""tensorflow_model_server's command line, and the few flags that it lacks.

Flags, defaults and meanings are those of TF Serving 2.19 (model_servers/main.cc), except where the help says otherwise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bertline.errors import UserError
from bertline.serving import configuration
from bertline.serving.batching import BatchingOptions
from bertline.serving.common_flags import (
    FREE_PORT,
    add_host,
    add_record_flags,
    add_switch,
    channel_arguments,
    port_of,
    record_options,
)
from bertline.serving.limits import Limits
from bertline.serving.models import one_model
from bertline.serving.options import ServerOptions
from bertline.serving.protos import ConfigProto, ModelServerConfig
from bertline.serving.versions import Polling

METRICS_PATH = "/monitoring/prometheus/metrics"  # where TF Serving has them unless told otherwise

# Flags of tensorflow_model_server that this server does not have, and why.
_ABSENT = {
    "use_alts_credentials": "ALTS works inside Google's cloud only; use --ssl_config_file",
    "platform_config_file": "there is one platform, tensorflow; use --tensorflow_session_config_file",
    "per_process_gpu_memory_fraction": "set gpu_options in --tensorflow_session_config_file",
    "prefer_tflite_model": "TensorFlow Lite models are not served",
    "num_tflite_pools": "TensorFlow Lite models are not served",
    "num_tflite_interpreters_per_pool": "TensorFlow Lite models are not served",
    "enable_per_model_batching_parameters": "use one --batching_parameters_file",
    "enable_profiler": "there is no profiler service",
    "xla_cpu_compilation_enabled": "set graph_options in --tensorflow_session_config_file",
    "xla_gpu_compilation_enabled": "set graph_options in --tensorflow_session_config_file",
    "thread_pool_factory_config_file": "there is one kind of thread pool",
    "mixed_precision": "a model is exported in its precision",
}
# Flags for what this server does by itself. They are accepted, so that one command line fits both servers.
_WITHOUT_EFFECT = (
    "rest_api_num_threads",
    "grpc_max_threads",
    "num_load_threads",
    "num_unload_threads",
    "flush_filesystem_caches",
    "remove_unused_fields_from_bundle_metagraph",
    "enable_signature_method_name_check",
    "skip_initialize_tpu",
)


def parse(arguments: list[str] | None = None) -> tuple[ServerOptions, bool]:
    """The server's options, and whether it ends with the process that started it.

    Args:
        arguments: flags; None for those of the process.

    Raises:
        UserError: a file that a flag names cannot be read, or values contradict each other.
        SystemExit: a flag is unknown or has no meaning here; the screen says which.
    """
    parser = _parser()
    flags = parser.parse_args(arguments)
    for name, reason in _ABSENT.items():
        if getattr(flags, name) is not None:
            parser.error(f"--{name} is not supported: {reason}")
    if not flags.model_config_file and not flags.model_base_path:
        parser.error("give --model_base_path, or --model_config_file")
    if flags.port == 0 and not flags.grpc_socket_path:
        parser.error("--port=0 listens on no port, so --grpc_socket_path is needed")
    return _options(flags), flags.exit_with_parent


def _options(flags: argparse.Namespace) -> ServerOptions:
    by_file = bool(flags.model_config_file)
    return ServerOptions(
        models=ModelServerConfig() if by_file else one_model(flags.model_name, flags.model_base_path),
        models_file=Path(flags.model_config_file) if by_file else None,
        models_file_poll_seconds=flags.model_config_file_poll_wait_seconds,
        host=flags.host,
        port=port_of(flags.port),
        socket_path=flags.grpc_socket_path,
        rest_port=port_of(flags.rest_api_port),
        rest_timeout=flags.rest_api_timeout_in_ms / 1000,
        cors=flags.rest_api_enable_cors_support,
        metrics_path=_metrics_path(flags.monitoring_config_file),
        polling=Polling(
            flags.file_system_poll_wait_seconds,
            flags.max_num_load_retries if flags.num_load_retries is None else flags.num_load_retries,
            flags.load_retry_interval_micros / 1e6,
        ),
        labels_in_advance=flags.allow_version_labels_for_unavailable_models,
        batching=_batching(flags),
        tags=tuple(flags.saved_model_tags.split(",")),
        session=_session(flags),
        warm_up=flags.enable_model_warmup,
        warm_up_rounds=max(flags.num_request_iterations_for_warmup, 1),
        as_content=flags.enable_serialization_as_tensor_content,
        health=flags.enable_grpc_healthcheck_service,
        tls=_read(flags.ssl_config_file, configuration.SSLConfig),
        keys_file=Path(flags.api_keys_file) if flags.api_keys_file else None,
        reload_roots=None if flags.reload_roots is None else tuple(filter(None, flags.reload_roots.split(","))),
        limits=Limits(
            max_batch_rows=flags.max_batch_rows,
            max_text_bytes=flags.max_text_bytes,
            max_concurrent_requests=flags.max_concurrent_requests,
            max_request_bytes=flags.max_request_bytes,
            max_bytes_in_flight=flags.max_bytes_in_flight,
        ),
        grpc_arguments=channel_arguments(flags.grpc_channel_arguments),
        records=record_options(flags),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bertline-model-server",
        description="Serves SavedModels over TF Serving's gRPC and REST, with tensorflow_model_server's flags.",
        allow_abbrev=False,
    )
    _add_serving_flags(parser)
    _add_loading_flags(parser)
    _add_own_flags(parser)
    for name in _WITHOUT_EFFECT:
        parser.add_argument(f"--{name}", nargs="?", const="true", help="accepted, without effect here")
    for name, reason in _ABSENT.items():
        parser.add_argument(f"--{name}", nargs="?", const="true", help=f"not supported: {reason}")
    return parser


def _add_serving_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it listens")
    free = f"{FREE_PORT} takes a free one and prints it"
    group.add_argument("--port", type=int, default=8500, help=f"TCP port for gRPC; 0 has none, {free}")
    group.add_argument("--grpc_socket_path", help="a Unix socket for gRPC, in addition to the port")
    group.add_argument("--rest_api_port", type=int, default=0, help=f"TCP port for REST; 0 has none, {free}")
    group.add_argument("--rest_api_timeout_in_ms", type=int, default=30_000, help="time that a REST request may take")
    add_switch(group, "rest_api_enable_cors_support", False, "let pages of other sites call REST")
    group.add_argument("--grpc_channel_arguments", default="", help="of the gRPC server: name=value,name=value")
    group.add_argument("--ssl_config_file", help="an SSLConfig in text form, for gRPC and REST")
    group.add_argument("--monitoring_config_file", help="a MonitoringConfig in text form; metrics are on the REST port")
    add_switch(group, "enable_grpc_healthcheck_service", True, "gRPC's health service (TF Serving's default: off)")
    add_switch(group, "enable_serialization_as_tensor_content", False, "answer numbers as raw bytes")
    group.add_argument("--version", action="version", version=f"%(prog)s {_version()}")


def _add_loading_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what it serves")
    group.add_argument("--model_name", default="default", help="the name that requests call the model by")
    group.add_argument("--model_base_path", help="the serving folder, with one folder per version")
    group.add_argument("--model_config_file", help="a ModelServerConfig in text form, in place of the two above")
    group.add_argument("--model_config_file_poll_wait_seconds", type=float, default=0, help="0 reads it once")
    group.add_argument("--file_system_poll_wait_seconds", type=_not_negative, default=1.0, help="0 looks once")
    group.add_argument("--max_num_load_retries", type=int, default=5, help="of a version that does not load")
    group.add_argument("--num_load_retries", type=int, help="another name of --max_num_load_retries")
    group.add_argument("--load_retry_interval_micros", type=int, default=60_000_000, help="time between them")
    add_switch(group, "allow_version_labels_for_unavailable_models", False, "labels on versions yet to come")
    group.add_argument("--saved_model_tags", default="serve", help="tags of the graph to load, separated by commas")
    add_switch(group, "enable_model_warmup", True, "replay assets.extra/tf_serving_warmup_requests before answering")
    group.add_argument("--num_request_iterations_for_warmup", type=int, default=1, help="how often each is replayed")
    add_switch(group, "enable_batching", False, "let requests share runs of the graph")
    group.add_argument("--batching_parameters_file", help="BatchingParameters in text form")
    group.add_argument("--tensorflow_session_parallelism", type=int, default=0, help="sets both of the two below")
    group.add_argument("--tensorflow_intra_op_parallelism", type=int, default=0, help="threads of one op; 0: all cores")
    group.add_argument(
        "--tensorflow_inter_op_parallelism",
        type=int,
        default=0,
        help="ops at once; 0: all cores, -1: one, in the thread that runs the batch",
    )
    group.add_argument("--tensorflow_session_config_file", help="a ConfigProto in text form")


def _add_own_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("flags that tensorflow_model_server does not have")
    limits = Limits()
    add_host(group, " (the real server: all)")
    group.add_argument("--api_keys_file", help="API keys, made by `bertline keys`; without it no key is needed")
    group.add_argument(
        "--reload_roots",
        help="folders (A,B) that HandleReloadConfigRequest may name; default: the start-up config's own",
    )
    group.add_argument("--max_request_bytes", type=int, default=limits.max_request_bytes, help="of one request")
    in_flight = "of all requests under way: as sent, unpacked and as tensors"
    group.add_argument("--max_bytes_in_flight", type=int, default=limits.max_bytes_in_flight, help=in_flight)
    group.add_argument("--max_batch_rows", type=int, default=limits.max_batch_rows, help="of one request")
    group.add_argument("--max_text_bytes", type=int, default=limits.max_text_bytes, help="of one string")
    group.add_argument("--max_concurrent_requests", type=int, default=limits.max_concurrent_requests, help="in all")
    add_record_flags(group)
    group.add_argument("--exit_with_parent", action="store_true", help="stop when the starting process is gone")


def _not_negative(text: str) -> float:
    if float(text) < 0:
        raise argparse.ArgumentTypeError("a negative time would wait forever; 0 looks once")
    return float(text)


def _read(file: str | None, message: type):
    return configuration.read_text_proto(file, message) if file else None


def _metrics_path(file: str | None) -> str | None:
    config = _read(file, configuration.MonitoringConfig)
    if config is None or not config.prometheus_config.enable:
        return None
    path = config.prometheus_config.path or METRICS_PATH
    if not path.startswith("/"):
        raise UserError(f"{file}: prometheus_config.path must begin with a slash, and is {path!r}")
    return path


def _batching(flags: argparse.Namespace) -> BatchingOptions | None:
    parameters = _read(flags.batching_parameters_file, configuration.BatchingParameters)
    if not flags.enable_batching:
        if parameters is not None:
            raise UserError("--batching_parameters_file has no effect without --enable_batching")
        return None
    try:
        return BatchingOptions.of(parameters) if parameters is not None else BatchingOptions()
    except UserError as error:
        raise UserError(f"{flags.batching_parameters_file}: {error}") from error


def _session(flags: argparse.Namespace) -> ConfigProto:
    config = _read(flags.tensorflow_session_config_file, ConfigProto) or ConfigProto()
    config.intra_op_parallelism_threads = (
        flags.tensorflow_intra_op_parallelism
        or flags.tensorflow_session_parallelism
        or config.intra_op_parallelism_threads
    )
    config.inter_op_parallelism_threads = (
        flags.tensorflow_inter_op_parallelism
        or flags.tensorflow_session_parallelism
        or config.inter_op_parallelism_threads
    )
    return config


def _version() -> str:
    from importlib.metadata import version

    return version("bertline")
