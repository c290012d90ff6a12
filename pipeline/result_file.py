"""Where a file lies that a stage of a past run wrote for people."""

from __future__ import annotations

from pathlib import Path

from bertline.errors import UserError
from bertline.pipeline import lineage
from bertline.pipeline.config import Config
from bertline.pipeline.stages import Node


def find(task: Config, run_id: str | None, node: Node, output: str, name: str) -> Path:
    """A file in an output of a stage.

    Args:
        task: the config.
        run_id: None for the newest run that completed the stage.
        node: the stage.
        output: the key of the artifact.
        name: of the file.

    Raises:
        UserError: there is no such run, or the file is gone.
    """
    store, found = lineage.find(task, run_id, node)
    (artifact,) = store.stage(found, node).outputs[output]
    file = Path(artifact.uri) / name
    if not file.is_file():
        raise UserError(f"run {found}: {file} is gone; run again.")
    return file
