"""The command line of bertline: a function a command."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import keys, screen

# Exit codes beside 0 and typer's own 2 for a wrong call.
FAILED, BLOCKED = 1, 3
# What libraries say while a command has no run of its own.
LIBRARY_LOG = Path(tempfile.gettempdir()) / f"bertline-{os.getuid()}.log"
DEMO_CONFIG = "configs/sentiment.yaml"
DEMO_TEXT = "my flight got cancelled again"

app = typer.Typer(
    name="bertline",
    help="From a file of labelled text to a BERT classifier that is checked, gated, pushed and served.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(keys.app, name="keys")
ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="The task's YAML file.")]


def main() -> None:
    """Entry point: a person's errors in a line, without a traceback."""
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"bertline: {error}", markup=False, style="red")
        sys.exit(FAILED)


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="CSV, TSV, JSON Lines or Parquet file (or .gz), or a folder a class.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: configs/NAME.yaml.")] = None,
    text: Annotated[str | None, typer.Option(help="The text column, where the guess is wrong.")] = None,
    label: Annotated[str | None, typer.Option(help="The label column, where the guess is wrong.")] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing config.")] = False,
) -> None:
    """Look at a file of labelled text and write a config for it."""
    with screen.quiet(LIBRARY_LOG):
        from bertline.pipeline import init as proposals

        proposal = proposals.propose(file, text=text, label=label)
    target = output or Path("configs") / f"{proposal.name}.yaml"
    proposals.write(proposal, target, force=force)
    console = _console()
    for found in proposal.findings:
        console.print(f"  {found}", markup=False)
    for warning in proposal.warnings:
        console.print(f"  warning: {warning}", markup=False, style="yellow")
    console.print(f"wrote {target}; next: bertline run {target}", markup=False)


@app.command("config")
def show_config(config: ConfigArgument) -> None:
    """Print a config complete with its defaults."""
    print(configs.dump(configs.load(config)), end="")


@app.command()
def run(config: ConfigArgument) -> None:
    """Run the line: ingest, validate, tokenise, train, evaluate, gate, canary, push."""
    if not _run(config).version:
        sys.exit(BLOCKED)


@app.command()
def watch(
    config: ConfigArgument,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 60,
) -> None:
    """Run the line now and whenever its data or config change, such as when a span arrives, until Ctrl-C."""
    from bertline.pipeline import watch as watching

    configs.load(config)
    watching.forever(config, every, _console())


@app.command()
def runs(config: ConfigArgument, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
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
    styles = {"pushed": "green", "unchanged": "green", "blocked": "red", "failed": "red", "interrupted": "yellow"}
    for record in records:
        figures = record.metrics if not record.reason else f"{record.metrics}  {record.reason}".strip()
        table.add_row(
            record.run_id,
            f"[{styles[record.outcome]}]{record.outcome}[/]",
            record.version or "-",
            record.parent or "-",
            record.data,
            figures,
        )
    _console().print(table)


@app.command()
def review(
    config: ConfigArgument,
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Default: the newest run with a page.")] = None,
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = True,
    with_tfma: Annotated[
        bool, typer.Option("--tfma", help="TFMA's own components instead; they load Google Charts from the network.")
    ] = False,
) -> None:
    """Print where a run's review page is, and open it: figures, slices, errors, verdicts, without a server."""
    import webbrowser

    from bertline.pipeline import local_runner
    from bertline.pipeline import review as reviews

    task = configs.load(config)
    if with_tfma:
        with screen.quiet(LIBRARY_LOG):
            page = reviews.write_tfma_page(task, run_id)
    else:
        page = reviews.find(task, run_id)
    print(local_runner.display(page))
    if open_it and not webbrowser.open(page.as_uri()):
        raise UserError("no browser was found here; open the file in one, or call with --no-open.")


@app.command("explain-gate")
def explain_gate(
    config: ConfigArgument,
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Default: the newest evaluated run.")] = None,
) -> None:
    """Say why a run was blocked: by how much, how sure that is, and which rows would have to change."""
    with screen.quiet(LIBRARY_LOG):
        from bertline.pipeline import evaluated
        from bertline.pipeline import explain_gate as explanation

        found = evaluated.read(configs.load(config), run_id)
    explanation.show(found, _console())


@app.command("label-issues")
def label_issues(
    config: ConfigArgument,
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Default: the newest run that has them.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; default: on the screen.")] = None,
) -> None:
    """Write the rows whose label is probably wrong as CSV, the surest first.

    A text that a spreadsheet would run as a formula, or that begins with an apostrophe, has an apostrophe before it.
    """
    with screen.quiet(LIBRARY_LOG):
        from bertline.pipeline import label_issues as issues

        found = issues.find(configs.load(config), run_id).read_bytes()
    if output is None:
        sys.stdout.buffer.write(found)
        return
    try:
        output.write_bytes(found)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}.") from error
    print(f"wrote {output}")


@app.command()
def explain(
    config: ConfigArgument,
    text: Annotated[str, typer.Argument(help="The text.")],
    text_pair: Annotated[str | None, typer.Option(help="The second text, for a model of text pairs.")] = None,
    label: Annotated[str | None, typer.Option(help="The label to explain; default: the predicted one.")] = None,
    method: Annotated[
        Literal["integrated-gradients", "lime", "both"], typer.Option(help="LIME is a second opinion.")
    ] = "integrated-gradients",
    run_id: Annotated[str | None, typer.Option("--run", help="Default: the newest run with a model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object, with each word's place in the text.")] = False,
) -> None:
    """Say which words a prediction rests on, each with what it adds to the label's score."""
    with screen.quiet(LIBRARY_LOG):
        from bertline.pipeline import explain as explanation

        task = configs.load(config)
        found = explanation.explain(task, text, text_pair, label=label, method=method, run_id=run_id)
    if as_json:
        print(json.dumps(explanation.as_dict(found), ensure_ascii=False))
    else:
        explanation.show(found, _console())


@app.command()
def compare(
    config: ConfigArgument,
    first: Annotated[str, typer.Argument(metavar="RUN", help="The run to compare with; `bertline runs` lists them.")],
    second: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Default: the newest evaluated run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, all changed rows too, as JSON.")] = False,
) -> None:
    """Compare two runs on the rows that both were tested on: figures, slices, and the rows whose answer changed."""
    with screen.quiet(LIBRARY_LOG):
        from bertline.pipeline import compare as comparison
        from bertline.pipeline import evaluated

        task = configs.load(config)
        found = comparison.compare(evaluated.read(task, first), evaluated.read(task, second))
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        comparison.show(found, _console())


@app.command("releases")
def list_releases(
    config: ConfigArgument,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line.")] = False,
) -> None:
    """List the versions in the serving folder: what is served, what is kept, what was rolled back."""
    from bertline.serving import releases

    task = configs.load(config)
    with _in_words():
        found = releases.overview(task.serving_folder)
    if not found:
        raise UserError(f"{task.serving_folder} holds no pushed version; `bertline run {config}` makes one.")
    if as_json:
        for release in found:
            print(json.dumps(release))
        return
    _console().print(_releases_table(found))


@app.command()
def rollback(
    config: ConfigArgument,
    to: Annotated[int | None, typer.Option(metavar="VERSION", help="Default: the one before the newest.")] = None,
    reason: Annotated[str, typer.Option(help="For the release's record.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Put back what the last rollback took out.")] = False,
) -> None:
    """Take newer versions out of service, so that servers go back to an older one."""
    from bertline.serving import releases
    from bertline.serving import rollback as withdrawals

    if undo and (to or reason):
        raise UserError("--undo puts back what the last rollback took out: --to and --reason have no place beside it.")
    task = configs.load(config)
    folder = task.serving_folder
    with _in_words():
        moved = withdrawals.undo(folder) if undo else withdrawals.roll_back(folder, to, reason)
        served = max(releases.versions(folder))
    versions = ", ".join(str(release.version) for release in moved)
    console = _console()
    console.print(f"{'in service again' if undo else 'withdrawn'}: {versions}; served: {served}", markup=False)
    console.print("running servers follow when they next look at the folder, which takes a second or two", style="dim")
    if not undo:
        console.print(f"the way back: bertline rollback {config} --undo", markup=False, style="dim")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    config: ConfigArgument,
    host: Annotated[str | None, typer.Option(help="Default: the config's serve.host.")] = None,
    port: Annotated[int | None, typer.Option(help="gRPC; default: the config's serve.port.")] = None,
    rest_port: Annotated[int | None, typer.Option(help="REST and metrics; default: the config's.")] = None,
    embedded: Annotated[bool, typer.Option(help="Use our server even where tensorflow_model_server is there.")] = False,
) -> None:
    """Serve the newest pushed version over TF Serving's gRPC and REST, and each newer one as it appears.

    Any other flag goes to the server, such as --api_keys_file=FILE or --ssl_config_file=FILE.
    """
    from bertline.pipeline import serve as serving_line
    from bertline.pipeline.predict import require_release

    task = configs.load(config)
    require_release(task, config)
    changes = {"host": host, "port": port, "rest_port": rest_port}
    chosen = task.serve.model_copy(update={name: value for name, value in changes.items() if value is not None})
    with _in_words():
        serving_line.run(task.model_copy(update={"serve": chosen}), context.args, embedded=embedded)


@app.command()
def predict(
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help="The task's YAML file; no CONFIG with --model.")
    ] = None,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; without any, a text a line from stdin.")] = None,
    pair: Annotated[list[str] | None, typer.Option(help="The second text of each pair, in order.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line.")] = False,
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT of a server; default: the config's, if it answers.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of a model at --address, in place of CONFIG.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="File with the API key; default: the variable BERTLINE_API_KEY.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="Speak TLS; certificates (PEM) of the authority that signed the server's.")
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS; a public authority signed the server's.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds for all the texts; default: 60 a request.")] = None,
) -> None:
    """Predict labels over gRPC: from a running server, or from one started for this call."""
    from bertline.pipeline import predict as prediction

    if model and not address:
        raise typer.BadParameter("--model is asked at --address: give both")
    if not model and not config:
        raise typer.BadParameter("give a CONFIG, or the --model to ask and its --address")
    with _in_words():
        connection = {"tls": ca or tls, "api_key": prediction.api_key(key_file), "timeout": timeout}
        if model:
            given = [config, *(texts or [])] if config else []  # the first word is a text then
            answers = prediction.of_server(address, model, given, pair, **connection)
        else:
            answers = prediction.of_config(Path(config), texts or [], pair, address, **connection)
    for text, each in answers:
        if as_json:
            answer = {"text": text, "label": each.label, "probabilities": each.probabilities}
            abstained = {} if each.abstained is None else {"abstained": each.abstained}
            print(json.dumps(answer | abstained, ensure_ascii=False))
        else:
            label = f"abstains ({each.label})" if each.abstained else each.label
            print(f"{label}\t{each.probability:.3f}\t{text}")


@app.command("compile")
def compile_line(
    config: ConfigArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: NAME.yaml.")] = None,
    image: Annotated[str | None, typer.Option(help="The container image; default: the config's.")] = None,
) -> None:
    """Compile the line for Kubeflow Pipelines 2."""
    from bertline.pipeline import facts, kubeflow

    task = configs.load(config)
    target = output or Path(f"{kubeflow.pipeline_name(task)}.yaml")
    with screen.quiet(LIBRARY_LOG):
        compiled = kubeflow.compile_line(task, image, facts.git_commit())
        kubeflow.write(compiled, target)
    _console().print(f"wrote {target}: {len(compiled.stages)} stages; next: bertline submit {config}", markup=False)


@app.command()
def submit(
    config: ConfigArgument,
    host: Annotated[
        str | None, typer.Option(help="URL of the API; default: from inside the cluster, or kubectl's.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="The container image; default: the config's.")] = None,
    name: Annotated[str | None, typer.Option(help="The run's name; default: the task's and the time.")] = None,
    experiment: Annotated[str | None, typer.Option(help="What to list it under; default: the task's name.")] = None,
    cron: Annotated[str | None, typer.Option(help="Run at these times, such as '0 3 * * *'.")] = None,
    caching: Annotated[bool, typer.Option(help="Take over what has been computed from the same inputs.")] = True,
    wait: Annotated[bool, typer.Option("--wait", help="Until the run has ended; exit 1 if it failed.")] = False,
    namespace: Annotated[str | None, typer.Option(help="Of an installation with several users.")] = None,
    service_account: Annotated[str | None, typer.Option(help="Kubernetes' account of the pods.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="A bearer token; default: the variable KUBEFLOW_TOKEN.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificates (PEM) of the API's authority.")] = None,
) -> None:
    """Compile the line and run it on Kubeflow Pipelines 2, once or on a schedule."""
    from bertline.pipeline import facts, kubeflow
    from bertline.pipeline import submit as submissions

    task = configs.load(config)
    if cron and wait:
        raise typer.BadParameter("a schedule has no end to --wait for")
    api = submissions.Api(host, namespace, token_file, ca)
    with screen.quiet(LIBRARY_LOG) as console:
        submission = submissions.Submission(
            kubeflow.compile_line(task, image, facts.git_commit()),
            name or submissions.run_name(task.name),
            experiment or task.name,
            caching,
            service_account,
        )
        if cron:
            console.print(f"scheduled {submission.name}: {submissions.schedule(submission, api, cron)}", markup=False)
            return
        run_id = submissions.start(submission, api)
        link = f"  {host.rstrip('/')}/#/runs/details/{run_id}" if host else ""
        console.print(f"started {submission.name}: {run_id}{link}", markup=False)
        state = submissions.wait(run_id, api) if wait else ""
        if state:
            console.print(f"ended: {state.lower()}", markup=False)
    if state not in ("", "SUCCEEDED"):
        sys.exit(FAILED)


@app.command()
def demo() -> None:
    """The whole line on real tweets, ending with a prediction over gRPC."""
    path = Path(DEMO_CONFIG)
    if not _run(path).version:
        sys.exit(BLOCKED)
    from bertline.pipeline.predict import own_server
    from bertline.serving.client import Client

    task = configs.load(path)
    with own_server(task) as address, Client(address, task.name) as client:
        (prediction,) = client.predict([DEMO_TEXT])
    console = _console()
    answer = f"{prediction.label} {prediction.probability:.2f}"
    console.print(f'[bold]predict[/]  "{DEMO_TEXT}"  ->  [bold]{answer}[/]   (gRPC {address})')
    console.print(f"next: bertline serve {path}; your own file: bertline init FILE")


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="Looks at its Beam engine too.")] = None,
) -> None:
    """Say what this machine has, what a run would choose, and what will not work."""
    task = configs.load(config) if config else None
    with screen.quiet(LIBRARY_LOG):
        from bertline.pipeline import doctor as examination

        checks = examination.checks(beam=task.beam if task else None)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    marks = {"ok": "[green]ok[/]", "warn": "[yellow]note[/]", "fail": "[bold red]FAIL[/]"}
    for check in checks:
        advice = f"  [dim]{check.advice}[/]" if check.advice else ""
        table.add_row(marks[check.state], check.name, f"{check.value}{advice}")
    _console().print(table)
    if any(check.state == "fail" for check in checks):
        sys.exit(FAILED)


# === What the commands share ===


def _console() -> Console:
    return screen.console(sys.stdout)


def _run(path: Path):
    from bertline.pipeline import local_runner

    task = configs.load(path)
    try:
        result = local_runner.run(task, str(path))
    except local_runner.RunFailed:
        sys.exit(FAILED)
    if result.blocked:
        console = _console()
        console.print("[bold red]not pushed[/]  ", end="")
        console.print(result.blocked, markup=False)
        console.print(f"the serving folder is unchanged: {local_runner.display(task.serving_folder)}", markup=False)
    return result


def _releases_table(found: list[dict]) -> Table:
    from rich import filesize

    table = Table(box=None, pad_edge=False)
    for column in ("version", "state", "pushed", "parent", "size", "figures"):
        table.add_column(column, overflow="fold")
    styles = {"served": "green", "kept": "dim", "withdrawn": "yellow"}
    for release in found:
        shown = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
        figures = [f"{shown[name]} {value:.3f}" for name, value in release["metrics"].items() if name in shown]
        if release["withdrawal"]:
            figures.append("rolled back {at} {reason}".format(**release["withdrawal"]).rstrip())
        table.add_row(
            str(release["version"]),
            f"[{styles[release['state']]}]{release['state']}[/]",
            release["pushed_at"] or "by other hands",
            str(release["parent"] or "-"),
            filesize.decimal(release["bytes"]),
            escape("  ".join(figures)),
        )
    return table


@contextmanager
def _in_words() -> Iterator[None]:
    """What a server or client says is wrong, as a person's error."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(str(error)) from error


if __name__ == "__main__":
    main()
