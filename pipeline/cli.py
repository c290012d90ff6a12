"""The command line of bertline: its groups of commands, and what a person sees of an error.

Starting up must stay quick: a command imports TensorFlow and TFX inside its function, and only if it needs them.
"""

from __future__ import annotations

import gc
import logging
import sys

import typer

from bertline.errors import UserError
from bertline.pipeline import screen
from bertline.pipeline.commands import (
    FAILED,
    LIBRARY_LOG,
    keys,
    kubeflow,
    labelling,
    line,
    machine,
    monitoring,
    runs,
    serving,
)

log = logging.getLogger("bertline.cli")

# Python looks for garbage after every 700 new objects. Imports and traced graphs make millions of objects, and most of
# these stay: a quarter of the processor time of importing TensorFlow and TFX went into looking at them again and again.
NEW_OBJECTS = 50_000

app = typer.Typer(
    name="bertline",
    help="From a file of labelled text to a BERT classifier that is checked, gated, pushed and served.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (line, runs, labelling, serving, monitoring, kubeflow, machine):  # the order of the help
    app.add_typer(group.app)
app.add_typer(keys.app, name="keys", rich_help_panel=serving.PANEL)


def main() -> None:
    """Entry point: shows a person's error as words; the traceback of any other error goes to a log."""
    gc.set_threshold(NEW_OBJECTS)
    shown = screen.Screen(sys.stderr, soft_wrap=True)
    try:
        app()
    except UserError as error:
        shown.print(f"bertline: {error}", style="red")
        sys.exit(FAILED)
    except Exception as error:
        with screen.quiet(LIBRARY_LOG):
            log.error("the command ended", exc_info=error)
        shown.print(
            f"bertline: {type(error).__name__}: {error}\n"
            f"This is a fault of bertline or of a library; its traceback is in {LIBRARY_LOG}",
            style="red",
        )
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
