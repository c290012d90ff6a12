"""Commands that look at past runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import screen
from bertline.pipeline.commands import LIBRARY_LOG, ConfigArgument, console
from bertline.pipeline.stages import Node

PANEL = "Past runs"
OUTCOME_STYLES = {
    "pushed": "green",
    "unchanged": "green",
    "tuned": "green",
    "blocked": "red",
    "failed": "red",
    "interrupted": "yellow",
}

OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="A file; default: on the screen.")]

app = typer.Typer()


def _run_argument(default: str) -> typer.models.ArgumentInfo:
    return typer.Argument(metavar="RUN", help=f"A run's id, as `bertline runs` lists it. Default: {default}.")


@app.command(rich_help_panel=PANEL)
def runs(
    config: ConfigArgument,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object per line.")] = False,
) -> None:
    """List past runs: verdicts, figures, and where each model came from."""
    from bertline.pipeline import lineage, metadata_store

    task = configs.load(config)
    if not metadata_store.exists(task.metadata_location):
        raise UserError(f"no runs yet under {task.root_folder}; start one with `bertline run {config}`.")
    store = lineage.Store(task)
    records = [lineage.record(store, run_id) for run_id in store.run_ids()]
    if as_json:
        for record in records:
            print(json.dumps(vars(record)))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("run", "outcome", "version", "parent", "data", "figures"):
        table.add_column(column, overflow="fold")
    for record in records:
        table.add_row(
            record.run_id,
            Text(record.outcome, style=OUTCOME_STYLES[record.outcome]),
            record.version or "-",
            record.parent or "-",
            record.data,
            f"{record.metrics}  {record.reason}".strip(),
        )
    console().print(table)


@app.command(rich_help_panel=PANEL)
def review(
    config: ConfigArgument,
    run_id: Annotated[str | None, _run_argument("the newest run with a page")] = None,
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = True,
    with_tfma: Annotated[
        bool, typer.Option("--tfma", help="TFMA's own components instead; they load Google Charts from the network.")
    ] = False,
) -> None:
    """Print where a run's review page is, and open it: figures, slices, errors, verdicts, without a server."""
    import webbrowser

    from bertline.pipeline import review as reviews

    task = configs.load(config)
    if with_tfma:
        with screen.quiet(LIBRARY_LOG):
            page = reviews.write_tfma_page(task, run_id)
    else:
        page = reviews.find(task, run_id)
    print(screen.display(page))
    if open_it and not webbrowser.open(page.as_uri()):
        raise UserError("no browser was found here; open the file in one, or call with --no-open.")


@app.command("explain-gate", rich_help_panel=PANEL)
def explain_gate(
    config: ConfigArgument,
    run_id: Annotated[str | None, _run_argument("the newest evaluated run")] = None,
) -> None:
    """Say why a run was blocked: by how much, how sure that is, and which rows would have to change."""
    with screen.quiet(LIBRARY_LOG):
        from bertline.pipeline import evaluated
        from bertline.pipeline import explain_gate as explanations

        run = evaluated.read(configs.load(config), run_id)
    explanations.show(run, console())


@app.command("label-issues", rich_help_panel=PANEL)
def label_issues(
    config: ConfigArgument,
    run_id: Annotated[str | None, _run_argument("the newest run that looked for them")] = None,
    output: OutputOption = None,
) -> None:
    """Write the rows whose label is probably wrong as CSV, the surest first.

    A text that a spreadsheet would run as a formula, or that begins with an apostrophe, has an apostrophe before it.
    """
    _write_result(config, run_id, Node.LABEL_QUALITY, output)


@app.command(rich_help_panel=PANEL)
def variants(
    config: ConfigArgument,
    run_id: Annotated[str | None, _run_argument("the newest run that made some")] = None,
    output: OutputOption = None,
) -> None:
    """Write the training rows that `train.augment` made as CSV, each with the row and the operation that made it.

    A text that a spreadsheet would run as a formula, or that begins with an apostrophe, has an apostrophe before it.
    """
    _write_result(config, run_id, Node.AUGMENTER, output)


@app.command(rich_help_panel=PANEL)
def pseudo_labels(
    config: ConfigArgument,
    run_id: Annotated[str | None, _run_argument("the newest run that labelled some")] = None,
    output: OutputOption = None,
) -> None:
    """Write the rows of `train.unlabelled` that became training rows as CSV, each with its label and its probability.

    With `train.pseudo_labels: spread` the probability is the label's share of what has spread to the row, uncalibrated.
    A text that a spreadsheet would run as a formula, or that begins with an apostrophe, has an apostrophe before it.
    """
    _write_result(config, run_id, Node.PSEUDO_LABELLER, output)


def _write_result(config: Path, run_id: str | None, node: Node, output: Path | None) -> None:
    """Writes the file that a stage of a past run made for people."""
    with screen.quiet(LIBRARY_LOG):
        from bertline.pipeline import result_file

        file = result_file.find(configs.load(config), run_id, node)
    _write(file.read_bytes(), output)


def _write(content: bytes, output: Path | None) -> None:
    """Writes into a file, or onto the screen."""
    if output is None:
        sys.stdout.buffer.write(content)
        return
    try:
        output.write_bytes(content)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}.") from error
    print(f"wrote {output}")


@app.command(rich_help_panel=PANEL)
def explain(
    config: ConfigArgument,
    text: Annotated[str, typer.Argument(help="The text.")],
    text_pair: Annotated[str | None, typer.Option(help="The second text, for a model of text pairs.")] = None,
    label: Annotated[str | None, typer.Option(help="The label to explain; default: the predicted one.")] = None,
    method: Annotated[
        Literal["integrated-gradients", "lime", "both"], typer.Option(help="LIME is a second opinion.")
    ] = "integrated-gradients",
    run_id: Annotated[str | None, typer.Option("--run", help="A run's id. Default: the newest with a model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object, with each word's place in the text.")] = False,
) -> None:
    """Say which words a prediction rests on, each with what it adds to the label's score."""
    with screen.quiet(LIBRARY_LOG):
        from bertline.pipeline import explain as explanations

        task = configs.load(config)
        explanation = explanations.explain(task, text, text_pair, label=label, method=method, run_id=run_id)
    if as_json:
        print(json.dumps(explanations.as_dict(explanation), ensure_ascii=False))
    else:
        explanations.show(explanation, console())


@app.command(rich_help_panel=PANEL)
def compare(
    config: ConfigArgument,
    first: Annotated[str, typer.Argument(metavar="RUN", help="The run to compare with; `bertline runs` lists them.")],
    second: Annotated[
        str | None, typer.Argument(metavar="NEWER", help="The run to judge. Default: the newest evaluated run.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, all changed rows too, as JSON.")] = False,
) -> None:
    """Compare two runs on the rows that both were tested on: figures, slices, and the rows whose answer changed."""
    with screen.quiet(LIBRARY_LOG):
        from bertline.pipeline import compare as comparisons
        from bertline.pipeline import evaluated

        task = configs.load(config)
        comparison = comparisons.compare(evaluated.read(task, first), evaluated.read(task, second))
    if as_json:
        print(json.dumps(comparison, ensure_ascii=False))
    else:
        comparisons.show(comparison, console())
