"""The embedded model server: TF Serving's gRPC interface over a serving folder, for laptops, tests and the canary.

    python -m serving.server --model_base_path runs/sentiment/serving --model_name sentiment --port 8500

takes tensorflow_model_server's own flag names, so that either program serves the same folder with the same words.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import grpc

from serving.errors import RequestError
from serving.protos import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelServiceServicer,
    ModelSpec,
    PredictionServiceServicer,
    PredictRequest,
    PredictResponse,
    SignatureDefMap,
    add_ModelServiceServicer_to_server,
    add_PredictionServiceServicer_to_server,
)
from serving.versions import Versions

log = logging.getLogger("bertline.serving")

SIGNATURE_DEF = "signature_def"  # the one metadata field there is
POLL_SECONDS = 1.0  # TF Serving's default; listing a folder costs next to nothing
THREADS_PER_CORE = 4  # as tensorflow_model_server: TensorFlow spreads the work, the threads wait for it
DRAIN_SECONDS = 30.0  # Kubernetes kills a pod 30 s after SIGTERM
PARENT_CHECK_SECONDS = 1.0

Answer = TypeVar("Answer")


class Server:
    """Serves the newest version in a folder over gRPC, and every newer one that appears.

    Used as a context manager it is ready inside the block and has drained its requests after it.

    Args:
        folder: the serving folder: <version>/saved_model.pb, versions being whole numbers.
        model_name: the name that requests call the model by.
        host: address to listen on; loopback unless the network is meant to reach it (there is no authentication).
        port: TCP port; 0 takes a free one, which `port` then holds.
        socket_path: path of a Unix socket to listen on instead.
        poll_seconds: time between two looks at the folder.

    Raises (on start):
        OSError: the port is taken or cannot be opened.
        ValueError: the folder has versions and none of them loads.
    """

    def __init__(
        self,
        folder: str | Path,
        model_name: str,
        host: str = "127.0.0.1",
        port: int = 8500,
        *,
        socket_path: str | None = None,
        poll_seconds: float = POLL_SECONDS,
    ):
        self.model_name = model_name
        self.host = host
        self.port = port
        self.socket_path = socket_path
        self.versions = Versions(Path(folder), self._load, poll_seconds)
        self._grpc = grpc.server(
            ThreadPoolExecutor(THREADS_PER_CORE * (os.cpu_count() or 1), thread_name_prefix="request"),
            options=[
                ("grpc.so_reuseport", 0),  # two servers on one port are a mistake, not a pair
                ("grpc.max_receive_message_length", -1),  # tensorflow_model_server sets no limit either
                ("grpc.max_send_message_length", -1),
            ],
        )
        add_PredictionServiceServicer_to_server(_PredictionService(self), self._grpc)
        add_ModelServiceServicer_to_server(_ModelService(self), self._grpc)

    @property
    def address(self) -> str:
        """What a client dials: HOST:PORT, or unix:PATH."""
        if self.socket_path:
            return f"unix:{self.socket_path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def start(self) -> None:
        """Takes the port, loads the newest version, and begins to answer."""
        try:
            port = self._grpc.add_insecure_port(self.address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self.address}: {self._reason()}") from error
        if not self.socket_path:
            self.port = port
        self.versions.start()
        self._grpc.start()
        log.info("%s answers on %s", self.model_name, self.address)

    def stop(self, grace: float = DRAIN_SECONDS) -> None:
        """Refuses new requests and waits for those under way, at most `grace` seconds."""
        self._grpc.stop(grace).wait()
        self.versions.stop()

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self.stop(0)
            raise
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def _reason(self) -> str:
        """Why the address cannot be had, which grpc keeps to itself."""
        if self.socket_path:
            return "the folder must exist and be writable, and the path at most 107 bytes long"
        try:
            with socket.create_server((self.host, self.port), family=_family(self.host)):
                return "it was taken until a moment ago; try again"
        except (OSError, OverflowError) as error:
            return f"{error}; choose another port with --port, or 0 for a free one"

    def _load(self, path: Path, version: int):
        # TensorFlow takes seconds to import: a taken port or a wrong flag should be told before that.
        from serving.servable import Servable

        servable = Servable(path, self.model_name, version)
        servable.warm_up()
        return servable


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class _PredictionService(PredictionServiceServicer):
    """tensorflow.serving.PredictionService: Predict and GetModelMetadata."""

    def __init__(self, server: Server):
        self._server = server

    def Predict(self, request: PredictRequest, context: grpc.ServicerContext) -> PredictResponse:
        """The outputs of a signature for the request's tensors."""
        return self._answer(request, context, lambda servable: servable.predict(request))

    def GetModelMetadata(
        self, request: GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> GetModelMetadataResponse:
        """The signatures of the model, packed as TF Serving packs them."""
        if not request.HasField("model_spec"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")
        if not request.metadata_field:
            message = "GetModelMetadataRequest must specify at least one metadata_field"
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
        for name in request.metadata_field:
            if name != SIGNATURE_DEF:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Metadata field {name} is not supported")
        return self._answer(request, context, _metadata)

    def _answer(self, request, context: grpc.ServicerContext, answer: Callable[..., Answer]) -> Answer:
        """`answer` of the servable that the request's model_spec names."""
        if not request.HasField("model_spec"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        with self._server.versions.acquire(version) as servable:
            if spec.name != self._server.model_name or spec.version_label or servable is None:
                context.abort(grpc.StatusCode.NOT_FOUND, self._not_found(spec))
            try:
                return answer(servable)
            except RequestError as error:
                context.abort(error.code, str(error))

    def _not_found(self, spec: ModelSpec) -> str:
        """tensorflow_model_server's words, and what there is instead."""
        wanted = f"Latest({spec.name})"
        if spec.HasField("version"):
            wanted = f"Specific({spec.name}, {spec.version.value})"
        elif spec.version_label:
            wanted = f"Label({spec.name}, {spec.version_label})"
        with self._server.versions.acquire(None) as servable:
            here = f"version {servable.version}" if servable else "no version yet"
        return f"Servable not found for request: {wanted}. This server has model {self._server.model_name}, {here}."


class _ModelService(ModelServiceServicer):
    """tensorflow.serving.ModelService: GetModelStatus."""

    def __init__(self, server: Server):
        self._server = server

    def GetModelStatus(self, request: GetModelStatusRequest, context: grpc.ServicerContext) -> GetModelStatusResponse:
        """The state of each version, or of the one asked for."""
        if not request.HasField("model_spec"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")
        name = request.model_spec.name
        states = self._server.versions.states() if name == self._server.model_name else {}
        if request.model_spec.HasField("version"):
            version = request.model_spec.version.value
            if version not in states:
                context.abort(grpc.StatusCode.NOT_FOUND, f"Could not find version {version} of model {name}")
            states = {version: states[version]}
        if not states:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {name}")
        response = GetModelStatusResponse()
        for version, state in sorted(states.items()):
            status = response.model_version_status.add(version=version, state=state.state)
            status.status.error_code = state.code
            status.status.error_message = state.message
        return response


def _metadata(servable) -> GetModelMetadataResponse:
    signatures = SignatureDefMap()
    for name, signature in servable.signatures.items():
        signatures.signature_def[name].CopyFrom(signature)
    response = GetModelMetadataResponse()
    response.model_spec.name = servable.model
    response.model_spec.version.value = servable.version
    response.metadata[SIGNATURE_DEF].Pack(signatures)
    return response


def run(server: Server, exit_with_parent: bool = False) -> None:
    """Serves until SIGTERM or SIGINT, then drains. To be called from the main thread.

    Args:
        server: not yet started.
        exit_with_parent: also stop when the process that started this one is gone.
    """
    parent = os.getppid()
    stop = threading.Event()
    with server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        print(f"serving {server.model_name} on {server.address}", flush=True)
        while not stop.wait(PARENT_CHECK_SECONDS if exit_with_parent else None):
            if os.getppid() != parent:
                log.warning("the process that started this server is gone; stopping")
                break


def flags() -> argparse.ArgumentParser:
    """The command line, in tensorflow_model_server's words."""
    parser = argparse.ArgumentParser(prog="python -m serving.server", description=__doc__.splitlines()[0])
    parser.add_argument("--model_base_path", required=True, help="the serving folder, with a folder a version")
    parser.add_argument("--model_name", required=True, help="the name that requests call the model by")
    parser.add_argument("--port", type=int, default=8500, help="TCP port for gRPC; 0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; there is no authentication")
    parser.add_argument("--grpc_socket_path", help="a Unix socket to listen on instead of the port")
    parser.add_argument(
        "--file_system_poll_wait_seconds", type=float, default=POLL_SECONDS, help="time between two looks at the folder"
    )
    parser.add_argument("--exit_with_parent", action="store_true", help="stop when the starting process is gone")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python -m serving.server`; returns the exit status."""
    options = flags().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    server = Server(
        options.model_base_path,
        options.model_name,
        options.host,
        options.port,
        socket_path=options.grpc_socket_path,
        poll_seconds=options.file_system_poll_wait_seconds,
    )
    try:
        run(server, options.exit_with_parent)
    except (OSError, ValueError) as error:
        print(f"serving.server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
