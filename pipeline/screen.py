"""What a person sees: the one console of all commands, and a run's lines, its training bar and its table of gates."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from bertline.errors import UserError

NAME_WIDTH = 12
BAR_WIDTH = 18
PLAIN_WIDTH = 120
EXCERPT_WIDTH = 70
# Off a terminal the bar would fill a log file: one line in this many seconds says that the run is alive.
PLAIN_INTERVAL = 30.0
# C0, DEL and C1 but tabs and line ends: what moves a terminal's cursor or starts a command to it. rich counts no column
# for them, so leaving them out moves nothing.
CONTROL_CHARACTERS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


class Screen(Console):
    """The one console of all commands: it shows every string as it stands.

    Texts, labels, file names and errors come from outside, so rich's markup ("[bold]") and emoji codes (":warning:")
    mean nothing here, and control characters, which a terminal would obey, are left out. A style is given by
    `style=` or by a Text.

    Args:
        stream: where it prints.
        width: in columns; None for the terminal's, and for PLAIN_WIDTH off a terminal, where rich would fold at 80.
        soft_wrap: leaves the folding of long lines to the terminal.
    """

    def __init__(self, stream: TextIO, width: int | None = None, soft_wrap: bool = False):
        width = width or (None if stream.isatty() else PLAIN_WIDTH)
        super().__init__(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap, width=width)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """As rich's, without what a terminal would obey."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(segment.text.translate(CONTROL_CHARACTERS), segment.style)


@contextmanager
def quiet(log_file: Path) -> Iterator[Screen]:
    """Sends everything that this process and its children write to `log_file`, and yields a screen on the real stdout.

    Works on the file descriptors, so that C++ libraries' messages go to the log as well.

    Raises:
        UserError: the log cannot be written.
    """
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(log_file, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{log_file} cannot be written: {error.strerror}. Set `root` in the config to a folder of your own, "
            "or TMPDIR if this file is in the temporary folder."
        ) from error
    sys.stdout.flush()
    sys.stderr.flush()
    output, errors = os.dup(1), os.dup(2)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    try:
        os.dup2(handler.stream.fileno(), 1)
        os.dup2(handler.stream.fileno(), 2)
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        with os.fdopen(os.dup(output), "w", encoding="utf-8", errors="replace") as stream:
            yield Screen(stream)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        root.removeHandler(handler)
        root.setLevel(level)
        os.dup2(output, 1)
        os.dup2(errors, 2)
        os.close(output)
        os.close(errors)
        handler.close()


def line(name: str, text: str, seconds: float | None = None, style: str = "") -> Table:
    """One stage's line: its name, its figures, and the time it took."""
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(width=NAME_WIDTH)
    grid.add_column(ratio=1, overflow="fold")
    grid.add_column(justify="right", width=8, no_wrap=True)
    took = "" if seconds is None else f"{seconds:.1f} s"
    grid.add_row(Text(f"  {name}", style="bold"), Text(text, style=style), Text(took, style="dim"))
    return grid


class StageView(logging.Handler):
    """Shows one stage while it runs: its progress if it reports any, else the seconds that pass.

    A stage reports by a log record of "bertline.progress" that carries a dictionary `progress`: see `bar`.
    """

    def __init__(self, console: Screen, name: str):
        super().__init__()
        self.console, self.name_shown = console, name
        self.started = self.last_plain = time.monotonic()
        self.progress: dict[str, Any] | None = None
        self.live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> StageView:
        logging.getLogger("bertline.progress").addHandler(self)
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        logging.getLogger("bertline.progress").removeHandler(self)
        if self.console.is_terminal:
            self.live.stop()

    @property
    def seconds(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self.started

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a progress record."""
        self.progress = getattr(record, "progress", None) or self.progress
        now = time.monotonic()
        if not self.console.is_terminal and self.progress and now - self.last_plain >= PLAIN_INTERVAL:
            self.last_plain = now
            self.console.print(line(self.name_shown, bar(self.progress), style="dim"))

    def _render(self) -> Table:
        text = bar(self.progress) if self.progress else "..."
        return line(self.name_shown, text, self.seconds, style="cyan")


def bar(progress: dict[str, Any]) -> str:
    """A bar such as: epoch 2/2  ###########-------  61%  83 examples/s  loss 0.56  0:48 left.

    Args:
        progress: `step`, `steps` (None while nobody knows it: then only `step` is shown), `examples_per_second`,
            `seconds_left`; of a training also `epoch`, `epochs` and `loss`; of an ensemble also `member` and `members`;
            of a search also `trial`, `trials` and `best`, the least validation loss so far.
    """
    if progress["steps"] is None:
        return f"{progress['step']:,} rows"
    share = progress["step"] / max(progress["steps"], 1)
    filled = round(share * BAR_WIDTH)
    trial = f"trial {progress['trial']}/{progress['trials']}  " if "trial" in progress else ""
    trial += f"best {progress['best']:.4f}  " if progress.get("best") is not None else ""
    member = f"member {progress['member']}/{progress['members']}  " if "member" in progress else ""
    epoch = f"epoch {progress['epoch']}/{progress['epochs']}  " if "epoch" in progress else ""
    loss = f"  loss {progress['loss']:.2f}" if "loss" in progress else ""
    return (
        f"{trial}{member}{epoch}{'#' * filled}{'-' * (BAR_WIDTH - filled)}  {share:4.0%}  "
        f"{progress['examples_per_second']:.0f} examples/s{loss}{_clock(progress['seconds_left'])}"
    )


def _clock(seconds: float) -> str:
    """Time left as minutes and seconds; nothing before the first step has been timed."""
    if math.isnan(seconds):
        return ""
    minutes, rest = divmod(int(seconds), 60)
    return f"  {minutes}:{rest:02d} left"


def gates_table(verdicts: list[dict[str, Any]]) -> Table:
    """The gates: each with its bound, the figure, and "passed" or why not."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=NAME_WIDTH)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right", min_width=7)
    table.add_column(ratio=1, overflow="fold")
    for position, verdict in enumerate(verdicts):
        outcome = Text("passed", style="green") if verdict["passed"] else Text(verdict["reason"], style="bold red")
        if verdict["passed"]:
            outcome.append(_aside(verdict), style="dim")
        name = Text("  gates" if position == 0 else "", style="bold")
        table.add_row(name, verdict["gate"], verdict["value"], outcome)
    return table


def _aside(verdict: dict[str, Any]) -> str:
    """Beside a gate that passed: the interval, and a cross-check."""
    bounds = verdict["interval"]
    sign = "+" if verdict["value"].startswith(("+", "-")) else ""  # a difference
    interval = f"  {bounds[0]:{sign}.3f} to {bounds[1]:{sign}.3f}" if bounds else ""
    return interval + (f"  {verdict['note']}" if verdict["note"] else "")


def display(path: Path | str) -> str:
    """A path for the screen: relative if it lies below the current folder. An address (gs://) stays as it is."""
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else str(path)


def excerpt(text: str) -> str:
    """The beginning of a user's text, on one line, without what a terminal would obey."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    words = " ".join(printable.split())
    return words if len(words) <= EXCERPT_WIDTH else words[: EXCERPT_WIDTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


def on_one_line(text: str) -> str:
    """A user's text with a space for each line end and for what a terminal would obey; tabs stay."""
    return "".join(letter if letter.isprintable() or letter == "\t" else " " for letter in text)
