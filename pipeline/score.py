"""`bertline score`: batch prediction of files, on the line's Beam engines. A killed job goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from bertline.errors import UserError
from bertline.pipeline import beam_options, predict, score_job, screen
from bertline.pipeline import config as configs
from bertline.pipeline.beam_options import BeamOptions
from bertline.pipeline.config import Config
from bertline.serving import releases, standing

if TYPE_CHECKING:
    from bertline.components.data.reader import SourceFile
    from bertline.components.options import DataOptions
    from bertline.components.scoring.cut import Sources
    from bertline.components.scoring.models import Model
    from bertline.components.scoring.output import Totals

SHOWN_LABELS = 5
QUERIES = "queries/score"  # below the root; here a query's answer has all columns, and for `run` only those it uses


@dataclass(frozen=True)
class Request:
    """What a person asks for.

    Attributes:
        config: the task's file.
        files: sources as in a config, from the current folder; none for the config's own.
        output: ends in .parquet, .csv or .jsonl.
        version: a pushed version, at an address one that is served; None for the one that servers answer with.
        model: folder of a SavedModel, at an address the model's name; None for the task's.
        address: HOST:PORT of a server that answers; None for the exported model in process.
        connection: further settings of the Client.
        keep: columns for the output; None for all.
        probabilities: whether the output has the probabilities of all labels.
        guard: whether a CSV file is written so that a spreadsheet runs no cell.
        force: replaces an output, or an unfinished job of other files or another model.
    """

    config: Path
    files: list[str]
    output: Path
    version: int | None = None
    model: str | None = None
    address: str | None = None
    connection: dict[str, Any] = field(default_factory=dict, repr=False)
    keep: list[str] | None = None
    probabilities: bool = True
    guard: bool = True
    force: bool = False


def run(request: Request) -> Totals:
    """Scores files, and shows the progress on the screen.

    Returns:
        What became of the rows.

    Raises:
        UserError: the output is there already, nothing is to be scored or by nothing, a file is damaged, or the server
            does not answer.
    """
    task = configs.load(request.config)
    engine = BeamOptions() if request.address else task.beam
    beam_options.check_runs_here(engine)
    if not request.force:
        score_job.check_output(request.output)
    began = time.monotonic()
    with screen.quiet(task.root_folder / "logs" / "score.log") as console:
        with console.status("starting (importing TensorFlow and Beam takes some seconds)"):
            from bertline.components.scoring import output

            output.check(request.output)
            model, known_by, title = model_of(request, task, engine)
            scored, fingerprint = sources_of(request, task)
        console.print(Text.assemble(("score", "bold"), f"  {screen.display(request.config)}  {title}"))
        identity = {
            "files": [*(source.file.name for source in scored.files), fingerprint],
            "columns": scored.columns,
            "the config's data section": scored.options.model_dump(mode="json", exclude={"source"}),
            "model": known_by,
        }
        with score_job.opened(request.output, identity, force=request.force) as job:
            totals = score_job.run(
                job,
                scored,
                model,
                beam_options.arguments(engine),
                console,
                lambda count, progress: output.join(
                    job,
                    count,
                    scored,
                    request.output.absolute(),
                    probabilities=request.probabilities,
                    guard=request.guard,
                    progress=progress,
                ),
            )
        _show(console, request, totals, time.monotonic() - began)
    return totals


# === What is scored, and by what ===


def sources_of(request: Request, task: Config) -> tuple[Sources, str]:
    """The files with their columns, and the hash of their contents.

    Raises:
        UserError: a file cannot be read, or has no column of texts.
    """
    from bertline.components.data import task_files
    from bertline.components.scoring import cut

    files, options = files_of(request, task)
    return cut.sources(files, options, request.keep), task_files.fingerprint(files)


def files_of(request: Request, task: Config) -> tuple[list[SourceFile], DataOptions]:
    """The files, and how to read them.

    Raises:
        UserError: a file is not there, or a query fails.
    """
    from bertline.components.data import sql, task_files

    folder = task.root_folder / QUERIES
    own = {"validation_source": None, "test_source": None, "train_source": None}
    options = task.data.model_copy(update=own | ({"source": request.files} if request.files else {}))
    options = options.with_queries(
        lambda query: query.model_copy(update={"file": str(sql.fetch(query, task.folder, folder))})
    )
    base = str(Path.cwd()) if request.files else task.folder
    format_ = _format(options, request.files)
    return task_files.expand(options.source, base, format_, options.newest_spans), options


def _format(options: DataOptions, files: Sequence[str]) -> str:
    """The config's format, but for files whose names all say one."""
    from bertline.components.data import file_kinds

    told = [file_kinds.by_name(Path(file)) for file in files]
    return "auto" if told and all(told) else options.format


def model_of(request: Request, task: Config, engine: BeamOptions) -> tuple[Model, list[str], str]:
    """What answers, what a job knows it by, and how the screen names it.

    Raises:
        UserError: there is no such model, or it reads other texts than the config names.
    """
    from bertline.components.scoring import models

    if request.address:
        name = request.model or task.name
        with predict.connected(request.address, name, version=request.version, **request.connection) as client:
            version, signatures = client.metadata()
        _check_signature(signatures, task, f"{name} at {request.address}")
        model = models.Served(request.address, name, version, request.connection)
        return model, [name, str(version)], f"{name}, version {version}, at {request.address}"
    folder, title = _exported(request, task)
    from bertline.serving import push
    from bertline.serving.servable import SERVE_TAG, signature_defs

    _check_signature(signature_defs(folder, (SERVE_TAG,)), task, folder)
    threads = models.cores() if engine.runner == "in-memory" else 1  # other engines have a worker for each core
    return models.Exported(folder, threads), [push.digest_of(folder)], title


def _exported(request: Request, task: Config) -> tuple[str, str]:
    """The folder of the SavedModel, and how the screen names it."""
    if request.model:
        if request.version:
            raise UserError("--version chooses among the pushed models: leave it out beside --model FOLDER.")
        folder = str(Path(request.model).absolute()) if "://" not in request.model else request.model
        return folder, screen.display(Path(folder))
    versions = releases.whole_versions(task.serving_folder)
    if not versions:
        predict.require_release(task, request.config)
    version = request.version or standing.answering(task.serving_folder, task.serve.canary is not None, versions)
    if version not in versions:
        listed = ", ".join(map(str, versions))
        raise UserError(f"--version {version}: {task.serving_folder} does not hold it. There is {listed}.")
    return versions[version][0], f"version {version}"


def _check_signature(signatures: dict[str, Any], task: Config, where: str) -> None:
    paired = predict.reads_pairs(signatures, where)
    if paired != bool(task.data.text_pair):
        what, config = ("text pairs", "names no") if paired else ("single texts", "names a")
        raise UserError(f"{where} reads {what}, and the config {config} data.text_pair: name another model or config.")


# === The screen ===


def _show(console: screen.Screen, request: Request, totals: Totals, seconds: float) -> None:
    """The totals, which add up."""
    from bertline.components.scoring import parts

    text = f"{screen.display(request.output.absolute())}  {totals.scored:,} rows of {totals.rows:,}"
    if totals.quarantined:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in totals.quarantined.items())
        quarantine = parts.quarantine_of(request.output)
        text += f": {sum(totals.quarantined.values()):,} quarantined (see {quarantine.name}): {reasons}"
    console.print(screen.line("output", text, seconds))
    if totals.labels:
        shown = [f"{label} {count / totals.scored:.1%}" for label, count in list(totals.labels.items())[:SHOWN_LABELS]]
        more = len(totals.labels) - len(shown)
        shown += [f"{more} more"] if more > 0 else []
        shown += [f"abstained {totals.abstained / totals.scored:.1%}"] if totals.abstained else []
        console.print(screen.line("labels", ", ".join(shown), style="dim"))
    if totals.guarded:
        console.print(
            screen.line(
                "guarded",
                f"{totals.guarded:,} cells begin like a formula: an apostrophe before them keeps spreadsheets from "
                "running them. --no-guard, .parquet and .jsonl leave them as they are.",
                style="yellow",
            )
        )
    if totals.renamed:
        names = ", ".join(f"{old} as {new}" for old, new in totals.renamed.items())
        console.print(screen.line("columns", f"written under another name, since the answers have theirs: {names}"))
