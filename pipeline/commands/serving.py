"""Commands for the model in service: releases, servers, predictions."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import filesize
from rich.table import Table
from rich.text import Text

from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import screen
from bertline.pipeline.commands import UNANSWERED, ConfigArgument, console

if TYPE_CHECKING:
    from bertline.pipeline.predict import Outcome

PANEL = "The model in service"
HOST_VARIABLE = "BERTLINE_SERVE_HOST"  # in a container, what is published decides who reaches a server, not its config
STATE_STYLES = {"served": "green", "canary": "cyan", "waiting": "cyan", "kept": "dim", "withdrawn": "yellow"}
FIGURES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}

KeyFileOption = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="File with the API key; default: the variable BERTLINE_API_KEY."),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="Speak TLS; certificates (PEM) of the authority that signed the server's."
    ),
]
TlsOption = Annotated[bool, typer.Option("--tls", help="Speak TLS; a public authority signed the server's.")]
VersionOption = Annotated[int | None, typer.Option(help="A pushed version. Default: the one that is served.")]
ModelOption = Annotated[
    str | None, typer.Option(help="Folder of a SavedModel; with --address, the model's name there.")
]
AddressOption = Annotated[
    str | None, typer.Option(help="HOST:PORT of a server that answers, in place of this machine.")
]
GuardOption = Annotated[bool, typer.Option(help="CSV: an apostrophe before cells that a spreadsheet would run.")]

app = typer.Typer()


@app.command("releases", rich_help_panel=PANEL)
def list_releases(
    config: ConfigArgument,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object per line.")] = False,
) -> None:
    """List the versions in the serving folder: what is served, tried as a canary, kept or rolled back, and why."""
    from bertline.serving import standing

    task = configs.load(config)
    versions = standing.overview(task.serving_folder, task.serve.canary is not None)
    if not versions:
        raise UserError(f"{task.serving_folder} holds no pushed version; `bertline run {config}` makes one.")
    if as_json:
        for version in versions:
            print(json.dumps(version))
        return
    console().print(_releases_table(versions))


@app.command(rich_help_panel=PANEL)
def rollback(
    config: ConfigArgument,
    to: Annotated[int | None, typer.Option(metavar="VERSION", help="Default: the one before the newest.")] = None,
    reason: Annotated[str, typer.Option(help="For the release's record.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Put back what the last rollback took out.")] = False,
) -> None:
    """Take newer versions out of service, so that servers go back to an older one."""
    from bertline.serving import rollback as withdrawals
    from bertline.serving import standing

    if undo and (to or reason):
        raise UserError("--undo puts back what the last rollback took out: leave out --to and --reason.")
    task = configs.load(config)
    folder = task.serving_folder
    moved = withdrawals.undo(folder) if undo else withdrawals.roll_back(folder, to, reason)
    served = standing.served(folder, task.serve.canary is not None).version
    versions = ", ".join(str(release.version) for release in moved)
    shown = console()
    shown.print(f"{'in service again' if undo else 'withdrawn'}: {versions}; served: {served}")
    shown.print("running servers follow when they next look at the folder, within a second or two", style="dim")
    if not undo:
        shown.print(f"the way back: bertline rollback {config} --undo", style="dim")


@app.command(rich_help_panel=PANEL, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    config: ConfigArgument,
    host: Annotated[
        str | None,
        typer.Option(
            envvar=HOST_VARIABLE, help="Default: the config's serve.host. The image sets the variable: 0.0.0.0."
        ),
    ] = None,
    port: Annotated[int | None, typer.Option(help="gRPC; default: the config's serve.port.")] = None,
    rest_port: Annotated[int | None, typer.Option(help="REST and metrics; default: the config's.")] = None,
    embedded: Annotated[
        bool, typer.Option(help="Use our own server even where tensorflow_model_server is installed.")
    ] = False,
) -> None:
    """Serve the newest pushed version over TF Serving's gRPC and REST, and each newer one as it appears.

    Any other flag goes to the server, such as --api_keys_file=FILE or --ssl_config_file=FILE.
    """
    from bertline.pipeline import serve as servers
    from bertline.pipeline.predict import require_release

    task = configs.load(config)
    require_release(task, config)
    changes = {"host": host, "port": port, "rest_port": rest_port}
    options = task.serve.model_copy(update={name: value for name, value in changes.items() if value is not None})
    servers.run(task.model_copy(update={"serve": options}), context.args, embedded=embedded)


@app.command(rich_help_panel=PANEL)
def predict(
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help="The task's YAML file; no CONFIG with --model.")
    ] = None,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; without any, one text per line from stdin.")] = None,
    pair: Annotated[list[str] | None, typer.Option(help="The second text of each pair, in order.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object per line.")] = False,
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT of a server; default: the config's, if it answers.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of a model at --address, in place of CONFIG.")] = None,
    key_file: KeyFileOption = None,
    ca: CaOption = None,
    tls: TlsOption = False,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds for the texts that are known at a time; default: 60 per request.")
    ] = None,
) -> None:
    """Predict labels over gRPC: from a running server, or from one started for this call.

    Each text has one line, in order: label, probability and text with tabs between them. A text without an answer has
    its fault as the third field, and the exit code is then 4.
    """
    from bertline.pipeline import predict as predictions

    if model and not address:
        raise typer.BadParameter("--model names a model of the server at --address: give both")
    if not model and not config:
        raise typer.BadParameter("give a CONFIG, or a --model and its --address")
    connection: dict[str, Any] = {"tls": ca or tls, "api_key": predictions.api_key(key_file), "timeout": timeout}
    if model:
        all_texts = [config, *(texts or [])] if config else []  # with --model the first word is a text
        answers = predictions.of_server(address, model, all_texts, pair, **connection)
    else:
        answers = predictions.of_config(Path(config), texts or [], pair, address, **connection)
    faults = 0
    with closing(answers):
        for outcome in answers:
            faults += isinstance(outcome.answer, str)
            print(_as_json(outcome) if as_json else _as_line(outcome), flush=True)
    if faults:
        print(f"{faults:,} {'text has' if faults == 1 else 'texts have'} no answer", file=sys.stderr)
        raise typer.Exit(UNANSWERED)


@app.command(rich_help_panel=PANEL)
def score(
    config: ConfigArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; .parquet, .csv or .jsonl says the format.")
    ],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE...", help="As data.source of a config. Default: the config's own source."),
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(help="A column to keep; once for each. Default: all.")] = None,
    probabilities: Annotated[bool, typer.Option(help="Write the probability of every label.")] = True,
    guard: GuardOption = True,
    version: VersionOption = None,
    model: ModelOption = None,
    address: AddressOption = None,
    key_file: KeyFileOption = None,
    ca: CaOption = None,
    tls: TlsOption = False,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds for some thousand texts; default: 60 per request.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the output, or start an unfinished job anew.")
    ] = False,
) -> None:
    """Predict labels of files: the rows with their answers, in order, and the rows that have none in a file beside it.

    A killed command goes on where it stopped: call it again. The exit code is 4 when more rows have no answer than
    data.max_quarantined allows.
    """
    from bertline.pipeline import predict as predictions
    from bertline.pipeline import score as scoring

    connection = {"tls": ca or tls, "api_key": predictions.api_key(key_file), "timeout": timeout}
    request = scoring.Request(
        config=config,
        files=files or [],
        output=output,
        version=version,
        model=model,
        address=address,
        connection=connection if address else {},
        keep=keep,
        probabilities=probabilities,
        guard=guard,
        force=force,
    )
    try:
        totals = scoring.run(request)
    except KeyboardInterrupt:
        raise UserError("interrupted. The same command goes on where it stopped.") from None
    if totals.rows - totals.scored > configs.load(config).data.max_quarantined * totals.rows:
        raise typer.Exit(UNANSWERED)


@app.command(rich_help_panel=PANEL)
def rank(
    config: ConfigArgument,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="The candidates, a row each.")],
    query: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="What the candidates are to fit. Default: the column data.text of the files."
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Label of a candidate that fits. Default: the config's evaluate.ranking.label.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Candidates of a query to show.")] = 10,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File for all of them; .parquet, .csv or .jsonl.")
    ] = None,
    guard: GuardOption = True,
    version: VersionOption = None,
    model: ModelOption = None,
    address: AddressOption = None,
    key_file: KeyFileOption = None,
    ca: CaOption = None,
    tls: TlsOption = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds for all candidates; default: 60 per request.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output.")] = False,
) -> None:
    """Put candidates in order: those first that fit a query best. For models of text pairs.

    All candidates are scored in one pass. The exit code is 4 when a row could not be ranked.
    """
    from bertline.pipeline import predict as predictions
    from bertline.pipeline import rank as ranking
    from bertline.pipeline import score as scoring

    connection = {"tls": ca or tls, "api_key": predictions.api_key(key_file), "timeout": timeout}
    asked = scoring.Request(
        config=config,
        files=files,
        output=output or Path(),
        version=version,
        model=model,
        address=address,
        connection=connection if address else {},
        guard=guard,
        force=force,
    )
    if ranking.run(asked, query, label, top):
        raise typer.Exit(UNANSWERED)


def _as_json(outcome: Outcome) -> str:
    if isinstance(outcome.answer, str):
        return json.dumps({"line": outcome.number, "fault": outcome.answer}, ensure_ascii=False)
    prediction = outcome.answer
    answer = {
        "line": outcome.number,
        "text": outcome.text,
        **({"labels": prediction.labels} if prediction.label is None else {"label": prediction.label}),
        "probabilities": prediction.probabilities,
    }
    abstained = {} if prediction.abstained is None else {"abstained": prediction.abstained}
    return json.dumps(answer | abstained, ensure_ascii=False)


def _as_line(outcome: Outcome) -> str:
    """One line, whatever the text holds; a fault has neither label nor probability."""
    if isinstance(outcome.answer, str):
        return f"\t\tline {outcome.number}: {screen.on_one_line(outcome.answer)}"
    prediction = outcome.answer
    if prediction.label is None:  # a multi-label model's
        labels = ", ".join(prediction.labels) or "(no label)"
        scores = ", ".join(f"{prediction.probabilities[label]:.3f}" for label in prediction.labels)
        return f"{labels}\t{scores}\t{screen.on_one_line(outcome.text)}"
    label = f"abstains ({prediction.label})" if prediction.abstained else prediction.label
    return f"{label}\t{prediction.probability:.3f}\t{screen.on_one_line(outcome.text)}"


def _of_canary(record: dict[str, Any]) -> str:
    """What a version's canary.json says, in words."""
    if record["state"] == "judging":
        return f"tried since {record['began']} against {record['against']}, {record['counts']['requests']:,} requests"
    return f"{record['state']} {record['at']} {record.get('reason', '')}".rstrip()


def _releases_table(versions: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("version", "state", "pushed", "parent", "size", "figures"):
        table.add_column(column, overflow="fold")
    for version in versions:
        figures = [f"{FIGURES[name]} {value:.3f}" for name, value in version["metrics"].items() if name in FIGURES]
        if version["withdrawal"]:
            figures.append("rolled back {at} {reason}".format(**version["withdrawal"]).rstrip())
        if version["canary"] and ("reason" in version["canary"] or not version["withdrawal"]):
            figures.append(_of_canary(version["canary"]))
        table.add_row(
            str(version["version"]),
            Text(version["state"], style=STATE_STYLES[version["state"]]),
            version["pushed_at"] or "by other hands",
            str(version["parent"] or "-"),
            filesize.decimal(version["bytes"]),
            "  ".join(figures),
        )
    return table
