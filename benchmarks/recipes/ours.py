"""Trials by the code of the line's stages: tokenizer, frozen encoder, probe, and the Trainer's loop."""

from __future__ import annotations

import functools
import gc
import tempfile
import time
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from benchmarks.recipes import methods, sets
from benchmarks.recipes.results import Answered
from bertline.components import trainer
from bertline.components.probe_head import Probed
from bertline.models import ensemble, families, hardware, probe, training
from bertline.models.dataset import Batches, Rows
from bertline.models.embeddings import FrozenEncoder
from bertline.models.family import Batch, Classifier
from bertline.models.recipe import ModelOptions, TrainOptions

BATCH = 64  # of test rows


class _Member(NamedTuple):
    """A model of an ensemble, or the only one.

    Attributes:
        logits: of the test rows, float32 [rows, labels].
        history: of its training.
        seconds: of processor time that the training took.
    """

    logits: np.ndarray
    history: training.History
    seconds: float


class Ours:
    """The trials of a set by the code of the line's stages. Its rows are tokenised once, and embedded once.

    Args:
        data: the set.
        model: `model` of a config.
    """

    def __init__(self, data: sets.Set, model: ModelOptions):
        self._data, self._model = data, model
        self._family = families.of(model)
        ids, _ = self._family.tokenizer(model)(tf.constant(data.texts))
        self._rows = Rows(tf.cast(ids, tf.int32), None, data.labels.astype(np.int32))
        self._encoder, hidden = _frozen(model.model_copy(update={"max_length": 128}).model_dump_json())
        self._gain = np.float32(self._family.pooling(model).gain(hidden))
        self._vectors = np.full((len(data.texts), hidden), np.nan, np.float32)
        self._embed_seconds = 0.0  # of a row

    def run(self, chosen: sets.Split, seed: int, method: str) -> Answered:
        """Fits on the training rows and answers the test rows.

        Raises:
            UserError: the recipe is none, or its training failed.
        """
        recipe = methods.recipe_of(method).train.model_copy(update={"seed": seed, "tensorboard": False})
        train, validation, test = (self._features(places) for places in (*chosen, self._data.test))
        labels, began = len(self._data.names), time.process_time()
        fitted = probe.fit(train, validation, labels, balanced=recipe.class_weights == "balanced")
        probing = time.process_time() - began + self._embed_seconds * (len(chosen.train) + len(chosen.validation))
        if recipe.method == "probe":
            weights = fitted.kernel.size + fitted.bias.size
            return Answered(fitted.logits(test.features).argmax(-1), probing, weights, f"C {fitted.strength:g}")
        probed = Probed(fitted, fitted.logits(validation.features))
        members = [self._member(chosen, recipe.of_member(number + 1), probed) for number in range(recipe.ensemble)]
        logits = np.asarray(ensemble.mean([each.logits for each in members], multi_label=False))
        seconds = sum(each.seconds for each in members) + (0 if recipe.head == "random" else probing)
        weights = sum(each.history.trained_weights for each in members)
        note = f"epoch {members[0].history.best_epoch} of {len(members[0].history.epochs)}"
        return Answered(logits.argmax(-1), seconds, weights, note)

    def _member(self, chosen: sets.Split, recipe: TrainOptions, probed: Probed) -> _Member:
        """Trains one model, and lets it answer the test rows."""
        began = time.process_time()
        trained = self._trained(chosen, recipe, probed)
        seconds = time.process_time() - began
        rows = self._rows.take(self._data.test)
        member = _Member(
            _logits(trained.model, rows, hardware.compute_dtype(recipe.precision)), trained.history, seconds
        )
        del trained
        # A fit's model, moments and graph hold each other: hundreds of megabytes that would wait for the collector.
        keras.backend.clear_session()
        gc.collect()
        return member

    def _trained(self, chosen: sets.Split, recipe: TrainOptions, probed: Probed) -> training.Trained:
        """What the Trainer would leave of these rows."""
        rows = (self._rows.take(places) for places in chosen)
        task = trainer.Task(self._data.names, self._family.digest(self._model), *rows, probed=probed)
        with tempfile.TemporaryDirectory(prefix="bertline-recipes-") as checkpoints:
            return trainer.train(task, self._model, recipe, checkpoints=checkpoints)

    def _features(self, places: np.ndarray) -> probe.LabelledFeatures:
        """What the head reads of rows; each row is embedded the first time that a trial asks for it."""
        missing = places[np.isnan(self._vectors[places, 0])]
        if len(missing):
            began = time.process_time()
            self._vectors[missing] = self._encoder(self._rows.take(missing))
            self._embed_seconds = (time.process_time() - began) / len(missing)
        return probe.LabelledFeatures(self._vectors[places] * self._gain, self._rows.labels[places])


@functools.cache
def _frozen(model: str) -> tuple[FrozenEncoder, int]:
    """The encoder that all sets share, and the width of its vectors; the model as JSON."""
    # The number of labels does not matter, as only the layers below the head are used.
    options = ModelOptions.model_validate_json(model)
    network = families.of(options).build(options, 2, seed=1)
    return FrozenEncoder(network, hardware.compute_dtype("auto")), network.width


def _logits(model: Classifier, rows: Rows, dtype: tf.DType) -> np.ndarray:
    """Float32 [rows, labels]."""
    encoder, weights = model.encoder(), model.packed(dtype)
    logits = np.empty((len(rows), model.num_classes), np.float32)
    for batch in Batches(rows, BATCH).ordered():
        part = Batch(batch["token_ids"], None, batch["lengths"])
        logits[batch["rows"].numpy()] = encoder.logits(weights, part, None).numpy()
    return logits
