"""Where the review pages of a task are, one file per run."""

from __future__ import annotations

from pathlib import Path

from bertline.errors import UserError
from bertline.pipeline import run_ids
from bertline.pipeline.config import Config

FOLDER = "review"  # in the task's root
TFMA_SUFFIX = ".tfma.html"


def page_file(task: Config, run_id: str) -> Path:
    """The review page of a run."""
    return task.root_folder / FOLDER / f"{run_ids.file_stem(run_id)}.html"


def find(task: Config, run_id: str | None) -> Path:
    """The review page of a run, of the newest that has one by default.

    Raises:
        UserError: there is none.
    """
    pages = [page for page in (task.root_folder / FOLDER).glob("*.html") if not page.name.endswith(TFMA_SUFFIX)]
    # Names are no order: those of older versions are local times, today's are UTC.
    pages.sort(key=lambda page: (page.stat().st_mtime, page.name))
    if not pages:
        raise UserError(f"no review pages yet under {task.root_folder}; `bertline run` writes one per run.")
    if not run_id:
        return pages[-1]
    page = page_file(task, run_ids.of_spelling(run_id))
    if page not in pages:
        raise UserError(
            f"run {run_id} has no review page: it is no run of this task, or did not come so far. "
            f"The newest that has one: {pages[-1].stem}."
        )
    return page


def write_tfma_page(task: Config, run_id: str | None) -> Path:
    """Writes the page of TFMA's components beside a run's review page, of the newest run by default; returns its path.

    Raises:
        UserError: the run has no review page, or its evaluation is gone.
    """
    import apache_beam as beam

    from bertline.components.review_page import tfma_page
    from bertline.pipeline import beam_options, evaluated, lineage, metadata_store

    main = find(task, run_id)
    if not metadata_store.exists(task.metadata_location):
        raise UserError(f"no runs are on record under {task.root_folder}: what TFMA found cannot be looked up.")
    of_page = {page_file(task, each): each for each in lineage.Store(task).run_ids()}
    run = evaluated.read(task, run_id or of_page.get(main, main.stem))
    html = tfma_page.render(
        beam.Pipeline(argv=beam_options.arguments(beam_options.BeamOptions())),  # one batch: nothing to spread
        task.name,
        run.answers,
        run.metrics,
        run.options,
        evaluated.folders(task, run.run_id),
    )
    target = main.with_name(f"{main.stem}{TFMA_SUFFIX}")
    target.write_text(html, encoding="utf-8")
    return target
