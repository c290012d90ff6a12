"""Commands that make a config and run the line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.text import Text

from bertline.components.options import Query
from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import screen
from bertline.pipeline.commands import BLOCKED, FAILED, INTERRUPTED, LIBRARY_LOG, ConfigArgument, console
from bertline.pipeline.retrain_options import TRIGGERS

if TYPE_CHECKING:
    from bertline.pipeline.init.budget import Budget
    from bertline.pipeline.local_runner import RunResult

DEMO_CONFIG = Path("configs/sentiment.yaml")
DEMO_TEXT = "my flight got cancelled again"
PANEL = "From a file to a pushed model"

app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def init(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="A CSV, TSV, JSON, Parquet, Arrow or Excel file (text also packed), or a folder with a subfolder "
            "per class.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: configs/NAME.yaml.")] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="A database instead of a file, such as 'postgresql://USER:${PGPASSWORD}@HOST/DATABASE'; the variable "
            "is filled in from the environment. Needs --query."
        ),
    ] = None,
    query: Annotated[
        str | None, typer.Option(help="The SELECT whose rows are the data, such as 'SELECT body, stars FROM reviews'.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="The text column, where the guess is wrong. Give it several times to join columns."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="The label column, where the guess is wrong.")] = None,
    header: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME,...",
            help="Names for the columns of a CSV or TSV file whose first line is a row; `first`: that line names them.",
        ),
    ] = None,
    p50_ms: Annotated[
        float | None,
        typer.Option(
            "--p50-ms",
            metavar="MS",
            help="The most milliseconds that half of the requests may take, each with one text, on this machine.",
        ),
    ] = None,
    size: Annotated[str | None, typer.Option(help="The most that the model may take on disk, such as 20MB.")] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing config.")] = False,
) -> None:
    """Look at a file of labelled text and write a config for it.

    With --p50-ms or --size the config makes the model as fast and as small as that, gives up as little as it can, and
    has gates that check it.
    """
    with screen.quiet(LIBRARY_LOG):
        from bertline.pipeline.init import write_config

        names = None if header is None else [] if header == "first" else [name.strip() for name in header.split(",")]
        source = _source(file, url, query)
        written = write_config(
            source, output, text=text or (), label=label, header=names, budget=_budget(p50_ms, size), force=force
        )
    shown = console()
    for finding in written.findings:
        shown.print(f"  {finding}")
    for warning in written.warnings:
        shown.print(f"  warning: {warning}", style="yellow")
    shown.print(f"wrote {written.path}; next: bertline run {written.path}")


def _budget(p50_ms: float | None, size: str | None) -> Budget:
    from bertline.pipeline.init.budget import Budget

    if p50_ms is not None and not p50_ms > 0:
        raise UserError(f"--p50-ms: {p50_ms:g} is no time; name milliseconds above 0, such as 5.")
    try:
        return Budget(p50_ms, None if size is None else int(TypeAdapter(ByteSize).validate_python(size)))
    except ValidationError:
        raise UserError(f"--size: {size!r} is no size; write one such as 20MB.") from None


def _source(file: Path | None, url: str | None, query: str | None) -> Path | Query:
    if url and query and not file:
        try:
            return Query(url=url, query=query)
        except ValidationError as error:
            raise UserError(f"--url: {error.errors()[0]['msg'].removeprefix('Value error, ')}.") from None
    if file and not url and not query:
        return file
    raise UserError("Name a FILE, or a database's rows with --url and --query.")


@app.command("config", rich_help_panel=PANEL)
def show_config(config: ConfigArgument) -> None:
    """Print a config complete with its defaults."""
    print(configs.dump(configs.load(config)), end="")


@app.command(rich_help_panel=PANEL)
def run(
    config: ConfigArgument,
    warm_start: Annotated[
        bool,
        typer.Option("--warm-start", help="Train from the last blessed model, whatever train.warm_start says."),
    ] = False,
) -> None:
    """Run the line: ingest, validate, tokenise, train, export, evaluate, gate, canary, push."""
    if not _run(config, warm_start).version:
        sys.exit(BLOCKED)


@app.command(rich_help_panel=PANEL)
def watch(
    config: ConfigArgument,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 60,
    on: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME,...", help="change, span, drift, schedule. Default: the config's retrain.on."),
    ] = None,
) -> None:
    """Run the line now and whenever its data or config change, until Ctrl-C; or when `--on` says.

    span: a new {SPAN} arrives. drift: `bertline monitor` has an alarm. schedule: retrain.every is over. Such runs start
    from the last blessed model; retrain.pause and retrain.most_a_week hold them back. A run that fails is tried again
    at the next change, or after 10 minutes, then 20, 40 and so on, up to a day.
    """
    from bertline.pipeline import watch as watching

    watching.forever(config, every, console(), _triggers(on))


def _triggers(on: str | None) -> list[str] | None:
    names = None if on is None else [name.strip() for name in on.split(",")]
    if unknown := [name for name in names or [] if name not in TRIGGERS]:
        raise UserError(f"--on {unknown[0]!r}: write some of {', '.join(TRIGGERS)}, with commas between them.")
    return names


@app.command(rich_help_panel=PANEL)
def demo(
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Replay tweets on airlines as four weeks of a stream instead, to an alarm and a page. Runs the line "
            "first where no model was pushed.",
        ),
    ] = False,
) -> None:
    """Run the whole line on real tweets, and end with a prediction over gRPC."""
    if stream:
        return _demo_stream()
    if not _run(DEMO_CONFIG).version:
        sys.exit(BLOCKED)
    from bertline.pipeline.predict import own_server
    from bertline.serving.client import Client

    task = configs.load(DEMO_CONFIG)
    with own_server(task) as address, Client(address, task.name) as client:
        (prediction,) = client.predict([DEMO_TEXT])
    shown = console()
    answer = (f"{prediction.label} {prediction.probability:.2f}", "bold")
    shown.print(Text.assemble(("predict", "bold"), f'  "{DEMO_TEXT}"  ->  ', answer, f"   (gRPC {address})"))
    shown.print(f"next: bertline serve {DEMO_CONFIG}; your own file: bertline init FILE")


def _demo_stream() -> None:
    """Replays the demo's tweets as a stream."""
    from bertline.pipeline import demo_stream
    from bertline.serving import releases

    task, shown = configs.load(DEMO_CONFIG), console()
    if not releases.whole_versions(task.serving_folder) and not _run(DEMO_CONFIG).version:
        sys.exit(BLOCKED)
    if not demo_stream.play(task, DEMO_CONFIG, shown, LIBRARY_LOG):
        sys.exit(FAILED)
    shown.print("next: docs/streams.md, for a stream of your own")


@app.command(rich_help_panel=PANEL)
def tune(
    config: ConfigArgument,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in all. Default: tune.trials, 20.")] = None,
    time: Annotated[
        str | None, typer.Option(help="For all trials, such as 45m, 2h or 1h30m. Default: tune.time.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: NAME-tuned.yaml beside CONFIG.")
    ] = None,
) -> None:
    """Search for better hyperparameters on the validation rows, and write a config with the best.

    The first trial is the config itself. A search that was stopped or killed goes on with the same command: trials and
    time count those of earlier calls. Ctrl-C ends it and writes the best so far.
    """
    from bertline.pipeline import local_runner
    from bertline.pipeline import tune as tuning

    task = tuning.with_options(configs.load(config), trials, time)
    try:
        interrupted = tuning.tune(task, config, output)
    except local_runner.RunFailed:
        sys.exit(FAILED)
    if interrupted:
        sys.exit(INTERRUPTED)


def _run(path: Path, warm_start: bool = False) -> RunResult:
    from bertline.pipeline import local_runner

    task = configs.load(path)
    task = configs.with_warm_start(task) if warm_start else task
    try:
        result = local_runner.run(task, str(path))
    except local_runner.RunFailed:
        sys.exit(FAILED)
    if result.blocked:
        shown = console()
        shown.print(Text.assemble(("not pushed", "bold red"), f"  {result.blocked}"))
        shown.print(f"the serving folder is unchanged: {screen.display(task.serving_folder)}")
    return result
