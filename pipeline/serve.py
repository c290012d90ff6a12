"""`bertline serve`: the real model server where there is one, else the embedded one, with the same flags."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from bertline import serving
from bertline.pipeline import screen
from bertline.pipeline.config import Config
from bertline.serving import flags, real
from bertline.serving.canary_plan import CanaryPlan
from bertline.serving.options import ServerOptions
from bertline.serving.recording import RecordOptions
from bertline.serving.server import Server
from bertline.serving.server import run as run_server

if TYPE_CHECKING:
    from bertline.serving.canary_judge import Labelled

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
    if settings.canary and not embedded:
        embedded = True
        if shutil.which(real.PROGRAM):
            print(f"serve.canary needs the embedded server: {real.PROGRAM} gives no version a share", flush=True)
    files = {
        "batching_parameters_file": settings.batching_file or SHIPPED / "batching.config",
        "monitoring_config_file": SHIPPED / "monitoring.config" if settings.rest_port is not None else None,
    }
    if not embedded:
        command = real.command(folder, task.name, settings.host, settings.port, rest_port=settings.rest_port, **files)
        if command:
            if settings.log.rate:
                print(f"{command[0]} keeps no records (serve.log): put bertline-log-proxy before it", flush=True)
            print(f"handing over to {command[0]}, which listens on all addresses", flush=True)
            real.hand_over([*command, *extra])
    rest_port = flags.FREE_PORT if settings.rest_port == 0 else settings.rest_port
    words = real.flags(folder, task.name, settings.port or flags.FREE_PORT, rest_port=rest_port, **files)
    options, _ = flags.parse([*words, f"--host={settings.host}", *extra])
    if options.batching and not settings.batching_file:  # the shipped file has a pod's two cores in mind
        batching = replace(options.batching, num_batch_threads=os.cpu_count() or 1)
        options = replace(options, batching=batching)
    if settings.log.rate:
        options = replace(options, records=_records(task, task.records_folder))
    if settings.canary:
        options = replace(options, **_canary(task))
    with _screen(task.root_folder / "logs") as stream:
        # What the server says of its versions belongs on the screen; TensorFlow's chatter stays in the log.
        shown = logging.StreamHandler(stream)
        shown.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger = logging.getLogger("bertline")
        logger.addHandler(shown)
        logger.setLevel(logging.INFO)
        if options.records:
            texts = "masked texts" if options.records.texts else "no texts"
            logger.info("requests are recorded, with %s, in %s", texts, screen.display(options.records.folder))
        if options.host not in real.LOOPBACK:
            logger.warning("%s", _who_may_reach(options))
        run_server(Server(options))


def _canary(task: Config) -> dict[str, Any]:
    """The server's options by which it tries new versions."""
    settings, shadow = task.serve.canary, task.shadow_records_folder
    values = settings.model_dump(exclude={"at_least", "patience"})
    plan = CanaryPlan(**values, seconds=settings.at_least.total_seconds(), patience=settings.patience.total_seconds())
    if not task.serve.log.rate:
        return {"canary": plan}
    from bertline.monitoring import feedback, labelled  # scipy and pyarrow, a second that a plain server need not wait

    separator = feedback.separator(task.data)

    def measure(since: datetime, stable: int, canary: int) -> tuple[Labelled, Labelled]:
        labels = feedback.labels(task.root_folder / "monitor")
        folders = [task.records_folder, shadow]
        return tuple(
            labelled.count(labels, folders, task.name, since, version, separator) for version in (stable, canary)
        )

    return {
        "canary": plan,
        "measure": measure,
        "shadow_records": _records(task, shadow) if settings.shadow else None,
    }


def _records(task: Config, folder: Path) -> RecordOptions:
    settings = task.serve.log
    return RecordOptions(
        folder,
        rate=settings.rate,
        texts=settings.texts,
        embeddings=settings.embeddings,
        columns=tuple(settings.columns),
        days=settings.days,
        most_bytes=settings.max_size,
    )


@contextmanager
def _screen(folder: Path) -> Iterator[TextIO]:
    """The screen; all else goes to a log in `folder`, or to stderr where nothing can be written, as in a container."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        print(f"{folder} cannot be written, so the whole log is here", flush=True)
        yield sys.stdout
        return
    with screen.quiet(folder / "serve.log") as console:
        yield console.file


def _who_may_reach(options: ServerOptions) -> str:
    """A server that listens beyond its machine, in words."""
    who = f"listening on {options.host}: whoever reaches this machine or container may call"
    if options.keys_file or (options.tls and options.tls.client_verify):
        return f"{who}, with a key or certificate that the server knows"
    return f"{who}, without a key: publish the ports only where callers are trusted, or give --api_keys_file"
