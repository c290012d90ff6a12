"""Where the probable label errors of a run are, a file that LabelQuality wrote."""

from __future__ import annotations

from pathlib import Path

from components.artifacts import ISSUES_FILE
from components.errors import LineError
from pipeline import lineage, metadata_store
from pipeline.config import Config

STAGE = "LabelQuality"


def find(task: Config, run_id: str | None) -> Path:
    """label_issues.csv of a run, of the newest that has one by default.

    Raises:
      LineError: there is none, or it is gone.
    """
    if not metadata_store.exists(task):
        raise LineError(f"no runs yet under {task.root_folder}.")
    store = lineage.Store(task)
    known = store.run_ids()
    if run_id and run_id not in known:
        raise LineError(f"{run_id} is no run under {task.root_folder}; `bertline runs CONFIG` lists them.")
    for candidate in [run_id] if run_id else reversed(known):
        stage = store.stage(candidate, STAGE)
        if stage and stage.outputs:
            (report,) = stage.outputs["report"]
            file = Path(report.uri) / ISSUES_FILE
            if not file.is_file():
                raise LineError(f"run {candidate}: {file} is gone; run again.")
            return file
    raise LineError(
        f"run {run_id} ended before it looked for wrong labels."
        if run_id
        else "no run has looked for wrong labels yet."
    )
