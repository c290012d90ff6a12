"""Commands that take the line to Kubeflow Pipelines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bertline.pipeline import config as configs
from bertline.pipeline import screen
from bertline.pipeline.commands import FAILED, LIBRARY_LOG, ConfigArgument, console

PANEL = "On a cluster"

app = typer.Typer()


@app.command("compile", rich_help_panel=PANEL)
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
    console().print(f"wrote {target}: {len(compiled.stages)} stages; next: bertline submit {config}")


@app.command(rich_help_panel=PANEL)
def submit(
    config: ConfigArgument,
    host: Annotated[
        str | None, typer.Option(help="URL of the API; default: the cluster's own from inside it, else kubectl's.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="The container image; default: the config's.")] = None,
    name: Annotated[str | None, typer.Option(help="The run's name; default: the task's and the time.")] = None,
    experiment: Annotated[str | None, typer.Option(help="What to list it under; default: the task's name.")] = None,
    cron: Annotated[str | None, typer.Option(help="Run at these times, such as '0 3 * * *'.")] = None,
    caching: Annotated[bool, typer.Option(help="Reuse what was computed before from the same inputs.")] = True,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the run's end; exit 1 if it failed.")] = False,
    namespace: Annotated[str | None, typer.Option(help="Of an installation with several users.")] = None,
    service_account: Annotated[str | None, typer.Option(help="The pods' Kubernetes account.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with a bearer token; default: the variable KUBEFLOW_TOKEN.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificates (PEM) of the authority that signed the API's.")] = None,
) -> None:
    """Compile the line and run it on Kubeflow Pipelines 2, once or on a schedule."""
    from bertline.pipeline import facts, kubeflow
    from bertline.pipeline import submit as submissions

    task = configs.load(config)
    if cron and wait:
        raise typer.BadParameter("a schedule has no end: leave out --wait or --cron")
    api = submissions.Api(host, namespace, token_file, ca)
    with screen.quiet(LIBRARY_LOG) as shown:
        submission = submissions.Submission(
            kubeflow.compile_line(task, image, facts.git_commit()),
            name or submissions.run_name(task.name),
            experiment or task.name,
            caching,
            service_account,
        )
        if cron:
            shown.print(f"scheduled {submission.name}: {submissions.schedule(submission, api, cron)}")
            return
        run_id = submissions.start(submission, api)
        link = f"  {host.rstrip('/')}/#/runs/details/{run_id}" if host else ""
        shown.print(f"started {submission.name}: {run_id}{link}")
        state = submissions.wait(run_id, api) if wait else ""
        if state:
            shown.print(f"ended: {state.lower()}")
    if state not in ("", "SUCCEEDED"):
        sys.exit(FAILED)
