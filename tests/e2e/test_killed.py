"""A line that is killed in each of its stages, one after the other, ends as one that nobody killed."""

import contextlib
import shutil
import signal
import sqlite3
import threading
import time

import psutil
from lines import first_evaluation

RUNNING = 2  # ml_metadata.Execution.RUNNING
STEP = 0.001  # seconds that a run goes on between two looks, once its stage has begun

# Stage -> when it is killed: as soon as one of these is there, seen from the folder of the task. Without any, at once.
KILLS = {
    "ExampleGen": ("runs/artifacts/ExampleGen/examples/{id}/Split-*/*",),
    "StatisticsGen": (),
    "Transform": ("runs/artifacts/Transform/transformed_examples/{id}/Split-*/*",),
    "Baseline": (),
    "Trainer": ("runs/checkpoints/**/checkpoint",),
    "Exporter": ("runs/artifacts/Exporter/model/{id}/**/saved_model.pb",),
    "Evaluator": (),
    "Canary": (),
    "Pusher": ("runs/serving/.unfinished-*/*",),
}


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


def newest_execution(line):
    """The stage that began last, and its state, as the store has it after the kill."""
    with contextlib.closing(sqlite3.connect(line.folder / "runs" / "metadata.sqlite")) as store:
        assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        query = "SELECT Type.name, last_known_state FROM Execution JOIN Type ON Type.id = type_id"
        name, state = store.execute(f"{query} ORDER BY Execution.id DESC").fetchone()
    return name.rpartition(".")[2], state


def figures(metrics):
    """What a model's figures are, without what differs between two exports of the same weights: names, and the time."""
    return {name: value for name, value in metrics.items() if name not in ("model_bytes", "inference_seconds")}


def test_killed_in_each_stage_it_ends_as_one_that_nobody_killed(line):
    undisturbed_metrics, undisturbed_release = line.first_metrics, line.first_release
    shutil.rmtree(line.folder / "runs")
    line.edit("  epochs: 8", "  epochs: 8\n  checkpoint_steps: 5")
    for stage, signs in KILLS.items():
        victim = Victim(line)
        victim.kill_in(stage, signs)
        if stage == "Exporter":  # the one after the Trainer
            assert "resumed at step" in victim.ended.stdout
        assert newest_execution(line) == (stage, RUNNING), f"{stage} was not killed while it ran"
        assert not line.serving.exists() or line.versions() == [], stage
    assert list(line.serving.glob(".unfinished-*/*")), "the push was killed before it copied"

    ran = line.run()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(line.versions()) == 1
    assert not list(line.serving.glob(".unfinished-*")) and not list(line.folder.glob("runs/checkpoints/**/*.index"))
    metrics, release = first_evaluation(line.folder)
    assert figures(metrics) == figures(undisturbed_metrics)
    assert figures(release["metrics"]) == figures(undisturbed_release["metrics"])
    assert {run["outcome"] for run in line.runs()} == {"pushed", "interrupted"}
