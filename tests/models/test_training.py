import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from subprocess import DEVNULL

import keras
import numpy as np
import pytest
import tensorflow as tf
from factories import tiny_model_options, tokenised_reviews

from bertline.errors import UserError
from bertline.models import training
from bertline.models.bert import backbone, classifier
from bertline.models.bert.encoder import Batch, Encoder, pack
from bertline.models.dataset import Rows
from bertline.models.optimizer import LossScale
from bertline.models.recipe import TrainOptions
from bertline.models.training import fit

RECIPE = TrainOptions(epochs=3, batch_size=8, learning_rate=0.003, precision="float32", checkpoint_steps=4)


def train(folder, rows=96, options=RECIPE, validation=None, train_rows=None, dropout=0.1, layers=1, **more):
    model = tiny_model_options(folder, dropout=dropout)
    model = model.model_copy(update={"backbone": model.backbone.model_copy(update={"layers": layers})})
    return fit(
        lambda: build(model),
        train_rows or tokenised_reviews(model, rows),
        validation or tokenised_reviews(model, 30, seed=1),
        options,
        **{"checkpoints": folder / "checkpoints", **more},
    )


def several_labels(rows):
    """The rows with their label, and in every third row the next one too."""
    labels = np.eye(3, dtype=np.int32)[rows.labels]
    labels[::3] |= np.roll(labels, 1, axis=1)[::3]
    labels[::7] = 0
    return dataclasses.replace(rows, labels=labels)


def train_several(folder, rows=90, **more):
    """`train` on rows with none, one or two labels."""
    model = tiny_model_options(folder)
    train_rows, validation = (several_labels(tokenised_reviews(model, *drawn)) for drawn in ((rows,), (30, 1)))
    return train(folder, train_rows=train_rows, validation=validation, **more)


def build(model):
    keras.utils.set_random_seed(1)
    return classifier.build(backbone.load(model), 3, dropout=model.dropout, seed=17)


def weights(model):
    return np.concatenate([variable.numpy().ravel() for variable in model.trainable_variables])


def test_learns(tmp_path):
    seen = []
    _, history, _ = train(tmp_path, rows=300, options=RECIPE.model_copy(update={"epochs": 5}), on_progress=seen.append)
    assert history.best.validation_accuracy > 0.9
    assert history.best.validation_loss == min(epoch.validation_loss for epoch in history.epochs)
    last = seen[-1]
    assert (last.epoch, last.step, last.steps) == (5, 190, 190)
    assert last.loss == pytest.approx(history.epochs[-1].train_loss)
    assert history.examples_per_second > 0


def test_two_runs_agree_and_another_seed_does_not(tmp_path):
    runs = []
    for name, seed in (("a", 17), ("b", 17), ("c", 18)):
        (tmp_path / name).mkdir()
        runs.append(weights(train(tmp_path / name, options=RECIPE.model_copy(update={"seed": seed}))[0]))
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 1e-3


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    model, history, logits = train(whole)
    script = f"""
import os, signal, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]!r}
import test_training, pathlib, bertline.models.training as training
training.REPORT_SECONDS = 0
def killed(progress):
    if progress.step == 18:  # in the middle of the second epoch, two steps after a checkpoint
        os.kill(os.getpid(), signal.SIGKILL)
test_training.train(pathlib.Path({str(cut)!r}), on_progress=killed)
"""
    code = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, env=os.environ).returncode
    assert code == -signal.SIGKILL
    resumed, resumed_history, resumed_logits = train(cut)
    assert resumed_history.resumed_at == [16]
    assert resumed_history.epochs == history.epochs
    np.testing.assert_array_equal(weights(resumed), weights(model))
    np.testing.assert_array_equal(resumed_logits, logits)


def test_several_labels_per_row_are_learnt_and_a_stopped_run_goes_on_to_the_bit(tmp_path):
    class Stopped(Exception):
        pass

    def stop(progress):
        if progress.step >= 18:
            raise Stopped

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    options = RECIPE.model_copy(update={"class_weights": "balanced"})
    model, history, logits = train_several(whole, rows=300, options=options)
    assert logits.shape == (30, 3)
    assert history.epochs[-1].validation_loss < 0.7 * history.epochs[0].validation_loss
    with pytest.raises(Stopped):
        train_several(cut, rows=300, options=options, on_progress=stop)
    resumed, resumed_history, resumed_logits = train_several(cut, rows=300, options=options)
    assert resumed_history.resumed_at[0] > 0
    assert resumed_history.epochs == history.epochs
    np.testing.assert_array_equal(weights(resumed), weights(model))
    np.testing.assert_array_equal(resumed_logits, logits)


def test_float16_skips_the_steps_that_overflow_and_resumes_to_the_bit(tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == 18:  # two steps after a checkpoint, the scale has been halved before it
            raise Killed

    monkeypatch.setattr(training, "REPORT_SECONDS", 0)
    monkeypatch.setattr(LossScale, "INITIAL", 2.0**24)  # so large that the first steps overflow
    options = RECIPE.model_copy(update={"precision": "mixed_float16"})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    model, history, logits = train(whole, options=options)
    assert 0 < history.skipped_steps < 16
    assert history.epochs[-1].validation_loss < 0.8 < history.epochs[0].validation_loss
    with pytest.raises(Killed):
        train(cut, options=options, on_progress=kill)
    resumed, resumed_history, resumed_logits = train(cut, options=options)
    assert resumed_history.resumed_at == [16]
    assert (resumed_history.epochs, resumed_history.skipped_steps) == (history.epochs, history.skipped_steps)
    np.testing.assert_array_equal(weights(resumed), weights(model))
    np.testing.assert_array_equal(resumed_logits, logits)
    # A machine that trains in another dtype goes on from the same checkpoint.
    assert train(cut, options=RECIPE)[1].resumed_at == [16, 32]


def test_stops_early_and_restores_the_best_epoch_from_a_remote_folder(tmp_path):
    model = tiny_model_options(tmp_path)
    validation = tokenised_reviews(model, 30, seed=1)
    shifted = Rows(validation.token_ids, None, (validation.labels + 1) % 3)  # the better it learns, the worse this gets
    options = RECIPE.model_copy(update={"epochs": 9, "patience": 2, "learning_rate": 0.01})
    remote = "ram://bucket/checkpoints"
    trained, history, best_logits = train(tmp_path, rows=96, options=options, validation=shifted, checkpoints=remote)
    kept = {name.partition(".")[0] for name in tf.io.gfile.listdir(remote) if name.startswith("best-")}
    assert kept == {f"best-{history.best_epoch}"}
    assert len(history.epochs) == history.best_epoch + 2 < 9
    ids = shifted.token_ids.to_tensor()
    lengths = tf.cast(shifted.token_ids.row_lengths(), tf.int32)
    logits = Encoder.of(trained).logits(pack(trained, tf.float32), Batch(ids, None, lengths))
    np.testing.assert_allclose(best_logits, logits, atol=1e-5)  # the best epoch's, in the order of the split
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(shifted.labels, logits)
    assert float(tf.reduce_mean(losses)) == pytest.approx(history.best.validation_loss, rel=1e-4)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    options = RECIPE.model_copy(update={"learning_rate": 1.0, "clip_norm": 1e30, "epochs": 9})
    model = tiny_model_options(tmp_path)

    def nan_model():
        made = build(model)
        made.output_dense.bias.assign([np.nan, 0.0, 0.0])
        return made

    rows = tokenised_reviews(model, 16)
    with pytest.raises(UserError, match=r"loss became nan at step 1 of 18; lower train.learning_rate \(now 1\)"):
        fit(nan_model, rows, rows, options, checkpoints=tmp_path / "checkpoints")


def test_weights_that_the_last_step_spoils_are_not_the_best(tmp_path):
    options = RECIPE.model_copy(update={"learning_rate": 1e38, "epochs": 1, "warmup_share": 0.0})
    with pytest.raises(UserError, match=r"^the validation loss became nan after epoch 1; lower train.learning_rate"):
        train(tmp_path, rows=8, options=options)  # one step, whose loss is one of good weights


def test_an_empty_split_is_named(tmp_path):
    model = tiny_model_options(tmp_path)
    rows = tokenised_reviews(model, 8)
    empty = Rows(rows.token_ids[:0], None, rows.labels[:0])
    with pytest.raises(UserError, match="the validation split has no rows"):
        fit(lambda: build(model), rows, empty, RECIPE, checkpoints=tmp_path)


def test_tensorboard_logs(tmp_path):
    train(tmp_path, logs=tmp_path / "logs", options=RECIPE.model_copy(update={"epochs": 1}))
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_two_parts_of_16_rows_make_the_step_of_32(tmp_path, class_weights):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    recipe = RECIPE.model_copy(update={"batch_size": 32, "class_weights": class_weights})
    runs = []
    for folder, count in ((whole, 1), (parts, 2)):
        folder.mkdir()
        options = recipe.model_copy(update={"accumulate_steps": count})
        runs.append(train(folder, rows=97, options=options, dropout=0.0))  # the last batch is of one row
    (one, history, _), (two, in_parts, _) = runs
    assert [epoch.train_loss for epoch in in_parts.epochs] == pytest.approx(
        [epoch.train_loss for epoch in history.epochs], abs=1e-4
    )
    np.testing.assert_allclose(weights(two), weights(one), atol=1e-3)


def losses_on_two_devices(tmp_path, recipes, rest=""):
    """The losses of each recipe, by epoch, for training and validation, then its skipped steps; two virtual devices."""
    script = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]!r}
import pathlib, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import test_training
from bertline.models import training
test_training.LossScale.INITIAL = 2.0**24  # in float16 the first steps overflow
for place, changes in enumerate({recipes!r}):
    folder = pathlib.Path({str(tmp_path)!r}) / str(place)
    folder.mkdir()
    options = training.TrainOptions(**{{**test_training.RECIPE.model_dump(), "epochs": 2, **changes}})
    _, history, _ = test_training.train(folder, options=options, dropout=0.0, rows=90)  # a last batch of two rows
    losses = (loss for epoch in history.epochs for loss in (epoch.train_loss, epoch.validation_loss))
    print("LOSSES", *losses, history.skipped_steps)
{rest}
"""
    run = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return [[float(value) for value in line.split()[1:]] for line in run.stdout.splitlines() if "LOSSES" in line]


def test_mirrored_over_two_devices_gives_the_losses_of_one(tmp_path):
    several = f"""
for name in ("one_device", "mirrored"):
    folder = pathlib.Path({str(tmp_path)!r}) / f"several-{{name}}"
    folder.mkdir()
    options = test_training.RECIPE.model_copy(update={{"distribution": name, "epochs": 2}})
    _, history, _ = test_training.train_several(folder, options=options, dropout=0.0)
    print("LOSSES", *(loss for epoch in history.epochs for loss in (epoch.train_loss, epoch.validation_loss)))
"""
    recipes = [
        {"distribution": "one_device", "precision": "float32"},
        {"distribution": "mirrored", "precision": "float32"},
        {"distribution": "mirrored", "precision": "float32", "accumulate_steps": 2},
        {"distribution": "mirrored", "precision": "mixed_float16"},
    ]
    one, mirrored, in_parts, float16, several, several_mirrored = losses_on_two_devices(tmp_path, recipes, several)
    assert one[-1] == 0
    assert mirrored == pytest.approx(one, abs=2e-3)
    assert in_parts == pytest.approx(one, abs=2e-3)
    assert float16[-1] > 0  # skipped on both devices
    assert float16[:-1] == pytest.approx(one[:-1], abs=0.05)
    assert several_mirrored == pytest.approx(several, abs=2e-3)


@pytest.mark.shipped
def test_mirrored_with_all_that_makes_training_regular_gives_the_losses_of_one(tmp_path):
    """After a plain training in the same process: two strategies would number their collectives alike, and collide."""
    regular = {"adversarial": {"method": "fgm"}, "average": {"method": "ema", "decay": 0.9}, "l2_sp": 0.01}
    recipes = [
        {"distribution": "mirrored", "precision": "float32"},
        {"distribution": "one_device", "precision": "float32", **regular},
        {"distribution": "mirrored", "precision": "float32", **regular},
    ]
    _, one, mirrored = losses_on_two_devices(tmp_path, recipes)
    assert mirrored == pytest.approx(one, abs=2e-3)


# === Several workers ===

WORKER = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]!r}
import os, pathlib, signal
from bertline.models import hardware
strategy = hardware.strategy("multi_worker")
import test_training, bertline.models.training as training
training.REPORT_SECONDS = 0
folder, lost_at = pathlib.Path(sys.argv[1]), int(sys.argv[2])
def progress(seen):
    if seen.step == lost_at and not hardware.is_chief(strategy):
        os.kill(os.getpid(), signal.SIGKILL)
model, history, _ = test_training.train(
    folder, options=test_training.SHARED, dropout=0.0, rows=90, on_progress=progress, strategy=strategy,
    checkpoints=folder.parent / "checkpoints",
)
losses = [loss for epoch in history.epochs for loss in (epoch.train_loss, epoch.validation_loss)]
print("LOSSES", history.resumed_at, *(round(loss, 5) for loss in losses))
"""
SHARED = RECIPE.model_copy(update={"epochs": 2})


def workers(folder, lost_at=0):
    """Two workers on this machine, the second one lost at a step; their exit codes and the lines of their losses."""
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (one, two)]
    started = []
    for index in range(2):
        (folder / f"worker-{index}").mkdir(exist_ok=True)
        place = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        command = [sys.executable, "-c", WORKER, str(folder / f"worker-{index}"), str(lost_at)]
        environment = {**os.environ, "TF_CONFIG": json.dumps(place)}
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, stderr=DEVNULL))
    if lost_at:
        started[1].wait(300)
        started[0].kill()  # TensorFlow tells it of the loss after some two minutes; what runs the workers is faster
    shown = [process.communicate(timeout=300)[0] for process in started]
    lines = [line for text in shown for line in text.splitlines() if line.startswith("LOSSES")]
    return [process.returncode for process in started], lines


def test_two_workers_give_the_losses_of_one_device_and_go_on_after_one_is_lost(tmp_path):
    (tmp_path / "alone").mkdir()
    _, alone, _ = train(tmp_path / "alone", options=SHARED, dropout=0.0, rows=90)
    codes, lines = workers(tmp_path, lost_at=18)  # in the second epoch of 12 steps each, two after a checkpoint
    assert codes == [-signal.SIGKILL, -signal.SIGKILL]
    assert lines == []
    codes, lines = workers(tmp_path)
    assert codes == [0, 0]
    assert lines[0] == lines[1]
    assert lines[0].startswith("LOSSES [16] ")
    expected = [loss for epoch in alone.epochs for loss in (epoch.train_loss, epoch.validation_loss)]
    assert [float(value) for value in lines[0].split()[2:]] == pytest.approx(expected, abs=2e-3)
    assert {path.name for path in tmp_path.glob("worker-*/*")} == {"vocab.txt"}
