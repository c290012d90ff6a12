"""The embedded model server: TF Serving's gRPC and REST interface over serving folders.

    bertline-model-server --model_base_path=runs/sentiment/serving --model_name=sentiment --port=8500

takes tensorflow_model_server's own flags, so that either program serves the same folders with the same words.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from bertline.errors import UserError
from bertline.serving import configuration, flags, http, program, reflection
from bertline.serving.access import Access, AccessInterceptor
from bertline.serving.canary import Canary
from bertline.serving.errors import RequestError
from bertline.serving.metrics import Metrics
from bertline.serving.models import Models, one_model
from bertline.serving.options import ServerOptions
from bertline.serving.protos import ModelServerConfig
from bertline.serving.records import Recorder
from bertline.serving.roots import Roots
from bertline.serving.sockets import address_of, listening, open_for_grpc

if TYPE_CHECKING:
    from bertline.serving.canary_watch import CanaryWatch
    from bertline.serving.servable import Servable

log = logging.getLogger("bertline.serving")

DRAIN_SECONDS = 25.0  # Kubernetes kills a pod 30 s after SIGTERM, and unloading the models takes some of it
SETTLE_SECONDS = 0.2  # requests that clients have sent arrive meanwhile, and connections end with an answer
PARENT_CHECK_SECONDS = 1.0
ENDING_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
PENDING = 100_000
ENDING_SECONDS = 1.0  # for threads to end after the drain
# How the threads' names begin in which TensorFlow may work, or for which Python would wait.
WORKERS = ("starter", "version-", "canary-", "model-", "reload", "request", "batch-", "bodies", "asyncio")
POLL_SECONDS = 1.0  # between two looks at a canary, where the folder is otherwise looked at once
HEALTH_SECONDS = 0.5  # time between two looks at whether every model answers and the key file can be read
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Server:
    """Serves models over gRPC and REST from a thread with an event loop of its own.

    Use it as a context manager: the server is ready inside the block, and its requests are drained after the block.

    Raises (on start):
        UserError: a port or a file cannot be opened, a model has versions and none of them loads, or an option makes no
            sense.
    """

    def __init__(self, options: ServerOptions):
        self.options = options
        self.port = options.port
        self.rest_port = options.rest_port
        self.metrics = Metrics()
        self._models = Models(self._load, options.polling, labels_in_advance=options.labels_in_advance)
        self._recorder: Recorder | None = None
        self._shadow_recorder: Recorder | None = None
        self._canary: Canary | None = None
        self._canary_watch: CanaryWatch | None = None
        self._access = Access.read(options.keys_file, self.metrics.count_key_file_fault) if options.keys_file else None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="serving", daemon=True)
        self._stopped = threading.Event()
        self._grpc: grpc.aio.Server | None = None
        self._rest: http.Server | None = None
        self._application = None
        self._service = None
        self._calls = None
        self._health = health.aio.HealthServicer()
        self._rest_socket: socket.socket | None = None
        self._rest_task: asyncio.Task | None = None
        self._watchers: list[asyncio.Task] = []
        self._served: ModelServerConfig | None = None  # the config that was taken up last

    @classmethod
    def of(cls, folder: str | Path, model_name: str, versions: Sequence[int] = (), **options) -> Server:
        """A server of one model's newest version, or of these versions, with ServerOptions' other options."""
        return cls(ServerOptions(models=one_model(model_name, folder, versions), **options))

    @property
    def address(self) -> str:
        """What a gRPC client dials: HOST:PORT, or unix:PATH."""
        if self.port is None:
            return f"unix:{self.options.socket_path}"
        return address_of(self.options.host, self.port)

    @property
    def rest_address(self) -> str | None:
        """What a browser would open: http://HOST:PORT; None without REST."""
        if self.rest_port is None:
            return None
        return f"{'https' if self.options.tls else 'http'}://{address_of(self.options.host, self.rest_port)}"

    @property
    def model_names(self) -> list[str]:
        """The models served."""
        return self._models.names()

    def listen(self) -> None:
        """Takes the ports, so that a taken one is reported before TensorFlow is imported, which takes seconds."""
        # Before TensorFlow is imported: below 2 it logs the texts that it cannot parse.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        self._thread.start()
        self._run(self._listen()).result()

    def start(self) -> None:
        """Takes the ports unless it has them, loads the models, and starts to answer."""
        if not self._thread.is_alive():
            self.listen()
        self._load_models()
        self._run(self._serve()).result()
        log.info("answering on %s%s", self.address, f" and {self.rest_address}" if self.rest_address else "")

    def stop(self, grace: float = DRAIN_SECONDS) -> None:
        """Refuses new requests and waits for those in flight, at most `grace` seconds. Waits for no version to load."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        with ExitStack() as ending:  # each step is taken, whatever comes of those before it; the last one first
            ending.callback(self._loop.close)
            if self._thread.is_alive():
                ending.callback(self._end_loop)
                if self._service:
                    ending.callback(self._service.close)
                ending.callback(self._models.stop)
                if self._canary_watch:
                    ending.callback(self._canary_watch.stop)
                for recorder in filter(None, (self._recorder, self._shadow_recorder)):
                    ending.callback(recorder.close)  # before what may take seconds: the process may be killed meanwhile
                self._run(self._drain(grace)).result()

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self.stop(0)
            raise
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    # === In the loop's thread ===

    async def _listen(self) -> None:
        options = self.options
        arguments = [
            ("grpc.so_reuseport", 0),  # two servers on one port are a mistake, not a pair
            ("grpc.max_receive_message_length", options.limits.max_request_bytes),
            ("grpc.max_send_message_length", -1),
            # From some 1,000 requests that wait to be read, grpc drops them at random, and the caller sees CANCELLED.
            # These are read and refused in words.
            ("grpc.server.max_pending_requests", PENDING),
            ("grpc.server.max_pending_requests_hard_limit", PENDING),
            *options.grpc_arguments,
        ]
        interceptors = [AccessInterceptor(self._access)] if self._access else []
        self._grpc = grpc.aio.server(interceptors=interceptors, options=arguments)
        if self.port is not None:
            self.port = open_for_grpc(self._grpc, address_of(options.host, self.port), options.tls)
        if options.socket_path:
            open_for_grpc(self._grpc, f"unix:{options.socket_path}", options.tls)
        if self.rest_port is not None:
            self._rest_socket = listening(options.host, self.rest_port)
            self.rest_port = self._rest_socket.getsockname()[1]

    async def _serve(self) -> None:
        from bertline.serving import grpc_service
        from bertline.serving.service import Service

        options = self.options
        if options.records:
            self._recorder = Recorder(options.records, self.metrics.records.count)
            if self._canary and options.shadow_records:
                self._shadow_recorder = Recorder(options.shadow_records, self.metrics.records.count)
                self._canary.recorder = self._shadow_recorder
        has_administrators = self._access or options.host in LOOPBACK  # a client certificate has no role
        self._service = Service(
            self._models,
            self.metrics,
            options.limits,
            options.batching,
            reload_roots=self._reload_roots if has_administrators else None,
            recorder=self._recorder,
            canary=self._canary,
        )
        self._calls = grpc_service.add_services(self._grpc, self._service, self.metrics, options.as_content)
        names = list(grpc_service.NAMES)
        if options.health:
            add_HealthServicer_to_server(self._health, self._grpc)
            names.append(health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        reflection.enable(self._grpc, names)
        await self._grpc.start()
        if self.rest_port is not None:
            self._start_rest()
        self._watchers.append(self._loop.create_task(self._watch_health(grpc_service.NAMES)))
        if options.models_file and options.models_file_poll_seconds:
            self._watchers.append(self._loop.create_task(self._watch_models_file()))

    def _start_rest(self) -> None:
        from bertline.serving import rest

        options = self.options
        self._application = rest.application(
            self._service,
            self.metrics,
            timeout=options.rest_timeout,
            metrics_path=options.metrics_path,
            max_request_bytes=options.limits.max_request_bytes,
            cors=options.cors,
            access=self._access,
        )
        self._rest = http.Server(self._application, DRAIN_SECONDS, options.tls)
        self._rest_task = self._loop.create_task(self._rest.serve(sockets=[self._rest_socket]))

    async def _drain(self, grace: float) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await self._health.enter_graceful_shutdown()
        settling = min(SETTLE_SECONDS, grace)
        if settling:
            await self._settle(settling)
        grace -= settling
        stopping = asyncio.gather(self._grpc.stop(grace), self._stop_rest(grace))
        await asyncio.sleep(0)  # now the clients know that they must go
        if self._calls:
            self._calls.stopping.refuse_held()
        await stopping
        if self._canary:
            self._canary.close()

    async def _settle(self, seconds: float) -> None:
        """Waits until nothing is in flight that stopping would cut off."""
        if self._calls:
            self._calls.stopping.hold()
        if self._application:
            self._application.state.stopping = True
        if self._rest:
            self._rest.close_listeners()  # now, while clients still have the connections they use
        await asyncio.sleep(seconds)

    async def _stop_rest(self, grace: float) -> None:
        if self._rest_task:
            self._rest.should_exit = True
            self._rest.force_exit = not grace
            await asyncio.wait([self._rest_task], timeout=grace or None)
        elif self._rest_socket:
            self._rest_socket.close()

    async def _watch_health(self, services: tuple[str, ...]) -> None:
        while True:
            open_to_callers = self._access is None or self._access.is_open()
            status = SERVING if open_to_callers and self._models.is_ready() else NOT_SERVING
            for name in ("", *services):
                await self._health.set(name, status)
            await asyncio.sleep(HEALTH_SECONDS)

    async def _watch_models_file(self) -> None:
        """Serves what the file says whenever it changes. A config that is refused changes nothing and is retried."""
        file, refusal = self.options.models_file, ""
        while True:
            await asyncio.sleep(self.options.models_file_poll_seconds)
            try:
                config = self._configured()
                if config != self._served:
                    await asyncio.to_thread(self._models.reload, config)
                    self._served, refusal = config, ""
                    log.info("took up %s", file)
            except (UserError, RequestError) as error:
                if str(error) != refusal:  # once, not at each look
                    refusal = str(error)
                    log.error("%s: not taken up yet, what is served stays: %s", file, error)
            except Exception:  # a fault of ours: the next look may go well, and nobody awaits this task
                log.exception("%s: not taken up, what is served stays", file)

    # === Anywhere ===

    def _configured(self) -> ModelServerConfig:
        if self.options.models_file is None:
            return self.options.models
        return configuration.read_text_proto(self.options.models_file, ModelServerConfig)

    def _reload_roots(self) -> Roots:
        """The folders that a client's reload may name: the flag's, else those of the operator's own config."""
        if self.options.reload_roots is not None:
            return Roots.of(self.options.reload_roots)
        return Roots.of_config(self._served)

    def _load_models(self) -> None:
        """Serves what is configured; a file that changes meanwhile is taken up by the watch on it."""
        config = self._configured()
        if self.options.canary:
            self._served = self._start_canary(config)
            return
        try:
            self._models.reload(config)
        except RequestError as error:
            raise UserError(str(error)) from error
        self._served = config

    def _start_canary(self, config: ModelServerConfig) -> ModelServerConfig:
        """Serves the stable version of the one model, and its canary if there is one."""
        from bertline.serving.canary_watch import CanaryWatch  # scipy, which takes a second to import

        if self.options.models_file or len(config.model_config_list.config) != 1:
            raise UserError(
                "serve.canary decides which versions of one model are served: leave out --model_config_file, or "
                "serve.canary"
            )
        (entry,) = config.model_config_list.config
        self._canary = Canary(self._models, entry.name, self.options.canary, self.metrics.canaries)
        self._canary_watch = CanaryWatch(
            self._models,
            entry.name,
            entry.base_path,
            self._canary,
            self.metrics.canaries,
            self.options.measure,
            self.options.polling.seconds or POLL_SECONDS,
        )
        return self._canary_watch.start()

    def _load(self, model: str, path: Path, version: int) -> Servable:
        from bertline.serving.servable import Servable
        from bertline.serving.warmup import warm_up

        options = self.options
        began = self._loop.time()
        loaded = False
        try:
            servable = Servable(path, model, version, tags=options.tags, session_config=options.session)
            if options.warm_up:
                try:
                    warm_up(servable, options.warm_up_rounds)
                except BaseException:
                    servable.close()
                    raise
            loaded = True
            return servable
        finally:
            self.metrics.observe_load(model, version, self._loop.time() - began, loaded)

    def _run(self, coroutine: Coroutine) -> Future:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


def run(server: Server, exit_with_parent: bool = False) -> None:
    """Serves until SIGTERM or SIGINT, then drains. Call it from the main thread of a process that does nothing else.

    The process ends here if a thread is still at work after that, such as one in which TensorFlow loads a version.

    Args:
        server: not yet started.
        exit_with_parent: also stop when the process that started this one has ended.
    """
    parent, started = os.getppid(), Future()
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    # A lock that a handler frees is no sure way to wake the main thread: one signal in ten, sent while a version
    # loaded, was not seen until the next one. A byte in a socket is.
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    for number in ENDING_SIGNALS:
        signal.signal(number, lambda *_: None)
    started.add_done_callback(lambda _: waker.send(b"\0"))
    # In a thread: a signal's handler waits for whatever the main thread does, and a version may take minutes to load.
    threading.Thread(target=_start, args=(server, started), name="starter", daemon=True).start()
    announced = told_to_end = False
    while not told_to_end:
        if select.select([woken], [], [], PARENT_CHECK_SECONDS if exit_with_parent else None)[0]:
            told_to_end = not ENDING_SIGNALS.isdisjoint(woken.recv(1024))  # each byte is a signal's number, or 0
        if started.done() and not announced:
            started.result()
            print(f"serving {', '.join(server.model_names)} on {server.address}", flush=True)
            if server.rest_address:
                print(f"REST on {server.rest_address}", flush=True)
            announced = True
        if os.getppid() != parent:
            log.warning("the process that started this server is gone; stopping")
            break
    if started.done():
        server.stop()
    _end_unless_idle()


def _start(server: Server, started: Future) -> None:
    """Starts a server that has the process to itself; `started` gets what comes of it."""
    try:
        server.listen()
        from bertline.serving import grpc_service, rest, warmup  # noqa: F401 (their objects are to be frozen)

        gc.collect()
        gc.freeze()  # TensorFlow's hundreds of thousands of objects stay; each collection over them costs 0.1 s
        server.start()
    except BaseException as error:
        server.stop(0)
        started.set_exception(error)
    else:
        started.set_result(None)


def _end_unless_idle() -> None:
    """Ends the process at once if threads are at work: Python would wait for them, and TensorFlow cannot be stopped."""
    deadline = time.monotonic() + ENDING_SECONDS
    for thread in threading.enumerate():
        if thread.name.startswith(WORKERS):
            thread.join(max(deadline - time.monotonic(), 0))
            if thread.is_alive():
                log.warning("ends while %s is at work", thread.name)
                logging.shutdown()
                sys.stdout.flush()
                os._exit(0)


def main(arguments: list[str] | None = None) -> int:
    """`bertline-model-server`; returns the exit status."""

    def serve() -> None:
        options, exit_with_parent = flags.parse(arguments)
        run(Server(options), exit_with_parent)

    # TensorFlow would warn that this loader of SavedModels is deprecated.
    return program.run(serve, tensorflow=logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
