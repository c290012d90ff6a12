"""Beam's workers as processes of this machine, one of which may be killed without the run waiting for it for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2, beam_provision_api_pb2
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner import fn_runner, worker_handlers
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.utils.sentinel import Sentinel

from components.errors import LineError

SECONDS = 5.0  # from a channel that closes to the end of its process


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
        self.worker = local_job_service.SubprocessSdkWorker(
            self._worker_command_line, self.control_address, self.provision_info, self.worker_id
        )
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
        except RuntimeError as error:  # it says the exit code
            self._lose(
                f"{LineError.__module__}.{LineError.__name__}: a Beam worker is lost ({error}; -9 is what a machine "
                "short of memory does). Run again, with fewer beam.workers if memory is short: nothing half-done is "
                "left, and finished stages are cached."
            )

    def _lose(self, said: str) -> None:
        connection = self.control_conn
        send = connection.push
        failed = beam_fn_api_pb2.InstructionResponse(error=said)

        def answer(request: Any) -> Any:
            if not isinstance(request, beam_fn_api_pb2.InstructionRequest):
                return send(request)  # the mark that ends the connection
            return worker_handlers.ControlFuture(request.instruction_id, failed)

        connection.push = answer
        self._is_lost = True
        for waiting in list(connection._futures_by_id.values()):
            waiting.set(failed)
