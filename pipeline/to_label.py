"""`bertline to-label`: which unlabelled rows to label next, in a file that a person or a labelling tool fills in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import score, screen
from bertline.pipeline.beam_options import BeamOptions
from bertline.pipeline.commands import LIBRARY_LOG
from bertline.pipeline.config import Config
from bertline.pipeline.score_job import reporter
from bertline.serving import releases

if TYPE_CHECKING:
    import numpy as np

    from bertline.components.labelling.forms import Format, Sheet, Suggestion
    from bertline.components.labelling.pool import Candidate, Counts, Known
    from bertline.components.labelling.vectors import TextVectors
    from bertline.components.scoring.cut import Sources
    from bertline.components.scoring.models import Model

CONFIG_ENDINGS = (".yaml", ".yml")
SHOWN_REFUSALS = 5
CHUNK = 4096  # rows that are answered or embedded at a time
# Rows that are embedded without a model, an even sample of more: 150 MB of vectors, some minutes on two cores. Of a
# few hundred kinds of texts, more rows show no other ones.
MOST_EMBEDDED = 100_000


@dataclass(frozen=True)
class Request:
    """What a person asks for.

    Attributes:
        sources: a config and files, or files alone.
        output: the file to write.
        rows: how many rows to choose.
        format: of the output; None goes by its name.
        text: the column of the texts, where there is no config.
        version: a pushed version, at an address one that is served; None for the newest.
        model: folder of a SavedModel, at an address the model's name; None for the task's.
        address: HOST:PORT of a server that answers.
        connection: further settings of the Client.
        seed: of the clusters.
        guard: whether cells of CSV that a spreadsheet would run get an apostrophe.
        force: replaces the output.
    """

    sources: list[str]
    output: Path
    rows: int
    format: Format | None = None
    text: str | None = None
    version: int | None = None
    model: str | None = None
    address: str | None = None
    connection: dict[str, Any] = field(default_factory=dict, repr=False)
    seed: int = 17
    guard: bool = False
    force: bool = False


@dataclass
class Chosen:
    """The rows to label, in their order, and what is suggested for each; None without a model."""

    rows: list[Candidate]
    suggestions: list[Suggestion | None]
    labels: list[str]
    doubts: list[float] = field(default_factory=list)  # as choice.uncertainty gives them; none without a model


def run(request: Request) -> Counts:
    """Chooses rows and writes them, and says on the screen what became of the others.

    Returns:
        The counts of the rows.

    Raises:
        UserError: a file cannot be read, the output is there already, or no row is left to label.
    """
    task, asks = _task(request)
    with screen.quiet(task.root_folder / "logs" / "to-label.log" if asks.config else LIBRARY_LOG) as console:
        with console.status("starting (importing TensorFlow takes some seconds)"):
            from bertline.components.labelling import forms

            format = forms.format_of(request.output, request.format)
            _check_outputs(request, format)
            answering = _answering(asks, task)
            sources, _ = score.sources_of(asks, task)
        title = answering[1] if answering else "no model yet: typical rows"
        shown = screen.display(asks.config) if asks.config else "no config"
        console.print(Text.assemble(("to-label", "bold"), f"  {shown}  {title}"))
        counts, chosen = _chosen(request, asks, task, sources, answering and answering[0], console)
        began = time.monotonic()
        sheet = _sheet(chosen, task, sources, f"{task.name}-{title.removeprefix('version ')}" if answering else "")
        formulas = forms.write(sheet, request.output, format, guard=request.guard)
        _show(console, request, format, sheet, chosen, formulas, time.monotonic() - began)
    return counts


# === What is asked ===


def _task(request: Request) -> tuple[Config, score.Request]:
    """The task, and what `score` would be asked to answer the files."""
    first, *rest = request.sources
    with_config = first.endswith(CONFIG_ENDINGS)
    files = rest if with_config else request.sources
    if with_config and request.text:
        raise UserError(
            "--text names the column where there is no config; here data.text of the config does: leave --text out."
        )
    if with_config and not files:
        raise UserError(f"name a file of unlabelled rows: bertline to-label {first} FILE -o {request.output}")
    if with_config:
        task = configs.load(first)
    else:
        if request.version:
            raise UserError("--version chooses among the models that a config has pushed: name a CONFIG before FILE.")
        data = {"source": files} | ({"text": request.text} if request.text else {})
        task = Config.model_validate({"name": "to-label", "data": data, "folder": str(Path.cwd())})
    asks = score.Request(
        config=Path(first) if with_config else None,
        files=files,
        output=request.output,
        version=request.version,
        model=request.model,
        address=request.address,
        connection=request.connection,
    )
    return task, asks


def _check_outputs(request: Request, format: Format) -> None:
    from bertline.components.labelling import forms

    written = [request.output, *([forms.interface_of(request.output)] if format == "label-studio" else [])]
    for path in written:
        if path.exists() and not request.force:
            raise UserError(f"{path} is there already. Name another file, or replace it with --force.")


def _answering(asks: score.Request, task: Config) -> tuple[Model, str] | None:
    """What answers, and how the screen names it; None where no model has been pushed yet."""
    asked = asks.version or asks.model or asks.address
    if not asked and (asks.config is None or not releases.whole_versions(task.serving_folder)):
        return None
    model, _, title = score.model_of(asks, task, BeamOptions())
    return model, title


# === Choosing ===


def _chosen(
    request: Request, asks: score.Request, task: Config, sources: Sources, model: Model | None, console: screen.Screen
) -> tuple[Counts, Chosen]:
    from bertline.components.labelling import pool
    from bertline.components.labelling.vectors import TextVectors

    encoder = TextVectors(task.model)  # first: a family without one is refused before hours of scoring
    with screen.StageView(console, "read") as view:
        known, counts = _known(task) if asks.config else pool.Known(), pool.Counts()
        candidates = pool.candidates(sources.files, task.data, known.row_ids, counts, _now_and_then(reporter(None)))
        ids = [candidate.row_id for candidate in candidates]
    console.print(screen.line("read", _described(counts, len(sources.files)), view.seconds))
    for refusal in counts.refused[:SHOWN_REFUSALS]:
        text = f"{refusal.file}:{refusal.row}: {refusal.fault.reason}: {refusal.fault.detail}"
        console.print(screen.line("", text, style="yellow"))
    if not ids:
        raise UserError("no row is left to label: all are known, repeated, labelled or unreadable (see above).")

    def again() -> Iterator[Candidate]:
        return pool.candidates(sources.files, task.data, known.row_ids, pool.Counts())

    if model:
        return counts, _unsure(request, task, again(), len(ids), model, encoder, console)
    return counts, _typical(request, task, again(), ids, known, encoder, console)


def _known(task: Config) -> Known:
    """What the config's own data hold."""
    from bertline.components.data import sql, task_files
    from bertline.components.labelling import pool

    options = sql.fetched(task.data, task.folder, task.root_folder / score.QUERIES)
    return pool.known(task_files.of_task(options, task.folder), options)


def _unsure(
    request: Request,
    task: Config,
    rows: Iterator[Candidate],
    total: int,
    model: Model,
    encoder: TextVectors,
    console: screen.Screen,
) -> Chosen:
    """The rows of which the model is unsure, unlike each other."""
    import numpy as np

    from bertline.components.labelling import choice, forms

    kept: list[tuple[float, Candidate, forms.Suggestion]] = []
    labels: list[str] = []
    refused = 0
    with screen.StageView(console, "score") as view:
        report, scorer, done = reporter(total), model.load(), 0
        try:
            for chunk in _chunks(rows):
                answers = scorer.answer(*_texts(chunk, task))
                labels = answers.classes or labels
                doubts = choice.uncertainty(answers.probabilities, multi_label=answers.multi_label)
                for place, candidate in enumerate(chunk):
                    if place not in answers.faults:
                        kept.append((float(doubts[place]), candidate, _suggestion(answers, place)))
                refused += len(answers.faults)
                kept.sort(key=lambda row: -row[0])  # rows of one doubt stay in the order of the files
                del kept[request.rows * choice.CANDIDATES_PER_ROW :]
                done += len(chunk)
                report(done)
        finally:
            scorer.close()
    console.print(screen.line("score", f"{total:,} rows, {total / view.seconds:,.0f} examples/s", view.seconds))
    if refused:
        console.print(screen.line("", f"{refused:,} rows were refused by the server", style="yellow"))
    if not kept:
        raise UserError("the server answered none of the rows; see its log.")
    vectors = _embedded([row[1] for row in kept], len(kept), task, encoder, console)
    doubts = np.array([row[0] for row in kept])
    places = choice.diverse(vectors, doubts, request.rows, request.seed)
    taken = [kept[place] for place in places]
    return Chosen([row[1] for row in taken], [row[2] for row in taken], labels, [row[0] for row in taken])


def _suggestion(answers: Any, place: int) -> Suggestion:
    from bertline.components.labelling import forms

    of_row = dict(zip(answers.classes, answers.probabilities[place].tolist(), strict=True))
    labels = tuple(answers.labels[place])
    return forms.Suggestion(labels, tuple(of_row[label] for label in labels))


def _typical(
    request: Request,
    task: Config,
    rows: Iterator[Candidate],
    ids: list[str],
    known: Known,
    encoder: TextVectors,
    console: screen.Screen,
) -> Chosen:
    """Rows that stand for many others."""
    from bertline.components.labelling import choice

    if len(ids) > MOST_EMBEDDED:
        last = sorted(row_id[16:] for row_id in ids)[MOST_EMBEDDED - 1]  # the half of the hash that samples
        rows = (row for row in rows if row.row_id[16:] <= last)
        console.print(screen.line("sample", f"{MOST_EMBEDDED:,} of {len(ids):,} rows, an even sample", style="yellow"))
    kept: list[Candidate] = []
    total = min(len(ids), MOST_EMBEDDED)
    vectors = _embedded(_noting(rows, kept), total, task, encoder, console)
    places = choice.typical(vectors, request.rows, request.seed)
    labels = list(task.data.known_labels or known.labels)
    return Chosen([kept[place] for place in places], [None] * len(places), labels)


def _noting(rows: Iterable[Candidate], kept: list[Candidate]) -> Iterator[Candidate]:
    """The rows, each noted without its texts."""
    for row in rows:
        kept.append(row._replace(text="", text_pair=None))
        yield row


def _embedded(
    rows: Iterable[Candidate], total: int, task: Config, encoder: TextVectors, console: screen.Screen
) -> np.ndarray:
    """The rows' vectors by the pretrained encoder, float32 [rows, hidden], of length 1."""
    import numpy as np

    with screen.StageView(console, "embed") as view:
        report, parts = reporter(total), []
        for chunk in _chunks(iter(rows)):
            parts.append(encoder(*_texts(chunk, task)))
            report(sum(map(len, parts)))
        vectors = np.concatenate(parts)
    console.print(
        screen.line("embed", f"{len(vectors):,} rows, {len(vectors) / view.seconds:,.0f} examples/s", view.seconds)
    )
    return vectors


def _chunks(rows: Iterator[Candidate]) -> Iterator[list[Candidate]]:
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


def _texts(chunk: list[Candidate], task: Config) -> tuple[list[str], list[str] | None]:
    pairs = [row.text_pair or "" for row in chunk] if task.data.text_pair else None
    return [row.text for row in chunk], pairs


def _now_and_then(report: Callable[[int], None]) -> Callable[[int], None]:
    return lambda rows: report(rows) if rows % CHUNK == 0 else None


# === What is written, and the screen ===


def _sheet(chosen: Chosen, task: Config, sources: Sources, model: str) -> Sheet:
    from bertline.components.labelling import forms, pool

    values = pool.values(sources.files, task.data, [row.place for row in chosen.rows])
    items = [
        forms.Item(f"{sources.files[row.place.file].file.name}:{row.place.row}", row.row_id, values[row.place], each)
        for row, each in zip(chosen.rows, chosen.suggestions, strict=True)
    ]
    return forms.Sheet(items, task.data, chosen.labels, model)


def _described(counts: Counts, files: int) -> str:
    left_out = [f"{rows:,} {why}" for why, rows in counts.left_out.items()]
    left_out += [f"{len(counts.refused):,} unreadable"] if counts.refused else []
    of = f"{counts.rows:,} rows of {files} file{'s' if files != 1 else ''}"
    return f"{of}, {counts.candidates:,} to choose from" + (f"; left out: {', '.join(left_out)}" if left_out else "")


def _show(
    console: screen.Screen,
    request: Request,
    format: Format,
    sheet: Sheet,
    chosen: Chosen,
    formulas: int,
    seconds: float,
) -> None:
    from bertline.components.labelling import forms

    how = "the least sure that are unlike each other" if chosen.doubts else "typical ones, a kind of text each"
    text = f"{screen.display(request.output.absolute())}  {len(sheet.items):,} rows, {how}"
    if len(sheet.items) < request.rows:
        text += f"; there are no {request.rows:,}"
    console.print(screen.line("output", text, seconds))
    if format == "label-studio" and sheet.labels:
        interface = screen.display(forms.interface_of(request.output.absolute()))
        console.print(screen.line("", f"{interface}  the labelling interface, for the project's settings"))
    if formulas:
        done = "have an apostrophe before them" if request.guard else "--guard puts an apostrophe before them"
        console.print(screen.line("guard", f"{formulas:,} cells begin like a formula: {done}", style="yellow"))
