"""`bertline watch`: runs the line when its data or config change, a span arrives, the monitor alarms, or time is up."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from bertline.components.data import sql, task_files
from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import stage_files, triggers
from bertline.pipeline.commands import BLOCKED
from bertline.pipeline.config import Config
from bertline.pipeline.ending_signal import EndingSignal
from bertline.pipeline.screen import Screen
from bertline.pipeline.watch_memory import Memory

SETTLED = 1.0  # seconds that files must stand still before the first run; later ones wait for two looks
# Seconds before a run that failed is tried again on the same files; each further failure doubles them. A full disk or a
# database that restarts passes by itself, and finished stages are cached, so trying again costs little.
RETRY, LONGEST_RETRY = 600.0, 24 * 3600.0
FIRST, CHANGED = "the watch has just begun", "the data or the config have changed"  # why a run begins at once
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Watch:
    """Looks at a task and runs the line once something asks for it: see RetrainOptions.

    Files that have changed are looked at once they stand still. A state of the files is done when its run has ended
    well or was blocked by a gate. A run that failed is tried again at the next change, or after a pause that doubles
    from failure to failure.

    Args:
        config: the task's file, read anew at each look.
        run: runs the line with further arguments and returns its exit code.
        say: shows the person a sentence.
        on: what asks for a run; None for the config's `retrain.on`.
        retry: seconds before the first retry.
        clock: seconds that only grow.
        now: the time of day, UTC.
    """

    def __init__(
        self,
        config: Path,
        run: Callable[[list[str]], int],
        say: Callable[[str], None],
        on: list[str] | None = None,
        retry: float = RETRY,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ):
        self._config, self._run, self._say, self._on, self._retry = config, run, say, on, retry
        self._clock, self._now = clock, now
        self._last: object = None  # what was there at the last look
        self._ran: object = None  # what the last run saw
        self._failures, self._due = 0, 0.0  # of runs on `_ran`, and when it is tried again
        self._cold = False  # a run that started warm failed: further tries do not
        self._why: list[str] = []  # of the last run
        self._said = ""  # the last sentence that is not repeated from look to look

    def look(self) -> None:
        """Runs the line if something asks for it, and what is there was there at the last look too."""
        state, task = self._state()
        if state != self._last:
            if task is None:
                self._say(f"waiting: {state}")
            self._last = state
            return  # a file may still be growing
        if task is None:
            return
        try:
            memory = Memory.read(memory_file(task))
            why = self._asking(task, memory, state)
            if why:
                self._begin(task, memory, state, why)
        except UserError as error:
            self._say_once(str(error))

    def _asking(self, task: Config, memory: Memory, state: list[object]) -> list[str]:
        """Why to run now; [] where nothing asks for it, or must wait."""
        if state == self._ran and self._failures:
            return self._why if self._clock() >= self._due else []
        on, now = self._on or task.retrain.on, self._now()
        if "change" in on and state != self._ran:
            return [FIRST if self._ran is None else CHANGED]
        why = list(triggers.asking(task, memory, _digest(state), now, on, self._say_once))
        held = memory.held_until(now, task.retrain.pause, task.retrain.most_a_week) if why else None
        if held:
            until, reason = held
            self._say_once(f"{'; '.join(why)}: waits until {until:%Y-%m-%d %H:%M} UTC ({reason})")
            return []
        return why

    def _begin(self, task: Config, memory: Memory, state: list[object], why: list[str]) -> None:
        if state != self._ran:
            self._failures, self._cold = 0, False
        by_itself = not {FIRST, CHANGED} & {*why}
        warm = by_itself and task.retrain.warm_start and not self._cold and not configs.why_not_warm(task)
        start = ", from the weights of the last blessed model" if warm else ""
        self._say(f"run {len(memory.of_week(self._now())) + 1} of the last 7 days{start}: {'; '.join(why)}")
        spans, began = triggers.portions(task), self._now()
        self._ran, self._why, self._said = state, why, ""
        code = self._run(["--warm-start"] if warm else [])
        if code in (0, BLOCKED):
            memory.add(began, self._now(), why, code, spans, _digest(state))
        self._judge(code, warm, self._on or task.retrain.on)

    def _judge(self, code: int, warm: bool, on: list[str]) -> None:
        if code in (0, BLOCKED):
            self._failures, self._cold = 0, False
            self._say(f"watching for {_awaited(on)}; Ctrl-C ends it")
            return
        pause = min(self._retry * 2**self._failures, LONGEST_RETRY)
        self._failures += 1
        self._due = self._clock() + pause
        self._cold = self._cold or warm
        self._say(
            f"the run failed ({_ending(code)}); it is tried again when the data or the config change, or in "
            f"{pause / 60:.0f} minutes{', then from the pretrained weights' if warm else ''}. Ctrl-C ends the watch"
        )

    def _say_once(self, text: str) -> None:
        if text != self._said:
            self._say(text)
        self._said = text

    def _state(self) -> tuple[list[object] | str, Config | None]:
        """Names, sizes and times of all files, what the databases say, and the task; or what is wrong with them."""
        try:
            task = configs.load(self._config)
            check(task, self._on)
            files = task_files.of_task(task.data.with_queries(lambda _: None), task.folder)
            answers = [sql.changes(query, task.folder) for query in task.data.queries]
            paths = [file.path for file in files] + stage_files.paths(task.model_dump(mode="json"))(task.folder)
            return [_stamp(self._config), *(_stamp(Path(path)) for path in paths), *answers], task
        except UserError as error:
            return str(error), None
        except FileNotFoundError as error:  # gone between listing and looking
            return f"{error.filename} has just gone", None


def _awaited(on: list[str]) -> str:
    waited = {
        "change": "a change of the data or the config",
        "span": "a span",
        "drift": "an alarm of the monitor",
        "schedule": "the schedule",
    }
    return ", ".join(waited[each] for each in waited if each in on)


def check(task: Config, on: list[str] | None) -> None:
    """Raises UserError for a trigger that could never ask for a run."""
    try:
        configs.check_retraining(task, on)
    except ValueError as error:
        raise UserError(f"{error}.") from None


def memory_file(task: Config) -> Path:
    """Where a watch keeps what it knows of its runs."""
    return task.root_folder / "watch" / "runs.json"


def _digest(state: list[object]) -> str:
    """Tells the files, without the config."""
    return hashlib.sha256(repr(state[1:]).encode()).hexdigest()


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
        self.ending = EndingSignal(SIGNALS, self._pass_on)

    def run(self, arguments: list[str]) -> int:
        """Runs the line once; returns its exit code, minus the signal's number if one ended it."""
        # A process group of its own: a terminal sends Ctrl-C to the whole group, so the run would get it twice.
        command = [*self._command, *arguments]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0) as self._child:
            if self.ending.came:  # while the process started
                self._child.send_signal(self.ending.came)
            return self._child.wait()

    def _pass_on(self, number: int) -> None:
        if self._child:
            self._child.send_signal(number)


def forever(config: Path, seconds: float, shown: Screen, on: list[str] | None = None) -> NoReturn:
    """Watches until a signal ends it; exits with 128 and the signal's number, as shells have it.

    Args:
        config: the task's file.
        seconds: between two looks.
        shown: the screen.
        on: what asks for a run; None for the config's `retrain.on`.

    Raises:
        UserError: the config is wrong, or a trigger could never ask for a run.
    """
    task = configs.load(config)
    check(task, on)
    runs, log_file = Runs(config), task.root_folder / "logs" / "watch.log"

    def say(text: str) -> None:
        if not runs.ending.came:  # a run that the signal ended is no failure to tell
            shown.print(text, style="dim")
            _log(log_file, text)

    watch = Watch(config, runs.run, say, on)
    pause = SETTLED
    while not runs.ending.came:
        watch.look()
        runs.ending.sleep(pause)
        pause = seconds
    sys.exit(128 + runs.ending.came)


def _log(file: Path, text: str) -> None:
    """Adds a line with the time.

    Raises:
        UserError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {' '.join(text.split())}\n")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error
