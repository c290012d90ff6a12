"""The commands of bertline: a module per group, a function per command. `bertline.pipeline.cli` puts them together."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from bertline.pipeline import screen

# Exit codes beside 0, and beside 2, which is typer's for a wrong call. UNANSWERED: some texts have no answer.
# ALARM: the monitor has one.
FAILED, BLOCKED, UNANSWERED, ALARM = 1, 3, 4, 5
INTERRUPTED = 130  # by Ctrl-C, with results: 128 and SIGINT's number, as shells have it
# What libraries write while a command has no run, and so no log, of its own; and tracebacks that nobody expected.
LIBRARY_LOG = Path(tempfile.gettempdir()) / f"bertline-{os.getuid()}.log"

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="The task's YAML file.")]


def console() -> screen.Screen:
    """The screen, for what a person reads; what a program reads is printed as it stands."""
    return screen.Screen(sys.stdout)
