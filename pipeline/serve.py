"""`bertline serve`: the real model server where there is one, else the embedded one, with the same flags."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from bertline import serving
from bertline.pipeline import screen
from bertline.pipeline.config import Config
from bertline.serving import flags, real
from bertline.serving.server import Server
from bertline.serving.server import run as run_server

SHIPPED = Path(serving.__file__).parent / "deploy" / "config"


def run(task: Config, extra: list[str], *, embedded: bool) -> None:
    """Serves the task's folder until a signal stops it.

    Args:
        task: whose `serve` section says where.
        extra: more flags for the server.
        embedded: use the embedded server even where the real one is installed.

    Raises:
        UserError: as the Server.
    """
    settings, folder = task.serve, task.serving_folder
    files = {
        "batching_parameters_file": settings.batching_file or SHIPPED / "batching.config",
        "monitoring_config_file": SHIPPED / "monitoring.config" if settings.rest_port is not None else None,
    }
    if not embedded:
        command = real.command(folder, task.name, settings.host, settings.port, rest_port=settings.rest_port, **files)
        if command:
            print(f"handing over to {command[0]}, which listens on all addresses", flush=True)
            real.hand_over([*command, *extra])
    rest_port = flags.FREE_PORT if settings.rest_port == 0 else settings.rest_port
    words = real.flags(folder, task.name, settings.port or flags.FREE_PORT, rest_port=rest_port, **files)
    options, _ = flags.parse([*words, f"--host={settings.host}", *extra])
    if options.batching and not settings.batching_file:  # the shipped file has a pod's two cores in mind
        batching = replace(options.batching, num_batch_threads=os.cpu_count() or 1)
        options = replace(options, batching=batching)
    with screen.quiet(task.root_folder / "logs" / "serve.log") as console:
        # What the server says of its versions belongs on the screen; TensorFlow's chatter stays in the log.
        shown = logging.StreamHandler(console.file)
        shown.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger("bertline").addHandler(shown)
        run_server(Server(options))
