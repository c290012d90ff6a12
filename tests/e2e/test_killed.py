"""A line that is killed in each of its stages, one after the other, ends as one that nobody killed."""

import contextlib
import shutil
import sqlite3

from lines import figures, first_evaluation
from victims import Victim

RUNNING = 2  # ml_metadata.Execution.RUNNING

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


def newest_execution(line):
    """The stage that began last, and its state, as the store has it after the kill."""
    with contextlib.closing(sqlite3.connect(line.folder / "runs" / "metadata.sqlite")) as store:
        assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        query = "SELECT Type.name, last_known_state FROM Execution JOIN Type ON Type.id = type_id"
        name, state = store.execute(f"{query} ORDER BY Execution.id DESC").fetchone()
    return name.rpartition(".")[2], state


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
