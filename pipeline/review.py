"""Where the review pages of a task are, a file a run."""

from __future__ import annotations

from pathlib import Path

from components.errors import LineError
from pipeline.config import Config

FOLDER = "review"  # in the task's root


def page_file(task: Config, run_id: str) -> Path:
    """The review page of a run; its name has no colons, which some file systems refuse."""
    return task.root_folder / FOLDER / f"{run_id.replace(':', '')}.html"


def find(task: Config, run_id: str | None) -> Path:
    """The review page of a run, of the newest that has one by default.

    Raises:
      LineError: there is none.
    """
    # Run ids are times: the last in the order of names is the newest.
    pages = sorted((task.root_folder / FOLDER).glob("*.html"))
    if not pages:
        raise LineError(f"no review pages yet under {task.root_folder}; `bertline run` writes one a run.")
    if not run_id:
        return pages[-1]
    page = page_file(task, run_id)
    if page not in pages:
        raise LineError(
            f"run {run_id} has no review page: it is no run of this task, or did not come so far. "
            f"The newest that has one: {pages[-1].stem}."
        )
    return page
