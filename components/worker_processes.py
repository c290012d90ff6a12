"""Beam's workers as processes of this machine. If one is killed, the run fails instead of waiting for it for ever.

The workers are forks of one process, which imports what the passes need once per run. So a worker is up in a second.
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
# There is a worker for each core, and threads of several workers would get in each other's way.
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "apache_beam.runners.worker.sdk_worker_main",
        *(
            f"bertline.components.{name}"
            for name in ("ingestion", "statistics", "text_statistics", "tokenisation", "evaluator", "scoring.passes")
        ),
    ]
)
_one_at_a_time = threading.Lock()  # starting a process reads the others' exit codes, which can be read only once


class Runner(fn_runner.FnApiRunner):
    """Beam's runner of --direct_running_mode=multi_processing, with workers of the class LosableWorker."""

    def run_pipeline(self, pipeline: beam.Pipeline, options: PipelineOptions) -> Any:
        """See the base class; the workers get the options too."""
        encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
        info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
        self._provision_info = fn_runner.ExtendedProvisionInfo(info)
        return super().run_pipeline(pipeline, options)


@worker_handlers.WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
class LosableWorker(worker_handlers.SubprocessSdkWorkerHandler):
    """A worker process. If it ends before it is told to, all requests to it fail, those that wait and later ones.

    Beam's own handler only notices a channel that closes. It waits for ever if the worker had not opened one yet.
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
        """See the base class. A worker that has yet to connect is told too; else it would wait for work for ever."""
        self.control_conn.push(Sentinel.sentinel)
        super().stop_worker()

    def _elements(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        """The worker's output. Once the worker is lost it just ends, because the failed request says why."""
        try:
            yield from self._channel_elements(*arguments, **options)
        except Exception:
            self.worker_thread.join(SECONDS)
            if not self._is_lost:
                raise

    def _watch(self) -> None:
        try:
            self.worker.run()
        except UserError as error:
            self._lose(f"{UserError.__module__}.{UserError.__name__}: {error}")

    def _lose(self, reason: str) -> None:
        control = self.control_conn
        send = control.push
        failed = beam_fn_api_pb2.InstructionResponse(error=reason)

        def answer(request: Any) -> Any:
            if not isinstance(request, beam_fn_api_pb2.InstructionRequest):
                return send(request)  # the mark that ends the connection
            return worker_handlers.ControlFuture(request.instruction_id, failed)

        control.push = answer
        self._is_lost = True
        for future in list(control._futures_by_id.values()):
            future.set(failed)


class Forked:
    """A worker's process, and the server that takes its logs.

    Args:
        worker_id: the name that it gives to the runner.
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
            UserError: it ended without being told to.
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
                f"a Beam worker is lost (exit code {process.exitcode}; a machine short of memory kills with -9). Run "
                "again, with fewer beam.workers if memory is short: nothing half-done is left, and finished stages are "
                "cached."
            )


def _descriptor(url: str) -> str:
    return text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=url))


def _work(environment: dict[str, str]) -> None:
    """Runs a worker until it is told to end, or until the process that it works for is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(environment)
    sdk_worker_main.main([])


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
