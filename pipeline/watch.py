"""`bertline watch`: runs the line whenever its data or its config change, such as when a new span arrives."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bertline.components.data import sql, task_files
from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline.commands import BLOCKED
from bertline.pipeline.screen import Screen

SETTLED = 1.0  # seconds that files must stand still before the first run; later ones wait for two looks
# Seconds before a run that failed is tried again on the same files; each further failure doubles them. A full disk or a
# database that restarts passes by itself, and finished stages are cached, so trying again costs little.
RETRY, LONGEST_RETRY = 600.0, 24 * 3600.0
SLICE = 0.5  # seconds of sleep between two looks at whether a signal has come
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Watch:
    """Looks at a task's files and runs the line once they have changed and stand still.

    A state of the files is done when its run has ended well or was blocked by a gate. A run that failed is tried again
    at the next change, or after a pause that doubles from failure to failure.

    Args:
        config: the task's file, read anew at each look.
        run: runs the line and returns its exit code.
        say: shows the person a sentence.
        retry: seconds before the first retry.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        config: Path,
        run: Callable[[], int],
        say: Callable[[str], None],
        retry: float = RETRY,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._config, self._run, self._say, self._retry, self._clock = config, run, say, retry, clock
        self._last: object = None  # what was there at the last look
        self._ran: object = None  # what the last run saw
        self._failures, self._due = 0, 0.0  # of runs on `_ran`, and when it is tried again

    def look(self) -> None:
        """Runs the line if what is there was there at the last look too, and is new or due for another try."""
        state = self._state()
        if state != self._last:
            if isinstance(state, str):
                self._say(f"waiting: {state}")
            self._last = state
            return  # a file may still be growing
        if isinstance(state, str):
            return
        if state != self._ran:
            self._failures = 0
        elif not self._failures or self._clock() < self._due:
            return
        self._ran = state
        self._judge(self._run())

    def _judge(self, code: int) -> None:
        if code in (0, BLOCKED):
            self._failures = 0
            self._say("watching for a change of the data or the config; Ctrl-C ends it")
            return
        pause = min(self._retry * 2**self._failures, LONGEST_RETRY)
        self._failures += 1
        self._due = self._clock() + pause
        self._say(
            f"the run failed ({_ending(code)}); it is tried again when the data or the config change, or in "
            f"{pause / 60:.0f} minutes. Ctrl-C ends the watch"
        )

    def _state(self) -> object:
        """Names, sizes and times of all files, and what the databases say; the words of what is wrong with either."""
        try:
            task = configs.load(self._config)
            files = task_files.of_task(task.data.with_queries(lambda _: None), task.folder)
            answers = [sql.changes(query, task.folder) for query in task.data.queries]
            return [_stamp(self._config), *(_stamp(Path(file.path)) for file in files), *answers]
        except UserError as error:
            return str(error)
        except FileNotFoundError as error:  # gone between listing and looking
            return f"{error.filename} has just gone"


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"


def _stamp(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


class Runs:
    """Runs the line, each time in a process of its own, so that no run leaves its memory behind.

    A signal that ends the watch goes on to the run. The watch then waits for the run, so that the root's lock is free
    when the watch is gone.
    """

    def __init__(self, config: Path):
        self._command = [sys.executable, "-P", "-m", "bertline.pipeline.cli", "run", str(config)]
        self._child: subprocess.Popen | None = None
        self.signal = 0  # the last one that came, 0 before
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # such as SIGHUP under nohup
                signal.signal(number, self._stop)

    def run(self) -> int:
        """Runs the line once; returns its exit code, minus the signal's number if one ended it."""
        # A process group of its own: a terminal sends Ctrl-C to the whole group, so the run would get it twice.
        with subprocess.Popen(self._command, stdin=subprocess.DEVNULL, process_group=0) as self._child:
            if self.signal:  # came while the process started
                self._child.send_signal(self.signal)
            return self._child.wait()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if self._child:
            self._child.send_signal(number)


def forever(config: Path, seconds: float, shown: Screen) -> NoReturn:
    """Watches until a signal ends it; exits with 128 and the signal's number, as shells have it."""
    runs = Runs(config)

    def say(text: str) -> None:
        if not runs.signal:  # a run that the signal ended is no failure to tell
            shown.print(text, style="dim")

    watch = Watch(config, runs.run, say)
    pause = SETTLED
    while not runs.signal:
        watch.look()
        until = time.monotonic() + pause
        while not runs.signal and time.monotonic() < until:
            time.sleep(SLICE)  # it goes on after a signal, so a long one would not end
        pause = seconds
    sys.exit(128 + runs.signal)
