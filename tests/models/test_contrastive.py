import numpy as np
import pytest
import tensorflow as tf
from factories import tiny_model_options, tokenised_reviews
from pydantic import ValidationError

from bertline.errors import UserError
from bertline.models import contrastive, probe, training
from bertline.models.bert import classifier
from bertline.models.bert.encoder import Batch, Encoder, pack
from bertline.models.recipe import TrainOptions

RECIPE = TrainOptions(
    method="contrastive", epochs=4, batch_size=12, learning_rate=0.003, checkpoint_steps=4, precision="float32"
)  # fmt: skip


def test_the_loss_is_the_papers():
    """Khosla et al. 2020, equation 2, row by row."""
    generator = np.random.default_rng(3)
    vectors, labels = generator.normal(size=(7, 5)).astype(np.float32), np.array([0, 0, 0, 1, 1, 2, 2], np.int32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    of_rows = []
    for i in range(7):
        others = [a for a in range(7) if a != i]
        total = sum(np.exp(unit[i] @ unit[a] / 0.2) for a in others)
        alike = [p for p in others if labels[p] == labels[i]]
        of_rows.append(-sum(np.log(np.exp(unit[i] @ unit[p] / 0.2) / total) for p in alike) / len(alike))
    value = contrastive.loss(tf.constant(vectors), tf.constant(labels), 0.2)
    assert float(value) == pytest.approx(np.mean(of_rows), rel=1e-5)


def test_a_step_draws_rows_of_several_labels_by_seed_and_step():
    labels = np.repeat(np.arange(77), 8)
    draws = contrastive.Draws(labels, 32, seed=5)
    assert draws.steps == 20
    one = draws(3)
    _, counts = np.unique(labels[one], return_counts=True)
    assert counts.tolist() == [2] * 16 and len(set(one.tolist())) == 32
    assert (contrastive.Draws(labels, 32, seed=5)(3) == one).all()
    assert set(draws(4)) != set(one) and set(contrastive.Draws(labels, 32, seed=6)(3)) != set(one)
    few = contrastive.Draws(np.array([0, 1, 1, 1]), 8, seed=1)(0)  # one row of a label stands for itself
    assert np.bincount(few).tolist()[0] == 4 and len(few) == 8
    assert len(contrastive.Draws(np.arange(2_000_000) % 2, 16, seed=1)(0)) == 16  # no list of pairs
    with pytest.raises(UserError, match="all training rows have one label"):
        contrastive.Draws(np.zeros(4), 8, seed=1)
    with pytest.raises(UserError, match="contrastive: rows with several labels cannot be trained so"):
        contrastive.Draws(np.eye(3, dtype=np.int32), 8, seed=1)


def fit(folder, model, options=RECIPE, **arguments):
    return contrastive.fit(
        lambda: classifier.from_options(model, 3, seed=17),
        tokenised_reviews(model, 36),
        tokenised_reviews(model, 60, seed=1),
        options,
        checkpoints=folder / "checkpoints",
        **arguments,
    )


def test_the_head_is_a_probe_on_a_better_encoder_and_a_resumed_training_is_the_same(tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == 6:  # two steps after a checkpoint
            raise Killed

    monkeypatch.setattr(training, "REPORT_SECONDS", 0)
    model = tiny_model_options(tmp_path, pooling="mean", dropout=0.1)
    whole = fit(tmp_path / "whole", model)
    with pytest.raises(Killed):
        fit(tmp_path / "cut", model, on_progress=kill)
    resumed = fit(tmp_path / "cut", model)
    assert resumed.history.resumed_at == [4]
    for one, other in zip(whole.model.variables, resumed.model.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)
    np.testing.assert_array_equal(whole.validation_logits, resumed.validation_logits)

    validation = tokenised_reviews(model, 60, seed=1)
    ids = validation.token_ids.to_tensor()
    batch = Batch(ids, None, tf.cast(validation.lengths, tf.int32))
    logits = Encoder.of(whole.model).logits(pack(whole.model, tf.float32), batch).numpy()
    np.testing.assert_allclose(logits, whole.validation_logits, atol=1e-4)
    best = whole.history.best
    assert best.validation_accuracy == pytest.approx((logits.argmax(1) == validation.labels).mean())
    assert best.validation_loss < 0.8 * frozen_loss(model)


def test_weights_that_the_last_step_spoils_are_not_the_best(tmp_path):
    spoils = RECIPE.model_copy(update={"learning_rate": 1e38, "epochs": 1, "warmup_share": 0.0, "batch_size": 36})
    with pytest.raises(UserError, match=r"vectors became nan after epoch 1; lower train.learning_rate"):
        fit(tmp_path, tiny_model_options(tmp_path), spoils)


def frozen_loss(model):
    """The validation loss of the probe on the encoder as it is."""
    import keras

    keras.utils.set_random_seed(RECIPE.seed)
    network = classifier.from_options(model, 3, seed=17)
    sides = []
    for rows in (tokenised_reviews(model, 36), tokenised_reviews(model, 60, seed=1)):
        batch = Batch(rows.token_ids.to_tensor(), None, tf.cast(rows.lengths, tf.int32))
        sides.append(
            probe.LabelledFeatures(Encoder.of(network).vectors(pack(network, tf.float32), batch).numpy(), rows.labels)
        )
    return probe.fit(*sides, 3).validation_loss


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"method": "full", "contrastive": {"temperature": 0.2}},
            "contrastive: it goes with method: contrastive, and method is full",
        ),
        ({"head": "probe"}, "head: with method: contrastive the head is fitted on the tuned encoder"),
        ({"accumulate_steps": 2}, "accumulate_steps: with method: contrastive the loss needs all rows"),
        ({"distribution": "multi_worker"}, "distribution: with method: contrastive so few rows need one device"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys, words):
    with pytest.raises(ValidationError, match=words):
        TrainOptions(**{"method": "contrastive", **keys})
