"""`bertline rank`: which of these candidates fits the query, by a model of text pairs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import score, screen
from bertline.pipeline.config import Config

if TYPE_CHECKING:
    from bertline.components.scoring.cut import Sources
    from bertline.components.scoring.ranked import Ranked, Refused

SHOWN_QUERIES = 5  # of a file with many; -o has all
SHOWN_REFUSED = 3


def run(request: score.Request, query: str | None, label: str | None, top: int) -> int:
    """Ranks the candidates in files, shows the first of each query, and writes the output if one is asked for.

    Args:
        request: the files, what answers, and as `output` the file to write or an empty path.
        query: that all rows are candidates for; None where the files have a column of queries.
        label: of a candidate that fits; None for the config's evaluate.ranking.label.
        top: how many candidates of a query to show.

    Returns:
        How many rows could not be ranked.

    Raises:
        UserError: the model reads no pairs, no label says what fits, a column is missing, or there is no candidate.
    """
    task = configs.load(request.config)
    fits = _label(task, label)
    _check(task, request, query)
    began = time.monotonic()
    with screen.quiet(task.root_folder / "logs" / "rank.log") as console:
        with console.status("starting (importing TensorFlow takes some seconds)"):
            from bertline.components.scoring import ranked

            model, _, title = score.model_of(request, task, task.beam)
            sources = _sources(request, task, query)
        rows = list(ranked.read(sources, query))
        candidates = [row for row in rows if isinstance(row, ranked.Candidate)]
        refused = [row for row in rows if isinstance(row, ranked.Refused)]
        if not candidates:
            raise UserError(f"{', '.join(request.files)}: no row to rank. {_said(refused)}")
        with console.status(f"{len(candidates):,} candidates"):
            scorer = model.load()
            try:
                ordered, unanswered = ranked.order(candidates, scorer, fits)
            finally:
                scorer.close()
        refused += unanswered
        console.print(Text.assemble(("rank", "bold"), f"  {screen.display(request.config)}  {title}, by {fits}"))
        _show(console, ordered, top)
        if request.output.name:
            ranked.write(request.output, ordered, sources.columns, guard=request.guard)
            count = sum(map(len, ordered))
            written = f"{screen.display(request.output.absolute())}  {count:,} candidates of {len(ordered):,} queries"
            console.print(screen.line("output", written, time.monotonic() - began))
        if refused:
            console.print(f"{len(refused):,} of {len(rows):,} rows are not ranked. {_said(refused)}", style="yellow")
    return len(refused)


def _label(task: Config, label: str | None) -> str:
    if label := label or (task.evaluate.ranking.label if task.evaluate.ranking else None):
        return label
    raise UserError(
        "which label says that a candidate fits? Name it with --label, or once in the config: "
        "evaluate: {ranking: {label: LABEL}}."
    )


def _check(task: Config, request: score.Request, query: str | None) -> None:
    """Raises UserError for what can be known before TensorFlow starts."""
    if not task.data.text_pair:
        raise UserError(
            f"{request.config} names no data.text_pair: its model reads single texts, and ranking compares a query "
            "with each candidate. Train on pairs: data.text the query, data.text_pair the candidate (docs/ranking.md)."
        )
    if query is not None and not query.strip():
        raise UserError("--query is blank: give the text that the candidates are to fit.")
    if request.output.name:
        from bertline.components.scoring import output

        output.check(request.output)
        if request.output.exists() and not request.force:
            raise UserError(f"{request.output} is there already. Name another file, or replace it with --force.")


def _sources(request: score.Request, task: Config, query: str | None) -> Sources:
    """The files with their columns.

    Raises:
        UserError: a file cannot be read, or lacks the column of the candidates, or of the queries.
    """
    from bertline.components.data import columns, formats
    from bertline.components.scoring import cut

    files, options = score.files_of(request, task)
    if query is not None:  # the candidates are the only texts that are read
        options = options.model_copy(update={"text": options.text_pair, "text_pair": None})
    for file in files:
        there = formats.columns(file, options)
        for option, name in columns.named_columns(task.data):
            if option == "text" and query is None and name not in there:
                raise UserError(
                    f"{columns.missing_column(file, option, name, there)} Or give one query for all candidates: "
                    "--query TEXT."
                )
            if option == "text_pair" and name not in there:
                raise UserError(columns.missing_column(file, option, name, there))
    return cut.sources(files, options, None)


def _said(refused: Sequence[Refused]) -> str:
    shown = [f"{each.file}, row {each.row}: {each.fault.detail}" for each in refused[:SHOWN_REFUSED]]
    more = len(refused) - len(shown)
    return "; ".join([*shown, *([f"{more:,} more"] if more > 0 else [])]) or "The files have no rows."


def _show(console: screen.Screen, ordered: Sequence[Sequence[Ranked]], top: int) -> None:
    """The first candidates of the first queries."""
    for of_query in ordered[:SHOWN_QUERIES]:
        console.print(f"\n{screen.excerpt(of_query[0].candidate.query)}", style="bold")
        table = Table(box=None, pad_edge=False, padding=(0, 1))
        for column in ("  rank", "score", "row", "candidate"):
            table.add_column(column, justify="left" if column == "candidate" else "right", no_wrap=True)
        for each in of_query[:top]:
            text = Text(screen.excerpt(each.candidate.text))
            table.add_row(f"{each.rank}", f"{each.score:.3f}", f"{each.candidate.row:,}", text)
        console.print(table)
        if len(of_query) > top:
            console.print(f"  {len(of_query) - top:,} more candidates", style="dim")
    if len(ordered) > SHOWN_QUERIES:
        console.print(f"\n{len(ordered) - SHOWN_QUERIES:,} more queries", style="dim")
