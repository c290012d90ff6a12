import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from factories import tiny_model_options, tokenised_reviews
from scipy.special import expit, rel_entr, softmax
from test_training import RECIPE, build, several_labels, train, train_several, weights

from bertline.models import averages, targets, training
from bertline.models.adversarial import Adversary, direction
from bertline.models.anchor import Anchor
from bertline.models.bert.encoder import Encoder, pack
from bertline.models.family import Batch
from bertline.models.optimizer import AdamW
from bertline.models.recipe import AdversarialOptions, AverageOptions, TrainOptions
from bertline.pipeline.config import Config

SEED = tf.constant([1, 4096], tf.int64)


def options(**changes):
    return TrainOptions(**{**RECIPE.model_dump(), **changes})


def make_run(folder, recipe, several=False):
    """A training of a tiny model that has not begun, and its longest batch, which has padding."""
    model = tiny_model_options(folder, dropout=0.2)
    rows = tokenised_reviews(model, 16)
    rows = several_labels(rows) if several else rows
    run = training.Run(tf.distribute.get_strategy(), build(model), rows, rows, recipe, folder / "checkpoints")
    batch = list(run.batches.ordered())[-1]
    assert batch["lengths"].numpy().min() < batch["token_ids"].shape[1]
    return run, batch


def dense(gradients):
    return np.concatenate([tf.convert_to_tensor(gradient).numpy().ravel() for gradient in gradients])


class Moved:
    """The loss of a run's model on a batch whose word embeddings are moved, written down plainly."""

    def __init__(self, run, batch):
        self.run, self.batch = run, batch
        self.variables = [variable.value for variable in run.method.variables]
        self.real = tf.sequence_mask(batch["lengths"], batch["token_ids"].shape[1], tf.float32)[:, :, None]
        self.zero = tf.zeros([*batch["token_ids"].shape, run.model.backbone.hidden_dim])

    def slopes(self, move):
        with tf.GradientTape() as tape:
            tape.watch(move)
            rows = Batch(self.batch["token_ids"], None, self.batch["lengths"], move)
            logits = Encoder.of(self.run.model).logits(pack(self.run.model, tf.float32), rows, SEED)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(self.batch["labels"], logits)
            loss = tf.reduce_mean(losses)
        *gradients, slope = tape.gradient(loss, [*self.variables, move])
        return float(loss), dense(gradients), slope

    def climb(self, move, slope, radius, size):
        """A step of the length `size` for each row, brought back into the ball."""
        moved = []
        for old, row in zip(move, slope, strict=True):
            new = old + size * row / np.linalg.norm(row)
            moved.append(new * min(1.0, radius / np.linalg.norm(new)))
        return tf.constant(np.stack(moved), tf.float32)


# === Adversarial training ===


def test_each_rows_direction_has_length_1_and_leaves_the_padding_alone():
    draw = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    draw[1] *= 1e-25  # whose squares are 0
    draw[2] = 0
    draw[3, 0, 0] = np.inf
    draw[4] *= 1e25
    real = np.ones((5, 4, 1), np.float32)
    real[0, 2:] = 0
    found = direction(tf.constant(draw), tf.constant(real)).numpy()
    np.testing.assert_allclose(np.sqrt((found**2).sum((1, 2))), [1, 1, 0, 0, 1], rtol=1e-5)
    assert (found[0, 2:] == 0).all()
    np.testing.assert_allclose(found[0, :2], draw[0, :2] / np.linalg.norm(draw[0, :2]), rtol=1e-5)


def test_fgms_gradients_are_those_of_the_plain_and_the_moved_rows(tmp_path):
    """With bitfit the table of embeddings is frozen: what moves is what the first layer reads of it."""
    run, batch = make_run(tmp_path, options(adversarial={"method": "fgm", "epsilon": 0.7}, method="bitfit"))
    moved = Moved(run, batch)
    plain, gradients, slope = moved.slopes(moved.zero)
    move = moved.climb(moved.zero, slope, 9.0, 0.7)
    assert np.linalg.norm(move.numpy().reshape(len(move), -1), axis=1) == pytest.approx(0.7, rel=1e-4)
    harder, more, _ = moved.slopes(move)
    loss, found = run.compiled.gradients(run.method.open_at(0), batch, SEED)
    assert harder > plain
    assert float(loss) == pytest.approx((plain + harder) / 2, rel=1e-5)
    np.testing.assert_allclose(dense(found), (gradients + more) / 2, atol=1e-6)


class Bent:
    """A loss of moved embeddings that costs nothing to compute, and its slopes by hand: sum tanh(w (x + move))."""

    def __init__(self):
        draw = np.random.default_rng(6)
        self.rows, self.w = (
            draw.normal(size=(3, 4, 5)).astype(np.float32),
            tf.Variable(draw.normal(size=5), dtype=tf.float32),
        )
        self.real = np.ones((3, 4), np.float32)
        self.real[1, 2:] = 0

    def loss(self, move):
        return tf.reduce_sum(tf.tanh(self.w * (self.rows + move)))

    def slopes(self, move):
        bend = 1 - np.tanh(self.w.numpy() * (self.rows + move)) ** 2
        return (bend * (self.rows + move)).sum((0, 1)), bend * self.w.numpy()

    def climb(self, move, slope, radius, size):
        for row, (at, steep) in enumerate(zip(move, slope * self.real[:, :, None], strict=True)):
            new = at + size * steep / np.linalg.norm(steep)
            move[row] = new * min(1.0, radius / np.linalg.norm(new))
        return move


@pytest.mark.parametrize("method", ["pgd", "freelb"])
def test_gradients_along_an_ascent_in_the_ball(method):
    """From the same start, the paper's rule step by step; with such a step length the ball's edge is reached."""
    bent = Bent()
    adversary = Adversary(AdversarialOptions(method=method, epsilon=0.5, steps=3, step_size=0.4))
    move = adversary.start(tf.constant(bent.real[:, :, None]), 5, SEED).numpy()
    assert np.abs(move[0]).max() <= 0.5 / 20**0.5 and np.abs(move[1]).max() <= 0.5 / 10**0.5  # +-epsilon / sqrt(n)
    assert np.linalg.norm(move[0]) > 0.1
    assert (move[1, 2:] == 0).all()
    seen = []
    for _ in range(3):
        gradient, slope = bent.slopes(move)
        seen.append((float(bent.loss(move)), gradient))
        move = bent.climb(move, slope, 0.5, 0.4)
    assert np.linalg.norm(move.reshape(3, -1), axis=1) == pytest.approx(0.5, rel=1e-4)
    if method == "pgd":
        seen = [(float(bent.loss(move)), bent.slopes(move)[0])]
    loss, (found,) = adversary.gradients(bent.loss, [bent.w], tf.constant(bent.real), 5, SEED)
    assert float(loss) == pytest.approx(np.mean([value for value, _ in seen]), rel=1e-5)
    np.testing.assert_allclose(found, np.mean([gradient for _, gradient in seen], axis=0), rtol=1e-4)


# === Label smoothing and R-Drop ===


def test_smoothed_losses_are_keras():
    draw = np.random.default_rng(3)
    logits, labels = draw.normal(0, 3, (6, 4)).astype(np.float32), np.array([0, 1, 2, 3, 0, 1], np.int32)
    target = targets.of(labels, 4, balanced=False, smoothing=0.2)
    keras_own = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2, reduction=None)
    np.testing.assert_allclose(target.losses(labels, logits), keras_own(np.eye(4)[labels], logits), rtol=1e-5)
    plain = targets.of(labels, 4, balanced=False)
    np.testing.assert_allclose(target.losses_of(labels, logits), plain.losses(labels, logits), rtol=1e-5)
    sets = (draw.random((6, 4)) < 0.4).astype(np.int32)
    target = targets.of(sets, 4, balanced=False, smoothing=0.2)
    keras_own = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2, reduction=None)
    np.testing.assert_allclose(target.losses(sets, logits), keras_own(sets.astype(np.float32), logits), rtol=1e-5)


def test_divergences_are_both_kullback_leibler_divergences():
    one, other = np.random.default_rng(4).normal(0, 2, (2, 5, 3)).astype(np.float32)
    labels = np.zeros(5, np.int32)
    p, q = softmax(one, -1), softmax(other, -1)
    expected = (rel_entr(p, q) + rel_entr(q, p)).sum(-1)
    np.testing.assert_allclose(targets.of(labels, 3, balanced=False).divergences(one, other), expected, rtol=1e-4)
    p, q = (np.stack([expit(each), 1 - expit(each)]) for each in (one, other))
    expected = (rel_entr(p, q) + rel_entr(q, p)).sum(0).mean(-1)
    sets = np.zeros((5, 3), np.int32)
    np.testing.assert_allclose(targets.of(sets, 3, balanced=False).divergences(one, other), expected, rtol=1e-4)


def test_r_drop_is_the_papers_loss_of_two_draws_of_dropout(tmp_path):
    run, batch = make_run(tmp_path, options(r_drop=2.0), several=True)
    loss, found = run.compiled.gradients(run.method.open_at(0), batch, SEED)
    target = targets.of(batch["labels"].numpy(), 3, balanced=False)
    rows = Batch(
        *(tf.concat([batch[name]] * 2, 0) for name in ("token_ids",)), None, tf.concat([batch["lengths"]] * 2, 0)
    )
    with tf.GradientTape() as tape:
        logits = Encoder.of(run.model).logits(pack(run.model, tf.float32), rows, SEED)
        one, other = logits[: len(batch["rows"])], logits[len(batch["rows"]) :]
        losses = target.losses(batch["labels"], one) + target.losses(batch["labels"], other)
        papers = tf.reduce_mean(losses + 2.0 / 2 * target.divergences(one, other))  # equation 4
    assert np.abs(one - other).max() > 1e-3
    assert float(loss) == pytest.approx(float(papers) / 2, rel=1e-5)
    expected = dense(tape.gradient(papers, [variable.value for variable in run.method.variables])) / 2
    np.testing.assert_allclose(dense(found), expected, atol=1e-6)


# === L2-SP ===


def test_the_anchor_adds_the_gradient_of_the_penalty_and_spares_the_head():
    table, kernel, head = (
        keras.Variable(np.ones((4, 2), np.float32), name=name) for name in ("embeddings", "kernel", "kernel")
    )
    variables = [table, kernel, head]
    anchor = Anchor(variables, [table, kernel], 0.5)
    for variable in variables:
        variable.assign_add(np.arange(8.0).reshape(4, 2))
    slices = tf.IndexedSlices(tf.zeros([2, 2]), tf.constant([1, 3]), tf.constant([4, 2]))
    rows, pulled, own = anchor.pulled([slices, tf.ones([4, 2]), tf.ones([4, 2])], range(3))
    np.testing.assert_allclose(rows.values, 0.5 * np.array([[2.0, 3], [6, 7]]))
    np.testing.assert_allclose(pulled, 1 + 0.5 * np.arange(8.0).reshape(4, 2))
    np.testing.assert_allclose(own, np.ones((4, 2)))
    before = [variable.numpy() for variable in variables]
    zero = [tf.zeros([4, 2])] * 3
    anchored = AdamW(variables, lambda step: tf.constant(0.1), weight_decay=0.5, clip_norm=9.0, anchor=anchor)
    anchored.apply(zero)
    moved = [variable.numpy() - old for variable, old in zip(variables, before, strict=True)]
    np.testing.assert_allclose(moved[2], -0.1 * 0.5 * before[2], rtol=1e-5)  # the head's weight decay alone
    assert (moved[1].ravel()[1:] < 0).all() and moved[1].ravel()[0] == 0  # towards the start, and not towards 0


def test_of_a_classifier_all_but_the_head_is_held(tmp_path):
    run, _ = make_run(tmp_path, options(l2_sp=0.1))
    free = [v for v, held in zip(run.method.variables, run.anchor.holds, strict=True) if not held]
    assert [variable.path for variable in free] == [v.path for v in run.model.output_dense.trainable_variables]


# === Averages ===


def test_the_moving_average_is_tensorflows():
    ours, theirs = (tf.Variable([1.0, 2.0]) for _ in range(2))
    average = averages.of([ours], AverageOptions(method="ema", decay=0.8))
    for step in range(1, 60):
        for variable in (ours, theirs):
            variable.assign([np.sin(step), step])
        if step == 1:
            reference = tf.constant([1.0, 2.0])
        decay = min(0.8, (1 + step) / (10 + step))
        reference = decay * reference + (1 - decay) * theirs
        average.after_step(step, last=False)
    np.testing.assert_allclose(average.values()[0], reference, rtol=1e-5)


def test_the_last_copies_are_averaged():
    variable = tf.Variable([0.0])
    average = averages.of([variable], AverageOptions(method="checkpoints", last=3, every=2))
    for step in range(1, 8):
        variable.assign([10.0**step])
        average.after_step(step, last=step == 7)
        if step == 3:
            np.testing.assert_allclose(average.values()[0], [100.0])
    np.testing.assert_allclose(average.values()[0], [(1e4 + 1e6 + 1e7) / 3])  # after steps 4, 6 and the epoch's last
    with averages.averaged([variable], average):
        assert variable.numpy() == pytest.approx([(1e4 + 1e6 + 1e7) / 3])
    assert variable.numpy() == [1e7]


# === Whole trainings ===

FREELB = {
    "adversarial": {"method": "freelb", "steps": 2},
    "average": {"method": "ema", "decay": 0.9},
    "label_smoothing": 0.1,
    "l2_sp": 0.01,
    "accumulate_steps": 2,
    "precision": "mixed_float16",
    "epochs": 1,
}
R_DROP = {"r_drop": 1.0, "average": {"method": "checkpoints", "every": 2}, "epochs": 1}


@pytest.mark.parametrize(
    ("changes", "trains"),
    [
        pytest.param(FREELB, train_several, id="freelb", marks=pytest.mark.shipped),
        pytest.param(R_DROP, train, id="r_drop"),
    ],
)
def test_what_is_left_is_averaged_and_a_resumed_training_equals_an_uninterrupted_one(
    tmp_path, monkeypatch, changes, trains
):
    whole, cut, own = tmp_path / "whole", tmp_path / "cut", []
    whole.mkdir()
    cut.mkdir()

    def copy(progress):
        if progress.step == 4:  # a step after a checkpoint
            shutil.copytree(whole / "checkpoints", cut / "checkpoints")

    restore_best = training.Run.restore_best
    monkeypatch.setattr(training.Run, "restore_best", lambda run: own.append(weights(run.model)) or restore_best(run))
    monkeypatch.setattr(training, "REPORT_SECONDS", 0)
    recipe = options(**changes, checkpoint_steps=3)
    model, history, left = trains(whole, rows=40, options=recipe, on_progress=copy)
    assert np.abs(own[0] - weights(model)).max() > 1e-4  # the weights of the last step are others
    rows = tokenised_reviews(tiny_model_options(tmp_path), 30, seed=1)
    batch = Batch(rows.token_ids.to_tensor(), None, tf.cast(rows.token_ids.row_lengths(), tf.int32))
    logits = Encoder.of(model).logits(pack(model, tf.float32), batch)
    np.testing.assert_allclose(left, logits, atol=2e-2 if "precision" in changes else 1e-5)
    resumed, resumed_history, resumed_left = trains(cut, rows=40, options=recipe)
    assert resumed_history.resumed_at == [3]
    assert resumed_history.epochs == history.epochs
    np.testing.assert_array_equal(resumed_left, left)
    np.testing.assert_array_equal(weights(resumed), weights(model))


# === What is refused ===


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adversarial": {"method": "fgm", "steps": 3}}, "fgm takes one step of length epsilon"),
        ({"adversarial": {"method": "pgd", "epsilon": 0}}, "greater than 0"),
        ({"average": {"method": "ema", "last": 3}}, "last: it does not go with method: ema"),
        ({"average": {"method": "checkpoints", "decay": 0.9}}, "decay: it does not go with method: checkpoints"),
        (
            {"method": "probe", "r_drop": 1.0, "label_smoothing": 0.1},
            "label_smoothing, r_drop: method: probe does not train by",
        ),
        ({"method": "lora", "l2_sp": 0.1}, "with method: lora the pretrained weights stay as they are"),
        ({"adversarial": {"method": "fgm"}, "r_drop": 1.0}, "adversarial and r_drop: each changes"),
        ({"method": "adalora", "average": {"method": "ema"}}, "adalora it would bring back pruned ranks"),
        ({"label_smoothing": 1.0}, "less than 1"),
    ],
)
def test_keys_that_do_not_go_together(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainOptions(**changes)


@pytest.mark.parametrize(
    ("model", "train_section", "message"),
    [
        ({"dropout": 0}, {"r_drop": 1.0}, "train.r_drop: without model.dropout both passes"),
        ({"backbone": {"vocabulary": "vocab.txt"}}, {"l2_sp": 0.1}, "train.l2_sp: the random weights"),
    ],
)
def test_terms_that_could_only_be_zero(model, train_section, message):
    data = {"source": "rows.csv", "text": "text", "label": "label"}
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"name": "task", "data": data, "model": model, "train": train_section})


def test_the_options_survive_json():
    for changes in (FREELB, R_DROP, {"adversarial": AdversarialOptions(method="fgm")}):
        made = TrainOptions(**changes)
        assert TrainOptions.model_validate_json(made.model_dump_json()) == made
