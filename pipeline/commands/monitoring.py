"""Commands that watch the model in service and bring what people say of its answers back to the data."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import screen
from bertline.pipeline.commands import ALARM, LIBRARY_LOG, UNANSWERED, ConfigArgument, console

PANEL = "Watching the model in service"

app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def monitor(
    config: ConfigArgument,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="End of the window, such as 2026-11-28T06:00 in UTC. Default: now."),
    ] = None,
    every: Annotated[
        str | None, typer.Option(metavar="TIME", help="Go on and look every 30m, 1h or 1d, until Ctrl-C.")
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(
            help="Write Prometheus' metrics of the monitor to this file, for node_exporter's textfile collector."
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Serve these metrics on this port of this machine; with --every.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the page of the window and those so far: one HTML file.")
    ] = None,
    serve: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="Serve the page on this port of this machine; with --every. 0: a free one."),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Keys of which --serve asks one with the role admin."),
    ] = None,
    notify: Annotated[bool, typer.Option(help="Tell those that monitor.notify names of new alarms.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object per window.")] = False,
) -> None:
    """Judge what was asked and answered lately against the model's own test rows and the windows before.

    The exit code is 5 when the last window has an alarm.
    """
    from bertline.monitoring.live import Live
    from bertline.pipeline import monitor as monitoring
    from bertline.serving.access import Access

    task, pause, end = configs.load(config), _pause(every), _moment(until)
    if end and pause:
        raise UserError("--until judges one window of the past, --every those to come: leave one out.")
    if port is not None and pause is None:
        raise UserError("--port serves the metrics for as long as the command runs: give --every too, such as 1h.")
    if serve is not None and pause is None:
        raise UserError("--serve shows the page for as long as the command runs: give --every too, such as 1h.")
    if keys and serve is None:
        raise UserError("--keys guards the page of --serve: give --serve too, or leave it out.")
    with screen.quiet(LIBRARY_LOG):
        outlets = monitoring.Outlets.of(task, metrics, port, notify)
        outlets.page = page
        outlets.live = None if serve is None else Live(serve, Access.read(keys) if keys else None)
        watched = monitoring.Monitor(task, pause, outlets)
    if outlets.live:
        console().print(f"the page: http://{outlets.live.address}/", style="bold")

    def look() -> bool:
        with screen.quiet(LIBRARY_LOG):
            report = watched.look(end)
        if as_json:
            print(json.dumps(report.as_dict(), ensure_ascii=False), flush=True)
        else:
            monitoring.show(report, console())
        return bool(report.alarms)

    alarm = monitoring.repeat(look, pause, console()) if pause else look()
    if alarm:
        raise typer.Exit(ALARM)


def _pause(every: str | None) -> datetime.timedelta | None:
    from pydantic import TypeAdapter, ValidationError

    from bertline.components.options import Duration

    try:
        return TypeAdapter(Duration).validate_python(every) if every else None
    except ValidationError as error:
        raise UserError(f"--every: {every!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def _moment(until: str | None) -> datetime.datetime | None:
    try:
        moment = datetime.datetime.fromisoformat(until) if until else None
    except ValueError:
        raise UserError(f"--until: {until!r} is no time; write one such as 2026-11-28T06:00 (UTC).") from None
    return moment.replace(tzinfo=datetime.UTC) if moment and moment.tzinfo is None else moment


@app.command(rich_help_panel=PANEL)
def feedback(
    config: ConfigArgument,
    corrections: Annotated[
        Path, typer.Argument(metavar="FILE", help="CSV with the columns id or text, label, and perhaps who and when.")
    ],
) -> None:
    """Take up right labels of answers: for measured accuracy, and as the next span of training rows.

    The exit code is 4 when a correction went to quarantine.
    """
    from bertline.pipeline import feedback as bringing

    with screen.quiet(LIBRARY_LOG):
        outcome = bringing.bring(configs.load(config), corrections)
    bringing.show(outcome, console())
    if outcome.refused:
        sys.exit(UNANSWERED)


@app.command(rich_help_panel=PANEL)
def stream(
    config: ConfigArgument,
    once: Annotated[bool, typer.Option(help="End once nothing is left to read.")] = False,
    notify: Annotated[bool, typer.Option(help="Tell those that stream.surge.notify names of new surges.")] = True,
    page: Annotated[
        Path | None, typer.Option(help="Write a page of entities, timelines and surges to this HTML file.")
    ] = None,
) -> None:
    """Read new texts as they come: find names in them, score, store and count them, raise alarms, until Ctrl-C.

    The exit code is 5 when there was a surge, else 4 when something that was read is in quarantine.
    """
    from bertline.pipeline import stream as streams

    task, shown = configs.load(config), console()
    with streams.started(task, config, shown, LIBRARY_LOG, notify, page) as (engine, alarms):
        tally = streams.follow(engine, alarms, task, shown, once)
    if alarms.seen:
        sys.exit(ALARM)
    if tally.refused:
        sys.exit(UNANSWERED)
