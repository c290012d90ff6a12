"""Where the probable label errors of a run are, a file that LabelQuality wrote."""

from __future__ import annotations

from pathlib import Path

from bertline.components.artifacts import ISSUES_FILE
from bertline.errors import UserError
from bertline.pipeline import lineage
from bertline.pipeline.config import Config
from bertline.pipeline.stages import Node


def find(task: Config, run_id: str | None) -> Path:
    """label_issues.csv of a run, of the newest that has one by default.

    Raises:
        UserError: there is none, or it is gone.
    """
    store, found = lineage.find(task, run_id, Node.LABEL_QUALITY)
    (report,) = store.stage(found, Node.LABEL_QUALITY).outputs["report"]
    file = Path(report.uri) / ISSUES_FILE
    if not file.is_file():
        raise UserError(f"run {found}: {file} is gone; run again.")
    return file
