"""Beam's workers as processes of this machine, one of which may be killed without the run waiting for it for ever.

They are forks of one process that has imported what the passes need, once a run: a worker is up in a second.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from multiprocessing import connection
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import (
    beam_fn_api_pb2,
    beam_fn_api_pb2_grpc,
    beam_provision_api_pb2,
    endpoints_pb2,
)
from apache_beam.runners.portability.fn_api_runner import fn_runner, worker_handlers
from apache_beam.runners.portability.local_job_service import BeamFnLoggingServicer
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.runners.worker import sdk_worker_main
from apache_beam.utils import thread_pool_executor
from apache_beam.utils.sentinel import Sentinel
from google.protobuf import json_format, text_format

from bertline.errors import UserError

SECONDS = 5.0  # from a channel that closes to the end of its process
# There is a worker for each core: threads of two get in each other's way.
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "apache_beam.runners.worker.sdk_worker_main",
        *(
            f"bertline.components.{name}"
            for name in ("ingestion", "statistics", "text_statistics", "tokenisation", "evaluator")
        ),
    ]
)
_one_at_a_time = threading.Lock()  # starting a process reads the others' exit codes, which can be read once


class Runner(fn_runner.FnApiRunner):
    """Beam's runner of --direct_running_mode=multi_processing, with LosableWorker for its workers."""

    def run_pipeline(self, pipeline: beam.Pipeline, options: PipelineOptions) -> Any:
        """See the base class; the workers get the options too."""
        encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
        info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
        self._provision_info = fn_runner.ExtendedProvisionInfo(info)
        return super().run_pipeline(pipeline, options)


@worker_handlers.WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
class LosableWorker(worker_handlers.SubprocessSdkWorkerHandler):
    """A worker process whose end, where nobody asked for it, fails what it was asked and all that it will be asked.

    Beam's own handler tells of a channel that closed, and waits for ever where the worker had not opened one yet.
    """

    def start_worker(self) -> None:
        """See the base class."""
        options = self.provision_info.provision_info.pipeline_options
        self.worker = Forked(self.worker_id, self.control_address, json_format.MessageToJson(options))
        self._is_lost = False
        self._channel_elements, self.data_conn.input_elements = self.data_conn.input_elements, self._elements
        self.worker_thread = threading.Thread(name="run_worker", target=self._watch)
        self.worker_thread.start()

    def stop_worker(self) -> None:
        """See the base class; one that has yet to connect is told too, and would wait for work for ever otherwise."""
        self.control_conn.push(Sentinel.sentinel)
        super().stop_worker()

    def _elements(self, *asked: Any, **options: Any) -> Iterator[Any]:
        """What the worker puts out; once it is lost nothing more, for its answer then says why."""
        try:
            yield from self._channel_elements(*asked, **options)
        except Exception:
            self.worker_thread.join(SECONDS)
            if not self._is_lost:
                raise

    def _watch(self) -> None:
        try:
            self.worker.run()
        except UserError as error:
            self._lose(f"{UserError.__module__}.{UserError.__name__}: {error}")

    def _lose(self, said: str) -> None:
        control = self.control_conn
        send = control.push
        failed = beam_fn_api_pb2.InstructionResponse(error=said)

        def answer(request: Any) -> Any:
            if not isinstance(request, beam_fn_api_pb2.InstructionRequest):
                return send(request)  # the mark that ends the connection
            return worker_handlers.ControlFuture(request.instruction_id, failed)

        control.push = answer
        self._is_lost = True
        for waiting in list(control._futures_by_id.values()):
            waiting.set(failed)


class Forked:
    """A worker's process, and the server that takes its logs.

    Args:
        worker_id: under which it says who it is.
        control: address of the control channel.
        options: the pipeline's, as JSON.
    """

    def __init__(self, worker_id: str, control: str, options: str):
        self._environment = {
            **os.environ,
            **ONE_THREAD,
            "WORKER_ID": worker_id,
            "CONTROL_API_SERVICE_DESCRIPTOR": _descriptor(control),
            "PIPELINE_OPTIONS": options,
        }

    def run(self) -> None:
        """Starts the process and waits for its end.

        Raises:
            UserError: it ended otherwise than by being told to.
        """
        server = grpc.server(thread_pool_executor.shared_unbounded_instance())
        port = server.add_insecure_port("localhost:0")
        beam_fn_api_pb2_grpc.add_BeamFnLoggingServicer_to_server(BeamFnLoggingServicer(), server)
        server.start()
        environment = {**self._environment, "LOGGING_API_SERVICE_DESCRIPTOR": _descriptor(f"localhost:{port}")}
        # The process that forks them is started as `python -c`, which would look for code in the current folder first.
        os.environ["PYTHONSAFEPATH"] = "1"
        process = FORKS.Process(target=_work, args=(environment,), daemon=True)
        with _one_at_a_time:
            process.start()
        connection.wait([process.sentinel])
        with _one_at_a_time:
            process.join()
        server.stop(0)
        if process.exitcode:
            raise UserError(
                f"a Beam worker is lost (exit code {process.exitcode}; -9 is what a machine short of memory does). Run "
                "again, with fewer beam.workers if memory is short: nothing half-done is left, and finished stages are "
                "cached."
            )


def _descriptor(url: str) -> str:
    return text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=url))


def _work(environment: dict[str, str]) -> None:
    """What a worker's process does, until it is told to end or the process that it works for is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(environment)
    sdk_worker_main.main([])


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
