"""A run of a line that is killed from outside, at a moment that a test names."""

import contextlib
import signal
import threading
import time

import psutil

STEP = 0.001  # seconds that a run goes on between two looks, once its stage has begun


class Victim:
    """A run of the line in a fork of the warm process, which is stopped and killed from outside."""

    def __init__(self, line):
        self.line = line
        self._thread = threading.Thread(target=self._run)
        before = self._forks()
        self._thread.start()
        self.process = self._wait_for(lambda: next(iter(self._forks() - before), None))

    def _run(self):
        self.ended = self.line.run()

    def _forks(self):
        return set(psutil.Process(self.line.warm._process.pid).children())

    def _wait_for(self, look, seconds=300.0):
        end = time.monotonic() + seconds
        while not (found := look()):
            assert self._thread.is_alive(), f"the run ended first: {self.ended.stdout}{self.ended.stderr}"
            assert time.monotonic() < end
            time.sleep(STEP)
        return found

    def kill_in(self, stage, signs):
        """Waits for a stage to begin, lets it go on in small steps until a sign of it is there, and kills it."""
        outputs = self.line.folder / "runs" / "artifacts" / stage
        before = set(outputs.glob("*/[0-9]*"))  # OUTPUT/EXECUTION; TFX makes the folder before the stage begins
        begun = self._wait_for(lambda: set(outputs.glob("*/[0-9]*")) - before)
        number = next(iter(begun)).name

        def look():
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended: _wait_for says so
                self.process.suspend()
            if not signs or any(list(self.line.folder.glob(sign.format(id=number))) for sign in signs):
                return True
            with contextlib.suppress(psutil.NoSuchProcess):
                self.process.resume()
            return False

        self._wait_for(look)
        for each in (*self.process.children(recursive=True), self.process):
            each.kill()
        self._thread.join()
        assert self.ended.returncode == -signal.SIGKILL
