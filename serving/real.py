"""Hands over to a real tensorflow_model_server, where there is one."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import NoReturn

log = logging.getLogger("bertline.serving")

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROGRAM = "tensorflow_model_server"


def command(folder: str | Path, model_name: str, host: str = "127.0.0.1", port: int = 8500) -> list[str] | None:
    """The command that serves `folder` with the real server, or None where the PATH has none.

    Args:
        folder: the serving folder; the server needs it absolute unless it is remote (gs://).
        model_name: the name that requests call the model by.
        host: where the embedded server would listen. The real one listens on all of the machine's addresses and has
            no flag to change that, so a loopback host is answered with a warning in the log.
        port: TCP port for gRPC.

    Raises:
        ValueError: `port` is 0, which the real server takes for "no gRPC".
    """
    program = shutil.which(PROGRAM)
    if program is None:
        return None
    if port == 0:
        raise ValueError(f"port: {PROGRAM} takes no free port by itself; set the serve section's port, such as 8500")
    if host in LOOPBACK:
        log.warning("%s listens on all addresses, not on %s alone: let a firewall keep port %d", PROGRAM, host, port)
    base = str(folder) if "://" in str(folder) else str(Path(folder).absolute())
    return [
        program,
        f"--port={port}",
        f"--model_name={model_name}",
        f"--model_base_path={base}",
        "--file_system_poll_wait_seconds=1",
    ]


def hand_over(arguments: list[str]) -> NoReturn:
    """Replaces this process by the command, which then has its terminal, signals and exit status."""
    os.execv(arguments[0], arguments)
