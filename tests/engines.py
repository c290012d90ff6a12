"""The smallest engine with a Beam job server, as docs/beam.md starts it."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from bertline.pipeline import beam_options

STARTED = 60  # seconds in which a server is up


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def job_server(folder):
    """A job server and a worker pool, whose log lies in the folder; gives the section of a config that names them."""
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    jobs, workers = free_port(), free_port()
    commands = (
        ["apache_beam.runners.portability.local_job_service_main", f"--port={jobs}"],
        ["apache_beam.runners.worker.worker_pool_main", f"--service_port={workers}"],
    )
    with open(folder / "log", "wb") as log:
        started = [
            subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=log, stderr=log)
            for command in commands
        ]
    try:
        for port in (jobs, workers):
            until = time.monotonic() + STARTED
            while beam_options.unreachable(f"127.0.0.1:{port}"):
                assert time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.2)
        yield {
            "runner": "portable",
            "job_endpoint": f"127.0.0.1:{jobs}",
            "environment": {"external": f"127.0.0.1:{workers}"},
        }
    finally:
        for process in started:
            process.terminate()
            process.wait()
