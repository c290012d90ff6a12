"""Where a file lies that a stage of a past run wrote for people."""

from __future__ import annotations

from pathlib import Path

from bertline.components.artifacts import ISSUES_FILE, PSEUDO_FILE, VARIANTS_FILE
from bertline.errors import UserError
from bertline.pipeline import lineage
from bertline.pipeline.config import Config
from bertline.pipeline.stages import Node

FILES = {  # of a stage: the key of the artifact, and the file in it
    Node.LABEL_QUALITY: ("report", ISSUES_FILE),
    Node.AUGMENTER: ("variants", VARIANTS_FILE),
    Node.PSEUDO_LABELLER: ("rows", PSEUDO_FILE),
}


def find(task: Config, run_id: str | None, node: Node) -> Path:
    """The file that a stage made for people.

    Args:
        task: the config.
        run_id: None for the newest run that completed the stage.
        node: the stage, one of FILES.

    Raises:
        UserError: there is no such run, or the file is gone.
    """
    store, found = lineage.find(task, run_id, node)
    output, name = FILES[node]
    (artifact,) = store.stage(found, node).outputs[output]
    file = Path(artifact.uri) / name
    if not file.is_file():
        raise UserError(f"run {found}: {file} is gone; run again.")
    return file
