"""Trainer: fine-tunes the classifier on the transformed Examples and exports the SavedModel."""

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
import tensorflow_transform as tft
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from bertline.components import estimates
from bertline.components.artifacts import KERAS_FOLDER, VALIDATION_FILE
from bertline.components.transform import read_labels
from bertline.errors import UserError
from bertline.models import backbone, calibration, classifier, hardware, signatures, training
from bertline.models.dataset import Rows, read_rows
from bertline.models.features import LABEL, PROBABILITIES, SEGMENT_IDS
from bertline.models.recipe import ModelOptions, TrainOptions

HISTORY_FILE = "training.json"
_progress = logging.getLogger("bertline.progress")


@component
def Trainer(
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    transformed_examples: InputArtifact[standard_artifacts.Examples],
    model: OutputArtifact[standard_artifacts.Model],
    model_run: OutputArtifact[standard_artifacts.ModelRun],
    model_options: Parameter[str],
    train_options: Parameter[str],
    checkpoint_dir: Parameter[str],
    last_blessed: InputArtifact[standard_artifacts.Model] = None,
):
    """Writes the SavedModel and the Keras weights to `model`, the history and TensorBoard's logs to `model_run`.

    The validation rows serve twice: early stopping chose the epoch on them, and the temperature is fitted on them. Each
    takes little from them, a choice among a few epochs and one number; the test rows say whether it held.

    Of several workers (distribution: multi_worker) all run this with the same arguments on folders that they share, and
    the chief writes.

    Args:
        transform_graph: Transform's graph.
        transformed_examples: token ids and label ids, splits train and validation.
        model: the exported model. Properties: `temperature`, what its logits are divided by, and where it is set
            `abstain`, the probability below which it abstains.
        model_run: training.json, the answers to the validation rows in VALIDATION_FILE, and TensorBoard's event files.
        model_options: a ModelOptions as JSON.
        train_options: a TrainOptions as JSON.
        checkpoint_dir: folder, local or remote, that outlives an interrupted run; it is removed once the model is
            exported.
        last_blessed: whose weights to start from, if it has any; None for the pretrained ones.

    Raises:
        UserError: a split is empty, the loss is no longer a number, no answer could be below the threshold, or the last
            blessed model's weights do not fit.
    """
    chosen = ModelOptions.model_validate_json(model_options)
    recipe = TrainOptions.model_validate_json(train_options)
    try:
        strategy = hardware.strategy(recipe.distribution)  # first of all: workers meet before TensorFlow runs
    except ValueError as error:
        raise UserError(str(error)) from error
    graph = tft.TFTransformOutput(transform_graph.uri)
    labels = read_labels(transform_graph.uri)
    check_abstention(chosen.abstain, labels)
    pair = SEGMENT_IDS in graph.transformed_feature_spec()
    start = warm_start(last_blessed) if last_blessed else None

    def build():
        built = classifier.build(backbone.load(chosen), len(labels), dropout=chosen.dropout, seed=recipe.seed)
        if start:
            take_weights(built, start, labels)
        return built

    try:
        train, validation = (
            read_rows(Path(transformed_examples.uri) / f"Split-{split}", pair=pair) for split in ("train", "validation")
        )
        started_from = start.version if start else ""
        checkpoints = f"{checkpoint_dir}/{_fingerprint(train, validation, [*labels, started_from], chosen, recipe)}"
        trained, history, logits = training.fit(
            build,
            train,
            validation,
            recipe,
            checkpoints=checkpoints,
            logs=Path(model_run.uri) if recipe.tensorboard else None,
            on_progress=_log_progress,
            strategy=strategy,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    if not hardware.is_chief(strategy):
        return
    temperature = fit_temperature(logits, validation.labels, recipe)
    served = signatures.ServedModel(
        trained,
        Path(transform_graph.uri),
        backbone.vocabulary(chosen).path,
        labels,
        dtype=hardware.compute_dtype(recipe.precision),
        pair=pair,
        temperature=temperature.value,
        abstain=chosen.abstain,
    )
    signatures.export(served, Path(path_utils.serving_model_dir(model.uri)))
    classifier.save(trained, Path(model.uri) / KERAS_FOLDER, labels, temperature=temperature.value)
    _write_history(history, calibrated(logits, validation.labels, temperature), Path(model_run.uri))
    write_validation(logits, validation.labels, temperature.value, labels, Path(model_run.uri) / VALIDATION_FILE)
    summary = (f"from {started_from}: " if start else "") + _summary(history, temperature.value)
    model.set_float_custom_property("temperature", temperature.value)
    if chosen.abstain is not None:
        model.set_float_custom_property("abstain", chosen.abstain)
    model.set_string_custom_property("summary", summary)
    model_run.set_string_custom_property("summary", summary)
    if tf.io.gfile.isdir(checkpoint_dir):
        tf.io.gfile.rmtree(checkpoint_dir)


class Start(NamedTuple):
    """A release to start from: its version, and the folder of its Keras weights."""

    version: str
    weights: Path


def warm_start(last_blessed: standard_artifacts.Model) -> Start | None:
    """The last blessed model's weights; None where no model has been pushed yet."""
    version = last_blessed.get_string_custom_property("version")
    if not version:
        return None
    return Start(version, Path(last_blessed.uri) / KERAS_FOLDER)


def take_weights(built, start: Start, labels: list[str]) -> None:
    """Gives the model the release's weights.

    Raises:
        UserError: they do not fit.
    """
    try:
        classifier.take_weights(built, start.weights, labels)
    except ValueError as error:
        raise UserError(
            f"train.warm_start: version {start.version} cannot be started from: {error}. Set train.warm_start: false."
        ) from error


def _fingerprint(train: Rows, validation: Rows, names: list[str], *options: ModelOptions | TrainOptions) -> str:
    """Names a run by all that its result depends on, so that no checkpoint is taken up by a run that differs."""
    digest = hashlib.sha256(json.dumps([names, *(section.model_dump_json() for section in options)]).encode())
    for rows in (train, validation):
        for part in (rows.token_ids, rows.segment_ids):
            if part is not None:
                digest.update(part.flat_values.numpy().tobytes() + part.row_splits.numpy().tobytes())
        digest.update(rows.labels.tobytes())
    return digest.hexdigest()[:16]


def _log_progress(progress: training.Progress) -> None:
    text = "epoch %d of %d, step %d of %d, loss %.4f, %.0f examples/s, %.0f s left"
    _progress.info(text, *asdict(progress).values(), extra={"progress": asdict(progress)})


# === Calibration and abstention ===


def check_abstention(threshold: float | None, labels: list[str]) -> None:
    """Raises UserError where a threshold is so low that no answer can be below it."""
    if threshold is not None and threshold <= 1 / len(labels):
        raise UserError(
            f"model.abstain: {threshold:g} is never reached from below: with {len(labels)} labels the largest "
            f"probability is at least {1 / len(labels):.3g}; set it higher, or leave it out."
        )


def fit_temperature(logits: np.ndarray, labels: np.ndarray, recipe: TrainOptions) -> calibration.Temperature:
    """The temperature that the recipe asks for, by the validation rows' logits [rows, labels] and labels [rows]."""
    if recipe.calibrate == "none":
        return calibration.Temperature(note="train.calibrate is none")
    return calibration.fit_temperature(logits, labels)


def calibrated(logits: np.ndarray, labels: np.ndarray, temperature: calibration.Temperature) -> dict[str, Any]:
    """What training.json says of the calibration: the temperature, and the validation rows' figures before and after.

    Args:
        logits: float [rows, labels], of the validation rows.
        labels: int [rows].
        temperature: the one that was chosen.
    """
    before, after = (calibration.probabilities(logits, value) for value in (1.0, temperature.value))
    return {
        "temperature": temperature.value,
        "note": temperature.note,
        "rows": len(labels),
        "before": estimates.calibration(labels, logits.argmax(-1), before),
        "after": estimates.calibration(labels, logits.argmax(-1), after),
    }


def write_validation(logits: np.ndarray, labels: np.ndarray, temperature: float, names: list[str], path: Path) -> None:
    """Writes what the model answers to the validation rows: `label` (the true one's name) and `probabilities`, float32.

    Args:
        logits: float [rows, labels], in the order of the split.
        labels: int [rows].
        temperature: the model's.
        names: of the labels.
        path: of the Parquet file.
    """
    answers = calibration.probabilities(logits, temperature).astype(np.float32)
    pq.write_table(pa.table({LABEL: [names[label] for label in labels], PROBABILITIES: list(answers)}), path)


# === What training leaves ===


def _write_history(history: training.History, calibration: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figures = {**asdict(history), "examples_per_second": history.examples_per_second, "calibration": calibration}
    (folder / HISTORY_FILE).write_text(json.dumps(figures, indent=1) + "\n")


def _summary(history: training.History, temperature: float) -> str:
    """Such as "best epoch 2 of 2, validation loss 0.58, accuracy 0.76, temperature 1.21, 95 examples/s"."""
    best = history.best
    resumed = f"resumed at step {history.resumed_at[-1]}, " if history.resumed_at else ""
    scaled = f"temperature {temperature:.2f}, " if temperature != 1 else ""
    return (
        f"{resumed}best epoch {best.epoch} of {len(history.epochs)}, validation loss {best.validation_loss:.2f}, "
        f"accuracy {best.validation_accuracy:.3f}, {scaled}{history.examples_per_second:.0f} examples/s"
    )
