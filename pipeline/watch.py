"""`bertline watch`: runs the line whenever its data or its config change, such as when a new span arrives."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from bertline.components.data import task_files
from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline.screen import Screen

SETTLED = 1.0  # seconds that files must stand still before the first run; later ones wait for two looks


class Watch:
    """Looks at a task's files and runs the line once they have changed and stand still.

    Args:
      config: the task's file, read anew at each look.
      run: runs the line, whatever becomes of it.
      say: tells the person a sentence.
    """

    def __init__(self, config: Path, run: Callable[[], None], say: Callable[[str], None]):
        self._config = config
        self._run = run
        self._say = say
        self._last: object = None
        self._done: object = None

    def look(self) -> None:
        """Runs the line if what is there has been there at the last look too, and no run has seen it."""
        seen = self._state()
        if seen != self._last:
            if isinstance(seen, str):
                self._say(f"waiting: {seen}")
            self._last = seen
            return  # a file may still be growing
        if seen == self._done or isinstance(seen, str):
            return
        self._done = seen
        self._run()
        self._say("watching for a change of the data or the config; Ctrl-C ends it")

    def _state(self) -> object:
        """Names, sizes and times of all files; the words of what is wrong where they cannot be listed."""
        try:
            task = configs.load(self._config)
            files = task_files.of_task(task.data, task.folder)
            return [_stamp(self._config), *(_stamp(Path(file.path)) for file in files)]
        except UserError as error:
            return str(error)
        except FileNotFoundError as error:  # gone between listing and looking
            return f"{error.filename} has just gone"


def _stamp(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return str(path), found.st_size, found.st_mtime_ns


def forever(config: Path, seconds: float, shown: Screen) -> NoReturn:
    """Watches until it is interrupted. Each run is a process of its own, so that none leaves its memory behind."""

    def run() -> None:
        subprocess.run([sys.executable, "-P", "-m", "bertline.pipeline.cli", "run", str(config)], check=False)

    watch = Watch(config, run, lambda text: shown.print(text, style="dim"))
    watch.look()
    time.sleep(SETTLED)
    while True:
        watch.look()
        time.sleep(seconds)
