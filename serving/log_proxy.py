"""A process in front of tensorflow_model_server that keeps records of what is asked and answered.

    bertline-log-proxy --upstream=127.0.0.1:8510 --rest_upstream=http://127.0.0.1:8511 \\
        --port=8500 --rest_api_port=8501 --records_folder=/records

Clients call the proxy as they would call the server. Starts without TensorFlow.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
from prometheus_client import start_http_server

from bertline.errors import UserError
from bertline.serving import configuration, http, program, proxy_rest
from bertline.serving.common_flags import (
    FREE_PORT,
    add_host,
    add_record_flags,
    add_switch,
    channel_arguments,
    port_of,
    record_options,
)
from bertline.serving.configuration import SSLConfig
from bertline.serving.proxy_calls import Calls
from bertline.serving.proxy_metrics import ProxyMetrics
from bertline.serving.recording import RecordOptions
from bertline.serving.records import Recorder
from bertline.serving.sockets import address_of, listening, open_for_grpc
from bertline.serving.tls import ClientTls
from bertline.serving.upstream import Models

log = logging.getLogger("bertline.serving")

# Kubernetes kills a pod 30 s after SIGTERM, and writing the records takes up to 10 of them.
DRAIN_SECONDS = 15.0
SETTLE_SECONDS = 0.2  # requests that clients have sent arrive meanwhile
HEADER_BYTES = 64 << 10  # of a call: more than any server sends, so that the proxy is never the one that refuses
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Both ways, before what the flags say: the server behind decides what is too large.
MESSAGES = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", HEADER_BYTES),
    ("grpc.absolute_max_metadata_size", HEADER_BYTES),
)
BEHIND = (
    # grpc tries a call again by itself only where it never reached the server, such as on a connection that the server
    # was just closing. What else is tried again is the caller's to decide.
    ("grpc.initial_reconnect_backoff_ms", 200),  # the server starts beside the proxy, and takes longer
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True)
class ProxyOptions:
    """Where a log proxy listens, where the server is, and what is kept.

    Args:
        upstream: HOST:PORT of the server's gRPC.
        records: what is kept, and where.
        rest_upstream: http://HOST:PORT of the server's REST, or https://; None for no REST.
        upstream_tls: how its gRPC is reached, and its REST where that is https; None for gRPC without TLS.
        host: address to listen on.
        port: TCP port for gRPC; 0 takes a free one.
        rest_port: TCP port for REST; 0 takes a free one, None listens on none.
        metrics_port: TCP port for the proxy's own metrics; 0 takes a free one, None listens on none.
        tls: for those who call it, gRPC and REST; None listens without. The metrics are always without.
        grpc_arguments: channel arguments of the gRPC server.
    """

    upstream: str
    records: RecordOptions
    rest_upstream: str | None = None
    upstream_tls: ClientTls | None = None
    host: str = "127.0.0.1"
    port: int = 8500
    rest_port: int | None = None
    metrics_port: int | None = None
    tls: SSLConfig | None = None
    grpc_arguments: tuple[tuple[str, int | str], ...] = ()


class LogProxy:
    """The proxy, in the event loop that calls it.

    Raises (on start):
        UserError: a port cannot be opened, or the records' folder cannot be written.
    """

    def __init__(self, options: ProxyOptions):
        self._options = options
        self._metrics = ProxyMetrics()
        self._recorder = Recorder(options.records, self._metrics.records.count)
        self._channel = _channel(options)
        self._models = Models(self._channel)
        self._calls = Calls(self._channel, self._models, self._recorder, self._metrics)
        arguments = [("grpc.so_reuseport", 0), *MESSAGES, *options.grpc_arguments]
        self._grpc = grpc.aio.server(handlers=[self._calls], options=arguments)
        self._rest: http.Server | None = None
        self._rest_task: asyncio.Task | None = None
        self._application = None

    async def start(self) -> list[str]:
        """Takes the ports and starts to pass on; returns what is where, for people."""
        options, host = self._options, self._options.host
        said = [f"passing {self._listen()} on to {options.upstream}"]
        if options.rest_port is not None:
            opened = listening(host, options.rest_port)
            port = opened.getsockname()[1]
            self._start_rest(opened)
            scheme = "https" if options.tls else "http"
            said.append(f"REST on {scheme}://{address_of(host, port)} on to {options.rest_upstream}")
        if options.metrics_port is not None:
            said.append(f"metrics on http://{address_of(host, self._serve_metrics())}/metrics")
        await self._grpc.start()
        return said

    async def stop(self) -> None:
        """Answers what is in flight, refuses what comes, and writes the records that wait."""
        self._calls.stopping.hold()
        if self._application:
            self._application.state.stopping = True
            self._rest.close_listeners()  # now, while clients still have the connections they use
        await asyncio.sleep(SETTLE_SECONDS)
        stopping = asyncio.gather(self._grpc.stop(DRAIN_SECONDS), self._stop_rest())
        await asyncio.sleep(0)  # now the clients know that they must go
        self._calls.stopping.refuse_held()
        await stopping
        await self._channel.close()
        await asyncio.to_thread(self._recorder.close)

    def _listen(self) -> str:
        options = self._options
        port = open_for_grpc(self._grpc, address_of(options.host, options.port), options.tls)
        return address_of(options.host, port)

    def _start_rest(self, opened) -> None:
        options = self._options
        behind = options.upstream_tls
        self._application = proxy_rest.application(
            options.rest_upstream,
            self._models,
            self._recorder,
            self._metrics,
            behind.context() if behind else None,
            behind.server_name if behind else None,
        )
        self._rest = http.Server(self._application, DRAIN_SECONDS, options.tls, date_header=False)
        self._rest_task = asyncio.create_task(self._rest.serve(sockets=[opened]))

    async def _stop_rest(self) -> None:
        if self._rest_task:
            self._rest.should_exit = True
            await asyncio.wait([self._rest_task], timeout=DRAIN_SECONDS)
            await self._application.state.proxy.close()

    def _serve_metrics(self) -> int:
        port, host = self._options.metrics_port, self._options.host
        try:
            server, _ = start_http_server(port, host, self._metrics.registry)
        except OSError as error:
            raise UserError(
                f"cannot listen on {address_of(host, port)}: {error}; choose another --metrics_port"
            ) from error
        return server.server_port


def _channel(options: ProxyOptions) -> grpc.aio.Channel:
    arguments, behind = [*MESSAGES, *BEHIND], options.upstream_tls
    if behind is None:
        return grpc.aio.insecure_channel(options.upstream, arguments)
    if behind.server_name:
        arguments.append(("grpc.ssl_target_name_override", behind.server_name))
    return grpc.aio.secure_channel(options.upstream, behind.credentials(), arguments)


async def _run(options: ProxyOptions) -> None:
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in ENDING_SIGNALS:
        loop.add_signal_handler(number, told.set)
    proxy = LogProxy(options)
    print(*await proxy.start(), sep="\n", flush=True)
    gc.collect()
    gc.freeze()
    await told.wait()
    await proxy.stop()


def options_of(arguments: list[str] | None = None) -> ProxyOptions:
    """The options that the flags say.

    Args:
        arguments: flags; None for those of the process.

    Raises:
        UserError: values make no sense.
        SystemExit: a flag is unknown or missing; the screen says which.
    """
    parser = _parser()
    flags = parser.parse_args(arguments)
    records, rest_port = record_options(flags), port_of(flags.rest_api_port)
    if records is None:
        parser.error("give --records_folder: the proxy is there to write records")
    if (rest_port is None) != (flags.rest_upstream is None):
        parser.error("REST takes both --rest_api_port and --rest_upstream")
    if flags.rest_upstream and httpx.URL(flags.rest_upstream).scheme not in ("http", "https"):
        parser.error(f"--rest_upstream is http://HOST:PORT or https://HOST:PORT, and not {flags.rest_upstream}")
    if flags.port == 0:
        parser.error(f"--port=0 listens on no port; {FREE_PORT} takes a free one")
    return ProxyOptions(
        upstream=flags.upstream,
        records=records,
        rest_upstream=flags.rest_upstream,
        upstream_tls=_upstream_tls(parser, flags),
        host=flags.host,
        port=port_of(flags.port),
        rest_port=rest_port,
        metrics_port=port_of(flags.metrics_port),
        tls=configuration.read_text_proto(flags.ssl_config_file, SSLConfig) if flags.ssl_config_file else None,
        grpc_arguments=channel_arguments(flags.grpc_channel_arguments),
    )


def _upstream_tls(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> ClientTls | None:
    certificate, key, name = flags.upstream_client_certificate, flags.upstream_client_key, flags.upstream_server_name
    if (certificate is None) != (key is None):
        parser.error("mutual TLS takes both --upstream_client_certificate and --upstream_client_key")
    if not flags.upstream_tls and flags.upstream_ca is None:
        if certificate or name:
            parser.error("--upstream_client_... and --upstream_server_name are for TLS: give --upstream_ca too")
        return None
    return ClientTls(flags.upstream_ca, certificate, key, name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bertline-log-proxy",
        description="Stands in front of tensorflow_model_server and keeps a record of each request and its answer.",
        allow_abbrev=False,
    )
    free = f"{FREE_PORT} takes a free one and prints it"
    group = parser.add_argument_group("where the server is")
    group.add_argument("--upstream", required=True, help="HOST:PORT of its gRPC")
    group.add_argument("--rest_upstream", help="http://HOST:PORT of its REST, or https://HOST:PORT")
    add_switch(group, "upstream_tls", False, "its gRPC speaks TLS; a public authority signed its certificate")
    group.add_argument("--upstream_ca", type=Path, help="its gRPC speaks TLS; the authority's certificates (PEM)")
    group.add_argument("--upstream_client_certificate", type=Path, help="the proxy's own, where it asks for one (PEM)")
    group.add_argument("--upstream_client_key", type=Path, help="and its key (PEM)")
    group.add_argument("--upstream_server_name", help="a name in its certificate, where the address has another")
    group = parser.add_argument_group("where the proxy listens")
    add_host(group)
    group.add_argument("--port", type=int, default=8500, help=f"TCP port for gRPC; {free}")
    group.add_argument("--rest_api_port", type=int, default=0, help=f"TCP port for REST; 0 has none, {free}")
    group.add_argument("--metrics_port", type=int, default=0, help=f"for the proxy's own metrics; 0 has none, {free}")
    group.add_argument("--grpc_channel_arguments", default="", help="of its gRPC server: name=value,name=value")
    group.add_argument("--ssl_config_file", help="an SSLConfig in text form, for gRPC and REST")
    add_record_flags(parser.add_argument_group("what it keeps"))
    return parser


def main(arguments: list[str] | None = None) -> int:
    """`bertline-log-proxy`; returns the exit status."""
    # httpx would log each request.
    return program.run(lambda: asyncio.run(_run(options_of(arguments))), httpx=logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
