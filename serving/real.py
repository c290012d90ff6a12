"""Hands over to the real tensorflow_model_server, if there is one."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import NoReturn

from bertline.errors import UserError

log = logging.getLogger("bertline.serving")

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROGRAM = "tensorflow_model_server"


def flags(
    folder: str | Path,
    model_name: str,
    port: int = 8500,
    *,
    rest_port: int | None = None,
    batching_parameters_file: str | Path | None = None,
    monitoring_config_file: str | Path | None = None,
    ssl_config_file: str | Path | None = None,
) -> list[str]:
    """The flags that serve `folder`, for both the real server and the embedded one.

    Args:
        folder: the serving folder; the real server needs it absolute unless it is remote (gs://).
        model_name: the name that requests call the model by.
        port: TCP port for gRPC.
        rest_port: TCP port for REST and metrics; None for neither.
        batching_parameters_file: BatchingParameters in text form; None runs each request by itself.
        monitoring_config_file: MonitoringConfig in text form; None for no metrics.
        ssl_config_file: SSLConfig in text form; None for no TLS.
    """
    values = {
        "port": port,
        "rest_api_port": rest_port,
        "model_name": model_name,
        "model_base_path": str(folder) if "://" in str(folder) else str(Path(folder).absolute()),
        "file_system_poll_wait_seconds": 1,
        "enable_grpc_healthcheck_service": "true",  # the embedded server has it always
        # One batch per core does 1.5 times as much as one batch at a time over all cores (BERT, two cores).
        "tensorflow_intra_op_parallelism": 1,
        # Ops run in the batch's own thread: handing a single text's small ops to other threads takes half of its time.
        "tensorflow_inter_op_parallelism": -1,
        "enable_batching": "true" if batching_parameters_file else None,
        "batching_parameters_file": batching_parameters_file,
        "monitoring_config_file": monitoring_config_file,
        "ssl_config_file": ssl_config_file,
    }
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def command(
    folder: str | Path,
    model_name: str,
    host: str = "127.0.0.1",
    port: int = 8500,
    *,
    rest_port: int | None = None,
    **files: str | Path | None,
) -> list[str] | None:
    """The command that serves `folder` with the real server; None if the PATH has no such program.

    Args:
        folder, model_name, port, rest_port, files: as for `flags`.
        host: where the embedded server would listen. The real one listens on all of the machine's addresses and has
            no flag to change that, so a loopback host is answered with a warning in the log.

    Raises:
        UserError: a port is 0, which means no port to the real server.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        return None
    for name, number, usual in (("port", port, 8500), ("rest_port", rest_port, 8501)):
        if number == 0:
            raise UserError(f"{name}: {PROGRAM} takes no free port by itself; set serve.{name}, such as {usual}")
    if host in LOOPBACK:
        ports = f"ports {port} and {rest_port}" if rest_port else f"port {port}"
        log.warning("%s listens on all addresses, not only on %s: protect %s with a firewall", PROGRAM, host, ports)
    return [program, *flags(folder, model_name, port, rest_port=rest_port, **files)]


def hand_over(arguments: list[str]) -> NoReturn:
    """Replaces this process by the command, which then has its terminal, signals and exit status."""
    os.execv(arguments[0], arguments)
